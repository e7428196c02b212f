//! Files of a run: checkpoints, and the newest model to take away.

use leptos::prelude::*;

use super::data::RunDetail;
use crate::chart::format;
use crate::dom;

/// Files of the newest checkpoint as the server hands them out.
const MODEL_FILES: [(&str, &str); 3] = [
    ("model.safetensors", "weights, int8 rows with a scale each"),
    ("config.json", "shape and mask id"),
    ("tokenizer.json", "text to tokens"),
];

#[component]
pub fn Files(detail: RwSignal<Option<RunDetail>>) -> impl IntoView {
    let id = move || detail.with(|d| d.as_ref().map(|d| d.summary.id.clone()).unwrap_or_default());
    let checkpoints =
        Memo::new(move |_| detail.with(|d| d.as_ref().map(|d| d.checkpoints.clone()).unwrap_or_default()));
    let files = Memo::new(move |_| detail.with(|d| d.as_ref().map(|d| d.files.clone()).unwrap_or_default()));
    let best = move || detail.with(|d| d.as_ref().and_then(|d| d.summary.status.as_ref()?.checkpoint));
    view! {
        <section>
            <h2>"Model"</h2>
            <Show when=move || !checkpoints.with(Vec::is_empty)
                fallback=|| view! { <p class="mut">"No checkpoint yet. One is written at the interval of the recipe, at the end and on stop."</p> }>
                <p class="small mut">{move || best().map(|s| format!("Of the newest checkpoint, step {}.", format::count(s)))}</p>
                <ul class="plain">
                    {MODEL_FILES.map(|(name, what)| view! {
                        <li>
                            <a rel="external" href=move || dom::site(&format!("/api/runs/{}/model/{name}", id())) download=name>{name}</a>
                            " "<span class="mut small">{what}</span>
                        </li>
                    }).collect_view()}
                </ul>
                <h3>"Checkpoints kept"</h3>
                <ul class="plain num">
                    {move || checkpoints.get().into_iter().map(|c| view! {
                        <li>{format!("step {} · {}", format::count(c.step), format::bytes(c.bytes))}</li>
                    }).collect_view()}
                </ul>
            </Show>
        </section>
        <section>
            <h2>"Run folder"</h2>
            <div class="scroll" tabindex="0">
                <table class="numbers">
                    <thead><tr><th scope="col">"File"</th><th scope="col" class="r">"Size"</th></tr></thead>
                    <tbody>{move || files.get().into_iter().map(|f| view! {
                        <tr><th scope="row" class="mono">{f.path}</th><td class="r num">{format::bytes(f.bytes)}</td></tr>
                    }).collect_view()}</tbody>
                </table>
            </div>
        </section>
    }
}
