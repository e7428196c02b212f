//! One thread pool, deterministic work: tasks are numbered, results come back in order, and no sum depends on
//! how many threads there are. In WASM everything runs on the calling thread.

/// Runs `f(0..n)`, possibly in parallel.
pub fn each(n: usize, f: impl Fn(usize) + Sync + Send) {
    #[cfg(not(target_arch = "wasm32"))]
    {
        use rayon::prelude::*;
        (0..n).into_par_iter().for_each(f);
    }
    #[cfg(target_arch = "wasm32")]
    (0..n).for_each(f);
}

/// Results of `f(0..n)` in order.
pub fn map<R: Send>(n: usize, f: impl Fn(usize) -> R + Sync + Send) -> Vec<R> {
    #[cfg(not(target_arch = "wasm32"))]
    {
        use rayon::prelude::*;
        (0..n).into_par_iter().map(f).collect()
    }
    #[cfg(target_arch = "wasm32")]
    (0..n).map(f).collect()
}

/// Calls `f(i, chunk)` for consecutive chunks of `size`.
pub fn chunks<T: Send>(data: &mut [T], size: usize, f: impl Fn(usize, &mut [T]) + Sync + Send) {
    #[cfg(not(target_arch = "wasm32"))]
    {
        use rayon::prelude::*;
        data.par_chunks_mut(size).enumerate().for_each(|(i, c)| f(i, c));
    }
    #[cfg(target_arch = "wasm32")]
    data.chunks_mut(size).enumerate().for_each(|(i, c)| f(i, c));
}

/// As [`chunks`], on this thread where there are at most [`LIGHT`] values: for a few operations a value, waking another
/// thread takes longer.
pub fn light<T: Send>(data: &mut [T], size: usize, f: impl Fn(usize, &mut [T]) + Sync + Send) {
    if data.len() <= LIGHT {
        data.chunks_mut(size).enumerate().for_each(|(i, c)| f(i, c));
    } else {
        chunks(data, size, f);
    }
}

/// See [`light`].
pub const LIGHT: usize = 1 << 16;

/// Runs `f` on a thread of the pool. From there each parallel step is handed to the others directly; from any other
/// thread it has to be passed in and waited for, which costs more than a small step takes.
pub fn inside<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    #[cfg(not(target_arch = "wasm32"))]
    {
        rayon::scope(|_| f())
    }
    #[cfg(target_arch = "wasm32")]
    f()
}

/// A pointer that tasks share to write disjoint parts.
#[derive(Clone, Copy)]
pub struct Shared(*mut f32, usize);
// SAFETY: users write disjoint ranges only (see `range`).
unsafe impl Send for Shared {}
unsafe impl Sync for Shared {}

impl Shared {
    pub fn new(data: &mut [f32]) -> Self {
        Shared(data.as_mut_ptr(), data.len())
    }
    /// # Safety
    /// No two live ranges may overlap between tasks.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    pub unsafe fn range(&self, at: usize, len: usize) -> &mut [f32] {
        assert!(at + len <= self.1, "range {at}+{len} outside {}", self.1);
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), len) }
    }
}

impl Shared {
    /// Where value `at` stands, for strided writes.
    pub fn at(&self, at: usize) -> *mut f32 {
        assert!(at <= self.1, "{at} outside {}", self.1);
        // SAFETY: inside the slice or at its end.
        unsafe { self.0.add(at) }
    }
}

/// How many threads the pool has.
pub fn threads() -> usize {
    #[cfg(not(target_arch = "wasm32"))]
    {
        rayon::current_num_threads()
    }
    #[cfg(target_arch = "wasm32")]
    1
}
