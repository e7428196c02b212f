//! Everything that can go wrong while decoding, with the names and numbers needed to fix it.

use super::policy::PolicyError;

/// Error of [`super::Decoder`]. No variant leaves the decoder half changed: a refused call has no effect.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DecodeError {
    #[error("length is {length}, it must be from 1 to {max}")]
    Length { length: u32, max: u32 },
    #[error("the prompt has {prompt} tokens, the sequence only {length}")]
    PromptTooLong { prompt: usize, length: u32 },
    #[error("{what} {id} is outside the vocabulary of {vocab}")]
    IdOutOfRange { what: &'static str, id: u32, vocab: u32 },
    #[error("position {pos} is outside the sequence of {length}")]
    PositionOutOfRange { pos: u32, length: u32 },
    #[error("position {pos} is fixed twice")]
    FixedTwice { pos: u32 },
    #[error("position {pos} belongs to the prompt and never changes")]
    PromptPosition { pos: u32 },
    #[error("position {pos} is {status}, this needs {needed}")]
    WrongStatus { pos: u32, status: &'static str, needed: &'static str },
    #[error("token {id} may not be written: it is the mask or a forbidden token")]
    ForbiddenToken { id: u32 },
    #[error(
        "with the logit shift, position 0 has no row to be predicted from: give a prompt of at least one token"
    )]
    NothingBeforeFirst,
    #[error("a causal model needs {needed}")]
    Causal { needed: &'static str },
    #[error("temperature {temperature} is not a number of at least 0")]
    Temperature { temperature: f32 },
    #[error(
        "entropy_bound needs a temperature of at most 1, got {temperature}: the entropies it sums are those at temperature 1"
    )]
    EntropyBoundTemperature { temperature: f32 },
    #[error("top_k is {top_k}, at most {max} tokens are ranked")]
    TopK { top_k: usize, max: usize },
    #[error("early_stop needs eos_id")]
    NoEos,
    #[error("eos = {eos} needs eos_id: the model has no end of text")]
    EosControl { eos: &'static str },
    #[error(
        "score pc needs how often each token occurs in a corpus, and this model's folder has no frequencies.json; `hilda models frequencies MODEL --data TEXT` writes one"
    )]
    NoFrequencies,
    #[error(
        "cache_press kvzap needs a regression on the model's hidden states, and this model's folder has no kvzap.json; `hilda models kvzap MODEL --data TEXT` writes one"
    )]
    NoSurrogate,
    #[error(
        "the policy switch needs what it decides by, and this model's folder has no switch.json (it does not travel to the page); `hilda switch fit --model MODEL` writes one"
    )]
    NoSwitch,
    #[error("switch.json: {0}")]
    Switch(String),
    #[error(
        "the policy switch decides by keys and values, and whoever computes this decoding cannot read them"
    )]
    NoEmbedding,
    #[error("{policy} needs {needed}")]
    Unserved { policy: &'static str, needed: &'static str },
    #[error("a search is at work: change the text once it has ended")]
    Searching,
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error("apply was called without a pending forward")]
    NoForwardPending,
    #[error("a forward is pending: hand its statistics to apply first")]
    ForwardPending,
    #[error("{wanted} rows were asked for, {got} came back")]
    RowCount { wanted: usize, got: usize },
    #[error("{wanted} logits were asked for, {got} came back")]
    LogitCount { wanted: usize, got: usize },
    #[error("the statistics of position {pos} are not usable: {field} = {value}")]
    BadRow { pos: u32, field: &'static str, value: f32 },
    #[error("the policy broke a rule at position {pos}: {rule}")]
    PolicyBroke { pos: u32, rule: &'static str },
}
