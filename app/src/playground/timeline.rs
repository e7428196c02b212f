//! Which step is shown, and whether it moves. Texts beside each other follow one timeline: step k is the k-th step of
//! each of them, and a text that has fewer steps stays at its last one.

use std::time::Duration;

use leptos::prelude::*;

/// Steps per second that the speed control offers.
pub const SPEEDS: [f64; 7] = [1.0, 2.0, 4.0, 8.0, 12.0, 24.0, 60.0];

/// A text on a timeline.
#[derive(Clone, Copy, PartialEq)]
pub struct Track {
    /// steps so far
    pub steps: Memo<usize>,
    /// further steps will arrive
    pub live: RwSignal<bool>,
}

/// See the module comment. Cheap to copy.
#[derive(Clone, Copy)]
pub struct Timeline {
    /// step shown; 0 = before the first one
    pub at: RwSignal<usize>,
    pub playing: RwSignal<bool>,
    /// steps per second
    pub speed: RwSignal<f64>,
    pub looping: RwSignal<bool>,
    tracks: RwSignal<Vec<Track>>,
}

impl Timeline {
    /// A timeline without texts. Must be called inside a component: its ticker ends with it.
    pub fn new() -> Timeline {
        let timeline = Timeline {
            at: RwSignal::new(0),
            playing: RwSignal::new(false),
            speed: RwSignal::new(12.0),
            looping: RwSignal::new(false),
            tracks: RwSignal::new(Vec::new()),
        };
        timeline.tick();
        timeline
    }

    /// Puts a text on the timeline, once.
    pub fn add(&self, track: Track) {
        self.tracks.update(|tracks| {
            if !tracks.contains(&track) {
                tracks.push(track);
            }
        });
    }

    /// Takes a text off.
    pub fn remove(&self, track: Track) {
        self.tracks.update(|tracks| tracks.retain(|t| *t != track));
        self.at.update(|at| *at = (*at).min(untrack(|| self.len())));
    }

    /// Steps of the longest text so far.
    pub fn len(&self) -> usize {
        self.tracks.with(|tracks| tracks.iter().map(|t| t.steps.get()).max().unwrap_or(0))
    }

    /// Whether further steps will arrive for any text.
    pub fn live(&self) -> bool {
        // all are read, so that all are followed
        self.tracks.with(|tracks| tracks.iter().filter(|t| t.live.get()).count() > 0)
    }

    pub fn toggle(&self) {
        let playing = self.playing.get_untracked();
        let (len, live) = untrack(|| (self.len(), self.live()));
        if !playing && !live && self.at.get_untracked() >= len {
            self.at.set(0);
        }
        self.playing.set(!playing);
    }

    /// Shows from the beginning.
    pub fn restart(&self) {
        self.at.set(0);
        self.playing.set(true);
    }

    /// Goes to a step and pauses.
    pub fn seek(&self, at: usize) {
        self.playing.set(false);
        self.at.set(at.min(untrack(|| self.len())));
    }

    pub fn step_by(&self, by: isize) {
        self.seek(self.at.get_untracked().saturating_add_signed(by));
    }

    /// Keys that work anywhere on the page outside of fields; true if the key was used.
    pub fn key(&self, key: &str) -> bool {
        match key {
            " " => self.toggle(),
            "ArrowLeft" => self.step_by(-1),
            "ArrowRight" => self.step_by(1),
            "Home" => self.seek(0),
            "End" => self.seek(usize::MAX),
            _ => return false,
        }
        true
    }

    fn tick(self) {
        let advance = move || {
            let (at, len) = (self.at.get_untracked(), untrack(|| self.len()));
            if at < len {
                self.at.set(at + 1);
            } else if untrack(|| self.live()) {
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
