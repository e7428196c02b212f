//! The side panel: presets, the policy with all its parameters, temperature, length, seed, what a position sees.

use hilda_engine::decode::PolicySpec;
use hilda_engine::decode::policy::{Parameter, PolicyInfo, Preset as Published};
use hilda_engine::model::generate::remark;
use leptos::prelude::*;
use serde_json::Value;

use super::settings::{Preset, Settings, TEMPERATURE};
use crate::worker::ModelInfo;

#[component]
pub fn Panel(
    settings: RwSignal<Settings>,
    /// the model at hand, if one is loaded
    model: Memo<Option<std::sync::Arc<ModelInfo>>>,
    /// the prompt has holes
    #[prop(into)]
    holes: Signal<bool>,
    /// another text stands beside
    #[prop(into)]
    compared: Signal<bool>,
) -> impl IntoView {
    let context = move || model.with(|m| m.as_ref().map_or(256, |m| m.context));
    view! {
        <section class="card panel" aria-label="How it decodes">
            <h3>{move || if compared.get() { "A: how it decodes" } else { "How it decodes" }}</h3>
            <Choice settings/>
            <Dial
                name="Temperature"
                meaning="Of the draw of each word; 0 always takes the most probable one."
                unit=""
                value=Signal::derive(move || f64::from(settings.with(|s| s.temperature)))
                range=(0.0, 2.0) step=0.05 default=f64::from(TEMPERATURE)
                set=Callback::new(move |v: f64| settings.update(|s| s.temperature = v as f32))
            />
            {move || view! {
                <Dial
                    name="Length"
                    meaning="Tokens to write after the prompt, at most. Text after a hole in the prompt ends the story instead."
                    unit="tokens"
                    value=Signal::derive(move || f64::from(settings.with(|s| s.length)))
                    range=(16.0, f64::from(context())) step=8.0 default=128.0
                    set=Callback::new(move |v: f64| settings.update(|s| s.length = v as u32))
                />
            }}
            <Seed settings/>
            <Sight settings model holes/>
            {move || {
                let model = model.get()?;
                hint(&model, &settings.get()).map(|text| view! { <p class="hint" role="status">{text}</p> })
            }}
        </section>
    }
}

/// What the model cannot do, or was not trained for, and is asked all the same.
fn hint(model: &ModelInfo, settings: &Settings) -> Option<String> {
    if settings.parameter("score") == "pc" && !model.frequencies {
        return Some(
            "This model's folder does not say how often each word occurs, which the order “pc” needs: choose another order.".into(),
        );
    }
    let text = remark(model.serving, &settings.policy, false)?;
    let mut chars = text.chars();
    chars.next().map(|c| format!("{}{}.", c.to_uppercase(), chars.as_str()))
}

/// A preset, or a policy with its parameters.
#[component]
pub fn Choice(settings: RwSignal<Settings>) -> impl IntoView {
    let kind = Memo::new(move |_| settings.with(|s| s.policy.kind()));
    let preset = Memo::new(move |_| settings.with(|s| s.preset));
    let paper_preset = Memo::new(move |_| settings.with(|s| s.published()));
    let published = move || Published::all().iter().find(|p| paper_preset.get() == Some(p.name));
    let info = move || PolicySpec::parameters().iter().find(|i| i.kind == kind.get());
    let about = move || Preset::ALL.iter().find(|p| p.0 == preset.get()).map(|p| p.2).unwrap_or_default();
    view! {
        <div class="seg" role="group" aria-label="Preset">
            {Preset::ALL.map(|(which, name, about)| view! {
                <button
                    title=about
                    aria-pressed=move || (preset.get() == which).to_string()
                    on:click=move |_| settings.update(|s| *s = s.with_preset(which))
                >
                    {name}
                </button>
            })}
        </div>
        <p class="meaning">{about}</p>
        <Show when=move || preset.get() == Preset::Custom>
            <div class="dial"><label>
                <span class="name">"As in the paper"</span>
                <select
                    on:change=move |e| settings.update(|s| *s = s.with_choice(&event_target_value(&e)))
                >
                    <option value="" selected=move || paper_preset.get().is_none()>"(its own parameters)"</option>
                    {Published::all().iter().map(|p| view! {
                        <option value=p.name title=p.paper selected=move || paper_preset.get() == Some(p.name)>{p.title}</option>
                    }).collect_view()}
                </select>
            </label>
            {move || published().map(|p| view! {
                <p class="meaning">{format!("{}; ", p.about)}<cite>{paper(p.paper)}</cite></p>
            })}
            </div>
            <div class="dial"><label>
                <span class="name">"Policy"</span>
                <select
                    prop:value=move || kind.get()
                    on:change=move |e| settings.update(|s| *s = s.with_kind(&event_target_value(&e)))
                >
                    {PolicySpec::parameters().iter().map(|i| view! {
                        <option value=i.kind selected=move || kind.get() == i.kind>{i.title}</option>
                    }).collect_view()}
                </select>
            </label></div>
        </Show>
        {move || info().map(|info| view! { <Policy settings info preset/> })}
    }
}

