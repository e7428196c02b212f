//! A comparison of decoders (`hilda decode-bench`): what their texts are worth to a judge against how fast they are
//! written, with the recorded texts of each. A result comes from the server by name or from a file; results without
//! recordings, as they were written before, show their plot and say what they lack.

use std::sync::Arc;

use hilda_engine::decode::PolicySpec;
use leptos::prelude::*;
use leptos_router::components::A;
use serde::Deserialize;
use serde_json::Value;
use wasm_bindgen_futures::JsFuture;

use super::decoder_plot::{DecoderPlot, Spot, arrange, outline};
use super::ui::Oops;
use crate::api::{self, Problem};
use crate::chart::format;
use crate::dom;
use crate::playground::{Link, Replay};

/// A result file as far as this page reads it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct DecoderResult {
    #[serde(default)]
    pub model: String,
    #[serde(default)]
    pub judge: String,
    #[serde(default)]
    pub texts: u64,
    #[serde(default)]
    pub prompt: u64,
    #[serde(default)]
    pub length: u64,
    #[serde(default)]
    pub seed: u64,
    pub points: Vec<DecoderPoint>,
}

/// A decoder at one temperature. Numbers that were not finite are absent.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct DecoderPoint {
    pub policy: Value,
    #[serde(default)]
    pub temperature: f64,
    /// what differs from the policy's defaults, in words
    #[serde(default)]
    pub parameters: Option<String>,
    #[serde(default)]
    pub nll: Option<f64>,
    #[serde(default)]
    pub nll_stderr: Option<f64>,
    #[serde(default)]
    pub entropy: Option<f64>,
    #[serde(default)]
    pub excess: Option<f64>,
    /// share of problems solved and its standard error, where answers can be checked
    #[serde(default)]
    pub accuracy: Option<(f64, f64)>,
    #[serde(default)]
    pub tokens_per_forward: Option<f64>,
    #[serde(default)]
    pub edits: u64,
    /// recorded texts, as links of the playground hold them
    #[serde(default)]
    pub kept: Vec<Value>,
}

/// One result in the list.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Entry {
    name: String,
    #[serde(default)]
    model: String,
    #[serde(default)]
    points: usize,
}

impl DecoderPoint {
    fn kind(&self) -> &str {
        self.policy["kind"].as_str().unwrap_or("unknown")
    }

    /// "threshold, tau 0.9, temperature 0.6"
    pub fn name(&self) -> String {
        let told = self.parameters.clone().unwrap_or_else(|| {
            let info = PolicySpec::parameters().iter().find(|i| i.kind == self.kind());
            let own = info.map(|i| i.parameters).unwrap_or_default().iter();
            let values = own.filter_map(|p| match &self.policy[p.name] {
                Value::Number(n) => Some(format!("{} {}", p.name, format::short(n.as_f64()?))),
                Value::String(s) => Some(format!("{} {s}", p.name)),
                _ => None,
            });
            values.collect::<Vec<_>>().join(", ")
        });
        let gap = if told.is_empty() { "" } else { ", " };
        format!("{}{gap}{told}, temperature {}", self.kind(), format::short(self.temperature))
    }

    fn spot(&self, index: usize) -> Spot {
        Spot {
            index,
            kind: self.kind().to_string(),
            name: self.name(),
            x: self.tokens_per_forward.unwrap_or(f64::NAN),
            y: self.nll.unwrap_or(f64::NAN),
            best: false,
        }
    }
}

/// What lies behind a name.
#[component]
pub fn NamedDecoders(name: String) -> impl IntoView {
    let found = RwSignal::new(None::<Result<Arc<DecoderResult>, Problem>>);
    let path = format!("/api/decoders/{}", String::from(js_sys::encode_uri_component(&name)));
    let path = StoredValue::new(path);
    let load = move || {
        leptos::task::spawn_local(async move {
            let Some(path) = path.try_get_value() else { return };
            found.try_set(Some(api::get::<DecoderResult>(&path).await.map(Arc::new)));
        });
    };
    load();
    let retry = Callback::new(move |()| load());
    view! {
        {move || match found.get() {
            None => view! { <p class="mut" role="status">"Reading the comparison"</p> }.into_any(),
            Some(Ok(result)) => view! { <Decoders result/> }.into_any(),
            Some(Err(p)) if p.is_missing() => view! {
                <div class="notice bad" role="alert"><p>{p.detail}" "<A href="/compare">"All comparisons"</A></p></div>
            }.into_any(),
            Some(Err(p)) => view! { <Oops problem=p retry/> }.into_any(),
        }}
    }
}

