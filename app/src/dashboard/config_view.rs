//! Configuration of a run: what differs from its parent, then everything.

use leptos::prelude::*;
use leptos_router::components::A;

use super::data::RunDetail;
use crate::dom;

#[component]
pub fn Configuration(detail: RwSignal<Option<RunDetail>>) -> impl IntoView {
    let parent = Memo::new(move |_| detail.with(|d| d.as_ref().and_then(|d| d.parent.clone())));
    let diff = Memo::new(move |_| detail.with(|d| d.as_ref().map(|d| d.diff.clone()).unwrap_or_default()));
    let toml = Memo::new(move |_| {
        detail.with(|d| {
            d.as_ref()
                .map(|d| if d.toml.is_empty() { d.config.to_toml() } else { d.toml.clone() })
                .unwrap_or_default()
        })
    });
    let fields = Memo::new(move |_| {
        detail.with(|d| {
            d.as_ref().map(|d| d.config.flatten().into_iter().collect::<Vec<_>>()).unwrap_or_default()
        })
    });
    view! {
        {move || parent.get().map(|p| view! {
            <section>
                <h2>"Changed from "<A href=format!("/runs/{p}")>{p.clone()}</A></h2>
                {move || {
                    let rows = diff.get();
                    if rows.is_empty() {
                        view! { <p class="mut">"Nothing: the same configuration, or the parent was deleted."</p> }.into_any()
                    } else {
                        view! {
                            <div class="scroll" tabindex="0">
                            <table class="numbers diff">
                                <thead><tr><th scope="col">"Field"</th><th scope="col">"Parent"</th><th scope="col">"This run"</th></tr></thead>
                                <tbody>{rows.into_iter().map(|(field, old, new)| view! {
                                    <tr><th scope="row" class="mono">{field}</th>
                                        <td class="mono"><del>{or_absent(old)}</del></td>
                                        <td class="mono"><ins>{or_absent(new)}</ins></td></tr>
                                }).collect_view()}</tbody>
                            </table>
                            </div>
                        }.into_any()
                    }
                }}
            </section>
        })}
        <section>
            <div class="page-head">
                <h2>"Recipe"</h2>
                <CopyButton text=toml.into()/>
            </div>
            <pre class="card code" tabindex="0">{toml}</pre>
        </section>
        <details class="all-fields">
            <summary>"Every field with its value, defaults filled in"</summary>
            <div class="scroll" tabindex="0">
                <table class="numbers">
                    <thead><tr><th scope="col">"Field"</th><th scope="col">"Value"</th></tr></thead>
                    <tbody>{move || fields.get().into_iter().map(|(k, v)| view! {
                        <tr><th scope="row" class="mono">{k}</th><td class="mono">{v}</td></tr>
                    }).collect_view()}</tbody>
                </table>
            </div>
        </details>
    }
}

fn or_absent(v: String) -> String {
    if v.is_empty() { "not set".into() } else { v }
}

/// Copies `text` and says so.
#[component]
pub fn CopyButton(text: Signal<String>) -> impl IntoView {
    let said = RwSignal::new("Copy");
    let copy = move |_| {
        let text = text.get_untracked();
        leptos::task::spawn_local(async move {
            said.try_set(if dom::copy(&text).await { "Copied" } else { "The browser refused" });
            dom::sleep(2000).await;
            said.try_set("Copy");
        });
    };
    view! { <button type="button" class="small" on:click=copy><span aria-live="polite">{said}</span></button> }
}
