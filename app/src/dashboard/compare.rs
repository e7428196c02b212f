//! Runs side by side.

use leptos::prelude::*;

use crate::shell::set_title;

#[component]
pub fn Compare() -> impl IntoView {
    set_title("Compare");
    view! { <section class="page"><h1>"Compare"</h1></section> }
}
