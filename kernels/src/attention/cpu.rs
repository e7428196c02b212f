//! CPU attention: small matrix products per query tile, vectorised softmax, one task per (sequence, kv head).

use super::tiles::{QueryTile, TILE, Tiles};
use crate::backend::AttentionShape;
use crate::gemm::{Mat, Threads, gemm};
use crate::{par, simd, simd::exp};

simd! {
    /// In place: row of scores -> exp(z - max); returns (max, sum). Masked entries are minus infinity.
    fn softmax_row(row: &mut [f32]) -> (f32, f32) {
        let m = simd::max(row);
        if m == f32::NEG_INFINITY {
            row.fill(0.0);
            return (m, 0.0);
        }
        for z in row.iter_mut() {
            *z = exp(*z - m);
        }
        (m, simd::sum(row))
    }
    fn scale_row(row: &mut [f32], c: f32) {
        for z in row.iter_mut() {
            *z *= c;
        }
    }
    /// Scores -> probabilities, given the log-sum-exp.
    fn probability_row(row: &mut [f32], lse: f32) {
        for z in row.iter_mut() {
            *z = exp(*z - lse);
        }
    }
    /// ds = p (dp - d) scale, in place of dp.
    fn score_gradient_row(dp: &mut [f32], p: &[f32], d: f32, scale: f32) {
        for (x, p) in dp.iter_mut().zip(p) {
            *x = p * (*x - d) * scale;
        }
    }
    fn dot_row(a: &[f32], b: &[f32]) -> f32 {
        simd::dot(a, b)
    }
}

fn apply_mask(tile: &QueryTile, scores: &mut [f32], rows: usize) {
    for (col, cols, bits) in &tile.partial {
        for (r, bits) in bits.iter().take(rows).enumerate() {
            let row = &mut scores[r * tile.keys + col..][..*cols];
            for (j, z) in row.iter_mut().enumerate() {
                if bits >> j & 1 == 0 {
                    *z = f32::NEG_INFINITY;
                }
            }
        }
    }
}

/// scores[rows, keys] = scale q k^T over the tile's runs, masked entries at minus infinity.
fn scores(
    tile: &QueryTile,
    q: Mat,
    kv: &[f32],
    k_at: usize,
    s: &AttentionShape,
    rows: usize,
    out: &mut [f32],
) {
    let mut col = 0;
    for run in &tile.runs {
        let k = Mat::rows(&kv[k_at + run.start * s.kv_stride..], s.kv_stride).t();
        gemm(Threads::One, rows, run.len, s.head_dim, s.scale, q, k, &mut out[col..], tile.keys, false);
        col += run.len;
    }
    apply_mask(tile, out, rows);
}

fn check(tiles: &Tiles, s: &AttentionShape) {
    let (mask, want) = ([tiles.q_len, tiles.k_len], [s.q_len, s.k_len]);
    assert_eq!(mask, want, "attention: the mask is of another shape [q_len, k_len]");
    assert!(s.heads % s.kv_heads == 0, "attention: {} heads over {} kv heads", s.heads, s.kv_heads);
}

/// out [batch * q_len, heads * head_dim]; lse [batch * q_len, heads]. A query that may see nothing yields zeros.
pub fn attention(q: &[f32], kv: &[f32], tiles: &Tiles, out: &mut [f32], lse: &mut [f32], s: AttentionShape) {
    if s.batch == 0 {
        return;
    }
    check(tiles, &s);
    let width = s.heads * s.head_dim;
    assert!(
        out.len() >= s.batch * s.q_len * width && lse.len() >= s.batch * s.q_len * s.heads,
        "attention: short out"
    );
    let (out, lse) = (par::Shared::new(out), par::Shared::new(lse));
    let n_tiles = s.q_len.div_ceil(TILE);
    par::each(s.batch * s.heads * n_tiles, |task| {
        let (b, h, t) = (task / (s.heads * n_tiles), task / n_tiles % s.heads, task % n_tiles);
        let kh = h / (s.heads / s.kv_heads);
        let tile = &tiles.of(b)[t];
        let (q0, rows) = (b * s.q_len + t * TILE, TILE.min(s.q_len - t * TILE));
        let qm = Mat::rows(&q[q0 * s.q_stride + s.q_col + h * s.head_dim..], s.q_stride);
        let (k_at, v_at) = (
            b * s.k_len * s.kv_stride + s.k_col + kh * s.head_dim,
            b * s.k_len * s.kv_stride + s.v_col + kh * s.head_dim,
        );
        let mut p = vec![0f32; rows * tile.keys];
        scores(tile, qm, kv, k_at, &s, rows, &mut p);
        for r in 0..rows {
            let row = &mut p[r * tile.keys..][..tile.keys];
            let (m, sum) = softmax_row(row);
            // SAFETY: (row, head) belongs to this task alone.
            let l = unsafe { lse.range((q0 + r) * s.heads + h, 1) };
            l[0] = if sum > 0.0 { m + sum.ln() } else { f32::NEG_INFINITY };
            if sum > 0.0 {
                scale_row(row, 1.0 / sum);
            }
        }
        let mut o = vec![0f32; rows * s.head_dim];
        let mut col = 0;
        for run in &tile.runs {
            let v = Mat::rows(&kv[v_at + run.start * s.kv_stride..], s.kv_stride);
            let pm = Mat::rows(&p[col..], tile.keys);
            gemm(Threads::One, rows, s.head_dim, run.len, 1.0, pm, v, &mut o, s.head_dim, col > 0);
            col += run.len;
        }
        for r in 0..rows {
            // SAFETY: as above.
            let dst = unsafe { out.range((q0 + r) * width + h * s.head_dim, s.head_dim) };
            dst.copy_from_slice(&o[r * s.head_dim..][..s.head_dim]);
        }
    });
}

