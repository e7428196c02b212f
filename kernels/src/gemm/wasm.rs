//! Matrix product for WASM, one thread, nothing of b packed.
//!
//! c^T = b^T a^T in tiles of 4 columns of c by 8 rows of c: rows of a are packed once as panels [k][8] (the vector
//! operand), columns of b (rows of a linear layer's weight) are read in place and splat. A tile holds 8 of the 16
//! registers of an x86-64 engine as accumulators and is transposed when it is stored. Weights are much larger than
//! activations here, so packing them on every call cost more than the transposition does.
//! With `-C target-feature=+relaxed-simd` multiplication and addition fuse.

use super::Mat;

/// Columns of c in a tile.
const COLS: usize = 4;
/// Rows of c in a full panel: two vectors.
const ROWS: usize = 8;
/// Values of b in a block of columns: 128 KB.
const BLOCK: usize = 1 << 15;

/// Four floats: a v128 in WASM, an array elsewhere so that the same code is tested natively.
#[derive(Clone, Copy)]
struct F4(lanes::F);

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod lanes {
    use core::arch::wasm32::*;

    pub type F = v128;

    impl super::F4 {
        pub const ZERO: Self = super::F4(f32x4(0.0, 0.0, 0.0, 0.0));
        /// # Safety
        /// Four floats are readable at `p`.
        #[inline(always)]
        pub unsafe fn load(p: *const f32) -> Self {
            super::F4(unsafe { v128_load(p as *const v128) })
        }
        /// # Safety
        /// One float is readable at `p`.
        #[inline(always)]
        pub unsafe fn splat(p: *const f32) -> Self {
            super::F4(unsafe { v128_load32_splat(p as *const u32) })
        }
        /// # Safety
        /// Four floats are writable at `p`.
        #[inline(always)]
        pub unsafe fn store(self, p: *mut f32) {
            unsafe { v128_store(p as *mut v128, self.0) }
        }
        #[inline(always)]
        pub fn add(self, o: Self) -> Self {
            super::F4(f32x4_add(self.0, o.0))
        }
        /// self + a b
        #[inline(always)]
        pub fn madd(self, a: Self, b: Self) -> Self {
            #[cfg(target_feature = "relaxed-simd")]
            return super::F4(f32x4_relaxed_madd(a.0, b.0, self.0));
            #[cfg(not(target_feature = "relaxed-simd"))]
            super::F4(f32x4_add(self.0, f32x4_mul(a.0, b.0)))
        }
        /// Rows of a 4 x 4 block to its columns.
        #[inline(always)]
        pub fn transpose(r: [Self; 4]) -> [Self; 4] {
            let (a, b) =
                (i32x4_shuffle::<0, 4, 1, 5>(r[0].0, r[1].0), i32x4_shuffle::<2, 6, 3, 7>(r[0].0, r[1].0));
            let (c, d) =
                (i32x4_shuffle::<0, 4, 1, 5>(r[2].0, r[3].0), i32x4_shuffle::<2, 6, 3, 7>(r[2].0, r[3].0));
            [
                super::F4(i64x2_shuffle::<0, 2>(a, c)),
                super::F4(i64x2_shuffle::<1, 3>(a, c)),
                super::F4(i64x2_shuffle::<0, 2>(b, d)),
                super::F4(i64x2_shuffle::<1, 3>(b, d)),
            ]
        }
    }
}

#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
mod lanes {
    pub type F = [f32; 4];

    impl super::F4 {
        pub const ZERO: Self = super::F4([0.0; 4]);
        /// # Safety
        /// Four floats are readable at `p`.
        #[inline(always)]
        pub unsafe fn load(p: *const f32) -> Self {
            super::F4(unsafe { (p as *const F).read_unaligned() })
        }
        /// # Safety
        /// One float is readable at `p`.
        #[inline(always)]
        pub unsafe fn splat(p: *const f32) -> Self {
            super::F4([unsafe { *p }; 4])
        }
        /// # Safety
        /// Four floats are writable at `p`.
        #[inline(always)]
        pub unsafe fn store(self, p: *mut f32) {
            unsafe { (p as *mut F).write_unaligned(self.0) }
        }
        #[inline(always)]
        pub fn add(self, o: Self) -> Self {
            super::F4(std::array::from_fn(|i| self.0[i] + o.0[i]))
        }
        /// self + a b
        #[inline(always)]
        pub fn madd(self, a: Self, b: Self) -> Self {
            super::F4(std::array::from_fn(|i| self.0[i] + a.0[i] * b.0[i]))
        }
        /// Rows of a 4 x 4 block to its columns.
        #[inline(always)]
        pub fn transpose(r: [Self; 4]) -> [Self; 4] {
            std::array::from_fn(|i| super::F4(std::array::from_fn(|j| r[j].0[i])))
        }
    }
}

