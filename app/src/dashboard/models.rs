//! Models at hand: the demo model, every run with a checkpoint and every pulled model, as cards.

use hilda_engine::model::page::Fit;
use hilda_engine::record::Estimate;
use leptos::prelude::*;
use leptos_router::components::A;
use serde::Deserialize;

use super::ui::{Likelihood, Oops};
use crate::api::{self, Problem};
use crate::chart::format;
use crate::dom;
use crate::shell::set_title;
use crate::worker::DEMO;

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
    /// address of the files that the page loads
    #[serde(default)]
    pub base: String,
    /// of the weights on the server
    #[serde(default)]
    pub disk_bytes: Option<u64>,
    /// number formats of the weights
    #[serde(default)]
    pub formats: Vec<String>,
    /// the text beside the weights
    #[serde(default)]
    pub card: Option<String>,
    /// where a pulled model came from
    #[serde(default)]
    pub source: Option<String>,
    #[serde(default)]
    pub memory: Option<Memory>,
    /// what it is in the page
    #[serde(default)]
    pub page: Option<Fit>,
    /// what keeps it from being used
    #[serde(default)]
    pub problems: Vec<String>,
}

/// Bytes of the keys and values of so many positions, in f32 and with finished blocks in 4 bits.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Cache {
    pub positions: u64,
    pub f32: u64,
    pub q4: Option<u64>,
}

impl Cache {
    /// "keys and values of 256 positions 4.2 MB, 1.1 MB in 4 bits"
    fn words(&self) -> String {
        let b = format::bytes;
        let less = self.q4.map_or(String::new(), |q4| format!(", {} in 4 bits", b(q4)));
        format!("keys and values of {} positions {}{less}", self.positions, b(self.f32))
    }
}

/// What a model needs on the server's machine.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Memory {
    pub decode_bytes: u64,
    pub train_bytes: u64,
    /// keys and values of a text that fills the context
    pub cache: Cache,
    pub decode: bool,
    pub train: bool,
    pub memory_free: u64,
}

impl Memory {
    /// "0.6 GB to decode, 2.3 GB to train, keys and values of 256 positions 4.2 MB; 14 GB are free: trains here"
    fn words(&self) -> String {
        let verdict = match (self.train, self.decode) {
            (true, _) => "trains here",
            (false, true) => "decodes here, too large to train",
            (false, false) => "too large for this machine now",
        };
        let b = format::bytes;
        format!(
            "{} to decode, {} to train, {}; {} are free: {verdict}",
            b(self.decode_bytes),
            b(self.train_bytes),
            self.cache.words(),
            b(self.memory_free)
        )
    }
}

impl ModelCard {
    /// Its name, or what stands for one.
    pub fn title(&self) -> String {
        if self.name.is_empty() { self.id.clone() } else { self.name.clone() }
    }
    /// Whether the page can load it.
    pub fn fits_page(&self) -> bool {
        self.page.is_none_or(|page| page.fits)
    }
    /// The playground's address with this model.
    fn address(&self) -> String {
        match &self.run {
            Some(run) => format!("/?run={run}"),
            None if self.id == DEMO => "/".into(),
            None => format!("/?model={}", self.id),
        }
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
                        <p>"A run has a model after its first checkpoint; hilda pull ORG/NAME fetches a published one."</p>
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
    let here = match (model.fits_page(), has_webgpu()) {
        (false, _) => "on the server; too large for the page",
        (true, true) => "in this browser (WebGPU where an adapter is found, else WASM) or on the server",
        (true, false) => "in this browser (WASM) or on the server",
    };
    let page = model.page.map(|p| {
        let (dtype, verdict) = (p.dtype.name(), if p.fits { "fits" } else { "does not fit" });
        format!(
            "{} of files ({dtype}), {} of memory: {verdict}",
            format::bytes(p.bytes),
            format::bytes(p.memory)
        )
    });
    let files = model.disk_bytes.map(|b| match model.formats.is_empty() {
        true => format::bytes(b),
        false => format!("{} ({})", format::bytes(b), model.formats.join(", ")),
    });
    let (open, sound) = (model.address(), model.problems.is_empty());
    let go = if model.fits_page() { "Open in playground" } else { "Open in playground, on the server" };
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
                {row("Files", files.or(model.bytes.map(format::bytes)))}
                {row("This machine", model.memory.map(|m| m.words()))}
                {row("The page", page)}
                {row("From", model.source.clone())}
                {row("Licence", Some(model.licence.clone().unwrap_or_else(|| "not stated".into())))}
                {row("Runs", Some(here.to_string()))}
            </dl>
            {(!sound).then(|| view! {
                <div class="notice bad">
                    <p><b>"It cannot be used as it is."</b></p>
                    <ul>{model.problems.iter().take(5).map(|p| view! { <li>{p.clone()}</li> }).collect_view()}</ul>
                    {(model.problems.len() > 5).then(|| format!("and {} more; hilda models check lists them", model.problems.len() - 5))}
                </div>
            })}
            {model.card.clone().map(|card| view! {
                <details class="readme"><summary>"Card"</summary><pre>{card}</pre></details>
            })}
            <div class="actions">
                {sound.then(|| view! { <A href=open attr:class="button go">{go}</A> })}
                {model.run.clone().map(|run| view! { <A href=format!("/runs/{run}") attr:class="button">"See the run"</A> })}
            </div>
        </article>
    }
}