/// A policy's parameters and where it comes from. The first two matter most; a preset tucks the others away.
#[component]
fn Policy(settings: RwSignal<Settings>, info: &'static PolicyInfo, preset: Memo<Preset>) -> impl IntoView {
    let dial = move |parameter: &'static Parameter| view! { <PolicyDial settings parameter preset/> };
    let (first, more) = info.parameters.split_at(info.parameters.len().min(2));
    let rest = (!more.is_empty()).then(|| {
        view! {
            <details prop:open=move || preset.get() == Preset::Custom>
                <summary>"More parameters"</summary>
                {more.iter().map(dial).collect_view()}
            </details>
        }
    });
    view! {
        {first.iter().map(dial).collect_view()}
        {rest}
        <details>
            <summary>"Words and cache"</summary>
            {PolicySpec::common_parameters().iter().map(dial).collect_view()}
        </details>
        <p class="meaning source">{info.title}": "{info.meaning}". "<cite>{paper(info.paper)}</cite></p>
        <p class="meaning rule">{info.rule}</p>
    }
}

/// A reference with every "arXiv NUMBER" in it as a link.
fn paper(reference: &'static str) -> impl IntoView {
    cited(reference)
        .into_iter()
        .map(|(text, number)| match number {
            None => text.into_any(),
            Some(number) => {
                let href = format!("https://arxiv.org/abs/{number}");
                view! { <a href=href target="_blank" rel="noopener noreferrer external">{text}</a> }
                    .into_any()
            }
        })
        .collect_view()
}

/// A reference in parts, and the number of those that name an arXiv paper.
fn cited(reference: &str) -> Vec<(&str, Option<&str>)> {
    let (mut parts, mut rest) = (Vec::new(), reference);
    while let Some(at) = rest.find("arXiv ") {
        let number = &rest[at + "arXiv ".len()..];
        let end = number.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(number.len());
        let number = number[..end].trim_end_matches('.');
        if !number.contains('.') {
            break;
        }
        let end = at + "arXiv ".len() + number.len();
        parts.push((&rest[..at], None));
        parts.push((&rest[at..end], Some(number)));
        rest = &rest[end..];
    }
    parts.push((rest, None));
    parts.retain(|(text, _)| !text.is_empty());
    parts
}

