//! RMS norm against the plain loop, finite differences and candle.

use proptest::prelude::*;

use super::{reference, rms_norm, rms_norm_backward};
use crate::fixtures::{differences, flat, gradients, leaf, size, values, weighted, width};
use crate::tolerance::{FINITE_DIFFERENCE, NORM, NORM_BACKWARD, assert_close};

const EPS: f32 = 1e-5;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn matches_the_loop(rows in prop_oneof![size(), 250usize..300], width in width(), seed: u64) {
        // a large eps bounds 1 / s on rows of a few tiny values
        let eps = 1e-2;
        let (x, w, dy) = (values(seed, rows * width), values(seed ^ 1, width), values(seed ^ 2, rows * width));
        let (mut got, mut want) = (vec![f32::NAN; rows * width], vec![f32::NAN; rows * width]);
        rms_norm(&x, &w, &mut got, width, eps);
        reference::rms_norm(&x, &w, &mut want, width, eps);
        assert_close("y", &got, &want, NORM);
        // both gradients accumulate
        let (mut dx, mut dw) = (values(seed ^ 3, rows * width), values(seed ^ 4, width));
        let (mut dx_want, mut dw_want) = (dx.clone(), dw.clone());
        rms_norm_backward(&dy, &x, &w, &mut dx, &mut dw, width, eps);
        reference::rms_norm_backward(&dy, &x, &w, &mut dx_want, &mut dw_want, width, eps);
        assert_close("dx", &dx, &dx_want, NORM_BACKWARD);
        assert_close("dw", &dw, &dw_want, NORM_BACKWARD.times(2.0));
    }
}

#[test]
fn gradients_are_the_slopes() {
    let (rows, width) = (3, 17);
    let (x, w, dy) = (values(1, rows * width), values(2, width), values(3, rows * width));
    let loss = |x: &[f32], w: &[f32]| {
        let mut y = vec![0f32; rows * width];
        reference::rms_norm(x, w, &mut y, width, EPS);
        weighted(&y, &dy)
    };
    let (mut dx, mut dw) = (vec![0f32; rows * width], vec![0f32; width]);
    rms_norm_backward(&dy, &x, &w, &mut dx, &mut dw, width, EPS);
    assert_close("dx", &dx, &differences(&x, |x| loss(x, &w)), FINITE_DIFFERENCE);
    assert_close("dw", &dw, &differences(&w, |w| loss(&x, w)), FINITE_DIFFERENCE);
}

#[test]
fn matches_candle() -> candle_core::Result<()> {
    let (rows, width) = (131, 65);
    let (x, w, dy) = (values(4, rows * width), values(5, width), values(6, rows * width));
    let (lx, lw) = (leaf(&x, &[rows, width]), leaf(&w, &[width]));
    let scale = (lx.sqr()?.mean_keepdim(1)? + EPS as f64)?.sqrt()?;
    let y = lx.broadcast_div(&scale)?.broadcast_mul(&lw)?;
    let grads = gradients(&y, &dy, &[&lx, &lw])?;
    let (mut got, mut dx, mut dw) = (vec![0f32; x.len()], vec![0f32; x.len()], vec![0f32; width]);
    rms_norm(&x, &w, &mut got, width, EPS);
    rms_norm_backward(&dy, &x, &w, &mut dx, &mut dw, width, EPS);
    assert_close("y", &got, &flat(&y), NORM);
    assert_close("dx", &dx, &grads[0], NORM_BACKWARD);
    assert_close("dw", &dw, &grads[1], NORM_BACKWARD);
    Ok(())
}

#[test]
fn a_row_of_zeros_has_finite_gradients() {
    let (mut y, mut dx, mut dw) = ([f32::NAN; 3], [0f32; 3], [0f32; 3]);
    rms_norm(&[0.0; 3], &[1.0; 3], &mut y, 3, EPS);
    rms_norm_backward(&[1.0; 3], &[0.0; 3], &[1.0; 3], &mut dx, &mut dw, 3, EPS);
    assert_eq!((y, dw), ([0.0; 3], [0.0; 3]));
    assert_close("dx", &dx, &[1.0 / (EPS as f64).sqrt(); 3], NORM_BACKWARD);
}
