//! The recipe as a whole: reading, validating, resolving, hashing and comparing it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Claims, EmaPolicy, FULL_RANGE, LoraSpec, ModelSpec, Objective, Phase, Weighting};
use crate::diffusion::schedule::Scope;

/// A recipe that cannot run, with the field at fault.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConfigError {
    #[error("recipe does not parse: {0}")]
    Parse(String),
    #[error("{field}: {message}")]
    Field { field: String, message: String },
}

impl ConfigError {
    pub fn field(field: &str, message: impl Into<String>) -> Self {
        ConfigError::Field { field: field.into(), message: message.into() }
    }
}

/// Where text comes from. Either a registered `corpus` or explicit files (paths relative to the recipe).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSpec {
    /// name given to `hilda data add`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corpus: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid: Option<String>,
    /// a `tokenizer.json`; without it one is trained on the training text
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// size of the tokenizer to train
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocab: Option<usize>,
    /// use at most this many training documents
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// documents are a prompt that ends in this text and an answer: only answers are corrupted, supervised and scored
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_after: Option<String>,
    #[serde(default)]
    pub packing: PackingSpec,
}

/// How documents become rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackingSpec {
    /// row length, tokens
    #[serde(default = "d256")]
    pub length: usize,
    /// attention stays inside a document
    #[serde(default = "yes")]
    pub documents: bool,
    /// rotary positions restart at each document
    #[serde(default = "yes")]
    pub restart_positions: bool,
    /// blocks restart at each document
    #[serde(default = "yes")]
    pub restart_blocks: bool,
}
fn d256() -> usize {
    256
}
fn yes() -> bool {
    true
}
impl Default for PackingSpec {
    fn default() -> Self {
        PackingSpec { length: 256, documents: true, restart_positions: true, restart_blocks: true }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchSpec {
    /// rows of one optimiser step
    pub rows: usize,
    /// rows of one forward; gradients accumulate. None: chosen for the device ([`crate::train::memory::micro_for`])
    #[serde(default)]
    pub micro: Option<usize>,
    /// what was chosen where `micro` is None; no part of a recipe, kept in the run's status
    #[serde(skip)]
    pub chosen: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimiserSpec {
    #[serde(default = "betas")]
    pub betas: [f64; 2],
    #[serde(default = "eps")]
    pub eps: f64,
    #[serde(default)]
    pub weight_decay: f64,
    /// global gradient norm; 0 = off
    #[serde(default = "clip")]
    pub clip: f64,
    #[serde(default = "ema_decay")]
    pub ema_decay: f64,
}
fn betas() -> [f64; 2] {
    [0.9, 0.98]
}
fn eps() -> f64 {
    1e-8
}
fn clip() -> f64 {
    1.0
}
fn ema_decay() -> f64 {
    0.999
}
impl Default for OptimiserSpec {
    fn default() -> Self {
        OptimiserSpec { betas: betas(), eps: eps(), weight_decay: 0.1, clip: clip(), ema_decay: ema_decay() }
    }
}

/// What a step may save at the price of arithmetic. Changes no bit of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemorySpec {
    /// keep each layer's input instead of its activations and compute the layer once more in the backward pass
    #[serde(default)]
    pub recompute: bool,
}
impl MemorySpec {
    fn is_default(&self) -> bool {
        *self == MemorySpec::default()
    }
}

/// Validation during training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalSpec {
    /// steps between validations; 0 = only at the end of a phase
    #[serde(default = "d100")]
    pub every: u64,
    /// draws per row
    #[serde(default = "k1")]
    pub k: usize,
    /// validation rows, 0 = all
    #[serde(default)]
    pub rows: usize,
}
fn d100() -> u64 {
    100
}
fn k1() -> usize {
    1
}
impl Default for EvalSpec {
    fn default() -> Self {
        EvalSpec { every: 100, k: 1, rows: 64 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointSpec {
    /// steps between checkpoints; one is always written at the end and on stop
    #[serde(default = "d100")]
    pub every: u64,
}
impl Default for CheckpointSpec {
    fn default() -> Self {
        CheckpointSpec { every: 100 }
    }
}

/// Samples written at checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleSpec {
    #[serde(default = "prompts")]
    pub prompts: Vec<String>,
    /// tokens after the prompt; 0 = no samples
    #[serde(default = "d64")]
    pub length: usize,
}
fn prompts() -> Vec<String> {
    vec!["Once upon a time".into()]
}
fn d64() -> usize {
    64
}
impl Default for SampleSpec {
    fn default() -> Self {
        SampleSpec { prompts: prompts(), length: 64 }
    }
}

/// The whole recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// shown in tables and used for the run folder's name
    pub name: String,
    /// the one claim this recipe makes, for people
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
    #[serde(default)]
    pub seed: u64,
    /// auto, cpu or cuda:N
    #[serde(default = "auto")]
    pub device: String,
    #[serde(default)]
    pub model: ModelSpec,
    /// train adapters of this kind instead of the weights
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraSpec>,
    #[serde(default)]
    pub data: DataSpec,
    pub batch: BatchSpec,
    #[serde(default, skip_serializing_if = "MemorySpec::is_default")]
    pub memory: MemorySpec,
    #[serde(default)]
    pub optimiser: OptimiserSpec,
    #[serde(default)]
    pub eval: EvalSpec,
    #[serde(default)]
    pub checkpoint: CheckpointSpec,
    #[serde(default)]
    pub sample: SampleSpec,
    /// what `hilda audit` holds the recipe to
    #[serde(default, skip_serializing_if = "Claims::is_empty")]
    pub claims: Claims,
    #[serde(rename = "phase")]
    pub phases: Vec<Phase>,
}
fn auto() -> String {
    "auto".into()
}

impl RunConfig {
    /// Reads a recipe. Unknown keys, wrong types and impossible values are errors that name the field.
    pub fn from_toml(text: &str) -> Result<RunConfig, ConfigError> {
        let config: RunConfig = toml::from_str(text).map_err(|e| ConfigError::Parse(e.to_string()))?;
        config.validate()?;
        Ok(config)
    }
    /// The recipe with every default written out.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("a RunConfig is plain data")
    }
    /// Everything that can be known to be wrong before any work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let bad = |f: &str, m: String| Err(ConfigError::field(f, m));
        if self.name.is_empty()
            || self.name.len() > 80
            || !self.name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            || self.name.starts_with('.')
        {
            return bad("name", "1 to 80 letters, digits, '-', '_' or '.', not starting with '.'".into());
        }
        if self.device != "auto" && self.device != "cpu" && !self.device.starts_with("cuda:") {
            return bad("device", format!("\"{}\" is not auto, cpu or cuda:N", self.device));
        }
        let length = self.data.packing.length;
        if !(8..=65536).contains(&length) {
            return bad("data.packing.length", format!("{length} is outside 8..65536"));
        }
        if self.data.packing.restart_positions && !self.data.packing.documents {
            // a causal rule compares positions, so tokens would see later documents
            return bad("data.packing.restart_positions", "needs data.packing.documents".into());
        }
        if let Some(c) = self.model.context
            && c < length
        {
            return bad("model.context", format!("{c} is shorter than data.packing.length = {length}"));
        }
        // the shape, with the tokenizer's part filled in by a stand-in
        let vocab = self.data.vocab.unwrap_or(4096).clamp(260, 65536);
        ModelSpec { context: Some(self.model.context.unwrap_or(length)), ..self.model.clone() }.resolve(
            vocab,
            1,
            0,
            vec![],
        )?;
        if self.data.corpus.is_none() && self.data.train.is_none() {
            return bad("data", "name a registered corpus or a train file".into());
        }
        if self.data.corpus.is_some() && (self.data.train.is_some() || self.data.valid.is_some()) {
            return bad("data.corpus", "give either a corpus or train/valid files, not both".into());
        }
        if self.data.answer_after.as_ref().is_some_and(|m| m.is_empty()) {
            return bad("data.answer_after", "is the text that ends a prompt, so it is not empty".into());
        }
        if let Some(v) = self.data.vocab
            && !(260..=65536).contains(&v)
        {
            return bad("data.vocab", format!("{v} is outside 260..65536"));
        }
        if !(1..=65536).contains(&self.batch.rows) {
            return bad("batch.rows", format!("{} is outside 1..65536", self.batch.rows));
        }
        if let Some(m) = self.batch.micro
            && (m == 0 || self.batch.rows % m != 0)
        {
            return bad("batch.micro", format!("{m} must divide batch.rows = {}", self.batch.rows));
        }
        let o = &self.optimiser;
        for (i, b) in o.betas.iter().enumerate() {
            if !(0.0..1.0).contains(b) {
                return bad("optimiser.betas", format!("beta {} = {b} is outside [0, 1)", i + 1));
            }
        }
        let sound = o.eps > 0.0 && o.eps < 1.0 && (0.0..10.0).contains(&o.weight_decay) && o.clip >= 0.0;
        if !sound {
            return bad("optimiser", "eps in (0, 1), weight_decay in [0, 10), clip >= 0".into());
        }
        if !(0.0..1.0).contains(&o.ema_decay) {
            return bad("optimiser.ema_decay", format!("{} is outside [0, 1)", o.ema_decay));
        }
        if let Some(lora) = &self.lora {
            lora.validate()?;
            if self.phases.iter().any(|p| p.ema != EmaPolicy::Off) {
                return bad("lora", "adapters are not averaged; set ema = \"off\" in every phase".into());
            }
        }
        if self.phases.is_empty() {
            return bad("phase", "a run needs at least one [[phase]]".into());
        }
        for (i, p) in self.phases.iter().enumerate() {
            let bad = |f: &str, m: String| Err(ConfigError::field(&format!("phase[{i}].{f}"), m));
            let step_tokens = (self.batch.rows * length) as u64;
            if p.tokens < step_tokens {
                return bad("tokens", format!("{} is less than one step ({step_tokens})", p.tokens));
            }
            if !(p.lr.peak > 0.0 && p.lr.peak <= 1.0) {
                return bad("lr.peak", format!("{} is outside (0, 1]", p.lr.peak));
            }
            if !["cosine", "linear", "constant"].contains(&p.lr.decay.as_str()) {
                return bad("lr.decay", format!("\"{}\" is not cosine, linear or constant", p.lr.decay));
            }
            if !(0.0..=1.0).contains(&p.lr.floor) {
                return bad("lr.floor", format!("{} is outside [0, 1]", p.lr.floor));
            }
            if !(p.t[0] > 0.0 && p.t[0] < p.t[1] && p.t[1] <= 1.0) {
                return bad("t", format!("[{}, {}] must satisfy 0 < low < high <= 1", p.t[0], p.t[1]));
            }
            match (p.objective, &p.block_size) {
                (Objective::Block, None) => return bad("block_size", "block diffusion needs one".into()),
                (Objective::Block, Some(b)) => {
                    let list = b.list();
                    if list.is_empty() {
                        return bad("block_size", "the list is empty".into());
                    }
                    for b in list {
                        if b > length || (b > 0 && length % b != 0) {
                            return bad(
                                "block_size",
                                format!("{b} must divide data.packing.length = {length}"),
                            );
                        }
                    }
                }
                (_, Some(_)) => return bad("block_size", "only the block objective has blocks".into()),
                _ => {}
            }
            if p.objective == Objective::Ar && (!p.schedule.is_linear() || p.rate_per.is_some()) {
                return bad("schedule", "an autoregressive phase masks nothing".into());
            }
            if p.objective != Objective::Block && p.rate_per == Some(Scope::Block) {
                return bad("rate_per", "only the block objective has blocks".into());
            }
            if !(0.0..=1.0).contains(&p.random_length) {
                return bad("random_length", format!("{} is outside [0, 1]", p.random_length));
            }
            if p.random_length > 0.0 && !self.data.packing.documents {
                return bad("random_length", "cuts documents, so it needs data.packing.documents".into());
            }
            if !(0.0..=100.0).contains(&p.confidence) {
                return bad("confidence", format!("{} is outside [0, 100]", p.confidence));
            }
            if p.confidence > 0.0 && (p.objective == Objective::Ar || p.edit.is_some()) {
                return bad(
                    "confidence",
                    "sharpens masked tokens: no autoregressive or editing phase".into(),
                );
            }
            if p.anneal > 0 && p.objective != Objective::Mdlm {
                return bad("anneal", "only mdlm opens its attention; blocks grow instead".into());
            }
            if p.complementary && p.objective == Objective::Ar {
                return bad("complementary", "views need a masked objective".into());
            }
            if p.complementary && p.edit.is_some() {
                return bad("complementary", "views and editing rows exclude each other".into());
            }
            if let Some(h) = &p.hybrid {
                if p.objective == Objective::Ar {
                    return bad("hybrid", "an autoregressive phase has no noise".into());
                }
                if !(h.p_uniform > 0.0 && h.p_uniform <= 1.0) {
                    return bad(
                        "hybrid.p_uniform",
                        format!("{} is outside (0, 1]; without uniform noise leave hybrid out", h.p_uniform),
                    );
                }
                let mask_only = [
                    (p.edit.is_some(), "edit"),
                    (p.complementary, "complementary"),
                    (p.confidence > 0.0, "confidence"),
                    (!p.schedule.is_linear(), "schedule"),
                    (p.weighting != Weighting::InvT, "weighting"),
                    (p.t != FULL_RANGE, "t"),
                ];
                if let Some((_, key)) = mask_only.iter().find(|m| m.0) {
                    return bad(key, "belongs to masks alone; hybrid has its own times and weights".into());
                }
                if h.p_uniform == 1.0 && self.sample.length > 0 {
                    let says = "uniform noise alone knows no masks, which samples are decoded from; set [sample] length = 0";
                    return bad("hybrid.p_uniform", says.into());
                }
            }
            if let Some(e) = &p.edit {
                if p.objective == Objective::Ar {
                    return bad("edit", "editing rows need a masked objective".into());
                }
                if !(0.0..=1.0).contains(&e.mix) || !(0.0..=1.0).contains(&e.rate) {
                    return bad("edit", "mix and rate are shares in [0, 1]".into());
                }
                if !(e.lambda_edit >= 0.0 && e.lambda_keep >= 0.0) {
                    return bad("edit", "lambda_edit and lambda_keep are at least 0".into());
                }
            }
        }
        Ok(())
    }
    /// Optimiser steps of each phase.
    pub fn phase_steps(&self) -> Vec<u64> {
        let per = (self.batch.rows * self.data.packing.length) as u64;
        self.phases.iter().map(|p| p.tokens / per).collect()
    }
    /// Optimiser steps of the run.
    pub fn total_steps(&self) -> u64 {
        self.phase_steps().iter().sum()
    }
    /// The recipe as others may read it: files under their names, without the folders they lie in here.
    pub fn published(&self) -> RunConfig {
        let mut c = self.clone();
        let d = &mut c.data;
        for path in [&mut d.train, &mut d.valid, &mut d.tokenizer, &mut c.model.from].into_iter().flatten() {
            *path = path.rsplit('/').next().unwrap_or_default().to_string();
        }
        c
    }
    /// SHA-256 over the recipe with every default filled in. The name, the prose, the device, what is kept
    /// in memory and the folders of files stay out.
    pub fn hash(&self) -> String {
        let mut c = RunConfig { model: self.model.clone(), ..self.published() };
        c.name = String::new();
        c.about = String::new();
        c.device = String::new();
        c.memory = MemorySpec::default();
        hex::encode(Sha256::digest(serde_json::to_vec(&c).expect("plain data")))
    }
    /// Dotted fields that differ: (field, left, right), absent values as "".
    pub fn diff(&self, other: &RunConfig) -> Vec<(String, String, String)> {
        let (a, b) = (self.flatten(), other.flatten());
        let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
        let get = |m: &BTreeMap<String, String>, k: &String| m.get(k).cloned().unwrap_or_default();
        keys.into_iter()
            .filter(|k| a.get(*k) != b.get(*k))
            .map(|k| (k.clone(), get(&a, k), get(&b, k)))
            .collect()
    }
    /// Every leaf as dotted name and text.
    pub fn flatten(&self) -> BTreeMap<String, String> {
        fn walk(prefix: &str, v: &serde_json::Value, out: &mut BTreeMap<String, String>) {
            let join = |k: &str| if prefix.is_empty() { k.to_string() } else { format!("{prefix}.{k}") };
            match v {
                serde_json::Value::Object(m) => m.iter().for_each(|(k, v)| walk(&join(k), v, out)),
                serde_json::Value::Array(a) if a.iter().any(|x| x.is_object()) => {
                    a.iter().enumerate().for_each(|(i, v)| walk(&format!("{prefix}[{i}]"), v, out))
                }
                serde_json::Value::String(s) => {
                    out.insert(prefix.into(), s.clone());
                }
                v => {
                    out.insert(prefix.into(), v.to_string());
                }
            }
        }
        let mut out = BTreeMap::new();
        walk("", &serde_json::to_value(self).expect("plain data"), &mut out);
        out
    }
}

#[cfg(test)]
mod tests;
