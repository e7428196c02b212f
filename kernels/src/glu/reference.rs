//! Plain loops in f64.

fn sigma(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// y [rows, width] from gate_up [rows, 2 width]
pub fn swiglu(gate_up: &[f32], y: &mut [f32], width: usize) {
    for (gu, y) in gate_up.chunks_exact(2 * width).zip(y.chunks_exact_mut(width)) {
        for i in 0..width {
            let (g, u) = (gu[i] as f64, gu[width + i] as f64);
            y[i] = (g * sigma(g) * u) as f32;
        }
    }
}

/// d = gradient of gate_up
pub fn swiglu_backward(dy: &[f32], gate_up: &[f32], d: &mut [f32], width: usize) {
    for ((dy, gu), d) in
        dy.chunks_exact(width).zip(gate_up.chunks_exact(2 * width)).zip(d.chunks_exact_mut(2 * width))
    {
        for i in 0..width {
            let (g, u, y) = (gu[i] as f64, gu[width + i] as f64, dy[i] as f64);
            d[i] = (y * u * sigma(g) * (1.0 + g * (1.0 - sigma(g)))) as f32;
            d[width + i] = (y * g * sigma(g)) as f32;
        }
    }
}
