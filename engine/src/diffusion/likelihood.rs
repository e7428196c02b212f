//! Likelihood estimators under their names (`methods/evaluation.md` 1.1), nats per counted token.
//!
//! - `ar`: exact, sum of -ln p(x_i | x_<i).
//! - `nelbo_t(K)`: mean over K draws of S(m)/t; an upper bound on -ln p of the uniform-order sampler.
//! - `nelbo_block(B,K)`: the same block by block, clean earlier blocks visible; the bound of the block sampler.
//!
//! Mask rates are stratified over all (row, group, draw); masks are keyed by (seed, draw, row, column), so two
//! models are compared on the same masks. The standard error is over rows (ratio estimator, section 1.4).

use hilda_kernels::Train;

use super::batch::{Normaliser, assemble, causal};
use super::corruption::Corruption;
use crate::config::{PackingSpec, Weighting};
use crate::data::{Packed, Row, places};
use crate::model::{Plan, Trunk};
use crate::record::Estimate;

/// Which estimator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Estimator {
    Ar,
    NelboT { k: usize },
    NelboBlock { block: usize, k: usize },
}

impl Estimator {
    pub fn name(&self) -> String {
        match self {
            Estimator::Ar => "ar".into(),
            Estimator::NelboT { k } => format!("nelbo_t({k})"),
            Estimator::NelboBlock { block, k } => format!("nelbo_block({block},{k})"),
        }
    }
    pub fn k(&self) -> usize {
        match self {
            Estimator::Ar => 1,
            Estimator::NelboT { k } | Estimator::NelboBlock { k, .. } => *k,
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

/// Rows of one forward while evaluating.
const CHUNK: usize = 4;

/// Rows a plan needs for [`evaluate`].
pub fn plan_rows(estimator: Estimator, length: usize) -> usize {
    CHUNK * length * if matches!(estimator, Estimator::NelboBlock { .. }) { 2 } else { 1 }
}

/// Evaluates `params` on packed rows. `progress(done, of)` is called after each forward; returning false stops
/// with `None`.
pub fn evaluate<B: Train>(
    b: &B,
    trunk: &Trunk,
    params: &B::Buf,
    plan: &mut Plan<B>,
    data: &Packed,
    e: &Evaluation,
    mut progress: impl FnMut(usize, usize) -> bool,
) -> Option<Estimate> {
    let n = if e.rows == 0 { data.len() } else { e.rows.min(data.len()) };
    let rows: Vec<Row> = (0..n).map(|i| data.row(i)).collect();
    let mut sums = vec![0f64; n];
    let mut counts = vec![0usize; n];
    let k = e.estimator.k();
    let total = k * n.div_ceil(CHUNK);
    let mut done = 0;
    for draw in 0..k {
        let (plans, block) = match e.estimator {
            Estimator::Ar => (vec![], None),
            Estimator::NelboT { .. } => (corrupt(trunk, e, &rows, 0, false, draw, k), None),
            Estimator::NelboBlock { block, .. } => {
                (corrupt(trunk, e, &rows, block, true, draw, k), Some(block))
            }
        };
        for (i, chunk) in rows.chunks(CHUNK).enumerate() {
            let at = i * CHUNK;
            let micro = if e.estimator == Estimator::Ar {
                causal(chunk, &e.packing, 1.0)
            } else {
                let norm = Normaliser { masked: 1.0, replaced: 0.0, kept: 0.0 };
                assemble(chunk, &plans[at..at + chunk.len()], &e.packing, block, e.shift, norm)
            };
            let (mut ids, mut positions) = (b.ids(micro.ids.len()), b.ids(micro.ids.len()));
            b.write_ids(&mut ids, &micro.ids);
            b.write_ids(&mut positions, &micro.positions());
            let masks = trunk.masks(b, micro.rule, micro.shape.batch, &micro.places, &micro.places);
            trunk.forward(b, params, plan, &ids, &positions, &masks, micro.shape, None);
            let (log_p, _) = trunk.log_probs(b, params, plan, &micro.hidden_rows, &micro.rows);
            for ((row, lp), s) in micro.rows.iter().zip(&log_p).zip(&micro.sequence) {
                sums[at + *s as usize] += row.d_log_p as f64 * *lp as f64 / k as f64;
                if e.estimator == Estimator::Ar {
                    counts[at + *s as usize] += 1;
                }
            }
            done += 1;
            if !progress(done, total) {
                return None;
            }
        }
        for (c, p) in counts.iter_mut().zip(&plans) {
            *c = p.counted;
        }
    }
    let parts: Vec<(f64, f64)> = sums.iter().zip(&counts).map(|(y, c)| (*y, *c as f64)).collect();
    let (value, stderr) = ratio(&parts);
    Some(Estimate {
        estimator: e.estimator.name(),
        value,
        stderr,
        tokens: counts.iter().sum::<usize>() as u64,
        rows: n as u64,
        k: k as u64,
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

/// Draw `draw` of `k`: rates are stratified over groups, and over the draws of each group.
fn corrupt(
    trunk: &Trunk,
    e: &Evaluation,
    rows: &[Row],
    block: usize,
    per_block: bool,
    draw: usize,
    k: usize,
) -> Vec<super::RowPlan> {
    let c = &trunk.config;
    let process = Corruption {
        seed: e.seed,
        mask_id: c.mask_id,
        forbid: c.forbid.clone(),
        eos_id: c.eos_id,
        vocab: c.vocab,
        t: [1e-3, 1.0],
        weighting: Weighting::InvT,
        shift: e.shift,
        edit: None,
        per_block,
    };
    let tokens: Vec<&[u32]> = rows.iter().map(|r| r.tokens).collect();
    let places: Vec<_> = rows.iter().map(|r| places(r, &e.packing, block, 1)).collect();
    process.draw_strata(draw as u32, &tokens, &places, Some((draw, k)))
}
