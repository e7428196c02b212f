//! Weights laid out once for products that only go forward: y[m, n] (+)= x[m, k] w[n, k]^T.
//!
//! [`pack`] rearranges w where it stands: panels of `width` outputs, each [k, width], the last one narrower. A tile then
//! reads its right operand as it lies and rows of x as they lie, and writes rows of y: nothing is copied or transposed in a
//! product, which cost a tenth of a step. Terms are added as in [`super::blocks`], so the bits are those of the plain layout.
//!
//! A panel passes once from memory for every product. While a tile of the panel before is computed, lines of the panel
//! that this thread will need next are asked for ([`Tile::ahead`]).

use super::blocks::DEPTH;
use super::tile::{self, Shape, Side, Tile};
use super::{POOL, scratch};
use crate::par;

/// Outputs a task computes at least: whole panels.
const COLUMNS: usize = 64;
/// Values of the rows a task reads again for every panel: a quarter of a second-level cache of 1 MB.
const ROWS_VALUES: usize = 1 << 16;

/// Outputs of a panel on this machine for a weight [n, k]: 0 where the plain layout has to stay.
pub fn width(n: usize) -> usize {
    let shape = tile::shape();
    // a narrower last panel must still be whole vectors, because the tile reads those
    if n % shape.lanes == 0 { shape.cols } else { 0 }
}

/// w [n, k] to panels of `width` outputs, in place.
pub fn pack(w: &mut [f32], n: usize, k: usize, width: usize) {
    assert_eq!(w.len(), n * k, "pack: the weight is [{n}, {k}]");
    scratch::with(width * k, |rows| {
        for j in (0..n).step_by(width) {
            let cols = width.min(n - j);
            let panel = &mut w[j * k..][..cols * k];
            rows[..cols * k].copy_from_slice(panel);
            for (r, row) in rows[..cols * k].chunks_exact(k).enumerate() {
                for (p, x) in row.iter().enumerate() {
                    panel[p * cols + r] = *x;
                }
            }
        }
    });
}

/// y[m, n] (+)= x[m, k] w^T for a weight [n, k] in panels of `width` outputs.
pub fn nt(
    x: &[f32],
    w: &[f32],
    width: usize,
    y: &mut [f32],
    (m, n, k): (usize, usize, usize),
    accumulate: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    let shape = tile::shape();
    assert!(
        x.len() >= m * k && w.len() == n * k && y.len() >= m * n && k > 0 && width > 0,
        "panels: x [{m}, {k}] has {} values, w [{n}, {k}] {}, y [{m}, {n}] {}",
        x.len(),
        w.len(),
        y.len()
    );
    assert!(
        n.min(width) % shape.lanes == 0 && n % width % shape.lanes == 0,
        "panels: {n} outputs by {width}"
    );
    let many = m * n * k > POOL;
    let threads = if many { par::threads() } else { 1 };
    let per = COLUMNS.div_ceil(width);
    let across = n.div_ceil(per * width);
    // tasks enough to share evenly, of rows that stay in the second-level cache while panels pass, and enough of them
    // to be worth a panel's way there
    let most = (ROWS_VALUES / k).clamp(48, 132);
    let down = (4 * threads).div_ceil(across).min(m.div_ceil(24)).max(m.div_ceil(most));
    let rows = m.div_ceil(down).next_multiple_of(shape.rows);
    let out = par::Shared::new(y);
    let task = |task: usize| {
        let (i, j) = (task / across * rows, task % across * per * width);
        let ahead = (task + threads) % across * per * width * k;
        let job = Job { shape, x, w, width, n, k, ahead, accumulate };
        columns(&job, (i, rows.min(m - i)), (j, (per * width).min(n - j)), &out);
    };
    let down = m.div_ceil(rows);
    if threads > 1 { par::each(across * down, task) } else { (0..across * down).for_each(task) }
}

struct Job<'a> {
    shape: Shape,
    x: &'a [f32],
    w: &'a [f32],
    width: usize,
    n: usize,
    k: usize,
    /// where this thread will probably go on
    ahead: usize,
    accumulate: bool,
}

/// Rows i .. and outputs j .. of y.
fn columns(job: &Job, (i, rows): (usize, usize), (j, n): (usize, usize), y: &par::Shared) {
    let (shape, k) = (job.shape, job.k);
    // few rows: higher and narrower tiles read a panel once
    let few = rows <= 2 * shape.rows;
    let step = if few { (2 * shape.lanes).min(shape.cols) } else { shape.cols };
    let high = if few { 2 * shape.rows } else { shape.rows };
    let passes = rows.div_ceil(high) * job.width.div_ceil(step);
    let lines = if passes < 4 { 0 } else { (job.width / 4).div_ceil(passes).min(4) };
    for panel in (j..j + n).step_by(job.width) {
        let cols = job.width.min(j + n - panel);
        let w = &job.w[panel * k..][..cols * k];
        let mut ahead = job.w.as_ptr().wrapping_add(job.ahead + (panel - j) * k);
        let mut due = job.width * k / 16;
        for p in (0..k).step_by(DEPTH) {
            let depth = DEPTH.min(k - p);
            for r in (0..rows).step_by(high) {
                for c in (0..cols).step_by(step) {
                    let t = Tile {
                        rows: high.min(rows - r),
                        cols: step.min(cols - c),
                        k: depth,
                        a: job.x[(i + r) * k + p..].as_ptr(),
                        a_step: k,
                        b: w[p * cols + c..].as_ptr(),
                        b_row: cols,
                        c: y.at((i + r) * job.n + panel + c),
                        c_row: job.n,
                        add: job.accumulate || p > 0,
                        ahead,
                        lines: if due > 0 { lines } else { 0 },
                    };
                    // SAFETY: x, w and y were checked; tasks write different parts of y; panels are whole vectors.
                    unsafe { tile::run(shape, &t, Side::Rows) };
                    ahead = ahead.wrapping_add(depth / 4 * lines * 16);
                    due = due.saturating_sub(depth / 4 * lines);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::values;
    use crate::gemm;

    #[test]
    fn panels_give_the_bits_of_the_plain_layout() {
        for (m, n, k) in
            [(1, 64, 3), (8, 96, 256), (13, 16, 600), (50, 208, 1100), (128, 256, 64), (7, 128, 1)]
        {
            let (x, w, old) = (values(1, m * k), values(2, n * k), values(3, m * n));
            let width = width(n);
            assert!(width > 0);
            let mut packed = w.clone();
            pack(&mut packed, n, k, width);
            for accumulate in [false, true] {
                let (mut got, mut want) = (old.clone(), old.clone());
                nt(&x, &packed, width, &mut got, (m, n, k), accumulate);
                gemm::nt(&x, &w, &mut want, m, n, k, accumulate);
                assert_eq!(got, want, "{m} {n} {k} {accumulate}");
                // a row does not depend on how many there are
                let mut last = old[(m - 1) * n..].to_vec();
                nt(&x[(m - 1) * k..], &packed, width, &mut last, (1, n, k), accumulate);
                assert_eq!(last, want[(m - 1) * n..], "{m} {n} {k} {accumulate}: the last row alone");
            }
        }
    }

    #[test]
    fn outputs_that_fill_no_vector_stay_as_they_are() {
        assert_eq!((width(257), width(3)), (0, 0));
    }
}
