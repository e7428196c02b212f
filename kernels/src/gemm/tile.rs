//! The register tile: c[M, V N] (+)= a[M, k] b[k, V N], accumulators in registers, one fused multiply-add per value.
//!
//! Rows of b are vectors, values of a are broadcast from where they stand: either rows of a lie apart and their values
//! together ([`Side::Rows`]: activations, weights [out, in]), or the other way round ([`Side::Columns`]). AVX-512 holds
//! 6 x 64 values, AVX2 6 x 16, four lanes 4 x 8: as many accumulators as leave registers for b and a.
//!
//! Every value of c is one chain of additions over k in order, whatever the tile it falls in: its bits do not depend on
//! how many rows or columns a call has.

use super::lanes::{F4, Lanes};
use crate::simd::{Level, level};

/// How a lies in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// row i at `a + i * a_step`, unit steps along k
    Rows,
    /// value (i, p) at `a + p * a_step + i`
    Columns,
}

/// One product of at most [`Shape::cols`] columns. Rows of b may be read to the next multiple of the vector.
#[derive(Clone, Copy)]
pub struct Tile {
    pub rows: usize,
    pub cols: usize,
    pub k: usize,
    pub a: *const f32,
    pub a_step: usize,
    pub b: *const f32,
    /// floats between rows of b
    pub b_row: usize,
    pub c: *mut f32,
    pub c_row: usize,
    /// add to c, else overwrite
    pub add: bool,
    /// what to ask the memory for meanwhile: `lines` cache lines from here on in every four terms of the sum; any address
    pub ahead: *const f32,
    pub lines: usize,
}

/// The largest tile of an instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub level: Level,
    pub rows: usize,
    pub cols: usize,
    /// floats in a vector
    pub lanes: usize,
}

const V4: Shape = Shape { level: Level::V4, rows: 6, cols: 64, lanes: 16 };
const V3: Shape = Shape { level: Level::V3, rows: 6, cols: 16, lanes: 8 };
const BASE: Shape = Shape { level: Level::Base, rows: 4, cols: 8, lanes: 4 };

/// The tile of the instruction set in use.
pub fn shape() -> Shape {
    match level() {
        Level::V4 => V4,
        Level::V3 => V3,
        Level::Base => BASE,
    }
}

/// The tile for products of `cols` columns: few of them fill half a vector better than a whole one.
pub fn shape_for(cols: usize) -> Shape {
    match shape() {
        Shape { level: Level::V4, .. } if cols <= V3.lanes => V3,
        shape => shape,
    }
}

/// Every tile this machine can run.
#[cfg(test)]
pub fn shapes() -> Vec<Shape> {
    let best = crate::simd::best();
    [BASE, V3, V4].into_iter().filter(|s| s.level <= best).collect()
}

/// acc += a[.., p] b[p, ..] for one p: `rows` point at column p's values (one pointer if they stand together).
#[inline(always)]
unsafe fn step<F: Lanes, const M: usize, const V: usize, const ROWS: bool>(
    acc: &mut [[F; V]; M],
    rows: &[*const f32; M],
    at: usize,
    b: *const f32,
) {
    unsafe {
        let mut x = [F::zero(); V];
        for v in 0..V {
            x[v] = F::load(b.add(v * F::N));
        }
        for r in 0..M {
            let w = F::splat(if ROWS { rows[r].add(at) } else { rows[0].add(at + r) });
            for v in 0..V {
                acc[r][v] = acc[r][v].madd(w, x[v]);
            }
        }
    }
}

/// Asks for the cache line of `p`, which need not be readable.
#[inline(always)]
pub fn prefetch(p: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing and every x86-64 has it.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p as *const i8)
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

#[inline(always)]
unsafe fn tile<F: Lanes, const M: usize, const V: usize, const ROWS: bool>(t: &Tile) {
    unsafe {
        let mut acc = [[F::zero(); V]; M];
        let mut rows = [t.a; M];
        for r in 0..M {
            rows[r] = t.a.add(if ROWS { r * t.a_step } else { r });
        }
        // c is often in no cache, and its loads or stores would stall
        for r in 0..M {
            for at in (0..t.cols).step_by(16) {
                prefetch(t.c.wrapping_add(r * t.c_row + at));
            }
        }
        let (mut b, mut p, mut ahead) = (t.b, 0, t.ahead);
        let unit = if ROWS { 1 } else { t.a_step };
        // not in WASM: the compiler would load four steps' values before it uses any, and the browser keep them in memory
        while cfg!(not(target_arch = "wasm32")) && p + 4 <= t.k {
            step::<F, M, V, ROWS>(&mut acc, &rows, p * unit, b);
            step::<F, M, V, ROWS>(&mut acc, &rows, (p + 1) * unit, b.add(t.b_row));
            step::<F, M, V, ROWS>(&mut acc, &rows, (p + 2) * unit, b.add(2 * t.b_row));
            step::<F, M, V, ROWS>(&mut acc, &rows, (p + 3) * unit, b.add(3 * t.b_row));
            b = b.add(4 * t.b_row);
            p += 4;
            for _ in 0..t.lines {
                prefetch(ahead);
                ahead = ahead.wrapping_add(16);
            }
        }
        while p < t.k {
            step::<F, M, V, ROWS>(&mut acc, &rows, p * unit, b);
            b = b.add(t.b_row);
            p += 1;
        }
        let last = t.cols - (V - 1) * F::N;
        for r in 0..M {
            for v in 0..V {
                let c = t.c.add(r * t.c_row + v * F::N);
                let x = acc[r][v];
                if v + 1 < V || last == F::N {
                    (if t.add { F::load(c).add(x) } else { x }).store(c);
                } else {
                    (if t.add { F::load_part(c, last).add(x) } else { x }).store_part(c, last);
                }
            }
        }
    }
}

