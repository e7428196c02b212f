//! Play, pause, step, scrub, speed, loop; the counters; what a screen reader is told.

use leptos::prelude::*;

use super::player::Player;
use super::timeline::{SPEEDS, Timeline};
use crate::dom;

/// A text as the transport speaks of it.
#[derive(Clone)]
pub struct Voice {
    /// what it is called beside others; empty for the only one
    pub name: String,
    pub player: Player,
}

impl Voice {
    pub fn alone(player: Player) -> Voice {
        Voice { name: String::new(), player }
    }
}

#[component]
pub fn Transport(timeline: Timeline, voices: Signal<Vec<Voice>>) -> impl IntoView {
    let steps = Memo::new(move |_| timeline.len());
    view! {
        <div class="transport" role="group" aria-label="Replay">
            <button
                class="round"
                aria-label=move || if timeline.playing.get() { "Pause" } else { "Play" }
                title="Play or pause (space)"
                disabled=move || steps.get() == 0 && !timeline.live()
                on:click=move |_| timeline.toggle()
            >
                <span aria-hidden="true">{move || if timeline.playing.get() { "❚❚" } else { "▶" }}</span>
            </button>
            <button class="round" aria-label="One step back" title="One step back (←)" on:click=move |_| timeline.step_by(-1)>
                <span aria-hidden="true">"‹"</span>
            </button>
            <button class="round" aria-label="One step on" title="One step on (→)" on:click=move |_| timeline.step_by(1)>
                <span aria-hidden="true">"›"</span>
            </button>
            <input
                class="scrub"
                type="range"
                min="0"
                max=move || steps.get().to_string()
                prop:value=move || { steps.track(); timeline.at.get().to_string() }
                aria-label="Step"
                aria-valuetext=move || voices.with(|v| announcement(timeline, v))
                on:input=move |event| timeline.seek(event_target_value(&event).parse().unwrap_or(0))
            />
            <label class="speed">
                <span class="visually-hidden">"Speed, steps per second"</span>
                <select
                    title="Steps per second"
                    on:change=move |event| timeline.speed.set(event_target_value(&event).parse().unwrap_or(12.0))
                >
                    {SPEEDS.map(|speed| view! {
                        <option value=speed.to_string() selected=move || timeline.speed.get() == speed>
                            {format!("{speed} / s")}
                        </option>
                    })}
                </select>
            </label>
            <button
                class="round"
                aria-label="Repeat"
                title="Repeat from the beginning"
                aria-pressed=move || timeline.looping.get().to_string()
                on:click=move |_| timeline.looping.update(|l| *l = !*l)
            >
                <span aria-hidden="true">"↻"</span>
            </button>
        </div>
        <Announcer timeline voices/>
    }
}

/// Step, masks, edits and tokens per forward of one text.
#[component]
pub fn Counters(
    player: Player,
    /// what stands at the right (tokens per second while a model is at work)
    #[prop(into)]
    rate: Signal<String>,
) -> impl IntoView {
    let counters = move || {
        let (at, steps, live) = (player.at.get(), player.steps.get(), player.live.get());
        player.frame.with(|frame| {
            let Some(frame) = frame else { return "nothing written yet".to_string() };
            let mut parts = vec![
                if live { format!("step {at} of {steps} so far") } else { format!("step {at} of {steps}") },
                format!("{} masked", frame.masked),
                edits(frame.edits),
            ];
            if frame.forwards > 0 {
                parts.push(format!(
                    "{} forward{}",
                    frame.forwards,
                    if frame.forwards == 1 { "" } else { "s" }
                ));
                parts.push(format!("{:.1} tokens / forward", frame.per_forward()));
            }
            parts.join(" · ")
        })
    };
    view! { <p class="counters"><span>{counters}</span><span class="rate">{rate}</span></p> }
}

/// "1 edit"
fn edits(count: u32) -> String {
    format!("{count} edit{}", if count == 1 { "" } else { "s" })
}

/// "step 12 of 24, 17 masked, 2 edits"; of several texts "step 12 of 24. A, Quality: 17 masked, 2 edits. B, Speedy: ended
/// at step 9, 0 masked, 1 edit"
fn announcement(timeline: Timeline, voices: &[Voice]) -> String {
    let at = timeline.at.get();
    let mut text = format!("step {at} of {}", timeline.len());
    let mut any = false;
    for Voice { name, player } in voices {
        let (steps, live) = (player.steps.get(), player.live.get());
        player.frame.with(|frame| {
            let Some(frame) = frame else { return };
            any = true;
            text.push_str(&if name.is_empty() { ", ".into() } else { format!(". {name}: ") });
            if at > steps && !live {
                text.push_str(&format!("ended at step {steps}, "));
            }
            text.push_str(&format!("{} masked, {}", frame.masked, edits(frame.edits)));
        });
    }
    if any { text } else { String::new() }
}

/// Speaks every step when stepping by hand, at most every four seconds while playing, and always at the end.
#[component]
fn Announcer(timeline: Timeline, voices: Signal<Vec<Voice>>) -> impl IntoView {
    let said = RwSignal::new((0.0f64, String::new()));
    Effect::new(move |_| {
        let text = voices.with(|v| announcement(timeline, v));
        let done = timeline.at.get() >= timeline.len() && !timeline.live();
        let now = dom::now();
        if !timeline.playing.get() || done || now - said.with_untracked(|s| s.0) > 4000.0 {
            said.set((now, text));
        }
    });
    view! { <p class="visually-hidden" role="status" aria-live="polite">{move || said.with(|s| s.1.clone())}</p> }
}
