//! Plain loop in f64.

use super::AdamStep;

pub fn adamw(w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], s: AdamStep) {
    let (b1, b2) = (s.beta1 as f64, s.beta2 as f64);
    for i in 0..w.len() {
        let x = (g[i] * s.grad_scale) as f64;
        let mi = b1 * m[i] as f64 + (1.0 - b1) * x;
        let vi = b2 * v[i] as f64 + (1.0 - b2) * x * x;
        let lr = s.lr as f64;
        let wi = w[i] as f64 * (1.0 - lr * s.weight_decay as f64)
            - lr * (mi / s.correction1 as f64) / ((vi / s.correction2 as f64).sqrt() + s.eps as f64);
        (m[i], v[i], w[i]) = (mi as f32, vi as f32, wi as f32);
    }
}
