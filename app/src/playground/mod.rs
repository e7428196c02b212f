//! The playground: a text that denoises before the visitor's eyes.

pub mod canvas;
mod deal;
pub mod inspector;
pub mod layout;
mod model_card;
mod panel;
mod permalink;
pub mod player;
pub mod replay;
mod session;
mod settings;
pub mod strip;
pub mod tape;
pub mod transport;

use leptos::prelude::*;
use leptos_router::hooks::use_query_map;
use wasm_bindgen::JsCast;

pub use replay::Replay;
pub use session::Session;

use crate::dom;
use crate::later::Later;
use crate::shell::set_title;
use crate::worker::{Backend, Source};
use canvas::Canvas;
use inspector::Inspector;
use model_card::{ModelCard, dropped_entries, dropped_files};
use panel::Panel;
use permalink::Link;
use session::{ModelState, demo, has_holes};
use strip::{Legend, Strip};
use transport::Transport;

#[component]
pub fn Playground() -> impl IntoView {
    set_title("Playground");
    let session = expect_context::<Session>();
    open_address(session);
    keyboard(session);
    let player = session.player;
    let live = player.live;
    let holes = Memo::new(move |_| has_holes(&session.prompt.get()));
    let rate = Signal::derive(move || {
        let timing = session.timing.get();
        if session.replayed.get() {
            return "replayed from a link".to_string();
        }
        if timing.seconds <= 0.0 || timing.forwards == 0 {
            return String::new();
        }
        format!(
            "{:.0} tokens / s · {:.0} ms / forward",
            f64::from(timing.tokens) / timing.seconds,
            1000.0 * timing.seconds / f64::from(timing.forwards)
        )
    });
    let over = RwSignal::new(false);
    view! {
        <div
            class="page playground"
            class:over=over
            on:dragover=move |e| { e.prevent_default(); over.set(true) }
            on:dragleave=move |_| over.set(false)
            on:drop=move |e| {
                e.prevent_default();
                over.set(false);
                let entries = dropped_entries(&e);
                leptos::task::spawn_local(async move {
                    if let Some((name, files)) = dropped_files(entries).await {
                        session.open(Source::Files { name }, &files);
                    }
                });
            }
        >
            <h1 class="visually-hidden">"Playground"</h1>
            <section class="writing" aria-label="Writing">
                <form
                    class="prompt"
                    on:submit=move |e| { e.prevent_default(); session.write() }
                >
                    <label class="visually-hidden" for="prompt">"Beginning of the text; underscores are holes"</label>
                    <input
                        id="prompt"
                        type="text"
                        maxlength="4000"
                        autocomplete="off"
                        placeholder="Begin a story, or leave ____ holes in one"
                        prop:value=session.prompt
                        on:input=move |e| session.prompt.set(event_target_value(&e))
                    />
                    {move || if live.get() {
                        view! { <button type="button" class="go stop" on:click=move |_| session.stop()>"Stop"</button> }.into_any()
                    } else {
                        view! { <button type="submit" class="go">"Write"</button> }.into_any()
                    }}
                    <button
                        type="button"
                        title="Copy a link that shows this text and its steps anywhere"
                        disabled=move || session.record.with(Option::is_none)
                        on:click=move |_| leptos::task::spawn_local(session.share())
                    >
                        "Share"
                    </button>
                </form>
                <Show when=move || holes.get()>
                    <p class="hint">"Holes are filled with the whole text in view, two or more underscores for as many tokens."</p>
                </Show>
                <Notes session/>
                <Canvas player/>
                <Later><Transport player rate/></Later>
                <Later><Strip player/><Legend/></Later>
                <p class="keys">
                    <span>"space plays · ← → step · ↑ ↓ choose a word · enter inspects it · Home, End"</span>
                    <button
                        class="link"
                        on:click=move |_| {
                            let text = canvas::plain_text(player);
                            leptos::task::spawn_local(async move {
                                let text = if dom::copy(&text).await { "The text is copied." } else { "The browser does not allow copying." };
                                session.note.set(Some(session::Note { text: text.into(), bad: false }));
                            });
                        }
                    >
                        "Copy the text"
                    </button>
                </p>
            </section>
            <aside aria-label="Controls">
                <Later><Panel settings=session.settings model=session.model holes/></Later>
                <Later><Inspector player/></Later>
                <Later><ModelCard session/></Later>
            </aside>
        </div>
    }
}

