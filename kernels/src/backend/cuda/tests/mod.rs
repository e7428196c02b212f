//! Proofs of the CUDA back end: every operation against its reference, on the fiber shim and on a GPU where there is
//! one; mutated kernels, which must fail; the shim itself.

mod attention;
mod device;
mod head;
mod mutation;
mod ops;
mod shim;

use super::shim::Shim;
use super::{Cuda, CudaBuf, CudaIds, Device};
use crate::backend::{Backend, Train};

/// The back end on fibers, or a printed line that says that `test` did not run.
fn fibers(test: &str) -> Option<Cuda<Shim>> {
    match Shim::new() {
        Ok(shim) => Some(Cuda::new(shim)),
        Err(e) => {
            println!("SKIPPED {test}: {e}");
            None
        }
    }
}

/// The first GPU, or a printed line that says that `test` did not run on one.
#[cfg(feature = "cuda")]
fn gpu(test: &str) -> Option<Cuda<super::Driver>> {
    match super::Driver::new(0) {
        Ok(driver) => Some(Cuda::new(driver)),
        Err(e) => {
            println!("SKIPPED {test}: {e}");
            None
        }
    }
}

/// Makes each generic `fn test<D: Device>(cuda: &Cuda<D>)` a test on fibers and a test on the GPU.
macro_rules! on_every_device {
    ($($name:ident),* $(,)?) => {
        mod on_fibers {
            $(#[test] fn $name() {
                if let Some(cuda) = super::super::fibers(concat!("cuda on fibers: ", stringify!($name))) {
                    super::$name(&cuda);
                }
            })*
        }
        #[cfg(feature = "cuda")]
        mod on_the_gpu {
            $(#[test] fn $name() {
                if let Some(cuda) = super::super::gpu(concat!("cuda on the GPU: ", stringify!($name))) {
                    super::$name(&cuda);
                }
            })*
        }
    };
}
use on_every_device;

/// Runs `test` on `cases` inputs.
fn check<S: proptest::strategy::Strategy>(cases: u32, strategy: S, test: impl Fn(S::Value)) {
    use proptest::test_runner::{Config, TestRunner};
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&strategy, |input| {
        test(input);
        Ok(())
    });
    if let Err(e) = outcome {
        panic!("{e}");
    }
}

impl<D: Device> Cuda<D> {
    fn f32s(&self, data: &[f32]) -> CudaBuf<D> {
        let mut buf = self.buf(data.len());
        self.write(&mut buf, 0, data);
        buf
    }
    fn u32s(&self, data: &[u32]) -> CudaIds<D> {
        let mut ids = self.ids(data.len());
        self.write_ids(&mut ids, data);
        ids
    }
    /// Everything in `buf`, after a check that nothing failed.
    #[track_caller]
    fn all(&self, buf: &CudaBuf<D>) -> Vec<f32> {
        let out = self.read(buf);
        assert_eq!(self.failure(), None);
        out
    }
}
