//! Decoding does no I/O: [`Decoder::next`] says which forward it needs, whoever drives it (a CPU loop, a worker
//! that awaits WebGPU, the server) computes the statistics, [`Decoder::apply`] turns them into actions.
//!
//! `State` (ids, status per position, blocks) -> forward -> `Policy` (pure) returns commits, edits, remasks ->
//! the decoder checks and applies them -> an event goes to the `Trajectory`.

mod config;
mod credit;
mod decoder;
mod denoise;
mod drive;
mod error;
mod forward;
pub mod policy;
mod refine;
mod rows;
mod rules;
mod search;
mod state;
pub mod switch;
#[cfg(test)]
mod tests;
pub mod trajectory;
mod user;
mod verify;
mod window;
pub mod wire;

pub use config::{Attention, DecodeConfig, MAX_LENGTH};
pub use decoder::{Decoder, StepEvent};
pub use drive::drive;
pub use error::DecodeError;
pub use policy::{Method, Policy, PolicySpec};
pub use refine::Choose;
pub use search::RankBy;
pub use state::{Action, ActionKind, CERTAIN, State, Status};
pub use switch::{Feature, Switch, Switched};
pub use trajectory::{Ledger, StepKind, StepRecord, Stop, Trajectory};
pub use verify::{Agreement, VerifyError, verify};

use hilda_kernels::{MaskRule, head::RowHead};
use serde::{Deserialize, Serialize};

/// What the driver must compute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ForwardRequest {
    /// the request's own index: part of every random key, never a batch slot
    pub sequence: u32,
    /// decoding step (forwards so far)
    pub step: u32,
    /// positions to compute, ascending, each at or after the cached prefix
    pub query_positions: Vec<u32>,
    /// token ids at `query_positions`
    pub ids: Vec<u32>,
    /// rule between query positions, and between them and the cached prefix
    #[serde(with = "wire")]
    pub rule: MaskRule,
    /// tokens per block for the rule (0 = the whole sequence is one block)
    pub block_size: u32,
    pub cache: CacheOp,
    /// how what is cached is kept; the same in all forwards of a text
    #[serde(default, skip_serializing_if = "policy::Compression::is_plain")]
    pub compression: policy::Compression,
    pub want: Want,
}

/// What happens to keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheOp {
    /// compute and forget
    None,
    /// drop everything from position `keep` on, compute, forget
    Truncate { keep: u32 },
    /// append the keys and values of all query positions (they must continue the cached prefix)
    Store,
    /// forget everything, compute, keep the keys and values of the first `keep` positions of the queries
    Keep { keep: u32 },
    /// the queries lie inside what is cached, with or without gaps: their keys and values replace those kept there, and they
    /// see all of it
    Replace,
    /// compute without the cache and leave it as it is
    Bypass,
}

impl ForwardRequest {
    /// Positions whose keys and values are kept behind this forward, if `cached` were before it.
    pub fn cached_after(&self, cached: u32) -> u32 {
        match self.cache {
            CacheOp::None | CacheOp::Replace | CacheOp::Bypass => cached,
            CacheOp::Truncate { keep } => cached.min(keep),
            CacheOp::Store => cached + self.query_positions.len() as u32,
            CacheOp::Keep { keep } => keep,
        }
    }
}

/// Statistics asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Want {
    /// positions whose token distribution is needed (with the logit shift, position n is read from row n - 1;
    /// the driver's session does that mapping)
    pub rows: Vec<u32>,
    pub top_k: usize,
    /// 0 = candidates are argmaxes
    pub temperature: f32,
    pub seed: u64,
    /// positions whose logits are needed as well, ascending
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub whole: Vec<u32>,
    /// computed behind the queries, under [`Base::Shadow`](hilda_kernels::Base::Shadow)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Shadow>,
}

/// A copy of some positions made of masks, which nothing but itself sees and no cache keeps (WINO).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Shadow {
    /// where its rows stand, ascending
    pub positions: Vec<u32>,
    /// id of the mask
    pub mask: u32,
    /// positions, ascending, whose distribution is read from the copy and not from the queries
    pub rows: Vec<u32>,
}

/// The driver's answer: one entry per wanted row, in the same order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowStats {
    pub rows: Vec<RowHead>,
    /// [whole rows, vocabulary], forbidden ids not yet excluded
    pub logits: Vec<f32>,
    /// what is cached behind the forward, where the driver says so
    pub held: Option<Held>,
}

/// Keys and values that a driver keeps behind a forward, measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Held {
    /// of keys and values, with what is needed to read them
    pub bytes: u64,
    /// positions that were rounded in this forward, half open
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantised: Option<(u32, u32)>,
    /// keys dropped in this forward, [layers, kv_heads]; empty = none
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub evicted: Vec<u32>,
}

impl Held {
    /// What was dropped, for a record: one number where every layer and head lost as many.
    fn summary(&self) -> Vec<u32> {
        match self.evicted.first() {
            Some(n) if self.evicted.iter().all(|m| m == n) => vec![*n],
            _ => self.evicted.clone(),
        }
    }
}
