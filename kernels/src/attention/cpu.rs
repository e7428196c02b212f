//! CPU attention on register tiles, transposed: S^T = K Q^T and O^T = V^T P^T.
//!
//! Queries are the lanes: keys and values are read where they stand, the softmax needs no sum across a vector, and the
//! probabilities are already the right operand of the second product. One task is a query tile of one head; keys come in
//! tiles of 64 with an online softmax, so a task needs 64 x (64 + 2 head_dim) values whatever the length. What a query
//! yields depends on its own keys alone: a tile that shows it nothing multiplies by one and adds zero.

use super::softmax::{Running, absorb, scale};
use super::tiles::{QueryTile, TILE, Tiles};
use crate::backend::AttentionShape;
use crate::gemm::tile::{self, Shape, Side, Tile};
use crate::gemm::{pack, scratch};
use crate::par;
use crate::simd::LANES;

/// Minus infinity where the rule forbids: z is [keys, wide], `bits` one u64 of keys a query.
pub(super) fn forbid(z: &mut [f32], wide: usize, keys: usize, bits: &[u64]) {
    let all = if keys == 64 { u64::MAX } else { (1 << keys) - 1 };
    for (r, bits) in bits.iter().enumerate() {
        let mut dead = !bits & all;
        while dead != 0 {
            z[dead.trailing_zeros() as usize * wide + r] = f32::NEG_INFINITY;
            dead &= dead - 1;
        }
    }
}

/// Calls `f(first key, keys, bits)` for every live key tile in order.
pub(super) fn key_tiles<'a>(tile: &'a QueryTile, mut f: impl FnMut(usize, usize, Option<&'a [u64]>)) {
    let (mut col, mut partial) = (0, tile.partial.iter().peekable());
    for run in &tile.runs {
        for at in (0..run.len).step_by(TILE) {
            let keys = TILE.min(run.len - at);
            let bits = partial.next_if(|(c, ..)| *c == col).map(|(_, _, bits)| &bits[..]);
            f(run.start + at, keys, bits);
            col += keys;
        }
    }
}

/// Rows [rows, cols] of `from` to columns [cols, wide], missing lanes zero.
pub(super) fn to_lanes(
    shape: Shape,
    from: &[f32],
    stride: usize,
    (rows, cols): (usize, usize),
    to: &mut [f32],
    wide: usize,
) {
    assert!((rows - 1) * stride + cols <= from.len() && cols * wide <= to.len(), "to_lanes: short");
    // SAFETY: checked above; rows <= wide.
    unsafe { pack::transpose(shape.level, from.as_ptr(), stride, rows, cols, to.as_mut_ptr(), wide) };
    for row in to.chunks_exact_mut(wide).take(cols) {
        row[rows..].fill(0.0);
    }
}

pub(super) fn check(tiles: &Tiles, s: &AttentionShape, q: usize, kv: usize) {
    let (mask, want) = ([tiles.q_len, tiles.k_len], [s.q_len, s.k_len]);
    assert_eq!(mask, want, "attention: the mask is of another shape [q_len, k_len]");
    assert!(s.heads % s.kv_heads == 0, "attention: {} heads over {} kv heads", s.heads, s.kv_heads);
    let end = |rows: usize, stride: usize, col: usize| if rows == 0 { 0 } else { (rows - 1) * stride + col };
    let queries = if s.batch * s.q_len == 0 { 0 } else { s.row + s.batch * s.q_len };
    let need_q = end(queries, s.q_stride, s.q_col + s.heads * s.head_dim);
    let need_kv = end(s.batch * s.k_len, s.kv_stride, s.k_col.max(s.v_col) + s.kv_heads * s.head_dim);
    assert!(q >= need_q && kv >= need_kv, "attention: {q} and {kv} values, needs {need_q} and {need_kv}");
}

