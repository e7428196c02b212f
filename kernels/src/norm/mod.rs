//! RMS norm (Zhang & Sennrich 2019): y[r] = x[r] / sqrt(mean(x[r]^2) + eps) * w. Rows [rows, width].
//!
//! With s = 1 / sqrt(mean(x^2) + eps) and g = dy * w: dx = s (g - x s^2 mean(g x)), dw = sum_r dy x s.
//! s is recomputed in the backward pass: one more read is cheaper than a buffer per layer.

mod cpu;
pub mod reference;

pub use cpu::{rms_norm, rms_norm_backward};

#[cfg(test)]
mod tests;
