//! Likelihood estimators under their names (`methods/evaluation.md` 1.1), nats per counted token.
//!
//! | name | what it is | forwards a row |
//! |---|---|---|
//! | `ar` | exact, sum of -ln p(x_i given x_<i) | 1 |
//! | `nelbo_t(K)` | S(m)/t, an upper bound on -ln p of the uniform-order sampler | K |
//! | `nelbo_block(B,K)` | the same block by block behind clean earlier blocks: the bound of the block sampler | K |
//! | `nelbo_n(K)`, `nelbo_block_n(B,K)` | (L/n) S(m) with exactly n masked: the same bounds, less variance | K |
//! | `nelbo_exact`, `nelbo_block_exact(B)` | the same bounds by enumeration | 2^L - 1 |
//! | `nll_l2r`, `nll_l2r(B)` | exact for left-to-right sampling | L or B |
//! | `nll_duel(RULE)`, `nll_duel(RULE,B)` | exact for the sampler that chooses positions by RULE | L or B / tokens a step |
//! | `nll_iw(K)`, `nll_iw(B,K)` | a bound of the uniform-order sampler from K random orders, closer than the NELBO | K L or K B |
//! | `nelbo_hybrid(P,K)`, `nelbo_hybrid(P,B,K)` | bound of mask and uniform noise, raw | K |
//! | `nelbo_hybrid_loo(...)` | the same after the leave-one-out conversion | K |
//! | `nelbo_unif(K)`, `nelbo_unif(B,K)`, `nelbo_unif_loo(...)` | the same at P = 1: uniform noise alone | K |
//!
//! Rates and counts are stratified over all (row, group, draw); masks are keyed by (seed, draw, row, column), so two
//! models are compared on the same masks. The standard error is over rows (ratio estimator, section 1.4). The estimators
//! are written against [`Denoiser`]; the states of a row share the forward of its clean tokens.

pub mod chain;
pub mod denoiser;
pub mod draws;
pub mod exact;
pub mod groups;
pub mod hybrid;
#[cfg(test)]
mod tests;

use hilda_kernels::Train;
use hilda_kernels::rng::{Rng, Stream};

pub use chain::Rule;
pub use denoiser::{Alphabet, Denoiser, Net, Scored, State};

use super::batch::causal;
use crate::config::PackingSpec;
use crate::data::{Packed, Row};
use crate::model::{Plan, Trunk};
use crate::record::Estimate;
use groups::Layout;

/// Which estimator. `block` 0 = whole rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Estimator {
    Ar,
    NelboT { k: usize },
    NelboBlock { block: usize, k: usize },
    NelboN { block: usize, k: usize },
    NelboExact { block: usize },
    LeftToRight { block: usize },
    Duel { rule: Rule, block: usize },
    Weighted { block: usize, k: usize },
    Hybrid { p_uniform: f64, loo: bool, block: usize, k: usize },
}

/// A likelihood that cannot be had, with what to do instead.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LikelihoodError {
    #[error("{estimator}: {why}; {remedy}")]
    Unavailable { estimator: String, why: String, remedy: String },
    #[error("stopped")]
    Stopped,
    #[error("{message}")]
    Device { message: String },
}

