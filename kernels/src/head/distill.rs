//! Distillation: how far the head's distribution is from a teacher's, and the gradient of that.
//!
//! D = KL(q || p), q = softmax(z' / T), p = softmax(z / T), forbidden ids excluded from both; dL / dz_j = c (p_j - q_j) / T
//! with c = dL / dD (Hinton et al., arXiv 1503.02531; their factor T^2 belongs to c). Shapes: hidden [rows, width], table
//! [vocab, width]; the teacher has its own width. Its logits come from its own hidden rows and table, tile by tile beside
//! the student's, so that neither matrix [rows, vocab] ever exists.

use super::cpu::{TILE_VALUES, lse_entropy, maximum};
use crate::gemm::{Mat, Threads, gemm, scratch};
use crate::{par, simd, simd::LANES, simd::exp};

/// Where the other distribution of each row comes from.
#[derive(Clone, Copy, Debug)]
pub struct Teacher<'a> {
    /// [rows, width]
    pub hidden: &'a [f32],
    /// [vocab, width]
    pub table: &'a [f32],
    pub width: usize,
}

simd! {
    fn scale(z: &mut [f32], by: f32) {
        for x in z.iter_mut() {
            *x *= by;
        }
    }
    /// sum of q (ln q - ln p)
    fn distance(student: &[f32], lse: f32, teacher: &[f32], teacher_lse: f32) -> f32 {
        let mut s = [0f32; LANES];
        let (a, b) = (student.chunks_exact(LANES), teacher.chunks_exact(LANES));
        let mut rest = 0.0;
        for (z, t) in a.remainder().iter().zip(b.remainder()) {
            let (l, k) = ((z - lse).max(-100.0), (t - teacher_lse).max(-100.0));
            rest += exp(k) * (k - l);
        }
        for (z, t) in a.zip(b) {
            for i in 0..LANES {
                let l = if z[i] - lse > -100.0 { z[i] - lse } else { -100.0 };
                let k = if t[i] - teacher_lse > -100.0 { t[i] - teacher_lse } else { -100.0 };
                s[i] += exp(k) * (k - l);
            }
        }
        simd::sum(&s) + rest
    }
    /// student -> c (p - q)
    fn gradient(student: &mut [f32], lse: f32, teacher: &[f32], teacher_lse: f32, c: f32) {
        for (z, t) in student.iter_mut().zip(teacher) {
            *z = c * (exp(*z - lse) - exp(*t - teacher_lse));
        }
    }
}

/// D of every row. With `backward = Some((d_hidden, d_table))` also writes d_hidden [rows, width] and adds to d_table
/// [vocab, width]; `slopes` [rows] are dL / dD. Nothing is propagated to the teacher.
#[allow(clippy::too_many_arguments)]
pub fn distill(
    hidden: &[f32],
    table: &[f32],
    width: usize,
    teacher: Teacher,
    slopes: &[f32],
    forbid: &[u32],
    temperature: f32,
    mut backward: Option<(&mut [f32], &mut [f32])>,
) -> Vec<f32> {
    let (n_rows, vocab) = (slopes.len(), table.len() / width);
    assert!(temperature > 0.0, "head distill: temperature {temperature}");
    assert!(
        hidden.len() >= n_rows * width
            && teacher.hidden.len() >= n_rows * teacher.width
            && teacher.table.len() == vocab * teacher.width,
        "head distill: short buffers, or another vocabulary"
    );
    let (tile, inverse) = ((TILE_VALUES / (2 * vocab)).clamp(1, n_rows.max(1)), 1.0 / temperature);
    let mut out = vec![0f32; n_rows];
    scratch::with(2 * tile * vocab, |logits| {
        let (student, other) = logits.split_at_mut(tile * vocab);
        for r0 in (0..n_rows).step_by(tile) {
            let n = tile.min(n_rows - r0);
            let (z, t) = (&mut student[..n * vocab], &mut other[..n * vocab]);
            let h = Mat::rows(&hidden[r0 * width..(r0 + n) * width], width);
            gemm(Threads::Pool, n, vocab, width, 1.0, h, Mat::rows(table, width).t(), z, vocab, false);
            let w = teacher.width;
            let th = Mat::rows(&teacher.hidden[r0 * w..(r0 + n) * w], w);
            gemm(Threads::Pool, n, vocab, w, 1.0, th, Mat::rows(teacher.table, w).t(), t, vocab, false);
            let (theirs, to) = (par::Shared::new(t), par::Shared::new(&mut out[r0..]));
            let with_gradient = backward.is_some();
            par::chunks(z, vocab, |i, z| {
                // SAFETY: one task per row.
                let (t, d) = unsafe { (theirs.range(i * vocab, vocab), to.range(i, 1)) };
                for row in [&mut *z, &mut *t] {
                    forbid.iter().for_each(|id| row[*id as usize] = f32::NEG_INFINITY);
                    scale(row, inverse);
                }
                let (lse, teacher_lse) = (lse_entropy(z, maximum(z)).0, lse_entropy(t, maximum(t)).0);
                d[0] = distance(z, lse, t, teacher_lse).max(0.0);
                if with_gradient {
                    gradient(z, lse, t, teacher_lse, slopes[r0 + i] * inverse);
                }
            });
            if let Some((d_hidden, d_table)) = &mut backward {
                let dz = Mat::rows(z, vocab);
                let dh = &mut d_hidden[r0 * width..(r0 + n) * width];
                gemm(Threads::Pool, n, width, vocab, 1.0, dz, Mat::rows(table, width), dh, width, false);
                gemm(Threads::Pool, vocab, width, n, 1.0, dz.t(), h, d_table, width, true);
            }
        }
    });
    out
}
