//! The table of runs.

use leptos::prelude::*;

use crate::shell::set_title;

#[component]
pub fn Runs() -> impl IntoView {
    set_title("Runs");
    view! { <section class="page"><h1>"Runs"</h1></section> }
}