impl Estimator {
    pub fn name(&self) -> String {
        let blocks = |name: &str, block: usize, k: Option<usize>| {
            let block = (block > 0).then(|| block.to_string());
            let list: Vec<String> = block.into_iter().chain(k.map(|k| k.to_string())).collect();
            if list.is_empty() { name.to_string() } else { format!("{name}({})", list.join(",")) }
        };
        match *self {
            Estimator::Ar => "ar".into(),
            Estimator::NelboT { k } => format!("nelbo_t({k})"),
            Estimator::NelboBlock { block, k } => format!("nelbo_block({block},{k})"),
            Estimator::NelboN { block: 0, k } => format!("nelbo_n({k})"),
            Estimator::NelboN { block, k } => format!("nelbo_block_n({block},{k})"),
            Estimator::NelboExact { block: 0 } => "nelbo_exact".into(),
            Estimator::NelboExact { block } => format!("nelbo_block_exact({block})"),
            Estimator::LeftToRight { block } => blocks("nll_l2r", block, None),
            Estimator::Duel { rule, block: 0 } => format!("nll_duel({})", rule.name()),
            Estimator::Duel { rule, block } => format!("nll_duel({},{block})", rule.name()),
            Estimator::Weighted { block, k } => blocks("nll_iw", block, Some(k)),
            Estimator::Hybrid { p_uniform, loo, block, k } => {
                let noise = if p_uniform == 1.0 { "unif" } else { "hybrid" };
                let name = format!("nelbo_{noise}{}", if loo { "_loo" } else { "" });
                if p_uniform == 1.0 {
                    return blocks(&name, block, Some(k));
                }
                let block = if block > 0 { format!("{block},") } else { String::new() };
                format!("{name}({p_uniform},{block}{k})")
            }
        }
    }
    /// Draws a row; 1 where nothing is drawn.
    pub fn k(&self) -> usize {
        match self {
            Estimator::NelboT { k }
            | Estimator::NelboBlock { k, .. }
            | Estimator::NelboN { k, .. }
            | Estimator::Weighted { k, .. }
            | Estimator::Hybrid { k, .. } => *k,
            _ => 1,
        }
    }
    /// Does it depend on a seed?
    pub fn drawn(&self) -> bool {
        use Estimator::{Hybrid, NelboBlock, NelboN, NelboT, Weighted};
        matches!(self, NelboT { .. } | NelboBlock { .. } | NelboN { .. } | Weighted { .. } | Hybrid { .. })
    }
    /// Block size; None: whole rows.
    pub fn block(&self) -> Option<usize> {
        match *self {
            Estimator::Ar | Estimator::NelboT { .. } => None,
            Estimator::NelboBlock { block, .. }
            | Estimator::NelboN { block, .. }
            | Estimator::NelboExact { block }
            | Estimator::LeftToRight { block }
            | Estimator::Duel { block, .. }
            | Estimator::Weighted { block, .. }
            | Estimator::Hybrid { block, .. } => (block > 0).then_some(block),
        }
    }
    fn unavailable(&self, why: impl Into<String>, remedy: impl Into<String>) -> LikelihoodError {
        LikelihoodError::Unavailable { estimator: self.name(), why: why.into(), remedy: remedy.into() }
    }
    /// Whether a model that is decoded as `serving` has this likelihood.
    ///
    /// # Errors
    /// [`LikelihoodError::Unavailable`] with what to measure instead.
    pub fn check(&self, serving: crate::model::Serving) -> Result<(), LikelihoodError> {
        use crate::decode::Attention::{BlockCausal, Causal};
        let causal = serving.attention == Causal;
        let left_to_right = causal || (serving.attention == BlockCausal && serving.block_size == 1);
        match self {
            Estimator::Ar if !left_to_right => {
                Err(self.unavailable(
                    "the model is not causal, so it has no left-to-right factorisation in one forward",
                    "use nll_l2r for the exact likelihood of left-to-right sampling",
                ))
            }
            Estimator::Ar => Ok(()),
            _ if causal => Err(self.unavailable(
                "the model is causal and has no corruption process",
                "use ar, its exact likelihood",
            )),
            Estimator::Hybrid { .. } if !serving.edits => Err(self.unavailable(
                "the model was never shown wrong visible tokens, so what it predicts at visible positions is untrained",
                "use nelbo_n or nelbo_block_n, or train with edit = { ... } first",
            )),
            _ => Ok(()),
        }
    }
}

/// An evaluation's fixed parts.
#[derive(Clone, Copy, Debug)]
pub struct Evaluation {
    pub estimator: Estimator,
    pub seed: u64,
    pub shift: bool,
    pub packing: PackingSpec,
    /// at most this many rows; 0 = all
    pub rows: usize,
    /// UTF-8 bytes per token of the raw text (end-of-text tokens counted as tokens, 0 bytes)
    pub bytes_per_token: Option<f64>,
}

/// Rows of one forward while evaluating whole rows.
const CHUNK: usize = 4;
/// Noisy views of a row that share its clean tokens in one forward.
const VIEWS: usize = 8;

/// Rows a plan needs for [`evaluate`].
pub fn plan_rows(estimator: Estimator, length: usize) -> usize {
    let group = length * if estimator.block().is_some() { VIEWS + 1 } else { CHUNK };
    // short rows: several groups, so that products are not too small
    group * (2048 / group).max(1)
}

