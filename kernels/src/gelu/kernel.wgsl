// y = gelu(x), tanh form, as x sigma(2 u). One thread a value.

struct Params { n: u32 }
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> p: Params;

fn each(i: u32) {
    if (i < p.n) {
        y[i] = gelu(x[i]);
    }
}
