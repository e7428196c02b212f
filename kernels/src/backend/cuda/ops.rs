//! [`Backend`] for [`Cuda`].

use super::buffer::{Block, CudaBuf, CudaIds};
use super::launch::{args, pick};
use super::limits::{MAX_HEAD_DIM, MAX_VALUES};
use super::mask::{CudaMask, pack};
use super::train::HeadTile;
use super::{Cuda, Device, Product};
use crate::attention::Tiles;
use crate::attention::rule::{MaskRule, Place};
use crate::backend::{At, AttentionShape, Backend, HeadJob, RopeShape, joined};
use crate::glu::Gate;
use crate::head::STATS;
use crate::norm::{NormKind, NormShape};
use crate::rng::Stream;

/// Logits that the head holds at once, unless that is fewer than [`LEAST_ROWS`] rows of them.
const TILE_VALUES: usize = 1 << 21;
/// Fewer rows than this make the head's matrix products slow.
const LEAST_ROWS: usize = 64;

/// Rows of logits at a time.
pub(super) fn head_rows(rows: usize, vocab: usize) -> usize {
    (TILE_VALUES / vocab).max(LEAST_ROWS).min(rows).max(1)
}

/// (suffix of the kernels, BQ, bytes of shared memory) of the forward kernel for a head_dim.
fn forward_kernel(head_dim: usize) -> (&'static str, usize, usize) {
    // queries, keys (or weights) and values
    let bytes = |d: usize, q: usize, k: usize| 4 * (q * d + d.max(q) * k + k * d);
    match head_dim {
        0..=32 => ("attention_32", 64, bytes(32, 64, 64)),
        33..=64 => ("attention_64", 64, bytes(64, 64, 64)),
        65..=128 => ("attention_128", 32, bytes(128, 32, 32)),
        // queries, a slice of 64 columns of keys or values, weights
        129..=MAX_HEAD_DIM => ("attention_256", 32, 4 * (32 * 256 + 32 * 64 + 32 * 32)),
        _ => panic!("attention: head_dim {head_dim} is above {MAX_HEAD_DIM}, the largest CUDA kernel"),
    }
}

/// What must be a multiple of 4 for the norms' 16-byte accesses.
pub(super) fn norm_sizes(s: &NormShape) -> [usize; 5] {
    [s.width, s.x_stride, s.x_col, s.y_stride, s.y_col]
}

/// Which alignments and lists the attention kernels may rely on.
pub(super) fn attention_flags(s: &AttentionShape, shared: bool) -> i32 {
    let sizes = [s.head_dim, s.q_stride, s.q_col, s.kv_stride, s.k_col, s.v_col];
    sizes.iter().all(|n| n % 4 == 0) as i32 | if shared { 2 } else { 0 }
}

impl<D: Device> Cuda<D> {
    pub(super) fn upload_words(&self, data: &[u32]) -> Block<D> {
        let block = self.scratch(4 * data.len());
        if !data.is_empty() {
            self.core.run(|d| d.upload(block.at, bytemuck::cast_slice(data)));
        }
        block
    }

    /// Values of `x` on the host; NaN after a failure.
    pub(super) fn download(&self, at: u64, len: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; len];
        if len > 0 && self.core.run(|d| d.download(at, bytemuck::cast_slice_mut(&mut out))).is_none() {
            out.fill(f32::NAN);
        }
        out
    }

    pub(super) fn rotate(&self, x: u64, positions: u64, s: RopeShape, sign: f32) {
        let half = s.head_dim / 2;
        let turns = self.core.table((s.theta.to_bits(), s.head_dim), || {
            let of = |i: usize| (s.theta as f64).powf(-2.0 * i as f64 / s.head_dim as f64);
            (0..half).map(|i| of(i) / std::f64::consts::TAU).collect()
        });
        let Some(turns) = turns else { return };
        let sizes = [half, s.stride, s.col];
        let per = if sizes.iter().all(|n| n % 4 == 0) { 4 } else { 1 };
        let kernel = pick(&sizes, "rope_rows_wide", "rope_rows");
        let args = args![x, positions, turns, s.rows, s.stride, s.col, s.heads, half, sign];
        self.each(kernel, s.rows * s.heads * half / per, args);
    }

    /// out[r] = scale table[ids[r]]
    fn rows_by_index(&self, table: (u64, usize), ids: u64, scale: f32, out: u64, rows: usize, width: usize) {
        let kernel = pick(&[width], "gather_rows_wide", "gather_rows");
        let per = if width % 4 == 0 { 4 } else { 1 };
        self.each(kernel, rows * width / per, args![table.0, ids, out, rows, width, table.1 as u32, scale]);
    }
}

