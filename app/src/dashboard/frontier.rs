//! Likelihood against cost for runs side by side: every validation of every run, and the frontier, which is the lowest
//! value that any of them had reached at a cost or below. Values of different estimators, or over different text, never
//! share a frontier.

use std::sync::Arc;

use hilda_engine::record::Estimate;
use leptos::prelude::*;

use super::metrics::Metrics;
use crate::chart::{ChartGroup, LineChart, Look, Point, Series, XAxis, replace_query};
use crate::dom;

/// The costs that can be chosen, as the address and the buttons call them.
const COSTS: [(XAxis, &str); 3] =
    [(XAxis::Compute, "FLOPs"), (XAxis::Tokens, "Tokens"), (XAxis::Time, "Time")];
const KEY: &str = "cost";

/// The runs judged by one estimator over the same text.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    pub estimator: String,
    /// validation tokens, rows
    pub text: (u64, u64),
    /// index and name of the run, its points in ascending cost
    pub runs: Vec<(usize, String, Vec<Point>)>,
}

/// Sorts the validations of `runs` (name, metrics) by what can be compared.
pub fn judged<'a>(runs: impl Iterator<Item = (&'a str, &'a Metrics)>) -> Vec<Judged> {
    let mut all: Vec<Judged> = Vec::new();
    for (index, (name, metrics)) in runs.enumerate() {
        for (point, Estimate { estimator, tokens, rows, .. }) in metrics.judged() {
            let text = (*tokens, *rows);
            let at = all.iter().position(|j| j.estimator == *estimator && j.text == text);
            let at = at.unwrap_or_else(|| {
                all.push(Judged { estimator: estimator.clone(), text, runs: vec![] });
                all.len() - 1
            });
            let runs = &mut all[at].runs;
            match runs.last_mut().filter(|r| r.0 == index) {
                Some(run) => run.2.push(point),
                None => runs.push((index, name.into(), vec![point])),
            }
        }
    }
    all
}

impl Judged {
    /// The points than which no other one is at most as dear and lower, in ascending cost, with the places of their runs
    /// in `runs`. Of equal points the first run's counts.
    pub fn frontier(&self, cost: XAxis) -> Vec<(usize, Point)> {
        let points = self.runs.iter().enumerate().flat_map(|(i, run)| run.2.iter().map(move |p| (i, *p)));
        let mut points: Vec<(usize, Point)> =
            points.filter(|(_, p)| p.x(cost).is_finite() && p.y.is_finite()).collect();
        points.sort_by(|(i, a), (j, b)| {
            a.x(cost).total_cmp(&b.x(cost)).then(a.y.total_cmp(&b.y)).then(i.cmp(j))
        });
        let mut best = f64::INFINITY;
        points.retain(|(_, p)| {
            let lower = p.y < best;
            best = best.min(p.y);
            lower
        });
        points
    }

    /// Curves of the runs, and the frontier. `several` = other frontiers stand in the same chart.
    fn series(&self, cost: XAxis, style: usize, several: bool) -> Vec<Series> {
        let series = |name: String, style, look, points| Series {
            name,
            style,
            look,
            range: false,
            restarts: vec![],
            points: Arc::new(points),
        };
        let runs = self.runs.iter().map(|(index, name, points)| {
            series(format!("{name}: {}", self.estimator), *index, Look::Marked, points.clone())
        });
        let name = if several { format!("frontier of {}", self.estimator) } else { "frontier".into() };
        let frontier =
            self.frontier(cost).into_iter().map(|(_, p)| Point { low: p.y, high: p.y, ..p }).collect();
        runs.chain([series(name, style, Look::Stairs, frontier)]).collect()
    }

