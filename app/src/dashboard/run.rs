//! One run: what it is doing, what can be done with it, and its tabs.

use hilda_engine::record::{State, Status};
use leptos::prelude::*;
use leptos_router::NavigateOptions;
use leptos_router::components::A;
use leptos_router::hooks::{use_navigate, use_params_map, use_query_map};
use serde_json::json;

use super::audit::Audit;
use super::config_view::Configuration;
use super::curves::Curves;
use super::data::{RunDetail, RunSummary, ShareMade, Undo};
use super::files::Files;
use super::live::{Live, follow};
use super::log_view::Log;
use super::samples::Samples;
use super::ui::{Likelihood, Oops, StatePill, When, clock, progress_words};
use crate::api::{self, Connection, Problem};
use crate::chart::format;
use crate::dom;
use crate::shell::set_title;

/// Tabs in order: the word in the address and the title.
const TABS: [(&str, &str); 6] = [
    ("curves", "Curves"),
    ("samples", "Samples over time"),
    ("config", "Configuration"),
    ("audit", "Audit"),
    ("log", "Log"),
    ("files", "Files"),
];

#[component]
pub fn Run() -> impl IntoView {
    let params = use_params_map();
    let id = Memo::new(move |_| params.with(|p| p.get("id").unwrap_or_default()));
    // another run is another page
    move || view! { <OneRun id=id.get()/> }
}

#[component]
fn OneRun(id: String) -> impl IntoView {
    set_title(&id);
    let live = follow(id.clone());
    let detail = RwSignal::new(None::<RunDetail>);
    let problem = RwSignal::new(None::<Problem>);
    let key = StoredValue::new(id);
    let reload = Callback::new(move |()| {
        leptos::task::spawn_local(async move {
            match api::get::<RunDetail>(&format!("/api/runs/{}", key.get_value())).await {
                Ok(d) => {
                    set_title(&d.summary.name);
                    problem.try_set(None);
                    detail.try_set(Some(d));
                }
                Err(p) => drop(problem.try_set(Some(p))),
            }
        });
    });
    // the state, a new checkpoint or new samples change what the server would answer
    let change = Memo::new(move |_| {
        let of_status = live.status.with(|s| s.as_ref().map(|s| (s.state, s.checkpoint, s.attempt)));
        (of_status, live.metrics.with(|m| m.samples.len()))
    });
    Effect::new(move |_| {
        change.track();
        reload.run(());
    });
    Effect::new(move |_| {
        // while the server is away, the stream's state says when to try again
        if live.connection.get() == Connection::Open && problem.with_untracked(Option::is_some) {
            reload.run(());
        }
    });
    let status = Memo::new(move |_| {
        live.status.get().or_else(|| detail.with(|d| d.as_ref().and_then(|d| d.summary.status.clone())))
    });
    let state = Memo::new(move |_| {
        status.get().map(|s| s.state).or_else(|| detail.with(|d| d.as_ref().map(|d| d.summary.state)))
    });
    let query = use_query_map();
    let tab = Memo::new(move |_| {
        let word = query.with(|q| q.get("tab").unwrap_or_default());
        TABS.iter().map(|t| t.0).find(|t| *t == word).unwrap_or("curves")
    });
    let missing =
        move || problem.with(|p| p.as_ref().is_some_and(Problem::is_missing)) && detail.with(Option::is_none);
    let known = Memo::new(move |_| detail.with(Option::is_some));

    view! {
        <section class="page run">
            {move || (!missing()).then(|| problem.get()).flatten().map(|p| view! { <Oops problem=p retry=reload/> })}
            <Show when=move || live.gone.get()>
                <div class="notice" role="status">
                    <p>"This run was deleted. "<A href="/runs">"All runs"</A></p>
                </div>
            </Show>
            <Show when=missing>
                <div class="empty">
                    <h1>"There is no such run"</h1>
                    <p>{move || format!("No run is called {}. It may have been deleted.", key.get_value())}</p>
                    <p><A href="/runs">"All runs"</A></p>
                </div>
            </Show>
            <Show when=move || known.get()>
                <Head detail status=status.into() state=state.into() reload live/>
                <nav class="tabs" aria-label="Parts of this run">
                    {TABS.map(|(word, title)| {
                        let href = move || dom::site(&format!("/runs/{}?tab={word}", key.get_value()));
                        let current = move || (tab.get() == word).then_some("page");
                        view! { <a href=href aria-current=current data-noscroll="">{title}</a> }
                    }).collect_view()}
                </nav>
                {move || match tab.get() {
                    "samples" => view! { <Samples id=key.get_value() steps=Signal::derive(move || live.metrics.with(|m| m.samples.len()))/> }.into_any(),
                    "config" => view! { <Configuration detail/> }.into_any(),
                    "audit" => view! { <Audit id=key.get_value()/> }.into_any(),
                    "log" => view! { <Log live/> }.into_any(),
                    "files" => view! { <Files detail/> }.into_any(),
                    _ => view! { <Curves live file=key.get_value()/> }.into_any(),
                }}
            </Show>
            <Show when=move || !known.get() && problem.with(Option::is_none)>
                <p class="mut" role="status">"Reading the run"</p>
            </Show>
        </section>
    }
}

