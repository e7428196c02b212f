//! Every layout against the plain loop, on ragged shapes, with padding that must stay untouched.

use proptest::prelude::*;

use super::{Mat, Threads, nn, nt, reference, tn, wasm};
use crate::fixtures::{constant, flat, size, values};
use crate::tolerance::{EXACT, GEMM, assert_close};

/// A logical [rows, cols] matrix stored with `pad` unused columns, optionally transposed in memory.
struct Stored {
    data: Vec<f32>,
    stride: usize,
    transposed: bool,
}

impl Stored {
    fn new(seed: u64, rows: usize, cols: usize, pad: usize, transposed: bool) -> Stored {
        let (r, c) = if transposed { (cols, rows) } else { (rows, cols) };
        Stored { data: values(seed, r * (c + pad)), stride: c + pad, transposed }
    }
    fn view(&self) -> Mat<'_> {
        let m = Mat::rows(&self.data, self.stride);
        if self.transposed { m.t() } else { m }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_layout_matches_the_loop(
        (m, n, k) in (size(), size(), size()),
        (ta, tb, accumulate, pool) in any::<(bool, bool, bool, bool)>(),
        (pad_a, pad_b, pad_c) in (0usize..3, 0usize..3, 0usize..3),
        alpha in prop_oneof![Just(1f32), Just(0.125), Just(-2.0)],
        seed: u64,
    ) {
        let a = Stored::new(seed, m, k, pad_a, ta);
        let b = Stored::new(seed ^ 1, k, n, pad_b, tb);
        let c_row = n + pad_c;
        let mut start = values(seed ^ 2, m * c_row);
        if !accumulate {
            // what was there before must not matter
            (0..m).for_each(|r| start[r * c_row..][..n].fill(f32::NAN));
        }
        let (mut want, mut got, mut web) = (start.clone(), start.clone(), start);
        reference::gemm(m, n, k, alpha, a.view(), b.view(), &mut want, c_row, accumulate);
        let threads = if pool { Threads::Pool } else { Threads::One };
        super::gemm(threads, m, n, k, alpha, a.view(), b.view(), &mut got, c_row, accumulate);
        assert_close("gemm", &got, &want, GEMM);
        if m * n * k > 0 {
            wasm::gemm(m, n, k, alpha, a.view(), b.view(), &mut web, c_row, accumulate);
            assert_close("gemm of the page", &web, &want, GEMM);
            for r in 0..m {
                let pad = r * c_row + n..(r + 1) * c_row;
                assert_close("padding", &web[pad.clone()], &want[pad.clone()], EXACT);
                assert_close("padding", &got[pad.clone()], &want[pad], EXACT);
            }
        }
    }
}

/// The three products of a linear layer against candle: forward, and its gradients by automatic differentiation.
#[test]
fn linear_layer_and_its_gradients_match_candle() -> candle_core::Result<()> {
    for (m, n, k) in [(1, 1, 1), (3, 5, 2), (17, 65, 16), (130, 33, 64)] {
        let (x, w, dy) = (values(1, m * k), values(2, n * k), values(3, m * n));
        let (cx, cw) = (crate::fixtures::leaf(&x, &[m, k]), crate::fixtures::leaf(&w, &[n, k]));
        let cy = cx.as_tensor().matmul(&cw.t()?)?;
        let grads = crate::fixtures::gradients(&cy, &dy, &[&cx, &cw])?;

        let (mut y, mut dx, mut dw) = (vec![f32::NAN; m * n], vec![f32::NAN; m * k], vec![0f32; n * k]);
        nt(&x, &w, &mut y, m, n, k, false);
        nn(&dy, &w, &mut dx, m, n, k, false);
        tn(&dy, &x, &mut dw, m, n, k);
        assert_close("y", &y, &flat(&cy), GEMM);
        assert_close("dx", &dx, &grads[0], GEMM);
        assert_close("dw", &dw, &grads[1], GEMM);
        tn(&dy, &x, &mut dw, m, n, k);
        let twice = flat(&constant(&dw, &[n * k]).affine(0.5, 0.0)?);
        assert_close("dw accumulates", &twice, &grads[1], GEMM);
    }
    Ok(())
}

#[test]
#[should_panic(expected = "gemm: b [4, 3] needs 12 values, has 11")]
fn a_short_matrix_is_named() {
    let (a, b) = ([0f32; 8], [0f32; 11]);
    super::gemm(Threads::One, 2, 3, 4, 1.0, Mat::rows(&a, 4), Mat::rows(&b, 3), &mut [0f32; 6], 3, false);
}
