//! One text of the playground: the model in its worker, the words on the canvas, and what goes back and forth. It lives
//! as long as the page, so that looking at a run and coming back loses neither.

use std::sync::Arc;

use hilda_engine::decode::{Attention, Method, Trajectory};
use leptos::prelude::*;

use super::address;
use super::permalink::Recorded;
use super::player::{Pieces, Player, UserOp};
use super::settings::{Preset, Settings};
use super::tape::{Mark, Tape};
use crate::api::TOKEN_KEY;
use crate::dom;
use crate::shell::DevicePill;
use crate::worker::client::{Client, Heard};
use crate::worker::{Ask, Backend, Change, DEMO, ModelInfo, Request, Source, Tell, Timing};

/// The prompt a visitor finds.
pub const STARTER: &str = "Once upon a time, a little girl named Lily";

/// Where the model is.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelState {
    /// nothing was asked for yet
    Absent,
    Loading {
        what: String,
        loaded: u64,
        total: Option<u64>,
    },
    Ready(Arc<ModelInfo>),
    Failed(String),
}

/// A line that tells the visitor something.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    pub text: String,
    pub bad: bool,
}

/// See the module comment. Cheap to copy.
#[derive(Clone, Copy)]
pub struct Session {
    pub player: Player,
    pub prompt: RwSignal<String>,
    pub settings: RwSignal<Settings>,
    pub state: RwSignal<ModelState>,
    pub model: Memo<Option<Arc<ModelInfo>>>,
    pub source: RwSignal<Source>,
    pub backend: RwSignal<Backend>,
    pub timing: RwSignal<Timing>,
    pub note: RwSignal<Option<Note>>,
    /// the text shown, once it is final or stopped
    pub record: RwSignal<Option<Arc<Trajectory>>>,
    /// the text came from a link: no model stands behind it
    pub replayed: RwSignal<bool>,
    /// settings whose seed, length, temperature and sight count here too
    common: Option<RwSignal<Settings>>,
    /// where the navigation says which model runs where
    pill: Option<DevicePill>,
    /// number of the newest job
    job: StoredValue<u32>,
    /// write the starter prompt when the model is ready
    starter: StoredValue<bool>,
    /// what a visitor gave as files, to open them again
    files: StoredValue<Vec<web_sys::File>, LocalStorage>,
    /// how often a model was opened
    opened: StoredValue<u32>,
    client: StoredValue<Option<Client>, LocalStorage>,
}

/// The demo model's place on this site.
pub fn demo() -> Source {
    site_model(&format!("/models/{DEMO}/"), DEMO)
}

/// A model in a folder of this site.
pub fn site_model(path: &str, name: &str) -> Source {
    Source::Url { base: dom::site(path), name: name.into() }
}

impl Session {
    /// Must be called in a component that lives as long as the page.
    pub fn new(pill: DevicePill) -> Session {
        Session::build(Player::new, RwSignal::new(STARTER.to_string()), RwSignal::new(Backend::Auto), |s| {
            s.pill = Some(pill);
            s.starter.set_value(true);
        })
    }

    /// A text beside this one: the same prompt, timeline and device; policy and model of its own. Must be called like
    /// [`Session::new`].
    pub fn beside(&self) -> Session {
        Session::build(
            |ops| self.player.beside(ops),
            self.prompt,
            self.backend,
            |s| {
                s.common = Some(self.settings);
                s.settings.update(|settings| *settings = settings.other());
            },
        )
    }

    fn build(
        player: impl FnOnce(Option<Callback<UserOp>>) -> Player,
        prompt: RwSignal<String>,
        backend: RwSignal<Backend>,
        with: impl FnOnce(&mut Session),
    ) -> Session {
        let state = RwSignal::new(ModelState::Absent);
        let model = Memo::new(move |_| match state.get() {
            ModelState::Ready(info) => Some(info),
            _ => None,
        });
        let op = RwSignal::new(None::<UserOp>);
        let mut session = Session {
            player: player(Some(Callback::new(move |o| op.set(Some(o))))),
            prompt,
            settings: RwSignal::new(Settings::default()),
            state,
            model,
            source: RwSignal::new(demo()),
            backend,
            timing: RwSignal::new(Timing::default()),
            note: RwSignal::new(None),
            record: RwSignal::new(None),
            replayed: RwSignal::new(false),
            common: None,
            pill: None,
            job: StoredValue::new(0),
            starter: StoredValue::new(false),
            files: StoredValue::new_local(Vec::new()),
            opened: StoredValue::new(0),
            client: StoredValue::new_local(None),
        };
        with(&mut session);
        Effect::new(move |_| {
            if let Some(o) = op.get() {
                session.operate(o);
            }
        });
        session
    }

