//! How finished blocks are kept: where, rounded or not, and which of their positions at all (`methods/kv_cache.md` E to G).
//!
//! Of the caches of block-causal and causal models, whose finished blocks cannot change. `offloaded` keeps the numbers in
//! the host's memory and is exact. Rounding and presses are approximate: rounding (KIVI, arXiv 2402.02750) keeps each block
//! in 8 or 4 bits, a press (KVpress, <https://github.com/NVIDIA/kvpress>) drops positions for good. The first
//! [`SINKS`] positions and the last finished block always stay, and in full precision.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::cache::Surrogate;

/// Leading positions that are never dropped or rounded: attention sinks (StreamingLLM, arXiv 2309.17453).
pub const SINKS: u32 = 4;

/// Where and how keys and values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Storage {
    #[default]
    F32,
    Q8,
    Q4,
    /// in the host's memory, the layer at work on the device
    Offloaded,
}

impl Storage {
    /// Bits of a rounded value.
    pub fn bits(self) -> Option<u32> {
        match self {
            Storage::Q8 => Some(8),
            Storage::Q4 => Some(4),
            Storage::F32 | Storage::Offloaded => None,
        }
    }
}

/// Which positions of a finished block are dropped first. Scores are per layer and head of keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Press {
    #[default]
    None,
    /// by lot
    Random,
    /// long keys
    Knorm,
    /// keys that point where the others point
    Keydiff,
    /// the oldest
    Sinks,
    /// those that the last finished block does not look at
    Snapkv,
    /// those that queries like the last block's would not look at
    ExpectedAttention,
    /// those that a regression on hidden states expects to be looked at little
    Kvzap,
}

/// What a forward asks of a cache.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Compression {
    pub storage: Storage,
    pub press: Press,
    /// share that is dropped
    pub ratio: f32,
    /// of kvzap: what scores below is dropped, whatever share that is
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tau: Option<f32>,
    /// tokens of a block
    pub block: u32,
    /// of kvzap; the model's, as its weights are, so no request carries it
    #[serde(skip)]
    pub surrogate: Option<Arc<Surrogate>>,
}

impl Compression {
    /// Nothing but f32 on the device.
    pub fn is_plain(&self) -> bool {
        self.storage == Storage::F32 && self.press == Press::None
    }
}
