//! Launching: a recipe first, then the few fields that matter, everything else as text beneath, and what it would
//! cost before anything starts. The text is the one truth; the fields edit it in place.

use leptos::prelude::*;
use leptos_router::NavigateOptions;
use leptos_router::components::A;
use leptos_router::hooks::{use_navigate, use_query_map};
use serde_json::json;

use super::data::{Corpus, FieldError, LaunchEstimate, Recipe, RunDetail, RunSummary, System};
use super::launch_estimate::EstimateView;
use super::launch_fields::{
    CorpusField, Editor, Form, Kind, OtherErrors, PhaseFields, SizeField, TextField, choose_corpus,
};
use super::recipe_text::{get, plain};
use super::ui::Oops;
use crate::api::{self, Problem};
use crate::chart::format;
use crate::dom;
use crate::shell::set_title;

/// Where a recipe of one's own begins: the fewest fields that make a run.
const SKELETON: &str = r#"name = "my-run"
seed = 1

[model]
size = "2m"

[data]
vocab = 4096

[batch]
rows = 8

[[phase]]
objective = "mdlm"
tokens = 1_000_000
lr = { peak = 1e-3, warmup = 50 }
"#;
/// Pause in typing before the server is asked, milliseconds.
const PAUSE: i32 = 350;

#[component]
pub fn Launch() -> impl IntoView {
    set_title("Launch");
    let query = use_query_map();
    let recipe = Memo::new(move |_| query.with(|q| q.get("recipe")));
    let from = Memo::new(move |_| query.with(|q| q.get("from")));
    let recipes = RwSignal::new(None::<Vec<Recipe>>);
    let corpora = RwSignal::new(Vec::<Corpus>::new());
    let system = RwSignal::new(System::default());
    let problem = RwSignal::new(None::<Problem>);
    let text = RwSignal::new(None::<String>);
    // a recipe of one's own, from a skeleton
    let own = RwSignal::new(false);
    let load = move || {
        leptos::task::spawn_local(async move {
            match api::get::<Vec<Recipe>>("/api/recipes").await {
                Ok(list) => {
                    problem.try_set(None);
                    recipes.try_set(Some(list));
                }
                Err(p) => drop(problem.try_set(Some(p))),
            }
            if let Ok(list) = api::get("/api/corpora").await {
                corpora.try_set(list);
            }
            // without it the memory figure stands alone
            if let Ok(s) = api::get("/api/system").await {
                system.try_set(s);
            }
        });
    };
    load();
    Effect::new(move |_| {
        let Some(id) = from.get() else { return };
        leptos::task::spawn_local(async move {
            match api::get::<RunDetail>(&format!("/api/runs/{id}")).await {
                Ok(d) => {
                    let base = if d.toml.is_empty() { d.config.to_toml() } else { d.toml };
                    text.try_set(Some(base));
                }
                Err(p) => drop(problem.try_set(Some(p))),
            }
        });
    });
    Effect::new(move |_| {
        let wanted = recipe.get();
        if from.with(Option::is_some) {
            return;
        }
        if wanted.is_some() {
            own.set(false);
        }
        let found = if own.get() {
            Some(SKELETON.to_string())
        } else {
            recipes.with(|r| {
                r.iter().flatten().find(|r| Some(&r.name) == wanted.as_ref()).map(|r| r.toml.clone())
            })
        };
        // setting it again would throw away what was typed
        if text.with_untracked(|t| *t != found) {
            text.set(found);
        }
    });
    let retry = Callback::new(move |()| load());
    let unknown = move || {
        recipe
            .get()
            .filter(|name| recipes.with(|r| r.as_ref().is_some_and(|r| r.iter().all(|r| r.name != *name))))
    };
    view! {
        <section class="page launch">
            <h1>{move || if from.with(Option::is_some) { "Duplicate with changes" } else { "Launch a run" }}</h1>
            {move || problem.get().map(|p| view! { <Oops problem=p retry/> })}
            {move || unknown().map(|name| view! {
                <div class="notice bad" role="alert"><p>{format!("There is no recipe called {name}.")}</p></div>
            })}
            {move || from.get().map(|id| view! {
                <p class="mut">"Starts from the configuration of "<A href=format!("/runs/{id}")>{id.clone()}</A>
                    ". The new run begins at step 0 and shows what was changed."</p>
            })}
            <Show when=move || from.with(Option::is_none)>
                <Picker recipes recipe/>
                <Show when=move || text.with(Option::is_none)>
                    <button type="button" on:click=move |_| own.set(true)>"Write your own recipe (TOML)"</button>
                </Show>
            </Show>
            {move || text.get().map(|t| view! {
                <Fields start=t corpora system from=from.get_untracked() open=own.get_untracked()/>
            })}
        </section>
    }
}

