//! The CUDA back end: NVIDIA GPUs from Pascal (compute capability 6.1) on, float32, with nothing to install but the
//! driver.
//!
//! The kernels are the `.cu` files beside each operation. Their PTX is compiled beforehand (`cargo xtask ptx`) and
//! checked in; the driver is loaded when asked for, so that one program serves machines with and without a GPU.
//! Operations are launches on one stream; memory comes from a pool that keeps what was released, so that a step that
//! has run once allocates nothing. Only reads wait.
//!
//! [`Cuda`] is written against [`Device`], which knows memory and launches: the driver, or in tests a shim that runs
//! every thread of a kernel as a fiber on the CPU (`shim.h`). What chooses grids, tiles and arguments is therefore
//! tested without a GPU too.
//!
//! No operation returns an error: the first failure is kept, nothing is launched after it, reads give NaN, and
//! [`Train::failure`](super::Train::failure) says what happened.

mod buffer;
mod device;
#[cfg(feature = "cuda")]
mod driver;
mod error;
pub mod kernels;
mod launch;
mod limits;
mod mask;
mod ops;
#[cfg(test)]
mod shim;
#[cfg(test)]
mod tests;
mod train;

pub use buffer::{CudaBuf, CudaIds};
pub use device::{Arg, Device, Launch, Product};
#[cfg(feature = "cuda")]
pub use driver::{Driver, Found, found};
pub use error::CudaError;
pub use launch::Cuda;
pub use limits::{Asked, MAX_HEAD_DIM};
pub use mask::CudaMask;
