//! Model cards.

use leptos::prelude::*;

use crate::shell::set_title;

#[component]
pub fn Models() -> impl IntoView {
    set_title("Models");
    view! { <section class="page"><h1>"Models"</h1></section> }
}