/// Model trouble and everything else that must be said in words.
#[component]
fn Notes(session: Session) -> impl IntoView {
    view! {
        <div aria-live="polite">
            {move || match session.state.get() {
                ModelState::Failed(message) => view! {
                    <div class="notice bad">
                        <p>{message}</p>
                        <button class="small" on:click=move |_| session.reopen()>"Try again"</button>
                        {(session.source.get() != demo()).then(|| view! {
                            <button class="small" on:click=move |_| session.open(demo(), &[])>"Open the demo model"</button>
                        })}
                    </div>
                }.into_any(),
                ModelState::Loading { what, loaded, total } => {
                    let amount = match total {
                        Some(total) => format!("{} of {}", megabytes(loaded), megabytes(total)),
                        None if loaded > 0 => megabytes(loaded),
                        None => String::new(),
                    };
                    view! {
                        <div class="notice loading">
                            <p>"Loading the model into your browser: "{what}" "<span class="mut">{amount}</span></p>
                            <progress
                                aria-label="Model"
                                max="1"
                                value=total.filter(|t| *t > 0).map(|t| (loaded as f64 / t as f64).to_string())
                            ></progress>
                        </div>
                    }.into_any()
                }
                _ => ().into_any(),
            }}
            {move || session.note.get().map(|note| view! {
                <div class="notice" class:bad=note.bad>
                    <p>{note.text}</p>
                    <button class="small quiet" aria-label="Close this note" on:click=move |_| session.note.set(None)>"×"</button>
                </div>
            })}
        </div>
    }
}

/// "9.8 MB"
pub fn megabytes(bytes: u64) -> String {
    let mb = bytes as f64 / 1e6;
    if mb < 0.1 { format!("{:.0} kB", bytes as f64 / 1e3) } else { format!("{mb:.1} MB") }
}

/// Shows what the address asks for: a text (`#w=`), a run's model (`?run=`), any model of this site (`?model=`), a
/// device (`?device=wasm`).
fn open_address(session: Session) {
    let query = use_query_map().get_untracked();
    let backend = match query.get("device").as_deref() {
        Some("wasm") => Backend::Wasm,
        Some("webgpu") => Backend::Webgpu,
        _ => Backend::Auto,
    };
    if backend != Backend::Auto {
        session.backend.set(backend);
    }
    let source = match (query.get("run"), query.get("model")) {
        (Some(run), _) => {
            let safe: String =
                run.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).collect();
            Some(Source::Url { base: dom::site(&format!("/api/runs/{safe}/model/")), name: safe })
        }
        (None, Some(model)) => {
            let mut base = if model.starts_with('/') { model.clone() } else { format!("/models/{model}") };
            if !base.ends_with('/') {
                base.push('/');
            }
            let name =
                base.trim_end_matches('/').rsplit('/').find(|p| *p != "model").unwrap_or("model").to_string();
            // an address of another site would be fetched too; this page only opens its own models
            (!base.starts_with("//")).then(|| Source::Url { base: dom::site(&base), name })
        }
        (None, None) => None,
    };
    if let Some(prompt) = query.get("prompt") {
        session.prompt.set(prompt);
    }
    let follow = move || {
        let fragment = dom::window().location().hash().unwrap_or_default();
        if Link::is_one(&fragment) {
            session.hold_starter();
        }
        leptos::task::spawn_local(async move {
            if let Some(link) = Link::read(&fragment).await {
                session.replay(link);
            }
        });
    };
    follow();
    match source {
        Some(source) if source != session.source.get_untracked() => session.open(source, &[]),
        _ => session.ensure(),
    }
    let handle = window_event_listener(leptos::ev::hashchange, move |_| follow());
    on_cleanup(move || handle.remove());
}

/// Keys work anywhere on the page except where they have another use.
fn keyboard(session: Session) {
    let handle = window_event_listener(leptos::ev::keydown, move |event| {
        if event.ctrl_key() || event.meta_key() || event.alt_key() || event.default_prevented() {
            return;
        }
        let target = event.target().and_then(|t| t.dyn_into::<web_sys::Element>().ok());
        let inside =
            |selector: &str| target.as_ref().is_some_and(|t| t.closest(selector).ok().flatten().is_some());
        let key = event.key();
        if inside("input, textarea, select, [contenteditable]") || key == " " && inside("button, a, summary")
        {
            return;
        }
        if session.player.key(&key) {
            event.prevent_default();
        }
    });
    on_cleanup(move || handle.remove());
}
