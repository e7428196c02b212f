// `load_w` of a weight in int8 rows (backend/web/codes.wgsl): i = row k + column, column a multiple of 4.

@group(0) @binding(1) var<storage, read> w: array<u32>;

fn load_w(i: u32, n: u32) -> vec4<f32> {
    let k = inner();
    let row = i / k * code_row(k);
    return bitcast<f32>(w[row + k / 4u]) * four_codes(w[row + i % k / 4u]);
}
