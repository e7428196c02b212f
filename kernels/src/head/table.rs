//! The head's table [vocab, width], as floats or in int8, and tiles of logits.

use crate::gemm::{Mat, Threads, gemm};
use crate::quant::Matrix;

/// Rows of the vocabulary.
#[derive(Clone, Copy, Debug)]
pub enum Table<'a> {
    Plain(&'a [f32]),
    /// products in integers ([`crate::quant`]); forward passes alone
    Codes(Matrix<'a>),
}

impl<'a> From<&'a [f32]> for Table<'a> {
    fn from(table: &'a [f32]) -> Self {
        Table::Plain(table)
    }
}

impl<'a> From<&'a Vec<f32>> for Table<'a> {
    fn from(table: &'a Vec<f32>) -> Self {
        Table::Plain(table)
    }
}

impl<'a> Table<'a> {
    /// Its rows where they are `width` wide.
    pub(super) fn vocab(&self, width: usize) -> usize {
        match self {
            Table::Plain(table) => table.len() / width,
            Table::Codes(codes) => codes.shape().0,
        }
    }

    /// z[n, vocab] = hidden[n, width] table^T
    pub(super) fn logits(&self, hidden: &[f32], z: &mut [f32], n: usize, vocab: usize, width: usize) {
        match self {
            Table::Plain(table) => {
                let (h, t) = (Mat::rows(hidden, width), Mat::rows(table, width).t());
                gemm(Threads::Pool, n, vocab, width, 1.0, h, t, z, vocab, false);
            }
            Table::Codes(codes) => {
                assert_eq!(codes.shape(), (vocab, width), "head: a table of another shape");
                codes.nt(hidden, z, n, false);
            }
        }
    }

    /// The floats, which a backward pass multiplies with.
    ///
    /// # Panics
    /// A table in int8.
    pub(super) fn plain(&self) -> &'a [f32] {
        match self {
            Table::Plain(table) => table,
            Table::Codes(_) => panic!("head: a table in int8 has no backward pass"),
        }
    }
}
