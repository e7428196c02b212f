//! Gated linear units (Shazeer, arXiv 2002.05202): y[r, i] = f(g) u with g = gate_up[r, i], u = gate_up[r, width + i].
//!
//! SwiGLU has f = silu: g sigma(g), f' = sigma(g) (1 + g (1 - sigma(g))). GeGLU has f = gelu in the tanh form
//! ([`crate::gelu`]).

pub mod reference;

use crate::gelu::{gelu, slope};
use crate::{par, simd, simd::exp};

const ROWS: usize = 16;

simd! {
    fn swiglu_rows(gate_up: &[f32], y: &mut [f32], width: usize) {
        for (gu, y) in gate_up.chunks_exact(2 * width).zip(y.chunks_exact_mut(width)) {
            let (g, u) = gu.split_at(width);
            for i in 0..width {
                y[i] = g[i] / (1.0 + exp(-g[i])) * u[i];
            }
        }
    }

    fn swiglu_slopes(dy: &[f32], gate_up: &[f32], d: &mut [f32], width: usize) {
        for ((dy, gu), d) in dy.chunks_exact(width).zip(gate_up.chunks_exact(2 * width)).zip(d.chunks_exact_mut(2 * width)) {
            let (g, u) = gu.split_at(width);
            let (dg, du) = d.split_at_mut(width);
            for i in 0..width {
                let s = 1.0 / (1.0 + exp(-g[i]));
                du[i] = dy[i] * g[i] * s;
                dg[i] = dy[i] * u[i] * s * (1.0 + g[i] * (1.0 - s));
            }
        }
    }

    fn geglu_rows(gate_up: &[f32], y: &mut [f32], width: usize) {
        for (gu, y) in gate_up.chunks_exact(2 * width).zip(y.chunks_exact_mut(width)) {
            let (g, u) = gu.split_at(width);
            for i in 0..width {
                y[i] = gelu(g[i]) * u[i];
            }
        }
    }

    fn geglu_slopes(dy: &[f32], gate_up: &[f32], d: &mut [f32], width: usize) {
        for ((dy, gu), d) in dy.chunks_exact(width).zip(gate_up.chunks_exact(2 * width)).zip(d.chunks_exact_mut(2 * width)) {
            let (g, u) = gu.split_at(width);
            let (dg, du) = d.split_at_mut(width);
            for i in 0..width {
                du[i] = dy[i] * gelu(g[i]);
                dg[i] = dy[i] * u[i] * slope(g[i]);
            }
        }
    }
}

/// The gate's function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// SwiGLU
    Silu,
    /// GeGLU, tanh form
    Gelu,
}

/// y [rows, width] from gate_up [rows, 2 width].
pub fn glu(gate: Gate, gate_up: &[f32], y: &mut [f32], width: usize) {
    assert_eq!(gate_up.len(), 2 * y.len(), "glu: gate_up must be twice y");
    let rows = match gate {
        Gate::Silu => swiglu_rows,
        Gate::Gelu => geglu_rows,
    };
    par::chunks(y, width * ROWS, |i, y| rows(&gate_up[2 * i * width * ROWS..][..2 * y.len()], y, width));
}

/// d_gate_up [rows, 2 width] = gradient, overwritten.
pub fn glu_backward(gate: Gate, dy: &[f32], gate_up: &[f32], d_gate_up: &mut [f32], width: usize) {
    assert!(
        gate_up.len() == 2 * dy.len() && d_gate_up.len() == gate_up.len(),
        "glu_backward: lengths differ"
    );
    let rows = match gate {
        Gate::Silu => swiglu_slopes,
        Gate::Gelu => geglu_slopes,
    };
    par::chunks(d_gate_up, 2 * width * ROWS, |i, d| {
        let at = i * width * ROWS;
        rows(&dy[at..][..d.len() / 2], &gate_up[2 * at..][..d.len()], d, width)
    });
}

#[cfg(test)]
mod tests;
