//! The back end around its kernels: the pool, failures, files of kernels and their PTX.

use std::sync::atomic::Ordering;

use super::super::kernels::SOURCES;
use super::super::{Arg, Cuda, CudaError, Device, Launch};
use super::fibers;
use crate::backend::{At, Backend, Train};
use crate::glu::Gate;

/// Pretends to be a GPU that fails.
#[derive(Default)]
struct Broken {
    no_memory: bool,
}

impl Device for Broken {
    fn allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        match self.no_memory {
            true => Err(CudaError::OutOfMemory { asked: bytes, free: 1_500_000, total: 8_000_000_000 }),
            false => Ok(256),
        }
    }
    fn free(&self, _: u64) {}
    fn zero(&self, _: u64, _: usize) -> Result<(), CudaError> {
        Ok(())
    }
    fn upload(&self, _: u64, _: &[u8]) -> Result<(), CudaError> {
        Ok(())
    }
    fn download(&self, _: u64, _: &mut [u8]) -> Result<(), CudaError> {
        panic!("nothing may be read after a failure")
    }
    fn copy(&self, _: u64, _: u64, _: usize) -> Result<(), CudaError> {
        Ok(())
    }
    fn launch(&self, l: Launch) -> Result<(), CudaError> {
        Err(CudaError::Lost { what: l.kernel.into(), code: "CUDA_ERROR_LAUNCH_FAILED".into() })
    }
    fn multiprocessors(&self) -> usize {
        20
    }
}

#[test]
fn a_lost_device_says_so_and_computes_nothing_more() {
    let cuda = Cuda::new(Broken::default());
    let x = cuda.f32s(&[1.0; 8]);
    let mut y = cuda.buf(4);
    assert_eq!(cuda.failure(), None);
    cuda.glu(Gate::Silu, &x, &mut y, 1, 4);
    cuda.gelu(&x, &mut y, 4);
    let message = cuda.failure().expect("a failure");
    assert_eq!(
        message,
        "the GPU stopped working during glu_wide (CUDA_ERROR_LAUNCH_FAILED): everything on it is lost"
    );
    assert!(cuda.read(&y).iter().all(|y| y.is_nan()) && cuda.sum_squares(&x).is_nan());
}

#[test]
fn full_memory_is_refused_with_the_numbers() {
    let cuda = Cuda::new(Broken { no_memory: true });
    let y = cuda.buf(1 << 20);
    let message = cuda.failure().expect("a failure");
    assert_eq!(message, "out of GPU memory: 5 MB more asked for, 2 of 8000 MB free");
    assert!(cuda.read(&y).iter().all(|y| y.is_nan()));
}

#[test]
fn a_second_step_allocates_nothing() {
    let Some(cuda) = fibers("a_second_step_allocates_nothing") else { return };
    let at = At::new(0, 9 * 33);
    let (params, mut grads) = (cuda.f32s(&[0.5; 9 * 33]), cuda.buf(9 * 33));
    let mut after_one = (0, 0);
    for step in 0..3 {
        let (x, ids) = (cuda.f32s(&[0.25; 5 * 33]), cuda.u32s(&[1, 2, 3, 4, 4]));
        let mut y = cuda.buf(5 * 9);
        cuda.linear(&x, &params, at, &mut y, 5, 9, 33, false);
        cuda.linear_backward_weight(&y, &x, &mut grads, at, 5, 9, 33);
        cuda.embed_backward(&ids, &x, &mut grads, at, 1.0, 5, 33);
        cuda.sum_squares(&grads);
        let allocations = cuda.device().allocations.load(Ordering::Relaxed);
        let bytes = cuda.allocated().expect("memory of its own");
        if step == 0 {
            after_one = (allocations, bytes);
        }
        assert_eq!((allocations, bytes), after_one);
        assert!(bytes >= 4 * (2 * 9 * 33 + 5 * 33 + 5 * 9));
    }
    assert!(cuda.device().launches.load(Ordering::Relaxed) > 9);
}

#[test]
fn blocks_of_about_the_same_size_share_a_class() {
    let broken = Broken::default();
    assert_eq!((broken.class(1), broken.class(256), broken.class(257)), (256, 256, 512));
    assert_eq!(broken.class(1_000_000), broken.class(1_040_000));
    // the 135 M parameters of SmolLM2: a tenth more, if they were rounded to eighths
    assert!(broken.class(538_060_032) < 546_000_000);
    for bytes in [1usize, 255, 4097, 123_456, 7_654_321, 1 << 31] {
        let class = broken.class(bytes);
        let most = if bytes < 1 << 20 { bytes / 4 } else { bytes / 64 };
        assert!(class >= bytes && class <= bytes + most.max(256), "{bytes}: {class}");
    }
}

/// The table of kernels, the sources and the checked-in PTX name the same kernels, for the reference GPU.
#[test]
fn the_ptx_holds_the_kernels_of_the_table() {
    for source in SOURCES {
        let mut entries: Vec<&str> = source
            .ptx
            .lines()
            .filter_map(|l| l.strip_prefix(".visible .entry "))
            .map(|l| l.trim_end_matches('('))
            .collect();
        let mut named = source.kernels.to_vec();
        entries.sort_unstable();
        named.sort_unstable();
        assert_eq!(entries, named, "{}", source.name);
        assert!(source.ptx.contains("\n.version 6.0\n.target sm_61\n"), "{}", source.name);
        assert!(
            source.cuda.contains("#include \"cuda.cuh\"") && source.cuda.matches("#include").count() == 1
        );
    }
}

#[test]
fn sizes_beyond_31_bits_are_not_cut() {
    assert_eq!(Arg::from(7usize), Arg::Int(7));
    assert!(std::panic::catch_unwind(|| Arg::from(1usize << 31)).is_err());
}
