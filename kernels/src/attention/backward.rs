//! The backward pass on register tiles, transposed as the forward pass is. Per head, query tile and key tile:
//!
//! ```text
//! S^T = K Qs^T             P^T = e^(S^T - lse)            Qs = scale Q
//! dP^T = V dO^T            dS^T = P^T o (dP^T - D)        D = rowsum(dO o O)
//! dV += P^T dO             dK += dS^T Qs                  dQ^T += K^T dS^T, times scale at the end
//! ```
//!
//! dK and dV grow in place in the gradient's own rows, whose columns of a kv head belong to one task; dQ^T is a tile of
//! scratch. One task is a (sequence, kv head); beyond [`LONG`] keys it is a slice of the keys, each slice with its own
//! part of dQ, and the parts are added in order. How keys are sliced follows from the shape of a sequence alone, never
//! from threads or batch.

use super::cpu::{check, forbid, key_tiles, to_lanes};
use super::softmax::{add, dot, gradient, scale};
use super::tiles::{TILE, Tiles};
use crate::backend::AttentionShape;
use crate::gemm::tile::{self, Side, Tile};
use crate::gemm::{pack, scratch};
use crate::par;
use crate::simd::LANES;

/// Keys up to which a kv head is one task.
const LONG: usize = 1024;
/// Most slices of the keys of a long sequence.
const SLICES: usize = 8;
/// Parts of dQ of a long sequence together, values (8 MB), and per query of all heads 64 bytes more.
const PARTS: usize = 1 << 21;

/// What every task reads.
struct Inputs<'a> {
    d_out: &'a [f32],
    qkv: &'a [f32],
    out: &'a [f32],
    lse: &'a [f32],
    tiles: &'a Tiles,
    grad: par::Shared,
    s: AttentionShape,
}

/// Gradients of a fused projection: `qkv` holds queries, keys and values (equal strides and lengths), `d_qkv` is
/// overwritten with their gradients. `out` and `lse` come from the forward pass.
pub fn attention_backward(
    d_out: &[f32],
    qkv: &[f32],
    out: &[f32],
    lse: &[f32],
    tiles: &Tiles,
    d_qkv: &mut [f32],
    s: AttentionShape,
) {
    assert!(s.q_len == s.k_len && s.q_stride == s.kv_stride, "attention_backward: fused projections only");
    if s.batch * s.q_len == 0 {
        return;
    }
    assert_eq!(s.row, 0, "attention: a backward pass covers all rows");
    check(tiles, &s, qkv.len().min(d_qkv.len()), qkv.len().min(d_qkv.len()));
    let (width, group, hd, len) = (s.heads * s.head_dim, s.heads / s.kv_heads, s.head_dim, s.q_len);
    let rows = s.batch * len;
    assert!(
        d_out.len() >= rows * width && out.len() >= rows * width && lse.len() >= rows * s.heads,
        "attention_backward: short buffers"
    );
    let inputs = Inputs { d_out, qkv, out, lse, tiles, grad: par::Shared::new(d_qkv), s };
    if len <= LONG {
        par::each(s.batch * s.kv_heads, |task| {
            let (b, kh) = (task / s.kv_heads, task % s.kv_heads);
            inputs.clear(b, kh, 0, len);
            for h in kh * group..(kh + 1) * group {
                inputs.head(b, h, 0, len, None);
            }
        });
        return;
    }
    let slices = ((PARTS + 16 * len * s.heads) / (len * hd)).clamp(1, SLICES);
    let slice = len.div_ceil(slices).next_multiple_of(TILE);
    let slices = len.div_ceil(slice);
    let mut parts = vec![0f32; slices * len * hd];
    for (b, h) in (0..s.batch).flat_map(|b| (0..s.heads).map(move |h| (b, h))) {
        par::chunks(&mut parts, len * hd, |i, part| {
            let (from, to) = (i * slice, len.min((i + 1) * slice));
            if h % group == 0 {
                inputs.clear(b, h / group, from, to);
            }
            inputs.head(b, h, from, to, Some(part));
        });
        par::each(len.div_ceil(TILE), |t| {
            for r in t * TILE..len.min((t + 1) * TILE) {
                // SAFETY: queries of this head belong to this task alone.
                let dq = unsafe { inputs.grad.range((b * len + r) * s.q_stride + s.q_col + h * hd, hd) };
                dq.copy_from_slice(&parts[r * hd..][..hd]);
                for i in 1..slices {
                    add(dq, &parts[(i * len + r) * hd..][..hd]);
                }
            }
        });
    }
}

