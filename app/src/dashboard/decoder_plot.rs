//! Decoders as marks over tokens a forward (log) and nats per token of the judge. Every mark is a button; the plot is one
//! stop of the tabulator key, inside which arrow keys go from mark to mark in the order of speed. A click or a touch
//! takes the nearest mark, so that marks which lie over each other can be told apart.

use std::sync::Arc;

use leptos::html;
use leptos::prelude::*;
use wasm_bindgen::JsCast;

use crate::chart::Scale;
use crate::chart::format;

/// A decoder in the plot.
#[derive(Clone, Debug, PartialEq)]
pub struct Spot {
    /// place among all points of the result
    pub index: usize,
    /// kind of policy: its form
    pub kind: String,
    /// "threshold, tau 0.9, temperature 0.6"
    pub name: String,
    /// tokens a forward
    pub x: f64,
    /// nats per token
    pub y: f64,
    /// no other decoder writes as fast at fewer nats
    pub best: bool,
}

/// Sorts spots by speed and marks those that no other dominates: the frontier.
pub fn arrange(mut spots: Vec<Spot>) -> Vec<Spot> {
    spots.retain(|s| s.x.is_finite() && s.x > 0.0 && s.y.is_finite());
    spots.sort_by(|a, b| a.x.total_cmp(&b.x).then(b.y.total_cmp(&a.y)));
    let mut lowest = f64::INFINITY;
    for spot in spots.iter_mut().rev() {
        spot.best = spot.y < lowest;
        lowest = lowest.min(spot.y);
    }
    spots
}

/// Outline of a kind in a square of 16: kinds differ in form, not in colour.
pub fn outline(kind: &str) -> &'static str {
    match kind {
        "ancestral" => "M8 3a5 5 0 1 1 0 10a5 5 0 1 1 0-10z",
        "top_prob" => "M3 3h10v10h-10z",
        "threshold" => "M8 2l5.5 10.5h-11z",
        "factor" => "M8 14l5.5-10.5h-11z",
        "entropy_bound" => "M8 1.5l6.5 6.5l-6.5 6.5l-6.5-6.5z",
        "edit" => "M8 1l2 5l5 2l-5 2l-2 5l-2-5l-5-2l5-2z",
        "remask" => "M3 3l5 3l5-3l-3 5l3 5l-5-3l-5 3l3-5z",
        "remdm" => "M6 2h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
        "remdm_quota" => "M2 6h5v-4h2v4h5v2h-5v6h-2v-6h-5z",
        "wino" => "M2 2h8v4h4v8h-8v-4h-4z",
        "hierarchical" => "M6 3h4l4 10h-12z",
        "klass" => "M8 2l6 4.5l-2.3 7h-7.4l-2.3-7z",
        "left_to_right" => "M3 3l11 5l-11 5l3-5z",
        "best_of" => "M3 2h10v4l-3 2l3 2v4h-10v-4l3-2l-3-2z",
        "switch" => "M2 2h5l7 12h-5z",
        "draft_refine" => "M2 4h9l3 4l-3 4h-9l3-4z",
        _ => "M2 5.5h12v5h-12z",
    }
}

/// Places of marks in percent of the plot.
struct Axes {
    x: Scale,
    y: Scale,
}

impl Axes {
    fn of(spots: &[Spot]) -> Axes {
        let range = |f: fn(&Spot) -> f64| {
            let values = spots.iter().map(f);
            let (low, high) =
                values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
            (low <= high).then_some((low, high))
        };
        Axes {
            x: Scale::new(range(|s| s.x), true, 0.0, 100.0).padded(0.04),
            y: Scale::new(range(|s| s.y), false, 100.0, 0.0).padded(0.06),
        }
    }
    fn place(&self, spot: &Spot) -> (f64, f64) {
        (self.x.map(spot.x), self.y.map(spot.y))
    }
}

/// The mark nearest to a place of the plot, within `reach`; sizes in pixels.
fn nearest(places: &[(f64, f64)], size: (f64, f64), at: (f64, f64), reach: f64) -> Option<usize> {
    let distance = |p: &(f64, f64)| (p.0 / 100.0 * size.0 - at.0).hypot(p.1 / 100.0 * size.1 - at.1);
    let found = places.iter().enumerate().min_by(|a, b| distance(a.1).total_cmp(&distance(b.1)))?;
    (distance(found.1) <= reach).then_some(found.0)
}

/// Pixels from a mark within which a click takes it.
const REACH: f64 = 36.0;

