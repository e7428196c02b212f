// y[r] += b, [rows, width]. One thread a value.

struct Params { rows: u32, width: u32 }
@group(0) @binding(0) var<storage, read> b: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> p: Params;

fn each(i: u32) {
    if (i < p.rows * p.width) {
        y[i] += b[i % p.width];
    }
}