/// Rows of a tile from the largest size to one.
macro_rules! heights {
    ($t:ident, $f:ident, $v:literal, $rows:literal, [$($m:literal),*]) => {{
        let mut t = *$t;
        $(
            while t.rows >= $m {
                $f::<$m, $v, $rows>(&t);
                t.a = t.a.add($m * if $rows { t.a_step } else { 1 });
                t.c = t.c.add($m * t.c_row);
                t.rows -= $m;
            }
        )*
    }};
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::*;
    use crate::gemm::lanes::{F8, F16};

    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
    unsafe fn wide<const M: usize, const V: usize, const ROWS: bool>(t: &Tile) {
        unsafe { tile::<F16, M, V, ROWS>(t) }
    }
    #[target_feature(enable = "avx2,fma")]
    unsafe fn half<const M: usize, const V: usize, const ROWS: bool>(t: &Tile) {
        unsafe { tile::<F8, M, V, ROWS>(t) }
    }
    pub unsafe fn v4(t: &Tile, side: Side) {
        unsafe {
            match (side, t.cols.div_ceil(16)) {
                (Side::Rows, 4) => heights!(t, wide, 4, true, [6, 4, 2, 1]),
                (Side::Rows, 3) => heights!(t, wide, 3, true, [6, 4, 2, 1]),
                (Side::Rows, 2) => heights!(t, wide, 2, true, [12, 8, 6, 4, 2, 1]),
                (Side::Rows, _) => heights!(t, wide, 1, true, [12, 6, 4, 2, 1]),
                (Side::Columns, 4) => heights!(t, wide, 4, false, [6, 4, 2, 1]),
                (Side::Columns, 3) => heights!(t, wide, 3, false, [6, 4, 2, 1]),
                (Side::Columns, 2) => heights!(t, wide, 2, false, [6, 4, 2, 1]),
                (Side::Columns, _) => heights!(t, wide, 1, false, [12, 6, 4, 2, 1]),
            }
        }
    }
    pub unsafe fn v3(t: &Tile, side: Side) {
        unsafe {
            match (side, t.cols.div_ceil(8)) {
                (Side::Rows, 2) => heights!(t, half, 2, true, [6, 4, 2, 1]),
                (Side::Rows, _) => heights!(t, half, 1, true, [12, 6, 4, 2, 1]),
                (Side::Columns, 2) => heights!(t, half, 2, false, [6, 4, 2, 1]),
                (Side::Columns, _) => heights!(t, half, 1, false, [12, 6, 4, 2, 1]),
            }
        }
    }
}

unsafe fn four<const M: usize, const V: usize, const ROWS: bool>(t: &Tile) {
    unsafe { tile::<F4, M, V, ROWS>(t) }
}
unsafe fn base(t: &Tile, side: Side) {
    unsafe {
        match (side, t.cols.div_ceil(4)) {
            (Side::Rows, 2) => heights!(t, four, 2, true, [4, 2, 1]),
            (Side::Rows, _) => heights!(t, four, 1, true, [4, 2, 1]),
            (Side::Columns, 2) => heights!(t, four, 2, false, [4, 2, 1]),
            (Side::Columns, _) => heights!(t, four, 1, false, [4, 2, 1]),
        }
    }
}

/// Computes a tile of any number of rows and up to `shape.cols` columns.
///
/// # Safety
/// All of a, b (columns rounded up to a vector) and c as described must be readable or writable, `shape` is of this
/// machine.
pub unsafe fn run(shape: Shape, t: &Tile, side: Side) {
    debug_assert!(t.cols <= shape.cols);
    if t.rows == 0 || t.cols == 0 {
        return;
    }
    unsafe {
        match shape.level {
            #[cfg(target_arch = "x86_64")]
            Level::V4 => x86::v4(t, side),
            #[cfg(target_arch = "x86_64")]
            Level::V3 => x86::v3(t, side),
            _ => base(t, side),
        }
    }
}

/// c[rows, cols] (+)= a b for any number of columns: b is [k, cols] with rows `b_row` apart, readable to the next
/// multiple of a vector.
///
/// # Safety
/// As [`run`].
pub unsafe fn wide(shape: Shape, t: &Tile, side: Side) {
    let mut j = 0;
    while j < t.cols {
        let cols = shape.cols.min(t.cols - j);
        // SAFETY: columns j .. j + cols of the same product.
        unsafe { run(shape, &Tile { cols, b: t.b.add(j), c: t.c.add(j), ..*t }, side) };
        j += cols;
    }
}
