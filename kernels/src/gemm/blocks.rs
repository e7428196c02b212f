//! From tiles to whole products: blocks of k, panels of b, tasks for the pool.
//!
//! k is cut into blocks of [`DEPTH`] whatever the other sizes: c = ((c + block 0) + block 1) + .., each block one chain
//! of additions. The two ways below therefore compute the same bits, and so does any number of rows, columns or threads.
//!
//! - [`direct`]: panels of b are packed by each task for its own columns, rows of a are read where they stand.
//! - [`flipped`]: c^T = b^T a^T, for few rows and weights [out, in] (b = w^T): a is packed once for all tasks, the rows
//!   of w are read where they stand, and c is transposed when it is stored. Packing w would cost as much as the product
//!   of a block of 8 rows.

use super::tile::{self, Shape, Side, Tile};
use super::{GROUP, Mat, Threads, pack, scratch};
use crate::par;

/// Terms of a sum that are added in one chain.
pub const DEPTH: usize = 512;
/// Values of b that a task packs at a time: half of a second-level cache of 1 MB.
const PANELS: usize = 1 << 17;

/// A checked product: c[m, n] (+)= alpha a b, no size zero.
pub struct Job<'a> {
    pub threads: Threads,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub alpha: f32,
    pub a: Mat<'a>,
    pub b: Mat<'a>,
    pub c: *mut f32,
    pub c_row: usize,
    pub accumulate: bool,
}

// SAFETY: tasks write disjoint parts of c.
unsafe impl Sync for Job<'_> {}

impl Job<'_> {
    fn each(&self, n: usize, f: impl Fn(usize) + Sync + Send) {
        if self.threads == Threads::Pool && n > 1 { par::each(n, f) } else { (0..n).for_each(f) }
    }
}

/// Runs the product the cheaper way.
pub fn run(job: &Job) {
    let shape = tile::shape();
    let (m, n, k) = (job.m, job.n, job.k);
    // transpositions: of a and of c per block of k, or of b
    let flip = m * (k + n * k.div_ceil(DEPTH)) < n * k;
    if job.b.row == 1 && job.b.col != 1 && job.alpha == 1.0 && flip {
        flipped(job, tile::shape_for(m));
    } else {
        direct(job, shape);
    }
}

/// Cuts `n` into parts of at most `most`, as equal as multiples of `unit` allow.
fn part(n: usize, most: usize, unit: usize) -> usize {
    n.div_ceil(n.div_ceil(most)).next_multiple_of(unit)
}

pub fn direct(job: &Job, shape: Shape) {
    let nc = part(job.n, PANELS / job.k.min(DEPTH).next_multiple_of(64), shape.cols.min(16));
    let across = job.n.div_ceil(nc);
    let mut mc = job.m;
    if job.threads == Threads::Pool {
        // enough tasks to share evenly, none so small that packing b counts
        let down = (4 * par::threads()).div_ceil(across).min(job.m.div_ceil(96)).max(1);
        mc = part(job.m, job.m.div_ceil(down), GROUP);
    }
    let down = job.m.div_ceil(mc);
    job.each(across * down, |task| {
        let (i, j) = (task % down * mc, task / down * nc);
        block(job, shape, (i, mc.min(job.m - i)), (j, nc.min(job.n - j)));
    });
}

