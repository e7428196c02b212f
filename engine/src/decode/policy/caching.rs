//! Caches that are approximate (Fast-dLLM, arXiv 2505.22618, section 3.2; `methods/kv_cache.md` B): where every position
//! sees the whole text, keys and values outside the block at work change slowly from step to step.
//!
//! The text is written in blocks of `cache_block`. The first forward of a block [s, e) computes everything and writes as
//! well; then
//!
//! - `prefix`: keys and values of [0, s) are kept, forwards compute [s, L);
//! - `dual`: those of everything are kept, forwards compute [s, e) alone; what follows stays as it was when the block was
//!   empty.
//!
//! - `delayed` (dKV-Cache, arXiv 2505.15781, dKV-Decode): every position keeps the keys and values of the forward that last
//!   computed it; forwards compute what is masked, and what was written in the last `cache_delay` forwards, because a
//!   token's keys move most when it is written. 1 as in the paper; 0 is its control, which keeps for a token the keys of
//!   the mask that stood there.
//!
//! With the logit shift the row before the block (`delayed`: before each position that is predicted) is computed too. `cache_refresh` = N computes everything in every N-th
//! forward of a block (1 = exact, and as slow; 0 = only in the first). What is reused carries its age in the record.
//! `cache_check` computes every such step a second time without the cache and records by how much it differs, which costs
//! more than the cache saves.

use serde::{Deserialize, Serialize};

use super::PolicyError;

/// What is kept of positions that may still change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheMode {
    /// nothing: only what can never change is cached
    #[default]
    Exact,
    Prefix,
    Dual,
    Delayed,
}

impl CacheMode {
    /// Are keys and values of the block at work kept?
    pub fn holds_the_block(self) -> bool {
        matches!(self, CacheMode::Dual | CacheMode::Delayed)
    }
}

/// See the module comment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Caching {
    pub cache: CacheMode,
    /// tokens a block
    pub cache_block: u32,
    /// forwards; 0 = never within a block
    pub cache_refresh: u32,
    /// forwards for which a token that was just written is computed anew; of `delayed`
    pub cache_delay: u32,
    /// measure the divergence from exact
    pub cache_check: bool,
}

impl Default for Caching {
    fn default() -> Self {
        Caching {
            cache: CacheMode::Exact,
            cache_block: 32,
            cache_refresh: 0,
            cache_delay: 1,
            cache_check: false,
        }
    }
}

impl Caching {
    pub(super) const NAMES: [&str; 5] =
        ["cache", "cache_block", "cache_refresh", "cache_delay", "cache_check"];

    pub fn approximate(&self) -> bool {
        self.cache != CacheMode::Exact
    }

    pub(super) fn validate(&self, policy: &'static str) -> Result<(), PolicyError> {
        let (value, parameter, needed) = match self {
            Caching { cache_block: 0, .. } => (0, "cache_block", "at least 1 token"),
            Caching { cache_delay: delay @ 65.., .. } => (*delay, "cache_delay", "from 0 to 64 forwards"),
            _ => return Ok(()),
        };
        Err(PolicyError::OutOfRange { policy, parameter, value: value as f64, needed })
    }
}
