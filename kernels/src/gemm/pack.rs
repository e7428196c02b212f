//! Copies between a matrix and the panels a tile reads: whole vectors, the missing columns zero.

use super::Mat;
use super::lanes::{F4, Lanes};
use crate::simd::Level;

/// to[j * to_row + i] = from[i * from_row + j] for i < rows, j < cols, in square blocks of a vector's length.
#[inline(always)]
unsafe fn transpose_with<F: Lanes>(
    from: *const f32,
    from_row: usize,
    rows: usize,
    cols: usize,
    to: *mut f32,
    to_row: usize,
) {
    unsafe {
        let (whole_rows, whole_cols) = (rows / F::N * F::N, cols / F::N * F::N);
        for i in (0..whole_rows).step_by(F::N) {
            for j in (0..whole_cols).step_by(F::N) {
                F::transpose(from.add(i * from_row + j), from_row, to.add(j * to_row + i), to_row);
            }
        }
        for i in 0..rows {
            let first = if i < whole_rows { whole_cols } else { 0 };
            for j in first..cols {
                *to.add(j * to_row + i) = *from.add(i * from_row + j);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
unsafe fn v4(from: *const f32, from_row: usize, rows: usize, cols: usize, to: *mut f32, to_row: usize) {
    unsafe { transpose_with::<super::lanes::F16>(from, from_row, rows, cols, to, to_row) }
}
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn v3(from: *const f32, from_row: usize, rows: usize, cols: usize, to: *mut f32, to_row: usize) {
    unsafe { transpose_with::<super::lanes::F8>(from, from_row, rows, cols, to, to_row) }
}

/// to[cols, rows] = from[rows, cols] transposed.
///
/// # Safety
/// Rows of `from`, `from_row` apart, are readable, rows of `to`, `to_row` apart, writable; the machine has `level`.
pub unsafe fn transpose(
    level: Level,
    from: *const f32,
    from_row: usize,
    rows: usize,
    cols: usize,
    to: *mut f32,
    to_row: usize,
) {
    unsafe {
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::V4 => v4(from, from_row, rows, cols, to, to_row),
            #[cfg(target_arch = "x86_64")]
            Level::V3 => v3(from, from_row, rows, cols, to, to_row),
            _ => transpose_with::<F4>(from, from_row, rows, cols, to, to_row),
        }
    }
}

/// Rows p .. p + k and columns j .. j + cols of b to a panel [k, to_row]; columns cols .. padded are zero.
pub fn panel(
    level: Level,
    b: Mat,
    (p, k): (usize, usize),
    (j, cols): (usize, usize),
    padded: usize,
    to: &mut [f32],
    to_row: usize,
) {
    if k == 0 || cols == 0 {
        return;
    }
    assert!(padded <= to_row && (k - 1) * to_row + padded <= to.len(), "panel: short");
    assert!((p + k - 1) * b.row + (j + cols - 1) * b.col < b.data.len(), "panel: outside b");
    let at = p * b.row + j * b.col;
    if b.col == 1 {
        for q in 0..k {
            let to = &mut to[q * to_row..][..padded];
            let from = &b.data[at + q * b.row..][..cols];
            // a length the compiler knows needs no call
            match (cols, padded) {
                (64, 64) => to[..64].copy_from_slice(&from[..64]),
                (16, 16) => to[..16].copy_from_slice(&from[..16]),
                (8, 8) => to[..8].copy_from_slice(&from[..8]),
                _ => {
                    to[..cols].copy_from_slice(from);
                    to[cols..].fill(0.0);
                }
            }
        }
        return;
    }
    if b.row == 1 {
        // SAFETY: both ranges were checked above.
        unsafe { transpose(level, b.data[at..].as_ptr(), b.col, cols, k, to.as_mut_ptr(), to_row) };
    } else {
        for q in 0..k {
            for c in 0..cols {
                to[q * to_row + c] = b.data[at + q * b.row + c * b.col];
            }
        }
    }
    if padded > cols {
        for q in 0..k {
            to[q * to_row + cols..][..padded - cols].fill(0.0);
        }
    }
}

/// Rows i .. i + rows of a (columns p .. p + k) to micro-panels [rows / height][k][height], for matrices whose rows are
/// not contiguous. The last panel's missing rows are not written.
pub fn columns(a: Mat, (i, rows): (usize, usize), (p, k): (usize, usize), height: usize, to: &mut [f32]) {
    for q in 0..k {
        let at = (p + q) * a.col + i * a.row;
        // rows often lie a page apart, where no hardware looks ahead
        for line in (0..rows).step_by(16) {
            super::tile::prefetch(a.data.as_ptr().wrapping_add(at + 16 * a.col + line));
        }
        for (g, r) in (0..rows).step_by(height).enumerate() {
            let h = height.min(rows - r);
            let to = &mut to[(g * k + q) * height..][..h];
            if a.row == 1 {
                let from = &a.data[at + r..][..h];
                if h == 6 {
                    to[..6].copy_from_slice(&from[..6]);
                } else {
                    to.copy_from_slice(from);
                }
            } else {
                for (s, to) in to.iter_mut().enumerate() {
                    *to = a.data[at + (r + s) * a.row];
                }
            }
        }
    }
}

/// c[i, j0 + j] (+)= t[j, i]: a block that was computed transposed, t [cols, t_row] with `rows` used, to rows of c.
///
/// # Safety
/// Rows of c, `c_row` apart, hold `cols` floats at `c` each.
pub unsafe fn untranspose(
    level: Level,
    t: &[f32],
    t_row: usize,
    (rows, cols): (usize, usize),
    c: *mut f32,
    c_row: usize,
    add: bool,
) {
    if rows == 0 || cols == 0 {
        return;
    }
    assert!((cols - 1) * t_row + rows <= t.len(), "untranspose: short");
    if !add {
        unsafe { transpose(level, t.as_ptr(), t_row, cols, rows, c, c_row) };
        return;
    }
    // sixteen rows of c at a time through a buffer that stays in the first-level cache
    const ROWS: usize = 16;
    let mut buffer = [0f32; ROWS * super::GROUP];
    assert!(cols <= super::GROUP);
    for i in (0..rows).step_by(ROWS) {
        let n = ROWS.min(rows - i);
        // SAFETY: n rows of `cols` floats fit the buffer; t was checked above.
        unsafe { transpose(level, t[i..].as_ptr(), t_row, cols, n, buffer.as_mut_ptr(), super::GROUP) };
        for r in 0..n {
            // SAFETY: the caller vouches for the rows of c.
            let c = unsafe { std::slice::from_raw_parts_mut(c.add((i + r) * c_row), cols) };
            for (c, x) in c.iter_mut().zip(&buffer[r * super::GROUP..][..cols]) {
                *c += x;
            }
        }
    }
}