/// One card a recipe; the choice is in the address.
#[component]
fn Picker(recipes: RwSignal<Option<Vec<Recipe>>>, recipe: Memo<Option<String>>) -> impl IntoView {
    let picker = NodeRef::<leptos::html::Details>::new();
    // a choice makes room for its form
    Effect::new(move |_| {
        let none = recipe.with(Option::is_none);
        if let Some(details) = picker.get() {
            details.set_open(none);
        }
    });
    move || {
        recipes.get().map(|list| {
            if list.is_empty() {
                return view! { <p class="mut">"This server ships no recipes."</p> }.into_any();
            }
            let (begun, new): (Vec<Recipe>, Vec<Recipe>) =
                list.into_iter().partition(|r| r.config.model.from.is_some());
            let group = |title: &'static str, list: Vec<Recipe>| {
                (!list.is_empty()).then(|| {
                    let cards = list.into_iter().map(|r| view! { <Card r recipe/> }).collect_view();
                    view! { <h2>{title}</h2><nav class="recipes" aria-label=title>{cards}</nav> }
                })
            };
            view! {
                <details class="picker" node_ref=picker open=recipe.with_untracked(Option::is_none)>
                    <summary>{move || recipe.get().map_or("Recipes".into(), |name| format!("Recipe: {name}"))}</summary>
                    {group("A model from nothing", new)}
                    {group("A model made from another one", begun)}
                </details>
            }
            .into_any()
        })
    }
}

#[component]
fn Card(r: Recipe, recipe: Memo<Option<String>>) -> impl IntoView {
    let name = r.name.clone();
    let here = move || (recipe.get().as_ref() == Some(&name)).then_some("true");
    let tokens: u64 = r.config.phases.iter().map(|p| p.tokens).sum();
    let model = &r.config.model;
    let size = model.size.clone().or(model.from.as_ref().map(|f| format!("from {f}"))).unwrap_or_default();
    let phases = r.config.phases.len();
    view! {
        <a href=dom::site(&format!("/launch?recipe={}", r.name)) class="card recipe" aria-current=here data-noscroll="">
            <b>{r.name.clone()}</b>
            <span class="mut">{r.about.clone()}</span>
            <span class="small mut num">
                {format!("{size} · {} tokens · {phases} {}", format::short(tokens as f64), if phases == 1 { "phase" } else { "phases" })}
            </span>
        </a>
    }
}