/// Gradients of a fused projection: `qkv` holds queries, keys and values (equal strides and lengths), `d_qkv` is
/// overwritten with their gradients. `out` and `lse` come from the forward pass.
pub fn attention_backward(
    d_out: &[f32],
    qkv: &[f32],
    out: &[f32],
    lse: &[f32],
    tiles: &Tiles,
    d_qkv: &mut [f32],
    s: AttentionShape,
) {
    assert!(s.q_len == s.k_len && s.q_stride == s.kv_stride, "attention_backward: fused projections only");
    if s.batch == 0 {
        return;
    }
    check(tiles, &s);
    let (width, group) = (s.heads * s.head_dim, s.heads / s.kv_heads);
    let hd = s.head_dim;
    assert!(d_qkv.len() >= s.batch * s.q_len * s.q_stride, "attention_backward: short d_qkv");
    let grad = par::Shared::new(d_qkv);
    par::each(s.batch * s.kv_heads, |task| {
        let (b, kh) = (task / s.kv_heads, task % s.kv_heads);
        let base = b * s.k_len * s.kv_stride;
        let (k_at, v_at) = (base + s.k_col + kh * hd, base + s.v_col + kh * hd);
        let (mut dk, mut dv) = (vec![0f32; s.k_len * hd], vec![0f32; s.k_len * hd]);
        let live = tiles.of(b).iter().map(|t| t.keys).max().unwrap_or(0);
        let (mut p, mut dp) = (vec![0f32; TILE * live], vec![0f32; TILE * live]);
        let mut dq = vec![0f32; TILE * hd];
        for h in kh * group..(kh + 1) * group {
            for (t, tile) in tiles.of(b).iter().enumerate() {
                let (q0, rows) = (b * s.q_len + t * TILE, TILE.min(s.q_len - t * TILE));
                let qm = Mat::rows(&qkv[q0 * s.q_stride + s.q_col + h * hd..], s.q_stride);
                let dom = Mat::rows(&d_out[q0 * width + h * hd..], width);
                let n = tile.keys;
                scores(tile, qm, qkv, k_at, &s, rows, &mut p[..rows * n]);
                let mut col = 0;
                for run in &tile.runs {
                    let v = Mat::rows(&qkv[v_at + run.start * s.kv_stride..], s.kv_stride).t();
                    gemm(Threads::One, rows, run.len, hd, 1.0, dom, v, &mut dp[col..rows * n], n, false);
                    col += run.len;
                }
                for r in 0..rows {
                    let at = (q0 + r) * width + h * hd;
                    let d = dot_row(&d_out[at..at + hd], &out[at..at + hd]);
                    let row = &mut p[r * n..][..n];
                    probability_row(row, lse[(q0 + r) * s.heads + h].max(-1e30));
                    score_gradient_row(&mut dp[r * n..][..n], row, d, s.scale);
                }
                let mut col = 0;
                for run in &tile.runs {
                    let pm = Mat::rows(&p[col..rows * n], n);
                    let dm = Mat::rows(&dp[col..rows * n], n);
                    let km = Mat::rows(&qkv[k_at + run.start * s.kv_stride..], s.kv_stride);
                    let at = run.start * hd;
                    gemm(Threads::One, run.len, hd, rows, 1.0, pm.t(), dom, &mut dv[at..], hd, true);
                    gemm(Threads::One, run.len, hd, rows, 1.0, dm.t(), qm, &mut dk[at..], hd, true);
                    gemm(Threads::One, rows, hd, run.len, 1.0, dm, km, &mut dq, hd, col > 0);
                    col += run.len;
                }
                if tile.runs.is_empty() {
                    dq.fill(0.0);
                }
                for r in 0..rows {
                    // SAFETY: heads of this kv head belong to this task alone.
                    let dst = unsafe { grad.range((q0 + r) * s.q_stride + s.q_col + h * hd, hd) };
                    dst.copy_from_slice(&dq[r * hd..][..hd]);
                }
            }
        }
        for j in 0..s.k_len {
            // SAFETY: as above.
            unsafe {
                grad.range(k_at + j * s.kv_stride, hd).copy_from_slice(&dk[j * hd..][..hd]);
                grad.range(v_at + j * s.kv_stride, hd).copy_from_slice(&dv[j * hd..][..hd]);
            }
        }
    });
}
