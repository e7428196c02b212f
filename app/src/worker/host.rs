//! The worker's side: loads models, decodes, and answers [`Ask`]s. Between two forwards it returns to the event loop,
//! so that a stop is heard.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use hilda_engine::config::ModelConfig;
use hilda_engine::decode::trajectory::Provenance;
use hilda_engine::decode::{DecodeConfig, Decoder, StepKind};
use hilda_engine::model::{Arithmetic, generate, holes::holes, page};
use wasm_bindgen::JsCast;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{DedicatedWorkerGlobalScope, MessageEvent};

use super::device::{Device, DeviceError};
use super::load::{self, Head};
use super::{Ask, Backend, Change, ModelInfo, Request, Source, Tell, Timing};

/// Alternatives kept for every position and step.
const TOP_K: usize = 8;
/// How often in a row a server may say that it forgot a text that was begun again.
const FORGOTTEN: u32 = 3;

struct Loaded {
    device: Device,
    head: Head,
    provenance: Provenance,
    /// where the weights can be had again, should the device lose them
    source: Source,
    files: Vec<web_sys::File>,
}

struct Job {
    number: u32,
    decoder: Decoder,
    timing: Timing,
}

#[derive(Default)]
struct Host {
    loaded: RefCell<Option<Loaded>>,
    job: RefCell<Option<Job>>,
    /// asks not yet served, with the files that came along
    waiting: RefCell<VecDeque<(Ask, Vec<web_sys::File>)>>,
    busy: Cell<bool>,
    stop: Cell<bool>,
}

fn scope() -> DedicatedWorkerGlobalScope {
    js_sys::global().unchecked_into()
}

fn tell(tell: &Tell) {
    // every `Tell` can be written as JSON: its maps have text keys
    if let Ok(text) = serde_json::to_string(tell) {
        drop(scope().post_message(&JsValue::from_str(&text)));
    }
}

pub(super) fn now() -> f64 {
    scope().performance().map(|p| p.now()).unwrap_or_default()
}

/// Serves messages until the page closes.
pub fn start() {
    let host = Rc::new(Host::default());
    let listener = Closure::<dyn FnMut(MessageEvent)>::new(move |event: MessageEvent| {
        let data = event.data();
        let (text, files) = match data.dyn_ref::<js_sys::Array>() {
            Some(array) => {
                let files = array.iter().skip(1).filter_map(|f| f.dyn_into::<web_sys::File>().ok()).collect();
                (array.get(0).as_string(), files)
            }
            None => (data.as_string(), Vec::new()),
        };
        // only the page's own interface can post here, and it writes what it reads
        let Some(ask) = text.and_then(|t| serde_json::from_str::<Ask>(&t).ok()) else { return };
        host.clone().hear(ask, files);
    });
    scope().set_onmessage(Some(listener.as_ref().unchecked_ref()));
    listener.forget();
    tell(&Tell::Hello);
}

impl Host {
    fn hear(self: Rc<Self>, ask: Ask, files: Vec<web_sys::File>) {
        // whatever comes next, the job at work is in its way
        self.stop.set(true);
        if ask == Ask::Stop {
            return;
        }
        self.waiting.borrow_mut().push_back((ask, files));
        if !self.busy.replace(true) {
            wasm_bindgen_futures::spawn_local(async move {
                loop {
                    let next = self.waiting.borrow_mut().pop_front();
                    let Some((ask, files)) = next else { break };
                    self.serve(ask, files).await;
                }
                self.busy.set(false);
            });
        }
    }

    async fn serve(&self, ask: Ask, files: Vec<web_sys::File>) {
        match ask {
            Ask::Load { source, backend, token } => match self.load(source, backend, token, files).await {
                Ok(info) => tell(&Tell::Ready(Box::new(info))),
                Err(message) => tell(&Tell::NoModel { message }),
            },
            Ask::Decode { job, request } => {
                match self.begin(job, &request) {
                    Ok(()) => self.run().await,
                    Err(message) => tell(&Tell::Failed { job, message }),
                };
            }
            Ask::Change { job, changes } => {
                // changes made before a refused one stand, and are part of the record
                let refused = self.change(job, changes).err();
                self.run().await;
                if let Some(message) = refused {
                    tell(&Tell::Failed { job, message });
                }
            }
            Ask::Stop => {}
        }
    }

