//! The CPU back end: buffers are vectors, operations run at once.

use super::{At, AttentionShape, Backend, Form, HeadJob, RopeShape, TeacherRows, Train};
use crate::adam::{AdamStep, adamw};
use crate::attention::rule::{MaskRule, Place};
use crate::attention::{Tiles, attention, attention_backward};
use crate::glu::Gate;
use crate::head::{self, LossRow, Losses, Table, Teacher};
use crate::norm::NormShape;
use crate::quant::{self, Matrix};
use crate::{bias, embed, gelu, gemm, glu, norm, reduce, rope};

/// The CPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu;

fn tensor(params: &[f32], at: At) -> &[f32] {
    assert_eq!(at.form, Form::Plain, "{at:?} is laid out for forward passes alone");
    &params[at.offset..at.offset + at.len]
}
fn tensor_mut(params: &mut [f32], at: At) -> &mut [f32] {
    assert_eq!(at.form, Form::Plain, "{at:?} is laid out for forward passes alone");
    &mut params[at.offset..at.offset + at.len]
}
/// The int8 weight of a tensor that is one.
fn codes(params: &[f32], at: At) -> Option<Matrix<'_>> {
    let Form::Codes { width, n, k } = at.form else { return None };
    Some(Matrix::new(&params[at.offset..at.offset + at.len], width, (n, k)))
}
fn table(params: &[f32], at: At) -> Table<'_> {
    codes(params, at).map_or_else(|| Table::Plain(tensor(params, at)), Table::Codes)
}
/// A tensor and one that lies behind it, both writable.
fn two_mut(params: &mut [f32], first: At, second: Option<At>) -> (&mut [f32], &mut [f32]) {
    let Some(second) = second else { return (tensor_mut(params, first), &mut []) };
    assert!(first.offset + first.len <= second.offset, "{second:?} must lie behind {first:?}");
    let (head, tail) = params.split_at_mut(second.offset);
    (tensor_mut(head, first), &mut tail[..second.len])
}

impl Backend for Cpu {
    type Buf = Vec<f32>;
    type Ids = Vec<u32>;
    type Mask = Tiles;
    const PEEKS: bool = true;

