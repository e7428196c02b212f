//! The state of a replay: which tape, on which timeline, which word is chosen. The playground and shared results hold
//! one for every text.

use std::collections::HashMap;
use std::sync::Arc;

use leptos::prelude::*;

use super::tape::{Frame, Tape};
use super::timeline::{Timeline, Track};

/// Text of every token id that may be shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pieces {
    text: Arc<HashMap<u32, String>>,
    /// id that ends a text
    pub eos: Option<u32>,
}

impl Pieces {
    pub fn new(text: HashMap<u32, String>, eos: Option<u32>) -> Pieces {
        Pieces { text: Arc::new(text), eos }
    }
    /// Text of a token; the end of a text is shown as a small square.
    pub fn get(&self, id: u32) -> &str {
        if self.eos == Some(id) {
            return " ∎";
        }
        self.text.get(&id).map_or("\u{fffd}", String::as_str)
    }
    /// Text of a token as the tokenizer has it.
    pub fn raw(&self, id: u32) -> &str {
        self.text.get(&id).map_or("", String::as_str)
    }
    /// Text of a token, visible where it is only white space.
    pub fn shown(&self, id: u32) -> String {
        if self.eos == Some(id) {
            return "end of text".into();
        }
        let text = self.get(id);
        let visible = text.trim_matches(' ').replace('\n', "↵");
        if visible.is_empty() { "␣".into() } else { visible }
    }
}

/// What the words are tinted by, and what the strip shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlay {
    Confidence,
    Entropy,
    Order,
    /// where blocks begin, and what came from the cache in the step shown
    Blocks,
}

/// What a visitor does to a text.
#[derive(Clone, Debug, PartialEq)]
pub enum UserOp {
    /// keep this token whatever happens
    Fix {
        pos: u32,
        token: u32,
    },
    Unfix {
        pos: u32,
    },
    /// mask these positions and denoise them again
    Reopen {
        positions: Vec<u32>,
    },
    /// put this token here and write again what was written after it
    Pick {
        pos: u32,
        token: u32,
    },
}

/// See the module comment. Cheap to copy.
#[derive(Clone, Copy)]
pub struct Player {
    pub timeline: Timeline,
    pub tape: RwSignal<Tape>,
    pub pieces: RwSignal<Pieces>,
    /// steps of this text so far
    pub steps: Memo<usize>,
    /// frame shown: the timeline's step, or the last one of this text
    pub at: Memo<usize>,
    /// further steps will arrive
    pub live: RwSignal<bool>,
    pub selected: RwSignal<Option<u32>>,
    pub overlay: RwSignal<Overlay>,
    /// tint the words by the overlay
    pub tint: RwSignal<bool>,
    /// frame shown, kept by address
    pub frame: Memo<Option<Arc<Frame>>>,
    /// what to do with a visitor's changes; without it the text is read-only
    pub ops: Option<Callback<UserOp>>,
}

impl Player {
    /// A player over an empty tape. Must be called inside a component: its ticker ends with it.
    pub fn new(ops: Option<Callback<UserOp>>) -> Player {
        let looks = (RwSignal::new(Overlay::Confidence), RwSignal::new(false));
        let player = Player::on(Timeline::new(), looks, ops);
        player.timeline.add(player.track());
        player
    }

    /// Another text for the same timeline, with the same overlay. It counts on the timeline once its track is added.
    pub fn beside(&self, ops: Option<Callback<UserOp>>) -> Player {
        Player::on(self.timeline, (self.overlay, self.tint), ops)
    }

    fn on(
        timeline: Timeline,
        (overlay, tint): (RwSignal<Overlay>, RwSignal<bool>),
        ops: Option<Callback<UserOp>>,
    ) -> Player {
        let tape = RwSignal::new(Tape::default());
        let steps = Memo::new(move |_| tape.with(Tape::len));
        let at = Memo::new(move |_| timeline.at.get().min(steps.get()));
        let frame = Memo::new_with_compare(
            move |_| tape.with(|t| t.frames.get(at.get()).cloned()),
            |a: Option<&Option<Arc<Frame>>>, b: Option<&Option<Arc<Frame>>>| match (a, b) {
                (Some(Some(a)), Some(Some(b))) => !Arc::ptr_eq(a, b),
                (Some(None), Some(None)) => false,
                _ => true,
            },
        );
        Player {
            timeline,
            tape,
            pieces: RwSignal::new(Pieces::default()),
            steps,
            at,
            live: RwSignal::new(false),
            selected: RwSignal::new(None),
            overlay,
            tint,
            frame,
            ops,
        }
    }

    /// What the timeline follows of this text.
    pub fn track(&self) -> Track {
        Track { steps: self.steps, live: self.live }
    }

    /// Shows a recorded tape from its beginning.
    pub fn load(&self, tape: Tape, pieces: Pieces) {
        self.timeline.seek(0);
        self.selected.set(None);
        self.pieces.set(pieces);
        self.tape.set(tape);
    }

    /// Selects the next (or previous) position that can be inspected.
    pub fn select_by(&self, by: isize) {
        let count = self.frame.with_untracked(|f| f.as_ref().map_or(0, |f| f.cells.len()));
        let from = self.selected.get_untracked();
        if count > 0 {
            let start = self.tape.with_untracked(|t| t.prompt.min(count - 1)) as isize;
            let next = from.map_or(start, |pos| pos as isize + by).clamp(0, count as isize - 1);
            self.selected.set(Some(next as u32));
        }
    }

    /// Keys that work anywhere on the page outside of fields; true if the key was used.
    pub fn key(&self, key: &str) -> bool {
        match key {
            "ArrowUp" => self.select_by(-1),
            "ArrowDown" => self.select_by(1),
            "Escape" => self.selected.set(None),
            _ => return self.timeline.key(key),
        }
        true
    }
}
