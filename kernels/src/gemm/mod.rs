//! Matrix products. Row-major; a matrix is a slice with a row and a column stride.
//!
//! c[m, n] = (accumulate ? c : 0) + alpha * a[m, k] b[k, n]. The three layouts of a linear layer with weight
//! w[n, k] are NT (forward, y = x w^T), NN (input gradient, dx = dy w) and TN (weight gradient, dw += dy^T x).
//!
//! One register tile ([`tile`]) for AVX-512, AVX2, SSE2 and simd128, fed by panels ([`pack`]) in blocks ([`blocks`]).
//! A value of c is the same sum in the same order for any number of rows, columns and threads.

mod blocks;
mod lanes;
pub(crate) mod pack;
pub mod panels;
pub mod reference;
pub(crate) mod scratch;
pub(crate) mod tile;

/// Rows that are handled together between tiles: a multiple of every tile's height and of every vector.
const GROUP: usize = 48;
/// Products of fewer multiplications stay on the calling thread: waking another takes longer.
const POOL: usize = 1 << 18;

/// A strided view.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    pub data: &'a [f32],
    pub row: usize,
    pub col: usize,
}

impl<'a> Mat<'a> {
    /// Packed rows of `cols` values (or wider rows: `stride`).
    pub fn rows(data: &'a [f32], stride: usize) -> Self {
        Mat { data, row: stride, col: 1 }
    }
    /// The transpose.
    pub fn t(self) -> Self {
        Mat { data: self.data, row: self.col, col: self.row }
    }
    fn check(&self, r: usize, c: usize, name: &str) {
        if r > 0 && c > 0 {
            let last = (r - 1) * self.row + (c - 1) * self.col;
            assert!(
                last < self.data.len(),
                "gemm: {name} [{r}, {c}] needs {} values, has {}",
                last + 1,
                self.data.len()
            );
        }
    }
}

/// Use the pool or stay on this thread.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    Pool,
    One,
}

/// c[m, n] (rows `c_row` apart) = (accumulate ? c : 0) + alpha a b.
#[allow(clippy::too_many_arguments)]
pub fn gemm(
    threads: Threads,
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    a: Mat,
    b: Mat,
    c: &mut [f32],
    c_row: usize,
    accumulate: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    a.check(m, k, "a");
    b.check(k, n, "b");
    assert!((m - 1) * c_row + n <= c.len(), "gemm: c [{m}, {n}] rows {c_row} apart, has {}", c.len());
    if k == 0 {
        if !accumulate {
            for r in 0..m {
                c[r * c_row..][..n].fill(0.0);
            }
        }
        return;
    }
    let threads = if m * n * k > POOL { threads } else { Threads::One };
    let c = c.as_mut_ptr();
    blocks::run(&blocks::Job { threads, m, n, k, alpha, a, b, c, c_row, accumulate });
}

/// y[m, n] (+)= x[m, k] w[n, k]^T
pub fn nt(x: &[f32], w: &[f32], y: &mut [f32], m: usize, n: usize, k: usize, accumulate: bool) {
    gemm(Threads::Pool, m, n, k, 1.0, Mat::rows(x, k), Mat::rows(w, k).t(), y, n, accumulate);
}
/// dx[m, k] (+)= dy[m, n] w[n, k]
pub fn nn(dy: &[f32], w: &[f32], dx: &mut [f32], m: usize, n: usize, k: usize, accumulate: bool) {
    gemm(Threads::Pool, m, k, n, 1.0, Mat::rows(dy, n), Mat::rows(w, k), dx, k, accumulate);
}
/// dw[n, k] += dy[m, n]^T x[m, k]
pub fn tn(dy: &[f32], x: &[f32], dw: &mut [f32], m: usize, n: usize, k: usize) {
    gemm(Threads::Pool, n, k, m, 1.0, Mat::rows(dy, n).t(), Mat::rows(x, k), dw, k, true);
}

#[cfg(test)]
mod tests;
