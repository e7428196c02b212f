//! `POST /v1/completions`: OpenAI's shape, decoded by diffusion on this machine.
//!
//! With `stream: true` every denoising step is one event. `choices[0].text` carries only text that no later step can
//! change (finished blocks), so that clients which know nothing of diffusion can append it; the `diffusion` object
//! says what the step did to which position ([`stream`]), and every few steps the whole text as it stands, masks as
//! U+2591.
//!
//! Several texts are written at once ([`Queue`]), those of one model and those of one request among them in the same
//! forwards ([`crate::writer`]); what a text becomes does not depend on the others. A client that leaves ends its texts.

mod queue;
mod stream;
mod text;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use futures::future::try_join_all;
use hilda_engine::{
    decode::{Attention, DecodeConfig, DecodeError, Decoder, PolicySpec, StepEvent, Stop, Trajectory},
    model::{
        generate::{GenerateError, Request, decode_config, remark},
        holes::{self, Holes},
    },
};
use serde::Deserialize;
use serde_json::{Value, json};

pub use queue::Queue;
use queue::{Leave, Place};
use text::Text;

use super::{AppState, Problem, problem};
use crate::{
    models::{DEMO, ModelError, Ready},
    storage::{now, random_slug},
    writer::Written,
};

/// Texts of one request.
const MOST_TEXTS: usize = 16;

/// A text or a list of texts, as OpenAI's clients send it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Prompt {
    One(String),
    List(Vec<String>),
}

