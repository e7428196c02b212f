//! The playground: a text that denoises before the visitor's eyes.

mod address;
mod beside;
mod blocks;
pub mod canvas;
mod changes;
mod column;
mod costs;
mod deal;
mod deeper;
pub mod inspector;
pub mod layout;
mod map;
mod model_card;
mod models;
mod narration;
mod pair;
mod panel;
mod permalink;
pub mod player;
pub mod replay;
mod session;
mod settings;
pub mod strip;
pub mod tape;
mod timeline;
pub mod transport;

use leptos::prelude::*;
use leptos_router::hooks::use_query_map;
use wasm_bindgen::JsCast;

pub use pair::Pair;
pub use permalink::Link;
pub use replay::Replay;

use crate::dom;
use crate::later::Later;
use crate::shell::set_title;
use crate::worker::{Backend, Source};
use beside::Beside;
use column::Column;
use deeper::Deeper;
use inspector::Inspector;
use model_card::{ModelCard, dropped_entries, dropped_files};
use panel::Panel;
use session::has_holes;
use strip::{Legend, Overlays, Strip};
use transport::{Counters, Transport};

#[component]
pub fn Playground() -> impl IntoView {
    set_title("Playground");
    let pair = expect_context::<Pair>();
    let session = pair.first;
    open_address(pair);
    pair.follow_address();
    keyboard(pair);
    let player = session.player;
    let holes = Memo::new(move |_| has_holes(&session.prompt.get()));
    let second = Memo::new(move |_| pair.focus().player.track() == pair.second.player.track());
    let focus = Signal::derive(move || if second.get() { pair.second.player } else { player });
    let over = RwSignal::new(false);
    view! {
        <div
            class="page playground"
            class:over=over
            class:comparing=pair.on
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
                    on:submit=move |e| { e.prevent_default(); pair.write() }
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
                    {move || if pair.live() {
                        view! { <button type="button" class="go stop" on:click=move |_| pair.stop()>"Stop"</button> }.into_any()
                    } else {
                        view! { <button type="submit" class="go">"Write"</button> }.into_any()
                    }}
                    <button
                        type="button"
                        title="Copy a link that shows this text and its steps anywhere"
                        disabled=move || !pair.settled()
                        on:click=move |_| leptos::task::spawn_local(pair.share())
                    >
                        "Share"
                    </button>
                    <button
                        type="button"
                        title="A second column with another policy or model on the same prompt and seed"
                        aria-pressed=move || pair.on.get().to_string()
                        on:click=move |_| {
                            let on = !pair.on.get_untracked();
                            pair.compare(on);
                            if on {
                                pair.differ();
                                pair.write();
                            }
                        }
                    >
                        "Compare"
                    </button>
                </form>
                <Show when=move || holes.get()>
                    <p class="hint">"Holes are filled with the whole text in view, two or more underscores for as many tokens."</p>
                </Show>
                <div class="texts" class:two=pair.on>
                    <Column pair session/>
                    <Show when=move || pair.on.get()><Column pair session=pair.second/></Show>
                </div>
                <Later><Transport timeline=player.timeline voices=Signal::derive(move || pair.voices())/></Later>
                <Later><Show when=move || !pair.on.get()>
                    <Counters player rate=column::rate(session)/>
                    <Strip player/>
                </Show></Later>
                <Later><Overlays player/><Legend/></Later>
                <Later><Deeper texts=Signal::derive(move || pair.voices()) focus/></Later>
                <p class="keys">
                    <span>"space plays · ← → step · ↑ ↓ choose a word · enter inspects it · Home, End"</span>
                    <button
                        class="link"
                        on:click=move |_| {
                            let texts = untrack(|| pair.sessions()).into_iter().map(|s| canvas::plain_text(s.player));
                            let text = texts.collect::<Vec<_>>().join("\n\n");
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
                <Later><Panel settings=session.settings model=session.model holes compared=pair.on/></Later>
                <Later><Show when=move || pair.on.get()><Beside pair/></Show></Later>
                <Later>{move || {
                    let player = focus.get();
                    view! { <Inspector player/> }
                }}</Later>
                <Later><ModelCard session/></Later>
            </aside>
        </div>
    }
}

/// "9.8 MB"
pub fn megabytes(bytes: u64) -> String {
    let mb = bytes as f64 / 1e6;
    if mb < 0.1 { format!("{:.0} kB", bytes as f64 / 1e3) } else { format!("{mb:.1} MB") }
}

/// Shows what the address asks for: a text (`#w=`), a run's model (`?run=`), any model of this site (`?model=`), a
/// device (`?device=wasm`, `?device=wasm-int8`, `?device=server`), a second column (`?compare=` a policy, `?beside=` a model of this site).
fn open_address(pair: Pair) {
    let session = pair.first;
    let query = use_query_map().get_untracked();
    let backend = match query.get("device").as_deref() {
        Some("wasm") => Backend::Wasm,
        Some("wasm-int8") => Backend::WasmInt8,
        Some("webgpu") => Backend::Webgpu,
        Some("server") => Backend::Server,
        _ => Backend::Auto,
    };
    if backend != Backend::Auto {
        session.backend.set(backend);
    }
    let asked = models::named(query.get("run").as_deref(), query.get("model").as_deref());
    let source = asked.map(|(base, name)| session::site_model(&base, &name));
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
                pair.replay(link);
            }
        });
    };
    if let Some(choice) = query.get("compare") {
        pair.second.settings.update(|s| *s = s.with_choice(&choice));
        let base =
            query.get("beside").filter(|b| b.starts_with('/') && !b.starts_with("//") && b.ends_with('/'));
        pair.other.set(base.map(|base| Source::Url { name: models::model_name(&base), base }));
        pair.compare(true);
    }
    follow();
    match source {
        Some(source) if source != session.source.get_untracked() => session.open(source, &[]),
        _ => session.ensure(),
    }
    if query.get("compare").is_some() && !Link::is_one(&dom::window().location().hash().unwrap_or_default()) {
        pair.write();
    }
    let handle = window_event_listener(leptos::ev::hashchange, move |_| follow());
    on_cleanup(move || handle.remove());
}

/// Keys work anywhere on the page except where they have another use.
fn keyboard(pair: Pair) {
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
        if pair.key(&key) {
            event.prevent_default();
        }
    });
    on_cleanup(move || handle.remove());
}
