//! Launching a run from a recipe.

use leptos::prelude::*;

use crate::shell::set_title;

#[component]
pub fn Launch() -> impl IntoView {
    set_title("Launch");
    view! { <section class="page"><h1>"Launch"</h1></section> }
}
