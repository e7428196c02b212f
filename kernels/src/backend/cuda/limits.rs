//! What the kernels hold and count, so that a run that asks for more is refused before it starts.

use super::CudaError;

/// Values of a head that the largest attention kernel holds. Every size up to it is accepted.
pub const MAX_HEAD_DIM: usize = 256;
/// Most shared memory of a block, bytes.
pub(super) const SHARED: usize = 48 << 10;
/// Values of an activation that kernels index with 31 bits.
pub(super) const MAX_VALUES: usize = i32::MAX as usize;

/// What a model asks of kernels whose tiles or indices are bounded; zeros ask for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub head_dim: usize,
    /// values of the largest activation that attention or an activation function takes as one: rows of a forward times
    /// columns
    pub values: usize,
    /// values of a norm's weight and bias whose gradients are wanted
    pub norm: usize,
}

impl Asked {
    /// # Errors
    /// [`CudaError::Shape`] with the number asked for and the largest.
    pub fn check(&self) -> Result<(), CudaError> {
        let bounds = [
            ("values of a head (head_dim)", self.head_dim, MAX_HEAD_DIM),
            ("values of an activation in one forward", self.values, MAX_VALUES),
            ("values of a norm's weight and bias in training", self.norm, SHARED / 4),
        ];
        match bounds.into_iter().find(|(_, asked, most)| asked > most) {
            Some((what, asked, most)) => Err(CudaError::Shape { what, asked, most }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernels_do_not_hold_is_refused_with_the_numbers() {
        assert_eq!(Asked::default().check(), Ok(()));
        let most = Asked { head_dim: 256, values: (1 << 31) - 1, norm: 12_288 };
        assert_eq!(most.check(), Ok(()));
        for (asked, text) in [
            (Asked { head_dim: 320, ..most }, "320 values of a head (head_dim), the CUDA kernels go to 256"),
            (
                Asked { values: 1 << 31, ..most },
                "2147483648 values of an activation in one forward, the CUDA kernels go to 2147483647",
            ),
            (
                Asked { norm: 16_384, ..most },
                "16384 values of a norm's weight and bias in training, the CUDA kernels go to 12288",
            ),
        ] {
            let error = asked.check().expect_err("too much");
            assert!(matches!(error, CudaError::Shape { .. }));
            assert_eq!(error.to_string(), text);
        }
    }
}