/// The comparisons that the server keeps, and a way to open one from a file.
#[component]
pub fn DecoderChooser() -> impl IntoView {
    let entries = RwSignal::new(Vec::<Entry>::new());
    let opened = RwSignal::new(None::<Result<Arc<DecoderResult>, String>>);
    leptos::task::spawn_local(async move {
        // a page without a server has none; the list of runs says so
        if let Ok(list) = api::get::<Vec<Entry>>("/api/decoders").await {
            entries.try_set(list);
        }
    });
    let open = move |event: web_sys::Event| {
        let input: web_sys::HtmlInputElement = event_target(&event);
        let Some(file) = input.files().and_then(|f| f.get(0)) else { return };
        // the same file can be chosen again
        input.set_value("");
        leptos::task::spawn_local(async move { drop(opened.try_set(Some(read(&file).await.map(Arc::new)))) });
    };
    view! {
        <section aria-label="Decoders">
            <h2>"Decoders"</h2>
            <p class="mut">"What each decoder's texts are worth to a judge, against how fast they are written. "<code>"hilda decode-bench --name NAME"</code>" adds one."</p>
            <ul class="plain">
                {move || entries.get().into_iter().map(|e| view! {
                    <li><A href=format!("/compare?decoders={}", e.name)>{e.name.clone()}</A>
                        " "<span class="mut small">{format!("{}, {} points", e.model, e.points)}</span></li>
                }).collect_view()}
            </ul>
            <label class="file">
                <span>"Open a result file (results.json)"</span>
                <input type="file" accept=".json,application/json" on:change=open/>
            </label>
            {move || opened.get().map(|r| match r {
                Ok(result) => view! { <Decoders result/> }.into_any(),
                Err(why) => view! { <div class="notice bad" role="alert"><p>{why}</p></div> }.into_any(),
            })}
        </section>
    }
}

/// A result file of 64 MB at most.
async fn read(file: &web_sys::File) -> Result<DecoderResult, String> {
    if file.size() > 64e6 {
        return Err(format!(
            "{} has {}; a result has 64 MB at most.",
            file.name(),
            format::bytes(file.size() as u64)
        ));
    }
    let text = JsFuture::from(file.text()).await.map_err(|e| dom::message(&e))?;
    let text = text.as_string().unwrap_or_default();
    serde_json::from_str(&text)
        .map_err(|e| format!("{} is no result of hilda decode-bench: {e}", file.name()))
}

#[component]
pub fn Decoders(result: Arc<DecoderResult>) -> impl IntoView {
    let spots = arrange(result.points.iter().enumerate().map(|(i, p)| p.spot(i)).collect());
    let chosen = RwSignal::new(None::<usize>);
    let mut kinds: Vec<String> = spots.iter().map(|s| s.kind.clone()).collect();
    kinds.sort();
    kinds.dedup();
    let title = |kind: &str| {
        PolicySpec::parameters()
            .iter()
            .find(|i| i.kind == kind)
            .map_or(kind.to_string(), |i| i.title.to_string())
    };
    let DecoderResult { model, judge, texts, prompt, length, seed, .. } = (*result).clone();
    let all = StoredValue::new(result);
    let rows = spots.clone();
    view! {
        <section class="decoders" aria-label="Quality against speed of decoders">
            <h2>{format!("Decoders of {model}")}</h2>
            <p class="mut small">{format!(
                "{texts} prompt{} of {prompt} tokens, up to {length} tokens written after each; judge {judge}; seed {seed}. Lower and further right is better. Low temperature lowers nats and entropy alike: compare at equal entropy (excess).",
                if texts == 1 { "" } else { "s" }
            )}</p>
            {if spots.is_empty() {
                view! { <p class="mut">"The result has no points that can be drawn."</p> }.into_any()
            } else {
                view! {
                    <div class="card">
                        <DecoderPlot spots=Arc::new(spots) chosen/>
                        <p class="kinds small">{kinds.iter().map(|k| view! {
                            <span><svg viewBox="0 0 16 16" aria-hidden="true"><path d=outline(k)></path></svg>" "{title(k)}</span>
                        }).collect_view()}<span class="mut">"filled: on the frontier"</span></p>
                    </div>
                }.into_any()
            }}
            <p role="status" class:visually-hidden=move || chosen.get().is_some()>
                {move || match chosen.get().and_then(|i| all.with_value(|r| r.points.get(i).map(DecoderPoint::name))) {
                    Some(name) => format!("Chosen: {name}. Its text follows."),
                    None => "Choose a mark to see a text of that decoder.".into(),
                }}
            </p>
            {move || chosen.get().and_then(|i| all.with_value(|r| r.points.get(i).cloned())).map(|point| view! { <Chosen point/> })}
            <details class="chart-table">
                <summary>"Table"</summary>
                <div class="scroll" tabindex="0">
                    <table class="numbers columns">
                        <thead><tr><th scope="col">"Decoder"</th><th scope="col">"Nats per token"</th><th scope="col">"Entropy"</th>
                            <th scope="col">"Excess"</th><th scope="col">"Tokens a forward"</th><th scope="col">"Edits"</th></tr></thead>
                        <tbody>{rows.into_iter().map(|s| {
                            let point = all.with_value(|r| r.points[s.index].clone());
                            view! {
                                <tr><th scope="row"><button class="link" on:click=move |_| chosen.set(Some(s.index))>{s.name}</button></th>
                                    <td class="num">{nats(&point)}</td>
                                    <td class="num">{number(point.entropy, 2)}</td>
                                    <td class="num">{excess(&point)}</td>
                                    <td class="num">{number(point.tokens_per_forward, 2)}</td>
                                    <td class="num">{point.edits}</td></tr>
                            }
                        }).collect_view()}</tbody>
                    </table>
                </div>
            </details>
        </section>
    }
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or("not measured".into(), |v| format!("{v:.digits$}"))
}

