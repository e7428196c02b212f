//! Where numbers live and who computes with them: one trait, several devices.
//!
//! A back end owns f32 buffers ([`Backend::Buf`]), u32 buffers ([`Backend::Ids`]) and compiled attention masks
//! ([`Backend::Mask`]). Models are written once against [`Backend`] (forward) and [`Train`] (backward).
//! All matrices are row-major and packed; `At` names a tensor inside a larger buffer.

pub mod cpu;
// without the feature everything but the driver is still tested
#[cfg(all(not(target_arch = "wasm32"), any(feature = "cuda", test)))]
pub mod cuda;
#[cfg(feature = "web")]
pub mod web;

use crate::adam::AdamStep;
use crate::attention::rule::{MaskRule, Place};
use crate::glu::Gate;
use crate::head::{LossRow, Losses};
use crate::norm::NormShape;

/// A tensor inside a buffer: `len` values from `offset`. Offsets are multiples of 64 (WebGPU binds at 256 bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct At {
    pub offset: usize,
    pub len: usize,
    pub form: Form,
}

/// How a tensor lies in its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Form {
    /// as it is stored
    #[default]
    Plain,
    /// a weight in panels of so many outputs ([`Backend::prepare`])
    Panels(usize),
    /// an int8 weight [n, k] in panels of so many outputs ([`crate::quant::Matrix`]), for products in integers on the CPU
    Codes { width: usize, n: usize, k: usize },
    /// an int8 weight in rows of words ([`crate::quant::rows8`]), which the shaders of WebGPU turn into f32 on the way
    Rows8,
}

impl At {
    pub fn new(offset: usize, len: usize) -> At {
        At { offset, len, form: Form::Plain }
    }
}

/// Shape of one attention call over `batch` independent sequences.
///
/// Queries are rows `[batch * q_len, q_stride]` from row `row` on, with head h at column `q_col + h * head_dim`; keys and
/// values are rows `[batch * k_len, kv_stride]` at columns `k_col` and `v_col` (+ kv head * head_dim), which may lie in a
/// later row than the first. What a query yields
/// goes into its own row, so that calls for sequences of one forward share their buffers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// first row of the queries, and of what they yield; 0 in a backward pass
    pub row: usize,
    pub batch: usize,
    pub q_len: usize,
    pub k_len: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub scale: f32,
    pub q_stride: usize,
    pub q_col: usize,
    pub kv_stride: usize,
    pub k_col: usize,
    pub v_col: usize,
}

/// Rotary embedding of `heads` heads starting at column `col` of rows `[rows, stride]` (half-split layout:
/// component i pairs with i + head_dim / 2; angle = position * theta^(-2 i / head_dim)).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeShape {
    pub rows: usize,
    pub stride: usize,
    pub col: usize,
    pub heads: usize,
    pub head_dim: usize,
    pub theta: f32,
}

/// What the head is asked for, for each of `rows` hidden rows.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadJob {
    pub rows: usize,
    pub width: usize,
    pub vocab: usize,
    /// how many most probable tokens to report, at most [`crate::head::MAX_TOP_K`]
    pub top_k: usize,
    /// 0 = the candidate is the argmax; else it is drawn from softmax(z / temperature) by the keyed race
    pub temperature: f32,
    pub seed: u64,
    /// ids removed from the softmax (the mask id and other specials); few, so a list
    pub forbid: Vec<u32>,
}

impl HeadJob {
    /// Values of its statistics.
    pub fn values(&self) -> usize {
        self.rows * (crate::head::STATS + 2 * self.top_k)
    }
}

/// Checks that `jobs` can share a product and gives (rows, values of statistics) of all of them.
///
/// # Panics
/// Jobs over different tables, or that rank more than [`crate::head::MAX_TOP_K`] ids.
pub(crate) fn joined(jobs: &[HeadJob]) -> (usize, usize) {
    for job in jobs {
        assert!(job.top_k <= crate::head::MAX_TOP_K && job.vocab > 0, "head: {job:?}");
        let (first, same) = (&jobs[0], |a: &HeadJob, b: &HeadJob| (a.width, a.vocab) == (b.width, b.vocab));
        assert!(same(first, job) && first.forbid == job.forbid, "head: {first:?} and {job:?} share no table");
    }
    (jobs.iter().map(|j| j.rows).sum(), jobs.iter().map(HeadJob::values).sum())
}

