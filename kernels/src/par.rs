//! Deterministic work on several threads: tasks are numbered, results come back in order, and no sum depends on
//! how many threads there are. In WASM everything runs on the calling thread.
//!
//! One caller at a time has the [`team`](crate::team), whose threads wait awake between the steps of a forward. Others at
//! the same moment use rayon's pool, which also says how many threads there are.

/// Runs `f(0..n)`, possibly in parallel.
pub fn each(n: usize, f: impl Fn(usize) + Sync + Send) {
    #[cfg(not(target_arch = "wasm32"))]
    if !crate::team::each(n, threads(), &f) {
        use rayon::prelude::*;
        (0..n).into_par_iter().for_each(f);
    }
    #[cfg(target_arch = "wasm32")]
    (0..n).for_each(f);
}

/// Results of `f(0..n)` in order.
pub fn map<R: Send>(n: usize, f: impl Fn(usize) -> R + Sync + Send) -> Vec<R> {
    let mut results: Vec<Option<R>> = (0..n).map(|_| None).collect();
    chunks(&mut results, 1, |i, result| result[0] = Some(f(i)));
    results.into_iter().map(|r| r.expect("every task ran")).collect()
}

/// Calls `f(i, chunk)` for consecutive chunks of `size`.
pub fn chunks<T: Send>(data: &mut [T], size: usize, f: impl Fn(usize, &mut [T]) + Sync + Send) {
    let (len, data) = (data.len(), Start(data.as_mut_ptr()));
    each(len.div_ceil(size), |i| {
        let at = i * size;
        // SAFETY: task i alone has this part of `data`, which is borrowed until every task has run.
        f(i, unsafe { std::slice::from_raw_parts_mut(data.at(at), size.min(len - at)) });
    });
}

/// Where a slice begins whose parts go to different tasks.
struct Start<T>(*mut T);
// SAFETY: `chunks` gives every part to one task.
unsafe impl<T: Send> Send for Start<T> {}
unsafe impl<T: Send> Sync for Start<T> {}

impl<T> Start<T> {
    unsafe fn at(&self, i: usize) -> *mut T {
        // SAFETY: the caller stays inside the slice.
        unsafe { self.0.add(i) }
    }
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
pub const LIGHT: usize = 1 << 14;

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
