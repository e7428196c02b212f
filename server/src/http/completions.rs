//! `POST /v1/completions`: OpenAI's shape, decoded by diffusion on this machine.
//!
//! With `stream: true` every denoising step is one event. `choices[0].text` carries only text that no later step can
//! change (finished blocks), so that clients which know nothing of diffusion can append it; the `diffusion` object
//! says what the step did to which position ([`step_event`]), and every few steps the whole text as it stands, masks as
//! U+2591.
//!
//! Several texts are written at once and take turns, forward by forward ([`Queue`]); what a text becomes does not depend
//! on the others. A client that leaves ends its text.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures::stream;
use hilda_engine::{
    decode::{
        ActionKind, Attention, DecodeConfig, DecodeError, Decoder, PolicySpec, StepEvent, StepKind, Stop,
        Trajectory,
    },
    model::{
        Session,
        generate::{GenerateError, Request, decode_config},
        holes::{self, Holes},
    },
};
use hilda_kernels::Cpu;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{AppState, Problem, problem};
use crate::{
    models::{DEMO, ModelError, Ready},
    storage::{now, random_slug},
};

/// Texts written at once: each holds a session's memory and a thread.
const AT_ONCE: usize = 8;
/// Texts that may wait for their turn.
const WAITING: usize = 512;
/// Seconds after which a client that was refused may ask again.
const RETRY_AFTER: u32 = 10;
/// Steps between two events with the whole text.
const SNAPSHOT: u32 = 8;

/// Who may write and who waits. Both are served in the order of arrival.
pub struct Queue {
    places: Arc<Semaphore>,
    writing: Arc<Semaphore>,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue {
            places: Arc::new(Semaphore::new(AT_ONCE + WAITING)),
            writing: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }
}

/// A place in the queue; given back when dropped.
struct Place {
    _place: OwnedSemaphorePermit,
    writing: Arc<Semaphore>,
}

impl Queue {
    /// Errors: 429 when as many wait as may.
    fn enter(&self) -> Result<Place, Problem> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            let detail = format!("{AT_ONCE} texts are being written and {WAITING} wait; try again later");
            Problem { retry_after: Some(RETRY_AFTER), ..Problem::new(StatusCode::TOO_MANY_REQUESTS, detail) }
        })?;
        Ok(Place { _place: place, writing: self.writing.clone() })
    }
}

impl Place {
    /// Waits until the text may be written.
    async fn turn(self) -> Result<(Place, OwnedSemaphorePermit), Problem> {
        let closed = |_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the server is closing");
        let permit = self.writing.clone().acquire_owned().await.map_err(closed)?;
        Ok((self, permit))
    }
}

/// Says that nobody waits for the answer any more, by being dropped.
struct Leave(Arc<AtomicBool>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A text or a list with one text in it, as OpenAI's clients send it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Prompt {
    One(String),
    List(Vec<String>),
}

