//! Where kernels run: memory by address, and launches.

use std::ffi::c_void;

use super::CudaError;

/// One argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    Pointer(u64),
    Int(i32),
    Word(u32),
    Float(f32),
}

impl Arg {
    /// Where the value lies; the device copies it during the launch.
    pub fn address(&self) -> *mut c_void {
        match self {
            Arg::Pointer(v) => std::ptr::from_ref(v).cast_mut().cast(),
            Arg::Int(v) => std::ptr::from_ref(v).cast_mut().cast(),
            Arg::Word(v) => std::ptr::from_ref(v).cast_mut().cast(),
            Arg::Float(v) => std::ptr::from_ref(v).cast_mut().cast(),
        }
    }
}

impl From<u64> for Arg {
    fn from(v: u64) -> Arg {
        Arg::Pointer(v)
    }
}
impl From<i32> for Arg {
    fn from(v: i32) -> Arg {
        Arg::Int(v)
    }
}
impl From<usize> for Arg {
    fn from(v: usize) -> Arg {
        Arg::Int(i32::try_from(v).expect("a size of a kernel fits 31 bits"))
    }
}
impl From<bool> for Arg {
    fn from(v: bool) -> Arg {
        Arg::Int(v as i32)
    }
}
impl From<u32> for Arg {
    fn from(v: u32) -> Arg {
        Arg::Word(v)
    }
}
impl From<f32> for Arg {
    fn from(v: f32) -> Arg {
        Arg::Float(v)
    }
}

/// A kernel with its grid and arguments.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    pub kernel: &'static str,
    pub grid: [u32; 3],
    pub threads: u32,
    /// bytes of dynamic shared memory
    pub shared: u32,
    pub args: &'a [Arg],
}

/// c[m, n] = (accumulate ? c : 0) + A B, packed rows; `nt`: a [m, k], b [n, k]; `nn`: b [k, n]; `tn`: a [k, m],
/// b [k, n].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    pub a_transposed: bool,
    pub b_transposed: bool,
    pub a: u64,
    pub b: u64,
    pub c: u64,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub accumulate: bool,
}

/// A device. Everything but [`Device::download`] may return before it is done; everything happens in order.
pub trait Device: Send + Sync + 'static {
    /// `bytes` (at least one) at a multiple of 256.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`] and whatever the driver says.
    fn allocate(&self, bytes: usize) -> Result<u64, CudaError>;
    fn free(&self, at: u64);
    /// The size to allocate for `bytes`, so that buffers of about the same size can follow one another: multiples of
    /// 256 bytes, of about an eighth of the size above that, of a hundredth from a megabyte on, where activations and
    /// weights of fixed sizes would waste what is rounded.
    fn class(&self, bytes: usize) -> usize {
        let share = if bytes < 1 << 20 { 8 } else { 128 };
        bytes.max(1).next_multiple_of((bytes / share).next_power_of_two().max(256))
    }
    /// Zero bytes.
    ///
    /// # Errors
    /// The driver's.
    fn zero(&self, at: u64, bytes: usize) -> Result<(), CudaError>;
    /// `data` is no longer needed when this returns.
    ///
    /// # Errors
    /// The driver's.
    fn upload(&self, at: u64, data: &[u8]) -> Result<(), CudaError>;
    /// Waits for everything before it.
    ///
    /// # Errors
    /// The driver's, also those of earlier launches.
    fn download(&self, at: u64, data: &mut [u8]) -> Result<(), CudaError>;
    /// # Errors
    /// The driver's.
    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), CudaError>;
    /// # Errors
    /// The driver's.
    fn launch(&self, launch: Launch) -> Result<(), CudaError>;
    /// Multiprocessors, for choosing grids.
    fn multiprocessors(&self) -> usize;
    /// Computes the product with a library of the vendor; false if there is none.
    ///
    /// # Errors
    /// The library's.
    fn product(&self, _: &Product) -> Result<bool, CudaError> {
        Ok(false)
    }
}
