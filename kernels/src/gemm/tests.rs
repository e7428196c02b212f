//! Every layout against the plain loop, on ragged shapes, with padding that must stay untouched.

use proptest::prelude::*;

use super::blocks::{self, Job};
use super::tile::{self, Shape, Side, Tile};
use super::{Mat, Threads, nn, nt, reference, tn};
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
        let (mut want, mut got) = (start.clone(), start.clone());
        reference::gemm(m, n, k, alpha, a.view(), b.view(), &mut want, c_row, accumulate);
        let threads = if pool { Threads::Pool } else { Threads::One };
        super::gemm(threads, m, n, k, alpha, a.view(), b.view(), &mut got, c_row, accumulate);
        assert_close("gemm", &got, &want, GEMM);
        if m * n * k > 0 {
            for shape in tile::shapes() {
                let mut ways = vec![blocks::direct as fn(&Job, Shape)];
                if tb && alpha == 1.0 {
                    ways.push(blocks::flipped);
                }
                let results: Vec<Vec<f32>> = ways
                    .into_iter()
                    .map(|way| {
                        let mut c = start.clone();
                        way(&job(threads, [m, n, k], alpha, a.view(), b.view(), &mut c, c_row, accumulate), shape);
                        c
                    })
                    .collect();
                for c in &results {
                    assert_close(&format!("{shape:?}"), c, &want, GEMM);
                    let same = c.iter().zip(&results[0]).all(|(a, b)| a.to_bits() == b.to_bits());
                    prop_assert!(same, "the ways differ in a bit: {:?}", shape);
                }
            }
            for r in 0..m {
                let pad = r * c_row + n..(r + 1) * c_row;
                assert_close("padding", &got[pad.clone()], &want[pad], EXACT);
            }
        }
    }

    /// What a row or a column yields does not depend on what it is computed with, nor on threads.
    #[test]
    fn a_part_has_the_bits_of_the_whole(
        (m, n) in (1usize..300, 1usize..200),
        k in prop_oneof![1usize..40, 500usize..530, 1020usize..1040],
        (first, rows, from, cols) in (0usize..300, 1usize..40, 0usize..200, 1usize..70),
        accumulate: bool,
        seed: u64,
    ) {
        let (first, from) = (first % m, from % n);
        let (rows, cols) = (rows.min(m - first), cols.min(n - from));
        let (x, w) = (values(seed, m * k), values(seed ^ 1, n * k));
        let mut whole = values(seed ^ 2, m * n);
        let mut part: Vec<f32> =
            (0..rows * cols).map(|i| whole[(first + i / cols) * n + from + i % cols]).collect();
        let a = Mat::rows(&x[first * k..], k);
        let b = Mat::rows(&w[from * k..], k).t();
        super::gemm(Threads::One, rows, cols, k, 1.0, a, b, &mut part, cols, accumulate);
        super::gemm(Threads::Pool, m, n, k, 1.0, Mat::rows(&x, k), Mat::rows(&w, k).t(), &mut whole, n, accumulate);
        for i in 0..rows * cols {
            let c = whole[(first + i / cols) * n + from + i % cols];
            prop_assert_eq!(part[i].to_bits(), c.to_bits(), "{} of {} x {}", i, rows, cols);
        }
    }

    /// The tile itself, both sides of a, every height and width.
    #[test]
    fn tiles_match_the_loop(
        rows in 1usize..30,
        cols in 1usize..150,
        k in 0usize..20,
        (transposed, add) in any::<(bool, bool)>(),
        seed: u64,
    ) {
        let a = Stored::new(seed, rows, k, 2, transposed);
        let wide = cols.next_multiple_of(16);
        let (b, start) = (values(seed ^ 1, k * wide), values(seed ^ 2, rows * (cols + 3)));
        let mut want = start.clone();
        reference::gemm(rows, cols, k, 1.0, a.view(), Mat::rows(&b, wide), &mut want, cols + 3, add);
        for shape in tile::shapes() {
            let mut got = start.clone();
            let t = Tile {
                rows,
                cols,
                k,
                a: a.data.as_ptr(),
                a_step: a.stride,
                b: b.as_ptr(),
                b_row: wide,
                c: got.as_mut_ptr(),
                c_row: cols + 3,
                add,
                ahead: b.as_ptr(),
                lines: 1,
            };
            // SAFETY: the matrices have the sizes given; rows of b are whole vectors.
            unsafe { tile::wide(shape, &t, if transposed { Side::Columns } else { Side::Rows }) };
            assert_close(&format!("{shape:?}"), &got, &want, GEMM);
        }
    }
}

/// A checked product of m, n, k as the blocks take it.
#[allow(clippy::too_many_arguments)]
fn job<'a>(
    threads: Threads,
    [m, n, k]: [usize; 3],
    alpha: f32,
    a: Mat<'a>,
    b: Mat<'a>,
    c: &mut [f32],
    c_row: usize,
    accumulate: bool,
) -> Job<'a> {
    Job { threads, m, n, k, alpha, a, b, c: c.as_mut_ptr(), c_row, accumulate }
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
