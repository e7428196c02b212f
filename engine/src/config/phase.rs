//! A phase: one objective for a number of clean data tokens, with its own learning-rate schedule. A run chains
//! phases; step and token counters are global.

use serde::{Deserialize, Serialize};

use crate::diffusion::hybrid::HybridWeighting;
use crate::diffusion::schedule::{Schedule, Scope};

/// What is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// causal next-token cross-entropy
    Ar,
    /// masked diffusion over the whole row (MDLM, arXiv 2406.07524, eq. 10)
    Mdlm,
    /// block diffusion, noisy and clean streams (BD3-LM, arXiv 2503.09573, eq. 8)
    Block,
}

/// Weight of a masked token's cross-entropy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weighting {
    /// 1/t: the NELBO
    #[default]
    InvT,
    /// 1: the low-variance form (not a bound)
    Uniform,
}

/// Peak learning rate and its shape inside the phase, in steps or shares of the phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LrSpec {
    pub peak: f64,
    /// steps of linear warm-up: lr = peak * min(1, (s + 1) / warmup)
    #[serde(default)]
    pub warmup: u64,
    /// "cosine", "linear" or "constant" over the phase
    #[serde(default = "cosine")]
    pub decay: String,
    /// share of the peak that remains at the end
    #[serde(default = "tenth")]
    pub floor: f64,
    /// horizon of the decay in steps, where it is not the phase's length
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub horizon: Option<u64>,
}
fn cosine() -> String {
    "cosine".into()
}
fn tenth() -> f64 {
    0.1
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimiserPolicy {
    /// moments and their count go on from the phase before
    #[default]
    Carry,
    Fresh,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmaPolicy {
    #[default]
    Off,
    Carry,
    Reset,
}

/// Token-editing rows (T2T; LLaDA2.1, arXiv 2602.08676, plain mixture of `methods/llada21_editing.md` 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditSpec {
    /// share of blocks (rows for `mdlm`) that carry corrupted visible tokens
    #[serde(default = "half")]
    pub mix: f64,
    /// replacement rate r is drawn from U(0, rate) per block
    pub rate: f64,
    /// weight of the mean cross-entropy over corrupted visible tokens
    #[serde(default = "one")]
    pub lambda_edit: f64,
    /// weight of the mean cross-entropy over clean visible tokens
    #[serde(default = "tenth")]
    pub lambda_keep: f64,
    /// where wrong tokens come from
    #[serde(default, skip_serializing_if = "Noise::is_uniform")]
    pub noise: Noise,
}

/// Mask and uniform noise together (GIDD, arXiv 2503.04482): every token is supervised, wrong and right visible ones too, by
/// a loss over the whole vocabulary whose weighted expectation is the bound of the process.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HybridSpec {
    /// share of uniform noise at t = 1/2, above 0; 1: uniform noise alone (UDLM)
    pub p_uniform: f64,
    /// nelbo: the bound's own weights; clip and dynamic are no bound, and have less variance
    #[serde(default)]
    pub weighting: HybridWeighting,
}

/// Wrong tokens of editing rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Noise {
    /// uniform ordinary ids
    #[default]
    Uniform,
    /// the model's own draws, all of a block at once (one more forward a step)
    Drafts,
}

impl Noise {
    fn is_uniform(&self) -> bool {
        *self == Noise::Uniform
    }
}
fn half() -> f64 {
    0.5
}
fn one() -> f64 {
    1.0
}

/// Block sizes of a phase: one, or several drawn per batch (0 = the whole row).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum BlockSizes {
    One(usize),
    Several(Vec<usize>),
}

impl BlockSizes {
    pub fn list(&self) -> Vec<usize> {
        match self {
            BlockSizes::One(b) => vec![*b],
            BlockSizes::Several(v) => v.clone(),
        }
    }
}

/// One `[[phase]]` of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    pub objective: Objective,
    /// `block` only
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<BlockSizes>,
    /// token n is read from row n - 1 (models made from autoregressive ones)
    #[serde(default)]
    pub shift: bool,
    /// clean data tokens of this phase
    pub tokens: u64,
    pub lr: LrSpec,
    #[serde(default)]
    pub optimiser: OptimiserPolicy,
    #[serde(default)]
    pub ema: EmaPolicy,
    #[serde(default)]
    pub weighting: Weighting,
    /// smallest and largest mask rate drawn
    #[serde(default = "full_range")]
    pub t: [f64; 2],
    /// shape of the mask rate between them
    #[serde(default, skip_serializing_if = "Schedule::is_linear")]
    pub schedule: Schedule,
    /// who shares a rate: sample, document or block [default: block for `block`, else sample]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_per: Option<Scope>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edit: Option<EditSpec>,
    /// noise of masks and uniform symbols in place of masks alone
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hybrid: Option<HybridSpec>,
    /// `mdlm` only: steps in which attention opens from causal to full, every future edge with a probability that grows
    /// to one (DiffuLLaMA, arXiv 2410.17891, section 3.2); 0 = open from the first step
    #[serde(default, skip_serializing_if = "is_zero")]
    pub anneal: u64,
    /// share of rows that are cut in two documents at a random column (LLaDA, arXiv 2502.09992: 0.01)
    #[serde(default, skip_serializing_if = "is_none")]
    pub random_length: f64,
    /// weight of the entropy of masked tokens whose most probable token is the right one (CAP; LLaDA 2.0, arXiv 2512.15745,
    /// section 4), over all masked tokens of the batch
    #[serde(default, skip_serializing_if = "is_none")]
    pub confidence: f64,
    /// every row twice, with x_t and with the inverse mask: each token is supervised exactly once a pair (LLaDA 2.0,
    /// arXiv 2512.15745; Fast-dLLM v2, arXiv 2509.26328)
    #[serde(default, skip_serializing_if = "is_false")]
    pub complementary: bool,
}
fn is_zero(n: &u64) -> bool {
    *n == 0
}
fn is_none(x: &f64) -> bool {
    *x == 0.0
}
fn is_false(b: &bool) -> bool {
    !*b
}
impl Phase {
    /// Hidden rows of a data token in the forward pass: noisy streams and, for blocks, the clean one.
    pub fn streams(&self) -> usize {
        match (self.objective, self.complementary) {
            (Objective::Ar, _) => 1,
            (Objective::Mdlm, views) => 1 + usize::from(views),
            (Objective::Block, views) => 2 + usize::from(views),
        }
    }
    /// Is the model shown wrong visible tokens, so that what it predicts there can be acted upon?
    pub fn edits(&self) -> bool {
        self.edit.is_some() || self.hybrid.is_some()
    }
    /// Who shares a mask rate.
    pub fn scope(&self) -> Scope {
        let own = if self.objective == Objective::Block { Scope::Block } else { Scope::Sample };
        self.rate_per.unwrap_or(own)
    }
    /// Share of future edges that are open in step `s` (from 0).
    pub fn openness(&self, s: u64) -> f64 {
        if self.anneal == 0 { 1.0 } else { ((s + 1) as f64 / self.anneal as f64).min(1.0) }
    }
}
fn full_range() -> [f64; 2] {
    FULL_RANGE
}
/// Mask rates of the whole bound.
pub const FULL_RANGE: [f64; 2] = [1e-3, 1.0];