#[derive(Deserialize)]
pub struct Completion {
    #[serde(default)]
    model: Option<String>,
    prompt: Prompt,
    /// text that the written tokens lead up to
    #[serde(default)]
    suffix: Option<String>,
    #[serde(default)]
    max_tokens: Option<u32>,
    #[serde(default)]
    temperature: Option<f32>,
    #[serde(default)]
    seed: Option<u64>,
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    n: Option<u32>,
    #[serde(default)]
    stop: Option<Stops>,
    /// ours: how to decode
    #[serde(default)]
    diffusion: Diffusion,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Stops {
    One(String),
    List(Vec<String>),
}

impl Stops {
    fn list(self) -> Vec<String> {
        let all = match self {
            Stops::One(s) => vec![s],
            Stops::List(l) => l,
        };
        all.into_iter().filter(|s| !s.is_empty()).collect()
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Diffusion {
    /// [default: what suits the model]
    policy: Option<PolicySpec>,
    /// tokens per block [default: the model's]
    block_size: Option<u32>,
    /// alternatives per row in the record
    #[serde(default)]
    top_k: usize,
    /// runs of two or more underscores in the prompt are holes of as many tokens
    #[serde(default)]
    holes: bool,
    /// answer with the whole record
    #[serde(default)]
    trajectory: bool,
}

impl From<ModelError> for Problem {
    fn from(e: ModelError) -> Problem {
        match e {
            ModelError::Storage(e) => e.into(),
            ModelError::Unknown(_) => {
                let mut p = Problem::not_found(e.to_string());
                p.field = Some("model".into());
                p
            }
            ModelError::TooLarge { .. } => Problem::not_found(e.to_string()),
            ModelError::Unusable { .. } => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
        }
    }
}

/// The request as decodings, `n` of each prompt with seeds that count up; `field` of the problem is OpenAI's name.
fn plan(model: &Ready, c: &Completion) -> Result<Vec<DecodeConfig>, Problem> {
    let prompts = match &c.prompt {
        Prompt::One(prompt) => std::slice::from_ref(prompt),
        Prompt::List(list) => list.as_slice(),
    };
    let n = c.n.unwrap_or(1);
    for (field, count) in [("prompt", prompts.len()), ("n", n as usize), ("n", prompts.len() * n as usize)] {
        if !(1..=MOST_TEXTS).contains(&count) {
            return Err(Problem::field(field, format!("1 to {MOST_TEXTS} texts a request, not {count}")));
        }
    }
    let mut all = Vec::new();
    for prompt in prompts {
        let first = plan_one(model, c, prompt)?;
        all.extend(
            (0..u64::from(n)).map(|i| DecodeConfig { seed: first.seed.wrapping_add(i), ..first.clone() }),
        );
    }
    Ok(all)
}

fn plan_one(model: &Ready, c: &Completion, prompt: &str) -> Result<DecodeConfig, Problem> {
    let shape = &model.weights.trunk.config;
    let wanted = c.max_tokens.unwrap_or(64);
    if wanted == 0 {
        return Err(Problem::field("max_tokens", "at least 1"));
    }
    let suffix = c.suffix.as_deref().filter(|s| !s.is_empty());
    let unwritable = |e: hilda_engine::data::DataError| Problem::field("prompt", e.to_string());
    let holes = match (suffix, c.diffusion.holes) {
        (Some(_), true) => {
            return Err(Problem::field(
                "suffix",
                "a prompt with holes has its end in it: leave one of the two out",
            ));
        }
        (Some(suffix), false) => holes::between(prompt, wanted, suffix, &model.tokenizer)
            .map_err(|e| Problem::field("suffix", e.to_string()))?,
        (None, true) => holes::holes(prompt, &model.tokenizer).map_err(unwritable)?,
        (None, false) => Holes { prompt: prompt.into(), ..Holes::default() },
    };
    let infills = !holes.fixed.is_empty();
    if infills && model.serving.attention == Attention::Causal {
        let field = if suffix.is_some() { "suffix" } else { "diffusion.holes" };
        return Err(Problem::field(
            field,
            "this model reads from left to right and cannot see what comes later",
        ));
    }
    let length = if infills { holes.length } else { wanted.max(holes.length) };
    let request = Request {
        policy: c.diffusion.policy,
        temperature: c.temperature.unwrap_or(0.0),
        seed: c.seed.unwrap_or(0),
        top_k: c.diffusion.top_k,
        // what comes later is seen only with the whole text in view
        whole: infills,
        switch: model.switch.clone(),
        ..Request::new(holes.prompt.as_str(), length as usize)
    };
    let mut d = decode_config(shape, model.serving, &model.tokenizer, &request).map_err(|e| {
        let field = match e {
            // a template says itself how long it is
            GenerateError::TooLong { .. } if infills && suffix.is_none() => "prompt",
            GenerateError::TooLong { .. } => "max_tokens",
            GenerateError::Uniform => "model",
            _ => "prompt",
        };
        Problem::field(field, e.to_string())
    })?;
    let start = d.prompt.len() as u32;
    d.fixed = holes.fixed.iter().map(|(offset, id)| (start + offset, *id)).collect();
    if let Some(block) = c.diffusion.block_size {
        d.block_size = block;
    }
    // a stream says how unsure each step was
    d.rows = c.stream || c.diffusion.top_k > 0;
    // also what only the model's own files can serve, before a stream has begun
    Decoder::new(d.clone()).map(drop).map_err(|e| {
        let field = match &e {
            DecodeError::Temperature { .. } | DecodeError::EntropyBoundTemperature { .. } => "temperature",
            DecodeError::NothingBeforeFirst | DecodeError::PromptTooLong { .. } => "prompt",
            DecodeError::TopK { .. } => "diffusion.top_k",
            _ => "diffusion.policy",
        };
        Problem::field(field, e.to_string())
    })?;
    Ok(d)
}

/// Writes a text to its end beside the others of its model; `step` sees every event and ends it early by answering false.
async fn write(
    state: &AppState,
    place: &Place,
    model: &Ready,
    config: DecodeConfig,
    mut step: impl FnMut(&Decoder, &StepEvent) -> bool + Send + 'static,
) -> Result<Written, Problem> {
    let permit = place.turn().await?;
    let failed = |e| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, e);
    let mut decoder = Decoder::new(config).map_err(|e| failed(e.to_string()))?;
    decoder.set_provenance(hilda_engine::decode::trajectory::Provenance {
        model: model.name.clone(),
        tokenizer_hash: model.tokenizer.hash().to_string(),
        backend: "cpu".into(),
        dtype: model.weights.arithmetic().name().into(),
        ..Default::default()
    });
    let step = move |d: &Decoder, e: &StepEvent| {
        // the permit goes when the worker lets go of the text, and not before
        let _held = &permit;
        step(d, e)
    };
    model.writer.write(&model.weights, &state.forward, decoder, Box::new(step)).await.map_err(failed)
}

/// Fields that every answer has.
struct Frame {
    id: String,
    created: u64,
    model: String,
}

impl Frame {
    fn value(&self, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id, "object": "text_completion", "created": self.created, "model": self.model,
            "choices": choices,
        })
    }
}

