//! Bias of a linear layer: y[r] += b, rows [rows, width]; its gradient db += sum_r dy[r], over fixed chunks of rows in
//! order.

use crate::par;

const ROWS: usize = 64;

/// y[r] += b for every row.
pub fn add(y: &mut [f32], b: &[f32]) {
    if b.is_empty() {
        return;
    }
    assert_eq!(y.len() % b.len(), 0, "bias: {} values are no rows of {}", y.len(), b.len());
    par::light(y, ROWS * b.len(), |_, y| {
        for y in y.chunks_exact_mut(b.len()) {
            for (y, b) in y.iter_mut().zip(b) {
                *y += b;
            }
        }
    });
}

/// db += sum over the rows of dy.
pub fn backward(dy: &[f32], db: &mut [f32]) {
    let width = db.len();
    if width == 0 {
        return;
    }
    assert_eq!(dy.len() % width, 0, "bias_backward: {} values are no rows of {width}", dy.len());
    let parts = par::map(dy.len().div_ceil(ROWS * width), |i| {
        let mut sum = vec![0f32; width];
        for row in dy[i * ROWS * width..].chunks_exact(width).take(ROWS) {
            for (s, d) in sum.iter_mut().zip(row) {
                *s += d;
            }
        }
        sum
    });
    for part in parts {
        for (b, p) in db.iter_mut().zip(part) {
            *b += p;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::fixtures::{size, values, width};
    use crate::tolerance::{EXACT, SCATTER, assert_close};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn matches_the_loop(rows in prop_oneof![size(), 200usize..300], width in width(), seed: u64) {
            let (b, y) = (values(seed, width), values(seed ^ 1, rows * width));
            let want: Vec<f32> = y.iter().enumerate().map(|(i, y)| y + b[i % width]).collect();
            let mut got = y.clone();
            super::add(&mut got, &b);
            assert_close("y", &got, &want, EXACT);
            let mut db = b.clone();
            super::backward(&y, &mut db);
            let sums: Vec<f64> = (0..width)
                .map(|i| b[i] as f64 + (0..rows).map(|r| y[r * width + i] as f64).sum::<f64>())
                .collect();
            assert_close("db", &db, &sums, SCATTER.times(100.0));
        }
    }
}