    async fn load(
        &self,
        source: Source,
        backend: Backend,
        token: Option<String>,
        files: Vec<web_sys::File>,
    ) -> Result<ModelInfo, String> {
        // the old model's memory is given back before the new one takes its own
        self.job.take();
        self.loaded.take();
        let head = load::head(&source, &files, &tell).await?;
        let too_large = head.too_large();
        let on_server = match (backend, &too_large) {
            (Backend::Server, _) => {
                let why = "This model is not one of the server's: it can only run in the page.";
                Some(source.on_server().ok_or(why)?)
            }
            (Backend::Auto, Some(why)) => Some(source.on_server().ok_or(why.as_str())?),
            (_, Some(why)) => {
                let server = if source.on_server().is_some() { " The server can run it." } else { "" };
                return Err(format!("{why}{server}"));
            }
            (_, None) => None,
        };
        let (mut bytes, mut cached, mut model_hash) = (head.bytes, head.cached, String::new());
        let opened = match on_server {
            Some((site, id)) => {
                let note = too_large.map(|why| format!("{why} The server runs it."));
                super::device::Opened { note, ..Device::server(site, id, token) }
            }
            None => {
                let weights = load::weights(&source, &files, &head, &tell).await?;
                (bytes, cached, model_hash) = (bytes + weights.bytes, cached && weights.cached, weights.hash);
                Device::open(weights.model, backend).await.map_err(|e| e.to_string())?
            }
        };
        let name = source.name().to_string();
        let provenance = Provenance {
            model: name.clone(),
            model_hash: model_hash.clone(),
            tokenizer_hash: head.tokenizer.hash().to_string(),
            backend: opened.backend.into(),
            dtype: opened.arithmetic.map_or("as the server", Arithmetic::name).into(),
        };
        let info = ModelInfo {
            name,
            parameters: head.config.parameters() as u64,
            context: page::context(&head.config) as u32,
            vocab: head.config.vocab as u32,
            eos_id: head.config.eos_id,
            serving: head.serving,
            frequencies: head.tokenizer.frequencies().is_some(),
            device: opened.name,
            device_note: opened.note,
            on_server: matches!(opened.device, Device::Server(_)),
            model_hash,
            tokenizer_hash: head.tokenizer.hash().to_string(),
            pieces: head.tokenizer.pieces(),
            bytes,
            cached,
        };
        let loaded = Loaded { device: opened.device, head, provenance, source, files };
        self.loaded.replace(Some(loaded));
        Ok(info)
    }

    fn begin(&self, number: u32, request: &Request) -> Result<(), String> {
        let mut loaded = self.loaded.borrow_mut();
        let loaded = loaded.as_mut().ok_or("no model is loaded")?;
        let config = configure(loaded, request)?;
        let mut decoder = Decoder::new(config).map_err(|e| e.to_string())?;
        loaded.device.forget();
        decoder.set_provenance(loaded.provenance.clone());
        tell(&Tell::Begin { job: number, config: Box::new(decoder.config().clone()) });
        self.job.replace(Some(Job { number, decoder, timing: Timing::default() }));
        Ok(())
    }

    fn change(&self, number: u32, changes: Vec<Change>) -> Result<(), String> {
        let mut job = self.job.borrow_mut();
        let job = job.as_mut().filter(|j| j.number == number).ok_or("that text is no longer open")?;
        for change in changes {
            let record = match change {
                Change::Fix { pos, token } => job.decoder.fix(pos, token),
                Change::Unfix { pos } => job.decoder.unfix(pos),
                Change::Reopen { positions } => job.decoder.reopen(&positions),
            };
            let record = Box::new(record.map_err(|e| e.to_string())?);
            tell(&Tell::Step { job: number, record, timing: job.timing });
        }
        Ok(())
    }

