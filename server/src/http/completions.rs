//! `POST /v1/completions`: OpenAI's shape, decoded by diffusion on this machine.
//!
//! With `stream: true` every denoising step is one event. `choices[0].text` carries only text that no later step can
//! change (finished blocks), so that clients which know nothing of diffusion can append it; the `diffusion` object
//! carries everything else: the step's record, how many positions are masked, and the whole text as it stands, masks
//! as U+2591.

use std::{convert::Infallible, sync::Arc, time::Instant};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures::stream;
use hilda_engine::{
    decode::{DecodeConfig, DecodeError, Decoder, PolicySpec, StepEvent, Stop, Trajectory},
    model::{
        Session,
        generate::{GenerateError, Request, decode_config},
    },
};
use hilda_kernels::Cpu;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{AppState, Problem, problem};
use crate::{
    models::{DEMO, ModelError, Ready},
    storage::{now, random_slug},
};

/// A text or a list with one text in it, as OpenAI's clients send it.
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

/// The request as a decoding; `field` of the problem is OpenAI's name.
fn plan(model: &Ready, c: &Completion) -> Result<DecodeConfig, Problem> {
    let shape = &model.weights.trunk.config;
    let prompt = match &c.prompt {
        Prompt::One(s) => s,
        Prompt::List(l) if l.len() == 1 => &l[0],
        Prompt::List(l) => {
            return Err(Problem::field("prompt", format!("one prompt a request, not {}", l.len())));
        }
    };
    if c.n.is_some_and(|n| n != 1) {
        return Err(Problem::field("n", "one completion a request"));
    }
    let wanted = c.max_tokens.unwrap_or(64);
    if wanted == 0 {
        return Err(Problem::field("max_tokens", "at least 1"));
    }
    let request = Request {
        policy: c.diffusion.policy,
        temperature: c.temperature.unwrap_or(0.0),
        seed: c.seed.unwrap_or(0),
        top_k: c.diffusion.top_k,
        ..Request::new(prompt.as_str(), wanted as usize)
    };
    let mut d = decode_config(shape, model.serving, &model.tokenizer, &request).map_err(|e| {
        let field = if matches!(e, GenerateError::TooLong { .. }) { "max_tokens" } else { "prompt" };
        Problem::field(field, e.to_string())
    })?;
    if let Some(block) = c.diffusion.block_size {
        d.block_size = block;
    }
    d.rows = c.diffusion.top_k > 0;
    d.validate().map_err(|e| {
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

/// What the outside sees of one decoding.
struct Text {
    model: Arc<Ready>,
    stops: Vec<String>,
}

impl Text {
    /// Text of the generated part up to the end of text; masks as U+2591.
    fn shown(&self, d: &Decoder) -> String {
        let config = d.config();
        let mut bytes = Vec::new();
        for pos in config.prompt.len() as u32..config.length {
            if d.state().is_masked(pos) {
                bytes.extend("\u{2591}".as_bytes());
            } else if Some(d.state().id(pos)) == config.eos_id {
                break;
            } else {
                bytes.extend(self.model.tokenizer.bytes(d.state().id(pos)));
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
    /// Bytes of the leading blocks that no step will touch again; everything once decoding has ended.
    fn settled(&self, d: &Decoder) -> Vec<u8> {
        let config = d.config();
        let end = if d.stop().is_some() { config.length } else { d.settled() };
        let mut bytes = Vec::new();
        for pos in config.prompt.len() as u32..end {
            if d.state().is_masked(pos) || Some(d.state().id(pos)) == config.eos_id {
                break;
            }
            bytes.extend(self.model.tokenizer.bytes(d.state().id(pos)));
        }
        bytes
    }
    /// Bytes at the end that may be the beginning of a stop string.
    fn held_back(&self, text: &str) -> usize {
        let begins =
            |s: &String| s.char_indices().map(|(i, _)| i).skip(1).filter(|n| text.ends_with(&s[..*n])).max();
        self.stops.iter().filter_map(begins).max().unwrap_or(0)
    }
    /// The text cut at the earliest stop string, and whether there was one.
    fn cut<'a>(&self, text: &'a str) -> (&'a str, bool) {
        match self.stops.iter().filter_map(|s| text.find(s)).min() {
            Some(at) => (&text[..at], true),
            None => (text, false),
        }
    }
}

/// Bytes as text. Half a character at the end waits for its rest, unless this is the last of them; so the text of
/// more bytes always begins with the text of fewer.
fn settled_text(bytes: &[u8], last: bool) -> String {
    let mut out = String::new();
    let mut read = 0;
    for chunk in bytes.utf8_chunks() {
        out += chunk.valid();
        let bad = chunk.invalid();
        read += chunk.valid().len() + bad.len();
        let at_end = read == bytes.len();
        let half = at_end && std::str::from_utf8(bad).is_err_and(|e| e.error_len().is_none());
        if !bad.is_empty() && (last || !half) {
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }
    out
}

/// Runs a decoding to its end; `step` sees every event and ends it early by answering false.
fn decode(
    model: &Ready,
    config: DecodeConfig,
    mut step: impl FnMut(&Decoder, &StepEvent) -> bool,
) -> Result<Decoder, String> {
    let context = config.length as usize;
    let mut decoder = Decoder::new(config).map_err(|e| e.to_string())?;
    decoder.set_provenance(hilda_engine::decode::trajectory::Provenance {
        model: model.name.clone(),
        tokenizer_hash: model.tokenizer.hash().to_string(),
        backend: "cpu".into(),
        dtype: "f32".into(),
        ..Default::default()
    });
    let mut session = Session::new(&Cpu, model.weights.clone(), context);
    while let Some(request) = decoder.next() {
        let stats = session.answer(&request).map_err(|e| e.to_string())?;
        let event = decoder.apply(stats).map_err(|e| e.to_string())?;
        if !step(&decoder, &event) {
            break;
        }
    }
    Ok(decoder)
}

/// Fields that every answer has.
struct Frame {
    id: String,
    created: u64,
    model: String,
}

impl Frame {
    fn value(&self, text: &str, finish: Option<&str>) -> Value {
        json!({
            "id": self.id, "object": "text_completion", "created": self.created, "model": self.model,
            "choices": [{ "text": text, "index": 0, "logprobs": null, "finish_reason": finish }],
        })
    }
}

fn summary(t: &Trajectory, seconds: f64) -> Value {
    json!({
        "forwards": t.footer.ledger.forwards, "tokens": t.footer.tokens,
        "tokens_per_forward": t.footer.tokens_per_forward, "edits": t.footer.ledger.edits, "ledger": t.footer.ledger,
        "divergence": t.footer.divergence, "seconds": seconds,
        "policy": t.header.config.policy, "block_size": t.header.config.block_size,
        "seed": t.header.config.seed, "temperature": t.header.config.temperature,
    })
}

fn usage(t: &Trajectory) -> Value {
    let prompt = t.header.config.prompt.len() as u32;
    json!({
        "prompt_tokens": prompt, "completion_tokens": t.footer.tokens, "total_tokens": prompt + t.footer.tokens,
    })
}

pub async fn create(
    State(state): State<AppState>,
    problem::Json(body): problem::Json<Completion>,
) -> Result<Response, Problem> {
    // one decoding at a time: each uses all threads
    let busy = |_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the server is closing");
    let permit = state.decoding.clone().acquire_owned().await.map_err(busy)?;
    let id = body.model.clone().unwrap_or_else(|| DEMO.into());
    let (model, config, body) = state
        .blocking(move |s| {
            let model = s.loaded.get(&s.data, &id)?;
            let config = plan(&model, &body)?;
            Ok((model, config, body))
        })
        .await?;
    let frame =
        Frame { id: format!("cmpl-{}", random_slug()), created: now() as u64, model: model.name.clone() };
    let trajectory = body.diffusion.trajectory;
    let text = Text { model: model.clone(), stops: body.stop.map(Stops::list).unwrap_or_default() };
    if body.stream {
        return Ok(stream_steps(permit, text, config, frame, trajectory));
    }
    state
        .blocking(move |_| {
            let _permit = permit;
            let start = Instant::now();
            let failed = |e| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, e);
            let decoder = decode(&model, config, |_, _| true).map_err(failed)?;
            let record = decoder.trajectory();
            let shown = text.shown(&decoder);
            let (shown, cut) = text.cut(&shown);
            let finish = if cut || ended(&decoder) { "stop" } else { "length" };
            let mut v = frame.value(shown, Some(finish));
            v["usage"] = usage(&record);
            v["diffusion"] = summary(&record, start.elapsed().as_secs_f64());
            if trajectory {
                v["diffusion"]["trajectory"] = serde_json::to_value(&record).expect("plain data");
            }
            Ok(Json(v).into_response())
        })
        .await
}

/// Whether the model itself ended the text.
fn ended(d: &Decoder) -> bool {
    let c = d.config();
    d.stop() == Some(Stop::EarlyStop)
        || (c.prompt.len() as u32..c.length).any(|p| Some(d.state().id(p)) == c.eos_id)
}

fn stream_steps(
    permit: OwnedSemaphorePermit,
    text: Text,
    config: DecodeConfig,
    frame: Frame,
    trajectory: bool,
) -> Response {
    let (send, receive) = mpsc::channel::<Event>(16);
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let start = Instant::now();
        let (mut sent, mut cut) = (0, false);
        let result = decode(&text.model, config, |d, e| {
            let last = d.stop().is_some();
            let settled = settled_text(&text.settled(d), last);
            let (kept, stopped) = text.cut(&settled);
            cut = stopped;
            let end = if stopped || last { kept.len() } else { kept.len() - text.held_back(kept) };
            let delta = kept[sent.min(end)..end].to_string();
            sent = sent.max(end);
            let mut v = frame.value(&delta, None);
            v["diffusion"] = json!({ "step": e.record, "masked": e.masked, "text": text.shown(d) });
            // nobody listens any more: stop computing
            send.blocking_send(Event::default().data(v.to_string())).is_ok() && !stopped
        });
        let last = match result {
            Ok(decoder) => {
                let record = decoder.trajectory();
                let finish = if cut || ended(&decoder) { "stop" } else { "length" };
                let mut v = frame.value("", Some(finish));
                v["usage"] = usage(&record);
                v["diffusion"] = summary(&record, start.elapsed().as_secs_f64());
                if trajectory {
                    v["diffusion"]["trajectory"] = serde_json::to_value(&record).expect("plain data");
                }
                v
            }
            Err(e) => json!({ "error": { "message": e, "type": "server_error" } }),
        };
        let _ = send.blocking_send(Event::default().data(last.to_string()));
        let _ = send.blocking_send(Event::default().data("[DONE]"));
    });
    let events =
        stream::unfold(receive, |mut r| async move { r.recv().await.map(|e| (Ok::<_, Infallible>(e), r)) });
    Sse::new(events).keep_alive(KeepAlive::new()).into_response()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_of_fewer_bytes_begins_the_text_of_more(bytes in prop::collection::vec(any::<u8>(), 0..40), cut in 0usize..40) {
            let cut = cut.min(bytes.len());
            let whole = settled_text(&bytes, true);
            prop_assert_eq!(&whole, &String::from_utf8_lossy(&bytes));
            prop_assert!(whole.starts_with(&settled_text(&bytes[..cut], false)));
        }
    }
}
