//! A shared result: read-only, reads like a short report, also on paper.
//!
//! The result comes from the server, else from `result.json` of a published folder. (The file that works alone is
//! written by the server and needs no page.)

use std::sync::Arc;

use hilda_engine::record::State;
use leptos::prelude::*;
use leptos_router::components::A;
use leptos_router::hooks::use_params_map;

use crate::api::{self, Problem};
use crate::chart::{ChartControls, ChartGroup, LineChart, Look, Point, Series, format};
use crate::dashboard::data::{SharedResult, System, state_word};
use crate::dashboard::define;
use crate::dashboard::replay::Recorded;
use crate::dashboard::samples::SampleTracks;
use crate::dashboard::ui::{Likelihood, Oops, no_content};
use crate::dom;
use crate::shell::set_title;

/// Where a result was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Server,
    Folder,
}

async fn find(slug: &str) -> Result<(SharedResult, Source), Problem> {
    match api::get(&format!("/api/r/{slug}")).await {
        Ok(result) => Ok((result, Source::Server)),
        Err(problem) => match api::get(&format!("/r/{slug}/result.json")).await {
            Ok(result) => Ok((result, Source::Folder)),
            // what the server said is the better answer
            Err(_) => Err(problem),
        },
    }
}

#[component]
pub fn SharedPage() -> impl IntoView {
    set_title("Shared result");
    let params = use_params_map();
    let slug = Memo::new(move |_| params.with(|p| p.get("slug").unwrap_or_default()));
    let found = RwSignal::new(None::<(SharedResult, Source)>);
    let problem = RwSignal::new(None::<Problem>);
    let asked = RwSignal::new(0u32);
    Effect::new(move |_| {
        asked.track();
        let slug = slug.get();
        leptos::task::spawn_local(async move {
            match find(&slug).await {
                Ok((result, source)) => {
                    set_title(&result.title);
                    problem.try_set(None);
                    found.try_set(Some((result, source)));
                }
                Err(p) => drop(problem.try_set(Some(p))),
            }
        });
    });
    let retry = Callback::new(move |()| asked.update(|n| *n += 1));
    view! {
        <section class="page report">
            {move || problem.get().map(|p| if p.is_missing() || p.status == 410 {
                view! {
                    <div class="empty">
                        <h1>"There is no result at this link"</h1>
                        <p>{p.detail.clone()}</p>
                        <p>"The link may have been revoked or mistyped. "<A href="/">"Open the playground"</A></p>
                    </div>
                }.into_any()
            } else {
                view! { <Oops problem=p retry/> }.into_any()
            })}
            {move || found.get().map(|(result, source)| view! { <Report result source/> })}
            <Show when=move || found.with(Option::is_none) && problem.with(Option::is_none)>
                <p class="mut" role="status">"Reading the result"</p>
            </Show>
        </section>
    }
}

fn curves(r: &SharedResult) -> (Vec<Series>, Vec<Series>) {
    let points: Vec<Point> = r
        .train
        .iter()
        .map(|(step, loss, tokens, t)| Point::new(*step as f64, *tokens as f64, *t, *loss))
        .collect();
    let time_at = |step: u64| {
        let n = r.train.partition_point(|p| p.0 <= step);
        if n == 0 { 0.0 } else { r.train[n - 1].3 }
    };
    let mut names: Vec<&str> = Vec::new();
    for v in &r.valid {
        if !names.contains(&v.estimate.estimator.as_str()) {
            names.push(&v.estimate.estimator);
        }
    }
    let valid = names
        .iter()
        .enumerate()
        .map(|(i, name)| Series {
            name: name.to_string(),
            style: i + 1,
            look: Look::Marked,
            range: false,
            restarts: vec![],
            points: Arc::new(
                r.valid
                    .iter()
                    .filter(|v| v.estimate.estimator == *name)
                    .map(|v| {
                        Point::new(v.step as f64, v.tokens as f64, time_at(v.step), v.estimate.value)
                            .with_error(v.estimate.stderr.max(0.0))
                    })
                    .collect(),
            ),
        })
        .collect();
    // the objective of another phase is another quantity
    let ends = r.config.phase_steps().into_iter().scan(0, |sum, n| {
        *sum += n;
        Some(*sum)
    });
    let restarts: Vec<usize> = ends
        .map(|done| r.train.partition_point(|p| p.0 <= done))
        .filter(|i| *i > 0 && *i < r.train.len())
        .collect();
    let loss = vec![Series {
        name: "loss".into(),
        style: 0,
        look: Look::Smoothed,
        range: false,
        restarts,
        points: Arc::new(points),
    }];
    (loss, valid)
}

