//! A shared result: read-only, reads like a short report.

use leptos::prelude::*;

use crate::shell::set_title;

#[component]
pub fn SharedPage() -> impl IntoView {
    set_title("Shared result");
    view! { <section class="page"><h1>"Shared result"</h1></section> }
}
