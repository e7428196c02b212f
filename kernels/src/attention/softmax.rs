//! Rows of a transposed score tile: z [keys, wide], one key a row, one query a lane. Maxima and sums of a query run down
//! its lane, so no vector is ever summed across.

use super::tiles::TILE;
use crate::{simd, simd::LANES, simd::exp};

/// Running maximum and sum of a tile's queries, and what their outputs so far are worth under the new maximum.
pub struct Running {
    pub top: [f32; TILE],
    pub sum: [f32; TILE],
    pub shrink: [f32; TILE],
}

impl Running {
    pub fn new() -> Running {
        Running { top: [f32::NEG_INFINITY; TILE], sum: [0.0; TILE], shrink: [0.0; TILE] }
    }
    /// Did no maximum of the first `wide` queries change?
    pub fn steady(&self, wide: usize) -> bool {
        self.shrink[..wide].iter().all(|s| *s == 1.0)
    }
}

simd! {
    /// z -> e^(z - max), its maximum and sum taken up in `run` (online softmax: Milakov & Gimelshein, arXiv 1805.02867).
    pub fn absorb(z: &mut [f32], wide: usize, run: &mut Running) {
        for g in (0..wide).step_by(LANES) {
            let (top, sum) = (&mut run.top[g..][..LANES], &mut run.sum[g..][..LANES]);
            let shrink = &mut run.shrink[g..][..LANES];
            let (mut m, mut base, mut s) = ([0f32; LANES], [0f32; LANES], [0f32; LANES]);
            m.copy_from_slice(top);
            for row in z.chunks_exact(wide) {
                let row = &row[g..][..LANES];
                for i in 0..LANES {
                    m[i] = if row[i] > m[i] { row[i] } else { m[i] };
                }
            }
            for i in 0..LANES {
                // a query that has seen nothing yet: e^(-inf - 0) = 0
                base[i] = if m[i] == f32::NEG_INFINITY { 0.0 } else { m[i] };
                shrink[i] = exp(top[i] - base[i]);
                s[i] = sum[i] * shrink[i];
                top[i] = m[i];
            }
            for row in z.chunks_exact_mut(wide) {
                let row = &mut row[g..][..LANES];
                for i in 0..LANES {
                    let e = exp(row[i] - base[i]);
                    row[i] = e;
                    s[i] += e;
                }
            }
            sum.copy_from_slice(&s);
        }
    }
    /// Every row times `c`, lane by lane.
    pub fn scale(rows: &mut [f32], wide: usize, c: &[f32]) {
        let c = &c[..wide];
        for row in rows.chunks_exact_mut(wide) {
            for (x, c) in row.iter_mut().zip(c) {
                *x *= c;
            }
        }
    }
    /// Scores -> probabilities p = e^(z - lse), and dp -> ds = p (dp - delta).
    pub fn gradient(z: &mut [f32], dp: &mut [f32], wide: usize, lse: &[f32], delta: &[f32]) {
        let (lse, delta) = (&lse[..wide], &delta[..wide]);
        for (z, dp) in z.chunks_exact_mut(wide).zip(dp.chunks_exact_mut(wide)) {
            for i in 0..wide {
                let p = exp(z[i] - lse[i]);
                z[i] = p;
                dp[i] = p * (dp[i] - delta[i]);
            }
        }
    }
    pub fn dot(a: &[f32], b: &[f32]) -> f32 {
        simd::dot(a, b)
    }
    pub fn add(to: &mut [f32], from: &[f32]) {
        for (t, f) in to.iter_mut().zip(from) {
            *t += f;
        }
    }
}