fn choice(index: usize, text: &str, finish: Option<&str>) -> Value {
    json!({ "text": text, "index": index, "logprobs": null, "finish_reason": finish })
}

/// What a text cost; the whole record if it was asked for. `seconds` is the time from its joining to its leaving, in which
/// the forwards also wrote others: `batch` texts on the mean, itself among them.
fn summary(t: &Trajectory, model: &Ready, written: &Written, record: bool) -> Value {
    let config = &t.header.config;
    let mut v = json!({
        "forwards": t.footer.ledger.forwards, "tokens": t.footer.tokens,
        "tokens_per_forward": t.footer.tokens_per_forward, "edits": t.footer.ledger.edits, "ledger": t.footer.ledger,
        "divergence": t.footer.divergence, "seconds": written.seconds, "batch": written.batch,
        "cache": t.header.config.policy.caching.standing(), "cache_bytes": t.footer.cache_bytes,
        "cache_planned": model.weights.trunk.planned_cache(config),
        "policy": t.header.config.policy, "block_size": t.header.config.block_size,
        "seed": t.header.config.seed, "temperature": t.header.config.temperature,
    });
    let whole = config.attention == Attention::Bidirectional;
    if let Some(remark) = remark(model.serving, &config.policy, whole) {
        v["remark"] = remark.into();
    }
    if record {
        v["trajectory"] = serde_json::to_value(t).expect("plain data");
    }
    v
}

fn usage(texts: &[Trajectory]) -> Value {
    let prompt: u32 = texts.iter().map(|t| t.header.config.prompt.len() as u32).sum();
    let written: u32 = texts.iter().map(|t| t.footer.tokens).sum();
    json!({ "prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written })
}

pub async fn create(
    State(state): State<AppState>,
    problem::Json(body): problem::Json<Completion>,
) -> Result<Response, Problem> {
    let place = state.queue.enter()?;
    let id = body.model.clone().unwrap_or_else(|| DEMO.into());
    let (model, configs, body) = state
        .blocking(move |s| {
            let model = s.loaded.get(&s.data, &id)?;
            let configs = plan(&model, &body)?;
            Ok((model, configs, body))
        })
        .await?;
    let frame =
        Frame { id: format!("cmpl-{}", random_slug()), created: now() as u64, model: model.name.clone() };
    let trajectory = body.diffusion.trajectory;
    let text = Text { model: model.clone(), stops: body.stop.map(Stops::list).unwrap_or_default() };
    if body.stream {
        return Ok(stream::stream_steps(state, place, text, configs, frame, trajectory));
    }
    let left = Arc::new(AtomicBool::new(false));
    let _leave = Leave(left.clone());
    let texts = configs.into_iter().map(|config| {
        let left = left.clone();
        write(&state, &place, &model, config, move |_, _| !left.load(Ordering::Relaxed))
    });
    let written = try_join_all(texts).await?;
    let (mut choices, mut records, mut costs) = (vec![], vec![], vec![]);
    for (index, written) in written.iter().enumerate() {
        let record = written.decoder.trajectory();
        let shown = text.shown(&written.decoder);
        let (shown, cut) = text.cut(&shown);
        choices.push(choice(index, shown, Some(finish(cut, &written.decoder))));
        costs.push(summary(&record, &model, written, trajectory));
        records.push(record);
    }
    let mut v = frame.value(choices);
    v["usage"] = usage(&records);
    v["diffusion"] = match costs.len() {
        1 => costs.remove(0),
        _ => json!({ "texts": costs }),
    };
    Ok(Json(v).into_response())
}

/// "stop" where a stop string or the model itself ended the text.
fn finish(cut: bool, d: &Decoder) -> &'static str {
    let c = d.config();
    let ended = d.stop() == Some(Stop::EarlyStop)
        || (c.prompt.len() as u32..c.length).any(|p| Some(d.state().id(p)) == c.eos_id);
    if cut || ended { "stop" } else { "length" }
}
