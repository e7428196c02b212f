//! One chart on the page. The picture itself is text from [`Scene`]; this file adds pointer, keyboard, legend, table
//! and exports.

use std::fmt::Write;
use std::sync::Arc;

use leptos::html::Div;
use leptos::prelude::*;
use wasm_bindgen::JsCast;
use wasm_bindgen::prelude::*;

use super::controls::ChartGroup;
use super::export::{save_png, theme_colours};
use super::format;
use super::scene::{Scene, Settings};
use super::series::{Series, csv, has_compute};
use crate::dom;

/// Rows of the table per series; the CSV file has all.
const TABLE_ROWS: usize = 60;
/// A drag shorter than this is a click, pixels.
const MIN_DRAG: f64 = 8.0;

/// Tells a signal how wide an element is, until dropped.
struct Watch {
    observer: web_sys::ResizeObserver,
    _callback: Closure<dyn FnMut()>,
}
impl Watch {
    fn new(element: &web_sys::Element, width: RwSignal<f64>) -> Option<Watch> {
        let target = element.clone();
        let callback = Closure::<dyn FnMut()>::new(move || {
            let w = f64::from(target.client_width());
            if w > 0.0 && width.try_get_untracked().is_some_and(|old| old != w) {
                width.try_set(w);
            }
        });
        let observer = web_sys::ResizeObserver::new(callback.as_ref().unchecked_ref()).ok()?;
        observer.observe(element);
        Some(Watch { observer, _callback: callback })
    }
}
impl Drop for Watch {
    fn drop(&mut self) {
        self.observer.disconnect();
    }
}

