//! The plain loops: rounding in f64, sums in i64.

use super::{SMALLEST, levels};

/// Codes and scale of a row of activations: the rule of [`super`], the product with the inverse in f32 as the contract's
/// rounding is defined there.
pub fn row(x: &[f32]) -> (Vec<i64>, f32) {
    let max = x.iter().fold(0f32, |m, x| if x.is_finite() { m.max(x.abs()) } else { f32::NAN });
    if x.iter().any(|x| !x.is_finite()) {
        return (vec![0; x.len()], f32::NAN);
    }
    if max < SMALLEST {
        return (vec![0; x.len()], 0.0);
    }
    let levels = levels(x.len()) as f32;
    let inverse = levels / max;
    (x.iter().map(|x| ((x * inverse) as f64).round_ties_even() as i64).collect(), max / levels)
}

/// sum_k q_w[n, k] q_x[m, k] for every m and n, and the scales of the rows.
pub fn sums(x: &[f32], codes: &[i8], (m, n, k): (usize, usize, usize)) -> (Vec<i64>, Vec<f32>) {
    let (mut sums, mut scales) = (vec![], vec![]);
    for r in 0..m {
        let (q, scale) = row(&x[r * k..][..k]);
        scales.push(scale);
        for j in 0..n {
            sums.push(q.iter().zip(&codes[j * k..][..k]).map(|(q, w)| q * *w as i64).sum());
        }
    }
    (sums, scales)
}

/// y (+)= (sum s_x) s_w, products and sum in f32.
pub fn nt(
    x: &[f32],
    codes: &[i8],
    scale: &[f32],
    y: &mut [f32],
    (m, n, k): (usize, usize, usize),
    accumulate: bool,
) {
    let (sums, scales) = sums(x, codes, (m, n, k));
    for i in 0..m * n {
        let value = sums[i] as f32 * scales[i / n] * scale[i % n];
        y[i] = if accumulate { y[i] + value } else { value };
    }
}
