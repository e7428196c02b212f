//! Normalised rows. RMS norm (Zhang & Sennrich 2019): y = x s w with s = 1 / sqrt(mean(x^2) + eps).
//! Layer norm (Ba et al. 2016): y = (x - mean(x)) s w + b with s = 1 / sqrt(var(x) + eps).
//!
//! With n the normalised row and g = dy w: dx = s (g - mean(g) - n mean(g n)) (RMS: without mean(g)),
//! dw = sum dy n, db = sum dy. s is recomputed in the backward pass: one more read is cheaper than a buffer a layer.
//!
//! A row of the buffer holds `groups` of `width` values, each normalised by itself with the same weight: one group is
//! a layer's norm, one a head is the norm of queries or keys. Gemma's 1 + w is folded into w when a model is loaded;
//! adaptive modulation (1 + scale) n + shift is w and b where the condition is constant.

mod cpu;
pub mod reference;

pub use cpu::{norm, norm_backward};

/// Which statistics a row is normalised by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    Rms,
    Layer,
}

/// Rows [rows, x_stride] to rows [rows, y_stride]: group g stands at column col + g * width of both.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormShape {
    pub kind: NormKind,
    pub rows: usize,
    pub groups: usize,
    pub width: usize,
    pub eps: f32,
    pub x_stride: usize,
    pub x_col: usize,
    pub y_stride: usize,
    pub y_col: usize,
}

impl NormShape {
    /// Packed rows of one group.
    pub fn packed(kind: NormKind, rows: usize, width: usize, eps: f32) -> NormShape {
        let (x_stride, y_stride) = (width, width);
        NormShape { kind, rows, groups: 1, width, eps, x_stride, x_col: 0, y_stride, y_col: 0 }
    }

    /// Values that x and y must hold.
    pub fn need(&self) -> (usize, usize) {
        (self.rows * self.x_stride, self.rows * self.y_stride)
    }
}

#[cfg(test)]
mod tests;
