//! A weight [n, k] in int8, laid out for the tile, and the product with it.
//!
//! Scales come first, one f32 an output, N = n rounded up to [`LANES`]; then panels of `width` outputs, the last one narrower.
//! A panel is [K / 2][outputs][2] codes, K = k rounded up to even: what a vector of pairs of products takes stands together.
//! Outputs and terms that only fill up are zero. All of it lies in words of four bytes ([`words`]), so that it can stand in a buffer
//! of parameters: a byte a weight where float32 takes four.
//!
//! Codes are widened to i16 when they are loaded. Keeping them as i16 was measured and lost: the multiplications hide the widening
//! with AVX-512, and few rows wait for memory (docs/performance.md).

use super::rows::{quantise_rows, quantise_rows_shared};
use super::tile::{self, Shape, Tile};
use crate::gemm::scratch;
use crate::par;
use crate::simd::Level;

/// Outputs are padded to a multiple of this many, the largest vector of 32-bit sums.
const LANES: usize = 16;
/// Products of fewer multiplications stay on the calling thread.
const POOL: usize = 1 << 19;
/// Rows a task has at least; with fewer for each thread, tasks are outputs.
const FEW: usize = 8;
/// Outputs a task has at least, then: whole panels.
const COLUMNS: usize = 64;
/// Activations that a task reads again for every panel: a quarter of a second-level cache of 1 MB.
const ROWS_VALUES: usize = 1 << 17;

/// Outputs of a panel on this machine.
pub fn width() -> usize {
    tile::shape().cols
}

/// Words of four bytes that a weight [n, k] takes.
pub fn words(n: usize, k: usize) -> usize {
    let n = n.next_multiple_of(LANES);
    n + n * k.div_ceil(2) / 2
}

/// Codes [n, k] and scales [n] to a matrix with panels of `width` outputs.
///
/// # Panics
/// Lengths that do not fit; a width that is no multiple of eight.
pub fn pack(codes: &[i8], scale: &[f32], (n, k): (usize, usize), width: usize, out: &mut [f32]) {
    assert!(
        codes.len() == n * k && scale.len() == n && out.len() == words(n, k) && width > 0 && width % 8 == 0,
        "quant: {} codes and {} scales for [{n}, {k}] in {} words of panels of {width}",
        codes.len(),
        scale.len(),
        out.len()
    );
    let padded = n.next_multiple_of(LANES);
    let (scales, panels) = out.split_at_mut(padded);
    scales.fill(0.0);
    scales[..n].copy_from_slice(scale);
    panels.fill(0.0);
    let panels: &mut [i8] = bytemuck::cast_slice_mut(panels);
    let at = Place { padded, pairs: k.div_ceil(2), width };
    for (j, row) in codes.chunks_exact(k.max(1)).enumerate() {
        let (first, step) = at.row(j);
        pack_row(row, &mut panels[first..], step);
    }
}

/// A function of its own, because a browser compiles anew what is called often and not what loops long.
#[inline(never)]
fn pack_row(row: &[i8], panel: &mut [i8], step: usize) {
    for (pair, to) in row.chunks(2).zip(panel.chunks_mut(step)) {
        to[..pair.len()].copy_from_slice(pair);
    }
}

/// Where codes stand.
#[derive(Clone, Copy)]
struct Place {
    padded: usize,
    pairs: usize,
    width: usize,
}

impl Place {
    /// The first pair of output `j`, and codes from one pair of it to the next.
    fn row(self, j: usize) -> (usize, usize) {
        let first = j / self.width * self.width;
        let cols = self.width.min(self.padded - first);
        (2 * (first * self.pairs + (j - first)), 2 * cols)
    }
}

/// A packed weight.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    words: &'a [f32],
    width: usize,
    n: usize,
    k: usize,
}

impl<'a> Matrix<'a> {
    /// What [`pack`] left in `words` for a weight [n, k].
    ///
    /// # Panics
    /// Another number of words.
    pub fn new(data: &'a [f32], width: usize, (n, k): (usize, usize)) -> Self {
        assert!(data.len() == words(n, k) && width > 0, "quant: {} words for [{n}, {k}]", data.len());
        Matrix { words: data, width, n, k }
    }

    /// (outputs, terms of a sum)
    pub fn shape(&self) -> (usize, usize) {
        (self.n, self.k)
    }

    fn place(&self) -> Place {
        Place { padded: self.n.next_multiple_of(LANES), pairs: self.k.div_ceil(2), width: self.width }
    }

    fn parts(&self) -> (&'a [f32], &'a [i8]) {
        let (scale, panels) = self.words.split_at(self.n.next_multiple_of(LANES));
        (scale, bytemuck::cast_slice(panels))
    }

    /// Row j in float32, q s, [k].
    ///
    /// # Panics
    /// A row that is not there.
    pub fn row(&self, j: usize, out: &mut [f32]) {
        assert!(j < self.n, "quant: row {j} outside {}", self.n);
        let ((scale, panels), place) = (self.parts(), self.place());
        let (first, step) = place.row(j);
        for (out, pair) in out[..self.k].chunks_mut(2).zip(panels[first..].chunks(step)) {
            out.iter_mut().zip(pair).for_each(|(o, q)| *o = *q as f32 * scale[j]);
        }
    }

