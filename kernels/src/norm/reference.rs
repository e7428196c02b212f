//! Plain loops in f64.

/// y[r] = x[r] / sqrt(mean(x[r]^2) + eps) * w
pub fn rms_norm(x: &[f32], w: &[f32], y: &mut [f32], width: usize, eps: f32) {
    for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
        let mean = x.iter().map(|v| (*v as f64).powi(2)).sum::<f64>() / width as f64;
        let s = 1.0 / (mean + eps as f64).sqrt();
        for i in 0..width {
            y[i] = (x[i] as f64 * s * w[i] as f64) as f32;
        }
    }
}

/// dx += ..., dw += ...
pub fn rms_norm_backward(
    dy: &[f32],
    x: &[f32],
    w: &[f32],
    dx: &mut [f32],
    dw: &mut [f32],
    width: usize,
    eps: f32,
) {
    for ((dy, x), dx) in dy.chunks_exact(width).zip(x.chunks_exact(width)).zip(dx.chunks_exact_mut(width)) {
        let mean = x.iter().map(|v| (*v as f64).powi(2)).sum::<f64>() / width as f64;
        let s = 1.0 / (mean + eps as f64).sqrt();
        let gx: f64 =
            (0..width).map(|i| dy[i] as f64 * w[i] as f64 * x[i] as f64).sum::<f64>() / width as f64;
        for i in 0..width {
            dx[i] += (s * (dy[i] as f64 * w[i] as f64 - x[i] as f64 * s * s * gx)) as f32;
            dw[i] += (dy[i] as f64 * x[i] as f64 * s) as f32;
        }
    }
}
