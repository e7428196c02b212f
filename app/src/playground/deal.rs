//! One signal for every position of a text, written by one effect.
//!
//! A text has hundreds of positions, and each has a dozen places in the page that depend on it. If each of them read
//! the frame shown, every step would run them all, and each run takes itself off a list of all the others: the cost
//! grows with the square of the length. Here one effect computes what every position shows and wakes those for which
//! it is new. Positions appear a few at a time, so that the interface stays free while a long text is set up.

use std::time::Duration;

use leptos::prelude::*;

/// Positions set up in one go.
const AT_ONCE: usize = 16;

/// See the module comment. Cheap to copy.
#[derive(Clone, Copy)]
pub struct Dealt<T: Clone + Default + PartialEq + Send + Sync + 'static> {
    /// positions that are set up
    pub shown: RwSignal<usize>,
    signals: StoredValue<Vec<ArcRwSignal<T>>>,
}

impl<T: Clone + Default + PartialEq + Send + Sync + 'static> Dealt<T> {
    /// `look(scene(), pos)` for the positions `0..count`. What `scene` reads is what is followed.
    pub fn new<S: 'static>(
        count: Memo<usize>,
        scene: impl Fn() -> S + Copy + 'static,
        look: impl Fn(&S, usize) -> T + Copy + 'static,
    ) -> Dealt<T> {
        let dealt = Dealt { shown: RwSignal::new(0), signals: StoredValue::new(Vec::new()) };
        let Dealt { shown, signals } = dealt;
        Effect::new(move |_| {
            let scene = scene();
            signals.with_value(|signals| {
                for (pos, signal) in signals.iter().enumerate() {
                    let new = look(&scene, pos);
                    if signal.with_untracked(|old| *old != new) {
                        signal.set(new);
                    }
                }
            });
        });
        let grow = move || {
            let (Some(want), Some(have)) = (count.try_get_untracked(), shown.try_get_untracked()) else {
                return;
            };
            let next = want.min(have + AT_ONCE);
            let scene = untrack(scene);
            signals.update_value(|signals| {
                signals.truncate(have);
                signals.extend((signals.len()..next).map(|pos| ArcRwSignal::new(look(&scene, pos))));
            });
            shown.set(next);
        };
        Effect::new(move |_| {
            let (want, have) = (count.get(), shown.get());
            if have > want {
                signals.update_value(|signals| signals.truncate(want));
                shown.set(want);
            } else if have < want {
                set_timeout(grow, Duration::ZERO);
            }
        });
        dealt
    }

    /// The signal of a position that is set up; must be called in the component that shows it.
    pub fn at(&self, pos: usize) -> RwSignal<T> {
        self.signals.with_value(|signals| signals.get(pos).cloned()).unwrap_or_default().into()
    }
}