    /// y[m, n] (+)= x[m, k] w^T, see [`super`].
    ///
    /// # Panics
    /// Buffers that are too short.
    pub fn nt(&self, x: &[f32], y: &mut [f32], m: usize, accumulate: bool) {
        self.nt_with(tile::shape(), x, y, m, accumulate);
    }

    /// The same with the tile of one instruction set.
    pub(super) fn nt_with(&self, shape: Shape, x: &[f32], y: &mut [f32], m: usize, accumulate: bool) {
        let (n, k) = (self.n, self.k);
        assert!(
            x.len() >= m * k && y.len() >= m * n,
            "quant: x [{m}, {k}] has {} values, y [{m}, {n}] {}",
            x.len(),
            y.len()
        );
        if m == 0 || n == 0 {
            return;
        }
        if k == 0 {
            if !accumulate {
                y[..m * n].fill(0.0);
            }
            return;
        }
        // panels of a narrower set than the tile's: its own tile
        let narrow = |s: &Shape| self.width % s.cols == 0;
        let shape = Some(shape).filter(narrow).unwrap_or_else(|| {
            if narrow(&tile::V3) && shape.level > Level::Base { tile::V3 } else { tile::BASE }
        });
        Job { shape, matrix: *self, x, accumulate }.run(m, y);
    }
}

/// A product.
struct Job<'a> {
    shape: Shape,
    matrix: Matrix<'a>,
    x: &'a [f32],
    accumulate: bool,
}

/// Rows of x, rounded.
struct Rounded<'a> {
    /// [rows, K]
    codes: &'a [i16],
    scales: &'a [f32],
    /// number of the first one
    first: usize,
}

impl Job<'_> {
    fn run(&self, m: usize, y: &mut [f32]) {
        let (n, k) = self.matrix.shape();
        let threads = if m * n * k > POOL { par::threads() } else { 1 };
        let out = par::Shared::new(y);
        if m < 2 * FEW * threads {
            return self.few(m, threads, &out);
        }
        // rows for each task, which it rounds and multiplies while they are in its cache
        let rows = m.div_ceil(4 * threads).clamp(FEW, (ROWS_VALUES / k).clamp(48, 128));
        let rows = rows.next_multiple_of(tile::ROWS);
        let task = |task: usize| {
            let first = task * rows;
            let rows = rows.min(m - first);
            rounded(rows, k, |codes, scales| {
                quantise_rows(&self.x[first * k..], (rows, k), codes, scales);
                self.columns(&Rounded { codes, scales, first }, rows, (0, n), &out);
            });
        };
        let tasks = m.div_ceil(rows);
        if threads > 1 { par::each(tasks, task) } else { (0..tasks).for_each(task) }
    }

    /// Few rows: outputs for each task.
    fn few(&self, m: usize, threads: usize, y: &par::Shared) {
        let ((n, k), width) = (self.matrix.shape(), self.matrix.width);
        rounded(m, k, |codes, scales| {
            let round = if threads > 1 { quantise_rows_shared } else { quantise_rows };
            round(self.x, (m, k), codes, scales);
            let x = Rounded { codes, scales, first: 0 };
            let per = COLUMNS.max(n.div_ceil(4 * threads)).div_ceil(width) * width;
            let task = |task: usize| self.columns(&x, m, (task * per, per.min(n - task * per)), y);
            let tasks = n.div_ceil(per);
            if threads > 1 { par::each(tasks, task) } else { (0..tasks).for_each(task) }
        });
    }

    /// Outputs j .. of some rows.
    fn columns(&self, x: &Rounded, rows: usize, (j, n): (usize, usize), y: &par::Shared) {
        let place = self.matrix.place();
        let (scale, panels) = self.matrix.parts();
        for first in (j..j + n).step_by(place.width) {
            let cols = place.width.min(place.padded - first);
            let wanted = place.width.min(j + n - first);
            for r in (0..rows).step_by(tile::ROWS) {
                for c in (0..wanted).step_by(self.shape.cols) {
                    let t = Tile {
                        rows: tile::ROWS.min(rows - r),
                        cols: self.shape.cols.min(wanted - c),
                        pairs: place.pairs,
                        x: x.codes[r * 2 * place.pairs..].as_ptr(),
                        scales: x.scales[r..].as_ptr(),
                        w: panels[place.row(first + c).0..].as_ptr(),
                        w_row: 2 * cols,
                        scale: scale[first + c..].as_ptr(),
                        y: y.at((x.first + r) * self.matrix.n + first + c),
                        y_row: self.matrix.n,
                        add: self.accumulate,
                    };
                    // SAFETY: codes, panels and y have the lengths of this product; outputs are padded to whole
                    // vectors, and tasks write different parts of y.
                    unsafe { tile::run(self.shape, &t) };
                }
            }
        }
    }
}

/// Calls `f` with memory for the codes of `rows` rows and their scales.
fn rounded(rows: usize, k: usize, f: impl FnOnce(&mut [i16], &mut [f32])) {
    scratch::with(rows * k.div_ceil(2), |codes| {
        scratch::with(rows, |scales| f(bytemuck::cast_slice_mut(codes), scales))
    });
}
