//! Parts of a page that may come a moment after the rest: each is built in a task of its own, so that no single task
//! keeps the interface from answering.

use std::time::Duration;

use leptos::prelude::*;

/// Builds its children in the next task.
#[component]
pub fn Later(children: ChildrenFn) -> impl IntoView {
    let now = RwSignal::new(false);
    let come = move || {
        // a page that was left meanwhile needs no parts
        now.try_set(true);
    };
    set_timeout(come, Duration::ZERO);
    view! { <Show when=move || now.get()>{children()}</Show> }
}
