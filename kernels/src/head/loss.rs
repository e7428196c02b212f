//! The head in training: log-probability of a target per row, and the backward pass from one coefficient per row.
//!
//! With z = hidden table^T, p = softmax(z) (forbidden ids excluded), y the target and H the entropy:
//! dL/dz_j = c ([j = y] - p_j) - e p_j (ln p_j + H), where c = dL / d ln p_y and e = dL / dH.
//! Logits exist for one tile of rows at a time; forward and backward of a tile share them. A row may carry a term over
//! the whole vocabulary besides ([`super::mixture`]).

use super::Table;
use super::cpu::{TILE_VALUES, lse_entropy, maximum};
use super::mixture::{Mixture, divergence};
use crate::gemm::{Mat, Threads, gemm, scratch};
use crate::{par, simd, simd::exp};

/// One row's request and answer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossRow {
    pub target: u32,
    /// dL / d ln p(target), after all normalisation
    pub d_log_p: f32,
    /// dL / d entropy
    pub d_entropy: f32,
    /// a divergence under mixed noise, with its own weight
    pub mixture: Option<Mixture>,
}

/// What the head says of the rows of a loss, each [rows].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Losses {
    /// ln p of the target
    pub log_p: Vec<f32>,
    /// nats
    pub entropy: Vec<f32>,
    /// D of rows with a mixture, 0 of others
    pub divergence: Vec<f32>,
}

impl Losses {
    pub fn zeros(rows: usize) -> Losses {
        Losses { log_p: vec![0.0; rows], entropy: vec![0.0; rows], divergence: vec![0.0; rows] }
    }
}

simd! {
    fn gradient_row(z: &mut [f32], lse: f32, h: f32, c: f32, e: f32) {
        for x in z.iter_mut() {
            let l = if *x - lse > -100.0 { *x - lse } else { -100.0 };
            let p = exp(l);
            *x = -p * (c + e * (l + h));
        }
    }
}

/// Forward: what the head says of each row. With `backward = Some((d_hidden, d_table))` also
/// writes d_hidden [rows, width] and adds to d_table [vocab, width].
#[allow(clippy::too_many_arguments)]
pub fn loss<'a>(
    hidden: &[f32],
    table: impl Into<Table<'a>>,
    rows: &[LossRow],
    forbid: &[u32],
    width: usize,
    mut backward: Option<(&mut [f32], &mut [f32])>,
) -> Losses {
    let table = table.into();
    let (n_rows, vocab) = (rows.len(), table.vocab(width));
    assert!(hidden.len() >= n_rows * width, "head loss: short buffers");
    let mut out = Losses::zeros(n_rows);
    let tile = (TILE_VALUES / vocab).clamp(1, n_rows.max(1));
    scratch::with(tile * vocab, |logits| {
        for r0 in (0..n_rows).step_by(tile) {
            let n = tile.min(n_rows - r0);
            let z = &mut logits[..n * vocab];
            let h = Mat::rows(&hidden[r0 * width..(r0 + n) * width], width);
            table.logits(h.data, z, n, vocab, width);
            let with_gradient = backward.is_some();
            let [lp, en, dv] = [&mut out.log_p, &mut out.entropy, &mut out.divergence]
                .map(|v| par::Shared::new(&mut v[r0..]));
            par::chunks(z, vocab, |i, z| {
                let row = &rows[r0 + i];
                for id in forbid {
                    z[*id as usize] = f32::NEG_INFINITY;
                }
                let (lse, ent) = lse_entropy(z, maximum(z));
                // SAFETY: one task per row.
                unsafe {
                    lp.range(i, 1)[0] = z[row.target as usize] - lse;
                    en.range(i, 1)[0] = ent;
                }
                if let Some(m) = &row.mixture {
                    let slope = with_gradient.then_some((row.d_log_p, row.d_entropy));
                    // SAFETY: one task per row.
                    unsafe { dv.range(i, 1)[0] = divergence(z, lse, ent, row.target, m, slope) };
                } else if with_gradient {
                    gradient_row(z, lse, ent, row.d_log_p, row.d_entropy);
                }
                if with_gradient {
                    z[row.target as usize] += row.d_log_p;
                    for id in forbid {
                        z[*id as usize] = 0.0;
                    }
                }
            });
            if let Some((d_hidden, d_table)) = &mut backward {
                let dz = Mat::rows(z, vocab);
                let dh = &mut d_hidden[r0 * width..(r0 + n) * width];
                let t = Mat::rows(table.plain(), width);
                gemm(Threads::Pool, n, width, vocab, 1.0, dz, t, dh, width, false);
                gemm(Threads::Pool, vocab, width, n, 1.0, dz.t(), h, d_table, width, true);
            }
        }
    });
    out
}
