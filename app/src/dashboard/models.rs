//! Models at hand: the demo model and every run with a checkpoint, as cards.

use hilda_engine::record::Estimate;
use leptos::prelude::*;
use leptos_router::components::A;
use serde::Deserialize;

use super::ui::{Likelihood, Oops};
use crate::api::{self, Problem};
use crate::chart::format;
use crate::dom;
use crate::shell::set_title;

/// Larger models are left to the server, bytes.
const PAGE_BYTES: u64 = 600_000_000;

/// A card of `GET /api/models`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ModelCard {
    pub id: String,
    #[serde(default)]
    pub name: String,
    /// the run that trained it; none for the demo model
    #[serde(default)]
    pub run: Option<String>,
    #[serde(default)]
    pub family: String,
    #[serde(default)]
    pub about: String,
    #[serde(default)]
    pub parameters: Option<u64>,
    /// longest text, tokens
    #[serde(default)]
    pub context: Option<u64>,
    /// what it was trained on
    #[serde(default)]
    pub data: String,
    #[serde(default)]
    pub tokens: Option<u64>,
    #[serde(default)]
    pub likelihood: Option<Estimate>,
    #[serde(default, alias = "license")]
    pub licence: Option<String>,
    /// of the files that the page would load
    #[serde(default)]
    pub bytes: Option<u64>,
    /// step of the checkpoint
    #[serde(default)]
    pub step: Option<u64>,
}

impl ModelCard {
    /// Its name, or what stands for one.
    pub fn title(&self) -> String {
        if self.name.is_empty() { self.id.clone() } else { self.name.clone() }
    }
    /// Whether the page can load it.
    pub fn fits_page(&self) -> bool {
        self.bytes.is_none_or(|bytes| bytes <= PAGE_BYTES)
    }
}

#[component]
pub fn Models() -> impl IntoView {
    set_title("Models");
    let models = RwSignal::new(None::<Vec<ModelCard>>);
    let problem = RwSignal::new(None::<Problem>);
    let load = move || {
        leptos::task::spawn_local(async move {
            match api::get("/api/models").await {
                Ok(list) => {
                    problem.try_set(None);
                    models.try_set(Some(list));
                }
                Err(p) => drop(problem.try_set(Some(p))),
            }
        });
    };
    load();
    let retry = Callback::new(move |()| load());
    view! {
        <section class="page models">
            <h1>"Models"</h1>
            {move || problem.get().map(|p| view! { <Oops problem=p retry/> })}
            {move || match models.get() {
                None => problem.with(Option::is_none).then(|| view! { <p class="mut" role="status">"Reading the models"</p> }).into_any(),
                Some(list) if list.is_empty() => view! {
                    <div class="empty card">
                        <h2>"No models yet"</h2>
                        <p>"A run has a model after its first checkpoint."</p>
                        <A href="/launch" attr:class="button go">"Launch a run"</A>
                    </div>
                }.into_any(),
                Some(list) => view! {
                    <ul class="cards">{list.into_iter().map(|m| view! { <li><Card model=m/></li> }).collect_view()}</ul>
                }.into_any(),
            }}
        </section>
    }
}

/// Whether this browser offers WebGPU at all; an adapter is asked for when a model is opened.
fn has_webgpu() -> bool {
    let navigator = dom::window().navigator();
    js_sys::Reflect::has(&navigator, &"gpu".into()).unwrap_or(false)
}

#[component]
fn Card(model: ModelCard) -> impl IntoView {
    let name = model.title();
    let here = match model.fits_page() {
        false => "on the server; too large for the page",
        true if has_webgpu() => "in this browser: WebGPU where an adapter is found, else WASM",
        true => "in this browser: WASM",
    };
    let open = match &model.run {
        Some(run) => format!("/?run={run}"),
        None => "/".to_string(),
    };
    let row = |title: &'static str, value: Option<String>| {
        value.filter(|v| !v.is_empty()).map(|v| view! { <div><dt>{title}</dt><dd>{v}</dd></div> })
    };
    let size = model.parameters.map(|p| format!("{} parameters", format::short(p as f64)));
    let data = match (model.data.is_empty(), model.tokens) {
        (false, Some(t)) => Some(format!("{}, {} tokens seen", model.data, format::short(t as f64))),
        (true, Some(t)) => Some(format!("{} tokens seen", format::short(t as f64))),
        (false, None) => Some(model.data.clone()),
        _ => None,
    };
    view! {
        <article class="card model-card">
            <h2>{name}</h2>
            {(!model.about.is_empty()).then(|| view! { <p class="mut">{model.about.clone()}</p> })}
            <dl class="props stacked">
                {row("Family", Some(model.family.clone()))}
                {row("Size", size)}
                {row("Context", model.context.map(|c| format!("{} tokens", format::count(c))))}
                {row("Data", data)}
                <div><dt>"Likelihood"</dt><dd>{match model.likelihood.clone() {
                    Some(e) => view! { <Likelihood estimate=e long=true/> }.into_any(),
                    None => view! { <span class="mut">"not measured"</span> }.into_any(),
                }}</dd></div>
                {row("Checkpoint", model.step.map(|s| format!("step {}", format::count(s))))}
                {row("Files", model.bytes.map(format::bytes))}
                {row("Licence", Some(model.licence.clone().unwrap_or_else(|| "not stated".into())))}
                {row("Runs", Some(here.to_string()))}
            </dl>
            <div class="actions">
                <A href=open attr:class="button go">"Open in playground"</A>
                {model.run.clone().map(|run| view! { <A href=format!("/runs/{run}") attr:class="button">"See the run"</A> })}
            </div>
        </article>
    }
}
