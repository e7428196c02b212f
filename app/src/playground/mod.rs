//! The playground: a text that denoises before the visitor's eyes.

use leptos::prelude::*;

use crate::shell::set_title;

#[component]
pub fn Playground() -> impl IntoView {
    set_title("Playground");
    view! { <section class="page"><h1>"Playground"</h1></section> }
}