    /// Opens a model: starts the worker if there is none yet.
    pub fn open(&self, source: Source, files: &[web_sys::File]) {
        self.source.set(source.clone());
        self.files.set_value(files.to_vec());
        self.opened.update_value(|n| *n += 1);
        self.player.live.set(false);
        self.state.set(ModelState::Loading { what: "Starting".into(), loaded: 0, total: None });
        let started = self.client.with_value(Option::is_some);
        if !started {
            let session = *self;
            match Client::start(move |heard| session.hear(heard)) {
                Ok(client) => self.client.set_value(Some(client)),
                Err(message) => {
                    self.state
                        .set(ModelState::Failed(format!("The model's thread could not start: {message}")));
                    return;
                }
            }
        }
        let token = dom::stored(TOKEN_KEY);
        let ask = Ask::Load { source, backend: self.backend.get_untracked(), token };
        self.client.with_value(|c| c.as_ref().map(|c| c.ask_with(&ask, files)));
    }

    /// Opens the demo model unless a model is there or on its way.
    pub fn ensure(&self) {
        if self.state.with_untracked(|s| *s == ModelState::Absent) {
            self.open(self.source.get_untracked(), &[]);
        }
    }

    /// The same model again, after a failure or with another device.
    pub fn reopen(&self) {
        let files = self.files();
        self.open(self.source.get_untracked(), &files);
    }

    /// The files of a model that came as files.
    pub fn files(&self) -> Vec<web_sys::File> {
        self.files.with_value(Vec::clone)
    }

    /// How often a model was opened here: who opened the same one knows whether it still is.
    pub fn opened(&self) -> u32 {
        self.opened.get_value()
    }

    /// Gives the model's memory back and forgets the text.
    pub fn close(&self) {
        self.client.set_value(None);
        self.starter.set_value(false);
        self.state.set(ModelState::Absent);
        self.player.live.set(false);
        self.player.selected.set(None);
        self.player.tape.set(Tape::default());
        self.record.set(None);
        self.replayed.set(false);
        self.timing.set(Timing::default());
        self.note.set(None);
    }

    /// What is asked for: the settings, with what is common in place of the own.
    pub fn asked(&self) -> Settings {
        let own = self.settings.get();
        self.common.map_or(own, |common| own.sharing(&common.get()))
    }

    /// Denoises the prompt.
    pub fn write(&self) {
        self.starter.set_value(false);
        if self.model.get_untracked().is_none() {
            // written as soon as the model is there
            self.starter.set_value(true);
            match self.state.get_untracked() {
                ModelState::Failed(_) => self.reopen(),
                _ => self.ensure(),
            }
            return;
        }
        let job = self.job.with_value(|j| *j) + 1;
        self.job.set_value(job);
        let settings = untrack(|| self.asked());
        let prompt = self.prompt.get_untracked();
        let causal = self
            .model
            .with_untracked(|m| m.as_ref().is_some_and(|m| m.serving.attention == Attention::Causal));
        let request = Request {
            whole: settings.whole || has_holes(&prompt),
            prompt,
            length: settings.length,
            policy: if causal { Method::LeftToRight {}.into() } else { settings.policy },
            temperature: settings.temperature,
            seed: settings.seed,
        };
        self.note.set(None);
        self.player.live.set(true);
        self.ask(&Ask::Decode { job, request });
    }

    pub fn stop(&self) {
        self.ask(&Ask::Stop);
    }

    fn ask(&self, ask: &Ask) {
        self.client.with_value(|c| c.as_ref().map(|c| c.ask(ask)));
    }

    fn operate(&self, op: UserOp) {
        if self.player.live.get_untracked() {
            return;
        }
        if self.replayed.get_untracked() {
            let text = "This text came from a link. Write it again to change it.".into();
            self.note.set(Some(Note { text, bad: false }));
            return;
        }
        let Some(last) = self.player.tape.with_untracked(|t| t.last().cloned()) else { return };
        let shown = self.player.frame.get_untracked().unwrap_or_else(|| last.clone());
        let is_fixed = |pos: u32| last.cells.get(pos as usize).is_some_and(|c| c.mark == Mark::Fixed);
        let mut changes = Vec::new();
        match op {
            UserOp::Fix { pos, token } => changes.push(Change::Fix { pos, token }),
            UserOp::Unfix { pos } => changes.push(Change::Unfix { pos }),
            UserOp::Reopen { positions } => {
                changes.extend(
                    positions.iter().filter(|p| is_fixed(**p)).map(|pos| Change::Unfix { pos: *pos }),
                );
                changes.push(Change::Reopen { positions });
            }
            UserOp::Pick { pos, token } => {
                let Some(cell) = shown.cells.get(pos as usize) else { return };
                let since = if cell.is_masked() { self.player.at.get_untracked() as u32 } else { cell.step };
                let prompt = self.player.tape.with_untracked(|t| t.prompt);
                let later = |(p, c): &(usize, &super::tape::Cell)| {
                    *p >= prompt
                        && *p != pos as usize
                        && (c.is_written() && c.step > since || c.mark == Mark::Filled)
                };
                let positions = last.cells.iter().enumerate().filter(later).map(|(p, _)| p as u32).collect();
                changes.push(Change::Fix { pos, token });
                changes.push(Change::Reopen { positions });
            }
        }
        self.note.set(None);
        self.player.timeline.at.set(self.player.steps.get_untracked());
        self.player.live.set(true);
        self.player.timeline.playing.set(true);
        self.ask(&Ask::Change { job: self.job.with_value(|j| *j), changes });
    }

