//! Light, dark, or as the system says. The choice is the attribute `data-theme` of the root element, which the style
//! sheets read; `boot.js` sets it before the first paint.

use leptos::prelude::*;

use crate::dom;

const KEY: &str = "hilda-theme";

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