/// out [batch * q_len, heads * head_dim], lse [batch * q_len, heads], both from row `s.row` on. A query that may see nothing yields zeros.
pub fn attention(q: &[f32], kv: &[f32], tiles: &Tiles, out: &mut [f32], lse: &mut [f32], s: AttentionShape) {
    if s.batch * s.q_len == 0 {
        return;
    }
    check(tiles, &s, q.len(), kv.len());
    let width = s.heads * s.head_dim;
    assert!(
        out.len() >= (s.row + s.batch * s.q_len) * width
            && lse.len() >= (s.row + s.batch * s.q_len) * s.heads,
        "attention: short out"
    );
    let (out, lse) = (par::Shared::new(out), par::Shared::new(lse));
    let n_tiles = s.q_len.div_ceil(TILE);
    let tasks = s.batch * s.heads * n_tiles;
    let one = |task: usize| {
        let (b, h, t) = (task / (s.heads * n_tiles), task / n_tiles % s.heads, task % n_tiles);
        query_tile(q, kv, &tiles.of(b)[t], (b, h, t), &out, &lse, &s);
    };
    if tiles.pairs(s.batch) as usize * width < 1 << 16 {
        (0..tasks).for_each(one)
    } else {
        par::each(tasks, one)
    }
}

fn query_tile(
    q: &[f32],
    kv: &[f32],
    tile: &QueryTile,
    (b, h, t): (usize, usize, usize),
    out: &par::Shared,
    lse: &par::Shared,
    s: &AttentionShape,
) {
    let (shape, hd, width) = (tile::shape(), s.head_dim, s.heads * s.head_dim);
    let kh = h / (s.heads / s.kv_heads);
    let (q0, rows) = (s.row + b * s.q_len + t * TILE, TILE.min(s.q_len - t * TILE));
    let wide = rows.next_multiple_of(LANES);
    let base = b * s.k_len * s.kv_stride + kh * hd;
    let mut run = Running::new();
    scratch::with((TILE + 2 * hd) * wide, |memory| {
        let (qt, memory) = memory.split_at_mut(hd * wide);
        let (ot, z) = memory.split_at_mut(hd * wide);
        to_lanes(shape, &q[q0 * s.q_stride + s.q_col + h * hd..], s.q_stride, (rows, hd), qt, wide);
        qt.iter_mut().for_each(|x| *x *= s.scale);
        let mut first = true;
        key_tiles(tile, |start, keys, bits| {
            let z = &mut z[..keys * wide];
            let at = base + start * s.kv_stride;
            let scores = Tile {
                rows: keys,
                cols: wide,
                k: hd,
                a: kv[at + s.k_col..].as_ptr(),
                a_step: s.kv_stride,
                b: qt.as_ptr(),
                b_row: wide,
                c: z.as_mut_ptr(),
                c_row: wide,
                add: false,
                ahead: std::ptr::null(),
                lines: 0,
            };
            // SAFETY: keys and values were checked; everything else is scratch of whole vectors.
            unsafe { tile::wide(shape, &scores, Side::Rows) };
            if let Some(bits) = bits {
                forbid(z, wide, keys, &bits[..rows]);
            }
            absorb(z, wide, &mut run);
            if !first && !run.steady(wide) {
                scale(ot, wide, &run.shrink);
            }
            let values = Tile {
                rows: hd,
                k: keys,
                a: kv[at + s.v_col..].as_ptr(),
                b: z.as_ptr(),
                c: ot.as_mut_ptr(),
                add: !first,
                ..scores
            };
            // SAFETY: as above.
            unsafe { tile::wide(shape, &values, Side::Columns) };
            first = false;
        });
        if first {
            ot.fill(0.0);
        }
        let mut inverse = [0f32; TILE];
        for r in 0..rows {
            let some = run.sum[r] > 0.0;
            inverse[r] = if some { 1.0 / run.sum[r] } else { 0.0 };
            // SAFETY: (row, head) belongs to this task alone.
            let l = unsafe { lse.range((q0 + r) * s.heads + h, 1) };
            l[0] = if some { run.top[r] + run.sum[r].ln() } else { f32::NEG_INFINITY };
        }
        scale(ot, wide, &inverse);
        // SAFETY: the rows' columns of this head belong to this task alone and lie in out (checked by the caller).
        unsafe {
            let to = out.at(q0 * width + h * hd);
            pack::transpose(shape.level, ot.as_ptr(), wide, hd, rows, to, width);
        }
    });
}
