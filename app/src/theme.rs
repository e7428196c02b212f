//! Light, dark, or as the system says. The choice is the attribute `data-theme` of the root element, which the style
//! sheets read; `boot.js` sets it before the first paint.

use leptos::prelude::*;
use wasm_bindgen::JsCast;
use wasm_bindgen::prelude::*;

use crate::dom;

const KEY: &str = "hilda-theme";

thread_local! {
    static CHANGED: ArcTrigger = ArcTrigger::new();
}

/// Fires when the page's colours change, for pictures that hold them. Must be called inside a component.
pub fn changes() -> ArcTrigger {
    let changed = CHANGED.with(ArcTrigger::clone);
    if let Ok(Some(dark)) = dom::window().match_media("(prefers-color-scheme: dark)") {
        let system = changed.clone();
        let heard = Closure::<dyn FnMut()>::new(move || system.notify());
        // a browser that refuses shows the new colours with the next picture
        drop(dark.add_event_listener_with_callback("change", heard.as_ref().unchecked_ref()));
        let kept = StoredValue::new_local((dark, heard));
        on_cleanup(move || {
            kept.with_value(|(dark, heard)| {
                drop(dark.remove_event_listener_with_callback("change", heard.as_ref().unchecked_ref()));
            });
        });
    }
    changed
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Theme {
    System,
    Light,
    Dark,
}

impl Theme {
    fn stored() -> Theme {
        match dom::stored(KEY).as_deref() {
            Some("light") => Theme::Light,
            Some("dark") => Theme::Dark,
            _ => Theme::System,
        }
    }
    fn apply(self) {
        let Some(root) = dom::document().document_element() else { return };
        let name = match self {
            Theme::System => None,
            Theme::Light => Some("light"),
            Theme::Dark => Some("dark"),
        };
        match name {
            // a refused attribute leaves the system's theme in place
            Some(name) => drop(root.set_attribute("data-theme", name)),
            None => drop(root.remove_attribute("data-theme")),
        }
        dom::store(KEY, name);
        CHANGED.with(ArcTrigger::notify);
    }
}

/// A button that goes round system, light, dark.
#[component]
pub fn Switch() -> impl IntoView {
    let theme = RwSignal::new(Theme::stored());
    let next = move |_| {
        let new = match theme.get_untracked() {
            Theme::System => Theme::Light,
            Theme::Light => Theme::Dark,
            Theme::Dark => Theme::System,
        };
        new.apply();
        theme.set(new);
    };
    let name = move || match theme.get() {
        Theme::System => "as the system",
        Theme::Light => "light",
        Theme::Dark => "dark",
    };
    let mark = move || match theme.get() {
        Theme::System => "◐",
        Theme::Light => "○",
        Theme::Dark => "●",
    };
    view! {
        <button
            class="quiet round"
            on:click=next
            title=move || format!("Theme: {}", name())
            aria-label=move || format!("Theme: {}. Change", name())
        >
            {mark}
        </button>
    }
}
