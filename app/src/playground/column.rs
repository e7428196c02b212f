//! One text of the playground with what is said about it; beside another one it has a heading, and counters and strip
//! of its own.

use leptos::prelude::*;

use super::canvas::Canvas;
use super::megabytes;
use super::narration::Narration;
use super::pair::Pair;
use super::session::{ModelState, Session, demo};
use super::strip::Strip;
use super::transport::Counters;

#[component]
pub fn Column(pair: Pair, session: Session) -> impl IntoView {
    let player = session.player;
    let name = Memo::new(move |_| pair.name(&session));
    let two = pair.on;
    view! {
        <div class="text" role="group" aria-label=move || if two.get() { name.get() } else { "Text".into() }>
            <Show when=move || two.get()><h2>{name}</h2></Show>
            <Notes session/>
            <Canvas player/>
            <Narration player/>
            <Show when=move || two.get()>
                <Counters player rate=rate(session)/>
                <Strip player/>
            </Show>
        </div>
    }
}

/// How fast the model writes, or where the text comes from.
pub fn rate(session: Session) -> Signal<String> {
    Signal::derive(move || {
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
    })
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
                            <p>"Loading the model: "{what}" "<span class="mut">{amount}</span></p>
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