impl Inputs<'_> {
    /// Gradients of keys and values from..to of a kv head at zero.
    fn clear(&self, b: usize, kh: usize, from: usize, to: usize) {
        let s = &self.s;
        for j in b * s.k_len + from..b * s.k_len + to {
            for col in [s.k_col, s.v_col] {
                // SAFETY: these keys of this kv head belong to one task alone.
                unsafe { self.grad.range(j * s.kv_stride + col + kh * s.head_dim, s.head_dim) }.fill(0.0);
            }
        }
    }

    /// Adds head h's share to the gradients of keys and values from..to, and writes the share of these keys in dQ: to
    /// `part` [len, head_dim], or to the gradient itself.
    fn head(&self, b: usize, h: usize, from: usize, to: usize, mut part: Option<&mut [f32]>) {
        let (s, shape) = (&self.s, tile::shape());
        let (hd, width) = (s.head_dim, s.heads * s.head_dim);
        let kh = h / (s.heads / s.kv_heads);
        let base = b * s.k_len * s.kv_stride + kh * hd;
        // whole vectors of a head's components
        let padded = hd.next_multiple_of(shape.lanes);
        scratch::with((3 * hd + 2 * padded + 2 * TILE) * TILE, |memory| {
            for (t, tile) in self.tiles.of(b).iter().enumerate() {
                let (q0, rows) = (b * s.q_len + t * TILE, TILE.min(s.q_len - t * TILE));
                let wide = rows.next_multiple_of(LANES);
                let (qt, rest) = memory.split_at_mut(hd * wide);
                let (dot_, rest) = rest.split_at_mut(hd * wide);
                let (dqt, rest) = rest.split_at_mut(hd * wide);
                let (qs, rest) = rest.split_at_mut(padded * wide);
                let (dos, rest) = rest.split_at_mut(padded * wide);
                let (z, rest) = rest.split_at_mut(TILE * wide);
                let dp = &mut rest[..TILE * wide];
                // lanes without a query, and queries that see nothing, have probability zero
                let (mut lse, mut delta) = ([1e30f32; TILE], [0f32; TILE]);
                let (q_at, o_at) = (q0 * s.q_stride + s.q_col + h * hd, q0 * width + h * hd);
                to_lanes(shape, &self.qkv[q_at..], s.q_stride, (rows, hd), qt, wide);
                qt.iter_mut().for_each(|x| *x *= s.scale);
                to_lanes(shape, &self.d_out[o_at..], width, (rows, hd), dot_, wide);
                for r in 0..rows {
                    let l = self.lse[(q0 + r) * s.heads + h];
                    lse[r] = if l == f32::NEG_INFINITY { 1e30 } else { l };
                    let d_out = &self.d_out[o_at + r * width..][..hd];
                    delta[r] = dot(d_out, &self.out[o_at + r * width..][..hd]);
                    let q = &self.qkv[q_at + r * s.q_stride..][..hd];
                    for (to, q) in qs[r * padded..].iter_mut().zip(q) {
                        *to = q * s.scale;
                    }
                    dos[r * padded..][..hd].copy_from_slice(d_out);
                }
                let mut first = true;
                key_tiles(tile, |start, keys, bits| {
                    if !(from..to).contains(&start) {
                        return;
                    }
                    let at = base + start * s.kv_stride;
                    let (k, v) = (self.qkv[at + s.k_col..].as_ptr(), self.qkv[at + s.v_col..].as_ptr());
                    let (dk, dv) = (self.grad.at(at + s.k_col), self.grad.at(at + s.v_col));
                    let (z, dp) = (&mut z[..keys * wide], &mut dp[..keys * wide]);
                    let scores = Tile {
                        rows: keys,
                        cols: wide,
                        k: hd,
                        a: k,
                        a_step: s.kv_stride,
                        b: qt.as_ptr(),
                        b_row: wide,
                        c: z.as_mut_ptr(),
                        c_row: wide,
                        add: false,
                        ahead: std::ptr::null(),
                        lines: 0,
                    };
                    let slopes = Tile { a: v, b: dot_.as_ptr(), c: dp.as_mut_ptr(), ..scores };
                    // SAFETY: keys and values were checked, the rest is scratch of whole vectors.
                    unsafe {
                        tile::wide(shape, &scores, Side::Rows);
                        tile::wide(shape, &slopes, Side::Rows);
                    }
                    if let Some(bits) = bits {
                        forbid(z, wide, keys, &bits[..rows]);
                    }
                    gradient(z, dp, wide, &lse, &delta);
                    let to_v = Tile {
                        rows: keys,
                        cols: hd,
                        k: rows,
                        a: z.as_ptr(),
                        a_step: wide,
                        b: dos.as_ptr(),
                        b_row: padded,
                        c: dv,
                        c_row: s.kv_stride,
                        add: true,
                        ahead: std::ptr::null(),
                        lines: 0,
                    };
                    let to_k = Tile { a: dp.as_ptr(), b: qs.as_ptr(), c: dk, ..to_v };
                    let to_q = Tile {
                        rows: hd,
                        k: keys,
                        b: dp.as_ptr(),
                        c: dqt.as_mut_ptr(),
                        add: !first,
                        ..scores
                    };
                    // SAFETY: as above; the gradients of these keys of this kv head belong to this task alone.
                    unsafe {
                        tile::wide(shape, &to_v, Side::Rows);
                        tile::wide(shape, &to_k, Side::Rows);
                        tile::wide(shape, &to_q, Side::Columns);
                    }
                    first = false;
                });
                if first {
                    dqt.fill(0.0);
                }
                scale(dqt, wide, &[s.scale; TILE]);
                let (to, stride) = match &mut part {
                    Some(part) => (part[t * TILE * hd..].as_mut_ptr(), hd),
                    None => (self.grad.at(q_at), s.q_stride),
                };
                // SAFETY: `rows` rows of `hd` values from there: of the part, or of the gradient, whose queries of
                // this head belong to this task alone.
                unsafe { pack::transpose(shape.level, dqt.as_ptr(), wide, hd, rows, to, stride) };
            }
        });
    }
}
