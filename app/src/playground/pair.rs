//! The playground's text, and the one that it may be compared with: another policy or another model on the same prompt,
//! seed and length, on one timeline. Each text has a worker of its own, so both are written at once; the second worker
//! and its copy of a model are there only while two texts are compared.

use leptos::prelude::*;

use super::address;
use super::permalink::{Link, LinkError};
use super::session::{Note, Session};
use super::transport::Voice;
use crate::dom;
use crate::shell::DevicePill;
use crate::worker::Source;

/// See the module comment. Cheap to copy.
#[derive(Clone, Copy)]
pub struct Pair {
    pub first: Session,
    pub second: Session,
    /// two texts are compared
    pub on: RwSignal<bool>,
    /// the second text's model; none = the first one's
    pub other: RwSignal<Option<Source>>,
    /// the second text is written once the first one's model is here, so that a download serves both
    waiting: RwSignal<bool>,
    /// which opening of the first model the second one repeats
    repeated: StoredValue<u32>,
}

impl Pair {
    /// Must be called in a component that lives as long as the page.
    pub fn new(pill: DevicePill) -> Pair {
        let first = Session::new(pill);
        let pair = Pair {
            first,
            second: first.beside(),
            on: RwSignal::new(false),
            other: RwSignal::new(None),
            waiting: RwSignal::new(false),
            repeated: StoredValue::new(0),
        };
        // the inspector shows one word
        let (a, b) = (first.player.selected, pair.second.player.selected);
        for (chosen, else_where) in [(a, b), (b, a)] {
            Effect::new(move |_| {
                if chosen.get().is_some() && else_where.get_untracked().is_some() {
                    else_where.set(None);
                }
            });
        }
        Effect::new(move |_| {
            if pair.waiting.get() && first.model.with(Option::is_some) {
                pair.waiting.set(false);
                pair.write_second();
            }
        });
        pair
    }

    /// The texts shown.
    pub fn sessions(&self) -> Vec<Session> {
        if self.on.get() { vec![self.first, self.second] } else { vec![self.first] }
    }

    /// What the two are called: the policy, and the model where they have different ones.
    pub fn name(&self, session: &Session) -> String {
        let letter = if session.player.track() == self.first.player.track() { "A" } else { "B" };
        let mut name = format!("{letter}, {}", session.asked().name());
        if self.other.with(Option::is_some) {
            let (Source::Url { name: model, .. } | Source::Files { name: model }) = session.source.get();
            name.push_str(&format!(", {model}"));
        }
        name
    }

    /// What the transport follows.
    pub fn voices(&self) -> Vec<Voice> {
        match self.on.get() {
            true => self.sessions().iter().map(|s| Voice { name: self.name(s), player: s.player }).collect(),
            false => vec![Voice::alone(self.first.player)],
        }
    }

    pub fn live(&self) -> bool {
        self.sessions().iter().filter(|s| s.player.live.get()).count() > 0
    }

    /// The text whose word is chosen, else the first.
    pub fn focus(&self) -> Session {
        let second = self.on.get() && self.second.player.selected.with(Option::is_some);
        if second { self.second } else { self.first }
    }

    /// Begins to compare, or ends it and gives the second model's memory back.
    pub fn compare(&self, on: bool) {
        let track = self.second.player.track();
        self.on.set(on);
        if on {
            self.first.player.timeline.add(track);
        } else {
            self.waiting.set(false);
            self.first.player.timeline.remove(track);
            self.second.close();
        }
    }

    /// Two columns of one model and one policy would show the same text: the second takes the other preset.
    pub fn differ(&self) {
        let first = self.first.settings.get_untracked();
        let same = self.second.settings.with_untracked(|s| s.policy == first.policy);
        if same && self.other.with_untracked(Option::is_none) {
            self.second.settings.update(|s| *s = s.other());
        }
    }

    /// Denoises the prompt, in both columns.
    pub fn write(&self) {
        self.first.write();
        self.waiting.set(self.on.get_untracked());
    }

    fn write_second(&self) {
        let other = self.other.get_untracked();
        let source = other.clone().unwrap_or_else(|| self.first.source.get_untracked());
        let opened = self.first.opened();
        // the first one's model, or its device, may have been changed
        let same = self.repeated.get_value() == opened && self.second.source.get_untracked() == source;
        if !same || self.second.model.with_untracked(Option::is_none) {
            self.repeated.set_value(opened);
            let files = if other.is_none() { self.first.files() } else { Vec::new() };
            self.second.open(source, &files);
        }
        self.second.write();
    }

    pub fn stop(&self) {
        self.waiting.set(false);
        untrack(|| self.sessions()).iter().for_each(Session::stop);
    }

    /// Everything that is shown is final, or was stopped.
    pub fn settled(&self) -> bool {
        self.sessions().iter().all(|s| s.record.with(Option::is_some))
    }

    pub fn key(&self, key: &str) -> bool {
        untrack(|| self.focus()).player.key(key)
    }

    /// Shows the texts of a link; the model is loaded beside them, for what the visitor does next.
    pub fn replay(&self, link: Result<Link, LinkError>) {
        match link {
            Ok(link) => {
                let (prompt, first, second) = link.texts();
                self.compare(second.is_some());
                self.first.prompt.set(prompt);
                self.first.replay(first);
                if let Some(second) = second {
                    self.second.replay(second);
                }
                self.first.player.timeline.restart();
            }
            Err(error) => self.first.note.set(Some(Note { text: error.to_string(), bad: true })),
        }
    }

    /// Writes what is shown into the address and copies the address.
    pub async fn share(self) {
        let Some(first) = self.first.recorded() else { return };
        let second = if self.on.get_untracked() { self.second.recorded() } else { None };
        let holds = if second.is_some() { "both texts and every step" } else { "the text and every step" };
        let link = Link::new(self.first.prompt.get_untracked(), first, second);
        let note = match link.write().await {
            Ok(fragment) => {
                let location = dom::window().location();
                let written = address::set_fragment(&fragment);
                let address = location.href().unwrap_or_default();
                let local = location.hostname().is_ok_and(|h| h == "localhost" || h.starts_with("127."));
                let copied = written && dom::copy(&address).await;
                let first = if copied { "The link is copied" } else { "The link is in the address bar" };
                let reach = if local {
                    " This address works on this machine only; the part after # shows the text on any host of the page."
                } else {
                    ""
                };
                let text = format!(
                    "{first}: it holds {holds} ({:.1} kB), and shows them without computing.{reach}",
                    fragment.len() as f64 / 1000.0
                );
                Note { text, bad: false }
            }
            Err(error) => Note { text: error.to_string(), bad: true },
        };
        self.first.note.set(Some(note));
    }

    /// Keeps the address at what is compared: `compare` is the second policy, `beside` the second model.
    pub fn follow_address(self) {
        Effect::new(move |_| {
            let on = self.on.get();
            let choice = self.second.settings.with(|s| s.choice());
            let other = self.other.get().and_then(|source| match source {
                Source::Url { base, .. } => Some(base),
                Source::Files { .. } => None,
            });
            address::set_query(&[("compare", on.then_some(choice)), ("beside", other.filter(|_| on))]);
        });
    }
}
