//! Linear layers in integers, for forward passes on the CPU and in WebAssembly.
//!
//! ```text
//! q_x[m, k] = round(x[m, k] / s_x[m]),  s_x[m] = max_k |x[m, k]| / levels(K)
//! y[m, n]   = (sum_k q_w[n, k] q_x[m, k]) s_x[m] s_w[n]                          x [M, K], w [N, K], y [M, N]
//! ```
//!
//! q_w are the int8 codes that a model is shipped with, s_w one scale an output: weights lose nothing. Rows of x are rounded
//! to i16, to as many levels as no i32 sum can overflow with ([`levels`]: 14 bits at K = 1024), so that what is lost is about 2^-14
//! of a row's largest value, where int8 activations lose 2^-7.
//!
//! The sum is exact. Its bits, and those of the two products in float32 behind it, are the same for every instruction set,
//! number of threads and number of rows, natively and in WebAssembly, which no product of floats here can say.
//!
//! A row with a value that is not finite yields NaN. A row whose values all lie below [`SMALLEST`] counts as zeros: its scale
//! would have no inverse.

mod lanes;
pub mod matrix;
pub mod reference;
mod rows;
pub mod rows8;
mod tile;

pub use matrix::{Matrix, pack, width, words};

/// Most levels of an activation to one side of zero, for sums over k: (2^31 - 1) / (128 k), and what an i16 holds. A code may
/// be -128 in files of others.
///
/// # Panics
/// k above 2^24: not one level is left.
pub fn levels(k: usize) -> i32 {
    let most = i32::MAX as usize / (128 * k.max(1));
    assert!(most > 0, "quant: a sum over {k} codes overflows");
    most.min(i16::MAX as usize) as i32
}

/// Rows whose largest magnitude is below count as zeros: 2^-100.
pub const SMALLEST: f32 = 7.888_609e-31;

#[cfg(test)]
mod tests;
