//! Rows of activations rounded to i16: q[k] = round(x[k] levels / max |x|), half to even, and one scale a row.

use super::{SMALLEST, levels};
use crate::{par, simd};

simd! {
    /// x [k] to q [k]: codes and their scale, 0 for a row of zeros, NaN where a value is not finite.
    fn round(x: &[f32], q: &mut [i16], levels: f32) -> f32 {
        // bits of magnitudes order as the magnitudes do; those of a NaN stand above those of infinity
        let mut bits = 0;
        for x in x {
            let magnitude = x.to_bits() as i32 & i32::MAX;
            bits = if magnitude > bits { magnitude } else { bits };
        }
        let max = f32::from_bits(bits as u32);
        if !(SMALLEST..f32::INFINITY).contains(&max) {
            q.fill(0);
            return if max < SMALLEST { 0.0 } else { f32::NAN };
        }
        let inverse = levels / max;
        for (q, x) in q.iter_mut().zip(x) {
            // adding 1.5 2^23 rounds to an integer, which then stands in the lowest bits
            let shifted = x * inverse + 12_582_912.0;
            *q = (shifted.to_bits() as i32).wrapping_sub(0x4b40_0000) as i16;
        }
        max / levels
    }
}

/// x [k] to q [k rounded up to even], the pad zero; gives the row's scale.
pub fn quantise(x: &[f32], q: &mut [i16]) -> f32 {
    q[x.len()..].fill(0);
    round(x, &mut q[..x.len()], levels(x.len()) as f32)
}

/// Rows [m, k] to `codes` [m, k rounded up to even] and `scales` [m].
pub fn quantise_rows(x: &[f32], (m, k): (usize, usize), codes: &mut [i16], scales: &mut [f32]) {
    let codes = codes.chunks_exact_mut(k.next_multiple_of(2));
    for ((x, q), scale) in x[..m * k].chunks_exact(k).zip(codes).zip(scales) {
        *scale = quantise(x, q);
    }
}

/// The same on several threads, where there are many values.
pub fn quantise_rows_shared(x: &[f32], (m, k): (usize, usize), codes: &mut [i16], scales: &mut [f32]) {
    let scales = par::Shared::new(&mut scales[..m]);
    let rows = (par::LIGHT / 2).div_ceil(k);
    let wide = k.next_multiple_of(2);
    par::light(&mut codes[..m * wide], rows * wide, |task, codes| {
        let (first, n) = (task * rows, codes.len() / wide);
        // SAFETY: one task a row.
        let scales = unsafe { scales.range(first, n) };
        quantise_rows(&x[first * k..], (n, k), codes, scales);
    });
}
