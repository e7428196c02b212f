//! Quality of generated text (`methods/evaluation.md` 2 and 5): never one number. Entropy and repetition stand beside every
//! generative perplexity, the same figures of real text beside those of the model, the cost beside the quality.
//!
//! [`surface`] counts words, [`stories`] checks what any child would, [`judge`] asks another model.

pub mod judge;
pub mod stories;
pub mod surface;

use std::sync::Arc;

use hilda_kernels::Train;
use serde::Serialize;

use crate::config::ModelConfig;
use crate::data::Tokenizer;
use crate::decode::policy::{AncestralForm, Score};
use crate::decode::{ActionKind, Decoder, Method, PolicySpec};
use crate::model::generate::{GenerateError, Request, decode_config, run};
use crate::model::session::Weights;
use crate::model::{Serving, Session};

/// A sampled canvas.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// tokens behind the prompt, the whole canvas
    pub canvas: Vec<u32>,
    /// the text up to the first end-of-text
    pub text: String,
    /// an end-of-text was written
    pub finished: bool,
    /// sum of ln q of the committed tokens
    pub log_q: f64,
    pub edits: u64,
    pub forwards: u64,
    /// positions computed
    pub positions: u64,
}

impl Sample {
    /// Tokens before the first end-of-text.
    pub fn tokens(&self, eos: u32) -> &[u32] {
        let end = self.canvas.iter().position(|t| *t == eos).unwrap_or(self.canvas.len());
        &self.canvas[..end]
    }
}

/// Writes `count` texts, keyed by `request.seed` and their index.
///
/// # Errors
/// [`GenerateError`] of the first text that cannot be written.
pub fn sample<B: Train>(
    b: &B,
    weights: &Arc<Weights<B>>,
    serving: Serving,
    tokenizer: &Tokenizer,
    request: &Request,
    count: u32,
    mut progress: impl FnMut(u32) -> bool,
) -> Result<Vec<Sample>, GenerateError> {
    let model = &weights.trunk.config;
    let mut config = decode_config(model, serving, tokenizer, request)?;
    // the whole canvas: a text that is cut where it ends has no simple law
    config.early_stop = false;
    config.rows = false;
    let start = config.prompt.len();
    let mut session = Session::new(b, weights.clone(), config.length as usize);
    let mut out = vec![];
    for sequence in 0..count {
        config.sequence = sequence;
        session.forget();
        let mut decoder = Decoder::new(config.clone())?;
        run(b, &mut session, &mut decoder, |_| true)?;
        let canvas = decoder.state().ids()[start..].to_vec();
        let of = |kind: ActionKind| {
            decoder.steps().iter().flat_map(|s| &s.actions).filter(move |a| a.kind == kind)
        };
        let end = canvas.iter().position(|t| *t == model.eos_id);
        out.push(Sample {
            text: tokenizer.decode(&canvas[..end.unwrap_or(canvas.len())]),
            finished: end.is_some(),
            log_q: of(ActionKind::Commit).map(|a| a.logq as f64).sum(),
            edits: of(ActionKind::Edit).count() as u64,
            forwards: decoder.ledger().forwards as u64,
            positions: decoder.ledger().positions,
            canvas,
        });
        if !progress(sequence + 1) {
            break;
        }
    }
    Ok(out)
}

/// How `log_q` relates to ln q of the sampler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Law {
    /// the sum is ln q: positions follow from the state
    Exact,
    /// random order: its mean lies above that of ln q
    Bound,
    /// positions follow from the drawn tokens, or tokens were edited, or nothing was drawn: no ln q
    Unknown,
}

/// The law of a policy at a temperature (`methods/evaluation.md` 1.2).
pub fn law(policy: PolicySpec, temperature: f32) -> Law {
    match policy.method {
        // the law of what was drawn is another one, or not the row's own
        _ if policy.candidate != Default::default() || !policy.caching.exact() => Law::Unknown,
        _ if temperature == 0.0 => Law::Unknown,
        Method::LeftToRight {} => Law::Exact,
        Method::TopProb { score: Score::Margin | Score::Entropy, alg_temp: 0.0, .. } => Law::Exact,
        Method::EntropyBound { score: Score::Margin | Score::Entropy, .. } => Law::Exact,
        Method::Ancestral { form: AncestralForm::FirstHitting, .. } => Law::Bound,
        Method::Ancestral { form: AncestralForm::TimeGrid, .. } => Law::Bound,
        _ => Law::Unknown,
    }
}

/// Forwards and computed positions per written token (section 5.2; prefill of an empty prompt is one position).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cost {
    pub forwards_per_text: f64,
    pub tokens_per_forward: f64,
    pub positions_per_token: f64,
    pub edits_per_text: f64,
}

/// Costs of samples; tokens behind an end-of-text are not counted.
pub fn cost(samples: &[Sample], model: &ModelConfig) -> Cost {
    let n = samples.len() as f64;
    let sum = |f: &dyn Fn(&Sample) -> u64| samples.iter().map(f).sum::<u64>() as f64;
    let tokens = sum(&|s| s.tokens(model.eos_id).len() as u64).max(1.0);
    let forwards = sum(&|s| s.forwards);
    Cost {
        forwards_per_text: forwards / n,
        tokens_per_forward: tokens / forwards,
        positions_per_token: sum(&|s| s.positions) / tokens,
        edits_per_text: sum(&|s| s.edits) / n,
    }
}