/// Rows i .. and columns j .. of c.
fn block(job: &Job, shape: Shape, (i, rows): (usize, usize), (j, cols): (usize, usize)) {
    let (wide, deep) = (cols.next_multiple_of(shape.lanes), DEPTH.min(job.k));
    // rows of a that are not contiguous are copied to micro-panels
    let copy = job.a.col != 1;
    let rows_at_once = GROUP / shape.rows * shape.rows;
    scratch::with(wide * deep, |packed| {
        scratch::with(if copy { rows_at_once * deep } else { 0 }, |left| {
            for p in (0..job.k).step_by(DEPTH) {
                let k = DEPTH.min(job.k - p);
                for at in (0..cols).step_by(shape.cols) {
                    let n = shape.cols.min(cols - at);
                    let row = n.next_multiple_of(shape.lanes);
                    let panel = &mut packed[at * k..][..row * k];
                    pack::panel(shape.level, job.b, (p, k), (j + at, n), row, panel, row);
                    if job.alpha != 1.0 {
                        panel.iter_mut().for_each(|x| *x *= job.alpha);
                    }
                }
                for at in (0..rows).step_by(rows_at_once) {
                    let group = rows_at_once.min(rows - at);
                    if copy {
                        pack::columns(job.a, (i + at, group), (p, k), shape.rows, left);
                    }
                    for r in (0..group).step_by(shape.rows) {
                        let (a, a_step, side) = if copy {
                            (left[r * k..].as_ptr(), shape.rows, Side::Columns)
                        } else {
                            (job.a.data[(i + at + r) * job.a.row + p..].as_ptr(), job.a.row, Side::Rows)
                        };
                        for c in (0..cols).step_by(shape.cols) {
                            let n = shape.cols.min(cols - c);
                            let t = Tile {
                                rows: shape.rows.min(group - r),
                                cols: n,
                                k,
                                a,
                                a_step,
                                b: packed[c * k..].as_ptr(),
                                b_row: n.next_multiple_of(shape.lanes),
                                // SAFETY: inside c, which was checked.
                                c: unsafe { job.c.add((i + at + r) * job.c_row + j + c) },
                                c_row: job.c_row,
                                add: job.accumulate || p > 0,
                                ahead: std::ptr::null(),
                                lines: 0,
                            };
                            // SAFETY: the matrices were checked, panels are padded to whole vectors.
                            unsafe { tile::run(shape, &t, side) };
                        }
                    }
                }
            }
        })
    });
}

pub fn flipped(job: &Job, shape: Shape) {
    let (m, n, k) = (job.m, job.n, job.k);
    let wide = m.next_multiple_of(shape.lanes);
    // short of tasks, smaller groups share more evenly
    let group = if n.div_ceil(GROUP) < 4 * par::threads() { 2 * GROUP / 3 } else { GROUP };
    // rows of w whose values stay in the first-level cache while the panels pass; one vector has higher tiles
    let high = if m <= shape.lanes { group } else { shape.rows };
    scratch::with(wide * k, |packed| {
        let right = job.a.t();
        let (across, to) = (m.div_ceil(shape.cols), par::Shared::new(packed));
        job.each(k.div_ceil(DEPTH) * across, |task| {
            let (p, at) = (task / across * DEPTH, task % across * shape.cols);
            let (depth, cols) = (DEPTH.min(k - p), shape.cols.min(m - at));
            let row = cols.next_multiple_of(shape.lanes);
            // SAFETY: every panel is one task's.
            let panel = unsafe { to.range(p * wide + at * depth, row * depth) };
            pack::panel(shape.level, right, (p, depth), (at, cols), row, panel, row);
        });
        let packed = &*packed;
        job.each(n.div_ceil(group), |task| {
            let (j, group) = (task * group, group.min(n - task * group));
            scratch::with(group * wide, |t| {
                for p in (0..k).step_by(DEPTH) {
                    let depth = DEPTH.min(k - p);
                    for r in (0..group).step_by(high) {
                        for at in (0..m).step_by(shape.cols) {
                            let cols = wide.min(at + shape.cols) - at;
                            let t = Tile {
                                rows: high.min(group - r),
                                cols,
                                k: depth,
                                a: job.b.data[(j + r) * job.b.col + p..].as_ptr(),
                                a_step: job.b.col,
                                b: packed[p * wide + at * depth..].as_ptr(),
                                b_row: cols,
                                c: t[r * wide + at..].as_mut_ptr(),
                                c_row: wide,
                                add: false,
                                ahead: std::ptr::null(),
                                lines: 0,
                            };
                            // SAFETY: the matrices were checked; `cols` is a multiple of the vector and fits t.
                            unsafe { tile::run(shape, &t, Side::Rows) };
                        }
                    }
                    let add = job.accumulate || p > 0;
                    // SAFETY: columns j .. j + group of the m rows of c, which was checked.
                    unsafe {
                        pack::untranspose(shape.level, t, wide, (m, group), job.c.add(j), job.c_row, add)
                    };
                }
            });
        });
    });
}