/// The hidden rows [rows, width] of a teacher and its table of the same vocabulary.
#[derive(Debug)]
pub struct TeacherRows<'a, Buf> {
    pub hidden: &'a Buf,
    pub params: &'a Buf,
    pub table: At,
    pub width: usize,
}

// derived, these would ask the same of Buf
impl<Buf> Copy for TeacherRows<'_, Buf> {}
impl<Buf> Clone for TeacherRows<'_, Buf> {
    fn clone(&self) -> Self {
        *self
    }
}

/// Forward operations. Everything is asynchronous in spirit: a GPU back end may only record here and run at
/// the next read; reads are therefore not part of the trait (each device has its own `read`), but for
/// [`Backend::peek`] where a device can answer in the middle of a forward.
pub trait Backend {
    type Buf;
    type Ids;
    type Mask;
    /// Does [`Backend::peek`] answer?
    const PEEKS: bool = false;

    /// A zeroed f32 buffer.
    fn buf(&self, len: usize) -> Self::Buf;
    /// A zeroed u32 buffer.
    fn ids(&self, len: usize) -> Self::Ids;
    fn write(&self, dst: &mut Self::Buf, offset: usize, data: &[f32]);
    fn write_ids(&self, dst: &mut Self::Ids, data: &[u32]);
    /// `len` values from `offset` on the host, after all that was asked before; None where a read has to be awaited
    /// (WebGPU, see [`Backend::PEEKS`]).
    fn peek(&self, _x: &Self::Buf, _offset: usize, _len: usize) -> Option<Vec<f32>> {
        None
    }
    /// dst[dst_at..][..len] = src[src_at..][..len]
    fn copy(&self, src: &Self::Buf, src_at: usize, dst: &mut Self::Buf, dst_at: usize, len: usize);
    /// Copies `cols` columns of each row: dst[r * dst_stride + dst_col ..] = src[r * src_stride + src_col ..],
    /// destination rows starting at `dst_row`; `src_col` may lie in a later row than the first. Fills key/value caches.
    #[allow(clippy::too_many_arguments)]
    fn copy_columns(
        &self,
        src: &Self::Buf,
        src_stride: usize,
        src_col: usize,
        dst: &mut Self::Buf,
        dst_stride: usize,
        dst_col: usize,
        dst_row: usize,
        rows: usize,
        cols: usize,
    );
    /// Compiles `rule` for every (sequence, query, key). `queries` is [batch * q_len], `keys` [batch * k_len].
    fn mask(&self, rule: MaskRule, batch: usize, queries: &[Place], keys: &[Place]) -> Self::Mask;

