// Rotary embedding in place, half-split: (a, b) = (x[i], x[i + head_dim / 2]) turns by position theta^(-2 i / head_dim).
// Angles are fixed-point turns: `turns[i]` is frac(theta^(-2 i / head_dim) / 2 pi) in units of 2^-64 (high word,
// low word), so the phase of any position is exact modulo one turn and sine and cosine only see [-pi/4, pi/4].
// (WGSL promises sin and cos no better than 2^-11.) One thread a pair.

struct Params {
    rows: u32,
    stride: u32,
    col: u32,
    heads: u32,
    head_dim: u32,
}
@group(0) @binding(0) var<storage, read> positions: array<u32>;
@group(0) @binding(1) var<storage, read> turns: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(1) @binding(0) var<uniform> p: Params;

// (cos, sin) of `phase` in units of 2^-32 turns
fn cos_sin(phase: u32) -> vec2<f32> {
    let quarter = (phase + 0x20000000u) >> 30u;
    let a = f32(bitcast<i32>(phase - (quarter << 30u))) * 1.4629180792671596e-9;
    let t = a * a;
    let s = a * (1.0 + t * (-1.0 / 6.0 + t * (1.0 / 120.0 + t * (-1.0 / 5040.0 + t / 362880.0))));
    let c = 1.0 + t * (-0.5 + t * (1.0 / 24.0 + t * (-1.0 / 720.0 + t * (1.0 / 40320.0 - t / 3628800.0))));
    let swapped = select(vec2<f32>(c, s), vec2<f32>(-s, c), (quarter & 1u) == 1u);
    return select(swapped, -swapped, (quarter & 2u) == 2u);
}

fn each(n: u32) {
    let pairs = p.head_dim / 2u;
    if (n >= p.rows * p.heads * pairs) {
        return;
    }
    let i = n % pairs;
    let head = n / pairs % p.heads;
    let row = n / pairs / p.heads;
    let position = positions[row];
    let cs = cos_sin(position * turns[i].x + mul_hi(position, turns[i].y));
    let at = row * p.stride + p.col + head * p.head_dim + i;
    let a = x[at];
    let b = x[at + pairs];
    x[at] = a * cs.x - b * cs.y;
    x[at + pairs] = b * cs.x + a * cs.y;
}