    fn buf(&self, len: usize) -> Vec<f32> {
        vec![0.0; len]
    }
    fn ids(&self, len: usize) -> Vec<u32> {
        vec![0; len]
    }
    fn write(&self, dst: &mut Vec<f32>, offset: usize, data: &[f32]) {
        dst[offset..offset + data.len()].copy_from_slice(data);
    }
    fn write_ids(&self, dst: &mut Vec<u32>, data: &[u32]) {
        dst[..data.len()].copy_from_slice(data);
    }
    fn peek(&self, x: &Vec<f32>, offset: usize, len: usize) -> Option<Vec<f32>> {
        Some(x[offset..offset + len].to_vec())
    }
    fn copy(&self, src: &Vec<f32>, src_at: usize, dst: &mut Vec<f32>, dst_at: usize, len: usize) {
        dst[dst_at..dst_at + len].copy_from_slice(&src[src_at..src_at + len]);
    }
    fn copy_columns(
        &self,
        src: &Vec<f32>,
        src_stride: usize,
        src_col: usize,
        dst: &mut Vec<f32>,
        dst_stride: usize,
        dst_col: usize,
        dst_row: usize,
        rows: usize,
        cols: usize,
    ) {
        for r in 0..rows {
            let to = (dst_row + r) * dst_stride + dst_col;
            dst[to..to + cols].copy_from_slice(&src[r * src_stride + src_col..][..cols]);
        }
    }
    fn mask(&self, rule: MaskRule, batch: usize, queries: &[Place], keys: &[Place]) -> Tiles {
        Tiles::new(rule, batch, queries, keys)
    }
    fn embed(
        &self,
        ids: &Vec<u32>,
        params: &Vec<f32>,
        table: At,
        scale: f32,
        out: &mut Vec<f32>,
        rows: usize,
        width: usize,
    ) {
        let (ids, out) = (&ids[..rows], &mut out[..rows * width]);
        let Some(codes) = codes(params, table) else {
            return embed::gather(tensor(params, table), ids, scale, out, width);
        };
        for (id, out) in ids.iter().zip(out.chunks_exact_mut(width)) {
            codes.row(*id as usize, out);
            if scale != 1.0 {
                out.iter_mut().for_each(|x| *x *= scale);
            }
        }
    }
    fn embed_mix(
        &self,
        ids: &Vec<u32>,
        weights: &Vec<f32>,
        params: &Vec<f32>,
        table: At,
        scale: f32,
        out: &mut Vec<f32>,
        rows: usize,
        k: usize,
        width: usize,
    ) {
        let (ids, weights) = (&ids[..rows * k], &weights[..rows * k]);
        embed::mix(tensor(params, table), ids, weights, scale, &mut out[..rows * width], width);
    }
    fn norm(
        &self,
        x: &Vec<f32>,
        params: &Vec<f32>,
        w: At,
        b: Option<At>,
        y: &mut Vec<f32>,
        shape: NormShape,
        accumulate: bool,
    ) {
        let b = b.map_or(&[][..], |b| tensor(params, b));
        norm::norm(x, tensor(params, w), b, y, shape, accumulate);
    }
    fn add_bias(&self, y: &mut Vec<f32>, params: &Vec<f32>, b: At, rows: usize, width: usize) {
        bias::add(&mut y[..rows * width], tensor(params, b));
    }
    fn linear(
        &self,
        x: &Vec<f32>,
        params: &Vec<f32>,
        w: At,
        y: &mut Vec<f32>,
        m: usize,
        n: usize,
        k: usize,
        accumulate: bool,
    ) {
        match (w.form, codes(params, w)) {
            (Form::Panels(width), _) => {
                gemm::panels::nt(x, &params[w.offset..][..w.len], width, y, (m, n, k), accumulate)
            }
            (_, Some(codes)) => {
                assert_eq!(codes.shape(), (n, k), "{w:?} as a weight of another shape");
                codes.nt(x, y, m, accumulate)
            }
            _ => gemm::nt(x, tensor(params, w), y, m, n, k, accumulate),
        }
    }
    fn prepare(&self, params: &mut Vec<f32>, w: At, n: usize, k: usize) -> At {
        // not in WASM: not measured there
        let panel = if cfg!(target_arch = "wasm32") { 0 } else { gemm::panels::width(n) };
        if panel > 0 && w.form == Form::Plain {
            gemm::panels::pack(tensor_mut(params, w), n, k, panel);
            return At { form: Form::Panels(panel), ..w };
        }
        w
    }
    fn codes_width(&self) -> Option<usize> {
        Some(quant::width())
    }
    fn rope(&self, x: &mut Vec<f32>, positions: &Vec<u32>, shape: RopeShape) {
        rope::rope(x, positions, shape, false);
    }
    fn attention(
        &self,
        q: &Vec<f32>,
        kv: &Vec<f32>,
        mask: &Tiles,
        out: &mut Vec<f32>,
        lse: &mut Vec<f32>,
        shape: AttentionShape,
    ) {
        attention(q, kv, mask, out, lse, shape);
    }
    fn glu(&self, gate: Gate, gate_up: &Vec<f32>, y: &mut Vec<f32>, rows: usize, width: usize) {
        glu::glu(gate, &gate_up[..2 * rows * width], &mut y[..rows * width], width);
    }
    fn gelu(&self, x: &Vec<f32>, y: &mut Vec<f32>, n: usize) {
        gelu::forward(&x[..n], &mut y[..n]);
    }
    fn gather(&self, x: &Vec<f32>, rows: &Vec<u32>, out: &mut Vec<f32>, n: usize, width: usize) {
        embed::gather(x, &rows[..n], 1.0, &mut out[..n * width], width);
    }
    fn heads(
        &self,
        hidden: &Vec<f32>,
        params: &Vec<f32>,
        at: At,
        keys: &Vec<u32>,
        out: &mut Vec<f32>,
        jobs: &[HeadJob],
    ) {
        head::statistics(hidden, table(params, at), keys, out, jobs);
    }
}

