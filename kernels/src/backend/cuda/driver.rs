//! A GPU through NVIDIA's driver, which is loaded when first asked for.

use std::collections::HashMap;
use std::ffi::{CString, c_int};
use std::sync::Mutex;

use cudarc::cublas::{result as blas, sys as blas_sys};
use cudarc::driver::{result, sys};

use super::kernels::SOURCES;
use super::{CudaError, Device, Launch, Product};

/// CUDA version of the oldest driver that reads the kernels' PTX (6.0), as `10 * major + minor`.
const OLDEST: u32 = 90;
/// Compute capability the PTX is compiled for.
const CAPABILITY: (u32, u32) = (6, 1);

/// What the driver offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// CUDA version of the driver, as `10 * major + minor`
    pub version: u32,
    /// name and bytes of memory of every GPU
    pub gpus: Vec<(String, usize)>,
    /// whether cuBLAS is installed; without it the products are our own
    pub cublas: bool,
}

/// Looks for a driver and its GPUs; starts nothing on them.
///
/// # Errors
/// [`CudaError::NoDriver`], [`CudaError::DriverTooOld`], [`CudaError::NoDevice`].
pub fn found() -> Result<Found, CudaError> {
    let version = load()?;
    let count = result::device::get_count().map_err(|e| refused("counting the GPUs", e))?;
    let gpu = |i: c_int| {
        let device = result::device::get(i)?;
        // SAFETY: the device was just returned.
        Ok((result::device::get_name(device)?, unsafe { result::device::total_mem(device)? }))
    };
    let gpus = (0..count).map(gpu).collect::<Result<Vec<_>, result::DriverError>>();
    let gpus = gpus.map_err(|e| refused("describing the GPUs", e))?;
    if gpus.is_empty() {
        return Err(CudaError::NoDevice { asked: 0, count: 0 });
    }
    Ok(Found { version, gpus, cublas: unsafe { blas_sys::is_culib_present() } })
}