#[derive(Deserialize)]
pub struct Completion {
    #[serde(default)]
    model: Option<String>,
    prompt: Prompt,
    /// text that the written tokens lead up to
    #[serde(default)]
    suffix: Option<String>,
    #[serde(default)]
    max_tokens: Option<u32>,
    #[serde(default)]
    temperature: Option<f32>,
    #[serde(default)]
    seed: Option<u64>,
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    n: Option<u32>,
    #[serde(default)]
    stop: Option<Stops>,
    /// ours: how to decode
    #[serde(default)]
    diffusion: Diffusion,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Stops {
    One(String),
    List(Vec<String>),
}

impl Stops {
    fn list(self) -> Vec<String> {
        let all = match self {
            Stops::One(s) => vec![s],
            Stops::List(l) => l,
        };
        all.into_iter().filter(|s| !s.is_empty()).collect()
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Diffusion {
    /// [default: what suits the model]
    policy: Option<PolicySpec>,
    /// tokens per block [default: the model's]
    block_size: Option<u32>,
    /// alternatives per row in the record
    #[serde(default)]
    top_k: usize,
    /// runs of two or more underscores in the prompt are holes of as many tokens
    #[serde(default)]
    holes: bool,
    /// answer with the whole record
    #[serde(default)]
    trajectory: bool,
}

impl From<ModelError> for Problem {
    fn from(e: ModelError) -> Problem {
        match e {
            ModelError::Storage(e) => e.into(),
            ModelError::Unknown(_) => {
                let mut p = Problem::not_found(e.to_string());
                p.field = Some("model".into());
                p
            }
            ModelError::TooLarge { .. } => Problem::not_found(e.to_string()),
            ModelError::Unusable { .. } => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
        }
    }
}

/// The request as a decoding; `field` of the problem is OpenAI's name.
fn plan(model: &Ready, c: &Completion) -> Result<DecodeConfig, Problem> {
    let shape = &model.weights.trunk.config;
    let prompt = match &c.prompt {
        Prompt::One(s) => s,
        Prompt::List(l) if l.len() == 1 => &l[0],
        Prompt::List(l) => {
            return Err(Problem::field("prompt", format!("one prompt a request, not {}", l.len())));
        }
    };
    if c.n.is_some_and(|n| n != 1) {
        return Err(Problem::field("n", "one completion a request"));
    }
    let wanted = c.max_tokens.unwrap_or(64);
    if wanted == 0 {
        return Err(Problem::field("max_tokens", "at least 1"));
    }
    let suffix = c.suffix.as_deref().filter(|s| !s.is_empty());
    let unwritable = |e: hilda_engine::data::DataError| Problem::field("prompt", e.to_string());
    let holes = match (suffix, c.diffusion.holes) {
        (Some(_), true) => {
            return Err(Problem::field(
                "suffix",
                "a prompt with holes has its end in it: leave one of the two out",
            ));
        }
        (Some(suffix), false) => holes::between(prompt, wanted, suffix, &model.tokenizer)
            .map_err(|e| Problem::field("suffix", e.to_string()))?,
        (None, true) => holes::holes(prompt, &model.tokenizer).map_err(unwritable)?,
        (None, false) => Holes { prompt: prompt.clone(), ..Holes::default() },
    };
    let infills = !holes.fixed.is_empty();
    if infills && model.serving.attention == Attention::Causal {
        let field = if suffix.is_some() { "suffix" } else { "diffusion.holes" };
        return Err(Problem::field(
            field,
            "this model reads from left to right and cannot see what comes later",
        ));
    }
    let length = if infills { holes.length } else { wanted.max(holes.length) };
    let request = Request {
        policy: c.diffusion.policy,
        temperature: c.temperature.unwrap_or(0.0),
        seed: c.seed.unwrap_or(0),
        top_k: c.diffusion.top_k,
        // what comes later is seen only with the whole text in view
        whole: infills,
        ..Request::new(holes.prompt.as_str(), length as usize)
    };
    let mut d = decode_config(shape, model.serving, &model.tokenizer, &request).map_err(|e| {
        let field = if matches!(e, GenerateError::TooLong { .. }) { "max_tokens" } else { "prompt" };
        Problem::field(field, e.to_string())
    })?;
    let start = d.prompt.len() as u32;
    d.fixed = holes.fixed.iter().map(|(offset, id)| (start + offset, *id)).collect();
    if let Some(block) = c.diffusion.block_size {
        d.block_size = block;
    }
    // a stream says how unsure each step was
    d.rows = c.stream || c.diffusion.top_k > 0;
    d.validate().map_err(|e| {
        let field = match &e {
            DecodeError::Temperature { .. } | DecodeError::EntropyBoundTemperature { .. } => "temperature",
            DecodeError::NothingBeforeFirst | DecodeError::PromptTooLong { .. } => "prompt",
            DecodeError::TopK { .. } => "diffusion.top_k",
            _ => "diffusion.policy",
        };
        Problem::field(field, e.to_string())
    })?;
    Ok(d)
}

/// What the outside sees of one decoding.
struct Text {
    model: Arc<Ready>,
    stops: Vec<String>,
}

impl Text {
    /// Text of the generated part up to the end of text; masks as U+2591.
    fn shown(&self, d: &Decoder) -> String {
        let config = d.config();
        let mut bytes = Vec::new();
        for pos in config.prompt.len() as u32..config.length {
            if d.state().is_masked(pos) {
                bytes.extend("\u{2591}".as_bytes());
            } else if Some(d.state().id(pos)) == config.eos_id {
                break;
            } else {
                bytes.extend(self.model.tokenizer.bytes(d.state().id(pos)));
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
    /// Bytes of the leading blocks that no step will touch again; everything once decoding has ended.
    fn settled(&self, d: &Decoder, active: u32) -> Vec<u8> {
        let config = d.config();
        let end = if d.stop().is_some() { config.length } else { d.state().block_range(active).start };
        let mut bytes = Vec::new();
        for pos in config.prompt.len() as u32..end {
            if d.state().is_masked(pos) || Some(d.state().id(pos)) == config.eos_id {
                break;
            }
            bytes.extend(self.model.tokenizer.bytes(d.state().id(pos)));
        }
        bytes
    }
    /// Bytes at the end that may be the beginning of a stop string.
    fn held_back(&self, text: &str) -> usize {
        let begins =
            |s: &String| s.char_indices().map(|(i, _)| i).skip(1).filter(|n| text.ends_with(&s[..*n])).max();
        self.stops.iter().filter_map(begins).max().unwrap_or(0)
    }
    /// The text cut at the earliest stop string, and whether there was one.
    fn cut<'a>(&self, text: &'a str) -> (&'a str, bool) {
        match self.stops.iter().filter_map(|s| text.find(s)).min() {
            Some(at) => (&text[..at], true),
            None => (text, false),
        }
    }
}

/// Bytes as text. Half a character at the end waits for its rest, unless this is the last of them; so the text of
/// more bytes always begins with the text of fewer.
fn settled_text(bytes: &[u8], last: bool) -> String {
    let mut out = String::new();
    let mut read = 0;
    for chunk in bytes.utf8_chunks() {
        out += chunk.valid();
        let bad = chunk.invalid();
        read += chunk.valid().len() + bad.len();
        let at_end = read == bytes.len();
        let half = at_end && std::str::from_utf8(bad).is_err_and(|e| e.error_len().is_none());
        if !bad.is_empty() && (last || !half) {
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }
    out
}

/// Runs a decoding to its end, one forward of the server at a time; `step` sees every event and ends it early by
/// answering false.
fn decode(
    state: &AppState,
    model: &Ready,
    config: DecodeConfig,
    mut step: impl FnMut(&Decoder, &StepEvent) -> bool,
) -> Result<Decoder, String> {
    let context = config.length as usize;
    let mut decoder = Decoder::new(config).map_err(|e| e.to_string())?;
    decoder.set_provenance(hilda_engine::decode::trajectory::Provenance {
        model: model.name.clone(),
        tokenizer_hash: model.tokenizer.hash().to_string(),
        backend: "cpu".into(),
        dtype: "f32".into(),
        ..Default::default()
    });
    let mut session = Session::new(&Cpu, model.weights.clone(), context);
    let turns = tokio::runtime::Handle::current();
    while let Some(request) = decoder.next() {
        let stats = {
            let turn = turns.block_on(state.forward.acquire()).map_err(|_| "the server is closing")?;
            let stats = session.answer(&request).map_err(|e| e.to_string());
            drop(turn);
            stats?
        };
        let event = decoder.apply(stats).map_err(|e| e.to_string())?;
        if !step(&decoder, &event) {
            break;
        }
    }
    Ok(decoder)
}

/// Fields that every answer has.
struct Frame {
    id: String,
    created: u64,
    model: String,
}

impl Frame {
    fn value(&self, text: &str, finish: Option<&str>) -> Value {
        json!({
            "id": self.id, "object": "text_completion", "created": self.created, "model": self.model,
            "choices": [{ "text": text, "index": 0, "logprobs": null, "finish_reason": finish }],
        })
    }
}

fn summary(t: &Trajectory, seconds: f64) -> Value {
    json!({
        "forwards": t.footer.ledger.forwards, "tokens": t.footer.tokens,
        "tokens_per_forward": t.footer.tokens_per_forward, "edits": t.footer.ledger.edits, "seconds": seconds,
        "policy": t.header.config.policy, "block_size": t.header.config.block_size,
        "seed": t.header.config.seed, "temperature": t.header.config.temperature,
    })
}

fn usage(t: &Trajectory) -> Value {
    let prompt = t.header.config.prompt.len() as u32;
    json!({
        "prompt_tokens": prompt, "completion_tokens": t.footer.tokens, "total_tokens": prompt + t.footer.tokens,
    })
}

/// What a step did, for people who follow a text: which tokens it wrote, replaced or masked again, how sure the model
/// was, how much is left.
fn step_event(text: &Text, d: &Decoder, e: &StepEvent) -> Value {
    let r = &e.record;
    let token = |id: u32| String::from_utf8_lossy(&text.model.tokenizer.bytes(id)).into_owned();
    let edits: Vec<Value> = r
        .actions
        .iter()
        .map(|a| {
            let masks = matches!(a.kind, ActionKind::Remask | ActionKind::Reopen);
            let to = (!masks).then(|| token(a.new));
            let from = (a.kind != ActionKind::Commit).then(|| token(a.old));
            json!({
                "position": a.pos, "from": a.old, "to": a.new, "from_text": from, "to_text": to, "kind": a.kind.name(),
                "confidence": a.p,
            })
        })
        .collect();
    let masked: Vec<f64> = r.rows.iter().filter(|row| row.masked).map(|row| f64::from(row.entropy)).collect();
    let entropy = (!masked.is_empty()).then(|| masked.iter().sum::<f64>() / masked.len() as f64);
    let ledger = d.ledger();
    let finished = d.stop().is_some();
    let mut v = json!({
        "step": r.step, "block": r.block, "edits": edits, "forced": r.forced, "entropy": entropy, "finished": finished,
        "counts": {
            "masked": e.masked, "forwards": ledger.forwards, "written": ledger.commits, "edits": ledger.edits,
            "remasks": ledger.remasks,
        },
    });
    if finished || r.step % SNAPSHOT == 0 {
        v["text"] = text.shown(d).into();
    }
    v
}

pub async fn create(
    State(state): State<AppState>,
    problem::Json(body): problem::Json<Completion>,
) -> Result<Response, Problem> {
    let place = state.queue.enter()?;
    let id = body.model.clone().unwrap_or_else(|| DEMO.into());
    let (model, config, body) = state
        .blocking(move |s| {
            let model = s.loaded.get(&s.data, &id)?;
            let config = plan(&model, &body)?;
            Ok((model, config, body))
        })
        .await?;
    let frame =
        Frame { id: format!("cmpl-{}", random_slug()), created: now() as u64, model: model.name.clone() };
    let trajectory = body.diffusion.trajectory;
    let text = Text { model: model.clone(), stops: body.stop.map(Stops::list).unwrap_or_default() };
    if body.stream {
        return Ok(stream_steps(state, place, text, config, frame, trajectory));
    }
    let place = place.turn().await?;
    let left = Arc::new(AtomicBool::new(false));
    let _leave = Leave(left.clone());
    state
        .blocking(move |s| {
            let _place = place;
            let start = Instant::now();
            let failed = |e| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, e);
            let decoder = decode(s, &model, config, |_, _| !left.load(Ordering::Relaxed)).map_err(failed)?;
            let record = decoder.trajectory();
            let shown = text.shown(&decoder);
            let (shown, cut) = text.cut(&shown);
            let finish = if cut || ended(&decoder) { "stop" } else { "length" };
            let mut v = frame.value(shown, Some(finish));
            v["usage"] = usage(&record);
            v["diffusion"] = summary(&record, start.elapsed().as_secs_f64());
            if trajectory {
                v["diffusion"]["trajectory"] = serde_json::to_value(&record).expect("plain data");
            }
            Ok(Json(v).into_response())
        })
        .await
}

/// Whether the model itself ended the text.
fn ended(d: &Decoder) -> bool {
    let c = d.config();
    d.stop() == Some(Stop::EarlyStop)
        || (c.prompt.len() as u32..c.length).any(|p| Some(d.state().id(p)) == c.eos_id)
}

/// The text that may be told so far, and where it is cut off.
struct Told {
    sent: usize,
    cut: bool,
}

impl Told {
    /// What is new of the text that no step can change any more. `block` is the active one.
    fn next(&mut self, text: &Text, d: &Decoder, block: u32) -> String {
        let last = d.stop().is_some();
        let settled = settled_text(&text.settled(d, block), last);
        let (kept, stopped) = text.cut(&settled);
        self.cut = stopped;
        let end = if stopped || last { kept.len() } else { kept.len() - text.held_back(kept) };
        let new = kept[self.sent.min(end)..end].to_string();
        self.sent = self.sent.max(end);
        new
    }
}

/// Events wait in a channel without bound, so that a client that reads slowly keeps nobody else waiting; a text has a few
/// hundred of them.
fn stream_steps(
    state: AppState,
    place: Place,
    text: Text,
    config: DecodeConfig,
    frame: Frame,
    trajectory: bool,
) -> Response {
    let (send, receive) = mpsc::unbounded_channel::<Event>();
    tokio::spawn(async move {
        // whoever leaves while waiting gives the place back
        let place = tokio::select! {
            place = place.turn() => place,
            () = send.closed() => return,
        };
        let Ok(place) = place else { return };
        tokio::task::spawn_blocking(move || {
            let _place = place;
            write_steps(&state, &text, config, &frame, trajectory, &send);
        });
    });
    let events =
        stream::unfold(receive, |mut r| async move { r.recv().await.map(|e| (Ok::<_, Infallible>(e), r)) });
    Sse::new(events).keep_alive(KeepAlive::new()).into_response()
}

fn write_steps(
    state: &AppState,
    text: &Text,
    config: DecodeConfig,
    frame: &Frame,
    trajectory: bool,
    send: &mpsc::UnboundedSender<Event>,
) {
    let start = Instant::now();
    let mut told = Told { sent: 0, cut: false };
    let mut block = 0;
    let result = decode(state, &text.model, config, |d, e| {
        block = e.record.block;
        if e.record.kind != StepKind::Denoise {
            return !send.is_closed();
        }
        let mut v = frame.value(&told.next(text, d, block), None);
        v["diffusion"] = step_event(text, d, e);
        // nobody listens any more: stop computing
        send.send(Event::default().data(v.to_string())).is_ok() && !told.cut
    });
    let last = match result {
        Ok(decoder) => {
            let record = decoder.trajectory();
            let rest = if told.cut { String::new() } else { told.next(text, &decoder, block) };
            let finish = if told.cut || ended(&decoder) { "stop" } else { "length" };
            let mut v = frame.value(&rest, Some(finish));
            v["usage"] = usage(&record);
            v["diffusion"] = summary(&record, start.elapsed().as_secs_f64());
            if trajectory {
                v["diffusion"]["trajectory"] = serde_json::to_value(&record).expect("plain data");
            }
            v
        }
        Err(e) => json!({ "error": { "message": e, "type": "server_error" } }),
    };
    for event in [last.to_string(), "[DONE]".into()] {
        // a client that has left needs no last event
        drop(send.send(Event::default().data(event)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_of_fewer_bytes_begins_the_text_of_more(bytes in prop::collection::vec(any::<u8>(), 0..40), cut in 0usize..40) {
            let cut = cut.min(bytes.len());
            let whole = settled_text(&bytes, true);
            prop_assert_eq!(&whole, &String::from_utf8_lossy(&bytes));
            prop_assert!(whole.starts_with(&settled_text(&bytes[..cut], false)));
        }
    }
}
