//! Runs side by side (or, by name, an ablation or decoders): a verdict that claims only what intervals support, curves over each other, costs, and the
//! configuration, differences only unless asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use leptos::prelude::*;
use leptos_router::NavigateOptions;
use leptos_router::components::A;
use leptos_router::hooks::{use_navigate, use_query_map};

use super::ablation::{self, Ablation};
use super::data::{AblationResult, MetricRows, RunDetail, RunSummary};
use super::decoders::{DecoderChooser, NamedDecoders};
use super::frontier::{Frontier, judged};
use super::metrics::{Metrics, Quantity};
use super::seeds::{join, without_seed};
use super::ui::{Likelihood, Oops, StatePill};
use super::verdict::{Candidate, Verdict, verdict};
use crate::api::{self, Problem};
use crate::chart::{ChartControls, ChartGroup, LineChart, Series, format};
use crate::shell::set_title;

/// As many as there are dash patterns.
const MOST: usize = 8;
/// Runs of an ablation, whose seeds are joined.
const MOST_OF_ABLATION: usize = 40;
const PAGE: usize = 20_000;

/// One column.
#[derive(Clone, Debug, PartialEq)]
struct Column {
    detail: RunDetail,
    metrics: Metrics,
}

async fn load(id: &str) -> Result<Column, Problem> {
    let detail: RunDetail = api::get(&format!("/api/runs/{id}")).await?;
    let mut metrics = Metrics::default();
    let mut after = 0;
    loop {
        let page: MetricRows =
            api::get(&format!("/api/runs/{id}/metrics?after={after}&limit={PAGE}")).await?;
        let full = page.rows.len() >= PAGE;
        after = page.last;
        page.rows.into_iter().filter_map(|r| r.read()).for_each(|m| metrics.add(m));
        if !full {
            return Ok(Column { detail, metrics });
        }
    }
}

#[component]
pub fn Compare() -> impl IntoView {
    set_title("Compare");
    let query = use_query_map();
    let decoders = Memo::new(move |_| query.with(|q| q.get("decoders")).filter(|n| !n.is_empty()));
    view! {
        <section class="page compare">
            <h1>"Compare"</h1>
            {move || match decoders.get() {
                Some(name) => view! {
                    <NamedDecoders name/>
                    <p><A href="/compare">"All comparisons"</A></p>
                }.into_any(),
                None => view! { <OfRuns/> }.into_any(),
            }}
        </section>
    }
}

/// Runs, or the runs of an ablation.
#[component]
fn OfRuns() -> impl IntoView {
    let query = use_query_map();
    // a named ablation brings its runs and its verdicts
    let named = query.with_untracked(|q| q.get("ablation")).filter(|n| !n.is_empty());
    let found = RwSignal::new(None::<(Option<AblationResult>, Option<Problem>)>);
    if let Some(name) = named.clone() {
        leptos::task::spawn_local(async move {
            let answer = match ablation::load(&name).await {
                Ok(r) => (r, None),
                Err(p) => (None, Some(p)),
            };
            found.try_set(Some(answer));
        });
    }
    let ids = Memo::new(move |_| {
        if let Some((Some(result), _)) = found.get() {
            return ablation::runs(&result).into_iter().take(MOST_OF_ABLATION).collect();
        }
        let text = query.with(|q| q.get("runs").unwrap_or_default());
        let mut ids: Vec<String> = Vec::new();
        for id in text.split(',').map(str::trim).filter(|s| !s.is_empty()) {
            if !ids.iter().any(|i| i == id) && ids.len() < MOST {
                ids.push(id.to_string());
            }
        }
        ids
    });
    // an ablation's verdicts are over seeds; those between single runs would contradict them
    let verdicts = named.is_none();
    view! {
        {match &named {
            Some(_) => (move || found.get().map(|(result, problem)| view! { <Ablation result problem/> })).into_any(),
            None => view! { <Chooser ids/> }.into_any(),
        }}
        {move || {
            let list = ids.get();
            match list.len() {
                0 => verdicts.then(|| view! { <DecoderChooser/> }.into_any()),
                _ => Some(view! { <Side ids=list verdicts/> }.into_any()),
            }
        }}
    }
}