    fn hear(&self, heard: Heard) {
        let tell = match heard {
            Heard::Tell(tell) => tell,
            Heard::Died(message) => {
                self.client.set_value(None);
                self.player.live.set(false);
                self.say(String::new());
                self.state.set(ModelState::Failed(format!("The model's thread ended: {message}")));
                return;
            }
        };
        let current = self.job.with_value(|j| *j);
        match tell {
            Tell::Hello => {}
            Tell::Progress { what, loaded, total } => {
                self.state.set(ModelState::Loading { what, loaded, total })
            }
            Tell::Ready(info) => self.ready(*info),
            Tell::NoModel { message } => {
                self.player.live.set(false);
                self.say(String::new());
                self.state.set(ModelState::Failed(message));
            }
            Tell::Moved { device, note } => {
                if let Some(info) = self.model.get_untracked() {
                    let info = ModelInfo { device, device_note: Some(note.clone()), ..(*info).clone() };
                    self.say(pill(&info));
                    self.state.set(ModelState::Ready(Arc::new(info)));
                }
                self.note.set(Some(Note { text: note, bad: false }));
            }
            Tell::Begin { job, config } if job == current => {
                if self.replayed.get_untracked() {
                    self.replayed.set(false);
                    address::set_fragment("");
                }
                if let Some(info) = self.model.get_untracked() {
                    self.player.pieces.set(pieces(&info));
                }
                self.record.set(None);
                self.timing.set(Timing::default());
                self.player.selected.set(None);
                self.player.tape.set(Tape::new(&config));
                self.player.timeline.restart();
                self.warn_unseen();
            }
            Tell::Step { job, record, timing } if job == current => {
                self.timing.set(timing);
                self.player.tape.update(|tape| tape.push(*record));
            }
            Tell::Done { job, stopped, timing, trajectory } if job == current => {
                self.timing.set(timing);
                self.record.set(Some(Arc::from(trajectory)));
                self.player.live.set(false);
                if stopped {
                    // what was asked for has happened: show where it stopped
                    self.player.timeline.seek(usize::MAX);
                }
            }
            Tell::Failed { job, message } if job == current => {
                self.player.live.set(false);
                self.note.set(Some(Note { text: message, bad: true }));
            }
            // answers about an abandoned text
            Tell::Begin { .. } | Tell::Step { .. } | Tell::Done { .. } | Tell::Failed { .. } => {}
        }
    }

    fn ready(&self, info: ModelInfo) {
        self.say(pill(&info));
        self.settings.update(|s| {
            s.length = s.length.min(info.context);
            if !info.serving.edits && s.preset != Preset::Custom {
                *s = s.with_kind("threshold");
            }
        });
        self.state.set(ModelState::Ready(Arc::new(info)));
        if self.starter.with_value(|s| *s) {
            self.write();
        }
    }

    /// A link will say what is shown first.
    pub fn hold_starter(&self) {
        self.starter.set_value(false);
    }

    fn warn_unseen(&self) {
        let unseen = self.player.tape.with_untracked(|t| t.unseen.len());
        if unseen > 0 {
            let text = format!(
                "{unseen} given words stand in later blocks and cannot be seen by what is written before them. Let words see the whole text to fill in between them."
            );
            self.note.set(Some(Note { text, bad: false }));
        }
    }

    /// Shows a recorded text, whose model need not be here.
    pub fn replay(&self, recorded: Recorded) {
        self.starter.set_value(false);
        self.replayed.set(true);
        self.note.set(None);
        self.settings.set(recorded.settings);
        let eos = recorded.trajectory.header.config.eos_id;
        let pieces = Pieces::new(recorded.pieces.into_iter().collect(), eos);
        self.player.load(Tape::of(&recorded.trajectory), pieces);
        self.record.set(Some(Arc::new(recorded.trajectory)));
    }

    /// The text shown as a link keeps it, once it is complete or stopped.
    pub fn recorded(&self) -> Option<Recorded> {
        let record = self.record.get_untracked()?;
        let pieces = self.player.pieces.get_untracked();
        Some(Recorded::new(untrack(|| self.asked()), &record, &pieces))
    }

    /// Tells the navigation which model runs where.
    fn say(&self, text: String) {
        if let Some(pill) = self.pill {
            pill.0.set(text);
        }
    }
}

/// What the navigation says about a model.
fn pill(info: &ModelInfo) -> String {
    let place =
        if info.on_server { "on the server".into() } else { format!("in your browser · {}", info.device) };
    format!("{} {} · {place}", info.name, millions(info.parameters))
}

fn pieces(info: &ModelInfo) -> Pieces {
    let text = (0..).zip(&info.pieces).map(|(id, text)| (id, text.clone())).collect();
    Pieces::new(text, Some(info.eos_id))
}

/// Whether a prompt asks for words in the middle ("a ____ in the park").
pub fn has_holes(prompt: &str) -> bool {
    prompt.contains("__")
}

/// "9.4 M"
pub fn millions(parameters: u64) -> String {
    let m = parameters as f64 / 1e6;
    if m >= 10.0 { format!("{m:.0} M") } else { format!("{m:.1} M") }
}
