//! [`Train`] for [`Cuda`].

use super::buffer::{CudaBuf, CudaIds};
use super::launch::{args, pick};
use super::limits::{MAX_HEAD_DIM, SHARED};
use super::mask::CudaMask;
use super::ops::{attention_flags, head_rows, norm_sizes};
use super::{Cuda, Device, Product};
use crate::adam::AdamStep;
use crate::backend::{At, AttentionShape, RopeShape, TeacherRows, Train};
use crate::glu::Gate;
use crate::head::{LossRow, Losses};
use crate::norm::{NormKind, NormShape};

/// Values that a kernel over all weights takes at a time; whole chunks of `square_parts`.
const PIECE: usize = 1 << 30;
/// Values of a part of a sum of squares.
const CHUNK: usize = 4096;

/// (kernel over keys, kernel over queries, rows a block keeps, bytes of shared memory of each)
type BackwardKernels = (&'static str, &'static str, usize, [usize; 2]);

fn backward_kernels(head_dim: usize) -> BackwardKernels {
    // keys, values, queries, d_out; then P and dS, or dS alone
    let bytes = |d: usize, b: usize| [4 * (4 * b * d + 2 * b * b), 4 * (4 * b * d + b * b)];
    match head_dim {
        0..=32 => ("attention_backward_keys_32", "attention_backward_queries_32", 32, bytes(32, 32)),
        33..=64 => ("attention_backward_keys_64", "attention_backward_queries_64", 32, bytes(64, 32)),
        65..=128 => ("attention_backward_keys_128", "attention_backward_queries_128", 16, bytes(128, 16)),
        129..=MAX_HEAD_DIM => {
            // two whole tiles of 16 rows, a slice of 32, and P and dS, or dS alone
            let bytes = |weights: usize| 4 * (2 * 16 * 256 + 32 * 64 + weights * 16 * 32);
            ("attention_backward_keys_256", "attention_backward_queries_256", 16, [bytes(2), bytes(1)])
        }
        _ => {
            panic!("attention_backward: head_dim {head_dim} is above {MAX_HEAD_DIM}, the largest CUDA kernel")
        }
    }
}

/// (first, count) of pieces of at most `piece` of `n` values: kernels count with 31 bits, a model may have more weights.
fn pieces(n: usize, piece: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).step_by(piece).map(move |at| (at, piece.min(n - at)))
}

impl<D: Device> Cuda<D> {
    /// table[ids[r]] += scale d[r], or with (weights, k) scale weights[r] d[r / k], in chunks of rows, in their order
    fn add_rows(
        &self,
        d: u64,
        ids: u64,
        weights: Option<(u64, usize)>,
        table: (u64, usize),
        scale: f32,
        rows: usize,
        width: usize,
    ) {
        let columns = if width % 4 == 0 { 512 } else { 128 };
        let (grid, (weights, per)) = ([rows, width.div_ceil(columns), 1], weights.unwrap_or((0, 1)));
        let parts = self.scratch(4 * rows * width);
        let kernel = pick(&[width], "scatter_parts_wide", "scatter_parts");
        let args = args![d, ids, weights, parts.at, rows, per, width, table.1 as u32, scale];
        self.launch(kernel, grid, 128, 0, args);
        let kernel = pick(&[width], "scatter_add_rows_wide", "scatter_add_rows");
        self.launch(kernel, grid, 128, 0, args![parts.at, ids, table.0, rows, width, table.1 as u32]);
    }

    /// out[c] += sum over p of parts[p, c]
    fn sum_rows(&self, parts: u64, out: u64, count: usize, width: usize) {
        self.launch("sum_rows", [width.div_ceil(256), 1, 1], 256, 0, args![parts, out, count, width]);
    }
}

/// Rows of a head: hidden [rows, width], table [vocab, width].
#[derive(Clone, Copy)]
pub(super) struct HeadTile {
    pub hidden: u64,
    pub table: u64,
    pub rows: usize,
    pub width: usize,
    pub vocab: usize,
}

