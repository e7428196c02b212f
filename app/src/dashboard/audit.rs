//! The audit of a run: for each phase, what corruption, objective, estimator and sampler were proved to be by enumeration,
//! and the checks behind that.

use leptos::prelude::*;
use serde::Deserialize;

use super::ui::Oops;
use crate::api::{self, Problem};

/// What the server keeps as `audit.json`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Report {
    pub passed: bool,
    pub findings: Vec<Finding>,
}

/// What one part of a configuration was found to be.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Finding {
    /// "phase 2: block 8, logit shift"
    pub feature: String,
    /// corruption, objective, estimator or sampler
    pub part: String,
    pub subject: String,
    /// exact, bound or neither
    pub proved: String,
    pub claimed: Option<String>,
    pub says: String,
    pub checks: Vec<Check>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Check {
    pub what: String,
    pub value: Option<f64>,
    pub limit: Option<f64>,
    pub holds: bool,
}

impl Finding {
    fn holds(&self) -> bool {
        let rank = |s: &str| ["neither", "bound", "exact"].iter().position(|n| *n == s);
        let claims = self.claimed.as_deref().is_none_or(|c| rank(c) <= rank(&self.proved));
        claims && self.checks.iter().all(|c| c.holds)
    }
}

/// Findings under the names of their features, in order.
fn by_feature(report: &Report) -> Vec<(String, Vec<Finding>)> {
    let mut out: Vec<(String, Vec<Finding>)> = Vec::new();
    for finding in &report.findings {
        match out.last_mut().filter(|(feature, _)| *feature == finding.feature) {
            Some((_, all)) => all.push(finding.clone()),
            None => out.push((finding.feature.clone(), vec![finding.clone()])),
        }
    }
    out
}

#[component]
pub fn Audit(id: String) -> impl IntoView {
    let report = RwSignal::new(None::<Report>);
    let problem = RwSignal::new(None::<Problem>);
    let busy = RwSignal::new(true);
    let run = StoredValue::new(id);
    let make = Callback::new(move |()| {
        busy.set(true);
        leptos::task::spawn_local(async move {
            let made = api::post_empty::<Report>(&format!("/api/runs/{}/audit", run.get_value())).await;
            busy.try_set(false);
            match made {
                Ok(made) => {
                    problem.try_set(None);
                    report.try_set(Some(made));
                }
                Err(p) => drop(problem.try_set(Some(p))),
            }
        });
    });
    leptos::task::spawn_local(async move {
        match api::get::<Option<Report>>(&format!("/api/runs/{}/audit", run.get_value())).await {
            Ok(kept) => drop(report.try_set(kept)),
            Err(p) => drop(problem.try_set(Some(p))),
        }
        busy.try_set(false);
    });
    view! {
        <section class="audit">
            {move || problem.get().map(|p| view! { <Oops problem=p retry=make/> })}
            <Show when=move || report.with(Option::is_none) && problem.with(Option::is_none)>
                <p>"An audit rebuilds this recipe on sequences of four of three symbols and enumerates them: is the loss a bound, is the headline what it is called, is what is sampled what is scored?"</p>
                <button type="button" class="go" disabled=busy on:click=move |_| make.run(())>
                    {move || if busy.get() { "Auditing" } else { "Audit this run" }}
                </button>
            </Show>
            {move || report.get().map(|report| view! {
                <p role="status"><b>{if report.passed { "The audit passed." } else { "The audit failed: something claims more than is proved." }}</b>
                    " By enumeration of the recipe's tiny counterpart."</p>
                {by_feature(&report).into_iter().map(|(feature, findings)| view! {
                    <h3>{feature}</h3>
                    <div class="scroll"><table class="findings">
                        <thead><tr><th>"Part"</th><th>"What"</th><th>"Proved"</th><th>"Claimed"</th><th>"Which means"</th></tr></thead>
                        <tbody>{findings.into_iter().map(row).collect_view()}</tbody>
                    </table></div>
                }).collect_view()}
            })}
        </section>
    }
}

fn row(finding: Finding) -> impl IntoView {
    let holds = finding.holds();
    let checks = finding.checks.len();
    let number = |x: Option<f64>| x.map_or("not a number".into(), |x| format!("{x:.3e}"));
    view! {
        <tr class:bad=!holds>
            <td>{finding.part}</td>
            <td>{finding.subject}</td>
            <td><b>{finding.proved}</b></td>
            <td>{finding.claimed.unwrap_or_else(|| "–".into())}</td>
            <td>
                {finding.says}
                {(checks > 0).then(|| view! {
                    <details>
                        <summary class="small">{if checks == 1 { "1 check".into() } else { format!("{checks} checks") }}</summary>
                        <ul class="plain small">
                            {finding.checks.into_iter().map(|c| view! {
                                <li>{if c.holds { "holds: " } else { "broken: " }}{c.what}", "{number(c.value)}" of at most "{number(c.limit)}</li>
                            }).collect_view()}
                        </ul>
                    </details>
                })}
            </td>
        </tr>
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claiming_more_than_is_proved_is_marked() {
        let finding = |proved: &str, claimed: Option<&str>, holds| Finding {
            feature: "phase 1".into(),
            part: "estimator".into(),
            subject: "ar".into(),
            proved: proved.into(),
            claimed: claimed.map(String::from),
            says: String::new(),
            checks: vec![Check { what: "x".into(), value: Some(0.0), limit: Some(0.0), holds }],
        };
        assert!(finding("bound", Some("bound"), true).holds());
        assert!(finding("neither", None, true).holds());
        assert!(!finding("bound", Some("exact"), true).holds());
        assert!(!finding("exact", Some("exact"), false).holds());
    }
}
