//! Vectorised rows; the weight gradient sums fixed chunks of rows in order.

use super::{NormKind, NormShape};
use crate::{
    par, simd,
    simd::{dot, sum},
};

const ROWS: usize = 32;

simd! {
    fn forward(x: &[f32], w: &[f32], b: &[f32], y: &mut [f32], s: &NormShape, accumulate: bool) {
        let (d, n) = (s.width, s.width as f32);
        for (x, y) in x.chunks_exact(s.x_stride).zip(y.chunks_exact_mut(s.y_stride)) {
            for g in 0..s.groups {
                let (x, y) = (&x[s.x_col + g * d..][..d], &mut y[s.y_col + g * d..][..d]);
                let mean = if s.kind == NormKind::Layer { sum(x) / n } else { 0.0 };
                let scale = 1.0 / (square(x, mean) / n + s.eps).sqrt();
                match (b.is_empty(), accumulate) {
                    (true, false) if s.kind == NormKind::Rms => {
                        for i in 0..d {
                            y[i] = x[i] * scale * w[i];
                        }
                    }
                    _ => {
                        for i in 0..d {
                            let bias = if b.is_empty() { 0.0 } else { b[i] };
                            let v = (x[i] - mean) * scale * w[i] + bias;
                            y[i] = if accumulate { y[i] + v } else { v };
                        }
                    }
                }
            }
        }
    }

    fn backward(dy: &[f32], x: &[f32], w: &[f32], dx: &mut [f32], dw: &mut [f32], db: &mut [f32], h: &mut [f32], s: &NormShape) {
        let (d, n) = (s.width, s.width as f32);
        for ((dy, x), dx) in dy.chunks_exact(s.y_stride).zip(x.chunks_exact(s.x_stride)).zip(dx.chunks_exact_mut(s.x_stride)) {
            for g in 0..s.groups {
                let dy = &dy[s.y_col + g * d..][..d];
                let (x, dx) = (&x[s.x_col + g * d..][..d], &mut dx[s.x_col + g * d..][..d]);
                let h = &mut h[..d];
                for i in 0..d {
                    h[i] = dy[i] * w[i];
                }
                if s.kind == NormKind::Rms {
                    let scale = 1.0 / (dot(x, x) / n + s.eps).sqrt();
                    let c = scale * scale * dot(h, x) / n;
                    for i in 0..d {
                        dx[i] += scale * (h[i] - x[i] * c);
                        dw[i] += dy[i] * x[i] * scale;
                    }
                } else {
                    let mean = sum(x) / n;
                    let scale = 1.0 / (square(x, mean) / n + s.eps).sqrt();
                    let m = sum(h) / n;
                    let c = scale * scale * centred(h, x, mean) / n;
                    for i in 0..d {
                        dx[i] += scale * (h[i] - m - (x[i] - mean) * c);
                        dw[i] += dy[i] * (x[i] - mean) * scale;
                    }
                }
                for (db, dy) in db.iter_mut().zip(dy) {
                    *db += dy;
                }
            }
        }
    }
}

/// sum (x - mean)^2 over fixed lanes.
#[inline(always)]
fn square(x: &[f32], mean: f32) -> f32 {
    if mean == 0.0 { dot(x, x) } else { lanes(x, x, |a, _| (a - mean) * (a - mean)) }
}

/// sum h (x - mean) over fixed lanes.
#[inline(always)]
fn centred(h: &[f32], x: &[f32], mean: f32) -> f32 {
    lanes(h, x, |h, x| h * (x - mean))
}

#[inline(always)]
fn lanes(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut s = [0f32; simd::LANES];
    let (ca, cb) = (a.chunks_exact(simd::LANES), b.chunks_exact(simd::LANES));
    let rest: f32 = ca.remainder().iter().zip(cb.remainder()).map(|(a, b)| f(*a, *b)).sum();
    for (a, b) in ca.zip(cb) {
        for i in 0..simd::LANES {
            s[i] += f(a[i], b[i]);
        }
    }
    sum(&s) + rest
}

fn check(op: &str, s: &NormShape, x: usize, y: usize) {
    let (need_x, need_y) = s.need();
    assert!(x >= need_x && y >= need_y, "{op}: {x} and {y} values, {s:?} needs {need_x} and {need_y}");
    let used = s.groups * s.width;
    assert!(
        s.x_col + used <= s.x_stride && s.y_col + used <= s.y_stride,
        "{op}: groups leave the row: {s:?}"
    );
}

/// y = norm(x) (+ y if `accumulate`); `b` is empty where there is no bias. Shapes: [`NormShape`], w and b [width].
pub fn norm(x: &[f32], w: &[f32], b: &[f32], y: &mut [f32], s: NormShape, accumulate: bool) {
    if s.rows * s.groups * s.width == 0 {
        return;
    }
    check("norm", &s, x.len(), y.len());
    par::light(&mut y[..s.rows * s.y_stride], s.y_stride * ROWS, |i, y| {
        let rows = y.len() / s.y_stride;
        forward(&x[i * ROWS * s.x_stride..][..rows * s.x_stride], w, b, y, &s, accumulate)
    });
}

/// dx += gradient of the input, dw and db += gradients of weight and bias (`db` empty: there is none). dy lies as y
/// does, dx as x.
pub fn norm_backward(
    dy: &[f32],
    x: &[f32],
    w: &[f32],
    dx: &mut [f32],
    dw: &mut [f32],
    db: &mut [f32],
    s: NormShape,
) {
    if s.rows * s.groups * s.width == 0 {
        return;
    }
    check("norm_backward", &s, x.len().min(dx.len()), dy.len());
    let chunk = 4 * ROWS;
    let out = par::Shared::new(dx);
    let has_bias = !db.is_empty();
    let parts = par::map(s.rows.div_ceil(chunk), |i| {
        let (row, n) = (i * chunk, chunk.min(s.rows - i * chunk));
        let (mut dw, mut h) = (vec![0f32; s.width], vec![0f32; s.width]);
        let mut db = vec![0f32; if has_bias { s.width } else { 0 }];
        // SAFETY: chunks of rows do not overlap.
        let dx = unsafe { out.range(row * s.x_stride, n * s.x_stride) };
        let (dy, x) = (&dy[row * s.y_stride..][..n * s.y_stride], &x[row * s.x_stride..][..n * s.x_stride]);
        backward(dy, x, w, dx, &mut dw, &mut db, &mut h, &s);
        (dw, db)
    });
    for (pw, pb) in parts {
        for i in 0..s.width {
            dw[i] += pw[i];
        }
        for (db, p) in db.iter_mut().zip(pb) {
            *db += p;
        }
    }
}
