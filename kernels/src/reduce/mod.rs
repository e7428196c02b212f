//! Sums in a fixed order, whatever the number of threads.

use crate::{par, simd, simd::dot};

simd! {
    fn square(a: &[f32]) -> f32 {
        dot(a, a)
    }
}

/// sum of squares, f64 over chunks of 4096
pub fn sum_squares(a: &[f32]) -> f64 {
    const CHUNK: usize = 4096;
    let parts =
        par::map(a.len().div_ceil(CHUNK), |i| square(&a[i * CHUNK..a.len().min((i + 1) * CHUNK)]) as f64);
    parts.iter().sum()
}

#[cfg(test)]
mod tests {
    #[test]
    fn matches_a_plain_sum() {
        let a: Vec<f32> = (0..10_001).map(|i| ((i * 7919) % 1000) as f32 * 1e-3 - 0.5).collect();
        let want: f64 = a.iter().map(|x| (*x as f64).powi(2)).sum();
        assert!((super::sum_squares(&a) - want).abs() < 1e-5 * want);
        assert_eq!(super::sum_squares(&[]), 0.0);
    }
}
