//! The register tile: y[M, cols] (+)= (sum_k q_x q_w) s_x s_w, sums of pairs of products in 32-bit lanes.
//!
//! Two terms of a sum are one step: a pair of i16 activations in every lane times pairs of weights, [`Lanes::dot`]. Four rows
//! by four vectors with AVX-512 and by two elsewhere: more rows were slower on Zen 4 (6 x 4 at 0.77 of 4 x 4), and sixteen
//! sums are enough to hide a step's latency.
//!
//! AVX-512 has the step in one instruction where the machine knows VNNI (`vpdpwssd`), in two elsewhere: the same sums.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use super::lanes::{I4, Lanes};
use crate::gemm::tile::prefetch;
use crate::simd::{Level, level};

/// Rows of a tile.
pub const ROWS: usize = 4;

/// One product of at most [`ROWS`] rows and [`Shape::cols`] outputs.
#[derive(Clone, Copy)]
pub struct Tile {
    pub rows: usize,
    pub cols: usize,
    /// pairs of terms
    pub pairs: usize,
    /// activations, rows 2 `pairs` apart
    pub x: *const i16,
    /// of the rows
    pub scales: *const f32,
    /// pairs of weights, readable to a multiple of a vector
    pub w: *const i8,
    /// codes between steps
    pub w_row: usize,
    /// of the outputs, readable to a multiple of a vector
    pub scale: *const f32,
    pub y: *mut f32,
    pub y_row: usize,
    /// add to y, else overwrite
    pub add: bool,
}

/// The tile of an instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub level: Level,
    /// a step is one instruction
    pub vnni: bool,
    pub cols: usize,
}

pub const V4: Shape = Shape { level: Level::V4, vnni: false, cols: 64 };
pub const V3: Shape = Shape { level: Level::V3, vnni: false, cols: 16 };
pub const BASE: Shape = Shape { level: Level::Base, vnni: false, cols: 8 };

/// The tile of the instruction set in use.
pub fn shape() -> Shape {
    match level() {
        Level::V4 => Shape { vnni: vnni(), ..V4 },
        Level::V3 => V3,
        Level::Base => BASE,
    }
}

/// Whether the machine has AVX-512 VNNI.
pub fn vnni() -> bool {
    static KNOWN: AtomicU8 = AtomicU8::new(0);
    match KNOWN.load(Relaxed) {
        0 => {
            #[cfg(target_arch = "x86_64")]
            let has = is_x86_feature_detected!("avx512vnni");
            #[cfg(not(target_arch = "x86_64"))]
            let has = false;
            KNOWN.store(1 + u8::from(has), Relaxed);
            has
        }
        known => known == 2,
    }
}

/// Every tile this machine can run.
#[cfg(test)]
pub fn shapes() -> Vec<Shape> {
    let best = crate::simd::best();
    let all = [BASE, V3, V4, Shape { vnni: true, ..V4 }];
    all.into_iter().filter(|s| s.level <= best && (!s.vnni || vnni())).collect()
}

#[inline(always)]
unsafe fn tile<L: Lanes, const M: usize, const V: usize>(t: &Tile) {
    unsafe {
        let mut acc = [[L::zero(); V]; M];
        let mut rows = [t.x; M];
        for r in 0..M {
            rows[r] = t.x.add(r * 2 * t.pairs);
        }
        // y is often in no cache, and its loads or stores would stall
        for r in 0..M {
            for at in (0..t.cols).step_by(16) {
                prefetch(t.y.wrapping_add(r * t.y_row + at));
            }
        }
        let mut w = t.w;
        for p in 0..t.pairs {
            let mut b = [L::zero(); V];
            for v in 0..V {
                b[v] = L::codes(w.add(v * 2 * L::N));
            }
            for r in 0..M {
                let a = L::pair(rows[r].add(2 * p));
                for v in 0..V {
                    acc[r][v] = acc[r][v].dot(a, b[v]);
                }
            }
            w = w.add(t.w_row);
        }
        let last = t.cols - (V - 1) * L::N;
        for r in 0..M {
            let scale = *t.scales.add(r);
            for v in 0..V {
                let n = if v + 1 < V { L::N } else { last };
                acc[r][v].finish(scale, t.scale.add(v * L::N), t.y.add(r * t.y_row + v * L::N), n, t.add);
            }
        }
    }
}

/// Rows of a tile, four or one by one.
macro_rules! heights {
    ($t:ident, $f:ident, $v:literal) => {{
        let mut t = *$t;
        if t.rows == ROWS {
            $f::<ROWS, $v>(&t);
        } else {
            if t.rows >= 2 {
                $f::<2, $v>(&t);
                t.x = t.x.add(2 * 2 * t.pairs);
                t.scales = t.scales.add(2);
                t.y = t.y.add(2 * t.y_row);
                t.rows -= 2;
            }
            if t.rows == 1 {
                $f::<1, $v>(&t);
            }
        }
    }};
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::*;
    use crate::quant::lanes::{I8, I16, Vnni};

    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,avx512vnni")]
    unsafe fn fused<const M: usize, const V: usize>(t: &Tile) {
        unsafe { tile::<Vnni, M, V>(t) }
    }
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2")]
    unsafe fn wide<const M: usize, const V: usize>(t: &Tile) {
        unsafe { tile::<I16, M, V>(t) }
    }
    #[target_feature(enable = "avx2")]
    unsafe fn half<const M: usize, const V: usize>(t: &Tile) {
        unsafe { tile::<I8, M, V>(t) }
    }
    pub unsafe fn v4(t: &Tile, vnni: bool) {
        unsafe {
            match (vnni, t.cols.div_ceil(16)) {
                (true, 4) => heights!(t, fused, 4),
                (true, 3) => heights!(t, fused, 3),
                (true, 2) => heights!(t, fused, 2),
                (true, _) => heights!(t, fused, 1),
                (false, 4) => heights!(t, wide, 4),
                (false, 3) => heights!(t, wide, 3),
                (false, 2) => heights!(t, wide, 2),
                (false, _) => heights!(t, wide, 1),
            }
        }
    }
    pub unsafe fn v3(t: &Tile) {
        unsafe { if t.cols > 8 { heights!(t, half, 2) } else { heights!(t, half, 1) } }
    }
}

unsafe fn four<const M: usize, const V: usize>(t: &Tile) {
    unsafe { tile::<I4, M, V>(t) }
}

/// Computes a tile.
///
/// # Safety
/// All that [`Tile`] points at must be readable or writable as it says, `shape` is of this machine.
pub unsafe fn run(shape: Shape, t: &Tile) {
    debug_assert!(t.cols <= shape.cols && t.rows <= ROWS && t.rows > 0 && t.cols > 0);
    unsafe {
        match shape.level {
            #[cfg(target_arch = "x86_64")]
            Level::V4 => x86::v4(t, shape.vnni),
            #[cfg(target_arch = "x86_64")]
            Level::V3 => x86::v3(t),
            _ => {
                if t.cols > 4 {
                    heights!(t, four, 2)
                } else {
                    heights!(t, four, 1)
                }
            }
        }
    }
}