/// Which runs are columns; every change is a new address.
#[component]
fn Chooser(ids: Memo<Vec<String>>) -> impl IntoView {
    let runs = RwSignal::new(None::<Vec<RunSummary>>);
    let problem = RwSignal::new(None::<Problem>);
    let load = move || {
        leptos::task::spawn_local(async move {
            match api::get("/api/runs").await {
                Ok(list) => {
                    problem.try_set(None);
                    runs.try_set(Some(list));
                }
                Err(p) => drop(problem.try_set(Some(p))),
            }
        });
    };
    load();
    let retry = Callback::new(move |()| load());
    let navigate = use_navigate();
    let toggle = move |id: &str, on: bool| {
        let mut list = ids.get_untracked();
        list.retain(|i| i != id);
        if on {
            list.push(id.to_string());
        }
        let to = if list.is_empty() {
            "/compare".to_string()
        } else {
            format!("/compare?runs={}", list.join(","))
        };
        navigate(&to, NavigateOptions { replace: true, scroll: false, ..Default::default() });
    };
    let count = move || ids.with(Vec::len);
    let open = untrack(move || count() < 2);
    view! {
        {move || problem.get().map(|p| view! { <Oops problem=p retry/> })}
        <details class="chooser card" open=open>
            <summary>{move || match count() {
                0 => "Choose runs".to_string(),
                1 => "Choose at least one more run".to_string(),
                n => format!("{n} runs chosen"),
            }}</summary>
            {move || runs.get().map(|list| {
                if list.is_empty() {
                    return view! { <p class="mut">"There are no runs yet. "<A href="/launch">"Launch one"</A></p> }.into_any();
                }
                list.into_iter().map(|r| {
                    let id = r.id.clone();
                    let key = r.id.clone();
                    let toggle = toggle.clone();
                    let on = Memo::new(move |_| ids.with(|l| l.contains(&id)));
                    view! {
                        <label class="check">
                            <input type="checkbox" prop:checked=on disabled=move || { !on.get() && count() >= MOST }
                                on:change=move |ev| toggle(&key, event_target_checked(&ev))/>
                            <span>{r.name.clone()}" "<span class="mut small">{r.objective.clone()}</span></span>
                        </label>
                    }
                }).collect_view().into_any()
            })}
        </details>
    }
}

#[component]
fn Side(
    ids: Vec<String>,
    /// runs are judged against the first
    verdicts: bool,
) -> impl IntoView {
    let columns = RwSignal::new(None::<Arc<Vec<Column>>>);
    let problems = RwSignal::new(Vec::<(String, Problem)>::new());
    let wanted = StoredValue::new(ids);
    let fetch = move || {
        leptos::task::spawn_local(async move {
            let mut good = Vec::new();
            let mut bad = Vec::new();
            for id in wanted.try_get_value().unwrap_or_default() {
                match load(&id).await {
                    Ok(c) => good.push(c),
                    Err(p) => bad.push((id, p)),
                }
            }
            problems.try_set(bad);
            columns.try_set(Some(Arc::new(good)));
        });
    };
    fetch();
    let retry = Callback::new(move |()| fetch());
    view! {
        {move || problems.get().into_iter().map(|(id, p)| {
            if p.is_missing() {
                view! { <div class="notice bad" role="alert"><p>{format!("There is no run called {id}.")}</p></div> }.into_any()
            } else {
                view! { <Oops problem=p retry/> }.into_any()
            }
        }).collect_view()}
        {move || match columns.get() {
            None => view! { <p class="mut" role="status">"Reading the runs"</p> }.into_any(),
            Some(list) if list.is_empty() => ().into_any(),
            Some(list) => view! { <Columns columns=list verdicts/> }.into_any(),
        }}
    }
}

/// Names told apart: two runs may share one.
fn labels(columns: &[Column]) -> Vec<String> {
    columns
        .iter()
        .map(|c| {
            let s = &c.detail.summary;
            let twice = columns.iter().filter(|d| d.detail.summary.name == s.name).count() > 1;
            if twice { s.id.clone() } else { s.name.clone() }
        })
        .collect()
}

