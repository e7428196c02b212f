//! What the server's API answers (docs/api.md), as far as these pages read it.

use std::collections::BTreeMap;

use hilda_engine::config::RunConfig;
use hilda_engine::record::{Estimate, Metric, SampleFile, State, Status};
use serde::Deserialize;

/// A row of the table of runs.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct RunSummary {
    pub id: String,
    pub name: String,
    pub state: State,
    pub status: Option<Status>,
    #[serde(default)]
    pub objective: String,
    #[serde(default)]
    pub created: f64,
    #[serde(default)]
    pub disk_bytes: u64,
    /// 1 = next
    #[serde(default)]
    pub queue_position: Option<usize>,
    #[serde(default)]
    pub slug: Option<String>,
    #[serde(default)]
    pub spark: Vec<f64>,
}

/// A file or checkpoint of a run.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct FileInfo {
    pub path: String,
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct CheckpointInfo {
    pub step: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct RunDetail {
    #[serde(flatten)]
    pub summary: RunSummary,
    pub config: RunConfig,
    #[serde(default)]
    pub toml: String,
    #[serde(default)]
    pub parent: Option<String>,
    /// (field, parent's value, own value)
    #[serde(default)]
    pub diff: Vec<(String, String, String)>,
    #[serde(default)]
    pub files: Vec<FileInfo>,
    #[serde(default)]
    pub checkpoints: Vec<CheckpointInfo>,
    #[serde(default)]
    pub unreadable_metrics: u64,
}

/// A page of metric rows. Rows that this page cannot read (a newer server's) are kept as values and skipped.
#[derive(Clone, Debug, Deserialize)]
pub struct MetricRows {
    pub rows: Vec<MetricRow>,
    pub last: i64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct MetricRow {
    pub metric: serde_json::Value,
}

impl MetricRow {
    pub fn read(self) -> Option<Metric> {
        serde_json::from_value(self.metric).ok()
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Recipe {
    pub name: String,
    #[serde(default)]
    pub about: String,
    pub toml: String,
    pub config: RunConfig,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Corpus {
    pub name: String,
    #[serde(default)]
    pub documents: Option<u64>,
    #[serde(default)]
    pub train_tokens: Option<u64>,
    #[serde(default)]
    pub bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct FieldError {
    #[serde(default)]
    pub field: String,
    pub message: String,
}

/// What a recipe would cost.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct LaunchEstimate {
    pub ok: bool,
    #[serde(default)]
    pub errors: Vec<FieldError>,
    #[serde(default)]
    pub parameters: Option<u64>,
    #[serde(default)]
    pub steps: Option<u64>,
    #[serde(default)]
    pub tokens: Option<u64>,
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    #[serde(default)]
    pub seconds: Option<f64>,
    #[serde(default)]
    pub tokens_per_s: Option<f64>,
    #[serde(default)]
    pub flops: Option<f64>,
    #[serde(default)]
    pub basis: String,
    #[serde(default)]
    pub command: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct System {
    #[serde(default)]
    pub device: String,
    #[serde(default)]
    pub memory_total: Option<u64>,
    #[serde(default)]
    pub memory_free: Option<u64>,
    #[serde(default)]
    pub disk_free: Option<u64>,
}

/// What an ablation found, as far as the page shows it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct AblationResult {
    pub name: String,
    pub about: String,
    pub equal: String,
    pub seeds: Vec<u64>,
    pub finished: usize,
    pub planned: usize,
    pub arms: Vec<AblationArm>,
    #[serde(default)]
    pub comparisons: Vec<AblationComparison>,
    #[serde(default)]
    pub command: String,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct AblationArm {
    pub arm: String,
    pub runs: Vec<AblationRun>,
    #[serde(default)]
    pub likelihoods: BTreeMap<String, SeedInterval>,
    #[serde(default)]
    pub estimators: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct AblationRun {
    pub run: String,
    pub tokens: u64,
    pub flops: f64,
}

/// Over seeds, 95 %; no bounds for one seed.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct SeedInterval {
    pub values: Vec<f64>,
    pub mean: f64,
    pub low: Option<f64>,
    pub high: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct AblationComparison {
    pub difference: SeedInterval,
    pub verdict: String,
}

/// The answer to a deletion.
#[derive(Clone, Debug, Deserialize)]
pub struct Undo {
    pub undo: String,
}

/// The answer to sharing.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ShareMade {
    pub slug: String,
    pub url: String,
    pub reachable: bool,
    #[serde(default)]
    pub message: String,
}

/// A point of the loss curve: step, loss, tokens, seconds.
pub type TrainPoint = (u64, f64, u64, f64);

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ValidPoint {
    pub step: u64,
    #[serde(default)]
    pub tokens: u64,
    pub estimate: Estimate,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct RunName {
    pub id: String,
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Cost {
    #[serde(default)]
    pub seconds: f64,
    #[serde(default)]
    pub tokens: u64,
    #[serde(default)]
    pub flops: f64,
    #[serde(default)]
    pub device: String,
}

/// A shared result. The trajectory stays a value: a record that cannot be replayed must not hide the rest.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct SharedResult {
    pub slug: String,
    #[serde(default)]
    pub title: String,
    #[serde(default)]
    pub note: String,
    #[serde(default)]
    pub created: f64,
    pub run: RunName,
    pub config: RunConfig,
    #[serde(default)]
    pub toml: String,
    #[serde(default)]
    pub config_hash: String,
    pub status: Status,
    #[serde(default)]
    pub train: Vec<TrainPoint>,
    #[serde(default)]
    pub valid: Vec<ValidPoint>,
    #[serde(default)]
    pub samples: Vec<SampleFile>,
    #[serde(default)]
    pub trajectory: Option<serde_json::Value>,
    #[serde(default)]
    pub tokenizer_pieces: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    pub cost: Cost,
    #[serde(default)]
    pub command: String,
    #[serde(default)]
    pub version: String,
}

/// The word for a state; the pill adds a shape, so that colour is never alone.
pub fn state_word(state: State) -> &'static str {
    match state {
        State::Queued => "queued",
        State::Running => "running",
        State::Stopped => "stopped",
        State::Finished => "finished",
        State::Failed => "failed",
    }
}

/// Every state, in the order of the filter.
pub const STATES: [State; 5] =
    [State::Running, State::Queued, State::Stopped, State::Finished, State::Failed];
