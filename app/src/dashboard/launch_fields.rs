//! The launch form's fields: each reads from the recipe's text and writes back into it, and shows what the server
//! says about it.

use leptos::prelude::*;
use toml::Value;

use super::data::{Corpus, LaunchEstimate};
use super::recipe_text::{get, line_of, plain, set};
use crate::api::Problem;
use crate::chart::format;

/// The dial (engine/src/config/model.rs), smallest first.
const SIZES: [&str; 6] = ["tiny", "2m", "9m", "14m", "30m", "60m"];

/// What the form works on.
#[derive(Clone, Copy)]
pub struct Form {
    pub text: RwSignal<String>,
    pub estimate: RwSignal<Option<LaunchEstimate>>,
    pub problem: RwSignal<Option<Problem>>,
    /// an estimate of the current text is on its way
    pub asking: RwSignal<bool>,
}

impl Form {
    /// The value of a field as the text has it.
    pub fn value(&self, field: &str) -> Option<Value> {
        self.text.with(|t| get(t, field))
    }
    /// Sets or removes a field of the text.
    pub fn set(&self, field: &str, value: Option<Value>) {
        let new = self.text.with_untracked(|t| set(t, field, value));
        // while the text does not parse, the message under it says why
        if let Ok(new) = new {
            self.text.set(new);
        }
    }
    /// What the server said about a field.
    pub fn errors(&self, field: &str) -> Vec<String> {
        self.estimate.with(|e| {
            e.iter().flat_map(|e| &e.errors).filter(|e| e.field == field).map(|e| e.message.clone()).collect()
        })
    }
}

/// Takes a registered corpus as the data.
pub fn choose_corpus(form: Form, name: &str) {
    form.set("data.corpus", Some(name.into()));
    // a corpus has its own split; files of the recipe would contradict it
    for field in ["data.train", "data.valid"] {
        form.set(field, None);
    }
}

/// What an input holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
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
pub fn TextField(
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
pub fn SizeField(form: Form) -> impl IntoView {
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
pub fn CorpusField(form: Form, corpora: RwSignal<Vec<Corpus>>) -> impl IntoView {
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
pub fn PhaseFields(form: Form, index: usize) -> impl IntoView {
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
pub fn Editor(form: Form) -> impl IntoView {
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
pub fn OtherErrors(form: Form) -> impl IntoView {
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
