//! An ablation on the comparison page: the question, the arms with their intervals over seeds, the verdicts.

use leptos::prelude::*;

use super::data::{AblationArm, AblationResult, SeedInterval};
use super::ui::Oops;
use crate::api::{self, Problem};
use crate::chart::format;

/// The result called `name`.
pub async fn load(name: &str) -> Result<Option<AblationResult>, Problem> {
    let all: Vec<AblationResult> = api::get("/api/ablations").await?;
    Ok(all.into_iter().find(|a| a.name == name))
}

/// Its runs, arm by arm.
pub fn runs(result: &AblationResult) -> Vec<String> {
    result.arms.iter().flat_map(|a| a.runs.iter().map(|r| r.run.clone())).collect()
}

fn interval(i: &SeedInterval) -> String {
    match (i.low, i.high) {
        (Some(low), Some(high)) => format!("{:.4} ({low:.4} to {high:.4})", i.mean),
        _ => format!("{:.4} (one seed)", i.mean),
    }
}

/// Does the interval leave zero out?
fn clear(i: &SeedInterval) -> bool {
    matches!((i.low, i.high), (Some(l), Some(h)) if l > 0.0 || h < 0.0)
}

/// Problems while loading, or the card.
#[component]
pub fn Ablation(result: Option<AblationResult>, problem: Option<Problem>) -> impl IntoView {
    if let Some(p) = problem {
        return view! { <Oops problem=p retry=Callback::new(|()| ())/> }.into_any();
    }
    let Some(r) = result else {
        return view! { <div class="notice bad" role="alert"><p>"There is no ablation of this name."</p></div> }.into_any();
    };
    let mut names: Vec<String> = r.arms.iter().flat_map(|a| a.likelihoods.keys().cloned()).collect();
    names.sort();
    names.dedup();
    let mean = |a: &AblationArm, f: fn(&super::data::AblationRun) -> f64| {
        a.runs.iter().map(f).sum::<f64>() / a.runs.len().max(1) as f64
    };
    view! {
        <section class="card ablation" aria-label="Ablation">
            <h2>{r.about.clone()}</h2>
            <p class="mut small">{format!(
                "{} of {} runs finished, seeds {:?}, equal {}; nats per token, mean and 95 % interval over seeds",
                r.finished, r.planned, r.seeds, r.equal
            )}</p>
            <div class="scroll" tabindex="0">
                <table class="numbers columns">
                    <thead><tr><th scope="col">"Arm"</th><th scope="col">"Tokens"</th><th scope="col">"Compute"</th>
                        {names.iter().map(|n| view! { <th scope="col">{n.clone()}</th> }).collect_view()}</tr></thead>
                    <tbody>{r.arms.iter().map(|a| view! {
                        <tr><th scope="row">{a.arm.clone()}</th>
                            <td class="num">{format::count(mean(a, |r| r.tokens as f64) as u64)}</td>
                            <td class="num">{format::flops(mean(a, |r| r.flops))}</td>
                            {names.iter().map(|n| {
                                let value = a.likelihoods.get(n).map_or("not yet".into(), interval);
                                let estimator = a.estimators.get(n).cloned().unwrap_or_default();
                                view! { <td>{value}" "<span class="mut small">{estimator}</span></td> }
                            }).collect_view()}
                        </tr>
                    }).collect_view()}</tbody>
                </table>
            </div>
            <div class="verdicts" aria-label="Verdict">{r.comparisons.iter().map(|c| {
                let (class, mark) = match clear(&c.difference) {
                    true => ("verdict clear", "Difference"),
                    false => ("verdict same", "No difference shown"),
                };
                view! { <p class=class><b class="small">{mark}</b>{c.verdict.clone()}</p> }
            }).collect_view()}</div>
            <p class="mono small">{r.command.clone()}</p>
        </section>
    }
    .into_any()
}
