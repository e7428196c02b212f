//! Which model writes, on which device, how large it is; opening another one; forgetting downloads.

use leptos::prelude::*;
use wasm_bindgen::JsCast;
use wasm_bindgen_futures::JsFuture;
use web_sys::{DragEvent, File};

use super::megabytes;
use super::session::{ModelState, Note, Session, demo, millions};
use crate::worker::{Backend, Source, clear_cache};

const BACKENDS: [(Backend, &str, &str); 3] = [
    (Backend::Auto, "auto", "WebGPU if this browser has a graphics adapter, else WebAssembly"),
    (Backend::Webgpu, "WebGPU", "the graphics adapter, even a software one"),
    (Backend::Wasm, "WASM", "WebAssembly SIMD on one thread"),
];

#[component]
pub fn ModelCard(session: Session) -> impl IntoView {
    let clear = move |_| {
        leptos::task::spawn_local(async move {
            let text = if clear_cache().await {
                "Downloaded models are forgotten; the next visit downloads again."
            } else {
                "This browser keeps no downloads for this page."
            };
            session.note.set(Some(Note { text: text.into(), bad: false }));
        });
    };
    let choose = move |event: web_sys::Event| {
        let input = event.target().and_then(|t| t.dyn_into::<web_sys::HtmlInputElement>().ok());
        let Some(list) = input.and_then(|i| i.files()) else { return };
        let files: Vec<File> = (0..list.length()).filter_map(|i| list.get(i)).collect();
        session.open(Source::Files { name: "your folder".into() }, &files);
    };
    view! {
        <section class="card model" aria-label="Model">
            <h3>"Model"</h3>
            {move || match session.state.get() {
                ModelState::Ready(info) => view! {
                    <p><b>{info.name.clone()}</b>" "<span class="mut">{millions(info.parameters)}" parameters"</span></p>
                    <dl class="facts">
                        <dt>"runs"</dt><dd>"in your browser, "{info.device.clone()}</dd>
                        <dt>"size"</dt><dd>{megabytes(info.bytes)}{if info.cached { ", kept from an earlier visit" } else { ", downloaded now" }}</dd>
                        <dt>"reads"</dt><dd>{info.context}" tokens"</dd>
                        <dt>"weights"</dt><dd><code title=info.model_hash.clone()>{info.model_hash.chars().take(12).collect::<String>()}</code></dd>
                    </dl>
                    {info.device_note.clone().map(|note| view! { <p class="meaning">{note}</p> })}
                }.into_any(),
                ModelState::Loading { .. } => view! { <p class="mut">"on its way"</p> }.into_any(),
                _ => view! { <p class="mut">"none"</p> }.into_any(),
            }}
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
                    <button class="small" on:click=move |_| session.open(demo(), &[])>"Demo model"</button>
                </Show>
                <button class="small quiet" on:click=clear>"Forget downloads"</button>
            </div>
            <p class="meaning">"Or drop a folder with config.json, tokenizer.json and model.safetensors anywhere. Nothing is uploaded."</p>
        </section>
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
