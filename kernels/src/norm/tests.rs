//! Both norms against the plain loop, finite differences and candle; groups inside wider rows.

use proptest::prelude::*;

use super::{NormKind, NormShape, norm, norm_backward, reference};
use crate::fixtures::{differences, flat, gradients, leaf, size, values, weighted, width};
use crate::tolerance::{FINITE_DIFFERENCE, NORM, NORM_BACKWARD, assert_close};

const EPS: f32 = 1e-5;

fn kind() -> impl Strategy<Value = NormKind> {
    prop_oneof![Just(NormKind::Rms), Just(NormKind::Layer)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn matches_the_loop(
        kind in kind(), rows in prop_oneof![size(), 250usize..300], groups in 1usize..4, width in width(),
        pad in 0usize..3, bias: bool, accumulate: bool, seed: u64,
    ) {
        // a large eps bounds 1 / s on rows of a few tiny values
        let s = NormShape {
            kind, rows, groups, width, eps: 1e-2,
            x_stride: groups * width + 2 * pad, x_col: pad, y_stride: groups * width + pad, y_col: 0,
        };
        let (nx, ny) = (rows * s.x_stride, rows * s.y_stride);
        let (x, w, dy) = (values(seed, nx), values(seed ^ 1, width), values(seed ^ 2, ny));
        let b = values(seed ^ 5, if bias { width } else { 0 });
        let mut got = values(seed ^ 6, ny);
        let mut want = got.clone();
        norm(&x, &w, &b, &mut got, s, accumulate);
        reference::norm(&x, &w, &b, &mut want, s, accumulate);
        assert_close("y", &got, &want, NORM.times(2.0));
        // all gradients accumulate; what lies between the groups stays
        let (mut dx, mut dw, mut db) = (values(seed ^ 3, nx), values(seed ^ 4, width), b.clone());
        let (mut dx_want, mut dw_want, mut db_want) = (dx.clone(), dw.clone(), db.clone());
        norm_backward(&dy, &x, &w, &mut dx, &mut dw, &mut db, s);
        reference::norm_backward(&dy, &x, &w, &mut dx_want, &mut dw_want, &mut db_want, s);
        assert_close("dx", &dx, &dx_want, NORM_BACKWARD);
        assert_close("dw", &dw, &dw_want, NORM_BACKWARD.times(5.0));
        assert_close("db", &db, &db_want, NORM_BACKWARD.times(5.0));
    }
}

#[test]
fn gradients_are_the_slopes() {
    let (rows, width) = (3, 17);
    let (x, w, b, dy) =
        (values(1, rows * width), values(2, width), values(7, width), values(3, rows * width));
    for kind in [NormKind::Rms, NormKind::Layer] {
        let s = NormShape::packed(kind, rows, width, EPS);
        let loss = |x: &[f32], w: &[f32], b: &[f32]| {
            let mut y = vec![0f32; rows * width];
            reference::norm(x, w, b, &mut y, s, false);
            weighted(&y, &dy)
        };
        let (mut dx, mut dw, mut db) = (vec![0f32; rows * width], vec![0f32; width], vec![0f32; width]);
        norm_backward(&dy, &x, &w, &mut dx, &mut dw, &mut db, s);
        assert_close("dx", &dx, &differences(&x, |x| loss(x, &w, &b)), FINITE_DIFFERENCE);
        assert_close("dw", &dw, &differences(&w, |w| loss(&x, w, &b)), FINITE_DIFFERENCE);
        assert_close("db", &db, &differences(&b, |b| loss(&x, &w, b)), FINITE_DIFFERENCE);
    }
}

#[test]
fn matches_candle() -> candle_core::Result<()> {
    let (rows, width) = (131, 65);
    let (x, w, dy) = (values(4, rows * width), values(5, width), values(6, rows * width));
    let b = values(8, width);
    for kind in [NormKind::Rms, NormKind::Layer] {
        let s = NormShape::packed(kind, rows, width, EPS);
        let (lx, lw, lb) = (leaf(&x, &[rows, width]), leaf(&w, &[width]), leaf(&b, &[width]));
        let centred = match kind {
            NormKind::Rms => lx.as_tensor().clone(),
            NormKind::Layer => lx.broadcast_sub(&lx.mean_keepdim(1)?)?,
        };
        let scale = (centred.sqr()?.mean_keepdim(1)? + EPS as f64)?.sqrt()?;
        let y = centred.broadcast_div(&scale)?.broadcast_mul(&lw)?.broadcast_add(&lb)?;
        let grads = gradients(&y, &dy, &[&lx, &lw, &lb])?;
        let (mut got, mut dx) = (vec![0f32; x.len()], vec![0f32; x.len()]);
        let (mut dw, mut db) = (vec![0f32; width], vec![0f32; width]);
        norm(&x, &w, &b, &mut got, s, false);
        norm_backward(&dy, &x, &w, &mut dx, &mut dw, &mut db, s);
        assert_close("y", &got, &flat(&y), NORM.times(2.0));
        assert_close("dx", &dx, &grads[0], NORM_BACKWARD);
        assert_close("dw", &dw, &grads[1], NORM_BACKWARD);
        assert_close("db", &db, &grads[2], NORM_BACKWARD);
    }
    Ok(())
}

#[test]
fn a_row_of_zeros_has_finite_gradients() {
    for kind in [NormKind::Rms, NormKind::Layer] {
        let s = NormShape::packed(kind, 1, 3, EPS);
        let (mut y, mut dx, mut dw) = ([f32::NAN; 3], [0f32; 3], [0f32; 3]);
        norm(&[0.0; 3], &[1.0; 3], &[], &mut y, s, false);
        norm_backward(&[1.0, 0.0, -1.0], &[0.0; 3], &[1.0; 3], &mut dx, &mut dw, &mut [], s);
        assert_eq!((y, dw), ([0.0; 3], [0.0; 3]));
        let slope = 1.0 / (EPS as f64).sqrt();
        assert_close("dx", &dx, &[slope, 0.0, -slope], NORM_BACKWARD);
    }
}
