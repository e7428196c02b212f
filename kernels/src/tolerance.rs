//! How near two computations of the same thing must be: |got - want| <= abs + rel |want|, written once.
//!
//! Bounds hold for inputs of order one (products up to a few hundred terms) and compare an f32 kernel with an
//! f64 reference, with automatic differentiation, or with another device. Summation order is the whole difference,
//! so `abs` grows with the number of terms of an operation and `rel` with the depth of the chain of roundings.

use std::fmt;

/// A bound on the difference between a result and its reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    pub abs: f64,
    pub rel: f64,
}

const fn bound(abs: f64, rel: f64) -> Tolerance {
    Tolerance { abs, rel }
}

/// Copies and permutations: no arithmetic, no difference.
pub const EXACT: Tolerance = bound(0.0, 0.0);
/// Matrix products of up to about 500 terms of order one.
pub const GEMM: Tolerance = bound(2e-5, 2e-6);
/// Row sums of embedding gradients and scattered rows.
pub const SCATTER: Tolerance = bound(1e-6, 1e-6);
/// RMS norm, forward.
pub const NORM: Tolerance = bound(1e-6, 2e-6);
/// RMS norm, backward (the weight gradient sums over rows).
pub const NORM_BACKWARD: Tolerance = bound(2e-5, 1e-5);
/// Rotary embedding: sines and cosines are rounded once.
pub const ROPE: Tolerance = bound(3e-7, 3e-7);
/// SwiGLU, forward and backward.
pub const GLU: Tolerance = bound(1e-6, 2e-6);
/// Attention output and log-sum-exp.
pub const ATTENTION: Tolerance = bound(3e-6, 3e-6);
/// Attention gradients (key and value gradients sum over all queries).
pub const ATTENTION_BACKWARD: Tolerance = bound(2e-5, 2e-5);
/// Log-probabilities, entropies, log-sum-exp and logits of the head.
pub const HEAD: Tolerance = bound(1e-5, 3e-6);
/// Gap between the two best keys of a token race: differences of logarithms of small exponentials.
pub const RACE_MARGIN: Tolerance = bound(1e-4, 1e-5);
/// Head gradients.
pub const HEAD_BACKWARD: Tolerance = bound(2e-5, 1e-5);
/// Head gradients and divergences of rows under mixed noise: ratios of up to hundreds of rounded probabilities.
pub const HEAD_MIXED: Tolerance = bound(4e-4, 2e-4);
/// AdamW: weights and moments after a few steps.
pub const ADAM: Tolerance = bound(1e-6, 1e-5);
/// Norms and sums over whole buffers.
pub const REDUCE: Tolerance = bound(1e-6, 1e-5);
/// Analytic gradients against finite differences of f32 outputs (fourth order, step 1/64).
pub const FINITE_DIFFERENCE: Tolerance = bound(2e-4, 2e-3);

/// The first value outside a bound.
#[derive(Clone, Debug, PartialEq)]
pub enum Mismatch {
    Length { got: usize, want: usize },
    Value { index: usize, got: f64, want: f64, allowed: f64, outside: usize, of: usize },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Mismatch::Length { got, want } => write!(f, "{got} values, expected {want}"),
            Mismatch::Value { index, got, want, allowed, outside, of } => write!(
                f,
                "[{index}] = {got:e}, expected {want:e} within {allowed:e} (off by {:e}; {outside} of {of} outside)",
                (got - want).abs()
            ),
        }
    }
}

impl std::error::Error for Mismatch {}

impl Tolerance {
    /// Is one value inside the bound? Equal infinities are; NaN never is.
    pub fn holds(&self, got: f64, want: f64) -> bool {
        got == want || want.is_finite() && (got - want).abs() <= self.abs + self.rel * want.abs()
    }
    /// The bound for values `factor` times as large (sums over more rows, larger inputs).
    pub fn times(self, factor: f64) -> Tolerance {
        Tolerance { abs: self.abs * factor, rel: self.rel * factor }
    }
}

/// Compares two sequences of values; the error names the worst place.
pub fn close<A, B>(got: &[A], want: &[B], t: Tolerance) -> Result<(), Mismatch>
where
    A: Copy + Into<f64>,
    B: Copy + Into<f64>,
{
    if got.len() != want.len() {
        return Err(Mismatch::Length { got: got.len(), want: want.len() });
    }
    let (mut worst, mut outside) = ((f64::NEG_INFINITY, 0), 0);
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let (g, w) = ((*g).into(), (*w).into());
        if !t.holds(g, w) {
            outside += 1;
            let excess = (g - w).abs() - t.rel * w.abs();
            let excess = if excess.is_nan() { f64::INFINITY } else { excess };
            if excess > worst.0 {
                worst = (excess, i);
            }
        }
    }
    if outside == 0 {
        return Ok(());
    }
    let (g, w) = (got[worst.1].into(), want[worst.1].into());
    let allowed = t.abs + t.rel * w.abs();
    Err(Mismatch::Value { index: worst.1, got: g, want: w, allowed, outside, of: got.len() })
}

/// Panics with `name` and the worst place unless the two agree. For tests.
#[track_caller]
pub fn assert_close<A, B>(name: &str, got: &[A], want: &[B], t: Tolerance)
where
    A: Copy + Into<f64>,
    B: Copy + Into<f64>,
{
    if let Err(e) = close(got, want, t) {
        panic!("{name}: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_worst_place() {
        let t = bound(0.1, 0.0);
        assert!(close(&[1f32, 2.0], &[1.05f64, 2.0], t).is_ok());
        let Err(Mismatch::Value { index, outside, .. }) = close(&[1f32, 2.0, 3.0], &[1.2f32, 9.0, 3.0], t)
        else {
            panic!("a difference of 7 passed")
        };
        assert_eq!((index, outside), (1, 2));
        assert!(matches!(close(&[1f32], &[] as &[f32], t), Err(Mismatch::Length { got: 1, want: 0 })));
    }

    #[test]
    fn not_a_number_never_passes_and_equal_infinities_do() {
        let t = bound(1e9, 1e9);
        assert!(close(&[f32::NAN], &[0f32], t).is_err() && close(&[0f32], &[f32::NAN], t).is_err());
        assert!(close(&[f32::NAN], &[f32::NAN], t).is_err());
        assert!(close(&[f32::NEG_INFINITY], &[f32::NEG_INFINITY], EXACT).is_ok());
        assert!(close(&[f32::INFINITY], &[1f32], t).is_err() && close(&[1f32], &[f32::INFINITY], t).is_err());
    }
}