impl Train for Cpu {
    fn linear_backward_input(
        &self,
        dy: &Vec<f32>,
        params: &Vec<f32>,
        w: At,
        dx: &mut Vec<f32>,
        m: usize,
        n: usize,
        k: usize,
    ) {
        gemm::nn(dy, tensor(params, w), dx, m, n, k, false);
    }
    fn linear_backward_weight(
        &self,
        dy: &Vec<f32>,
        x: &Vec<f32>,
        grads: &mut Vec<f32>,
        w: At,
        m: usize,
        n: usize,
        k: usize,
    ) {
        gemm::tn(dy, x, tensor_mut(grads, w), m, n, k);
    }
    fn norm_backward(
        &self,
        dy: &Vec<f32>,
        x: &Vec<f32>,
        params: &Vec<f32>,
        w: At,
        b: Option<At>,
        dx: &mut Vec<f32>,
        grads: &mut Vec<f32>,
        shape: NormShape,
    ) {
        let (dw, db) = two_mut(grads, w, b);
        norm::norm_backward(dy, x, tensor(params, w), dx, dw, db, shape);
    }
    fn add_bias_backward(&self, dy: &Vec<f32>, grads: &mut Vec<f32>, b: At, rows: usize, width: usize) {
        bias::backward(&dy[..rows * width], tensor_mut(grads, b));
    }
    fn rope_backward(&self, dx: &mut Vec<f32>, positions: &Vec<u32>, shape: RopeShape) {
        rope::rope(dx, positions, shape, true);
    }
    fn attention_backward(
        &self,
        d_out: &Vec<f32>,
        qkv: &Vec<f32>,
        out: &Vec<f32>,
        lse: &Vec<f32>,
        mask: &Tiles,
        d_qkv: &mut Vec<f32>,
        shape: AttentionShape,
    ) {
        attention_backward(d_out, qkv, out, lse, mask, d_qkv, shape);
    }
    fn glu_backward(
        &self,
        gate: Gate,
        dy: &Vec<f32>,
        gate_up: &Vec<f32>,
        d: &mut Vec<f32>,
        rows: usize,
        width: usize,
    ) {
        let n = rows * width;
        glu::glu_backward(gate, &dy[..n], &gate_up[..2 * n], &mut d[..2 * n], width);
    }
    fn gelu_backward(&self, dy: &Vec<f32>, x: &Vec<f32>, d: &mut Vec<f32>, n: usize) {
        gelu::backward(&dy[..n], &x[..n], &mut d[..n]);
    }
    fn embed_backward(
        &self,
        ids: &Vec<u32>,
        d: &Vec<f32>,
        grads: &mut Vec<f32>,
        table: At,
        scale: f32,
        rows: usize,
        width: usize,
    ) {
        embed::scatter_add(&d[..rows * width], &ids[..rows], scale, tensor_mut(grads, table), width);
    }
    fn embed_mix_backward(
        &self,
        ids: &Vec<u32>,
        weights: &Vec<f32>,
        d: &Vec<f32>,
        params: &Vec<f32>,
        table: At,
        scale: f32,
        d_weights: &mut Vec<f32>,
        grads: &mut Vec<f32>,
        rows: usize,
        k: usize,
        width: usize,
    ) {
        let (ids, d, n) = (&ids[..rows * k], &d[..rows * width], rows * k);
        embed::mix_weights(tensor(params, table), ids, d, scale, &mut d_weights[..n], width);
        embed::mix_table(ids, &weights[..n], d, scale, tensor_mut(grads, table), width);
    }
    fn scatter(&self, d: &Vec<f32>, rows: &Vec<u32>, out: &mut Vec<f32>, n: usize, width: usize) {
        out.fill(0.0);
        embed::scatter_add(&d[..n * width], &rows[..n], 1.0, out, width);
    }
    fn head_loss(
        &self,
        hidden: &Vec<f32>,
        params: &Vec<f32>,
        at: At,
        rows: &[LossRow],
        forbid: &[u32],
        width: usize,
        backward: Option<(&mut Vec<f32>, &mut Vec<f32>)>,
    ) -> Losses {
        let backward = backward.map(|(dh, g)| (&mut dh[..], tensor_mut(g, at)));
        head::loss(hidden, table(params, at), rows, forbid, width, backward)
    }
    fn head_distill(
        &self,
        hidden: &Vec<f32>,
        params: &Vec<f32>,
        table: At,
        width: usize,
        t: TeacherRows<'_, Vec<f32>>,
        slopes: &[f32],
        forbid: &[u32],
        temperature: f32,
        backward: Option<(&mut Vec<f32>, &mut Vec<f32>)>,
    ) -> Vec<f32> {
        let backward = backward.map(|(dh, g)| (&mut dh[..], tensor_mut(g, table)));
        let teacher = Teacher { hidden: t.hidden, table: tensor(t.params, t.table), width: t.width };
        head::distill(hidden, tensor(params, table), width, teacher, slopes, forbid, temperature, backward)
    }
    fn pairs(&self, mask: &Tiles, batch: usize) -> u64 {
        mask.pairs(batch)
    }
    fn zero(&self, x: &mut Vec<f32>) {
        x.fill(0.0);
    }
    fn sum_squares(&self, x: &Vec<f32>) -> f64 {
        reduce::sum_squares(x)
    }
    fn adamw(
        &self,
        w: &mut Vec<f32>,
        g: &Vec<f32>,
        m: &mut Vec<f32>,
        v: &mut Vec<f32>,
        ema: Option<&mut Vec<f32>>,
        step: AdamStep,
    ) {
        adamw(w, g, m, v, ema.map(|e| &mut e[..]), step);
    }
    fn read(&self, x: &Vec<f32>) -> Vec<f32> {
        x.clone()
    }
    fn read_range(&self, x: &Vec<f32>, offset: usize, len: usize) -> Vec<f32> {
        x[offset..offset + len].to_vec()
    }
}