/// What was asked: the note, else the claim of the recipe.
fn question(r: &SharedResult) -> String {
    if !r.config.about.is_empty() {
        return r.config.about.clone();
    }
    let objectives: Vec<String> =
        r.config.phases.iter().map(|p| format!("{:?}", p.objective).to_lowercase()).collect();
    let size = r.config.model.size.clone().map(|s| format!(" of size {s}")).unwrap_or_default();
    format!("How well does a model{size} write unseen text after training ({})?", objectives.join(", then "))
}

#[component]
fn Report(result: SharedResult, source: Source) -> impl IntoView {
    let r = result;
    let group = ChartGroup::from_address();
    let (loss, valid) = curves(&r);
    let (loss, valid) = (Arc::new(loss), Arc::new(valid));
    let has_valid = !valid.is_empty();
    let answer = r.valid.last().map(|v| v.estimate.clone()).or_else(|| r.status.headline.clone());
    let unfinished = (r.status.state != State::Finished).then(|| {
        format!(
            "The run is {} at step {} of {}: these are its figures so far.",
            state_word(r.status.state),
            format::count(r.status.step),
            format::count(r.status.total_steps)
        )
    });
    let file = format!("hilda-{}", r.slug);
    let cost = &r.cost;
    let hash = r.config_hash.get(..12).unwrap_or(&r.config_hash).to_string();
    let seed = r.config.seed;
    view! {
        <article>
            <header>
                <p class="small mut">{format!("Result of the run {} · {}", r.run.name, format::utc(r.created))}</p>
                <h1>{r.title.clone()}</h1>
                {(!r.note.is_empty()).then(|| view! { <p class="lead">{r.note.clone()}</p> })}
            </header>
            {unfinished.map(|text| view! { <div class="notice"><p>{text}</p></div> })}
            <section>
                <h2>"What was asked"</h2>
                <p>{question(&r)}</p>
            </section>
            <section>
                <h2>"Answer"</h2>
                {match answer {
                    Some(e) => {
                        let meaning = define::estimator(&e.estimator);
                        let counted = format!("{} validation tokens in {} rows, K = {}, seed {}",
                            format::count(e.tokens), format::count(e.rows), e.k, e.seed);
                        view! {
                            <p class="answer"><Likelihood estimate=e long=true/></p>
                            <p class="small mut">{format!("after {} training tokens. {meaning} Measured on {counted}. {}", format::short(r.status.tokens as f64), define::STDERR)}</p>
                        }.into_any()
                    }
                    None => view! { <p class="mut">"No validation was recorded, so there is no likelihood to report."</p> }.into_any(),
                }}
            </section>
            <section class="figures">
                <h2>"Curves"</h2>
                <div class="no-print"><ChartControls group/></div>
                <div class="charts">
                    {has_valid.then(|| view! {
                        <LineChart title="Validation" unit="nats per token" about="Likelihood of unseen text by estimator, with one standard error."
                            file=format!("{file}-validation") series=Signal::stored(valid) group/>
                    })}
                    <LineChart title="Training loss" unit="nats per token" about="The objective on each batch, thinned. Not a likelihood."
                        file=format!("{file}-loss") series=Signal::stored(loss) group/>
                </div>
            </section>
            {r.trajectory.clone().map(|t| view! {
                <section>
                    <h2>"How it writes"</h2>
                    <p class="mut small">"One recorded decoding. Play it, or step through it; nothing is computed again."</p>
                    <Recorded trajectory=t texts=r.tokenizer_pieces.clone()/>
                </section>
            })}
            {r.samples.iter().any(|f| !f.samples.is_empty()).then(|| view! {
                <section><h2>"Samples"</h2><SampleTracks files=r.samples.clone()/></section>
            })}
            <section>
                <h2>"Cost"</h2>
                <dl class="props">
                    <div><dt>"Time training"</dt><dd>{format::duration(cost.seconds)}</dd></div>
                    <div><dt>"Training tokens"</dt><dd class="num">{format::count(cost.tokens)}</dd></div>
                    <div><dt>"Compute"</dt><dd>{format::flops(cost.flops)}</dd></div>
                    <div><dt>"Parameters"</dt><dd class="num">{format::count(r.status.parameters)}</dd></div>
                    <div class="wide"><dt>"Device"</dt><dd>{cost.device.clone()}</dd></div>
                </dl>
            </section>
            <section>
                <h2>"Reproduce it"</h2>
                <p>"Save the configuration below as "<code>{format!("{}.toml", r.config.name)}</code>" and run"</p>
                <pre class="card code" tabindex="0">{r.command.clone()}</pre>
                <p class="small mut">{format!("hilda {} · configuration {hash} · seed {seed}. The same seed on the same back end gives the same tokens.", r.version)}</p>
            </section>
            <section>
                <h2>"Configuration"</h2>
                <pre class="card code" tabindex="0">{if r.toml.is_empty() { r.config.to_toml() } else { r.toml.clone() }}</pre>
            </section>
            <Access slug=r.slug.clone() run=r.run.id.clone() source/>
        </article>
    }
}

