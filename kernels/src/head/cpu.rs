//! Statistics of many rows: logits of a tile of rows live in a scratch buffer of at most 2 M values.

use super::race::race;
use super::{MAX_TOP_K, STATS, Table, field};
use crate::backend::{HeadJob, joined};
use crate::gemm::scratch;
use crate::rng::{Rng, Stream};
use crate::{par, simd, simd::exp};

/// Values of logits held at once.
pub(super) const TILE_VALUES: usize = 1 << 21;

simd! {
    /// (max, sum of e^(z-max), sum of e^(z-max) (z-max))
    fn moments(z: &[f32], m: f32) -> (f32, f32) {
        let (mut s, mut t) = ([0f32; simd::LANES], [0f32; simd::LANES]);
        let chunks = z.chunks_exact(simd::LANES);
        let rest = chunks.remainder();
        for c in chunks {
            for i in 0..simd::LANES {
                // minus infinity (forbidden) contributes nothing: clamp before the product
                let d = if c[i] - m > -100.0 { c[i] - m } else { -100.0 };
                let e = exp(d);
                s[i] += e;
                t[i] += e * d;
            }
        }
        let (mut a, mut b) = (simd::sum(&s), simd::sum(&t));
        for z in rest {
            let d = (z - m).max(-100.0);
            let e = exp(d);
            a += e;
            b += e * d;
        }
        (a, b)
    }
    fn row_max(z: &[f32]) -> f32 {
        simd::max(z)
    }
    /// The largest values and their ids in order, ties to the lower id. Most vectors hold none of them: one comparison.
    fn leaders(z: &[f32], best: &mut [(f32, u32)]) {
        const WIDE: usize = 4 * simd::LANES;
        let last = best.len() - 1;
        for (block, z) in z.chunks(WIDE).enumerate() {
            if z.len() == WIDE {
                let mut any = false;
                for x in z {
                    any |= *x > best[last].0;
                }
                if !any {
                    continue;
                }
            }
            for (v, &x) in z.iter().enumerate() {
                if x > best[last].0 {
                    let mut i = last;
                    while i > 0 && x > best[i - 1].0 {
                        best[i] = best[i - 1];
                        i -= 1;
                    }
                    best[i] = (x, (block * WIDE + v) as u32);
                }
            }
        }
    }
    /// sum of e^((z - m) * inv)
    fn tempered(z: &[f32], m: f32, inv: f32) -> f32 {
        let mut s = [0f32; simd::LANES];
        let chunks = z.chunks_exact(simd::LANES);
        let rest = chunks.remainder();
        for c in chunks {
            for i in 0..simd::LANES {
                s[i] += exp((c[i] - m) * inv);
            }
        }
        let mut a = simd::sum(&s);
        for z in rest {
            a += exp((z - m) * inv);
        }
        a
    }
}

/// Entropy and log-sum-exp of a row of logits with maximum `m`.
pub(super) fn lse_entropy(z: &[f32], m: f32) -> (f32, f32) {
    let (s, t) = moments(z, m);
    let l = s.ln();
    (m + l, (l - t / s).max(0.0))
}

/// ln sum of e^(z / T) of a row with maximum `m`; `inv` = 1 / T.
pub(super) fn tempered_lse(z: &[f32], m: f32, inv: f32) -> f32 {
    m * inv + tempered(z, m, inv).ln()
}

pub(super) fn maximum(z: &[f32]) -> f32 {
    row_max(z)
}

/// Statistics rows `out` [rows, STATS + 2 top_k] from hidden [rows, width] and table [vocab, width], job after job; `keys` is
/// [rows, 4]: position, step, sequence, current token id. All rows share the products; what a row yields depends on its own
/// job alone.
pub fn statistics<'a>(
    hidden: &[f32],
    table: impl Into<Table<'a>>,
    keys: &[u32],
    out: &mut [f32],
    jobs: &[HeadJob],
) {
    let table = table.into();
    let (rows, values) = joined(jobs);
    let Some(HeadJob { width, vocab, forbid, .. }) = jobs.first() else { return };
    let (width, vocab) = (*width, *vocab);
    assert!(
        hidden.len() >= rows * width && keys.len() >= 4 * rows && out.len() >= values,
        "head: short buffers"
    );
    // job of a row, and where its statistics go
    let place = |row: usize| {
        let (mut row, mut at) = (row, 0);
        for job in jobs {
            let stride = STATS + 2 * job.top_k;
            if row < job.rows {
                return (job, at + row * stride, stride);
            }
            (row, at) = (row - job.rows, at + job.values());
        }
        unreachable!("a row behind the last job")
    };
    let out = par::Shared::new(&mut out[..values]);
    let tile = (TILE_VALUES / vocab).clamp(1, rows.max(1));
    scratch::with(tile * vocab, |logits| {
        for r0 in (0..rows).step_by(tile) {
            let n = tile.min(rows - r0);
            let z = &mut logits[..n * vocab];
            table.logits(&hidden[r0 * width..], z, n, vocab, width);
            par::chunks(z, vocab, |i, z| {
                for id in forbid {
                    z[*id as usize] = f32::NEG_INFINITY;
                }
                let (job, at, stride) = place(r0 + i);
                // SAFETY: one task per row.
                let row = unsafe { out.range(at, stride) };
                row_statistics(z, &keys[4 * (r0 + i)..][..4], row, job, job.top_k.min(vocab));
            });
        }
    });
}

/// One row of [`statistics`] from its logits; `k` ids are ranked.
pub(super) fn row_statistics(z: &[f32], key: &[u32], row: &mut [f32], job: &HeadJob, k: usize) {
    row.fill(0.0);
    // the k (at least 2) best, ties to the lower id
    let mut best = [(f32::NEG_INFINITY, u32::MAX); MAX_TOP_K + 1];
    leaders(z, &mut best[..k.max(2)]);
    let m = best[0].0;
    let (lse, entropy) = lse_entropy(z, m);
    // every id forbidden or no number at all: id 0, whose logit says so
    let argmax = if best[0].1 == u32::MAX { 0 } else { best[0].1 };
    row[field::LSE] = lse;
    row[field::MAX] = best[0].0;
    row[field::ARGMAX] = f32::from_bits(argmax);
    row[field::SECOND] = best[1].0;
    row[field::ENTROPY] = entropy;
    row[field::CURRENT] = z.get(key[3] as usize).copied().unwrap_or(f32::NEG_INFINITY);
    let (mut candidate, mut margin, mut lse_t) = (argmax, best[0].0 - best[1].0, lse);
    if job.temperature > 0.0 {
        let inv = 1.0 / job.temperature;
        let rng = Rng::new(job.seed, Stream::Token, key[2]);
        let race = race(z, inv, rng, key[1], key[0]);
        candidate = race.winner.unwrap_or(argmax);
        margin = race.second - race.first;
        lse_t = tempered_lse(z, m, inv);
    }
    row[field::CANDIDATE] = f32::from_bits(candidate);
    row[field::CANDIDATE_LOGIT] = z[candidate as usize];
    row[field::LSE_T] = lse_t;
    row[field::MARGIN] = margin;
    for (i, (x, v)) in best.iter().take(job.top_k).enumerate() {
        row[field::TOP + i] = f32::from_bits(if *v == u32::MAX { 0 } else { *v });
        row[field::TOP + job.top_k + i] = if i < k { *x } else { f32::NEG_INFINITY };
    }
}
