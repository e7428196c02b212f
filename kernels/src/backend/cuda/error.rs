//! What can go wrong on a CUDA device.

use std::fmt;

/// A failure of the CUDA back end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CudaError {
    /// no NVIDIA driver library on this machine
    NoDriver,
    /// the driver is older than the kernels' PTX; versions as `10 * major + minor`
    DriverTooOld { have: u32, need: u32 },
    /// the driver sees no device of this number
    NoDevice { asked: usize, count: usize },
    /// the GPU is older than Pascal's compute capability 6.1
    DeviceTooOld { name: String, major: u32, minor: u32 },
    /// more memory was asked for than is free, bytes
    OutOfMemory { asked: usize, free: usize, total: usize },
    /// the device stopped in the middle of its work: everything on it is lost
    Lost { what: String, code: String },
    /// a shape beyond what the kernels hold or count
    Shape { what: &'static str, asked: usize, most: usize },
    /// any other refusal of the driver
    Driver { what: String, code: String },
}

impl fmt::Display for CudaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = |v: &u32| format!("{}.{}", v / 10, v % 10);
        let mb = |bytes: &usize| bytes.div_ceil(1_000_000);
        match self {
            CudaError::NoDriver => write!(f, "no NVIDIA driver on this machine (libcuda is not installed)"),
            CudaError::DriverTooOld { have, need } => write!(
                f,
                "the NVIDIA driver speaks CUDA {}, {} or newer is needed: update the driver",
                version(have),
                version(need)
            ),
            CudaError::NoDevice { count: 0, .. } => write!(f, "the NVIDIA driver finds no GPU"),
            CudaError::NoDevice { asked, count } => {
                write!(f, "there is no cuda:{asked}: the driver finds {count} GPU, numbered from 0")
            }
            CudaError::DeviceTooOld { name, major, minor } => {
                write!(f, "{name} has compute capability {major}.{minor}; 6.1 or newer is needed")
            }
            CudaError::OutOfMemory { asked, free, total } => write!(
                f,
                "out of GPU memory: {} MB more asked for, {} of {} MB free",
                mb(asked),
                mb(free),
                mb(total)
            ),
            CudaError::Lost { what, code } => {
                write!(f, "the GPU stopped working during {what} ({code}): everything on it is lost")
            }
            CudaError::Shape { what, asked, most } => {
                write!(f, "{asked} {what}, the CUDA kernels go to {most}")
            }
            CudaError::Driver { what, code } => write!(f, "the NVIDIA driver refused {what}: {code}"),
        }
    }
}

impl std::error::Error for CudaError {}
