//! The plain triple loop, f64 accumulators.

use super::Mat;

/// c[m, n] = (accumulate ? c : 0) + alpha a b
#[allow(clippy::too_many_arguments)]
pub fn gemm(
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    a: Mat,
    b: Mat,
    c: &mut [f32],
    c_row: usize,
    accumulate: bool,
) {
    for i in 0..m {
        for j in 0..n {
            let s: f64 = (0..k)
                .map(|p| a.data[i * a.row + p * a.col] as f64 * b.data[p * b.row + j * b.col] as f64)
                .sum();
            let old = if accumulate { c[i * c_row + j] as f64 } else { 0.0 };
            c[i * c_row + j] = (old + alpha as f64 * s) as f32;
        }
    }
}
