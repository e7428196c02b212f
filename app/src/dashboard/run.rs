//! One run.

use leptos::prelude::*;

use crate::shell::set_title;

#[component]
pub fn Run() -> impl IntoView {
    set_title("Run");
    view! { <section class="page"><h1>"Run"</h1></section> }
}