#[component]
fn PolicyDial(
    settings: RwSignal<Settings>,
    parameter: &'static Parameter,
    preset: Memo<Preset>,
) -> impl IntoView {
    let name = parameter.name;
    let value = Memo::new(move |_| settings.with(|s| s.parameter(name)));
    let set = move |value: Value| settings.update(|s| *s = s.with_parameter(name, value));
    let default: Value = serde_json::from_str(parameter.default).unwrap_or(Value::Null);
    let title = title(name);
    if !parameter.choices.is_empty() {
        return view! {
            <div class="dial"><label>
                <span class="name">{title}</span>
                <select on:change=move |e| set(event_target_value(&e).into())>
                    {parameter.choices.iter().map(|choice| view! {
                        <option value=*choice selected=move || value.get().as_str() == Some(choice)>{self::title(choice)}</option>
                    }).collect_view()}
                </select>
            </label><p class="meaning">{parameter.meaning}</p></div>
        }
        .into_any();
    }
    if parameter.range.is_none() {
        return view! {
            <div class="dial"><label class="check">
                <input
                    type="checkbox"
                    prop:checked=move || value.get().as_bool().unwrap_or(false)
                    on:change=move |e| set(event_target_checked(&e).into())
                />
                {title}
            </label><p class="meaning">{parameter.meaning}</p></div>
        }
        .into_any();
    }
    let number = Signal::derive(move || value.get().as_f64().unwrap_or(0.0));
    let whole = parameter.step >= 1.0;
    let write = move |v: f64| set(if whole { (v as u64).into() } else { v.into() });
    // what is off unless asked for begins where it changes least
    let default_number = default.as_f64().or(parameter.range.map(|r| r.1)).unwrap_or(0.0);
    let off = parameter.optional.then(|| view! {
        <label class="check">
            <input
                type="checkbox"
                aria-label={
                    let title = title.clone();
                    move || format!("{title}: {}", if value.get().is_null() { "off" } else { "on" })
                }
                prop:checked=move || !value.get().is_null()
                on:change=move |e| if event_target_checked(&e) { write(default_number) } else { set(Value::Null) }
            />
            {move || if value.get().is_null() { "off" } else { "on" }}
        </label>
    });
    view! {
        <Dial
            name=title
            meaning=parameter.meaning
            unit=parameter.unit
            value=number
            range=parameter.range.unwrap_or((0.0, 1.0))
            step=parameter.step
            default=default_number
            set=Callback::new(write)
            disabled=Signal::derive(move || value.get().is_null())
            preset=Signal::derive(move || preset.get() != Preset::Custom)
        />
        {off}
    }
    .into_any()
}

/// "tau_mask" as people read it.
fn title(name: &str) -> String {
    match name {
        "tau" | "tau_mask" => "Write when above".into(),
        "tau_edit" => "Edit when above".into(),
        "max_post" => "Extra forwards for edits".into(),
        "max_returns" => "Returns to an old word".into(),
        "score" => "Surest first by".into(),
        "top_prob" => "probability".into(),
        "gamma" => "Entropy bound".into(),
        "f" => "Factor".into(),
        "window" => "Blocks edited together".into(),
        _ => {
            let words = name.replace('_', " ");
            let mut chars = words.chars();
            chars.next().map(|c| c.to_uppercase().collect::<String>() + chars.as_str()).unwrap_or_default()
        }
    }
}

/// A number with a slider, its unit, meaning and default.
#[component]
fn Dial(
    #[prop(into)] name: String,
    meaning: &'static str,
    unit: &'static str,
    #[prop(into)] value: Signal<f64>,
    range: (f64, f64),
    step: f64,
    default: f64,
    set: Callback<f64>,
    #[prop(optional, into)] disabled: Signal<bool>,
    /// the value is a preset's: there is nothing to reset
    #[prop(optional, into)]
    preset: Signal<bool>,
) -> impl IntoView {
    let shown = move |v: f64| if step >= 1.0 { format!("{v:.0}") } else { format!("{v:.2}") };
    let changed = move || (value.get() - default).abs() > step / 100.0 && !disabled.get() && !preset.get();
    let label = name.clone();
    let spoken = move || match (disabled.get(), unit) {
        (true, _) => "off".to_string(),
        (false, "") => shown(value.get()),
        (false, unit) => format!("{} {unit}", shown(value.get())),
    };
    view! {
        <div class="dial">
            <label>
                // the slider is called by its name alone; value and unit are its value, in words
                <span class="name">{name.clone()}</span>
                " "
                <span class="value" aria-hidden="true">
                    {move || if disabled.get() { "off".to_string() } else { shown(value.get()) }}
                    {move || (!unit.is_empty() && !disabled.get()).then(|| view! { " "<small>{unit}</small> })}
                </span>
                <input
                    type="range"
                    aria-label=name
                    aria-valuetext=spoken
                    min=range.0
                    max=range.1
                    step=step
                    prop:value=move || value.get().to_string()
                    disabled=disabled
                    on:input=move |e| if let Ok(v) = event_target_value(&e).parse() { set.run(v) }
                />
            </label>
            <p class="meaning">
                {meaning}
                <Show when=changed>
                    " "
                    <button class="link" aria-label=format!("{label}: reset to {}", shown(default)) on:click=move |_| set.run(default)>{format!("reset to {}", shown(default))}</button>
                </Show>
            </p>
        </div>
    }
}

