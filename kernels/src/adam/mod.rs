//! AdamW (Loshchilov & Hutter, arXiv 1711.05101), decoupled decay, in one pass over flat parameters, with the
//! exponential moving average of the weights (`methods/mdlm.md` 2.5) fused in.
//!
//! w *= 1 - lr wd; m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; w -= lr (m / c1) / (sqrt(v / c2) + eps), with
//! c_i = 1 - b_i^t; ema += (1 - d) (w - ema).

use crate::{par, simd};

pub mod reference;

/// One step's constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStep {
    pub lr: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    pub weight_decay: f32,
    /// 1 - beta^t
    pub correction1: f32,
    pub correction2: f32,
    /// gradients are multiplied by this first (clipping)
    pub grad_scale: f32,
    /// decay of the weights' average; None = no average
    pub ema: Option<f32>,
}

impl AdamStep {
    /// Constants of update number `t` (from 1). The corrections use the betas as rounded to f32, so that the
    /// moments of a constant gradient are that gradient at every t.
    pub fn new(lr: f64, betas: [f64; 2], eps: f64, weight_decay: f64, t: u64) -> Self {
        let correction = |beta: f64| (1.0 - (beta as f32 as f64).powf(t as f64)) as f32;
        AdamStep {
            lr: lr as f32,
            beta1: betas[0] as f32,
            beta2: betas[1] as f32,
            eps: eps as f32,
            weight_decay: weight_decay as f32,
            correction1: correction(betas[0]),
            correction2: correction(betas[1]),
            grad_scale: 1.0,
            ema: None,
        }
    }
}

simd! {
    fn update(w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], s: AdamStep) {
        let n = w.len();
        let (g, m, v) = (&g[..n], &mut m[..n], &mut v[..n]);
        let keep = 1.0 - s.lr * s.weight_decay;
        let (i1, i2) = (1.0 / s.correction1, 1.0 / s.correction2);
        for i in 0..n {
            let x = g[i] * s.grad_scale;
            m[i] = s.beta1 * m[i] + (1.0 - s.beta1) * x;
            v[i] = s.beta2 * v[i] + (1.0 - s.beta2) * x * x;
            w[i] = w[i] * keep - s.lr * (m[i] * i1) / ((v[i] * i2).sqrt() + s.eps);
        }
    }
    fn average(ema: &mut [f32], w: &[f32], rate: f32) {
        for (e, w) in ema.iter_mut().zip(w) {
            *e += rate * (*w - *e);
        }
    }
}

/// Updates `w`, `m`, `v` (and `ema`, if given, same length) from the gradient `g`.
pub fn adamw(
    w: &mut [f32],
    g: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    ema: Option<&mut [f32]>,
    step: AdamStep,
) {
    let n = w.len();
    assert!(g.len() == n && m.len() == n && v.len() == n, "adamw: lengths differ");
    const CHUNK: usize = 1 << 15;
    let (sm, sv) = (par::Shared::new(m), par::Shared::new(v));
    par::chunks(w, CHUNK, |i, w| {
        let (at, len) = (i * CHUNK, w.len());
        // SAFETY: chunks do not overlap.
        let (m, v) = unsafe { (sm.range(at, len), sv.range(at, len)) };
        update(w, &g[at..at + len], m, v, step);
    });
    if let (Some(ema), Some(d)) = (ema, step.ema) {
        assert_eq!(ema.len(), n, "adamw: ema length differs");
        par::chunks(ema, CHUNK, |i, e| average(e, &w[i * CHUNK..][..e.len()], 1.0 - d));
    }
}

#[cfg(test)]
mod tests;