/// acc[r][v] = sum over p of b[p][column r] * panel[p][4 v ..], `step` floats between the rows of b.
///
/// # Safety
/// `panel` holds [k][4 V] floats; every column pointer is readable at 0, step, .. (k - 1) step.
#[inline(always)]
unsafe fn tile<const V: usize, const UNIT: bool>(
    panel: *const f32,
    columns: [*const f32; COLS],
    k: usize,
    step: usize,
) -> [[F4; V]; COLS] {
    let mut acc = [[F4::ZERO; V]; COLS];
    let one = |acc: &mut [[F4; V]; COLS], p: usize| unsafe {
        let x: [F4; V] = std::array::from_fn(|v| F4::load(panel.add((p * V + v) * 4)));
        for r in 0..COLS {
            let w = F4::splat(columns[r].add(if UNIT { p } else { p * step }));
            for v in 0..V {
                acc[r][v] = acc[r][v].madd(w, x[v]);
            }
        }
    };
    let mut p = 0;
    while p + 4 <= k {
        one(&mut acc, p);
        one(&mut acc, p + 1);
        one(&mut acc, p + 2);
        one(&mut acc, p + 3);
        p += 4;
    }
    while p < k {
        one(&mut acc, p);
        p += 1;
    }
    acc
}

/// Where a panel's results go: rows `row ..` of c, of which `rows` exist.
struct Target<'a> {
    c: &'a mut [f32],
    c_row: usize,
    row: usize,
    rows: usize,
    accumulate: bool,
}

/// Columns `from..to` of c for one panel of 4 V rows.
fn sweep<const V: usize>(panel: &[f32], b: Mat, from: usize, to: usize, k: usize, out: &mut Target) {
    assert!(panel.len() >= k * 4 * V && (k - 1) * b.row + (to - 1) * b.col < b.data.len());
    for j in (from..to).step_by(COLS) {
        let columns = std::array::from_fn(|r| b.data[(j + r).min(to - 1) * b.col..].as_ptr());
        // SAFETY: the panel and the last element of the last column were checked above.
        let acc = unsafe {
            if b.row == 1 {
                tile::<V, true>(panel.as_ptr(), columns, k, 1)
            } else {
                tile::<V, false>(panel.as_ptr(), columns, k, b.row)
            }
        };
        let nj = COLS.min(to - j);
        for v in 0..V {
            let block = F4::transpose(std::array::from_fn(|r| acc[r][v]));
            for (i, x) in block.iter().enumerate().take(out.rows.saturating_sub(4 * v)) {
                let at = (out.row + 4 * v + i) * out.c_row + j;
                let c = &mut out.c[at..at + nj];
                // SAFETY: `c` holds four floats where four are stored, `full` always does.
                unsafe {
                    if nj == COLS {
                        let y = if out.accumulate { F4::load(c.as_ptr()).add(*x) } else { *x };
                        y.store(c.as_mut_ptr());
                        continue;
                    }
                    let mut full = [0f32; COLS];
                    x.store(full.as_mut_ptr());
                    for (c, x) in c.iter_mut().zip(full) {
                        *c = if out.accumulate { *c + x } else { x };
                    }
                }
            }
        }
    }
}

/// c[m, n] (rows `c_row` apart) = (accumulate ? c : 0) + alpha a b; m, n and k are not zero.
#[allow(clippy::too_many_arguments)]
pub fn gemm(
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
    let mut panels = vec![0f32; k * m.next_multiple_of(4)];
    let size = |row: usize| if m - row > 4 { ROWS } else { 4 };
    for row in (0..m).step_by(ROWS) {
        let wide = size(row);
        let panel = &mut panels[row * k..][..wide * k];
        for i in 0..wide.min(m - row) {
            let base = (row + i) * a.row;
            for p in 0..k {
                panel[p * wide + i] = alpha * a.data[base + p * a.col];
            }
        }
    }
    // a block of columns stays in the second-level cache while all panels pass
    let block = (BLOCK / k).next_multiple_of(COLS).max(COLS);
    for from in (0..n).step_by(block) {
        let to = n.min(from + block);
        for row in (0..m).step_by(ROWS) {
            let wide = size(row);
            let panel = &panels[row * k..][..wide * k];
            let mut out = Target { c, c_row, row, rows: wide.min(m - row), accumulate };
            if wide == ROWS {
                sweep::<2>(panel, b, from, to, k, &mut out)
            } else {
                sweep::<1>(panel, b, from, to, k, &mut out)
            }
        }
    }
}