/// Loads and initialises the driver; its version.
fn load() -> Result<u32, CudaError> {
    // SAFETY: only looks for the library. Any other call panics where there is none.
    if !unsafe { sys::is_culib_present() } {
        return Err(CudaError::NoDriver);
    }
    let mut version: c_int = 0;
    // SAFETY: needs no initialisation.
    let asked = unsafe { sys::cuDriverGetVersion(&mut version) }.result();
    asked.map_err(|e| refused("telling its version", e))?;
    // 12080 is 12.8
    let have = (version / 10) as u32 / 10;
    if have < OLDEST {
        return Err(CudaError::DriverTooOld { have, need: OLDEST });
    }
    match result::init() {
        Ok(()) => Ok(have),
        Err(result::DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => {
            Err(CudaError::NoDevice { asked: 0, count: 0 })
        }
        Err(e) => Err(refused("starting", e)),
    }
}

fn code(e: result::DriverError) -> String {
    format!("{:?}", e.0)
}

/// An error of the driver while it did `what`; those that end a context are told apart.
fn refused(what: &str, e: result::DriverError) -> CudaError {
    use sys::CUresult::*;
    let lost = matches!(
        e.0,
        CUDA_ERROR_ILLEGAL_ADDRESS
            | CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUDA_ERROR_MISALIGNED_ADDRESS
            | CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUDA_ERROR_INVALID_PC
            | CUDA_ERROR_LAUNCH_FAILED
            | CUDA_ERROR_LAUNCH_TIMEOUT
            | CUDA_ERROR_ASSERT
            | CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUDA_ERROR_ECC_UNCORRECTABLE
            | CUDA_ERROR_DEVICE_UNAVAILABLE
            | CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUDA_ERROR_UNKNOWN
    );
    let (what, code) = (what.to_string(), code(e));
    if lost { CudaError::Lost { what, code } } else { CudaError::Driver { what, code } }
}

/// One GPU: its context, a stream, the kernels, and cuBLAS where it is installed.
pub struct Driver {
    context: sys::CUcontext,
    stream: sys::CUstream,
    functions: HashMap<&'static str, sys::CUfunction>,
    /// one thread at a time
    cublas: Option<Mutex<Blas>>,
    name: String,
    device: sys::CUdevice,
    multiprocessors: usize,
}

struct Blas(blas_sys::cublasHandle_t);
// SAFETY: a handle may be used from any thread, one at a time.
unsafe impl Send for Blas {}
// SAFETY: contexts, streams and functions may be used from any thread in which the context is current.
unsafe impl Send for Driver {}
unsafe impl Sync for Driver {}

impl Driver {
    /// Opens GPU number `ordinal` and loads the kernels.
    ///
    /// # Errors
    /// Every [`CudaError`] but [`CudaError::Lost`].
    pub fn new(ordinal: usize) -> Result<Driver, CudaError> {
        let found = found()?;
        let count = found.gpus.len();
        let Some((name, _)) = found.gpus.into_iter().nth(ordinal) else {
            return Err(CudaError::NoDevice { asked: ordinal, count });
        };
        let of = |what| move |e| refused(what, e);
        let device = result::device::get(ordinal as c_int).map_err(of("finding the GPU"))?;
        let attribute = |a| {
            // SAFETY: the device was just returned.
            unsafe { result::device::get_attribute(device, a) }.map_err(of("describing the GPU"))
        };
        use sys::CUdevice_attribute::*;
        let major = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? as u32;
        let minor = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)? as u32;
        if (major, minor) < CAPABILITY {
            return Err(CudaError::DeviceTooOld { name, major, minor });
        }
        let multiprocessors = attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize;
        // SAFETY: the device exists; the primary context lives as long as the process.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(of("opening the GPU"))?;
        unsafe { result::ctx::set_current(context) }.map_err(of("opening the GPU"))?;
        let kind = result::stream::StreamKind::NonBlocking;
        let stream = result::stream::create(kind).map_err(of("making a stream"))?;
        let mut functions = HashMap::new();
        for source in SOURCES {
            let ptx = CString::new(source.ptx).expect("PTX is text");
            // SAFETY: the text ends with a zero; modules live as long as the process.
            let module = unsafe { result::module::load_data(ptx.as_ptr().cast()) };
            let module = module.map_err(|e| refused(&format!("loading {}.ptx", source.name), e))?;
            for kernel in source.kernels {
                let name = CString::new(*kernel).expect("a name");
                // SAFETY: the module was just loaded.
                let function = unsafe { result::module::get_function(module, name) };
                functions.insert(*kernel, function.map_err(|e| refused(kernel, e))?);
            }
        }
        // a library that no longer knows this GPU is as good as none
        let cublas = found.cublas.then(|| open_cublas(stream)).flatten().map(Mutex::new);
        Ok(Driver { context, stream, functions, cublas, name, device, multiprocessors })
    }

    /// As the driver calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn has_cublas(&self) -> bool {
        self.cublas.is_some()
    }

    /// What the data sheet promises: float32 GFLOP/s and GB/s, from multiprocessors, their lanes, the memory's width and
    /// the highest clocks. None for an architecture whose lanes are not known here.
    pub fn promised(&self) -> Option<(f64, f64)> {
        use sys::CUdevice_attribute::*;
        let of = |a| unsafe { result::device::get_attribute(self.device, a) }.ok().map(f64::from);
        let capability = (
            of(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            of(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        let lanes = match (capability.0 as u32, capability.1 as u32) {
            (6, 1) | (8, 6..=9) | (9, _) | (10, _) | (12, _) => 128.0,
            (6, 0) | (7, _) | (8, 0) => 64.0,
            _ => return None,
        };
        let clock = of(CU_DEVICE_ATTRIBUTE_CLOCK_RATE)? * 1e3;
        let memory = of(CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)? * 1e3;
        let width = of(CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)? / 8.0;
        Some((2.0 * lanes * self.multiprocessors as f64 * clock / 1e9, 2.0 * memory * width / 1e9))
    }

    /// Free and total bytes of memory.
    ///
    /// # Errors
    /// The driver's.
    pub fn memory(&self) -> Result<(usize, usize), CudaError> {
        self.here("asking for the memory", result::mem_get_info)
    }

    /// Calls the driver with this context current.
    fn here<T>(
        &self,
        what: &str,
        f: impl FnOnce() -> Result<T, result::DriverError>,
    ) -> Result<T, CudaError> {
        // SAFETY: the context lives as long as the process.
        let current = unsafe { result::ctx::set_current(self.context) };
        current.and_then(|()| f()).map_err(|e| refused(what, e))
    }
}

fn open_cublas(stream: sys::CUstream) -> Option<Blas> {
    let handle = blas::create_handle().ok()?;
    // SAFETY: both were just made; the two names of a stream's type are one type.
    unsafe { blas::set_stream(handle, stream.cast()) }.ok()?;
    Some(Blas(handle))
}

impl Device for Driver {
    fn allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        // SAFETY: the caller frees it.
        let got = self.here("allocating", || match unsafe { result::malloc_sync(bytes) } {
            Ok(at) => Ok(Some(at)),
            Err(result::DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => Ok(None),
            Err(e) => Err(e),
        })?;
        match got {
            Some(at) => Ok(at),
            None => {
                let (free, total) = self.memory()?;
                Err(CudaError::OutOfMemory { asked: bytes, free, total })
            }
        }
    }
    fn free(&self, at: u64) {
        // after a failure the context may be gone, and the memory with it
        let _ = self.here("freeing", || unsafe { result::free_sync(at) });
    }
    fn zero(&self, at: u64, bytes: usize) -> Result<(), CudaError> {
        // SAFETY: the back end checks ranges against its buffers.
        self.here("clearing", || unsafe { result::memset_d8_async(at, 0, bytes, self.stream) })
    }
    fn upload(&self, at: u64, data: &[u8]) -> Result<(), CudaError> {
        // SAFETY: as above. Pageable memory has been read when the call returns.
        self.here("uploading", || unsafe { result::memcpy_htod_async(at, data, self.stream) })
    }
    fn download(&self, at: u64, data: &mut [u8]) -> Result<(), CudaError> {
        // SAFETY: as above; `data` outlives the wait.
        self.here("downloading", || unsafe {
            result::memcpy_dtoh_async(data, at, self.stream)?;
            result::stream::synchronize(self.stream)
        })
    }
    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), CudaError> {
        // SAFETY: as above.
        self.here("copying", || unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream) })
    }
    fn launch(&self, l: Launch) -> Result<(), CudaError> {
        let function = self.functions[l.kernel];
        let mut args: [_; 20] = [std::ptr::null_mut(); 20];
        for (to, arg) in args.iter_mut().zip(l.args) {
            *to = arg.address();
        }
        let (grid, block) = ((l.grid[0], l.grid[1], l.grid[2]), (l.threads, 1, 1));
        // SAFETY: kinds and number of the arguments are checked against the kernels in the tests, ranges by the
        // back end.
        self.here(l.kernel, || unsafe {
            result::launch_kernel(function, grid, block, l.shared, self.stream, &mut args[..l.args.len()])
        })
    }
    fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }
    /// cuBLAS is column-major: it computes the transpose of c from b and a.
    fn product(&self, p: &Product) -> Result<bool, CudaError> {
        let Some(cublas) = &self.cublas else { return Ok(false) };
        self.here("a matrix product", || Ok(()))?;
        let handle = cublas.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        use blas_sys::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
        let (m, n, k) = (p.m as c_int, p.n as c_int, p.k as c_int);
        let (op_b, b_row) = if p.b_transposed { (CUBLAS_OP_T, k) } else { (CUBLAS_OP_N, n) };
        let (op_a, a_row) = if p.a_transposed { (CUBLAS_OP_T, m) } else { (CUBLAS_OP_N, k) };
        let (one, beta) = (1.0f32, if p.accumulate { 1.0f32 } else { 0.0 });
        let (a, b, c) = (p.a as *const f32, p.b as *const f32, p.c as *mut f32);
        // SAFETY: ranges were checked by the back end; the scalars live on the host during the call.
        let done =
            unsafe { blas::sgemm(handle.0, op_b, op_a, n, m, k, &one, b, b_row, a, a_row, &beta, c, n) };
        let failed = |e: blas::CublasError| CudaError::Driver {
            what: "a matrix product of cuBLAS".into(),
            code: format!("{:?}", e.0),
        };
        done.map(|()| true).map_err(failed)
    }
}
