//! One bar per position under the text: confidence or entropy when it was written, the order of writing, or what the step
//! shown computed and what it read from the cache.

use leptos::prelude::*;

use super::blocks::{Use, summary, used};
use super::canvas::level;
use super::deal::Dealt;
use super::player::{Overlay, Player};
use super::tape::Mark;

const OVERLAYS: [(Overlay, &str, &str); 4] = [
    (Overlay::Confidence, "Confidence", "probability of the token when it was written; full height = 1"),
    (
        Overlay::Entropy,
        "Entropy",
        "entropy of the model's distribution when the token was written; full height = 4 nats",
    ),
    (Overlay::Order, "Order", "step that wrote the token; full height = the last step"),
    (
        Overlay::Blocks,
        "Blocks",
        "solid = computed in this step; hatched = read from the cache; empty = not looked at; numbers stand where blocks begin",
    ),
];

/// What a position shows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Bar {
    /// percent; none where nothing is written
    height: Option<u8>,
    edited: bool,
    cached: bool,
    selected: bool,
}

/// Percent of the height for what comes from the cache.
const CACHED: u8 = 55;

#[component]
pub fn Strip(player: Player) -> impl IntoView {
    let count = Memo::new(move |_| player.tape.with(|t| t.last().map_or(0, |f| f.cells.len())));
    let scene = move || {
        let overlay = player.overlay.get();
        let at = player.at.get().checked_sub(1).filter(|_| overlay == Overlay::Blocks);
        let step = at.and_then(|i| player.tape.with(|t| t.steps.get(i).cloned()));
        (player.frame.get(), overlay, player.steps.get() as u32, player.selected.get(), step)
    };
    let bars = Dealt::new(count, scene, |(frame, overlay, steps, selected, step), pos| {
        let cell = frame.as_ref().and_then(|f| f.cells.get(pos).copied());
        let selected = *selected == Some(pos as u32);
        if *overlay == Overlay::Blocks {
            let used = step.as_ref().and_then(|s| used(s, pos as u32));
            let height = match used {
                Some(Use::Computed) => Some(100),
                Some(Use::Cached) => Some(CACHED),
                Some(Use::Unread) | None => None,
            };
            return Bar { height, edited: false, cached: used == Some(Use::Cached), selected };
        }
        let height = cell.and_then(|c| level(&c, *overlay, *steps));
        Bar {
            height: height.map(|h| (6.0 + 94.0 * h).round() as u8),
            edited: cell.is_some_and(|c| c.mark == Mark::Edited),
            cached: false,
            selected,
        }
    });
    let blocks = Memo::new(move |_| {
        (player.overlay.get() == Overlay::Blocks).then(|| player.tape.with(|t| summary(t, player.at.get())))
    });
    view! {
        <div class="strip" role="img" aria-label=move || match blocks.get() {
            Some(blocks) => blocks,
            None => format!("By position: {}", caption(player.overlay.get())),
        }>
            <For each=move || 0..bars.shown.get() key=|pos| *pos let:pos>
                {
                    let bar = bars.at(pos);
                    view! {
                        <i
                            class:edited=move || bar.with(|b| b.edited)
                            class:cached=move || bar.with(|b| b.cached)
                            class:none=move || bar.with(|b| b.height.is_none())
                            class:sel=move || bar.with(|b| b.selected)
                            style:height=move || bar.with(|b| b.height).map(|h| format!("{h}%")).unwrap_or_default()
                            on:click=move |_| player.selected.set(Some(pos as u32))
                        ></i>
                    }
                }
            </For>
        </div>
        {move || blocks.get().map(|blocks| view! { <p class="blocks-said">{blocks}</p> })}
    }
}

/// What an overlay shows.
fn caption(overlay: Overlay) -> &'static str {
    OVERLAYS.iter().find(|o| o.0 == overlay).map(|o| o.2).unwrap_or_default()
}

/// Chooses what the strips show and the words are tinted by. Texts beside each other share the choice.
#[component]
pub fn Overlays(player: Player) -> impl IntoView {
    view! {
        <div class="caption">
            <div class="seg small" role="group" aria-label="What the bars show">
                {OVERLAYS.map(|(overlay, name, about)| view! {
                    <button
                        title=about
                        aria-pressed=move || (player.overlay.get() == overlay).to_string()
                        on:click=move |_| player.overlay.set(overlay)
                    >
                        {name}
                    </button>
                })}
            </div>
            <label class="check"><input type="checkbox" prop:checked=player.tint disabled=move || player.overlay.get() == Overlay::Blocks on:change=move |e| player.tint.set(event_target_checked(&e))/>"Tint the words"</label>
            <span class="about">{move || caption(player.overlay.get())}</span>
        </div>
    }
}

/// What the marks mean.
#[component]
pub fn Legend() -> impl IntoView {
    view! {
        <ul class="legend" aria-label="Marks">
            <li><span class="tok masked" aria-hidden="true"><span class="w">"word"</span></span>"masked"</li>
            <li><span class="tok new" aria-hidden="true"><span class="w">"word"</span></span>"just written"</li>
            <li><span class="tok edited" aria-hidden="true"><s>"old"</s><span class="w">"word"</span></span>"edited, the old word struck"</li>
            <li><span class="tok fixed" aria-hidden="true"><span class="w">"word"</span></span>"fixed by you"</li>
        </ul>
    }
}