/// A line chart. `unit` names the y axis, `about` defines the quantity in a sentence, `file` is the stem of exported
/// file names.
#[component]
pub fn LineChart(
    #[prop(into)] title: String,
    #[prop(into)] unit: String,
    #[prop(into)] about: String,
    #[prop(into)] file: String,
    #[prop(into)] series: Signal<Arc<Vec<Series>>>,
    group: ChartGroup,
    #[prop(default = 240.0)] height: f64,
) -> impl IntoView {
    let frame: NodeRef<Div> = NodeRef::new();
    let width = RwSignal::new(640.0);
    let watch = StoredValue::new_local(None::<Watch>);
    Effect::new(move |_| {
        if let Some(div) = frame.get() {
            let w = f64::from(div.client_width());
            if w > 0.0 {
                width.set(w);
            }
            watch.set_value(Watch::new(&div, width));
        }
    });
    let scene = Memo::new_with_compare(
        move |_| {
            let v = group.view.get();
            let settings = Settings {
                axis: v.axis,
                log_x: v.log_x,
                log_y: v.log_y,
                smoothing: v.smoothing,
                zoom: v.zoom,
                width: width.get(),
                height,
            };
            series.with(|s| Arc::new(Scene::new(s, settings)))
        },
        |_, _| true,
    );
    let unit = StoredValue::new(unit);
    let title = StoredValue::new(title);
    let file = StoredValue::new(file);
    let body = move || unit.with_value(|u| scene.get().body(u, None));
    let axis = move || group.view.get().axis;

    let cross = move || {
        let (Some(x), scene) = (group.hover.get(), scene.get()) else { return String::new() };
        if x < scene.x.low || x > scene.x.high {
            return String::new();
        }
        let px = scene.x.map(x);
        let mut out =
            format!("<path class=\"c-cross\" d=\"M{px:.1} {:.1}V{:.1}\"/>", scene.y.to, scene.y.from);
        series.with(|all| {
            for (s, m) in all.iter().zip(&scene.marks) {
                let Some(i) = s.nearest(scene.settings.axis, x) else { continue };
                let (cx, cy) = (scene.x.map(s.points[i].x(scene.settings.axis)), scene.y.map(m.values[i]));
                if cy.is_finite() {
                    let _ = write!(
                        out,
                        "<circle class=\"c-dot c-s{}\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"4\"/>",
                        m.style % 8
                    );
                }
            }
        });
        out
    };

    // where a series is read: at the crosshair, else at its end
    let reading = move |k: usize| {
        let scene = scene.get();
        series.with(|all| {
            let (Some(s), Some(m)) = (all.get(k), scene.marks.get(k)) else { return String::new() };
            let at = match group.hover.get() {
                Some(x) => s.nearest(scene.settings.axis, x),
                None => s.points.len().checked_sub(1),
            };
            let Some(i) = at else {
                return if s.points.is_empty() { "no values yet".into() } else { "–".into() };
            };
            let p = &s.points[i];
            s.say(p, m.values[i])
        })
    };
    let place = move || match group.hover.get() {
        Some(x) => axis().say(x),
        None => "latest".to_string(),
    };

    // pointer
    let drag = RwSignal::new(None::<(f64, f64)>);
    let pixel = move |ev: &web_sys::PointerEvent| {
        frame.get_untracked().map(|e| f64::from(ev.client_x()) - e.get_bounding_client_rect().left())
    };
    let on_move = move |ev: web_sys::PointerEvent| {
        let Some(px) = pixel(&ev) else { return };
        let s = scene.get_untracked();
        let px = px.clamp(s.x.from, s.x.to);
        if let Some((start, _)) = drag.get_untracked() {
            drag.set(Some((start, px)));
        }
        group.hover.set(Some(s.x.invert(px)));
    };
    let on_down = move |ev: web_sys::PointerEvent| {
        if ev.button() != 0 {
            return;
        }
        if let Some(px) = pixel(&ev) {
            let s = scene.get_untracked();
            drag.set(Some((px.clamp(s.x.from, s.x.to), px.clamp(s.x.from, s.x.to))));
            if let Some(target) = ev.current_target().and_then(|t| t.dyn_into::<web_sys::Element>().ok()) {
                // without capture the drag merely ends at the chart's edge
                drop(target.set_pointer_capture(ev.pointer_id()));
            }
        }
    };
    let on_up = move |_: web_sys::PointerEvent| {
        if let Some((a, b)) = drag.get_untracked() {
            drag.set(None);
            if (a - b).abs() >= MIN_DRAG {
                let s = scene.get_untracked();
                let (low, high) = (s.x.invert(a.min(b)), s.x.invert(a.max(b)));
                group.set(|v| v.zoom = Some((round(low, high - low), round(high, high - low))));
            }
        }
    };
    let leave = move |_: web_sys::PointerEvent| {
        if drag.get_untracked().is_none() {
            group.hover.set(None);
        }
    };

    // keyboard
    let said = RwSignal::new(String::new());
    let announce = move || {
        let mut text = place();
        series.with_untracked(|all| {
            for (k, s) in all.iter().enumerate() {
                let _ = write!(text, ", {} {}", s.name, reading(k));
            }
        });
        said.set(text);
    };
    let on_key = move |ev: web_sys::KeyboardEvent| {
        let s = scene.get_untracked();
        let ax = s.settings.axis;
        let xs: Vec<f64> = series.with_untracked(|all| {
            let longest = all.iter().max_by_key(|q| q.points.len());
            longest.map(|q| q.points.iter().map(|p| p.x(ax)).collect()).unwrap_or_default()
        });
        let inside = |x: &f64| *x >= s.x.low && *x <= s.x.high;
        let first = xs.iter().position(inside);
        let last = xs.iter().rposition(inside);
        let (Some(first), Some(last)) = (first, last) else { return };
        let here = group.hover.get_untracked().map(|x| xs.partition_point(|v| *v < x).clamp(first, last));
        let stride = if ev.shift_key() { ((last - first) / 20).max(1) } else { 1 };
        let to = match ev.key().as_str() {
            "ArrowRight" => here.map_or(first, |h| (h + stride).min(last)),
            "ArrowLeft" => here.map_or(last, |h| h.saturating_sub(stride).max(first)),
            "Home" => first,
            "End" => last,
            "Escape" => {
                group.hover.set(None);
                group.set(|v| v.zoom = None);
                said.set("whole range".into());
                return;
            }
            "+" | "=" => {
                // in pixels, so that it works on both kinds of axis
                let centre = group.hover.get_untracked().map_or((s.x.from + s.x.to) / 2.0, |x| s.x.map(x));
                let quarter = (s.x.to - s.x.from) / 4.0;
                let (low, high) = (s.x.invert(centre - quarter), s.x.invert(centre + quarter));
                group.set(|v| v.zoom = Some((round(low, high - low), round(high, high - low))));
                return;
            }
            _ => return,
        };
        ev.prevent_default();
        group.hover.set(Some(xs[to]));
        announce();
    };

    // exports
    let failed = RwSignal::new(String::new());
    let save_csv = move |_| {
        let text = series.with_untracked(|s| csv(s, &unit.get_value()));
        let name = format!("{}.csv", file.get_value());
        failed.set(
            dom::download(&name, "text/csv", text.as_bytes())
                .err()
                .map(|e| dom::message(&e))
                .unwrap_or_default(),
        );
    };
    let save_picture = move |_| {
        let scene = scene.get_untracked();
        let all = series.get_untracked();
        let svg = scene.document(&title.get_value(), &unit.get_value(), &all, &theme_colours());
        let size = scene.document_size(all.len());
        let name = format!("{}.png", file.get_value());
        leptos::task::spawn_local(async move {
            let result = save_png(&name, &svg, size.0, size.1).await;
            failed.try_set(
                result.err().map(|e| format!("No picture: {}", dom::message(&e))).unwrap_or_default(),
            );
        });
    };

    let open = RwSignal::new(false);
    let names = Memo::new(move |_| {
        series.with(|all| all.iter().map(|s| (s.name.clone(), s.style)).collect::<Vec<_>>())
    });
    let empty = move || scene.get().empty;
    let summary = move || {
        let title = title.get_value();
        series.with(|all| {
            let mut text = format!("{title}. {} series over {}.", all.len(), axis().title());
            for s in all.iter() {
                if let (Some(a), Some(b)) = (s.points.first(), s.points.last()) {
                    let _ = write!(
                        text,
                        " {} ({} line): {} values from {} to {}.",
                        s.name,
                        s.dash_name(),
                        s.points.len(),
                        format::number(a.y),
                        format::number(b.y)
                    );
                }
            }
            text + " Arrow keys read values, plus zooms in, Escape shows everything."
        })
    };

    view! {
        <figure class="chart">
            <figcaption>
                <h3>{title.get_value()}</h3>
                <span class="small mut">{about}</span>
            </figcaption>
            <div class="legend">
                <span class="place mut">{place}</span>
                {move || names.get().into_iter().enumerate().map(|(k, (name, style))| view! {
                    <span class="key">
                        <svg width="28" height="8" aria-hidden="true">
                            <path class=format!("c-strong c-s{}", style % 8) d="M1 4H27"
                                stroke-dasharray=super::series::DASHES[style % 8]></path>
                        </svg>
                        <span class="name">{name}</span>
                        <span class="value">{move || reading(k)}</span>
                    </span>
                }).collect_view()}
            </div>
            <div class="plot" node_ref=frame>
                <svg class="c-plot" width=move || width.get() height=height
                    viewBox=move || format!("0 0 {} {height}", width.get())
                    tabindex="0" role="group" aria-roledescription="chart" aria-label=summary
                    on:pointermove=on_move on:pointerdown=on_down on:pointerup=on_up
                    on:pointercancel=move |_| drag.set(None) on:pointerleave=leave
                    on:dblclick=move |_| group.set(|v| v.zoom = None) on:keydown=on_key>
                    <g aria-hidden="true" inner_html=body></g>
                    <g aria-hidden="true" inner_html=cross></g>
                    {move || drag.get().map(|(a, b)| {
                        let s = scene.get();
                        view! {
                            <rect class="c-drag" x=a.min(b) y=s.y.to width=(a - b).abs()
                                height=(s.y.from - s.y.to).abs()></rect>
                        }
                    })}
                </svg>
                <Show when=empty><p class="plot-empty mut">"Nothing measured in this range yet."</p></Show>
            </div>
            <p class="visually-hidden" aria-live="polite">{said}</p>
            <details class="chart-table" on:toggle=move |ev| {
                let is_open = ev.target().and_then(|t| t.dyn_into::<web_sys::Element>().ok())
                    .is_some_and(|e| e.has_attribute("open"));
                open.set(is_open);
            }>
                <summary>"Table"</summary>
                {move || open.get().then(|| view! { <Table series unit=unit.get_value() title=title.get_value()/> })}
            </details>
            <div class="chart-actions">
                <button type="button" class="small quiet" on:click=save_csv
                    aria-label=move || format!("{} as CSV file", title.get_value())>"CSV"</button>
                <button type="button" class="small quiet" on:click=save_picture
                    aria-label=move || format!("{} as PNG picture", title.get_value())>"PNG"</button>
            </div>
            <Show when=move || !failed.get().is_empty()><p class="field-error" role="alert">{failed}</p></Show>
        </figure>
    }
}

