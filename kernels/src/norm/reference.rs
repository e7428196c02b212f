//! Plain loops in f64.

use super::{NormKind, NormShape};

/// Normalised values and scale of one group.
fn normalised(x: &[f32], kind: NormKind, eps: f32) -> (Vec<f64>, f64) {
    let n = x.len() as f64;
    let mean = if kind == NormKind::Layer { x.iter().map(|v| *v as f64).sum::<f64>() / n } else { 0.0 };
    let var = x.iter().map(|v| (*v as f64 - mean).powi(2)).sum::<f64>() / n;
    let s = 1.0 / (var + eps as f64).sqrt();
    (x.iter().map(|v| (*v as f64 - mean) * s).collect(), s)
}

/// y = norm(x) w + b (+ y if `accumulate`)
pub fn norm(x: &[f32], w: &[f32], b: &[f32], y: &mut [f32], s: NormShape, accumulate: bool) {
    for (r, g) in (0..s.rows).flat_map(|r| (0..s.groups).map(move |g| (r, g))) {
        let x = &x[r * s.x_stride + s.x_col + g * s.width..][..s.width];
        let y = &mut y[r * s.y_stride + s.y_col + g * s.width..][..s.width];
        let (n, _) = normalised(x, s.kind, s.eps);
        for i in 0..s.width {
            let v = n[i] * w[i] as f64 + b.get(i).map_or(0.0, |b| *b as f64);
            y[i] = if accumulate { (y[i] as f64 + v) as f32 } else { v as f32 };
        }
    }
}

/// dx += ..., dw += ..., db += ...
pub fn norm_backward(
    dy: &[f32],
    x: &[f32],
    w: &[f32],
    dx: &mut [f32],
    dw: &mut [f32],
    db: &mut [f32],
    s: NormShape,
) {
    for (r, g) in (0..s.rows).flat_map(|r| (0..s.groups).map(move |g| (r, g))) {
        let at = r * s.x_stride + s.x_col + g * s.width;
        let dy = &dy[r * s.y_stride + s.y_col + g * s.width..][..s.width];
        let (n, scale) = normalised(&x[at..][..s.width], s.kind, s.eps);
        let h: Vec<f64> = (0..s.width).map(|i| dy[i] as f64 * w[i] as f64).collect();
        let of = s.width as f64;
        let mean = if s.kind == NormKind::Layer { h.iter().sum::<f64>() / of } else { 0.0 };
        let along = h.iter().zip(&n).map(|(h, n)| h * n).sum::<f64>() / of;
        for i in 0..s.width {
            dx[at + i] += (scale * (h[i] - mean - n[i] * along)) as f32;
            dw[i] += (dy[i] as f64 * n[i]) as f32;
            if let Some(db) = db.get_mut(i) {
                *db += dy[i];
            }
        }
    }
}
