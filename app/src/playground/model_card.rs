//! Which model writes, on which device, how large it is; opening another one; forgetting downloads.

use leptos::prelude::*;
use wasm_bindgen::JsCast;
use wasm_bindgen_futures::JsFuture;
use web_sys::{DragEvent, File};

use super::models::{parameters, site_models};
use super::session::{ModelState, Note, Session, demo, millions};
use super::{address, megabytes};
use crate::worker::{Backend, Source, clear_cache, kept_bytes};

const BACKENDS: [(Backend, &str, &str); 5] = [
    (
        Backend::Auto,
        "auto",
        "WebGPU if this browser has a graphics adapter, else WebAssembly, in integers where the model came in int8; the server for models that are too large",
    ),
    (Backend::Webgpu, "WebGPU", "the graphics adapter, even a software one"),
    (Backend::Wasm, "WASM", "WebAssembly SIMD on one thread, products in float32"),
    (
        Backend::WasmInt8,
        "WASM int8",
        "WebAssembly SIMD with int8 weights and integer products: faster, a quarter of the weights' memory, nearly the same numbers",
    ),
    (Backend::Server, "server", "the machine that serves this page; nothing is downloaded but the tokenizer"),
];

#[component]
pub fn ModelCard(session: Session) -> impl IntoView {
    let kept = RwSignal::new(0u64);
    let count = move || {
        leptos::task::spawn_local(async move {
            kept.try_set(kept_bytes().await);
        })
    };
    // a model that has come may have left files
    Effect::new(move |_| {
        session.model.track();
        count();
    });
    let clear = move |_| {
        leptos::task::spawn_local(async move {
            let text = if clear_cache().await {
                "Downloaded models are forgotten; the next visit downloads again."
            } else {
                "This browser keeps no downloads for this page."
            };
            session.note.set(Some(Note { text: text.into(), bad: false }));
            count();
        });
    };
    let open = move |source: Source, files: &[File]| {
        address::set_query(&parameters(&source));
        session.open(source, files);
    };
    let models = site_models();
    let pick = move |event: web_sys::Event| {
        let base = event_target_value(&event);
        let found = models.with_untracked(|m| m.iter().find(|m| base_of(&m.1) == base).cloned());
        if let Some((_, source)) = found {
            open(source, &[]);
        }
    };
    // what an address named may be on no list
    let offered = move || {
        let (mut all, now) = (models.get(), session.source.get());
        if !all.iter().any(|m| m.1 == now) {
            all.push((now.name().to_string(), now));
        }
        all
    };
    let choose = move |event: web_sys::Event| {
        let input = event.target().and_then(|t| t.dyn_into::<web_sys::HtmlInputElement>().ok());
        let Some(list) = input.and_then(|i| i.files()) else { return };
        let files: Vec<File> = (0..list.length()).filter_map(|i| list.get(i)).collect();
        open(Source::Files { name: "your folder".into() }, &files);
    };
    view! {
        <section class="card model" aria-label="Model">
            <h3>"Model"</h3>
            {move || match session.state.get() {
                ModelState::Ready(info) => view! {
                    <p><b>{info.name.clone()}</b>" "<span class="mut">{millions(info.parameters)}" parameters"</span></p>
                    <dl class="facts">
                        <dt>"runs"</dt><dd>{if info.on_server { "on " } else { "in your browser, " }}{info.device.clone()}</dd>
                        <dt>"size"</dt><dd>{megabytes(info.bytes)}{if info.cached { ", kept from an earlier visit" } else { ", downloaded now" }}</dd>
                        <dt>"reads"</dt><dd>{info.context}" tokens"</dd>
                        <dt>"weights"</dt><dd>{match info.on_server {
                            true => view! { "stay on the server" }.into_any(),
                            false => view! { <code title=info.model_hash.clone()>{info.model_hash.chars().take(12).collect::<String>()}</code> }.into_any(),
                        }}</dd>
                    </dl>
                    {info.device_note.clone().map(|note| view! { <p class="meaning">{note}</p> })}
                }.into_any(),
                ModelState::Loading { .. } => view! { <p class="mut">"on its way"</p> }.into_any(),
                _ => view! { <p class="mut">"none"</p> }.into_any(),
            }}
            <div class="dial"><label>
                <span class="name">"Open another"</span>
                <select aria-label="Model to open" on:change=pick>
                    {move || offered().into_iter().map(|(title, source)| {
                        let (value, this) = (base_of(&source), source);
                        view! { <option value=value selected=move || session.source.get() == this>{title}</option> }
                    }).collect_view()}
                </select>
            </label></div>
            <div class="seg" role="group" aria-label="Device">
                {BACKENDS.map(|(backend, name, about)| view! {
                    <button
                        title=about
                        aria-pressed=move || (session.backend.get() == backend).to_string()
                        on:click=move |_| if session.backend.get_untracked() != backend {
                            session.backend.set(backend);
                            session.reopen();
                        }
                    >
                        {name}
                    </button>
                })}
            </div>
            <div class="ops">
                <label class="button small">
                    "Open a folder"
                    <input class="visually-hidden" type="file" multiple=true prop:webkitdirectory=true on:change=choose/>
                </label>
                <Show when=move || session.source.get() != demo()>
                    <button class="small" on:click=move |_| open(demo(), &[])>"Demo model"</button>
                </Show>
                <button class="small quiet" title="Removes every model that this browser keeps for this page" on:click=clear>
                    "Forget downloads"{move || (kept.get() > 0).then(|| format!(" ({})", megabytes(kept.get())))}
                </button>
            </div>
            <p class="meaning">"Or drop a folder with config.json, tokenizer.json and model.safetensors or its pieces anywhere. Nothing is uploaded."</p>
        </section>
    }
}