    /// Which runs lie on the frontier, in words: "By ar, over 4,096 tokens: a is lowest up to 1 TFLOP, b from 2 TFLOP on."
    pub fn summary(&self, cost: XAxis) -> String {
        let frontier = self.frontier(cost);
        let mut stretches: Vec<(usize, f64, f64)> = Vec::new();
        for (run, point) in &frontier {
            let x = point.x(cost);
            match stretches.last_mut().filter(|s| s.0 == *run) {
                Some(stretch) => stretch.2 = x,
                None => stretches.push((*run, x, x)),
            }
        }
        let name = |run: usize| &self.runs[run].1;
        let text = match stretches.as_slice() {
            [] => "nothing was measured".to_string(),
            [(run, ..)] if self.runs.len() == 1 => format!("only {} was measured", name(*run)),
            [(run, ..)] => format!("{} is lowest at every measured cost", name(*run)),
            all => {
                let parts =
                    all.iter().map(|(run, from, _)| format!("{} from {}", name(*run), cost.say(*from)));
                format!("lowest is {}", parts.collect::<Vec<_>>().join(", then "))
            }
        };
        let tokens = crate::chart::format::count(self.text.0);
        format!("By {} over {tokens} tokens: {text}. The frontier carries no interval.", self.estimator)
    }
}

