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

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::compression::{Compression, Press, Storage};
use super::{Method, PolicyError};
use crate::model::cache::Surrogate;

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
    /// how finished blocks are kept
    pub cache_storage: Storage,
    /// which of their positions are dropped
    pub cache_press: Press,
    /// share that a press drops
    pub cache_ratio: f32,
    /// of kvzap: drop what scores below, in place of a share
    pub cache_tau: Option<f32>,
}

impl Default for Caching {
    fn default() -> Self {
        Caching {
            cache: CacheMode::Exact,
            cache_block: 32,
            cache_refresh: 0,
            cache_delay: 1,
            cache_check: false,
            cache_storage: Storage::F32,
            cache_press: Press::None,
            cache_ratio: 0.5,
            cache_tau: None,
        }
    }
}

impl Caching {
    pub(super) const NAMES: [&str; 9] = [
        "cache",
        "cache_block",
        "cache_refresh",
        "cache_delay",
        "cache_check",
        "cache_storage",
        "cache_press",
        "cache_ratio",
        "cache_tau",
    ];

    /// Does it keep what may still change?
    pub fn approximate(&self) -> bool {
        self.cache != CacheMode::Exact
    }

    /// Are finished blocks kept otherwise than in f32 on the device?
    pub fn compressed(&self) -> bool {
        self.cache_storage != Storage::F32 || self.cache_press != Press::None
    }

    /// The threshold in place of a share, which kvzap alone has.
    pub fn tau(&self) -> Option<f32> {
        self.cache_tau.filter(|_| self.cache_press == Press::Kvzap)
    }

    /// Does what is kept of finished blocks differ from what was computed?
    pub fn lossy(&self) -> bool {
        let presses = self.cache_press != Press::None && (self.cache_ratio > 0.0 || self.tau().is_some());
        presses || self.cache_storage.bits().is_some()
    }

    /// What forwards ask of the cache of a model with `block` tokens a block (0: its text is divided into blocks of
    /// `cache_block`).
    pub fn compression(&self, block: u32, surrogate: Option<&Arc<Surrogate>>) -> Compression {
        if !self.compressed() {
            return Compression::default();
        }
        Compression {
            storage: self.cache_storage,
            press: self.cache_press,
            ratio: self.cache_ratio,
            tau: self.tau(),
            block: if block == 0 { self.cache_block } else { block },
            surrogate: surrogate.filter(|_| self.cache_press == Press::Kvzap).cloned(),
        }
    }

    /// Is every forward the one that a cache of nothing would give?
    pub fn exact(&self) -> bool {
        !self.approximate() && !self.lossy()
    }

    /// In the words of records and the page.
    pub fn standing(&self) -> &'static str {
        match (self.exact(), self.lossy()) {
            (true, _) => "exact",
            (_, true) => "approximate: finished blocks are rounded or have lost positions",
            _ => "approximate: keys and values of positions that may still change are kept",
        }
    }

    /// Why a method cannot go with what is kept of finished blocks, if it cannot.
    pub(in crate::decode) fn refusal(&self, method: Method, guidance: f32) -> Option<&'static str> {
        match method {
            _ if !self.lossy() => None,
            Method::OrderTokenSearch { .. } | Method::BestOf { .. } | Method::DraftRefine { .. } => Some(
                "cache_storage = f32 or offloaded and cache_press = none: it compares or rewrites whole texts",
            ),
            _ if guidance != 0.0 => Some(
                "cache_storage = f32 or offloaded and cache_press = none: with guidance nothing is cached",
            ),
            _ => None,
        }
    }

    pub(super) fn validate(&self, policy: &'static str) -> Result<(), PolicyError> {
        let (value, parameter, needed) = match self {
            Caching { cache_block: 0, .. } => (0, "cache_block", "at least 1 token"),
            Caching { cache_delay: delay @ 65.., .. } => (*delay, "cache_delay", "from 0 to 64 forwards"),
            _ => return self.check_press(policy),
        };
        Err(PolicyError::OutOfRange { policy, parameter, value: value as f64, needed })
    }

    fn check_press(&self, policy: &'static str) -> Result<(), PolicyError> {
        let (value, parameter, needed) = match (self.cache_ratio, self.cache_tau) {
            (ratio, _) if !(0.0..=1.0).contains(&ratio) => (ratio, "cache_ratio", "a share from 0 to 1"),
            (_, Some(tau)) if tau.is_nan() => (tau, "cache_tau", "a number"),
            _ => return Ok(()),
        };
        Err(PolicyError::OutOfRange { policy, parameter, value: value as f64, needed })
    }
}