    /// out[r] = scale table[ids[r]], [rows, width]
    #[allow(clippy::too_many_arguments)]
    fn embed(
        &self,
        ids: &Self::Ids,
        params: &Self::Buf,
        table: At,
        scale: f32,
        out: &mut Self::Buf,
        rows: usize,
        width: usize,
    );
    /// Soft embeddings: out[r] = scale sum_k weights[r, k] table[ids[r, k]]; ids and weights are [rows, k].
    #[allow(clippy::too_many_arguments)]
    fn embed_mix(
        &self,
        ids: &Self::Ids,
        weights: &Self::Buf,
        params: &Self::Buf,
        table: At,
        scale: f32,
        out: &mut Self::Buf,
        rows: usize,
        k: usize,
        width: usize,
    );
    /// y = norm(x) w + b (+ y if `accumulate`), see [`crate::norm`]
    #[allow(clippy::too_many_arguments)]
    fn norm(
        &self,
        x: &Self::Buf,
        params: &Self::Buf,
        w: At,
        b: Option<At>,
        y: &mut Self::Buf,
        shape: NormShape,
        accumulate: bool,
    );
    /// y[r] += b, [rows, width]
    fn add_bias(&self, y: &mut Self::Buf, params: &Self::Buf, b: At, rows: usize, width: usize);
    /// y[m, n] = x[m, k] w[n, k]^T (+ y if `accumulate`): a linear layer with the weight stored [out, in]
    #[allow(clippy::too_many_arguments)]
    fn linear(
        &self,
        x: &Self::Buf,
        params: &Self::Buf,
        w: At,
        y: &mut Self::Buf,
        m: usize,
        n: usize,
        k: usize,
        accumulate: bool,
    );
    /// Lays the weight [n, k] of a linear layer out anew, in place, for a model that only computes forward passes, and
    /// returns how [`Backend::linear`] finds it; nothing else may read it then. Devices without a better layout leave it.
    fn prepare(&self, params: &mut Self::Buf, w: At, n: usize, k: usize) -> At {
        let _ = (params, n, k);
        w
    }
    /// Does the device read int8 rows ([`Form::Rows8`])?
    fn reads_rows8(&self) -> bool {
        false
    }
    /// Outputs of a panel of int8 weights ([`Form::Codes`]), where the device multiplies in integers.
    fn codes_width(&self) -> Option<usize> {
        None
    }
    /// Rotates in place; `positions` is [rows].
    fn rope(&self, x: &mut Self::Buf, positions: &Self::Ids, shape: RopeShape);
    /// out[batch * q_len, heads * head_dim]; `lse` [batch * q_len, heads] receives the log-sum-exp of the scores; both from
    /// row `shape.row` on. A query that may see nothing yields zeros.
    #[allow(clippy::too_many_arguments)]
    fn attention(
        &self,
        q: &Self::Buf,
        kv: &Self::Buf,
        mask: &Self::Mask,
        out: &mut Self::Buf,
        lse: &mut Self::Buf,
        shape: AttentionShape,
    );
    /// y[r, i] = f(gate_up[r, i]) * gate_up[r, width + i]; gate_up is [rows, 2 * width]
    fn glu(&self, gate: Gate, gate_up: &Self::Buf, y: &mut Self::Buf, rows: usize, width: usize);
    /// y[i] = gelu(x[i]) for the first `n` values
    fn gelu(&self, x: &Self::Buf, y: &mut Self::Buf, n: usize);
    /// out[i] = x[rows[i]], [n, width]
    fn gather(&self, x: &Self::Buf, rows: &Self::Ids, out: &mut Self::Buf, n: usize, width: usize);
    /// Statistics of softmax(hidden table^T) per row, never the logits: see [`crate::head`] for the layout of
    /// `out`. `keys` is [rows, 4]: position, step, sequence (for the race) and the current token id.
    fn head(
        &self,
        hidden: &Self::Buf,
        params: &Self::Buf,
        table: At,
        keys: &Self::Ids,
        out: &mut Self::Buf,
        job: &HeadJob,
    ) {
        self.heads(hidden, params, table, keys, out, std::slice::from_ref(job));
    }
    /// [`Backend::head`] for jobs over consecutive rows, drawn and ranked each in its own way; of one width, vocabulary and
    /// list of forbidden ids. The statistics of a job follow those of the job before.
    fn heads(
        &self,
        hidden: &Self::Buf,
        params: &Self::Buf,
        table: At,
        keys: &Self::Ids,
        out: &mut Self::Buf,
        jobs: &[HeadJob],
    );
}