/// The plot, its sentence, and the choice of cost, which stands in the address.
#[component]
pub fn Frontier(groups: Vec<Judged>, runs: usize) -> impl IntoView {
    let query =
        web_sys::UrlSearchParams::new_with_str(&dom::window().location().search().unwrap_or_default());
    let word = query.ok().and_then(|q| q.get(KEY)).unwrap_or_default();
    let first = COSTS.into_iter().find(|c| c.0.word() == word).unwrap_or(COSTS[0]).0;
    let group = ChartGroup::alone(first);
    let cost = Memo::new(move |_| group.view.with(|v| v.axis));
    let choose = move |axis: XAxis| {
        group.hover.set(None);
        group.set(|v| (v.axis, v.zoom) = (axis, None));
        let word = (axis != COSTS[0].0).then(|| axis.word().to_string());
        replace_query(&[(KEY, word)]);
    };
    let groups = StoredValue::new(groups);
    let series = Signal::derive(move || {
        let cost = cost.get();
        groups.with_value(|all| {
            let several = all.len() > 1;
            let each = all.iter().enumerate().flat_map(|(i, g)| g.series(cost, runs + i, several));
            Arc::new(each.collect::<Vec<_>>())
        })
    });
    view! {
        <section class="frontier" aria-label="Quality against cost">
            <div class="page-head">
                <h2>"Quality against cost"</h2>
                <div class="chart-controls">
                    <div class="seg" role="group" aria-label="Cost">
                        {COSTS.map(|(axis, name)| view! {
                            <button type="button" aria-pressed=move || (cost.get() == axis).to_string() on:click=move |_| choose(axis)>{name}</button>
                        })}
                    </div>
                    <label class="check">
                        <input type="checkbox" prop:checked=move || group.view.with(|v| v.log_x)
                            on:change=move |ev| { let on = event_target_checked(&ev); group.set(|v| (v.log_x, v.zoom) = (on, None)) }/>
                        "log cost"
                    </label>
                </div>
            </div>
            <LineChart title="Frontier" unit="nats per token" about="Every validation against what training had cost by then; the stairs are the lowest value reached at that cost or below."
                file="compare-frontier" series group height=320.0/>
            {move || groups.with_value(|all| all.iter().map(|g| view! { <p class="small mut">{g.summary(cost.get())}</p> }).collect_view())}
        </section>
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hilda_engine::record::Metric;
    use proptest::prelude::*;

    /// A run that is judged after every step of `flops` each.
    fn run(estimator: &str, tokens: u64, flops: f64, values: &[f64]) -> Metrics {
        let mut m = Metrics::default();
        for (i, value) in values.iter().enumerate() {
            let step = i as u64 + 1;
            m.add(Metric::Train {
                step,
                attempt: 1,
                tokens: 100 * step,
                phase: 0,
                loss: *value,
                grad_norm: 1.0,
                lr: 1e-3,
                seconds: 1.0,
                tokens_per_s: 100.0,
                flops,
                time: 0.0,
            });
            let estimate = Estimate {
                estimator: estimator.into(),
                value: *value,
                stderr: 0.1,
                tokens,
                rows: 8,
                k: 1,
                seed: 0,
                bits_per_byte: None,
            };
            m.add(Metric::Valid { step, attempt: 1, tokens: 100 * step, phase: 0, time: 0.0, estimate });
        }
        m
    }
    fn groups(runs: &[(&str, Metrics)]) -> Vec<Judged> {
        judged(runs.iter().map(|(n, m)| (*n, m)))
    }

    #[test]
    fn a_cheap_run_leads_until_a_dear_one_is_better() {
        let all = groups(&[
            ("small", run("ar", 64, 1e9, &[5.0, 4.0, 3.9])),
            ("large", run("ar", 64, 4e9, &[4.5, 3.0])),
        ]);
        let [only] = all.as_slice() else { panic!("{all:?}") };
        let ends =
            |cost| only.frontier(cost).iter().map(|(run, p)| (*run, p.x(cost), p.y)).collect::<Vec<_>>();
        assert_eq!(ends(XAxis::Compute), [(0, 1e9, 5.0), (0, 2e9, 4.0), (0, 3e9, 3.9), (1, 8e9, 3.0)]);
        assert_eq!(ends(XAxis::Tokens), [(1, 100.0, 4.5), (1, 200.0, 3.0)]);
        assert!(
            only.summary(XAxis::Compute).contains("lowest is small from 1 GFLOP, then large from 8 GFLOP")
        );
        assert!(only.summary(XAxis::Tokens).contains("large is lowest at every measured cost"));
        let series = only.series(XAxis::Compute, 2, false);
        assert_eq!(
            series.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(),
            ["small: ar", "large: ar", "frontier"]
        );
        assert_eq!(series[2].look, Look::Stairs);
        assert!(series[2].points.iter().all(|p| p.low == p.high), "the frontier carries no interval");
    }

    #[test]
    fn what_cannot_be_compared_has_frontiers_of_its_own() {
        let all = groups(&[
            ("a", run("ar", 64, 1e9, &[2.0])),
            ("b", run("nelbo_t(8)", 64, 1e9, &[1.0])),
            ("c", run("ar", 65, 1e9, &[1.0])),
            ("d", run("ar", 64, 2e9, &[1.5, f64::NAN])),
        ]);
        let members: Vec<Vec<usize>> = all.iter().map(|g| g.runs.iter().map(|r| r.0).collect()).collect();
        assert_eq!(members, [vec![0, 3], vec![1], vec![2]]);
        assert_eq!(all[0].frontier(XAxis::Compute).len(), 2);
        assert!(all[1].summary(XAxis::Compute).contains("only b was measured"));
        assert!(groups(&[("none", Metrics::default())]).is_empty());
    }

    proptest! {
        /// Nothing on the frontier is dominated, and everything else is.
        #[test]
        fn the_frontier_is_what_nothing_dominates(
            runs in prop::collection::vec((1u32..5, prop::collection::vec(0u32..6, 0..6)), 1..5),
        ) {
            let runs: Vec<(&str, Metrics)> = runs
                .iter()
                .map(|(f, v)| ("r", run("ar", 1, f64::from(*f), &v.iter().map(|y| f64::from(*y)).collect::<Vec<_>>())))
                .collect();
            for group in groups(&runs) {
                let frontier = group.frontier(XAxis::Compute);
                let at = |p: &Point| (p.compute, p.y);
                prop_assert!(frontier.windows(2).all(|w| w[0].1.compute < w[1].1.compute && w[0].1.y > w[1].1.y));
                for p in group.runs.iter().flat_map(|r| &r.2) {
                    let reached = frontier.iter().any(|(_, f)| f.compute <= p.compute && f.y <= p.y);
                    prop_assert!(reached);
                    for (_, f) in &frontier {
                        prop_assert!(at(p) == at(f) || p.compute > f.compute || p.y > f.y);
                    }
                }
            }
        }
    }
}