fn nats(p: &DecoderPoint) -> String {
    match p.nll_stderr {
        Some(error) => format!("{} ± {error:.3}", number(p.nll, 3)),
        // a standard error needs two texts
        None => number(p.nll, 3),
    }
}

fn excess(p: &DecoderPoint) -> String {
    p.excess.map_or("outside".into(), |e| format!("{e:+.3}"))
}

/// A point's numbers and its recorded texts.
#[component]
fn Chosen(point: DecoderPoint) -> impl IntoView {
    let kept: Vec<Result<Link, String>> = point
        .kept
        .iter()
        .map(|value| {
            let link: Link = serde_json::from_value(value.clone()).map_err(|e| e.to_string())?;
            // what does not replay is not shown
            link.trajectory.replay().map_err(|e| e.to_string())?;
            Ok(link)
        })
        .collect();
    let none = kept.is_empty();
    view! {
        <section class="card chosen" aria-label="The chosen decoder">
            <h3>{point.name()}</h3>
            <p class="small">{format!(
                "{} nats per token · entropy {} · excess {} · {} tokens a forward · {} edits{}",
                nats(&point), number(point.entropy, 2), excess(&point), number(point.tokens_per_forward, 2), point.edits,
                point.accuracy.map_or(String::new(), |a| format!(" · {:.1} ± {:.1} % solved", 100.0 * a.0, 100.0 * a.1))
            )}</p>
            {none.then(|| view! {
                <p class="mut">"No text of this decoder was kept: the result is older than recordings, was made with "<code>"--keep 0"</code>", or had no room left."</p>
            })}
            {kept.into_iter().map(|found| match found {
                Ok(link) => view! { <Kept link/> }.into_any(),
                Err(why) => view! { <p class="mut">{format!("A recorded text cannot be replayed ({why}).")}</p> }.into_any(),
            }).collect_view()}
        </section>
    }
}

/// One recorded text: the way to the playground, and its replay here.
#[component]
fn Kept(link: Link) -> impl IntoView {
    let address = RwSignal::new(None::<Result<String, String>>);
    let written = link.clone();
    leptos::task::spawn_local(async move {
        let fragment = written.write().await.map_err(|e| e.to_string());
        address.try_set(Some(fragment.map(|f| format!("{}{f}", dom::site("/")))));
    });
    let pieces = link.pieces.clone().into_iter().collect();
    view! {
        // a fresh page: the playground reads its address when it opens
        {move || address.get().map(|a| match a {
            Ok(href) => view! { <p><a class="button go" rel="external" href=href>"Open in the playground"</a></p> }.into_any(),
            Err(why) => view! { <p class="mut">{format!("This browser cannot make a link of it ({why}).")}</p> }.into_any(),
        })}
        <Replay trajectory=link.trajectory pieces/>
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_results_are_read_and_named_by_their_policies() {
        let result: DecoderResult = serde_json::from_str(
            r#"{"model": "m", "reference": {"kind": "ancestral"}, "points": [
                {"policy": {"kind": "threshold", "tau": 0.9, "score": "top_prob", "top_p": null}, "temperature": 0.6,
                 "texts": 3, "nll": 2.5, "nll_stderr": null, "tokens_per_forward": 2.0},
                {"policy": {"kind": "from_the_future", "x": 1}, "nll": null, "parameters": "x 1"}]}"#,
        )
        .expect("a result");
        assert_eq!(result.points[0].name(), "threshold, tau 0.9, score top_prob, temperature 0.6");
        assert_eq!(result.points[1].name(), "from_the_future, x 1, temperature 0");
        assert_eq!(nats(&result.points[0]), "2.500");
        assert!(result.points.iter().all(|p| p.kept.is_empty()));
        let spots = arrange(result.points.iter().enumerate().map(|(i, p)| p.spot(i)).collect());
        assert_eq!(spots.len(), 1, "a point without a value is not drawn");
        assert!(serde_json::from_str::<DecoderResult>("{}").is_err());
    }
}
