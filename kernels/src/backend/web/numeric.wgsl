// Numbers that must agree with the CPU: Philox4x32-10, the natural logarithm and the race's exponential
// (rng.rs). WGSL has no 64-bit integers, its log may err by 2^-21 near 1 (WGSL, 15.7.4.1), so both are spelled out.

const LOWEST = -1e30;
const NEG_INFINITY = 0xff800000u;
const POS_INFINITY = 0x7f800000u;

// upper 32 bits of a b
fn mul_hi(a: u32, b: u32) -> u32 {
    let a0 = a & 0xffffu;
    let a1 = a >> 16u;
    let b0 = b & 0xffffu;
    let b1 = b >> 16u;
    let p = a1 * b0 + ((a0 * b0) >> 16u);
    let q = a0 * b1 + (p & 0xffffu);
    return a1 * b1 + (p >> 16u) + (q >> 16u);
}

fn philox(seed: vec2<u32>, counter: vec4<u32>) -> vec4<u32> {
    var k = seed;
    var c = counter;
    for (var i = 0u; i < 10u; i++) {
        c = vec4<u32>(
            mul_hi(0xcd9e8d57u, c.z) ^ c.y ^ k.x,
            0xcd9e8d57u * c.z,
            mul_hi(0xd2511f53u, c.x) ^ c.w ^ k.y,
            0xd2511f53u * c.x,
        );
        k += vec2<u32>(0x9e3779b9u, 0xbb67ae85u);
    }
    return c;
}

// ln x for positive normal x: x = 2^e m with m in [sqrt(1/2), sqrt 2), ln m = 2 atanh((m - 1) / (m + 1))
fn ln(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    let e = bitcast<i32>(bits - 0x3f3504f3u) >> 23u;
    let f = bitcast<f32>(bits - (bitcast<u32>(e) << 23u)) - 1.0;
    let s = f / (2.0 + f);
    let t = s * s;
    let series = 1.0 + t * (1.0 / 3.0 + t * (0.2 + t * (1.0 / 7.0 + t * (1.0 / 9.0 + t / 11.0))));
    // ln 2 in two parts: the first product is exact
    return f32(e) * 0.693359375 + (2.0 * s * series - f32(e) * 2.1219444e-4);
}

// u = hi 2^-32 + (lo + 1/2) 2^-64
fn race_uniform(bits: vec2<u32>) -> f32 {
    return f32(bits.x) * 0x1p-32 + (f32(bits.y) + 0.5) * 0x1p-64;
}

// Not above ln u, without a logarithm (head/race.rs)
fn ln_bound(u: f32) -> f32 {
    return (f32(bitcast<i32>(u)) * 0x1p-23 - 127.0) * 0.6931472 - 1e-3;
}

// E = -ln(1 - u) of u = race_uniform(bits); 1 - u is the uniform of the inverted bits
fn race_exponential(bits: vec2<u32>, u: f32) -> f32 {
    if (u < 1e-2) {
        return u * (1.0 + u * (0.5 + u * (1.0 / 3.0 + u * 0.25)));
    }
    return -ln(race_uniform(~bits));
}