/// Who may see it, the file, and the end of it.
#[component]
fn Access(slug: String, run: String, source: Source) -> impl IntoView {
    let system = RwSignal::new(None::<(System, bool)>);
    let revoked = RwSignal::new(false);
    let failed = RwSignal::new(None::<String>);
    if source == Source::Server {
        leptos::task::spawn_local(async move {
            // without an answer the page shows itself as a reader sees it
            if let Ok(value) = api::get::<serde_json::Value>("/api/system").await {
                let loopback = value.get("loopback").and_then(|l| l.as_bool()).unwrap_or(false);
                let s = serde_json::from_value(value).unwrap_or_default();
                system.try_set(Some((s, loopback)));
            }
        });
    }
    let loopback = move || system.with(|s| s.as_ref().is_some_and(|s| s.1));
    let owner = move || {
        source == Source::Server
            && system.with(Option::is_some)
            && (loopback() || dom::stored(api::TOKEN_KEY).is_some())
    };
    let who = move || match source {
        Source::Folder => "Whoever can open this address.",
        Source::Server if loopback() => {
            "Only this machine: the server listens on 127.0.0.1, so the link reaches nobody else. To show the result to others, send the file."
        }
        Source::Server => "Whoever has the link. It is not listed anywhere and cannot be guessed.",
    };
    let path = StoredValue::new(slug.clone());
    let revoke = move |_| {
        leptos::task::spawn_local(async move {
            let answer = api::delete::<serde_json::Value>(&format!("/api/shares/{}", path.get_value())).await;
            match no_content(answer) {
                Ok(()) => {
                    revoked.try_set(true);
                }
                Err(p) => drop(failed.try_set(Some(p.to_string()))),
            }
        });
    };
    view! {
        <section class="access">
            <h2>"Who may see this"</h2>
            <p>{who}</p>
            <div class="actions no-print">
                {(source == Source::Server).then(|| view! {
                    <a class="button" rel="external" download="" href=dom::site(&format!("/r/{slug}/download"))>"Download as one file"</a>
                })}
                <button type="button" on:click=move |_| drop(dom::window().print())>"Print"</button>
                <Show when=owner>
                    <A href=format!("/runs/{run}") attr:class="button">"See the run"</A>
                    <button type="button" class="danger" disabled=move || revoked.get() on:click=revoke>"Revoke the link"</button>
                </Show>
            </div>
            <p role="status">{move || revoked.get().then_some("The link was revoked. Whoever opens it now finds nothing.")}</p>
            {move || failed.get().map(|f| view! { <p class="field-error" role="alert">{f}</p> })}
        </section>
    }
}
