//! Plain loops in f64.

use super::Gate;
use crate::gelu::reference as gelu;

/// f(g) and f'(g)
fn gate_of(gate: Gate, g: f64) -> (f64, f64) {
    match gate {
        Gate::Silu => {
            let s = 1.0 / (1.0 + (-g).exp());
            (g * s, s * (1.0 + g * (1.0 - s)))
        }
        Gate::Gelu => (gelu::value(g), gelu::slope(g)),
    }
}

/// y [rows, width] from gate_up [rows, 2 width]
pub fn glu(gate: Gate, gate_up: &[f32], y: &mut [f32], width: usize) {
    for (gu, y) in gate_up.chunks_exact(2 * width).zip(y.chunks_exact_mut(width)) {
        for i in 0..width {
            y[i] = (gate_of(gate, gu[i] as f64).0 * gu[width + i] as f64) as f32;
        }
    }
}

/// d = gradient of gate_up
pub fn glu_backward(gate: Gate, dy: &[f32], gate_up: &[f32], d: &mut [f32], width: usize) {
    for ((dy, gu), d) in
        dy.chunks_exact(width).zip(gate_up.chunks_exact(2 * width)).zip(d.chunks_exact_mut(2 * width))
    {
        for i in 0..width {
            let (f, slope) = gate_of(gate, gu[i] as f64);
            d[i] = (dy[i] as f64 * gu[width + i] as f64 * slope) as f32;
            d[width + i] = (dy[i] as f64 * f) as f32;
        }
    }
}
