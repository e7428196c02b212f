//! Play, pause, step, scrub, speed, loop; the counters; what a screen reader is told.

use leptos::prelude::*;

use super::player::{Player, SPEEDS};
use crate::dom;

#[component]
pub fn Transport(
    player: Player,
    /// what stands at the right of the counters (tokens per second while a model is at work)
    #[prop(into)]
    rate: Signal<String>,
) -> impl IntoView {
    let steps = Memo::new(move |_| player.steps());
    let counters = move || {
        let (at, steps, live) = (player.at.get(), steps.get(), player.live.get());
        player.frame.with(|frame| {
            let Some(frame) = frame else { return "nothing written yet".to_string() };
            let mut parts = vec![
                if live { format!("step {at} of {steps} so far") } else { format!("step {at} of {steps}") },
                format!("{} masked", frame.masked),
                format!("{} edit{}", frame.edits, if frame.edits == 1 { "" } else { "s" }),
            ];
            if frame.forwards > 0 {
                parts.push(format!("{:.1} tokens / forward", frame.per_forward()));
            }
            parts.join(" · ")
        })
    };
    view! {
        <div class="transport" role="group" aria-label="Replay">
            <button
                class="round"
                aria-label=move || if player.playing.get() { "Pause" } else { "Play" }
                title="Play or pause (space)"
                disabled=move || steps.get() == 0 && !player.live.get()
                on:click=move |_| player.toggle()
            >
                <span aria-hidden="true">{move || if player.playing.get() { "❚❚" } else { "▶" }}</span>
            </button>
            <button class="round" aria-label="One step back" title="One step back (←)" on:click=move |_| player.step_by(-1)>
                <span aria-hidden="true">"‹"</span>
            </button>
            <button class="round" aria-label="One step on" title="One step on (→)" on:click=move |_| player.step_by(1)>
                <span aria-hidden="true">"›"</span>
            </button>
            <input
                class="scrub"
                type="range"
                min="0"
                max=move || steps.get().to_string()
                prop:value=move || { steps.track(); player.at.get().to_string() }
                aria-label="Step"
                aria-valuetext=move || announcement(player)
                on:input=move |event| player.seek(event_target_value(&event).parse().unwrap_or(0))
            />
            <label class="speed">
                <span class="visually-hidden">"Speed, steps per second"</span>
                <select
                    title="Steps per second"
                    on:change=move |event| player.speed.set(event_target_value(&event).parse().unwrap_or(12.0))
                >
                    {SPEEDS.map(|speed| view! {
                        <option value=speed.to_string() selected=move || player.speed.get() == speed>
                            {format!("{speed} / s")}
                        </option>
                    })}
                </select>
            </label>
            <button
                class="round"
                aria-label="Repeat"
                title="Repeat from the beginning"
                aria-pressed=move || player.looping.get().to_string()
                on:click=move |_| player.looping.update(|l| *l = !*l)
            >
                <span aria-hidden="true">"↻"</span>
            </button>
        </div>
        <p class="counters"><span>{counters}</span><span class="rate">{rate}</span></p>
        <Announcer player/>
    }
}

/// "step 12 of 24, 17 masked, 2 edits"
pub fn announcement(player: Player) -> String {
    let (at, steps) = (player.at.get(), player.steps());
    player.frame.with(|frame| match frame {
        Some(frame) => format!(
            "step {at} of {steps}, {} masked, {} edit{}",
            frame.masked,
            frame.edits,
            if frame.edits == 1 { "" } else { "s" }
        ),
        None => String::new(),
    })
}

/// Speaks every step when stepping by hand, at most every four seconds while playing, and always at the end.
#[component]
fn Announcer(player: Player) -> impl IntoView {
    let said = RwSignal::new((0.0f64, String::new()));
    Effect::new(move |_| {
        let text = announcement(player);
        let done = player.at.get() >= player.steps() && !player.live.get();
        let now = dom::now();
        if !player.playing.get() || done || now - said.with_untracked(|s| s.0) > 4000.0 {
            said.set((now, text));
        }
    });
    view! { <p class="visually-hidden" role="status" aria-live="polite">{move || said.with(|s| s.1.clone())}</p> }
}
