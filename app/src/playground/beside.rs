//! The second column's card: its policy and its model.

use leptos::prelude::*;

use super::models::site_models;
use super::pair::Pair;
use super::panel::Choice;
use crate::worker::Source;

#[component]
pub fn Beside(pair: Pair) -> impl IntoView {
    let models = site_models();
    let base = |source: &Source| match source {
        Source::Url { base, .. } => Some(base.clone()),
        Source::Files { .. } => None,
    };
    let chosen = move || pair.other.with(|o| o.as_ref().and_then(base)).unwrap_or_default();
    // what an address names may be on no list
    let offered = move || {
        let mut models = models.get();
        if let Some(Source::Url { name, .. }) = pair.other.get() {
            let listed = |m: &(String, Source)| Some(&m.1) == pair.other.get().as_ref();
            if !models.iter().any(listed) {
                models.extend(pair.other.get().map(|other| (name, other)));
            }
        }
        models
    };
    view! {
        <section class="card panel beside" aria-label="How B decodes">
            <h3>"B: how it decodes"</h3>
            <p class="meaning">"The same prompt, length, seed, temperature and sight as A."</p>
            <Choice settings=pair.second.settings/>
            <div class="dial"><label>
                <span class="name">"Model of B"</span>
                <select on:change=move |e| {
                    let base_chosen = event_target_value(&e);
                    let found = offered().into_iter().find(|m| base(&m.1).as_deref() == Some(&base_chosen));
                    pair.other.set(found.map(|m| m.1));
                }>
                    <option value="" selected=move || chosen().is_empty()>"the same as A"</option>
                    {move || offered().into_iter().map(|(title, source)| {
                        let value = base(&source).unwrap_or_default();
                        let this = value.clone();
                        view! { <option value=value selected=move || chosen() == this>{title}</option> }
                    }).collect_view()}
                </select>
            </label></div>
            {move || pair.second.model.get().map(|info| view! {
                <p class="meaning">{match info.on_server {
                    true => "On the server.".to_string(),
                    false => format!("A second copy in memory: {}, {}.", super::megabytes(info.bytes), info.device),
                }}</p>
            })}
        </section>
    }
}