/// Rounds an edge of the zoom to a thousandth of its span, so that addresses stay short.
fn round(v: f64, span: f64) -> f64 {
    let unit = 10f64.powf((span / 1000.0).log10().floor());
    if unit.is_finite() && unit > 0.0 {
        let v = (v / unit).round() * unit;
        // a power of ten below one leaves binary dust behind
        format!("{v:.9}").parse().unwrap_or(v)
    } else {
        v
    }
}

/// The chart in numbers.
#[component]
fn Table(series: Signal<Arc<Vec<Series>>>, unit: String, title: String) -> impl IntoView {
    let rows = move || {
        series.with(|all| {
            let mut out = Vec::new();
            for s in all.iter() {
                let stride = s.points.len().div_ceil(TABLE_ROWS).max(1);
                for (i, p) in s.points.iter().enumerate() {
                    if i % stride == 0 || i + 1 == s.points.len() {
                        let value = s.say(p, p.y);
                        out.push((s.name.clone(), *p, value));
                    }
                }
            }
            out
        })
    };
    let note = move || {
        let thinned = series.with(|all| all.iter().any(|s| s.points.len() > TABLE_ROWS));
        if thinned { "Thinned; the CSV file has every value." } else { "" }
    };
    let compute = Memo::new(move |_| series.with(|all| has_compute(all)));
    view! {
        <div class="scroll" tabindex="0">
            <table class="numbers">
                <caption class="visually-hidden">{title}</caption>
                <thead><tr>
                    <th scope="col">"Series"</th><th scope="col">"Step"</th><th scope="col">"Tokens"</th>
                    <th scope="col">"Time"</th>
                    {move || compute.get().then(|| view! { <th scope="col">"Compute"</th> })}
                    <th scope="col">{unit}</th>
                </tr></thead>
                <tbody>
                    {move || rows().into_iter().map(|(name, p, value)| view! {
                        <tr>
                            <td>{name}</td><td>{format::count(p.step as u64)}</td>
                            <td>{format::short(p.tokens)}</td><td>{format::duration(p.time)}</td>
                            {compute.get().then(|| view! { <td>{format::flops(p.compute)}</td> })}
                            <td>{value}</td>
                        </tr>
                    }).collect_view()}
                </tbody>
            </table>
        </div>
        <p class="small mut">{note}</p>
    }
}
