// gelu(x) = x sigma(2 sqrt(2 / pi) (x + 0.044715 x^3)). Infinities are not portable in WGSL, so the exponent is cut
// where the quotient vanishes.
fn gelu(x: f32) -> f32 {
    let c = clamp(x, -12.0, 12.0);
    return x / (1.0 + exp(min(-1.5957691 * (c + 0.044715 * c * c * c), 80.0)));
}

