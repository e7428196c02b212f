//! Vectorised rows; the weight gradient sums fixed chunks of rows in order.

use crate::{par, simd, simd::dot};

const ROWS: usize = 32;

simd! {
    fn forward(x: &[f32], w: &[f32], y: &mut [f32], width: usize, eps: f32) {
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let s = 1.0 / (dot(x, x) / width as f32 + eps).sqrt();
            for i in 0..width {
                y[i] = x[i] * s * w[i];
            }
        }
    }

    fn backward(dy: &[f32], x: &[f32], w: &[f32], dx: &mut [f32], dw: &mut [f32], g: &mut [f32], width: usize, eps: f32) {
        for ((dy, x), dx) in dy.chunks_exact(width).zip(x.chunks_exact(width)).zip(dx.chunks_exact_mut(width)) {
            let s = 1.0 / (dot(x, x) / width as f32 + eps).sqrt();
            let g = &mut g[..width];
            for i in 0..width {
                g[i] = dy[i] * w[i];
            }
            let c = s * s * dot(g, x) / width as f32;
            for i in 0..width {
                dx[i] += s * (g[i] - x[i] * c);
                dw[i] += dy[i] * x[i] * s;
            }
        }
    }
}

/// y[r] = x[r] / sqrt(mean(x[r]^2) + eps) * w; x and y are [rows, width].
pub fn rms_norm(x: &[f32], w: &[f32], y: &mut [f32], width: usize, eps: f32) {
    assert_eq!(x.len(), y.len(), "rms_norm: x and y differ");
    par::chunks(y, width * ROWS, |i, y| forward(&x[i * width * ROWS..][..y.len()], w, y, width, eps));
}

/// dx += gradient of the input, dw += gradient of the weight.
pub fn rms_norm_backward(
    dy: &[f32],
    x: &[f32],
    w: &[f32],
    dx: &mut [f32],
    dw: &mut [f32],
    width: usize,
    eps: f32,
) {
    assert!(dy.len() == x.len() && x.len() == dx.len(), "rms_norm_backward: lengths differ");
    let rows = x.len() / width;
    let chunk = 4 * ROWS;
    let out = par::Shared::new(dx);
    let parts = par::map(rows.div_ceil(chunk), |i| {
        let (at, n) = (i * chunk * width, chunk.min(rows - i * chunk) * width);
        let (mut dw, mut g) = (vec![0f32; width], vec![0f32; width]);
        // SAFETY: chunks of rows do not overlap.
        let dx = unsafe { out.range(at, n) };
        backward(&dy[at..at + n], &x[at..at + n], w, dx, &mut dw, &mut g, width, eps);
        dw
    });
    for p in parts {
        for i in 0..width {
            dw[i] += p[i];
        }
    }
}
