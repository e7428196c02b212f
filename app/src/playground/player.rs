//! The state of a replay: which tape, which frame, playing or not. The playground and shared results both hold one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use leptos::prelude::*;

use super::tape::{Frame, Tape};

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
    pub tape: RwSignal<Tape>,
    pub pieces: RwSignal<Pieces>,
    /// frame shown
    pub at: RwSignal<usize>,
    pub playing: RwSignal<bool>,
    /// steps per second
    pub speed: RwSignal<f64>,
    pub looping: RwSignal<bool>,
    /// further steps will arrive
    pub live: RwSignal<bool>,
    pub selected: RwSignal<Option<u32>>,
    pub overlay: RwSignal<Overlay>,
    /// tint the words by the overlay
    pub tint: RwSignal<bool>,
    /// draw the borders of blocks
    pub blocks: RwSignal<bool>,
    /// frame shown, kept by address
    pub frame: Memo<Option<Arc<Frame>>>,
    /// what to do with a visitor's changes; without it the text is read-only
    pub ops: Option<Callback<UserOp>>,
}

/// Steps per second that the speed control offers.
pub const SPEEDS: [f64; 7] = [1.0, 2.0, 4.0, 8.0, 12.0, 24.0, 60.0];

impl Player {
    /// A player over an empty tape. Must be called inside a component: its ticker ends with it.
    pub fn new(ops: Option<Callback<UserOp>>) -> Player {
        let tape = RwSignal::new(Tape::default());
        let at = RwSignal::new(0);
        let frame = Memo::new_with_compare(
            move |_| tape.with(|t| t.frames.get(at.get()).cloned()),
            |a: Option<&Option<Arc<Frame>>>, b: Option<&Option<Arc<Frame>>>| match (a, b) {
                (Some(Some(a)), Some(Some(b))) => !Arc::ptr_eq(a, b),
                (Some(None), Some(None)) => false,
                _ => true,
            },
        );
        let player = Player {
            tape,
            pieces: RwSignal::new(Pieces::default()),
            at,
            playing: RwSignal::new(false),
            speed: RwSignal::new(12.0),
            looping: RwSignal::new(false),
            live: RwSignal::new(false),
            selected: RwSignal::new(None),
            overlay: RwSignal::new(Overlay::Confidence),
            tint: RwSignal::new(false),
            blocks: RwSignal::new(false),
            frame,
            ops,
        };
        player.tick();
        player
    }

    /// Number of steps so far.
    pub fn steps(&self) -> usize {
        self.tape.with(Tape::len)
    }

    /// Shows a recorded tape from its beginning.
    pub fn load(&self, tape: Tape, pieces: Pieces) {
        self.playing.set(false);
        self.selected.set(None);
        self.pieces.set(pieces);
        self.at.set(0);
        self.tape.set(tape);
    }

    pub fn toggle(&self) {
        let playing = self.playing.get_untracked();
        if !playing
            && !self.live.get_untracked()
            && self.at.get_untracked() >= self.tape.with_untracked(Tape::len)
        {
            self.at.set(0);
        }
        self.playing.set(!playing);
    }

    /// Goes to a frame and pauses.
    pub fn seek(&self, at: usize) {
        self.playing.set(false);
        self.at.set(at.min(self.tape.with_untracked(Tape::len)));
    }

    pub fn step_by(&self, by: isize) {
        self.seek(self.at.get_untracked().saturating_add_signed(by));
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
            " " => self.toggle(),
            "ArrowLeft" => self.step_by(-1),
            "ArrowRight" => self.step_by(1),
            "ArrowUp" => self.select_by(-1),
            "ArrowDown" => self.select_by(1),
            "Home" => self.seek(0),
            "End" => self.seek(usize::MAX),
            "Escape" => self.selected.set(None),
            _ => return false,
        }
        true
    }

    fn tick(self) {
        let advance = move || {
            let (at, len) = (self.at.get_untracked(), self.tape.with_untracked(Tape::len));
            if at < len {
                self.at.set(at + 1);
            } else if self.live.get_untracked() {
                // the model is slower than the replay: wait for its next step
            } else if self.looping.get_untracked() {
                self.at.set(0);
            } else {
                self.playing.set(false);
            }
        };
        Effect::new(move |_| {
            if !self.playing.get() {
                return;
            }
            let period = Duration::from_secs_f64(1.0 / self.speed.get().max(0.1));
            if let Ok(handle) = set_interval_with_handle(advance, period) {
                on_cleanup(move || handle.clear());
            }
        });
    }
}