impl HeadTile {
    /// z [rows, vocab] = hidden table^T
    pub fn logits(&self, z: u64) -> Product {
        Product {
            a_transposed: false,
            b_transposed: true,
            a: self.hidden,
            b: self.table,
            c: z,
            m: self.rows,
            n: self.vocab,
            k: self.width,
            accumulate: false,
        }
    }
}

impl<D: Device> Cuda<D> {
    /// From the slopes dz [rows, vocab] of a head's logits: d_hidden = dz table, d_table += dz^T hidden.
    fn head_gradients(&self, dz: u64, head: HeadTile, [d_hidden, d_table]: [u64; 2]) {
        let HeadTile { hidden, table, rows, width, vocab } = head;
        let slopes = Product {
            a: dz,
            b: table,
            c: d_hidden,
            b_transposed: false,
            n: width,
            k: vocab,
            ..head.logits(dz)
        };
        self.product(slopes);
        self.product(Product {
            a_transposed: true,
            b: hidden,
            c: d_table,
            m: vocab,
            k: rows,
            accumulate: true,
            ..slopes
        });
    }
}

impl<D: Device> Cuda<D> {
    /// Of pieces of at most `piece` values, a multiple of [`CHUNK`].
    pub(super) fn squares_in(&self, x: &CudaBuf<D>, piece: usize) -> f64 {
        if x.len == 0 {
            return 0.0;
        }
        let count = x.len.div_ceil(CHUNK);
        let (parts, out) = (self.scratch(4 * count), self.scratch(8));
        for (at, n) in pieces(x.len, piece) {
            let (from, to) = (x.block.at + 4 * at as u64, parts.at + 4 * (at / CHUNK) as u64);
            self.launch("square_parts", [n.div_ceil(CHUNK), 1, 1], 256, 0, args![from, to, n]);
        }
        self.launch("sum_parts", [1, 1, 1], 256, 0, args![parts.at, out.at, count]);
        let mut sum = [0u8; 8];
        match self.core.run(|d| d.download(out.at, &mut sum)) {
            Some(()) => f64::from_le_bytes(sum),
            None => f64::NAN,
        }
    }

    /// In pieces of at most `piece` values, a multiple of 4.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn adamw_in(
        &self,
        piece: usize,
        w: &mut CudaBuf<D>,
        g: &CudaBuf<D>,
        m: &mut CudaBuf<D>,
        v: &mut CudaBuf<D>,
        ema: Option<&mut CudaBuf<D>>,
        s: AdamStep,
    ) {
        let n = w.len;
        assert!(g.len == n && m.len == n && v.len == n, "adamw: lengths differ");
        let (keep, i1, i2) = (1.0 - s.lr * s.weight_decay, 1.0 / s.correction1, 1.0 / s.correction2);
        if let (Some(ema), Some(_)) = (&ema, s.ema) {
            assert_eq!(ema.len, n, "adamw: ema length differs");
        }
        let ema = ema.map(|e| e.block.at).zip(s.ema);
        for (at, n) in pieces(n, piece) {
            let [w, g, m, v] = [w.block.at, g.block.at, m.block.at, v.block.at].map(|x| x + 4 * at as u64);
            match ema {
                Some((ema, decay)) => {
                    let (e, scale, rate) = (ema + 4 * at as u64, s.grad_scale, 1.0 - decay);
                    let args =
                        args![w, g, m, v, e, n, s.lr, s.beta1, s.beta2, s.eps, keep, i1, i2, scale, rate];
                    self.each("adamw_average", n.div_ceil(4), args);
                }
                None => {
                    let args =
                        args![w, g, m, v, n, s.lr, s.beta1, s.beta2, s.eps, keep, i1, i2, s.grad_scale];
                    self.each("adamw", n.div_ceil(4), args);
                }
            }
        }
    }
}

