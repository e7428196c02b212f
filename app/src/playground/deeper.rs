//! What lies below the text for those who want to look: the map of all steps, every change of mind, and the costs. Closed at
//! first, and built only when opened.

use leptos::prelude::*;

use super::changes::Changes;
use super::costs::CostBars;
use super::map::Map;
use super::player::Player;
use super::transport::Voice;

#[derive(Clone, Copy, PartialEq, Eq)]
enum View {
    Map,
    Changes,
    Costs,
}

/// `texts` are the texts with their names; map and changes are those of `focus`.
#[component]
pub fn Deeper(texts: Signal<Vec<Voice>>, focus: Signal<Player>) -> impl IntoView {
    let open = RwSignal::new(false);
    let shown = RwSignal::new(View::Map);
    let whose = move || {
        let focus = focus.get();
        texts.with(|t| {
            let several = t.len() > 1;
            t.iter().find(|v| several && v.player.track() == focus.track()).map(|v| v.name.clone())
        })
    };
    view! {
        <details class="deeper" on:toggle=move |e| {
            open.set(event_target::<web_sys::HtmlElement>(&e).has_attribute("open"));
        }>
            <summary>"The whole decoding"<span class="mut">" map of all steps, changes of mind, costs"</span></summary>
            <Show when=move || open.get()>
                <div class="seg small" role="group" aria-label="What to look at">
                    {[(View::Map, "Map"), (View::Changes, "Changes"), (View::Costs, "Costs")].map(|(view, name)| view! {
                        <button aria-pressed=move || (shown.get() == view).to_string() on:click=move |_| shown.set(view)>{name}</button>
                    })}
                </div>
                {move || (shown.get() != View::Costs).then(whose).flatten().map(|name| view! { <p class="small mut">{name}</p> })}
                {move || {
                    let player = focus.get();
                    match shown.get() {
                        View::Map => view! { <Map player/> }.into_any(),
                        View::Changes => view! { <Changes player/> }.into_any(),
                        View::Costs => view! { <CostBars texts/> }.into_any(),
                    }
                }}
            </Show>
        </details>
    }
}
