//! GELU (Hendrycks & Gimpel, arXiv 1606.08415) in the tanh form: y = x (1 + tanh(u)) / 2 with
//! u = sqrt(2 / pi) (x + 0.044715 x^3). Since (1 + tanh(u)) / 2 = sigma(2 u), one exponential computes it.
//!
//! y' = s + x s (1 - s) 2 u' with s = sigma(2 u), u' = sqrt(2 / pi) (1 + 3 * 0.044715 x^2).

pub mod reference;

use crate::{par, simd, simd::exp};

/// 2 sqrt(2 / pi)
const TWICE: f32 = 1.595_769;
const CUBE: f32 = 0.044_715;
/// Beyond this the sigmoid is 0 or 1 to the last bit, and the cube would overflow.
const FAR: f32 = 12.0;
const CHUNK: usize = 1 << 14;

/// One value.
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    let c = x.clamp(-FAR, FAR);
    x / (1.0 + exp(-TWICE * (c + CUBE * c * c * c)))
}

/// The derivative of one value.
#[inline(always)]
pub fn slope(x: f32) -> f32 {
    let c = x.clamp(-FAR, FAR);
    let s = 1.0 / (1.0 + exp(-TWICE * (c + CUBE * c * c * c)));
    s + c * s * (1.0 - s) * TWICE * (1.0 + 3.0 * CUBE * c * c)
}

simd! {
    fn rows(x: &[f32], y: &mut [f32]) {
        for (x, y) in x.iter().zip(y) {
            *y = gelu(*x);
        }
    }
    fn slopes(dy: &[f32], x: &[f32], d: &mut [f32]) {
        for ((dy, x), d) in dy.iter().zip(x).zip(d) {
            *d = dy * slope(*x);
        }
    }
}

/// y = gelu(x), elementwise.
pub fn forward(x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "gelu: x and y differ");
    par::chunks(y, CHUNK, |i, y| rows(&x[i * CHUNK..][..y.len()], y));
}

/// d = dy gelu'(x), overwritten.
pub fn backward(dy: &[f32], x: &[f32], d: &mut [f32]) {
    assert!(dy.len() == x.len() && d.len() == x.len(), "gelu_backward: lengths differ");
    par::chunks(d, CHUNK, |i, d| slopes(&dy[i * CHUNK..][..d.len()], &x[i * CHUNK..][..d.len()], d));
}

#[cfg(test)]
mod tests;
