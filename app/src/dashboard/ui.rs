//! Small parts that several pages share: state pill, progress, likelihood, problems, times.

use hilda_engine::record::{Estimate, State, Status};
use leptos::prelude::*;

use super::data::state_word;
use super::define::{self, Define};
use crate::api::{Problem, TOKEN_KEY};
use crate::chart::format;
use crate::dom;

/// Pause before an unreachable server is asked again.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(5);

/// Seconds since 1970.
pub fn unix_now() -> f64 {
    js_sys::Date::now() / 1e3
}

/// A word and a shape for a run's state.
#[component]
pub fn StatePill(#[prop(into)] state: Signal<State>) -> impl IntoView {
    let mark = move || match state.get() {
        State::Queued => "○",
        State::Running => "▶",
        State::Stopped => "■",
        State::Finished => "✓",
        State::Failed => "✕",
    };
    view! {
        <span class=move || format!("pill state {}", state_word(state.get()))>
            <span aria-hidden="true">{mark}</span>{move || state_word(state.get())}
        </span>
    }
}

/// What is left, in words: measured steps and the trainer's own estimate.
pub fn progress_words(s: &Status) -> String {
    let steps = format!("{} of {} steps", format::count(s.step), format::count(s.total_steps));
    match (s.state, s.eta) {
        (State::Running, Some(eta)) => format!("{steps}, about {} left", format::duration(eta)),
        (State::Running, None) => format!("{steps}, time left not known yet"),
        _ => steps,
    }
}

/// Steps done, as measured.
#[component]
pub fn Progress(#[prop(into)] status: Signal<Option<Status>>) -> impl IntoView {
    move || {
        status.get().map(|s| {
            let total = s.total_steps.max(1);
            let eta = match (s.state, s.eta) {
                (State::Running, Some(eta)) => format!("· {} left", format::duration(eta)),
                (State::Running, None) => "· time left not known yet".into(),
                _ => String::new(),
            };
            let percent = 100.0 * s.step as f64 / total as f64;
            view! {
                <span class="progress">
                    <progress max=total.to_string() value=s.step.min(total).to_string()
                        aria-label=progress_words(&s)></progress>
                    <span class="small mut"><span class="num">{format!("{percent:.0} %")}</span>" "{eta}</span>
                </span>
            }
        })
    }
}

/// "3.912 ± 0.004", with the estimator's name and definition beside it.
#[component]
pub fn Likelihood(estimate: Estimate, #[prop(optional)] long: bool) -> impl IntoView {
    let value = format::plus_minus(estimate.value, estimate.stderr);
    let counted = format!(
        "{} {} {} rows, {} tokens, K = {}, seed {}.",
        define::estimator(&estimate.estimator),
        define::STDERR,
        format::count(estimate.rows),
        format::count(estimate.tokens),
        estimate.k,
        estimate.seed
    );
    let bits = estimate.bits_per_byte.map(|b| format!("{b:.3} bits per byte"));
    view! {
        <span class="likelihood">
            <span class="num">{value}</span>
            {long.then_some(" nats per token")}
            <Define word=estimate.estimator.clone() meaning=counted/>
            {long.then(|| bits.map(|b| view! { <span class="mut small">{b}</span> }))}
        </span>
    }
}

/// Something went wrong: what, and what to do.
#[component]
pub fn Oops(problem: Problem, #[prop(into)] retry: Callback<()>) -> impl IntoView {
    let token = RwSignal::new(String::new());
    let wants_token = problem.needs_token();
    let offline = problem.is_offline();
    if offline {
        let again = move || retry.run(());
        // without a timer the button remains
        if let Ok(handle) = set_timeout_with_handle(again, AGAIN) {
            on_cleanup(move || handle.clear());
        }
    }
    let (title, detail) = if offline {
        (
            "The server does not answer".to_string(),
            "It may have stopped, or the network is away. This page tries again by itself.".to_string(),
        )
    } else {
        (problem.title.clone(), problem.detail.clone())
    };
    view! {
        <div class="notice bad" role="alert">
            <p><b>{title}</b>". "{detail}</p>
            {wants_token.then(|| view! {
                <form class="inline" on:submit=move |ev| {
                    ev.prevent_default();
                    dom::store(TOKEN_KEY, Some(token.get_untracked().trim()));
                    retry.run(());
                }>
                    <label>"Token printed by the server "
                        <input type="text" autocomplete="off" prop:value=token
                            on:input=move |ev| token.set(event_target_value(&ev))/>
                    </label>
                    <button type="submit" class="small">"Use it"</button>
                </form>
            })}
            {(!wants_token).then(|| view! {
                <button type="button" class="small" on:click=move |_| retry.run(())>"Try again"</button>
            })}
        </div>
    }
}

/// Unix seconds as "3 min ago" with the exact time behind it. `now` ticks.
#[component]
pub fn When(at: f64, now: Signal<f64>) -> impl IntoView {
    view! { <time title=format::utc(at) datetime=format::utc(at)>{move || format::ago((now.get() - at).max(0.0))}</time> }
}

/// A clock in Unix seconds that ticks every `seconds` while the page is mounted.
pub fn clock(seconds: u32) -> Signal<f64> {
    let now = RwSignal::new(unix_now());
    let tick = move || {
        now.try_set(unix_now());
    };
    if let Ok(handle) = set_interval_with_handle(tick, std::time::Duration::from_secs(u64::from(seconds))) {
        on_cleanup(move || handle.clear());
    }
    now.into()
}

/// Whether the reader is writing somewhere, so that letters are not commands.
pub fn is_typing() -> bool {
    dom::document().active_element().is_some_and(|e| {
        let name = e.tag_name();
        ["INPUT", "TEXTAREA", "SELECT"].contains(&name.as_str())
            && e.get_attribute("type").as_deref() != Some("checkbox")
    })
}

/// A call that answers without a body (204) is read as an unreadable answer by the JSON client; it succeeded.
pub fn no_content(result: Result<serde_json::Value, Problem>) -> Result<(), Problem> {
    match result {
        Ok(_) => Ok(()),
        Err(p) if (200..300).contains(&p.status) => Ok(()),
        Err(p) => Err(p),
    }
}
