// y[r, i] = f(g) u with g = gate_up[r, i], u = gate_up[r, width + i]; f = silu(g) = g / (1 + e^-g), or gelu.
// One thread a value.

struct Params { rows: u32, width: u32, gelu: u32 }
@group(0) @binding(0) var<storage, read> gate_up: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> p: Params;

fn each(i: u32) {
    if (i >= p.rows * p.width) {
        return;
    }
    let at = i + i / p.width * p.width;
    let g = gate_up[at];
    let u = gate_up[at + p.width];
    if (p.gelu == 1u) {
        y[i] = gelu(g) * u;
    } else {
        // infinities are not portable in WGSL: e^80 already makes the quotient vanish
        y[i] = g / (1.0 + exp(min(-g, 80.0))) * u;
    }
}