/// The form for one starting text.
#[component]
fn Fields(
    start: String,
    corpora: RwSignal<Vec<Corpus>>,
    system: RwSignal<System>,
    from: Option<String>,
    /// show the text from the start
    open: bool,
) -> impl IntoView {
    let form = Form {
        text: RwSignal::new(start),
        estimate: RwSignal::new(None),
        problem: RwSignal::new(None),
        asking: RwSignal::new(true),
    };
    // the newest text wins, whatever order answers arrive in
    let turn = StoredValue::new(0u64);
    Effect::new(move |_| {
        let toml = form.text.get();
        turn.update_value(|t| *t += 1);
        let mine = turn.get_value();
        form.asking.set(true);
        leptos::task::spawn_local(async move {
            dom::sleep(PAUSE).await;
            if turn.try_get_value() != Some(mine) {
                return;
            }
            let answer = api::post::<LaunchEstimate>("/api/estimate", &json!({ "toml": toml })).await;
            if turn.try_get_value() != Some(mine) {
                return;
            }
            form.asking.try_set(false);
            match answer {
                Ok(e) => {
                    form.problem.try_set(None);
                    form.estimate.try_set(Some(e));
                }
                Err(p) => drop(form.problem.try_set(Some(p))),
            }
        });
    });
    // a corpus that is the only one is the choice
    Effect::new(move |_| {
        let list = corpora.get();
        let known = form.text.with_untracked(|t| get(t, "data.corpus")).map(|v| plain(&v));
        if let ([only], None) = (list.as_slice(), &known) {
            choose_corpus(form, &only.name);
        }
    });
    let shown = RwSignal::new(open);
    let busy = RwSignal::new(false);
    let navigate = use_navigate();
    let parent = from.clone();
    let submit = move |ev: web_sys::SubmitEvent| {
        ev.prevent_default();
        busy.set(true);
        let toml = form.text.get_untracked();
        let body = match &parent {
            Some(parent) => json!({ "toml": toml, "parent": parent }),
            None => json!({ "toml": toml }),
        };
        let navigate = navigate.clone();
        leptos::task::spawn_local(async move {
            match api::post::<RunSummary>("/api/runs", &body).await {
                Ok(run) => navigate(&format!("/runs/{}", run.id), NavigateOptions::default()),
                Err(p) => {
                    if let Some(field) = p.field.clone() {
                        let error = FieldError { field, message: p.detail.clone() };
                        form.estimate.try_update(|e| {
                            e.get_or_insert_default().errors = vec![error];
                        });
                    }
                    form.problem.try_set(Some(p));
                    busy.try_set(false);
                }
            }
        });
    };
    let blocked =
        move || busy.get() || form.asking.get() || form.estimate.with(|e| e.as_ref().is_none_or(|e| !e.ok));
    let phases =
        Memo::new(move |_| form.value("phase").and_then(|p| p.as_array().map(Vec::len)).unwrap_or(0));
    view! {
        <form class="launch-form" on:submit=submit novalidate>
            <div class="fields">
                <fieldset class="card">
                    <legend>"What matters"</legend>
                    <TextField form field="name" label="Name" hint="letters, digits, - _ ." number=Kind::Text/>
                    <SizeField form/>
                    <CorpusField form corpora/>
                    <TextField form field="seed" label="Seed" hint="same seed, same run" default="0" number=Kind::Whole/>
                </fieldset>
                <fieldset class="card">
                    <legend>"Phases"</legend>
                    {move || (0..phases.get()).map(|i| view! { <PhaseFields form index=i/> }).collect_view()}
                    <Show when=move || phases.get() == 0><p class="mut">"The text below names no phase that can be read."</p></Show>
                </fieldset>
                <div class="all-fields">
                    <button type="button" aria-expanded=move || shown.get().to_string()
                        on:click=move |_| shown.update(|s| *s = !*s)>
                        {move || if shown.get() { "Hide the text" } else { "All fields (TOML)" }}
                    </button>
                    <Show when=move || shown.get()><Editor form/></Show>
                </div>
                <OtherErrors form/>
            </div>
            <aside class="card estimate" aria-label="Estimate">
                <h2>"Before it starts"</h2>
                <EstimateView form system/>
                {move || form.problem.get().filter(|p| p.field.is_none()).map(|p| view! {
                    <p class="field-error" role="alert">{p.to_string()}</p>
                })}
                <button type="submit" class="go wide" disabled=blocked>
                    {move || if busy.get() { "Starting" } else { "Start the run" }}
                </button>
            </aside>
        </form>
    }
}