#[component]
fn Columns(columns: Arc<Vec<Column>>, verdicts: bool) -> impl IntoView {
    let names = labels(&columns);
    let candidates: Vec<Candidate> = columns
        .iter()
        .zip(&names)
        .map(|(c, name)| Candidate {
            name: name.clone(),
            estimate: c
                .metrics
                .valid
                .last()
                .map(|v| v.estimate.clone())
                .or_else(|| c.detail.summary.status.as_ref().and_then(|s| s.headline.clone())),
            tokens: c.detail.summary.status.as_ref().map_or(0, |s| s.tokens),
        })
        .collect();
    let said: Vec<Verdict> = candidates.iter().skip(1).map(|c| verdict(&candidates[0], c)).collect();

    // runs that differ only in the seed
    let mut families: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (i, c) in columns.iter().enumerate() {
        families.entry(without_seed(&c.detail.config)).or_default().push(i);
    }
    let has_seeds = families.values().any(|f| f.len() > 1);
    let mut families: Vec<Vec<usize>> = families.into_values().collect();
    families.sort();
    let joined = RwSignal::new(has_seeds);
    let group = ChartGroup::from_address();
    let frontier = judged(names.iter().map(String::as_str).zip(columns.iter().map(|c| &c.metrics)));
    let shown = columns.len();
    let data = StoredValue::new((columns.clone(), names.clone(), families));
    let curves = move |f: fn(&Metrics, &str, usize) -> Vec<Series>| {
        Signal::derive(move || {
            let join_seeds = joined.get();
            data.with_value(|(columns, names, families)| {
                let mut out = Vec::new();
                if join_seeds {
                    for (style, family) in families.iter().enumerate() {
                        let all: Vec<Vec<Series>> =
                            family.iter().map(|i| f(&columns[*i].metrics, &names[*i], style)).collect();
                        if let [only] = all.as_slice() {
                            out.extend(only.iter().cloned());
                            continue;
                        }
                        // the k-th curve of every seed; estimators come in the same order
                        for k in 0..all.iter().map(Vec::len).min().unwrap_or(0) {
                            let same: Vec<Series> = all.iter().map(|s| s[k].clone()).collect();
                            let name = format!("{} and {} more seeds", same[0].name, same.len() - 1);
                            out.push(join(&same, name, style));
                        }
                    }
                } else {
                    for (i, c) in columns.iter().enumerate() {
                        out.extend(f(&c.metrics, &names[i], i % MOST));
                    }
                }
                Arc::new(out)
            })
        })
    };
    let loss = curves(|m, name, style| vec![m.curve(Quantity::Loss, name, style)]);
    let valid = curves(|m, name, style| {
        let mut s = m.validation(&format!("{name}: "), style);
        s.iter_mut().for_each(|s| s.style = style);
        s
    });
    let only_differences = RwSignal::new(true);
    let flat: Vec<BTreeMap<String, String>> = columns.iter().map(|c| c.detail.config.flatten()).collect();
    let mut keys: Vec<String> = flat.iter().flat_map(|f| f.keys().cloned()).collect();
    keys.sort();
    keys.dedup();
    // the columns are headed by the names, and prose changes nothing
    keys.retain(|k| k != "name" && k != "about");
    let table: Vec<(String, Vec<String>, bool)> = keys
        .into_iter()
        .map(|k| {
            let values: Vec<String> = flat.iter().map(|f| f.get(&k).cloned().unwrap_or_default()).collect();
            let differs = values.windows(2).any(|w| w[0] != w[1]);
            (k, values, differs)
        })
        .collect();
    let table = StoredValue::new(table);
    let head = names.clone();
    let several = columns.len() > 1;
    let cost = |title: &'static str, f: fn(&Column) -> String| {
        let cells = columns.iter().map(|c| view! { <td class="num">{f(c)}</td> }).collect_view();
        view! { <tr><th scope="row">{title}</th>{cells}</tr> }
    };
    view! {
        {(several && verdicts && shown <= MOST).then(|| view! {
            <section class="verdicts" aria-label="Verdict">
                {said.into_iter().map(|v| {
                    let (class, mark) = match &v {
                        Verdict::Refused(_) => ("verdict refused", "Not comparable"),
                        Verdict::NoDifference(_) => ("verdict same", "No difference shown"),
                        Verdict::Difference(_) => ("verdict clear", "Difference"),
                    };
                    view! { <p class=class><b class="small">{mark}</b>{v.text().to_string()}</p> }
                }).collect_view()}
            </section>
        })}
        <ChartControls group compute=true/>
        {has_seeds.then(|| view! {
            <label class="check">
                <input type="checkbox" prop:checked=joined on:change=move |ev| joined.set(event_target_checked(&ev))/>
                "join runs that differ only in the seed (mean, with the lowest and highest as a band)"
            </label>
        })}
        <div class="charts">
            <LineChart title="Validation" unit="nats per token" about="By estimator; curves of different estimators are not comparable."
                file="compare-validation" series=valid group height=300.0/>
            <LineChart title="Training loss" unit="nats per token" about="The objective on each batch. Comparable only between equal objectives."
                file="compare-loss" series=loss group height=300.0/>
        </div>
        {(!frontier.is_empty()).then(|| view! { <Frontier groups=frontier runs=shown/> })}
        <section>
            <h2>"Result and cost"</h2>
            <div class="scroll" tabindex="0">
                <table class="numbers columns">
                    <thead><tr><td></td>{columns.iter().zip(names.clone()).map(|(c, name)| view! {
                        <th scope="col"><A href=format!("/runs/{}", c.detail.summary.id)>{name}</A>" "
                            <StatePill state=c.detail.summary.state/></th>
                    }).collect_view()}</tr></thead>
                    <tbody>
                        <tr><th scope="row">"Likelihood, nats per token"</th>{candidates.iter().map(|c| view! {
                            <td>{match c.estimate.clone() {
                                Some(e) => view! { <Likelihood estimate=e/> }.into_any(),
                                None => view! { <span class="mut">"not yet"</span> }.into_any(),
                            }}</td>
                        }).collect_view()}</tr>
                        {cost("Parameters", |c| status(c, |s| format::count(s.parameters)))}
                        {cost("Training tokens", |c| status(c, |s| format::count(s.tokens)))}
                        {cost("Steps", |c| status(c, |s| format::count(s.step)))}
                        {cost("Time training", |c| status(c, |s| format::duration(s.seconds)))}
                        {cost("Compute", |c| format::flops(c.metrics.flops()))}
                        {cost("Speed", |c| {
                            let seconds = c.metrics.seconds();
                            let tokens = c.metrics.train.last().map_or(0, |r| r.tokens) as f64;
                            if seconds > 0.0 { format!("{} tokens/s", format::short(tokens / seconds)) } else { "–".into() }
                        })}
                        {cost("Device", |c| status(c, |s| s.device.clone()))}
                        {cost("Disk", |c| format::bytes(c.detail.summary.disk_bytes))}
                    </tbody>
                </table>
            </div>
        </section>
        <section>
            <div class="page-head">
                <h2>"Configuration"</h2>
                <label class="check">
                    <input type="checkbox" prop:checked=only_differences on:change=move |ev| only_differences.set(event_target_checked(&ev))/>
                    "differences only"
                </label>
            </div>
            {move || {
                let rows: Vec<_> = table.with_value(|t| {
                    t.iter().filter(|r| !only_differences.get() || r.2).cloned().collect()
                });
                if rows.is_empty() {
                    return view! { <p class="mut">{if several { "The configurations are the same." } else { "One run has no differences; choose another." }}</p> }.into_any();
                }
                view! {
                    <div class="scroll" tabindex="0">
                        <table class="numbers columns">
                            <thead><tr><th scope="col">"Field"</th>{head.iter().map(|n| view! { <th scope="col">{n.clone()}</th> }).collect_view()}</tr></thead>
                            <tbody>{rows.into_iter().map(|(k, values, differs)| view! {
                                <tr class:differs=differs><th scope="row" class="mono">{k}</th>
                                    {values.into_iter().map(|v| view! { <td class="mono">{if v.is_empty() { "not set".to_string() } else { v }}</td> }).collect_view()}</tr>
                            }).collect_view()}</tbody>
                        </table>
                    </div>
                }.into_any()
            }}
        </section>
    }
}

fn status(c: &Column, f: fn(&hilda_engine::record::Status) -> String) -> String {
    c.detail.summary.status.as_ref().map(f).unwrap_or_else(|| "–".into())
}
