//! Quota: a fixed number of steps a block, the best rows by score first.
//!
//! **Even** (LLaDA, arXiv 2502.09992, appendix B.3): S steps, m0 rows masked at the start of the block, S := min(S, m0),
//! k_s = floor(m0 / S) + [s < m0 mod S].
//! **Dream** (arXiv 2508.15487): times t_s = linspace(1, 1e-3, S + 1), k = floor(m (1 - t_{s+1} / t_s)) of the m rows that
//! are masked now, at least one (its code waits where we write one); the last step takes all.
//!
//! `alg_temp` (Dream): instead of the k best rows, k are drawn without replacement from softmax(score / alg_temp), which is
//! the k best of score / alg_temp + Gumbel noise.

use hilda_kernels::rng::{Rng, Stream};
use serde::{Deserialize, Serialize};

use super::{
    Fired, View,
    parts::{Chosen, Ranked},
};

/// How many rows each step takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    #[default]
    Even,
    Dream,
}

/// Steps of a block of `m0` masks that was asked to take `steps`.
pub(super) fn steps(steps: u32, m0: u32) -> u32 {
    if steps == 0 { m0 } else { steps.min(m0) }.max(1)
}

/// Tokens of step `s` of `steps`.
pub(super) fn share(m0: u32, steps: u32, s: u32) -> u32 {
    m0 / steps + (s < m0 % steps) as u32
}

pub(super) fn quota(ranked: &Ranked, steps: u32, view: &View) -> Chosen {
    quota_at(ranked, steps, view.block_step, view)
}

/// The quota of step `s`.
pub(super) fn quota_at(ranked: &Ranked, asked: u32, s: u32, view: &View) -> Chosen {
    let m0 = view.masked_at_start;
    let (steps, masked) = (steps(asked, m0), ranked.len() as u32);
    let k = if s + 1 >= steps { masked } else { share(m0, steps, s) };
    Chosen::best(ranked, k as usize, Fired::Quota { k: k.min(masked), masked })
}

pub(super) fn dream(ranked: &Ranked, steps: u32, view: &View) -> Chosen {
    let (s, masked) = (view.block_step, ranked.len() as u32);
    let steps = if steps == 0 { view.masked_at_start.max(1) } else { steps };
    let t = |s: u32| 1.0 - (1.0 - 1e-3) * s as f64 / steps as f64;
    let share = if s + 1 >= steps { 1.0 } else { 1.0 - t(s + 1) / t(s) };
    let k = ((masked as f64 * share) as u32).max(1);
    Chosen::best(ranked, k as usize, Fired::Quota { k: k.min(masked), masked })
}

/// Score of a row with the noise of its order.
pub(super) fn noised(score: f64, alg_temp: f32, pos: u32, view: &View) -> f64 {
    let e = Rng::new(view.seed, Stream::Order, view.sequence).exponential(view.step, pos, 1);
    score / alg_temp as f64 - (e as f64).ln()
}
