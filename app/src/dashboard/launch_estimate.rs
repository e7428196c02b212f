//! What a recipe would cost: parameters, tokens, time, memory against what is free, and the same as a command.

use leptos::prelude::*;

use super::config_view::CopyButton;
use super::data::{LaunchEstimate, System};
use super::launch_fields::Form;
use crate::chart::format;

#[component]
pub fn EstimateView(form: Form, system: RwSignal<System>) -> impl IntoView {
    let figure = move |f: fn(&LaunchEstimate) -> Option<String>| {
        move || form.estimate.with(|e| e.as_ref().and_then(f)).unwrap_or_else(|| "–".into())
    };
    let memory = move || form.estimate.with(|e| e.as_ref().and_then(|e| e.memory_bytes));
    let command = Signal::derive(move || {
        form.estimate.with(|e| e.as_ref().map(|e| e.command.clone()).unwrap_or_default())
    });
    view! {
        <div class="figures" aria-live="polite" aria-busy=move || form.asking.get().to_string()>
            <dl class="props stacked">
                <div><dt>"Parameters"</dt><dd class="num">{figure(|e| e.parameters.map(format::count))}</dd></div>
                <div><dt>"Tokens"</dt><dd class="num">{figure(|e| e.tokens.map(|t| format!("{} in {} steps",
                    format::short(t as f64), format::count(e.steps.unwrap_or(0)))))}</dd></div>
                <div><dt>"Time"</dt><dd class="num">{figure(|e| e.seconds.map(|s| match e.tokens_per_s {
                    Some(rate) => format!("about {} at {} tokens/s", format::duration(s), format::short(rate)),
                    None => format!("about {}", format::duration(s)),
                }))}</dd></div>
                <div><dt>"Compute"</dt><dd class="num">{figure(|e| e.flops.map(format::flops))}</dd></div>
                <div>
                    <dt>"Memory"</dt>
                    <dd>{move || memory().map(|need| view! { <MemoryBar need system/> })}</dd>
                </div>
            </dl>
            <p class="small mut">{move || form.estimate.with(|e| e.as_ref().map(|e| e.basis.clone()))}</p>
        </div>
        <Show when=move || !command.get().is_empty()>
            <div class="command">
                <h3>"The same on the command line"</h3>
                <pre class="code" tabindex="0">{command}</pre>
                <CopyButton text=command/>
            </div>
        </Show>
    }
}

/// What the run needs of what is free now.
#[component]
fn MemoryBar(need: u64, system: RwSignal<System>) -> impl IntoView {
    move || {
        let s = system.get();
        let (Some(free), Some(total)) = (s.memory_free, s.memory_total) else {
            return view! { <span class="num">{format::bytes(need)}</span> }.into_any();
        };
        let total = total.max(1) as f64;
        let used = (total - free as f64).max(0.0) / total;
        let mine = need as f64 / total;
        let words = if need > free {
            "more than is free now: the run would not fit"
        } else if need as f64 > 0.8 * free as f64 {
            "fits, but tightly"
        } else {
            "fits"
        };
        view! {
            <span class="num">{format!("{} of {} free", format::bytes(need), format::bytes(free))}</span>
            <span class="memory" class:over=(need > free) role="img"
                aria-label=format!("{} in use, {} needed, of {}", format::bytes((total * used) as u64), format::bytes(need), format::bytes(total as u64))>
                <i class="used" style:width=format!("{:.1}%", 100.0 * used)></i>
                <i class="need" style:width=format!("{:.1}%", (100.0 * mine).clamp(0.5, 100.0 * (1.0 - used).max(0.005)))></i>
            </span>
            <span class="small mut">{words}</span>
        }
        .into_any()
    }
}