/// Evaluates `params` on packed rows. `progress(done, of)` is called as rows (chains: forwards) are done; returning false
/// stops.
///
/// # Errors
/// [`LikelihoodError`]: nothing to score, rows too long to enumerate, stopped, or a device that failed.
pub fn evaluate<B: Train>(
    b: &B,
    trunk: &Trunk,
    params: &B::Buf,
    plan: &mut Plan<B>,
    data: &Packed,
    e: &Evaluation,
    mut progress: impl FnMut(usize, usize) -> bool,
) -> Result<Estimate, LikelihoodError> {
    let n = if e.rows == 0 { data.len() } else { e.rows.min(data.len()) };
    let rows: Vec<Row> = (0..n).map(|i| data.row(i)).collect();
    let parts = if e.estimator == Estimator::Ar {
        ar(b, trunk, params, plan, &rows, e, &mut progress)?
    } else {
        let alphabet = Alphabet::of(&trunk.config);
        let block = e.estimator.block();
        let layout = Layout::new(&rows, &e.packing, block, e.shift, alphabet);
        let (packing, shift) = (e.packing, e.shift);
        let mut net = Net { backend: b, trunk, params, plan, rows: &rows, packing, block, shift };
        nats(&mut net, &layout, e.estimator, e.seed, &mut progress)?
    };
    match b.failure() {
        Some(message) => Err(LikelihoodError::Device { message }),
        None => estimate(e, &parts),
    }
}