/// The address of a model's folder; none for files.
fn base_of(source: &Source) -> String {
    match source {
        Source::Url { base, .. } => base.clone(),
        Source::Files { .. } => String::new(),
    }
}

/// What was dropped; to be taken before the event is over.
pub fn dropped_entries(event: &DragEvent) -> Vec<web_sys::FileSystemEntry> {
    let Some(transfer) = event.data_transfer() else { return Vec::new() };
    let items = transfer.items();
    (0..items.length()).filter_map(|i| items.get(i)?.webkit_get_as_entry().ok().flatten()).collect()
}

/// The files among what was dropped, or inside a dropped folder, with the folder's name.
pub async fn dropped_files(entries: Vec<web_sys::FileSystemEntry>) -> Option<(String, Vec<File>)> {
    let mut name = "your files".to_string();
    let mut files = Vec::new();
    for entry in entries {
        if entry.is_directory() {
            name = entry.name();
            let reader = entry.unchecked_into::<web_sys::FileSystemDirectoryEntry>().create_reader();
            let promise = js_sys::Promise::new(&mut |resolve, reject| {
                drop(reader.read_entries_with_callback_and_callback(&resolve, &reject));
            });
            let inside: js_sys::Array = JsFuture::from(promise).await.ok()?.unchecked_into();
            for child in inside.iter() {
                let child: web_sys::FileSystemEntry = child.unchecked_into();
                if child.is_file() {
                    files.extend(file_of(child).await);
                }
            }
        } else {
            files.extend(file_of(entry).await);
        }
    }
    (!files.is_empty()).then_some((name, files))
}

async fn file_of(entry: web_sys::FileSystemEntry) -> Option<File> {
    let entry: web_sys::FileSystemFileEntry = entry.unchecked_into();
    let promise = js_sys::Promise::new(&mut |resolve, reject| {
        entry.file_with_callback_and_callback(&resolve, &reject);
    });
    JsFuture::from(promise).await.ok()?.dyn_into().ok()
}