#[component]
fn Seed(settings: RwSignal<Settings>) -> impl IntoView {
    view! {
        <div class="dial">
            <label class="inline">
                <span class="name">"Seed"</span>
                <input
                    type="number"
                    min="0"
                    max="9007199254740991"
                    prop:value=move || settings.with(|s| s.seed).to_string()
                    on:change=move |e| if let Ok(v) = event_target_value(&e).parse() { settings.update(|s| s.seed = v) }
                />
            </label>
            <button class="small" title="Another seed" on:click=move |_| settings.update(|s| s.seed = crate::dom::fresh_seed())>"New"</button>
            <p class="meaning">"The same seed, prompt and settings give the same text. It matters when the temperature is above 0 or the order is by lot."</p>
        </div>
    }
}

/// Block or whole text.
#[component]
fn Sight(
    settings: RwSignal<Settings>,
    model: Memo<Option<std::sync::Arc<ModelInfo>>>,
    holes: Signal<bool>,
) -> impl IntoView {
    use hilda_engine::decode::Attention;
    let serving = move || model.with(|m| m.as_ref().map(|m| m.serving));
    let block = move || serving().map_or(0, |s| s.block_size);
    let blocky = move || serving().is_some_and(|s| s.attention == Attention::BlockCausal);
    let whole = move || settings.with(|s| s.whole) || holes.get();
    view! {
        <Show when=blocky>
            <div class="dial">
                <span class="name">"A word sees"</span>
                <div class="seg" role="group" aria-label="What a word sees">
                    <button
                        aria-pressed=move || (!whole()).to_string()
                        disabled=holes
                        on:click=move |_| settings.update(|s| s.whole = false)
                    >
                        {move || format!("its block of {}", block())}
                    </button>
                    <button aria-pressed=move || whole().to_string() on:click=move |_| settings.update(|s| s.whole = true)>"the whole text"</button>
                </div>
                <p class="meaning">
                    {move || match (whole(), holes.get(), serving().is_some_and(|s| s.infill)) {
                        (true, true, true) => "The prompt has holes, so every word sees the whole text, also what follows.",
                        (true, _, false) => "This model was not trained to see the whole text at once; expect weaker writing.",
                        (true, false, true) => "Every word sees the whole text, also what follows: for filling in between words that you fix.",
                        (false, ..) => "Blocks are written from left to right; a word sees its own block and everything before it. This is how the model writes best.",
                    }}
                </p>
            </div>
        </Show>
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn papers_are_found_in_references() {
        assert_eq!(
            cited("MDLM, arXiv 2406.07524; first hitting, arXiv 2409.02908"),
            [
                ("MDLM, ", None),
                ("arXiv 2406.07524", Some("2406.07524")),
                ("; first hitting, ", None),
                ("arXiv 2409.02908", Some("2409.02908"))
            ]
        );
        assert_eq!(cited("Fast-dLLM, arXiv 2505.22618, theorem 1").len(), 3);
        assert_eq!(cited("autoregressive decoding"), [("autoregressive decoding", None)]);
        assert_eq!(cited("arXiv soon"), [("arXiv soon", None)]);
    }
}
