//! Memory of a device: blocks from a pool, to which they return when dropped.
//!
//! One stream runs everything in order, so a block may be handed out again while the kernels that use it still wait.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{CudaError, Device};

/// A device, its free blocks, its small tables and its first failure.
pub(super) struct Core<D: Device> {
    pub device: D,
    free: Mutex<HashMap<usize, Vec<u64>>>,
    /// bytes of the blocks and tables, free ones too
    allocated: AtomicU64,
    failure: Mutex<Option<CudaError>>,
    /// turns a position of every pair, by (theta bits, head_dim)
    pub turns: Mutex<HashMap<(u32, usize), u64>>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<D: Device> Core<D> {
    pub fn new(device: D) -> Core<D> {
        Core {
            device,
            free: Mutex::default(),
            allocated: AtomicU64::new(0),
            failure: Mutex::default(),
            turns: Mutex::default(),
        }
    }
    pub fn failure(&self) -> Option<CudaError> {
        lock(&self.failure).clone()
    }
    pub fn allocated(&self) -> u64 {
        self.allocated.load(Ordering::Relaxed)
    }
    fn allocate(&self, bytes: usize) -> Option<u64> {
        let at = self.run(|d| d.allocate(bytes))?;
        self.allocated.fetch_add(bytes as u64, Ordering::Relaxed);
        Some(at)
    }
    /// Keeps the first failure; `None` after any.
    pub fn keep<T>(&self, result: Result<T, CudaError>) -> Option<T> {
        result.map_err(|e| lock(&self.failure).get_or_insert(e).clone()).ok()
    }
    /// Runs unless something failed before.
    pub fn run<T>(&self, f: impl FnOnce(&D) -> Result<T, CudaError>) -> Option<T> {
        if lock(&self.failure).is_some() {
            return None;
        }
        self.keep(f(&self.device))
    }
    /// The address of the table of `key`, made once.
    pub fn table(&self, key: (u32, usize), make: impl FnOnce() -> Vec<f64>) -> Option<u64> {
        let mut tables = lock(&self.turns);
        if let Some(at) = tables.get(&key) {
            return Some(*at);
        }
        let data = make();
        let bytes: &[u8] = bytemuck::cast_slice(&data);
        let at = self.allocate(bytes.len().max(1))?;
        self.run(|d| d.upload(at, bytes))?;
        tables.insert(key, at);
        Some(at)
    }
}

impl<D: Device> Drop for Core<D> {
    fn drop(&mut self) {
        let blocks = std::mem::take(&mut *lock(&self.free));
        let tables = std::mem::take(&mut *lock(&self.turns));
        blocks.into_values().flatten().chain(tables.into_values()).for_each(|at| self.device.free(at));
    }
}

/// Memory that returns to the pool when dropped; at address 0 if there was none.
pub(super) struct Block<D: Device> {
    core: Arc<Core<D>>,
    pub at: u64,
    class: usize,
}

impl<D: Device> Block<D> {
    pub fn new(core: &Arc<Core<D>>, bytes: usize) -> Block<D> {
        let class = core.device.class(bytes.max(1));
        let kept = lock(&core.free).get_mut(&class).and_then(Vec::pop);
        let at = kept.or_else(|| core.allocate(class)).unwrap_or(0);
        Block { core: core.clone(), at, class }
    }
}

impl<D: Device> Drop for Block<D> {
    fn drop(&mut self) {
        if self.at != 0 {
            lock(&self.core.free).entry(self.class).or_default().push(self.at);
        }
    }
}

/// f32 values on the device.
pub struct CudaBuf<D: Device> {
    pub(super) block: Block<D>,
    pub(super) len: usize,
}

/// u32 values on the device.
pub struct CudaIds<D: Device> {
    pub(super) block: Block<D>,
    pub(super) len: usize,
}

impl<D: Device> CudaBuf<D> {
    /// How many values it holds.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Address of `need` values from `offset` on.
    pub(super) fn at(&self, op: &str, offset: usize, need: usize) -> u64 {
        assert!(offset + need <= self.len, "{op}: needs {need} values from {offset} on, has {}", self.len);
        self.block.at + 4 * offset as u64
    }
}

impl<D: Device> CudaIds<D> {
    pub(super) fn at(&self, op: &str, need: usize) -> u64 {
        assert!(need <= self.len, "{op}: needs {need} ids, has {}", self.len);
        self.block.at
    }
}
