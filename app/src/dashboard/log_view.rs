//! The log as it grows. Follows the end until the reader scrolls away.

use leptos::html::Pre;
use leptos::prelude::*;

use super::live::Live;

/// Closer to the end than this counts as being there, pixels.
const NEAR: i32 = 40;

#[component]
pub fn Log(live: Live) -> impl IntoView {
    let area: NodeRef<Pre> = NodeRef::new();
    let follow = RwSignal::new(true);
    Effect::new(move |_| {
        live.log.track();
        if follow.get()
            && let Some(pre) = area.get()
        {
            pre.set_scroll_top(pre.scroll_height());
        }
    });
    let on_scroll = move |_| {
        if let Some(pre) = area.get_untracked() {
            let at_end = pre.scroll_height() - pre.scroll_top() - pre.client_height() < NEAR;
            if follow.get_untracked() != at_end {
                follow.set(at_end);
            }
        }
    };
    let empty = move || live.log.with(|l| l.text.is_empty());
    view! {
        <div class="log-head">
            <label class="check">
                <input type="checkbox" prop:checked=move || follow.get()
                    on:change=move |ev| follow.set(event_target_checked(&ev))/>
                "follow the end"
            </label>
        </div>
        <pre class="card log" node_ref=area tabindex="0" role="log" aria-live="off" aria-label="Log of the run"
            on:scroll=on_scroll>{move || live.log.with(|l| l.text.clone())}</pre>
        <Show when=empty><p class="mut">"The log is empty so far."</p></Show>
    }
}
