//! The formula in f64.

const ROOT: f64 = 0.797_884_560_802_865_4;

/// x (1 + tanh(u)) / 2
pub fn value(x: f64) -> f64 {
    0.5 * x * (1.0 + (ROOT * (x + 0.044715 * x.powi(3))).tanh())
}

/// Its derivative.
pub fn slope(x: f64) -> f64 {
    let t = (ROOT * (x + 0.044715 * x.powi(3))).tanh();
    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * ROOT * (1.0 + 3.0 * 0.044715 * x * x)
}
