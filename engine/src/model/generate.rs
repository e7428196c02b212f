//! From a prompt and a model to a decoding, and the loop that runs it on a device that answers at once.
//!
//! A document begins with the end-of-text token (training rows are documents laid end to end, each ended by it), so
//! the prompt does too; with the logit shift this also gives position 1 the row it is read from.

use std::sync::Arc;

use hilda_kernels::Train;

use super::session::{Session, SessionError};
use super::{Serving, embedding};
use crate::config::ModelConfig;
use crate::data::{DataError, Tokenizer};
use crate::decode::{Attention, DecodeConfig, DecodeError, Decoder, Method, PolicySpec, Switch, Trajectory};

/// What a person asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub prompt: String,
    /// tokens after the prompt
    pub length: usize,
    /// None = the model's own default
    pub policy: Option<PolicySpec>,
    pub temperature: f32,
    pub seed: u64,
    /// fill with everything visible, instead of block by block
    pub whole: bool,
    pub top_k: usize,
    /// (position in the sequence, token id) set by the user
    pub fixed: Vec<(u32, u32)>,
    /// what the policy `switch` decides by
    pub switch: Option<Arc<Switch>>,
}

impl Request {
    /// The model's default policy at temperature 0.
    pub fn new(prompt: impl Into<String>, length: usize) -> Self {
        Request {
            prompt: prompt.into(),
            length,
            policy: None,
            temperature: 0.0,
            seed: 0,
            whole: false,
            top_k: 8,
            fixed: vec![],
            switch: None,
        }
    }
}

/// Errors of a generation.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    #[error("prompt: {0}")]
    Tokenizer(#[from] DataError),
    #[error("prompt and length take {asked} positions, the model's context is {context}")]
    TooLong { asked: usize, context: usize },
    #[error("tokenizer has {tokenizer} tokens, the model {model}")]
    Vocabulary { tokenizer: usize, model: usize },
    #[error(
        "this model was trained on uniform noise alone and never saw a mask, from which every policy begins: it cannot be decoded here"
    )]
    Uniform,
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// The policy a model is decoded with unless asked otherwise.
pub fn default_policy(serving: Serving) -> PolicySpec {
    match serving {
        Serving { attention: Attention::Causal, .. } => Method::LeftToRight {}.into(),
        Serving { edits: true, .. } => PolicySpec::quality(),
        _ => PolicySpec::default(),
    }
}

/// What a model was not trained for and is asked all the same, in words: it is decoded, and does worse or nothing.
pub fn remark(serving: Serving, policy: &PolicySpec, whole: bool) -> Option<&'static str> {
    let reads = matches!(policy.method, Method::Edit { tau_edit: Some(_), .. } | Method::Remask { .. });
    let blocks = serving.attention == Attention::BlockCausal;
    match policy.method {
        _ if reads && !serving.edits => Some(
            "this model was not trained to edit: it is sure of what it reads, and words once written will rarely change",
        ),
        Method::DraftRefine { .. } if blocks && !serving.infill => Some(
            "this model was not trained to see the whole text, which draft_refine shows it: expect the refined words to be worse",
        ),
        _ if whole && blocks && !serving.infill => {
            Some("this model was not trained to see the whole text at once: expect weaker writing")
        }
        _ => None,
    }
}

/// Everything a [`Decoder`] needs, checked against the model.
pub fn decode_config(
    model: &ModelConfig,
    serving: Serving,
    tokenizer: &Tokenizer,
    r: &Request,
) -> Result<DecodeConfig, GenerateError> {
    if !model.takes_tokenizer(tokenizer.vocab()) {
        return Err(GenerateError::Vocabulary { tokenizer: tokenizer.vocab(), model: model.vocab });
    }
    if serving.uniform {
        return Err(GenerateError::Uniform);
    }
    let mut prompt = vec![model.eos_id];
    prompt.extend(tokenizer.encode(&r.prompt)?);
    let length = prompt.len() + r.length;
    if length > model.context {
        return Err(GenerateError::TooLong { asked: length, context: model.context });
    }
    let mut c = DecodeConfig::new(prompt, length as u32, model.vocab as u32, model.mask_id);
    c.attention = if r.whole && serving.attention != Attention::Causal {
        Attention::Bidirectional
    } else {
        serving.attention
    };
    c.block_size = if c.attention == Attention::BlockCausal { serving.block_size as u32 } else { 0 };
    c.shift = serving.shift;
    c.eos_id = Some(model.eos_id);
    c.forbid = model.forbid.clone();
    c.policy = r.policy.unwrap_or_else(|| default_policy(serving));
    c.temperature = r.temperature;
    c.seed = r.seed;
    c.top_k = r.top_k;
    c.fixed = r.fixed.clone();
    c.early_stop = true;
    c.frequencies = tokenizer.frequencies().cloned();
    c.surrogate = tokenizer.surrogate().cloned();
    c.switch = r.switch.clone();
    Ok(c)
}

/// Text of a finished decoding: after the leading end-of-text, up to the next one.
pub fn text(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let eos = tokenizer.specials().eos;
    let body = ids.strip_prefix(&[eos]).unwrap_or(ids);
    let end = body.iter().position(|id| *id == eos).unwrap_or(body.len());
    tokenizer.decode(&body[..end])
}

/// Decodes to the end on a device whose buffers can be read at once. `step` sees every event; false stops.
pub fn run<B: Train>(
    b: &B,
    session: &mut Session<B>,
    decoder: &mut Decoder,
    mut step: impl FnMut(&crate::decode::StepEvent) -> bool,
) -> Result<(), GenerateError> {
    while let Some(request) = decoder.next() {
        let stats = session.answer_on(b, &request)?;
        embedding::tell(b, &session.weights().trunk, session.sequence(), decoder);
        let event = decoder.apply(stats)?;
        if !step(&event) {
            break;
        }
    }
    Ok(())
}

/// One text in a session that other texts were written in before.
///
/// # Errors
/// A request that the model cannot serve.
pub fn decode<B: Train>(
    b: &B,
    session: &mut Session<B>,
    serving: Serving,
    tokenizer: &Tokenizer,
    r: &Request,
) -> Result<Trajectory, GenerateError> {
    let config = decode_config(&session.weights().trunk.config, serving, tokenizer, r)?;
    session.forget();
    complete(b, session, config)
}

/// Decodes to the end.
fn complete<B: Train>(
    b: &B,
    session: &mut Session<B>,
    config: DecodeConfig,
) -> Result<Trajectory, GenerateError> {
    let mut decoder = Decoder::new(config)?;
    run(b, session, &mut decoder, |_| true)?;
    Ok(decoder.trajectory())
}
