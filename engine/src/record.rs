//! What a run writes down, shared by the trainer (writes), the server (indexes) and the page (shows).
//!
//! Run folder: `run.toml` (the recipe, defaults filled in), `status.json` ([`Status`], rewritten atomically),
//! `lock`, `metrics.jsonl` (one [`Metric`] a line, append-only), `log.txt`, `samples/step-N.json`
//! ([`SampleFile`]), `ckpt/step-N/` (see `model::checkpoint`).

use serde::{Deserialize, Serialize};

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// waiting for its turn (written by the server)
    Queued,
    Running,
    /// stopped on request; resumes from its last checkpoint
    Stopped,
    Finished,
    /// see `Status::error`; the last checkpoint is intact
    Failed,
}

/// `status.json`. Times are Unix seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub state: State,
    /// optimiser steps done, of how many
    pub step: u64,
    pub total_steps: u64,
    /// clean data tokens seen, of how many
    pub tokens: u64,
    pub total_tokens: u64,
    /// index of the current phase
    pub phase: usize,
    /// counts starts of the trainer on this run, from 1
    pub attempt: u32,
    pub started: f64,
    pub updated: f64,
    /// seconds of training over all attempts
    pub seconds: f64,
    /// estimate for the rest, seconds
    #[serde(default)]
    pub eta: Option<f64>,
    pub device: String,
    /// rows of one forward, chosen when the run began where the recipe names none; a resumed run keeps it
    #[serde(default)]
    pub micro: Option<usize>,
    pub parameters: u64,
    pub config_hash: String,
    #[serde(default)]
    pub error: Option<String>,
    /// last validation
    #[serde(default)]
    pub headline: Option<Estimate>,
    /// step of the newest complete checkpoint
    #[serde(default)]
    pub checkpoint: Option<u64>,
}

/// A likelihood with everything that must stand beside it (invariant 3). Nats per counted token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// "ar", "nelbo_t(8)", "nelbo_block(8,8)" (block 8, K = 8)
    pub estimator: String,
    pub value: f64,
    /// standard error over rows
    pub stderr: f64,
    /// counted tokens, rows and draws per row
    pub tokens: u64,
    pub rows: u64,
    pub k: u64,
    pub seed: u64,
    pub bits_per_byte: Option<f64>,
}

/// One line of `metrics.jsonl`. The last attempt wins per step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Metric {
    /// after every optimiser step
    Train {
        step: u64,
        attempt: u32,
        /// clean tokens seen after this step
        tokens: u64,
        phase: usize,
        /// value of the objective on this batch (not a likelihood)
        loss: f64,
        grad_norm: f64,
        lr: f64,
        /// seconds of this step
        seconds: f64,
        tokens_per_s: f64,
        /// model FLOPs of this step
        flops: f64,
        time: f64,
    },
    Valid {
        step: u64,
        attempt: u32,
        tokens: u64,
        phase: usize,
        time: f64,
        estimate: Estimate,
    },
    Checkpoint {
        step: u64,
        attempt: u32,
        time: f64,
        bytes: u64,
    },
    Sample {
        step: u64,
        attempt: u32,
        time: f64,
        file: String,
    },
    /// a phase begins
    Phase {
        step: u64,
        attempt: u32,
        time: f64,
        phase: usize,
        objective: String,
    },
}

impl Metric {
    pub fn step(&self) -> u64 {
        match self {
            Metric::Train { step, .. }
            | Metric::Valid { step, .. }
            | Metric::Checkpoint { step, .. }
            | Metric::Sample { step, .. }
            | Metric::Phase { step, .. } => *step,
        }
    }
}

/// `samples/step-N.json`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleFile {
    pub step: u64,
    pub samples: Vec<Sample>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub prompt: String,
    pub text: String,
    pub policy: String,
    pub seed: u64,
    pub forwards: u64,
    /// the full record, replayable
    #[serde(default)]
    pub trajectory: Option<crate::decode::Trajectory>,
}
