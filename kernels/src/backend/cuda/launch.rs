//! The back end itself: launches with the failure kept, grids, matrix products.

use std::sync::Arc;

use super::buffer::{Block, Core};
use super::{Arg, CudaError, Device, Launch, Product};

/// A CUDA device with its pool. Clones share both.
pub struct Cuda<D: Device> {
    pub(super) core: Arc<Core<D>>,
    /// every product by our own kernels
    own: bool,
}

impl<D: Device> Clone for Cuda<D> {
    fn clone(&self) -> Self {
        Cuda { core: self.core.clone(), own: self.own }
    }
}

/// An argument list of a kernel.
macro_rules! args {
    ($($x:expr),* $(,)?) => { &[$($crate::backend::cuda::Arg::from($x)),*] };
}
pub(super) use args;

/// The kernel for 16-byte accesses if every one of `sizes` allows them.
pub(super) fn pick(sizes: &[usize], wide: &'static str, narrow: &'static str) -> &'static str {
    if sizes.iter().all(|n| n % 4 == 0) { wide } else { narrow }
}

impl<D: Device> Cuda<D> {
    pub fn new(device: D) -> Cuda<D> {
        Cuda { core: Arc::new(Core::new(device)), own: false }
    }

    /// The same device and pool without the vendor's matrix products: each by our own kernels.
    pub fn own_products(&self) -> Cuda<D> {
        Cuda { core: self.core.clone(), own: true }
    }

    pub fn device(&self) -> &D {
        &self.core.device
    }

    /// What went wrong first, if anything did.
    pub fn first_failure(&self) -> Option<CudaError> {
        self.core.failure()
    }

    /// Memory for the time of a few launches.
    pub(super) fn scratch(&self, bytes: usize) -> Block<D> {
        Block::new(&self.core, bytes)
    }

    pub(super) fn launch(
        &self,
        kernel: &'static str,
        grid: [usize; 3],
        threads: u32,
        shared: usize,
        args: &[Arg],
    ) {
        if grid.contains(&0) {
            return;
        }
        let grid = grid.map(|n| u32::try_from(n).expect("a grid fits 32 bits"));
        self.core.run(|d| d.launch(Launch { kernel, grid, threads, shared: shared as u32, args }));
    }

    /// A grid-stride loop over `n` tasks by blocks of 256.
    pub(super) fn each(&self, kernel: &'static str, n: usize, args: &[Arg]) {
        let blocks = n.div_ceil(256).min(32 * self.core.device.multiprocessors());
        self.launch(kernel, [blocks, 1, 1], 256, 0, args);
    }

    /// One warp a task, eight a block.
    pub(super) fn each_warp(&self, kernel: &'static str, n: usize, args: &[Arg]) {
        let blocks = n.div_ceil(8).min(32 * self.core.device.multiprocessors());
        self.launch(kernel, [blocks, 1, 1], 256, 0, args);
    }

    pub(super) fn product(&self, p: Product) {
        if p.m == 0 || p.n == 0 {
            return;
        }
        if !self.own && p.k > 0 && self.core.run(|d| d.product(&p)) != Some(false) {
            return;
        }
        let plan = plan(self.core.device.multiprocessors(), &p);
        let (m, n, k) = (p.m, p.n, p.k);
        let kernel = match (p.a_transposed, p.b_transposed, plan.tile) {
            (false, true, 128) => "sgemm_nt_128",
            (false, false, 128) => "sgemm_nn_128",
            (true, false, 128) => "sgemm_tn_128",
            (false, true, _) => "sgemm_nt_64",
            (false, false, _) => "sgemm_nn_64",
            (true, false, _) => "sgemm_tn_64",
            (true, true, _) => unreachable!("no layer needs the product of two transposes"),
        };
        let wide = |row: usize, at: u64, flag: i32| if row % 4 == 0 && at % 16 == 0 { flag } else { 0 };
        let mut flags = wide(if p.a_transposed { m } else { k }, p.a, 2);
        flags |= wide(if p.b_transposed { k } else { n }, p.b, 4);
        let parts = (plan.parts > 1).then(|| self.scratch(4 * plan.parts * m * n));
        let (to, accumulate) = match &parts {
            Some(block) => (block.at, false),
            None => (p.c, p.accumulate),
        };
        flags |= wide(n, to, 8) | accumulate as i32;
        let grid = [n.div_ceil(plan.tile), m.div_ceil(plan.tile), plan.parts];
        let (threads, shared) = ((plan.tile * plan.tile / 64) as u32, 4 * 2 * 2 * 8 * (plan.tile + 4));
        self.launch(kernel, grid, threads, shared, args![p.a, p.b, to, m, n, k, plan.chunk, flags]);
        if let Some(block) = parts {
            self.each("sgemm_sum", m * n, args![block.at, p.c, plan.parts, m * n, p.accumulate]);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub tile: usize,
    /// parts of k
    pub parts: usize,
    /// of k, a multiple of 8
    pub chunk: usize,
}

/// Large tiles when they fill the device, else small ones; k in parts where even those leave it empty.
pub(super) fn plan(multiprocessors: usize, p: &Product) -> Plan {
    const LEAST_CHUNK: usize = 128;
    let tiles = |t: usize| p.m.div_ceil(t) * p.n.div_ceil(t);
    let tile = if p.m.min(p.n) > 64 && tiles(128) >= multiprocessors { 128 } else { 64 };
    // two blocks of 256 threads or eight of 64 run on a multiprocessor at once
    let slots = multiprocessors * if tile == 128 { 2 } else { 8 };
    let parts = (slots / tiles(tile)).clamp(1, (p.k / LEAST_CHUNK).clamp(1, 16));
    let chunk = p.k.div_ceil(parts).next_multiple_of(8).max(8);
    Plan { tile, parts: p.k.div_ceil(chunk).max(1), chunk }
}