/// Backward operations and the optimiser, for devices that train.
#[allow(clippy::too_many_arguments)]
pub trait Train: Backend {
    /// dx[m, k] = dy[m, n] w[n, k]
    fn linear_backward_input(
        &self,
        dy: &Self::Buf,
        params: &Self::Buf,
        w: At,
        dx: &mut Self::Buf,
        m: usize,
        n: usize,
        k: usize,
    );
    /// dw[n, k] += dy[m, n]^T x[m, k]
    fn linear_backward_weight(
        &self,
        dy: &Self::Buf,
        x: &Self::Buf,
        grads: &mut Self::Buf,
        w: At,
        m: usize,
        n: usize,
        k: usize,
    );
    /// dx += input gradient; the gradients of weight and bias are added in `grads`. dy lies as y does, dx as x.
    fn norm_backward(
        &self,
        dy: &Self::Buf,
        x: &Self::Buf,
        params: &Self::Buf,
        w: At,
        b: Option<At>,
        dx: &mut Self::Buf,
        grads: &mut Self::Buf,
        shape: NormShape,
    );
    /// grads[b] += sum_r dy[r]
    fn add_bias_backward(&self, dy: &Self::Buf, grads: &mut Self::Buf, b: At, rows: usize, width: usize);
    fn rope_backward(&self, dx: &mut Self::Buf, positions: &Self::Ids, shape: RopeShape);
    /// d_qkv is overwritten; queries, keys and values share `qkv`
    fn attention_backward(
        &self,
        d_out: &Self::Buf,
        qkv: &Self::Buf,
        out: &Self::Buf,
        lse: &Self::Buf,
        mask: &Self::Mask,
        d_qkv: &mut Self::Buf,
        shape: AttentionShape,
    );
    /// d [rows, 2 width] is overwritten
    fn glu_backward(
        &self,
        gate: Gate,
        dy: &Self::Buf,
        gate_up: &Self::Buf,
        d: &mut Self::Buf,
        rows: usize,
        width: usize,
    );
    /// d[i] = dy[i] gelu'(x[i]) for the first `n` values
    fn gelu_backward(&self, dy: &Self::Buf, x: &Self::Buf, d: &mut Self::Buf, n: usize);
    /// grads[table][ids[r]] += scale d[r]
    fn embed_backward(
        &self,
        ids: &Self::Ids,
        d: &Self::Buf,
        grads: &mut Self::Buf,
        table: At,
        scale: f32,
        rows: usize,
        width: usize,
    );
    /// d_weights[r, k] = scale <d[r], table[ids[r, k]]>; grads[table][ids[r, k]] += scale weights[r, k] d[r]
    fn embed_mix_backward(
        &self,
        ids: &Self::Ids,
        weights: &Self::Buf,
        d: &Self::Buf,
        params: &Self::Buf,
        table: At,
        scale: f32,
        d_weights: &mut Self::Buf,
        grads: &mut Self::Buf,
        rows: usize,
        k: usize,
        width: usize,
    );
    /// out = 0; out[rows[i]] += d[i]: the gradient of `gather`
    fn scatter(&self, d: &Self::Buf, rows: &Self::Ids, out: &mut Self::Buf, n: usize, width: usize);
    /// Log-probability of the target, entropy and divergence per row; with `backward` = (d_hidden, grads) the head's backward
    /// pass runs on the same tiles (see [`crate::head::loss`]).
    fn head_loss(
        &self,
        hidden: &Self::Buf,
        params: &Self::Buf,
        table: At,
        rows: &[LossRow],
        forbid: &[u32],
        width: usize,
        backward: Option<(&mut Self::Buf, &mut Self::Buf)>,
    ) -> Losses;
    /// KL(teacher || head) per row at `temperature`, `slopes` = dL / dKL; with `backward` = (d_hidden, grads) the gradient
    /// of the head's own side (see [`crate::head::distill`]).
    fn head_distill(
        &self,
        hidden: &Self::Buf,
        params: &Self::Buf,
        table: At,
        width: usize,
        teacher: TeacherRows<'_, Self::Buf>,
        slopes: &[f32],
        forbid: &[u32],
        temperature: f32,
        backward: Option<(&mut Self::Buf, &mut Self::Buf)>,
    ) -> Vec<f32>;
    /// (query, key) pairs that the mask leaves to compute, for FLOP counts
    fn pairs(&self, mask: &Self::Mask, batch: usize) -> u64;
    fn zero(&self, x: &mut Self::Buf);
    fn sum_squares(&self, x: &Self::Buf) -> f64;
    fn adamw(
        &self,
        w: &mut Self::Buf,
        g: &Self::Buf,
        m: &mut Self::Buf,
        v: &mut Self::Buf,
        ema: Option<&mut Self::Buf>,
        step: AdamStep,
    );
    /// The whole buffer on the host.
    fn read(&self, x: &Self::Buf) -> Vec<f32>;
    /// Part of a buffer on the host.
    fn read_range(&self, x: &Self::Buf, offset: usize, len: usize) -> Vec<f32>;
    /// Bytes that a device with memory of its own has set aside so far; None where that is the process's memory.
    fn allocated(&self) -> Option<u64> {
        None
    }
    /// What went wrong first on a device that can fail in the middle of its work. Nothing was computed since then.
    fn failure(&self) -> Option<String> {
        None
    }
}