impl<D: Device> Train for Cuda<D> {
    fn linear_backward_input(
        &self,
        dy: &CudaBuf<D>,
        params: &CudaBuf<D>,
        w: At,
        dx: &mut CudaBuf<D>,
        m: usize,
        n: usize,
        k: usize,
    ) {
        let op = "linear_backward_input";
        let (a, b, c) = (dy.at(op, 0, m * n), params.at(op, w.offset, n * k), dx.at(op, 0, m * k));
        let shape =
            Product { a_transposed: false, b_transposed: false, a, b, c, m, n: k, k: n, accumulate: false };
        self.product(shape);
    }
    fn linear_backward_weight(
        &self,
        dy: &CudaBuf<D>,
        x: &CudaBuf<D>,
        grads: &mut CudaBuf<D>,
        w: At,
        m: usize,
        n: usize,
        k: usize,
    ) {
        let op = "linear_backward_weight";
        let (a, b, c) = (dy.at(op, 0, m * n), x.at(op, 0, m * k), grads.at(op, w.offset, n * k));
        let shape =
            Product { a_transposed: true, b_transposed: false, a, b, c, m: n, n: k, k: m, accumulate: true };
        self.product(shape);
    }
    fn norm_backward(
        &self,
        dy: &CudaBuf<D>,
        x: &CudaBuf<D>,
        params: &CudaBuf<D>,
        w: At,
        b: Option<At>,
        dx: &mut CudaBuf<D>,
        grads: &mut CudaBuf<D>,
        s: NormShape,
    ) {
        let (op, (nx, ny), n, width) = ("norm_backward", s.need(), s.rows * s.groups, s.width);
        let (x_col, y_col) = (4 * s.x_col as u64, 4 * s.y_col as u64);
        let (dy, x, dx) = (dy.at(op, 0, ny) + y_col, x.at(op, 0, nx) + x_col, dx.at(op, 0, nx) + x_col);
        let (weight, dw) = (params.at(op, w.offset, width), grads.at(op, w.offset, width));
        let db = b.map(|b| grads.at(op, b.offset, width));
        if n * width == 0 {
            return;
        }
        let held = width * (1 + db.is_some() as usize);
        let warps = (SHARED / (4 * held)).min(4);
        assert!(warps > 0, "{op}: rows of {width} values do not fit {SHARED} bytes of shared memory");
        // as many blocks as run at once, whatever the rows: the parts stay few
        let blocks = n.div_ceil(warps).min(8 * self.device().multiprocessors());
        let chunk = n.div_ceil(blocks);
        let blocks = n.div_ceil(chunk);
        let parts = self.scratch(4 * blocks * held);
        let b_parts = if db.is_some() { parts.at + 4 * (blocks * width) as u64 } else { 0 };
        let layer = (s.kind == NormKind::Layer) as i32;
        let (rows, groups, x_stride, y_stride) = (s.rows, s.groups, s.x_stride, s.y_stride);
        let args = args![
            dy, x, weight, dx, parts.at, b_parts, rows, groups, width, x_stride, y_stride, chunk, layer,
            s.eps
        ];
        let kernel = pick(&norm_sizes(&s), "norm_rows_backward_wide", "norm_rows_backward");
        self.launch(kernel, [blocks, 1, 1], 32 * warps as u32, 4 * warps * held, args);
        self.sum_rows(parts.at, dw, blocks, width);
        if let Some(db) = db {
            self.sum_rows(b_parts, db, blocks, width);
        }
    }
    fn add_bias_backward(&self, dy: &CudaBuf<D>, grads: &mut CudaBuf<D>, b: At, rows: usize, width: usize) {
        let op = "add_bias_backward";
        let (dy, db) = (dy.at(op, 0, rows * width), grads.at(op, b.offset, width));
        if rows * width == 0 {
            return;
        }
        // enough blocks of 256 columns to fill the device
        let chunk = rows.div_ceil((8 * self.device().multiprocessors()).div_ceil(width.div_ceil(256)));
        let count = rows.div_ceil(chunk);
        let parts = self.scratch(4 * count * width);
        let args = args![dy, parts.at, rows, width, chunk];
        self.launch("bias_parts", [width.div_ceil(256), count, 1], 256, 0, args);
        self.sum_rows(parts.at, db, count, width);
    }
    fn rope_backward(&self, dx: &mut CudaBuf<D>, positions: &CudaIds<D>, shape: RopeShape) {
        let op = "rope_backward";
        self.rotate(dx.at(op, 0, shape.rows * shape.stride), positions.at(op, shape.rows), shape, -1.0);
    }
    fn attention_backward(
        &self,
        d_out: &CudaBuf<D>,
        qkv: &CudaBuf<D>,
        out: &CudaBuf<D>,
        lse: &CudaBuf<D>,
        mask: &CudaMask<D>,
        d_qkv: &mut CudaBuf<D>,
        s: AttentionShape,
    ) {
        let op = "attention_backward";
        assert!(s.q_len == s.k_len && s.q_stride == s.kv_stride, "{op}: fused projections only");
        if s.batch == 0 {
            return;
        }
        mask.check(op, &s);
        let (rows, width) = (s.batch * s.q_len, s.heads * s.head_dim);
        let (d_out, out) = (d_out.at(op, 0, rows * width), out.at(op, 0, rows * width));
        let lse = lse.at(op, 0, rows * s.heads);
        let columns = |base: u64| [s.q_col, s.k_col, s.v_col].map(|c| base + 4 * c as u64);
        let [q, k, v] = columns(qkv.at(op, 0, rows * s.q_stride));
        let [dq, dk, dv] = columns(d_qkv.at(op, 0, rows * s.q_stride));
        let block = self.scratch(4 * rows * s.heads);
        let delta = block.at;
        self.each_warp(
            "attention_delta",
            rows * s.heads,
            args![d_out, out, delta, rows * s.heads, s.head_dim],
        );
        let (keys, queries, side, shared) = backward_kernels(s.head_dim);
        let flags = attention_flags(&s, mask.lists.shared);
        let (at, lists) = (mask.memory.at, mask.lists);
        let (starts, entries, bits) = (at + lists.keys.starts, at + lists.keys.entries, at + lists.bits);
        let (group, len, hd, stride, scale) =
            (s.heads / s.kv_heads, s.q_len, s.head_dim, s.q_stride, s.scale);
        let tiles = s.q_len.div_ceil(side);
        let args = args![
            d_out, q, k, v, lse, delta, starts, entries, bits, dk, dv, len, group, hd, stride, flags, scale
        ];
        self.launch(keys, [tiles, s.kv_heads, s.batch], 128, shared[0], args);
        let (starts, entries) = (at + lists.queries.starts, at + lists.queries.entries);
        let args = args![
            d_out, q, k, v, lse, delta, starts, entries, bits, dq, len, group, hd, stride, flags, scale
        ];
        self.launch(queries, [tiles, s.heads, s.batch], 128, shared[1], args);
    }
    fn glu_backward(
        &self,
        gate: Gate,
        dy: &CudaBuf<D>,
        gate_up: &CudaBuf<D>,
        d: &mut CudaBuf<D>,
        rows: usize,
        width: usize,
    ) {
        let (n, op) = (rows * width, "glu_backward");
        let (dy, x, d) = (dy.at(op, 0, n), gate_up.at(op, 0, 2 * n), d.at(op, 0, 2 * n));
        let per = if width % 4 == 0 { 4 } else { 1 };
        let kernel = pick(&[width], "glu_backward_wide", "glu_backward");
        self.each(kernel, n / per, args![dy, x, d, rows, width, gate == Gate::Gelu]);
    }
    fn gelu_backward(&self, dy: &CudaBuf<D>, x: &CudaBuf<D>, d: &mut CudaBuf<D>, n: usize) {
        let op = "gelu_backward";
        let (dy, x, d) = (dy.at(op, 0, n), x.at(op, 0, n), d.at(op, 0, n));
        self.each("gelu_backward", n.div_ceil(4), args![dy, x, d, n]);
    }
    fn embed_backward(
        &self,
        ids: &CudaIds<D>,
        d: &CudaBuf<D>,
        grads: &mut CudaBuf<D>,
        table: At,
        scale: f32,
        rows: usize,
        width: usize,
    ) {
        let op = "embed_backward";
        let (d, ids, t) =
            (d.at(op, 0, rows * width), ids.at(op, rows), grads.at(op, table.offset, table.len));
        self.add_rows(d, ids, None, (t, table.len / width.max(1)), scale, rows, width);
    }
    fn embed_mix_backward(
        &self,
        ids: &CudaIds<D>,
        weights: &CudaBuf<D>,
        d: &CudaBuf<D>,
        params: &CudaBuf<D>,
        table: At,
        scale: f32,
        d_weights: &mut CudaBuf<D>,
        grads: &mut CudaBuf<D>,
        rows: usize,
        k: usize,
        width: usize,
    ) {
        let (op, n, table_rows) = ("embed_mix_backward", rows * k, table.len / width.max(1));
        let (ids, weights, d) = (ids.at(op, n), weights.at(op, 0, n), d.at(op, 0, rows * width));
        let (t, g) = (params.at(op, table.offset, table.len), grads.at(op, table.offset, table.len));
        let args = args![t, ids, d, d_weights.at(op, 0, n), n, k, width, table_rows as u32, scale];
        self.each_warp("mix_weights", n, args);
        self.add_rows(d, ids, Some((weights, k)), (g, table_rows), scale, n, width);
    }
    fn scatter(&self, d: &CudaBuf<D>, rows: &CudaIds<D>, out: &mut CudaBuf<D>, n: usize, width: usize) {
        self.zero(out);
        let (d, ids, to) =
            (d.at("scatter", 0, n * width), rows.at("scatter", n), out.at("scatter", 0, out.len));
        self.add_rows(d, ids, None, (to, out.len / width.max(1)), 1.0, n, width);
    }
    fn head_loss(
        &self,
        hidden: &CudaBuf<D>,
        params: &CudaBuf<D>,
        table: At,
        rows: &[LossRow],
        forbid: &[u32],
        width: usize,
        backward: Option<(&mut CudaBuf<D>, &mut CudaBuf<D>)>,
    ) -> Losses {
        let (op, n_rows, vocab) = ("head_loss", rows.len(), table.len / width);
        if n_rows == 0 {
            return Losses::default();
        }
        let (h, t) = (hidden.at(op, 0, n_rows * width), params.at(op, table.offset, vocab * width));
        let to =
            backward.map(|(dh, g)| (dh.at(op, 0, n_rows * width), g.at(op, table.offset, vocab * width)));
        let words = rows.iter().flat_map(|r| {
            let (noise, observed, weight) = match &r.mixture {
                Some(m) => ([m.alpha, m.beta], m.observed.map_or(-1, |s| s as i32), m.weight),
                None => ([0.0, 0.0], -1, 0.0),
            };
            let [alpha, beta] = noise.map(f32::to_bits);
            let loss = [r.target, r.d_log_p.to_bits(), r.d_entropy.to_bits()];
            loss.into_iter().chain([alpha, beta, observed as u32, weight.to_bits()])
        });
        let (asked, forbidden) = (self.upload_words(&words.collect::<Vec<_>>()), self.upload_words(forbid));
        // log-probabilities, then entropies, then divergences
        let answers = self.scratch(12 * n_rows);
        let tile = head_rows(n_rows, vocab);
        let z = self.scratch(4 * tile * vocab);
        for r0 in (0..n_rows).step_by(tile) {
            let (n, at) = (tile.min(n_rows - r0), 4 * (r0 * width) as u64);
            let head = HeadTile { hidden: h + at, table: t, rows: n, width, vocab };
            self.product(head.logits(z.at));
            let [log_p, entropy, divergence] = [0, 1, 2].map(|i| answers.at + 4 * (i * n_rows + r0) as u64);
            let (rows, back) = (asked.at + 28 * r0 as u64, to.is_some());
            let args = args![z.at, rows, forbidden.at, forbid.len(), log_p, entropy, divergence, vocab, back];
            self.launch("head_loss", [n, 1, 1], 256, 0, args);
            if let Some((dh, dt)) = to {
                self.head_gradients(z.at, head, [dh + at, dt]);
            }
        }
        let mut log_p = self.download(answers.at, 3 * n_rows);
        let divergence = log_p.split_off(2 * n_rows);
        let entropy = log_p.split_off(n_rows);
        Losses { log_p, entropy, divergence }
    }
    fn head_distill(
        &self,
        hidden: &CudaBuf<D>,
        params: &CudaBuf<D>,
        table: At,
        width: usize,
        teacher: TeacherRows<'_, CudaBuf<D>>,
        slopes: &[f32],
        forbid: &[u32],
        temperature: f32,
        backward: Option<(&mut CudaBuf<D>, &mut CudaBuf<D>)>,
    ) -> Vec<f32> {
        let (op, n_rows, vocab) = ("head_distill", slopes.len(), table.len / width);
        assert!(temperature > 0.0, "{op}: temperature {temperature}");
        assert_eq!(teacher.table.len, vocab * teacher.width, "{op}: the teacher has another vocabulary");
        if n_rows == 0 {
            return vec![];
        }
        let (h, t) = (hidden.at(op, 0, n_rows * width), params.at(op, table.offset, vocab * width));
        let their_h = teacher.hidden.at(op, 0, n_rows * teacher.width);
        let their_t = teacher.params.at(op, teacher.table.offset, teacher.table.len);
        let to =
            backward.map(|(dh, g)| (dh.at(op, 0, n_rows * width), g.at(op, table.offset, vocab * width)));
        let bits: Vec<u32> = slopes.iter().map(|c| c.to_bits()).collect();
        let (slopes, forbidden) = (self.upload_words(&bits), self.upload_words(forbid));
        let answers = self.scratch(4 * n_rows);
        let tile = head_rows(n_rows, vocab);
        let (z, other) = (self.scratch(4 * tile * vocab), self.scratch(4 * tile * vocab));
        for r0 in (0..n_rows).step_by(tile) {
            let (n, at) = (tile.min(n_rows - r0), 4 * (r0 * width) as u64);
            let head = HeadTile { hidden: h + at, table: t, rows: n, width, vocab };
            self.product(head.logits(z.at));
            let hidden = their_h + 4 * (r0 * teacher.width) as u64;
            let theirs = HeadTile { hidden, table: their_t, width: teacher.width, ..head };
            self.product(theirs.logits(other.at));
            let (slope, out) = (slopes.at + 4 * r0 as u64, answers.at + 4 * r0 as u64);
            let (count, inverse) = (forbid.len(), 1.0 / temperature);
            let args = args![z.at, other.at, slope, forbidden.at, count, out, vocab, inverse, to.is_some()];
            self.launch("head_distill", [n, 1, 1], 256, 0, args);
            if let Some((dh, dt)) = to {
                self.head_gradients(z.at, head, [dh + at, dt]);
            }
        }
        self.download(answers.at, n_rows)
    }
    fn pairs(&self, mask: &CudaMask<D>, batch: usize) -> u64 {
        mask.tiles.pairs(batch)
    }
    fn zero(&self, x: &mut CudaBuf<D>) {
        if x.len > 0 {
            self.core.run(|d| d.zero(x.block.at, 4 * x.len));
        }
    }
    fn sum_squares(&self, x: &CudaBuf<D>) -> f64 {
        self.squares_in(x, PIECE)
    }
    fn adamw(
        &self,
        w: &mut CudaBuf<D>,
        g: &CudaBuf<D>,
        m: &mut CudaBuf<D>,
        v: &mut CudaBuf<D>,
        ema: Option<&mut CudaBuf<D>>,
        s: AdamStep,
    ) {
        self.adamw_in(PIECE, w, g, m, v, ema, s);
    }
    fn read(&self, x: &CudaBuf<D>) -> Vec<f32> {
        self.download(x.block.at, x.len)
    }
    fn read_range(&self, x: &CudaBuf<D>, offset: usize, len: usize) -> Vec<f32> {
        self.download(x.at("read_range", offset, len), len)
    }
    fn allocated(&self) -> Option<u64> {
        Some(self.core.allocated())
    }
    fn failure(&self) -> Option<String> {
        self.first_failure().map(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_three_billion_go_in_pieces() {
        let of = |n| pieces(n, PIECE).collect::<Vec<_>>();
        assert_eq!(of(0), []);
        assert_eq!(of(PIECE), [(0, PIECE)]);
        assert_eq!(of(3_085_938_688), [(0, PIECE), (PIECE, PIECE), (2 * PIECE, 3_085_938_688 - 2 * PIECE)]);
        assert_eq!(PIECE % CHUNK, 0);
    }
}