    /// Forward after forward until the text is final or the visitor stops it.
    async fn run(&self) {
        let (Some(mut loaded), Some(mut job)) = (self.loaded.take(), self.job.take()) else { return };
        self.stop.set(!self.waiting.borrow().is_empty());
        let number = job.number;
        let mut forgotten = 0;
        let ended = loop {
            if self.stop.get() {
                break Ok(true);
            }
            let Some(request) = job.decoder.next() else { break Ok(false) };
            let start = now();
            let stats = match loaded.device.answer(&request).await {
                Ok(stats) => {
                    forgotten = 0;
                    stats
                }
                Err(error) if error.is_forgetful() && forgotten < FORGOTTEN => {
                    forgotten += 1;
                    job.decoder.forget_cache();
                    loaded.device.forget();
                    continue;
                }
                Err(error) if error.is_of_device() => match loaded.fall_back(error).await {
                    Ok(provenance) => {
                        job.decoder.forget_cache();
                        job.decoder.set_provenance(provenance);
                        continue;
                    }
                    Err(message) => break Err(message),
                },
                Err(error) => break Err(error.to_string()),
            };
            match job.decoder.apply(stats) {
                Ok(event) => {
                    let ledger = job.decoder.ledger();
                    job.timing.seconds += (now() - start) / 1000.0;
                    job.timing.forwards = ledger.forwards;
                    job.timing.tokens = ledger.commits;
                    if event.record.kind != StepKind::Prefill {
                        let record = Box::new(event.record);
                        tell(&Tell::Step { job: number, record, timing: job.timing });
                    }
                }
                Err(error) => break Err(error.to_string()),
            }
            pause().await;
        };
        match ended {
            Ok(stopped) => {
                let mut trajectory = job.decoder.trajectory();
                for step in &mut trajectory.steps {
                    step.rows.clear();
                }
                trajectory.footer.seconds = Some(job.timing.seconds);
                let (timing, trajectory) = (job.timing, Box::new(trajectory));
                tell(&Tell::Done { job: number, stopped, timing, trajectory });
            }
            Err(message) => tell(&Tell::Failed { job: number, message }),
        }
        self.loaded.replace(Some(loaded));
        self.job.replace(Some(job));
    }
}

impl Loaded {
    /// Goes on in WebAssembly after the device failed, and tells so. The weights were on the device; they come from the
    /// browser's cache, or from the files that the visitor gave. Gives what the record of the text at work says.
    ///
    /// Errors: in words, when the same weights cannot be had again.
    async fn fall_back(&mut self, error: DeviceError) -> Result<Provenance, String> {
        let lost = |why: String| format!("{error}, and the model could not be read again: {why}");
        let weights = load::weights(&self.source, &self.files, &self.head, &|_| ()).await.map_err(lost)?;
        if weights.hash != self.provenance.model_hash {
            return Err(lost("it has changed meanwhile".into()));
        }
        let opened = Device::wasm(weights.model, None);
        self.device = opened.device;
        let both = format!("{}, then {}", self.provenance.backend, opened.backend);
        self.provenance.backend = opened.backend.into();
        let note =
            format!("The graphics processor stopped answering; the text goes on in WebAssembly. ({error})");
        tell(&Tell::Moved { device: opened.name, note });
        Ok(Provenance { backend: both, ..self.provenance.clone() })
    }
}

/// The decoder's input for a request.
fn configure(loaded: &Loaded, request: &Request) -> Result<DecodeConfig, String> {
    let holes = holes(&request.prompt, &loaded.head.tokenizer).map_err(|e| e.to_string())?;
    let given = loaded.head.tokenizer.encode(&holes.prompt).map_err(|e| e.to_string())?.len() + 1;
    let context = page::context(&loaded.head.config);
    // text after a hole ends the story where the visitor ended it
    let wanted = if holes.fixed.is_empty() { request.length.max(holes.length) } else { holes.length };
    let length = if holes.fixed.is_empty() {
        (wanted as usize).min(context.saturating_sub(given))
    } else {
        wanted as usize
    };
    if length == 0 {
        return Err(format!("the prompt fills all {context} tokens that the model reads"));
    }
    let asked = generate::Request {
        policy: Some(request.policy),
        temperature: request.temperature,
        seed: request.seed,
        whole: request.whole,
        top_k: TOP_K,
        ..generate::Request::new(holes.prompt, length)
    };
    let head = &loaded.head;
    let model = ModelConfig { context, ..head.config.clone() };
    let mut config =
        generate::decode_config(&model, head.serving, &head.tokenizer, &asked).map_err(|e| e.to_string())?;
    let start = config.prompt.len() as u32;
    config.fixed = holes.fixed.iter().map(|(offset, id)| (start + offset, *id)).collect();
    Ok(config)
}

/// Lets waiting messages in.
pub(super) async fn pause() {
    let promise = js_sys::Promise::new(&mut |resolve, _| {
        drop(scope().set_timeout_with_callback_and_timeout_and_arguments_0(&resolve, 0));
    });
    drop(JsFuture::from(promise).await);
}
