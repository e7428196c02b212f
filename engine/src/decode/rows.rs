//! Rows whose logits came back whole: guidance, penalties, credit, filters, and how much a row's distribution has moved.
//!
//! The same code on every back end, on logits that differ by rounding alone.

use std::ops::Range;

use hilda_kernels::head::{Filter, RowHead, of_logits};
use hilda_kernels::rng::{Rng, Stream};

use super::{
    DecodeConfig, DecodeError, ForwardRequest, RowStats, State,
    credit::Credit,
    policy::{Candidate, Eos, Side},
};

/// Statistics of the rows of `request.want.rows` with those of `request.want.whole` computed from their logits.
/// `unguided` are the logits of the same rows without the prompt; `credit` is that of a block, at its positions, and takes
/// this forward in.
///
/// # Errors
/// Not one logit for each token and whole row, or one that is no number.
pub(super) fn refined(
    config: &DecodeConfig,
    state: &State,
    request: &ForwardRequest,
    stats: &RowStats,
    unguided: Option<&[f32]>,
    (block, credit): (Range<u32>, &mut Credit),
) -> Result<Vec<RowHead>, DecodeError> {
    let mut heads = stats.rows.clone();
    let c = config.policy.candidate;
    if request.want.whole.is_empty() {
        return Ok(heads);
    }
    let want = &request.want;
    let filter = Filter { top_k: c.top_k.unwrap_or(0) as usize, top_p: c.top_p };
    for (i, pos) in want.whole.iter().enumerate() {
        let mut z = row(config, stats, i).to_vec();
        if let Some(u) = unguided {
            let u = &u[i * config.vocab as usize..][..config.vocab as usize];
            z.iter_mut().zip(u).for_each(|(z, u)| *z = u + (c.guidance + 1.0) * (*z - u));
        }
        penalise(&c, state, *pos, &mut z);
        forbid(config, &mut z);
        if c.credit != 0.0 && state.is_masked(*pos) && block.contains(pos) {
            credit.count((pos - block.start) as usize, c.credit, c.credit_decay, &mut z);
        }
        let current = request.query_positions.binary_search(pos).map_or(u32::MAX, |i| request.ids[i]);
        let key = [*pos, request.step, request.sequence, current];
        let at = want.rows.binary_search(pos).expect("whole rows are among the rows");
        heads[at] = of_logits(&z, key, want.temperature, want.seed, want.top_k, filter);
    }
    Ok(heads)
}

/// Logits of whole row `i`.
pub(super) fn row<'a>(config: &DecodeConfig, stats: &'a RowStats, i: usize) -> &'a [f32] {
    &stats.logits[i * config.vocab as usize..][..config.vocab as usize]
}

/// One number for each token of each whole row.
pub(super) fn check(
    config: &DecodeConfig,
    request: &ForwardRequest,
    stats: &RowStats,
) -> Result<(), DecodeError> {
    let (wanted, got) = (request.want.whole.len() * config.vocab as usize, stats.logits.len());
    if wanted != got {
        return Err(DecodeError::LogitCount { wanted, got });
    }
    for (i, pos) in request.want.whole.iter().enumerate() {
        // forbidden tokens may be anything
        let bad = row(config, stats, i)
            .iter()
            .enumerate()
            .find(|(v, z)| !z.is_finite() && config.writable(*v as u32))
            .map(|(_, z)| *z);
        if let Some(value) = bad {
            return Err(DecodeError::BadRow { pos: *pos, field: "logit", value });
        }
    }
    Ok(())
}

fn penalise(c: &Candidate, state: &State, pos: u32, z: &mut [f32]) {
    if c.repetition == 0.0 {
        return;
    }
    let first = pos.saturating_sub(c.repetition_window);
    let last = match c.repetition_side {
        Side::Both => pos.saturating_add(c.repetition_window).min(state.len() - 1),
        Side::Left => pos,
    };
    let near = |p: &u32| *p != pos && !state.is_masked(*p);
    let mut ids: Vec<u32> = (first..=last).filter(near).map(|p| state.id(p)).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.iter().for_each(|id| z[*id as usize] -= c.repetition);
}

fn forbid(config: &DecodeConfig, z: &mut [f32]) {
    z[config.mask_id as usize] = f32::NEG_INFINITY;
    config.forbid.iter().for_each(|id| z[*id as usize] = f32::NEG_INFINITY);
    if let Some(eos) = config.eos_id.filter(|_| config.policy.candidate.eos == Eos::Never) {
        z[eos as usize] = f32::NEG_INFINITY;
    }
}

/// Confidences of the whole rows under softmax(z + T g), g the Gumbel noise their tokens are drawn with: p of the candidate
/// in the noised distribution (arXiv 2601.20339). At temperature 0 there is no noise.
pub(super) fn noised(config: &DecodeConfig, request: &ForwardRequest, stats: &RowStats) -> Vec<(u32, f32)> {
    let rng = Rng::new(request.want.seed, Stream::Token, request.sequence);
    let t = config.temperature as f64;
    let confidence = |(i, pos): (usize, &u32)| {
        let mut z = row(config, stats, i).to_vec();
        forbid(config, &mut z);
        let w = z.iter().enumerate().filter(|(_, z)| z.is_finite()).map(|(v, z)| {
            let noise =
                if t > 0.0 { t * (rng.exponential(request.step, *pos, v as u32) as f64).ln() } else { 0.0 };
            *z as f64 - noise
        });
        let w: Vec<f64> = w.collect();
        let max = w.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (*pos, (1.0 / w.iter().map(|w| (w - max).exp()).sum::<f64>()) as f32)
    };
    request.want.whole.iter().enumerate().map(confidence).collect()
}

/// ln p of `id` in a whole row without the forbidden tokens, at temperature 1.
pub(super) fn log_probability(config: &DecodeConfig, logits: &[f32], id: u32) -> f64 {
    let mut z = logits.to_vec();
    forbid(config, &mut z);
    let max = z.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x)) as f64;
    let sum: f64 = z.iter().map(|z| (*z as f64 - max).exp()).sum();
    z[id as usize] as f64 - max - sum.ln()
}

/// softmax of a whole row without the forbidden tokens, at temperature 1.
pub(super) fn probabilities(config: &DecodeConfig, logits: &[f32]) -> Vec<f32> {
    let mut z = logits.to_vec();
    forbid(config, &mut z);
    let max = z.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x));
    let e: Vec<f64> = z.iter().map(|x| ((x - max) as f64).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.iter().map(|e| (e / sum) as f32).collect()
}

/// KL(now || before), nats, with 1e-12 inside both logarithms as in KLASS' code; never below 0.
pub(super) fn divergence(now: &[f32], before: &[f32]) -> f32 {
    let ln = |p: f32| (p as f64 + 1e-12).ln();
    let sum: f64 = now.iter().zip(before).map(|(p, q)| *p as f64 * (ln(*p) - ln(*q))).sum();
    sum.max(0.0) as f32
}