impl<D: Device> Backend for Cuda<D> {
    type Buf = CudaBuf<D>;
    type Ids = CudaIds<D>;
    type Mask = CudaMask<D>;
    const PEEKS: bool = true;

    fn buf(&self, len: usize) -> CudaBuf<D> {
        let block = self.scratch(4 * len);
        if len > 0 {
            self.core.run(|d| d.zero(block.at, 4 * len));
        }
        CudaBuf { block, len }
    }
    fn ids(&self, len: usize) -> CudaIds<D> {
        let block = self.scratch(4 * len);
        if len > 0 {
            self.core.run(|d| d.zero(block.at, 4 * len));
        }
        CudaIds { block, len }
    }
    fn write(&self, dst: &mut CudaBuf<D>, offset: usize, data: &[f32]) {
        let at = dst.at("write", offset, data.len());
        if !data.is_empty() {
            self.core.run(|d| d.upload(at, bytemuck::cast_slice(data)));
        }
    }
    fn write_ids(&self, dst: &mut CudaIds<D>, data: &[u32]) {
        let at = dst.at("write_ids", data.len());
        if !data.is_empty() {
            self.core.run(|d| d.upload(at, bytemuck::cast_slice(data)));
        }
    }
    fn peek(&self, x: &CudaBuf<D>, offset: usize, len: usize) -> Option<Vec<f32>> {
        Some(self.download(x.at("peek", offset, len), len))
    }
    fn copy(&self, src: &CudaBuf<D>, src_at: usize, dst: &mut CudaBuf<D>, dst_at: usize, len: usize) {
        let (from, to) = (src.at("copy", src_at, len), dst.at("copy", dst_at, len));
        if len > 0 {
            self.core.run(|d| d.copy(from, to, 4 * len));
        }
    }
    fn copy_columns(
        &self,
        src: &CudaBuf<D>,
        src_stride: usize,
        src_col: usize,
        dst: &mut CudaBuf<D>,
        dst_stride: usize,
        dst_col: usize,
        dst_row: usize,
        rows: usize,
        cols: usize,
    ) {
        if rows == 0 || cols == 0 {
            return;
        }
        let from = src.at("copy_columns", src_col, (rows - 1) * src_stride + cols);
        let to = dst.at("copy_columns", dst_row * dst_stride + dst_col, (rows - 1) * dst_stride + cols);
        let sizes = [src_stride, src_col, dst_stride, dst_col, cols];
        let per = if sizes.iter().all(|n| n % 4 == 0) { 4 } else { 1 };
        let kernel = pick(&sizes, "copy_columns_wide", "copy_columns");
        self.each(kernel, rows * cols / per, args![from, src_stride, to, dst_stride, rows, cols]);
    }
    fn mask(&self, rule: MaskRule, batch: usize, queries: &[Place], keys: &[Place]) -> CudaMask<D> {
        let tiles = Tiles::new(rule, batch, queries, keys);
        let (bytes, lists) = pack(&tiles);
        let memory = self.scratch(bytes.len());
        self.core.run(|d| d.upload(memory.at, &bytes));
        CudaMask { tiles, memory, lists }
    }
    fn embed(
        &self,
        ids: &CudaIds<D>,
        params: &CudaBuf<D>,
        table: At,
        scale: f32,
        out: &mut CudaBuf<D>,
        rows: usize,
        width: usize,
    ) {
        let (t, ids) = (params.at("embed", table.offset, table.len), ids.at("embed", rows));
        let out = out.at("embed", 0, rows * width);
        self.rows_by_index((t, table.len / width.max(1)), ids, scale, out, rows, width);
    }
    fn embed_mix(
        &self,
        ids: &CudaIds<D>,
        weights: &CudaBuf<D>,
        params: &CudaBuf<D>,
        table: At,
        scale: f32,
        out: &mut CudaBuf<D>,
        rows: usize,
        k: usize,
        width: usize,
    ) {
        let (op, n, table_rows) = ("embed_mix", rows * k, table.len / width.max(1));
        let (t, ids) = (params.at(op, table.offset, table.len), ids.at(op, n));
        let (weights, out) = (weights.at(op, 0, n), out.at(op, 0, rows * width));
        let kernel = pick(&[width], "mix_rows_wide", "mix_rows");
        let per = if width % 4 == 0 { 4 } else { 1 };
        let args = args![t, ids, weights, out, rows, k, width, table_rows as u32, scale];
        self.each(kernel, rows * width / per, args);
    }
    fn norm(
        &self,
        x: &CudaBuf<D>,
        params: &CudaBuf<D>,
        w: At,
        b: Option<At>,
        y: &mut CudaBuf<D>,
        s: NormShape,
        accumulate: bool,
    ) {
        let (op, (nx, ny)) = ("norm", s.need());
        let (x, y) = (x.at(op, 0, nx) + 4 * s.x_col as u64, y.at(op, 0, ny) + 4 * s.y_col as u64);
        let weight = params.at(op, w.offset, s.width);
        let bias = b.map_or(0, |b| params.at(op, b.offset, s.width));
        let flags = (s.kind == NormKind::Layer) as i32 | if accumulate { 2 } else { 0 };
        let args = args![x, weight, bias, y, s.rows, s.groups, s.width, s.x_stride, s.y_stride, flags, s.eps];
        let kernel = pick(&norm_sizes(&s), "norm_rows_wide", "norm_rows");
        self.each_warp(kernel, s.rows * s.groups, args);
    }
    fn add_bias(&self, y: &mut CudaBuf<D>, params: &CudaBuf<D>, b: At, rows: usize, width: usize) {
        let (y, b) = (y.at("add_bias", 0, rows * width), params.at("add_bias", b.offset, width));
        let per = if width % 4 == 0 { 4 } else { 1 };
        let kernel = pick(&[width], "add_bias_wide", "add_bias");
        self.each(kernel, rows * width / per, args![y, b, rows, width]);
    }
    fn linear(
        &self,
        x: &CudaBuf<D>,
        params: &CudaBuf<D>,
        w: At,
        y: &mut CudaBuf<D>,
        m: usize,
        n: usize,
        k: usize,
        accumulate: bool,
    ) {
        let op = "linear";
        let (a, b, c) = (x.at(op, 0, m * k), params.at(op, w.offset, n * k), y.at(op, 0, m * n));
        self.product(Product { a_transposed: false, b_transposed: true, a, b, c, m, n, k, accumulate });
    }
    fn rope(&self, x: &mut CudaBuf<D>, positions: &CudaIds<D>, shape: RopeShape) {
        let (x, p) = (x.at("rope", 0, shape.rows * shape.stride), positions.at("rope", shape.rows));
        self.rotate(x, p, shape, 1.0);
    }
    fn attention(
        &self,
        q: &CudaBuf<D>,
        kv: &CudaBuf<D>,
        mask: &CudaMask<D>,
        out: &mut CudaBuf<D>,
        lse: &mut CudaBuf<D>,
        s: AttentionShape,
    ) {
        let op = "attention";
        if s.batch == 0 {
            return;
        }
        mask.check(op, &s);
        let rows = s.batch * s.q_len;
        let q = q.at(op, s.row * s.q_stride, rows * s.q_stride) + 4 * s.q_col as u64;
        let kv = kv.at(op, 0, s.batch * s.k_len * s.kv_stride);
        let (k, v) = (kv + 4 * s.k_col as u64, kv + 4 * s.v_col as u64);
        let (width, heads) = (s.heads * s.head_dim, s.heads);
        let (out, lse) = (out.at(op, s.row * width, rows * width), lse.at(op, s.row * heads, rows * heads));
        let (kernel, queries, shared) = forward_kernel(s.head_dim);
        let (list, flags) = (mask.lists.queries, attention_flags(&s, mask.lists.shared));
        let at = mask.memory.at;
        let (starts, entries, bits) = (at + list.starts, at + list.entries, at + mask.lists.bits);
        let group = s.heads / s.kv_heads;
        let args = args![
            q,
            k,
            v,
            starts,
            entries,
            bits,
            out,
            lse,
            s.q_len,
            s.k_len,
            group,
            s.head_dim,
            s.q_stride,
            s.kv_stride,
            flags,
            s.scale
        ];
        self.launch(kernel, [s.q_len.div_ceil(queries), s.heads, s.batch], 128, shared, args);
    }
    fn glu(&self, gate: Gate, gate_up: &CudaBuf<D>, y: &mut CudaBuf<D>, rows: usize, width: usize) {
        let n = rows * width;
        let (x, y) = (gate_up.at("glu", 0, 2 * n), y.at("glu", 0, n));
        let per = if width % 4 == 0 { 4 } else { 1 };
        self.each(pick(&[width], "glu_wide", "glu"), n / per, args![x, y, rows, width, gate == Gate::Gelu]);
    }
    fn gelu(&self, x: &CudaBuf<D>, y: &mut CudaBuf<D>, n: usize) {
        let (x, y) = (x.at("gelu", 0, n), y.at("gelu", 0, n));
        self.each("gelu", n.div_ceil(4), args![x, y, n]);
    }
    fn gather(&self, x: &CudaBuf<D>, rows: &CudaIds<D>, out: &mut CudaBuf<D>, n: usize, width: usize) {
        let (ids, to) = (rows.at("gather", n), out.at("gather", 0, n * width));
        let table = (x.at("gather", 0, x.len), x.len / width.max(1));
        self.rows_by_index(table, ids, 1.0, to, n, width);
    }
    fn heads(
        &self,
        hidden: &CudaBuf<D>,
        params: &CudaBuf<D>,
        table: At,
        keys: &CudaIds<D>,
        out: &mut CudaBuf<D>,
        jobs: &[HeadJob],
    ) {
        let (op, (rows, values)) = ("head", joined(jobs));
        let Some(HeadJob { width, vocab, forbid: ids, .. }) = jobs.first().filter(|_| rows > 0) else {
            return;
        };
        let (width, vocab) = (*width, *vocab);
        let (hidden, table) = (hidden.at(op, 0, rows * width), params.at(op, table.offset, vocab * width));
        let (keys, out) = (keys.at(op, 4 * rows), out.at(op, 0, values));
        let forbid = self.upload_words(ids);
        let tile = head_rows(rows, vocab);
        let z = self.scratch(4 * tile * vocab);
        for r0 in (0..rows).step_by(tile) {
            let n = tile.min(rows - r0);
            let hidden = hidden + 4 * (r0 * width) as u64;
            self.product(HeadTile { hidden, table, rows: n, width, vocab }.logits(z.at));
            // each job's rows of the tile
            let (mut first, mut at) = (0, out);
            for job in jobs {
                assert!(job.temperature >= 0.0, "head: temperature {}", job.temperature);
                let (begin, end) = (first.max(r0), (first + job.rows).min(r0 + n));
                if begin < end {
                    let stride = STATS + 2 * job.top_k;
                    let inverse = if job.temperature > 0.0 { 1.0 / job.temperature } else { 0.0 };
                    let args = args![
                        z.at + 4 * ((begin - r0) * vocab) as u64,
                        forbid.at,
                        ids.len(),
                        keys + 16 * begin as u64,
                        at + 4 * ((begin - first) * stride) as u64,
                        vocab,
                        job.top_k,
                        inverse,
                        job.seed as u32,
                        (job.seed >> 32) as u32,
                        (Stream::Token as u32) << 24
                    ];
                    self.launch("head_statistics", [end - begin, 1, 1], 256, 0, args);
                }
                (first, at) = (first + job.rows, at + 4 * job.values() as u64);
            }
        }
    }
}

impl<D: Device> CudaMask<D> {
    pub(super) fn check(&self, op: &str, s: &AttentionShape) {
        let (mask, want) = ([self.tiles.q_len, self.tiles.k_len], [s.q_len, s.k_len]);
        assert_eq!(mask, want, "{op}: the mask is of another shape [q_len, k_len]");
        assert!(s.heads % s.kv_heads == 0, "{op}: {} heads over {} kv heads", s.heads, s.kv_heads);
        let values = s.batch * (s.q_len * s.q_stride).max(s.k_len * s.kv_stride);
        assert!(values <= MAX_VALUES, "{op}: {values} values are more than the kernels can address");
    }
}
