//! Launching: a recipe first, then the few fields that matter, everything else as text beneath, and what it would
//! cost before anything starts. The text is the one truth; the fields edit it in place.

use leptos::prelude::*;
use leptos_router::NavigateOptions;
use leptos_router::components::A;
use leptos_router::hooks::{use_navigate, use_query_map};
use serde_json::json;
use toml::Value;

use super::config_view::CopyButton;
use super::data::{Corpus, FieldError, LaunchEstimate, Recipe, RunDetail, RunSummary, System};
use super::recipe_text::{get, line_of, plain, set};
use super::ui::Oops;
use crate::api::{self, Problem};
use crate::chart::format;
use crate::dom;
use crate::shell::set_title;

/// The dial (engine/src/config/model.rs), smallest first.
const SIZES: [&str; 6] = ["tiny", "2m", "9m", "14m", "30m", "60m"];
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

/// What the form works on.
#[derive(Clone, Copy)]
struct Form {
    text: RwSignal<String>,
    estimate: RwSignal<Option<LaunchEstimate>>,
    problem: RwSignal<Option<Problem>>,
    /// an estimate of the current text is on its way
    asking: RwSignal<bool>,
}

impl Form {
    fn value(&self, field: &str) -> Option<Value> {
        self.text.with(|t| get(t, field))
    }
    fn set(&self, field: &str, value: Option<Value>) {
        let new = self.text.with_untracked(|t| set(t, field, value));
        // while the text does not parse, the message under it says why
        if let Ok(new) = new {
            self.text.set(new);
        }
    }
    fn errors(&self, field: &str) -> Vec<String> {
        self.estimate.with(|e| {
            e.iter().flat_map(|e| &e.errors).filter(|e| e.field == field).map(|e| e.message.clone()).collect()
        })
    }
}

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
    move || {
        recipes.get().map(|list| {
            if list.is_empty() {
                return view! { <p class="mut">"This server ships no recipes."</p> }.into_any();
            }
            let cards = list
                .into_iter()
                .map(|r| {
                    let name = r.name.clone();
                    let here = move || (recipe.get().as_ref() == Some(&name)).then_some("true");
                    let tokens: u64 = r.config.phases.iter().map(|p| p.tokens).sum();
                    let size = r.config.model.size.clone().unwrap_or_else(|| "own shape".into());
                    view! {
                        <A href=format!("/launch?recipe={}", r.name) attr:class="card recipe" attr:aria-current=here scroll=false>
                            <b>{r.name.clone()}</b>
                            <span class="mut">{r.about.clone()}</span>
                            <span class="small mut num">
                                {format!("{size} · {} tokens · {} {}", format::short(tokens as f64), r.config.phases.len(),
                                    if r.config.phases.len() == 1 { "phase" } else { "phases" })}
                            </span>
                        </A>
                    }
                })
                .collect_view();
            view! { <nav class="recipes" aria-label="Recipes">{cards}</nav> }.into_any()
        })
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
                    <TextField form field="seed" label="Seed" hint="same seed, same run" number=Kind::Whole/>
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

fn choose_corpus(form: Form, name: &str) {
    form.set("data.corpus", Some(name.into()));
    // a corpus has its own split; files of the recipe would contradict it
    for field in ["data.train", "data.valid"] {
        form.set(field, None);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Whole,
    Real,
}

/// Reads what a person typed: "1e-3", "2_000_000", "4.5M", "300k".
fn parse(kind: Kind, text: &str) -> Option<Value> {
    let t = text.trim().replace(['_', ',', ' '], "");
    match kind {
        Kind::Text => Some(Value::String(text.trim().to_string())),
        Kind::Real => t.parse::<f64>().ok().filter(|v| v.is_finite()).map(Value::Float),
        Kind::Whole => {
            let (digits, scale) = match t.chars().last()? {
                'k' | 'K' => (&t[..t.len() - 1], 1e3),
                'm' | 'M' => (&t[..t.len() - 1], 1e6),
                'b' | 'B' => (&t[..t.len() - 1], 1e9),
                _ => (t.as_str(), 1.0),
            };
            if scale == 1.0 {
                return digits.parse::<i64>().ok().map(Value::Integer);
            }
            let v: f64 = digits.parse().ok()?;
            (v.is_finite() && v.abs() < 1e9).then(|| Value::Integer((v * scale).round() as i64))
        }
    }
}

#[component]
fn Errors(form: Form, #[prop(into)] field: String, #[prop(into)] id: String) -> impl IntoView {
    view! {
        <span class="field-error" id=id aria-live="polite">
            {move || form.errors(&field).join(" ")}
        </span>
    }
}

/// A field of the text as an input. What cannot be read as a number is said at once and not written.
#[component]
fn TextField(
    form: Form,
    #[prop(into)] field: String,
    label: &'static str,
    #[prop(optional)] hint: &'static str,
    number: Kind,
) -> impl IntoView {
    let id = format!("f-{}", field.replace(['.', '[', ']'], "-"));
    let error_id = format!("{id}-e");
    let key = StoredValue::new(field.clone());
    let unread = RwSignal::new(false);
    let wrong = {
        let field = field.clone();
        move || unread.get() || !form.errors(&field).is_empty()
    };
    let shown = Memo::new(move |_| key.with_value(|k| form.value(k)).map(|v| plain(&v)).unwrap_or_default());
    let mode = match number {
        Kind::Text => "text",
        Kind::Whole => "numeric",
        Kind::Real => "decimal",
    };
    view! {
        <div class="field">
            <label for=id.clone()>{label}</label>
            <input type="text" id=id inputmode=mode autocomplete="off" spellcheck="false"
                aria-describedby=error_id.clone() aria-invalid=move || wrong().to_string()
                prop:value=shown
                on:change=move |ev| {
                    let typed = event_target_value(&ev);
                    match parse(number, &typed) {
                        Some(v) => { unread.set(false); form.set(&key.get_value(), Some(v)); }
                        None => unread.set(true),
                    }
                }/>
            <span class="small mut">{hint}</span>
            <Show when=move || unread.get()><span class="field-error">"This is not a number."</span></Show>
            <Errors form field=field id=error_id/>
        </div>
    }
}

/// The size dial: one position a size.
#[component]
fn SizeField(form: Form) -> impl IntoView {
    let size = Memo::new(move |_| form.value("model.size").map(|v| plain(&v)));
    let parameters = move || {
        form.estimate
            .with(|e| e.as_ref().and_then(|e| e.parameters))
            .map(|p| format!("{} parameters", format::count(p)))
    };
    view! {
        <div class="field">
            <span class="label" id="f-size">"Size"</span>
            <div class="seg" role="group" aria-labelledby="f-size">
                {SIZES.map(|s| view! {
                    <button type="button" aria-pressed=move || (size.get().as_deref() == Some(s)).to_string()
                        on:click=move |_| form.set("model.size", Some(s.into()))>{s}</button>
                }).collect_view()}
            </div>
            <span class="small mut">{parameters}</span>
            <Errors form field="model.size" id="f-size-e"/>
        </div>
    }
}

/// Registered corpora by name.
#[component]
fn CorpusField(form: Form, corpora: RwSignal<Vec<Corpus>>) -> impl IntoView {
    let chosen = Memo::new(move |_| form.value("data.corpus").map(|v| plain(&v)).unwrap_or_default());
    let about = move || {
        let name = chosen.get();
        corpora.with(|l| {
            l.iter().find(|c| c.name == name).map(|c| {
                let mut parts = Vec::new();
                if let Some(n) = c.documents {
                    parts.push(format!("{} documents", format::count(n)));
                }
                if let Some(n) = c.train_tokens {
                    parts.push(format!("{} training tokens", format::short(n as f64)));
                }
                parts.push(format::bytes(c.bytes));
                parts.join(", ")
            })
        })
    };
    let unregistered = move || {
        let name = chosen.get();
        !name.is_empty() && corpora.with(|l| l.iter().all(|c| c.name != name))
    };
    view! {
        <div class="field">
            <label for="f-corpus">"Corpus"</label>
            <select id="f-corpus" aria-describedby="f-corpus-e" on:change=move |ev| {
                let name = event_target_value(&ev);
                if !name.is_empty() { choose_corpus(form, &name); }
            }>
                <option value="" disabled=true selected=move || chosen.get().is_empty()>"choose a registered corpus"</option>
                {move || corpora.get().into_iter().map(|c| {
                    let name = c.name.clone();
                    let here = move || chosen.get() == name;
                    view! { <option value=c.name.clone() selected=here>{c.name.clone()}</option> }
                }).collect_view()}
                <Show when=unregistered>
                    <option value=move || chosen.get() selected=true>{move || format!("{} (not registered)", chosen.get())}</option>
                </Show>
            </select>
            <span class="small mut">{about}</span>
            <Show when=move || corpora.with(Vec::is_empty)>
                <span class="small mut">"None is registered yet. Register text with "<code>"hilda data add NAME PATH"</code>"."</span>
            </Show>
            <Errors form field="data.corpus" id="f-corpus-e"/>
            <Errors form field="data" id="f-data-e"/>
            <Errors form field="data.train" id="f-train-e"/>
        </div>
    }
}

#[component]
fn PhaseFields(form: Form, index: usize) -> impl IntoView {
    let at = move |f: &str| format!("phase[{index}].{f}");
    let objective = move || form.value(&at("objective")).map(|v| plain(&v)).unwrap_or_default();
    let blocks = move || form.value(&at("block_size")).map(|v| format!(", blocks of {}", plain(&v)));
    view! {
        <div class="phase">
            <h3>{format!("{} · ", index + 1)}{objective}{blocks}</h3>
            <div class="pair">
                <TextField form field=at("tokens") label="Tokens" hint="4M, 300k" number=Kind::Whole/>
                <TextField form field=at("lr.peak") label="Peak learning rate" number=Kind::Real/>
            </div>
            <Errors form field=at("block_size") id=format!("f-phase-{index}-b")/>
        </div>
    }
}

/// The recipe as text.
#[component]
fn Editor(form: Form) -> impl IntoView {
    let lines = move || form.text.with(|t| t.lines().count().clamp(12, 60) + 1);
    view! {
        <label for="f-toml" class="visually-hidden">"The recipe as TOML"</label>
        <textarea id="f-toml" class="code" rows=lines spellcheck="false" autocomplete="off" autocapitalize="off" wrap="off"
            aria-describedby="f-errors" prop:value=move || form.text.get()
            on:input=move |ev| form.text.set(event_target_value(&ev))></textarea>
    }
}

/// Every message that has no input of its own, with its line in the text.
#[component]
fn OtherErrors(form: Form) -> impl IntoView {
    let own = |field: &str| {
        matches!(field, "name" | "seed" | "model.size" | "data.corpus" | "data" | "data.train")
            || (field.starts_with("phase[")
                && [".tokens", ".lr.peak", ".block_size"].iter().any(|end| field.ends_with(end)))
    };
    let list = move || {
        let all = form.estimate.with(|e| e.as_ref().map(|e| e.errors.clone()).unwrap_or_default());
        all.into_iter().filter(|e| !own(&e.field)).collect::<Vec<_>>()
    };
    view! {
        <ul class="errors plain" id="f-errors" aria-live="polite">
            {move || list().into_iter().map(|e| {
                let line = form.text.with_untracked(|t| line_of(t, &e.field));
                let place = line.map(|l| format!(" (line {l})")).unwrap_or_default();
                let field = (!e.field.is_empty()).then(|| view! { <code>{e.field.clone()}</code> });
                view! { <li class="field-error">{field}{place}" "<span class="message">{e.message}</span></li> }
            }).collect_view()}
        </ul>
    }
}

#[component]
fn EstimateView(form: Form, system: RwSignal<System>) -> impl IntoView {
    let figure = move |f: fn(&LaunchEstimate) -> Option<String>| {
        move || form.estimate.with(|e| e.as_ref().and_then(f)).unwrap_or_else(|| "–".into())
    };
    let memory = move || form.estimate.with(|e| e.as_ref().and_then(|e| e.memory_bytes));
    let command = Signal::derive(move || {
        form.estimate.with(|e| e.as_ref().map(|e| e.command.clone()).unwrap_or_default())
    });
    view! {
        <div class="figures" aria-live="polite" aria-busy=move || form.asking.get().to_string()>
            <dl class="facts stacked">
                <div><dt>"Parameters"</dt><dd class="num">{figure(|e| e.parameters.map(format::count))}</dd></div>
                <div><dt>"Tokens"</dt><dd class="num">{figure(|e| e.tokens.map(|t| format!("{} in {} steps",
                    format::short(t as f64), format::count(e.steps.unwrap_or(0)))))}</dd></div>
                <div><dt>"Time"</dt><dd class="num">{figure(|e| e.seconds.map(|s| match e.tokens_per_s {
                    Some(rate) => format!("about {} at {} tokens/s", format::duration(s), format::short(rate)),
                    None => format!("about {}", format::duration(s)),
                }))}</dd></div>
                <div><dt>"Compute"</dt><dd class="num">{figure(|e| e.flops.map(format::flops))}</dd></div>
                <div>
                    <dt>"Memory"</dt>
                    <dd>{move || memory().map(|need| view! { <MemoryBar need system/> })}</dd>
                </div>
            </dl>
            <p class="small mut">{move || form.estimate.with(|e| e.as_ref().map(|e| e.basis.clone()))}</p>
        </div>
        <Show when=move || !command.get().is_empty()>
            <div class="command">
                <h3>"The same on the command line"</h3>
                <pre class="code" tabindex="0">{command}</pre>
                <CopyButton text=command/>
            </div>
        </Show>
    }
}

/// What the run needs of what is free now.
#[component]
fn MemoryBar(need: u64, system: RwSignal<System>) -> impl IntoView {
    move || {
        let s = system.get();
        let (Some(free), Some(total)) = (s.memory_free, s.memory_total) else {
            return view! { <span class="num">{format::bytes(need)}</span> }.into_any();
        };
        let total = total.max(1) as f64;
        let used = (total - free as f64).max(0.0) / total;
        let mine = need as f64 / total;
        let words = if need > free {
            "more than is free now: the run would not fit"
        } else if need as f64 > 0.8 * free as f64 {
            "fits, but tightly"
        } else {
            "fits"
        };
        view! {
            <span class="num">{format!("{} of {} free", format::bytes(need), format::bytes(free))}</span>
            <span class="memory" class:over=(need > free) role="img"
                aria-label=format!("{} in use, {} needed, of {}", format::bytes((total * used) as u64), format::bytes(need), format::bytes(total as u64))>
                <i class="used" style:width=format!("{:.1}%", 100.0 * used)></i>
                <i class="need" style:width=format!("{:.1}%", (100.0 * mine).clamp(0.5, 100.0 * (1.0 - used).max(0.005)))></i>
            </span>
            <span class="small mut">{words}</span>
        }
        .into_any()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_write_them() {
        assert_eq!(parse(Kind::Whole, "4.5M"), Some(Value::Integer(4_500_000)));
        assert_eq!(parse(Kind::Whole, " 300k "), Some(Value::Integer(300_000)));
        assert_eq!(parse(Kind::Whole, "2_000,000"), Some(Value::Integer(2_000_000)));
        assert_eq!(parse(Kind::Whole, "1e99M"), None);
        assert_eq!(parse(Kind::Whole, "many"), None);
        assert_eq!(parse(Kind::Whole, ""), None);
        assert_eq!(parse(Kind::Real, "1e-3"), Some(Value::Float(0.001)));
        assert_eq!(parse(Kind::Real, "inf"), None);
    }
}
