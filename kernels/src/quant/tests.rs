//! Every instruction set, width of panels and number of threads against the plain loops: to the bit.

use proptest::prelude::*;

use super::matrix::{Matrix, pack, words};
use super::tile::{self, Shape};
use super::{SMALLEST, levels, reference, rows};
use crate::fixtures::{size, values};
use crate::rng::{Rng, Stream};

/// Codes of the whole range and scales of some size.
fn codes(seed: u64, n: usize, k: usize) -> (Vec<i8>, Vec<f32>) {
    let rng = Rng::new(seed, Stream::Test, 1);
    let codes = (0..n * k).map(|i| rng.below(0, i as u32, 0, 256) as u8 as i8).collect();
    (codes, (0..n).map(|i| (1 + rng.below(1, i as u32, 0, 999)) as f32 * 1e-5).collect())
}

/// Activations that no two of which are alike, with a sprinkle of zeros.
fn activations(seed: u64, len: usize) -> Vec<f32> {
    let rng = Rng::new(seed, Stream::Test, 2);
    (0..len).map(|i| if i % 7 == 3 { 0.0 } else { rng.normal(0, i as u32, 0) as f32 }).collect()
}

fn packed(codes: &[i8], scale: &[f32], (n, k): (usize, usize), width: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; words(n, k)];
    pack(codes, scale, (n, k), width, &mut out);
    out
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Every tile with panels of every width.
fn ways() -> impl Iterator<Item = (Shape, usize)> {
    tile::shapes().into_iter().flat_map(|s| [8, 16, 64].map(|width| (s, width)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_way_has_the_bits_of_the_loop(
        (m, n, k) in (size(), size(), prop_oneof![size(), 500usize..530]),
        accumulate: bool,
        seed: u64,
    ) {
        let ((codes, scale), x) = (codes(seed, n, k), activations(seed, m * k));
        let start = if accumulate { values(seed ^ 2, m * n) } else { vec![f32::NAN; m * n] };
        let mut want = start.clone();
        reference::nt(&x, &codes, &scale, &mut want, (m, n, k), accumulate);
        for (shape, width) in ways() {
            let words = packed(&codes, &scale, (n, k), width);
            let w = Matrix::new(&words, width, (n, k));
            let mut y = start.clone();
            w.nt_with(shape, &x, &mut y, m, accumulate);
            prop_assert_eq!(bits(&y), bits(&want), "{:?} {}", shape, width);
        }
    }

    /// A row's value does not depend on the rows beside it.
    #[test]
    fn a_row_alone_has_the_bits_of_the_row_in_company(
        (m, n, k) in (1usize..150, 1usize..140, 1usize..300),
        row in 0usize..150,
        seed: u64,
    ) {
        let ((codes, scale), x) = (codes(seed, n, k), activations(seed, m * k));
        let words = packed(&codes, &scale, (n, k), super::width());
        let (w, row) = (Matrix::new(&words, super::width(), (n, k)), row % m);
        let (mut all, mut one) = (vec![0f32; m * n], vec![0f32; n]);
        w.nt(&x, &mut all, m, false);
        w.nt(&x[row * k..][..k], &mut one, 1, false);
        prop_assert_eq!(bits(&all[row * n..][..n]), bits(&one));
    }
}

#[test]
fn any_number_of_threads_has_the_same_bits() {
    let (m, n, k) = (201, 210, 333);
    let ((codes, scale), x) = (codes(1, n, k), activations(2, m * k));
    let mut want = vec![0f32; m * n];
    reference::nt(&x, &codes, &scale, &mut want, (m, n, k), false);
    for threads in [1, 2, 3, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
        pool.install(|| {
            for (shape, width) in ways() {
                let words = packed(&codes, &scale, (n, k), width);
                let mut y = vec![f32::NAN; m * n];
                Matrix::new(&words, width, (n, k)).nt_with(shape, &x, &mut y, m, false);
                assert_eq!(bits(&y), bits(&want), "{threads} threads, {shape:?} {width}");
            }
        });
    }
}

/// At the bound: every code and every activation as large as it can be, of one sign and of both.
#[test]
fn the_largest_sums_do_not_overflow() {
    for k in [1, 2, 63, 512, 513, 1024, 4096, 70_000] {
        for (code, signs) in [(127i8, 1), (-128, 1), (127, 2), (-128, 2)] {
            let sign = |i: usize| if i % signs == 0 { 1.0 } else { -1.0 };
            let x: Vec<f32> = (0..2 * k).map(|i| 3.5 * sign(i / k)).collect();
            let codes = vec![code; 3 * k];
            let (sums, _) = reference::sums(&x, &codes, (2, 3, k));
            assert!(sums.iter().all(|s| i32::try_from(*s).is_ok()), "{k} {code}");
            assert_eq!(sums[0].abs(), (code as i64).abs() * k as i64 * levels(k) as i64);
            let mut want = vec![0f32; 6];
            reference::nt(&x, &codes, &[0.01; 3], &mut want, (2, 3, k), false);
            for (shape, width) in ways() {
                let words = packed(&codes, &[0.01; 3], (3, k), width);
                let mut y = vec![f32::NAN; 6];
                Matrix::new(&words, width, (3, k)).nt_with(shape, &x, &mut y, 2, false);
                assert_eq!(bits(&y), bits(&want), "{k} {code} {shape:?}");
            }
        }
    }
}

#[test]
fn rows_that_are_no_numbers_and_rows_of_nothing() {
    let (m, n, k) = (7, 5, 9);
    let (codes, scale) = codes(3, n, k);
    let mut x = activations(4, m * k);
    x[..k].fill(0.0);
    x[k + 2] = f32::NAN;
    x[2 * k + 8] = f32::INFINITY;
    x[3 * k] = f32::NEG_INFINITY;
    // subnormal, and just below what counts
    x[4 * k..5 * k].fill(1e-40);
    x[5 * k..6 * k].fill(SMALLEST / 2.0);
    for (shape, width) in ways() {
        let words = packed(&codes, &scale, (n, k), width);
        let mut y = vec![f32::NAN; m * n];
        Matrix::new(&words, width, (n, k)).nt_with(shape, &x, &mut y, m, false);
        for (r, y) in y.chunks_exact(n).enumerate() {
            match r {
                1..=3 => assert!(y.iter().all(|y| y.is_nan()), "{shape:?} {r}"),
                0 | 4 | 5 => assert!(y.iter().all(|y| *y == 0.0), "{shape:?} {r}"),
                _ => assert!(y.iter().all(|y| y.is_finite()), "{shape:?} {r}"),
            }
        }
    }
}

/// The smallest rows that count, the largest that are finite, ties.
#[test]
fn activations_are_rounded_half_to_even_within_their_levels() {
    for (k, max) in [(3, SMALLEST), (5, 1.0), (64, f32::MAX), (1024, 0.3), (4097, 1e30)] {
        let mut x = activations(5, k);
        let largest = x.iter().fold(0f32, |m, x| m.max(x.abs()));
        x.iter_mut().for_each(|x| *x = *x / largest * max);
        x[k - 1] = -max;
        let mut q = vec![1i16; k.next_multiple_of(2)];
        let scale = rows::quantise(&x, &mut q);
        let (want, s) = reference::row(&x);
        assert_eq!((scale, q[..k].iter().map(|q| *q as i64).collect::<Vec<_>>()), (s, want), "{k} {max}");
        assert!(q[k..].iter().all(|q| *q == 0) && q[k - 1] as i32 == -levels(k));
    }
    // a scale of one: halves go to the even neighbour
    let mut q = vec![0i16; 6];
    let x = [32767.0, 0.5, 1.5, 2.5, -0.5, -1.5];
    assert_eq!(rows::quantise(&x, &mut q), 1.0);
    assert_eq!(q, [32767, 0, 2, 2, 0, -2]);
    assert_eq!([1, 64, 512, 1024, 4096].map(levels), [32767, 32767, 32767, 16383, 4095]);
}

#[test]
fn a_row_of_the_weight_is_codes_times_scale() {
    for (n, k) in [(1, 1), (70, 7), (130, 64)] {
        let (codes, scale) = codes(6, n, k);
        for width in [8, 16, 64] {
            let words = packed(&codes, &scale, (n, k), width);
            let w = Matrix::new(&words, width, (n, k));
            for j in 0..n {
                let mut row = vec![f32::NAN; k];
                w.row(j, &mut row);
                let want: Vec<f32> = codes[j * k..][..k].iter().map(|q| *q as f32 * scale[j]).collect();
                assert_eq!(row, want, "{n} {k} {width}: {j}");
            }
        }
    }
}

/// Against float64: what rounding to 14 bits costs.
#[test]
fn the_error_is_half_a_level_a_term() {
    let (m, n, k) = (9, 33, 1024);
    let ((codes, scale), x) = (codes(7, n, k), activations(8, m * k));
    let words = packed(&codes, &scale, (n, k), super::width());
    let mut y = vec![0f32; m * n];
    Matrix::new(&words, super::width(), (n, k)).nt(&x, &mut y, m, false);
    for (i, y) in y.iter().enumerate() {
        let (x, w) = (&x[i / n * k..][..k], &codes[i % n * k..][..k]);
        let exact: f64 = x.iter().zip(w).map(|(x, w)| *x as f64 * *w as f64 * scale[i % n] as f64).sum();
        let max = x.iter().fold(0f32, |m, x| m.max(x.abs())) as f64;
        let absolute: f64 = w.iter().map(|w| (*w as f64).abs() * scale[i % n] as f64).sum();
        let bound = 0.5 * max / levels(k) as f64 * absolute + 1e-6 * exact.abs();
        assert!((*y as f64 - exact).abs() <= bound, "{i}: {y} {exact} {bound}");
    }
}

#[test]
#[should_panic(expected = "quant: x [2, 4] has 7 values")]
fn a_short_matrix_is_named() {
    let words = packed(&[1; 12], &[1.0; 3], (3, 4), 8);
    Matrix::new(&words, 8, (3, 4)).nt(&[0.0; 7], &mut [0.0; 6], 2, false);
}
