//! Rounded matrices: x[r, c] ~ (zero + code) step, codes of 8 or 4 bits, one (step, zero) for each column or each row.
//!
//! Keys have channels that are large in every token, values have tokens that are large in every channel (KIVI, arXiv
//! 2402.02750, section 3.1): keys are grouped by column, values by row. A group of a block and head is rounded once. Its
//! step is range / (2^bits - 2), rounded up to bfloat16, so that floor(min / step) + code reaches every value from a zero
//! that is a whole number of steps (16 bits): the error is at most half a step, and a group costs four bytes.

use half::bf16;

/// What shares a step and a zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Groups {
    Columns,
    Rows,
}

/// A rounded matrix [rows, cols].
#[derive(Clone, Debug, PartialEq)]
pub struct Codes {
    bits: u32,
    cols: usize,
    groups: Groups,
    /// row by row; two codes a byte at 4 bits, the even column in the low half
    codes: Vec<u8>,
    step: Vec<bf16>,
    zero: Vec<i16>,
}

/// The smallest bfloat16 that is not below `x` >= 0.
fn up(x: f32) -> bf16 {
    let near = bf16::from_f32(x);
    if near.to_f32() < x { bf16::from_bits(near.to_bits() + 1) } else { near }
}

impl Codes {
    /// Rounds `x` [rows, cols] to 8 or 4 bits.
    pub fn new(x: &[f32], cols: usize, groups: Groups, bits: u32) -> Codes {
        let rows = x.len() / cols;
        let n = if groups == Groups::Rows { rows } else { cols };
        let (mut low, mut high) = (vec![f32::INFINITY; n], vec![f32::NEG_INFINITY; n]);
        for (i, v) in x.iter().enumerate() {
            let g = if groups == Groups::Rows { i / cols } else { i % cols };
            (low[g], high[g]) = (low[g].min(*v), high[g].max(*v));
        }
        let top = (1i64 << bits) - 1;
        let step: Vec<bf16> = low
            .iter()
            .zip(&high)
            .map(|(low, high)| {
                // the zero is a number of 16 bits
                let least = low.abs().max(high.abs()) / 32_000.0;
                up(((high - low) / (top - 1) as f32).max(least))
            })
            .collect();
        let units = |v: f32, g: usize| match step[g].to_f64() {
            0.0 => 0.0,
            s => v as f64 / s,
        };
        let zero: Vec<i16> = low.iter().enumerate().map(|(g, v)| units(*v, g).floor() as i16).collect();
        let stride = Self::stride(cols, bits);
        let mut codes = vec![0u8; rows * stride];
        for (i, v) in x.iter().enumerate() {
            let (r, c) = (i / cols, i % cols);
            let g = if groups == Groups::Rows { r } else { c };
            let code = (units(*v, g).round() as i64 - zero[g] as i64).clamp(0, top) as u8;
            match bits {
                8 => codes[r * stride + c] = code,
                _ => codes[r * stride + c / 2] |= code << (4 * (c % 2)),
            }
        }
        Codes { bits, cols, groups, codes, step, zero }
    }

    /// Bytes of a row of codes.
    fn stride(cols: usize, bits: u32) -> usize {
        (cols * bits as usize).div_ceil(8)
    }

    pub fn rows(&self) -> usize {
        self.codes.len() / Self::stride(self.cols, self.bits)
    }

    /// Writes row `r` to `out` [cols].
    pub fn read(&self, r: usize, out: &mut [f32]) {
        let stride = Self::stride(self.cols, self.bits);
        let row = &self.codes[r * stride..][..stride];
        for (c, x) in out[..self.cols].iter_mut().enumerate() {
            let code = match self.bits {
                8 => row[c],
                _ => row[c / 2] >> (4 * (c % 2)) & 15,
            };
            let g = if self.groups == Groups::Rows { r } else { c };
            *x = (self.zero[g] as i32 + code as i32) as f32 * self.step[g].to_f32();
        }
    }

    /// Half a step of each group: the largest error of a value in it.
    #[cfg(test)]
    pub fn bounds(&self) -> Vec<f32> {
        self.step.iter().map(|s| 0.5 * s.to_f32()).collect()
    }

    /// Drops the rows that are not among `kept` (ascending). What stays is not rounded again.
    pub fn retain(&mut self, kept: &[usize]) {
        let stride = Self::stride(self.cols, self.bits);
        self.codes = kept.iter().flat_map(|r| &self.codes[r * stride..][..stride]).copied().collect();
        if self.groups == Groups::Rows {
            self.step = kept.iter().map(|r| self.step[*r]).collect();
            self.zero = kept.iter().map(|r| self.zero[*r]).collect();
        }
    }

    pub fn bytes(&self) -> usize {
        self.codes.len() + 4 * self.step.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hilda_kernels::rng::{Rng, Stream};

    /// Errors are at most half a step of the group, whatever its range and offset, also where rows went.
    #[test]
    fn errors_are_at_most_half_a_step() {
        let rng = Rng::new(5, Stream::Test, 0);
        for bits in [8, 4] {
            for groups in [Groups::Columns, Groups::Rows] {
                for (rows, cols) in [(8, 16), (1, 6), (5, 2), (3, 7)] {
                    let x: Vec<f32> = (0..rows * cols)
                        .map(|i| {
                            let (r, c) = (i / cols, i % cols);
                            let scale = [1.0, 1e-3, 300.0, 0.0][(r + c) % 4];
                            let offset = [0.0, 5000.0, -0.25][c % 3];
                            rng.normal(0, i as u32, 0) as f32 * scale + offset
                        })
                        .collect();
                    let mut codes = Codes::new(&x, cols, groups, bits);
                    let check = |codes: &Codes, of: &[usize]| {
                        let (bounds, mut out) = (codes.bounds(), vec![0.0; cols]);
                        assert_eq!(codes.rows(), of.len());
                        for (at, r) in of.iter().enumerate() {
                            codes.read(at, &mut out);
                            for c in 0..cols {
                                let bound = bounds[if groups == Groups::Rows { at } else { c }];
                                let off = (out[c] - x[r * cols + c]).abs();
                                // and one rounding of the product
                                assert!(off <= bound + 1e-6 * out[c].abs(), "{bits} {off} {bound}");
                            }
                        }
                    };
                    check(&codes, &(0..rows).collect::<Vec<_>>());
                    let kept: Vec<usize> = (0..rows).filter(|r| r % 3 != 1).collect();
                    codes.retain(&kept);
                    check(&codes, &kept);
                }
            }
        }
    }

    #[test]
    fn steps_are_those_of_the_range() {
        let x: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let codes = Codes::new(&x, 1, Groups::Columns, 8);
        assert!(codes.bounds()[0] <= 0.5 * 15.0 / 254.0 * 1.01);
        assert_eq!(codes.bytes(), 16 + 4);
        assert_eq!(Codes::new(&x, 16, Groups::Rows, 4).bytes(), 8 + 4);
        let mut out = [1.0];
        Codes::new(&[0.0, 0.0], 1, Groups::Rows, 4).read(0, &mut out);
        assert_eq!(out, [0.0]);
    }
}