/// Name, state, figures and actions.
#[component]
fn Head(
    detail: RwSignal<Option<RunDetail>>,
    status: Signal<Option<Status>>,
    state: Signal<Option<State>>,
    reload: Callback<()>,
    live: Live,
) -> impl IntoView {
    let id = untrack(move || detail.with(|d| d.as_ref().map(|d| d.summary.id.clone()).unwrap_or_default()));
    let key = StoredValue::new(id.clone());
    let name =
        Memo::new(move |_| detail.with(|d| d.as_ref().map(|d| d.summary.name.clone()).unwrap_or_default()));
    let about =
        Memo::new(move |_| detail.with(|d| d.as_ref().map(|d| d.config.about.clone()).unwrap_or_default()));
    let busy = RwSignal::new(false);
    let failed = RwSignal::new(None::<Problem>);
    let shared = RwSignal::new(None::<ShareMade>);
    let navigate = use_navigate();
    let post = move |action: &'static str| {
        busy.set(true);
        leptos::task::spawn_local(async move {
            let path = format!("/api/runs/{}/{action}", key.get_value());
            let result = api::post_empty::<RunSummary>(&path).await;
            failed.try_set(result.err());
            busy.try_set(false);
            reload.run(());
        });
    };
    let share = move |_| {
        busy.set(true);
        leptos::task::spawn_local(async move {
            match api::post::<ShareMade>(&format!("/api/runs/{}/share", key.get_value()), &json!({})).await {
                Ok(made) => {
                    shared.try_set(Some(made));
                    failed.try_set(None);
                }
                Err(p) => drop(failed.try_set(Some(p))),
            }
            busy.try_set(false);
        });
    };
    let delete = move |_| {
        busy.set(true);
        let navigate = navigate.clone();
        leptos::task::spawn_local(async move {
            let id = key.get_value();
            match api::delete::<Undo>(&format!("/api/runs/{id}")).await {
                Ok(answer) => {
                    // the table offers the undo, also after a reload
                    let known = answer.undo.split('/').nth(3).unwrap_or(&id).to_string();
                    navigate(&format!("/runs?deleted={known}"), NavigateOptions::default());
                }
                Err(p) => {
                    failed.try_set(Some(p));
                    busy.try_set(false);
                }
            }
        });
    };
    let can_stop = move || matches!(state.get(), Some(State::Running | State::Queued));
    let can_resume = move || matches!(state.get(), Some(State::Stopped | State::Failed));
    let has_model = Memo::new(move |_| {
        status.with(|s| s.as_ref().is_some_and(|s| s.checkpoint.is_some()))
            || detail.with(|d| d.as_ref().is_some_and(|d| !d.checkpoints.is_empty()))
    });
    let now = clock(10);
    let error = Memo::new(move |_| status.with(|s| s.as_ref().and_then(|s| s.error.clone())));
    let headline = Memo::new(move |_| status.with(|s| s.as_ref().and_then(|s| s.headline.clone())));
    let away = move || live.loaded.get() && live.connection.get() != Connection::Open && !live.gone.get();
    let bad_lines = move || detail.with(|d| d.as_ref().map_or(0, |d| d.unreadable_metrics));
    let queue = move || {
        detail
            .with(|d| d.as_ref().and_then(|d| d.summary.queue_position))
            .filter(|_| state.get() == Some(State::Queued))
            .map(|p| {
                if p <= 1 {
                    "next in the queue".to_string()
                } else {
                    format!("{} before it in the queue", p - 1)
                }
            })
    };
    view! {
        <header class="run-head">
            <div class="run-title">
                <h1>{name}</h1>
                {move || state.get().map(|s| view! { <StatePill state=s/> })}
                <Show when=away><span class="pill wait" role="status">"connection lost, trying again"</span></Show>
            </div>
            <p class="mut">{about}</p>
            <div class="actions" role="group" aria-label="Actions">
                <Show when=can_stop>
                    <button type="button" disabled=busy on:click=move |_| post("stop")>"Stop"</button>
                </Show>
                <Show when=can_resume>
                    <button type="button" class="go" disabled=busy on:click=move |_| post("resume")>"Resume"</button>
                </Show>
                <Show when=move || has_model.get() fallback=|| view! {
                    <span class="small mut">"The playground opens after the first checkpoint"</span>
                }>
                    <A href=move || format!("/?run={}", key.get_value()) attr:class="button">"Open in playground"</A>
                </Show>
                <A href=move || format!("/launch?from={}", key.get_value()) attr:class="button">"Duplicate with changes"</A>
                <button type="button" disabled=busy on:click=share>"Share"</button>
                <button type="button" class="danger" disabled=busy on:click=delete>"Delete"</button>
            </div>
            {move || failed.get().map(|p| view! { <div class="notice bad" role="alert"><p>{p.to_string()}</p></div> })}
            {move || shared.get().map(|made| view! { <Shared made/> })}
            {move || error.get().map(|e| view! {
                <div class="notice bad" role="alert"><p><b>"The run failed. "</b>{e}</p></div>
            })}
            <Show when=move || { bad_lines() > 0 }>
                <div class="notice"><p>{move || format!("{} metric lines could not be read and are not shown.", bad_lines())}</p></div>
            </Show>
            <dl class="props">
                <div class="wide">
                    <dt>"Progress"</dt>
                    <dd aria-live="off">
                        {move || status.get().map(|s| {
                            let percent = 100.0 * s.step as f64 / s.total_steps.max(1) as f64;
                            view! {
                                <progress max=s.total_steps.max(1).to_string() value=s.step.to_string()
                                    aria-label="Steps done"></progress>
                                <span class="small">{progress_words(&s)}" · "{format!("{percent:.0} %")}</span>
                            }
                        })}
                        <span class="small mut">{queue}</span>
                    </dd>
                </div>
                <div>
                    <dt>"Likelihood"</dt>
                    <dd>{move || match headline.get() {
                        Some(e) => view! { <Likelihood estimate=e long=true/> }.into_any(),
                        None => view! { <span class="mut">"no validation yet"</span> }.into_any(),
                    }}</dd>
                </div>
                <Fact title="Tokens" value=move || status.with(|s| s.as_ref().map(|s|
                    format!("{} of {}", format::short(s.tokens as f64), format::short(s.total_tokens as f64))))/>
                <Fact title="Parameters" value=move || status.with(|s| s.as_ref().filter(|s| s.parameters > 0).map(|s| format::short(s.parameters as f64)))/>
                <Fact title="Time training" value=move || status.with(|s| s.as_ref().map(|s| match s.attempt {
                    0 | 1 => format::duration(s.seconds),
                    n => format!("{} in {n} attempts", format::duration(s.seconds)),
                }))/>
                <Fact title="Device" value=move || status.with(|s| s.as_ref().map(|s| s.device.clone()).filter(|d| !d.is_empty()))/>
                <div>
                    <dt>"Started"</dt>
                    <dd>{move || status.with(|s| s.as_ref().map(|s| s.started).filter(|t| *t > 0.0)).map(|at| view! { <When at now/> })}</dd>
                </div>
                <Fact title="Disk" value=move || detail.with(|d| d.as_ref().map(|d| format::bytes(d.summary.disk_bytes)))/>
            </dl>
        </header>
    }
}

#[component]
fn Fact(title: &'static str, value: impl Fn() -> Option<String> + Send + Sync + 'static) -> impl IntoView {
    view! { <div><dt>{title}</dt><dd>{move || value().unwrap_or_else(|| "–".into())}</dd></div> }
}

/// The link that was made, and what it is good for.
#[component]
fn Shared(made: ShareMade) -> impl IntoView {
    let copied = RwSignal::new(false);
    let url = made.url.clone();
    let copy = move |_| {
        let url = url.clone();
        leptos::task::spawn_local(async move {
            let done = dom::copy(&url).await;
            copied.try_set(done);
        });
    };
    let message = if made.message.is_empty() && !made.reachable {
        "This link works only on this machine. To show the result to others, send the file.".to_string()
    } else {
        made.message.clone()
    };
    view! {
        <div class="notice share" role="status">
            <p><a href=made.url.clone()>{made.url.clone()}</a><br/><span class="small mut">{message}</span></p>
            <button type="button" class="small" on:click=copy>{move || if copied.get() { "Copied" } else { "Copy link" }}</button>
            <a class="button small" rel="external" href=dom::site(&format!("/r/{}/download", made.slug)) download="">"Download as one file"</a>
        </div>
    }
}