#[component]
pub fn DecoderPlot(
    /// as [`arrange`] sorts them
    spots: Arc<Vec<Spot>>,
    /// index of the point that is chosen
    chosen: RwSignal<Option<usize>>,
) -> impl IntoView {
    let node = NodeRef::<html::Div>::new();
    let axes = Axes::of(&spots);
    let places: Arc<Vec<(f64, f64)>> = Arc::new(spots.iter().map(|s| axes.place(s)).collect());
    // the mark that the tabulator key reaches
    let entry = RwSignal::new(spots.iter().position(|s| s.best).unwrap_or(0));
    let count = spots.len();
    let take = {
        let spots = spots.clone();
        move |i: usize| {
            entry.set(i);
            chosen.set(Some(spots[i].index));
        }
    };
    let focus = move |i: usize| {
        entry.set(i);
        let found =
            node.get_untracked().and_then(|n| n.query_selector(&format!("[data-mark=\"{i}\"]")).ok()?);
        if let Some(mark) = found {
            // focusing an element that is gone does nothing
            drop(mark.unchecked_into::<web_sys::HtmlElement>().focus());
        }
    };
    let click = {
        let (places, take) = (places.clone(), take.clone());
        move |event: web_sys::MouseEvent| {
            let Some(plot) = node.get_untracked() else { return };
            let frame = plot.get_bounding_client_rect();
            let at = (f64::from(event.client_x()) - frame.x(), f64::from(event.client_y()) - frame.y());
            if let Some(i) = nearest(&places, (frame.width(), frame.height()), at, REACH) {
                take(i);
                focus(i);
            }
        }
    };
    let key = move |event: web_sys::KeyboardEvent| {
        let i = entry.get_untracked();
        let to = match event.key().as_str() {
            "ArrowRight" | "ArrowDown" => (i + 1).min(count.saturating_sub(1)),
            "ArrowLeft" | "ArrowUp" => i.saturating_sub(1),
            "Home" => 0,
            "End" => count.saturating_sub(1),
            _ => return,
        };
        event.prevent_default();
        focus(to);
    };
    let best: Vec<(f64, f64)> =
        spots.iter().zip(places.iter()).filter(|(s, _)| s.best).map(|(_, p)| *p).collect();
    let stairs: String = best
        .iter()
        .enumerate()
        .map(|(n, (x, y))| if n == 0 { format!("M{x:.2} {y:.2}") } else { format!("V{y:.2}H{x:.2}") })
        .collect();
    let (across, _) = axes.x.ticks(6);
    let (up, step) = axes.y.ticks(6);
    let marks = spots
        .iter()
        .zip(places.iter().copied())
        .enumerate()
        .map(|(i, (spot, (x, y)))| {
            let (index, take) = (spot.index, take.clone());
            let best = if spot.best { ", on the frontier" } else { "" };
            let told =
                format!("{}: {:.3} nats per token, {:.2} tokens a forward{best}", spot.name, spot.y, spot.x);
            view! {
                <button
                    type="button"
                    class="mark"
                    class:best=spot.best
                    data-mark=i
                    style:left=format!("{x:.2}%")
                    style:top=format!("{y:.2}%")
                    title=told.clone()
                    aria-label=told
                    aria-pressed=move || (chosen.get() == Some(index)).to_string()
                    tabindex=move || if entry.get() == i { "0" } else { "-1" }
                    on:focus=move |_| entry.set(i)
                    on:click=move |event| {
                        // a pointer's click goes on to the plot, which knows the nearest mark
                        if event.detail() == 0 {
                            event.stop_propagation();
                            take(i);
                        }
                    }
                >
                    <svg viewBox="0 0 16 16" aria-hidden="true"><path d=outline(&spot.kind)></path></svg>
                </button>
            }
        })
        .collect_view();
    view! {
        <div class="decoder-plot">
            <p class="small mut">"↑ nats per token of the judge · → tokens a forward (log)"</p>
            <div class="field">
                {up.into_iter().map(|v| view! {
                    <span class="up" aria-hidden="true" style:top=format!("{:.2}%", axes.y.map(v))><i>{format::axis_label(v, step)}</i></span>
                }).collect_view()}
                {across.into_iter().map(|v| view! {
                    <span class="across" aria-hidden="true" style:left=format!("{:.2}%", axes.x.map(v))><i>{format::axis_label(v, 0.0)}</i></span>
                }).collect_view()}
                <svg class="stairs" viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true"><path d=stairs></path></svg>
                <div
                    class="marks"
                    node_ref=node
                    role="group"
                    aria-label="Decoders by speed. Arrow keys go from one to the next, enter chooses one"
                    on:click=click
                    on:keydown=key
                >
                    {marks}
                </div>
            </div>
        </div>
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spot(index: usize, x: f64, y: f64) -> Spot {
        Spot { index, kind: "edit".into(), name: String::new(), x, y, best: false }
    }

    #[test]
    fn the_frontier_is_fast_or_good() {
        let all = arrange(vec![
            spot(0, 1.0, 2.0),
            spot(1, 4.0, 3.0),
            spot(2, 2.0, 3.5),
            spot(3, 4.0, 2.5),
            spot(4, f64::NAN, 1.0),
            spot(5, 0.0, 1.0),
        ]);
        let told: Vec<(usize, bool)> = all.iter().map(|s| (s.index, s.best)).collect();
        assert_eq!(told, [(0, true), (2, false), (1, false), (3, true)]);
        assert!(arrange(vec![]).is_empty());
    }

    #[test]
    fn kinds_differ_in_form() {
        let mut seen = std::collections::BTreeSet::new();
        for info in hilda_engine::decode::PolicySpec::parameters() {
            assert!(seen.insert(outline(info.kind)), "{} looks like another kind", info.kind);
        }
    }

    #[test]
    fn a_click_takes_the_nearest_mark_or_none() {
        let places = [(10.0, 10.0), (12.0, 10.0), (90.0, 90.0)];
        let size = (500.0, 300.0);
        assert_eq!(nearest(&places, size, (52.0, 30.0), REACH), Some(0));
        assert_eq!(nearest(&places, size, (59.0, 31.0), REACH), Some(1));
        assert_eq!(nearest(&places, size, (250.0, 150.0), REACH), None);
        assert_eq!(nearest(&[], size, (0.0, 0.0), REACH), None);
    }

    proptest! {
        #[test]
        fn marks_lie_inside_the_plot(values in prop::collection::vec((0.01f64..100.0, -1e3f64..1e3), 1..20)) {
            let spots = arrange(values.iter().enumerate().map(|(i, (x, y))| spot(i, *x, *y)).collect());
            let axes = Axes::of(&spots);
            for s in &spots {
                let (x, y) = axes.place(s);
                prop_assert!((0.0..=100.0).contains(&x) && (0.0..=100.0).contains(&y), "{x} {y}");
            }
        }
    }
}
