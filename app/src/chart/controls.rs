//! What all charts of a page share: x axis, smoothing, logarithms, zoom, and the crosshair; kept in the address.

use leptos::prelude::*;

use super::series::XAxis;
use super::state::ViewState;
use crate::dom;

/// Signals shared by the charts of one page.
#[derive(Clone, Copy)]
pub struct ChartGroup {
    pub view: RwSignal<ViewState>,
    /// position of the crosshair on the current x axis
    pub hover: RwSignal<Option<f64>>,
}

impl ChartGroup {
    /// A group of its own, which stands in no address.
    pub fn alone(axis: XAxis) -> ChartGroup {
        let view = ViewState { axis, ..ViewState::default() };
        ChartGroup { view: RwSignal::new(view), hover: RwSignal::new(None) }
    }

    /// Starts from the address and writes every later change back to it.
    pub fn from_address() -> ChartGroup {
        let query = web_sys::UrlSearchParams::new_with_str(&search()).ok();
        let first = ViewState::read(|key| query.as_ref().and_then(|q| q.get(key)));
        let group = ChartGroup { view: RwSignal::new(first), hover: RwSignal::new(None) };
        Effect::new(move |before: Option<ViewState>| {
            let now = group.view.get();
            if before.is_some_and(|b| b != now) {
                let pairs = now.pairs();
                replace_query(&ViewState::KEYS.map(|key| {
                    let value = pairs.iter().find(|p| p.0 == key).map(|p| p.1.clone());
                    (key, value)
                }));
            }
            now
        });
        group
    }
    pub fn set(&self, change: impl FnOnce(&mut ViewState)) {
        self.view.update(change);
    }
}

fn search() -> String {
    dom::window().location().search().unwrap_or_default()
}

/// Sets or removes keys of the address in place, without a navigation.
pub fn replace_query(changes: &[(&str, Option<String>)]) {
    let Ok(query) = web_sys::UrlSearchParams::new_with_str(&search()) else { return };
    for (key, value) in changes {
        match value {
            Some(value) => query.set(key, value),
            None => query.delete(key),
        }
    }
    let location = dom::window().location();
    let text = String::from(query.to_string());
    let mark = if text.is_empty() { "" } else { "?" };
    let url = format!("{}{mark}{text}", location.pathname().unwrap_or_default());
    if let Ok(history) = dom::window().history() {
        let state = history.state().unwrap_or_default();
        // a refused replacement only leaves the address as it was
        drop(history.replace_state_with_url(&state, "", Some(&url)));
    }
}

/// The line of controls above the charts.
#[component]
pub fn ChartControls(
    group: ChartGroup,
    /// the points know their compute
    #[prop(optional)]
    compute: bool,
) -> impl IntoView {
    let view = group.view;
    let copied = RwSignal::new("");
    let copy = move |_| {
        let href = dom::window().location().href().unwrap_or_default();
        leptos::task::spawn_local(async move {
            copied.set(if dom::copy(&href).await { "Link copied" } else { "The browser refused to copy" });
            dom::sleep(2500).await;
            copied.try_set("");
        });
    };
    let axis = move |a: XAxis, text: &'static str| {
        view! {
            <button type="button" aria-pressed=move || (view.get().axis == a).to_string()
                on:click=move |_| {
                    group.hover.set(None);
                    // a zoom window has the units of its axis
                    group.set(|v| if v.axis != a { v.axis = a; v.zoom = None; });
                }>
                {text}
            </button>
        }
    };
    view! {
        <div class="chart-controls" role="group" aria-label="Charts">
            <div class="seg" role="group" aria-label="Horizontal axis">
                {axis(XAxis::Step, "Steps")} {axis(XAxis::Tokens, "Tokens")} {axis(XAxis::Time, "Time")}
                {compute.then(|| axis(XAxis::Compute, "FLOPs"))}
            </div>
            <label class="slider">
                <span>"Smoothing "<output>{move || format!("{:.2}", view.get().smoothing)}</output></span>
                <input type="range" min="0" max="0.99" step="0.01"
                    prop:value=move || view.get().smoothing.to_string()
                    on:input=move |ev| {
                        if let Ok(s) = event_target_value(&ev).parse::<f64>() {
                            group.set(|v| v.smoothing = s.clamp(0.0, 0.99));
                        }
                    }/>
            </label>
            <label class="check">
                <input type="checkbox" prop:checked=move || view.get().log_x
                    on:change=move |ev| { let on = event_target_checked(&ev); group.set(|v| { v.log_x = on; v.zoom = None; }) }/>
                "log x"
            </label>
            <label class="check">
                <input type="checkbox" prop:checked=move || view.get().log_y
                    on:change=move |ev| { let on = event_target_checked(&ev); group.set(|v| v.log_y = on) }/>
                "log y"
            </label>
            <button type="button" class="small" disabled=move || view.get().zoom.is_none()
                on:click=move |_| group.set(|v| v.zoom = None)>"Reset zoom"</button>
            <button type="button" class="small" on:click=copy>"Copy link"</button>
            <span class="small mut" role="status">{copied}</span>
        </div>
    }
}