/// (nats, scored tokens) of every row of a layout under any estimator but `ar`.
///
/// # Errors
/// As [`evaluate`].
pub fn nats<D: Denoiser>(
    d: &mut D,
    layout: &Layout,
    estimator: Estimator,
    seed: u64,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Vec<(f64, f64)>, LikelihoodError> {
    let n = layout.rows.len();
    let k = estimator.k();
    let mut out: Vec<(f64, f64)> = Vec::with_capacity(n);
    let stopped = LikelihoodError::Stopped;
    match estimator {
        Estimator::Ar => unreachable!("not a likelihood of corrupted rows"),
        Estimator::NelboT { .. } | Estimator::NelboBlock { .. } | Estimator::NelboN { .. } => {
            let counts = matches!(estimator, Estimator::NelboN { .. });
            let draws = draws::Draws::new(layout, seed, k, counts, true);
            for first in (0..n).step_by(CHUNK) {
                let rows = first..(first + CHUNK).min(n);
                let all = rows.clone().flat_map(|r| (0..k).map(move |j| (r, j)));
                let (states, weights): (Vec<_>, Vec<_>) = all.map(|(r, j)| draws.draw(r, j)).unzip();
                let sums = weighted(d, &states, &weights);
                for (r, sums) in rows.clone().zip(sums.chunks(k)) {
                    out.push((sums.iter().sum::<f64>() / k as f64, layout.counted(r) as f64));
                }
                if !progress(rows.end, n) {
                    return Err(stopped);
                }
            }
        }
        Estimator::NelboExact { .. } => {
            for r in 0..n {
                let longest = layout.parts(r).iter().map(Vec::len).max().unwrap_or(0);
                if longest > exact::MOST {
                    return Err(estimator.unavailable(
                        format!("{longest} tokens together have 2^{longest} - 1 masks, at most {} tokens are enumerated", exact::MOST),
                        "use nelbo_n or nelbo_block_n, or shorter rows (--length) or blocks (--block)",
                    ));
                }
                let (states, weights): (Vec<_>, Vec<_>) = exact::states(layout, r).into_iter().unzip();
                out.push((weighted(d, &states, &weights).iter().sum(), layout.counted(r) as f64));
                if !progress(r + 1, n) {
                    return Err(stopped);
                }
            }
        }
        Estimator::LeftToRight { .. } | Estimator::Duel { .. } => {
            let rule = match estimator {
                Estimator::Duel { rule, .. } => rule,
                _ => Rule::Leftmost,
            };
            for first in (0..n).step_by(CHUNK) {
                let rows = first..(first + CHUNK).min(n);
                let mut tick = || progress(first, n);
                let chains = chain::score(d, layout, rows.clone(), rule, &mut tick).ok_or(stopped.clone())?;
                for (r, (_, scored)) in rows.clone().zip(&chains) {
                    assert_eq!(*scored as usize, layout.counted(r), "a chain scores every token once");
                }
                out.extend(chains);
                if !progress(rows.end, n) {
                    return Err(stopped);
                }
            }
        }
        Estimator::Weighted { .. } => {
            let orders = Rng::new(seed, Stream::Eval, 2);
            for first in (0..n).step_by(CHUNK) {
                let rows = first..(first + CHUNK).min(n);
                let mut chains = vec![];
                for j in 0..k {
                    let order = Some((&orders, j as u32));
                    let mut tick = || progress(first, n);
                    let of = chain::score_parts(d, layout, rows.clone(), Rule::Leftmost, order, &mut tick);
                    chains.push(of.ok_or(stopped.clone())?);
                }
                for (i, r) in rows.clone().enumerate() {
                    let part =
                        |p: usize| chain::log_mean(&chains.iter().map(|c| c[i].0[p]).collect::<Vec<_>>());
                    out.push(((0..chains[0][i].0.len()).map(part).sum(), layout.counted(r) as f64));
                }
                if !progress(rows.end, n) {
                    return Err(stopped);
                }
            }
        }
        Estimator::Hybrid { p_uniform, loo, .. } => {
            let draws = hybrid::HybridDraws::new(layout, seed, k, p_uniform);
            for r in 0..n {
                let sums = draws.nats(d, (0..k).map(|j| draws.draw(r, j)).collect(), loo);
                out.push((sums.iter().sum::<f64>() / k as f64, layout.counted(r) as f64));
                if !progress(r + 1, n) {
                    return Err(stopped);
                }
            }
        }
    }
    Ok(out)
}

/// sum of weight times -ln p of each state.
pub fn weighted<D: Denoiser>(d: &mut D, states: &[State], weights: &[Vec<f64>]) -> Vec<f64> {
    let sum = |s: &[Scored], w: &[f64]| s.iter().zip(w).map(|(s, w)| -w * s.log_p).sum();
    d.score(states, false).iter().zip(weights).map(|(s, w)| sum(s, w)).collect()
}

fn ar<B: Train>(
    b: &B,
    trunk: &Trunk,
    params: &B::Buf,
    plan: &mut Plan<B>,
    rows: &[Row],
    e: &Evaluation,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Vec<(f64, f64)>, LikelihoodError> {
    let mut parts = vec![(0.0, 0.0); rows.len()];
    for (i, chunk) in rows.chunks(CHUNK).enumerate() {
        let micro = causal(chunk, &e.packing, 1.0);
        denoiser::forward(b, trunk, params, plan, &micro);
        let (log_p, _) = trunk.log_probs(b, params, plan, &micro.hidden_rows, &micro.rows);
        for (lp, s) in log_p.iter().zip(&micro.sequence) {
            let part = &mut parts[i * CHUNK + *s as usize];
            part.0 -= *lp as f64;
            part.1 += 1.0;
        }
        if !progress((i * CHUNK + chunk.len()).min(rows.len()), rows.len()) {
            return Err(LikelihoodError::Stopped);
        }
    }
    Ok(parts)
}

/// The record of an evaluation from its rows.
fn estimate(e: &Evaluation, parts: &[(f64, f64)]) -> Result<Estimate, LikelihoodError> {
    let tokens: f64 = parts.iter().map(|p| p.1).sum();
    if tokens == 0.0 {
        return Err(e
            .estimator
            .unavailable("no token of this text has a prediction", "give documents of at least two tokens"));
    }
    let (value, stderr) = ratio(parts);
    Ok(Estimate {
        estimator: e.estimator.name(),
        value,
        stderr,
        tokens: tokens as u64,
        rows: parts.len() as u64,
        k: e.estimator.k() as u64,
        seed: e.seed,
        bits_per_byte: e.bytes_per_token.map(|b| value / (std::f64::consts::LN_2 * b)),
    })
}

/// sum y / sum x over (y, x) and its standard error (ratio estimator; `methods/evaluation.md` 1.4); NaN for one pair.
pub fn ratio(parts: &[(f64, f64)]) -> (f64, f64) {
    let (y, x) = parts.iter().fold((0.0, 0.0), |a, p| (a.0 + p.0, a.1 + p.1));
    let (n, value) = (parts.len() as f64, y / x);
    let square: f64 = parts.iter().map(|(y, x)| (y - value * x).powi(2)).sum();
    (value, if n > 1.0 { (n / (n - 1.0) * square).sqrt() / x } else { f64::NAN })
}
