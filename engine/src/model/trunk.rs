//! The backbone, forward and backward, written once for every back end.
//!
//! ```text
//! x = E[ids]
//! per layer: x += Wo attention(rope(Wqkv norm1(x)));  x += Wd swiglu(Wgu norm2(x))
//! hidden = norm(x)                                    the head reads rows of it
//! ```
//! Rows N = batch * length, width D. A training plan keeps per layer x, qkv, attention output, log-sum-exp, the
//! middle x and gate_up; norms and the gated product are recomputed in the backward pass (two per cent of the
//! time, a quarter of the memory). An inference plan has one set of buffers for all layers.

use hilda_kernels::head::LossRow;
use hilda_kernels::{AttentionShape, Backend, RopeShape, Train};

use super::Layout;
use crate::config::ModelConfig;

/// The model's shape and tensor places; holds no numbers.
#[derive(Clone, Debug)]
pub struct Trunk {
    pub config: ModelConfig,
    pub layout: Layout,
}

/// Sequences of one forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub batch: usize,
    /// rows per sequence
    pub len: usize,
}

impl Shape {
    pub fn rows(&self) -> usize {
        self.batch * self.len
    }
}

struct LayerActs<B: Backend> {
    x: B::Buf,
    qkv: B::Buf,
    att: B::Buf,
    lse: B::Buf,
    mid: B::Buf,
    gate_up: B::Buf,
}

/// Every buffer of a step, allocated once.
pub struct Plan<B: Backend> {
    layers: Vec<LayerActs<B>>,
    capacity: usize,
    h: B::Buf,
    act: B::Buf,
    last: B::Buf,
    /// final-norm hidden rows [rows + 1, width]; the extra row is free for the session's carry
    pub hidden: B::Buf,
    back: Option<Backward<B>>,
    bytes: usize,
}

struct Backward<B: Backend> {
    dx: B::Buf,
    dh: B::Buf,
    d_att: B::Buf,
    d_qkv: B::Buf,
    d_gate_up: B::Buf,
    d_act: B::Buf,
    d_hidden: B::Buf,
    rows: B::Buf,
    d_rows: B::Buf,
    index: B::Ids,
    head_rows: usize,
}

/// Keys and values of finished positions, one buffer per layer: [capacity, 2 kv_heads head_dim].
pub struct Cache<B: Backend> {
    layers: Vec<B::Buf>,
    pub capacity: usize,
}

impl Trunk {
    pub fn new(config: ModelConfig) -> Trunk {
        let layout = Layout::new(&config);
        Trunk { config, layout }
    }

    /// Buffers for up to `rows` rows; `train` keeps activations of every layer and adds gradients.
    pub fn plan<B: Backend>(&self, b: &B, rows: usize, train: bool) -> Plan<B> {
        let c = &self.config;
        let mut total = 0;
        let mut buf = |len: usize| {
            total += 4 * len;
            b.buf(len)
        };
        let (n, d, a) = (rows, c.width, c.heads * c.head_dim);
        let layers = (0..if train { c.layers } else { 1 })
            .map(|_| LayerActs {
                x: buf(n * d),
                qkv: buf(n * c.qkv()),
                att: buf(n * a),
                lse: buf(n * c.heads),
                mid: buf(n * d),
                gate_up: buf(n * 2 * c.mlp),
            })
            .collect();
        let (h, act, last, hidden) = (buf(n * d), buf(n * c.mlp), buf(n * d), buf((n + 1) * d));
        let back = train.then(|| Backward {
            dx: buf(n * d),
            dh: buf(n * d),
            d_att: buf(n * a),
            d_qkv: buf(n * c.qkv()),
            d_gate_up: buf(n * 2 * c.mlp),
            d_act: buf(n * c.mlp),
            d_hidden: buf(n * d),
            rows: buf(n * d),
            d_rows: buf(n * d),
            index: b.ids(n),
            head_rows: n,
        });
        Plan { layers, capacity: rows, h, act, last, hidden, back, bytes: total }
    }

    pub fn cache<B: Backend>(&self, b: &B, capacity: usize) -> Cache<B> {
        let width = 2 * self.config.kv_heads * self.config.head_dim;
        Cache { layers: (0..self.config.layers).map(|_| b.buf(capacity * width)).collect(), capacity }
    }

    fn attention_shape(&self, s: Shape) -> AttentionShape {
        let c = &self.config;
        AttentionShape {
            batch: s.batch,
            q_len: s.len,
            k_len: s.len,
            heads: c.heads,
            kv_heads: c.kv_heads,
            head_dim: c.head_dim,
            scale: 1.0 / (c.head_dim as f32).sqrt(),
            q_stride: c.qkv(),
            q_col: 0,
            kv_stride: c.qkv(),
            k_col: c.heads * c.head_dim,
            v_col: (c.heads + c.kv_heads) * c.head_dim,
        }
    }

    fn rope_shape(&self, rows: usize) -> RopeShape {
        let c = &self.config;
        RopeShape {
            rows,
            stride: c.qkv(),
            col: 0,
            heads: c.heads + c.kv_heads,
            head_dim: c.head_dim,
            theta: c.rope_theta,
        }
    }

    /// Fills `plan.hidden`. `mask` covers the keys: the sequence itself, or with `cache = (cache, cached)` the
    /// `cached` finished positions followed by the sequence (batch 1), whose keys and values are written behind
    /// them.
    pub fn forward<B: Backend>(
        &self,
        b: &B,
        params: &B::Buf,
        plan: &mut Plan<B>,
        ids: &B::Ids,
        positions: &B::Ids,
        mask: &B::Mask,
        shape: Shape,
        mut cache: Option<(&mut Cache<B>, usize)>,
    ) {
        let c = &self.config;
        let (n, d, a) = (shape.rows(), c.width, c.heads * c.head_dim);
        assert!(n <= plan.capacity, "plan holds {} rows, asked for {n}", plan.capacity);
        let kv = c.kv_heads * c.head_dim;
        b.embed(ids, params, self.layout.embed, &mut plan.layers[0].x, n, d);
        let kept = plan.layers.len();
        for (i, w) in self.layout.layers.iter().enumerate() {
            let l = &mut plan.layers[i % kept];
            b.rms_norm(&l.x, params, w.norm1, &mut plan.h, n, d, c.norm_eps);
            b.linear(&plan.h, params, w.qkv, &mut l.qkv, n, c.qkv(), d, false);
            b.rope(&mut l.qkv, positions, self.rope_shape(n));
            let mut s = self.attention_shape(shape);
            match &mut cache {
                None => b.attention(&l.qkv, &l.qkv, mask, &mut l.att, &mut l.lse, s),
                Some((cache, cached)) => {
                    let store = &mut cache.layers[i];
                    b.copy_columns(&l.qkv, c.qkv(), a, store, 2 * kv, 0, *cached, n, 2 * kv);
                    (s.k_len, s.kv_stride, s.k_col, s.v_col) = (*cached + n, 2 * kv, 0, kv);
                    b.attention(&l.qkv, store, mask, &mut l.att, &mut l.lse, s);
                }
            }
            b.copy(&l.x, 0, &mut l.mid, 0, n * d);
            b.linear(&l.att, params, w.out, &mut l.mid, n, d, a, true);
            b.rms_norm(&l.mid, params, w.norm2, &mut plan.h, n, d, c.norm_eps);
            b.linear(&plan.h, params, w.gate_up, &mut l.gate_up, n, 2 * c.mlp, d, false);
            b.swiglu(&l.gate_up, &mut plan.act, n, c.mlp);
            let last = i + 1 == c.layers;
            let (head, tail) = plan.layers.split_at_mut(i % kept + 1);
            let l = &mut head[i % kept];
            let next = match (last, tail.first_mut()) {
                (true, _) => &mut plan.last,
                (false, Some(next)) => &mut next.x,
                (false, None) => &mut l.x,
            };
            b.copy(&l.mid, 0, next, 0, n * d);
            b.linear(&plan.act, params, w.down, next, n, d, c.mlp, true);
        }
        b.rms_norm(&plan.last, params, self.layout.norm, &mut plan.hidden, n, d, c.norm_eps);
    }

    /// Head on `rows` = (hidden row, request): log-probabilities and entropies, no gradient.
    pub fn log_probs<B: Train>(
        &self,
        b: &B,
        params: &B::Buf,
        plan: &Plan<B>,
        hidden_rows: &[u32],
        rows: &[LossRow],
    ) -> (Vec<f32>, Vec<f32>) {
        let c = &self.config;
        let mut index = b.ids(hidden_rows.len());
        b.write_ids(&mut index, hidden_rows);
        let mut gathered = b.buf(hidden_rows.len() * c.width);
        b.gather(&plan.hidden, &index, &mut gathered, hidden_rows.len(), c.width);
        b.head_loss(&gathered, params, self.layout.embed, rows, &c.forbid, c.width, None)
    }

    /// Head forward and backward on chosen rows, then the trunk's backward pass: gradients are added to `grads`.
    /// Returns (log p of the target, entropy) per row. Must follow `forward` on the same plan and inputs.
    pub fn backward<B: Train>(
        &self,
        b: &B,
        params: &B::Buf,
        grads: &mut B::Buf,
        plan: &mut Plan<B>,
        ids: &B::Ids,
        positions: &B::Ids,
        mask: &B::Mask,
        shape: Shape,
        hidden_rows: &[u32],
        rows: &[LossRow],
    ) -> (Vec<f32>, Vec<f32>) {
        let c = &self.config;
        let (n, d, a) = (shape.rows(), c.width, c.heads * c.head_dim);
        let k = rows.len();
        let bw = plan.back.as_mut().expect("a training plan");
        if bw.head_rows < k {
            // several targets per row (complementary views, editing): grow once
            (bw.rows, bw.d_rows, bw.index, bw.head_rows) = (b.buf(k * d), b.buf(k * d), b.ids(k), k);
        }
        b.write_ids(&mut bw.index, hidden_rows);
        b.gather(&plan.hidden, &bw.index, &mut bw.rows, k, d);
        let out = b.head_loss(
            &bw.rows,
            params,
            self.layout.embed,
            rows,
            &c.forbid,
            d,
            Some((&mut bw.d_rows, grads)),
        );
        b.scatter(&bw.d_rows, &bw.index, &mut bw.d_hidden, k, d);
        b.zero(&mut bw.dx);
        b.rms_norm_backward(
            &bw.d_hidden,
            &plan.last,
            params,
            self.layout.norm,
            &mut bw.dx,
            grads,
            n,
            d,
            c.norm_eps,
        );
        for (i, w) in self.layout.layers.iter().enumerate().rev() {
            let l = &plan.layers[i];
            b.linear_backward_input(&bw.dx, params, w.down, &mut bw.d_act, n, d, c.mlp);
            b.swiglu(&l.gate_up, &mut plan.act, n, c.mlp);
            b.linear_backward_weight(&bw.dx, &plan.act, grads, w.down, n, d, c.mlp);
            b.swiglu_backward(&bw.d_act, &l.gate_up, &mut bw.d_gate_up, n, c.mlp);
            b.rms_norm(&l.mid, params, w.norm2, &mut plan.h, n, d, c.norm_eps);
            b.linear_backward_weight(&bw.d_gate_up, &plan.h, grads, w.gate_up, n, 2 * c.mlp, d);
            b.linear_backward_input(&bw.d_gate_up, params, w.gate_up, &mut bw.dh, n, 2 * c.mlp, d);
            b.rms_norm_backward(&bw.dh, &l.mid, params, w.norm2, &mut bw.dx, grads, n, d, c.norm_eps);

            b.linear_backward_weight(&bw.dx, &l.att, grads, w.out, n, d, a);
            b.linear_backward_input(&bw.dx, params, w.out, &mut bw.d_att, n, d, a);
            b.attention_backward(
                &bw.d_att,
                &l.qkv,
                &l.att,
                &l.lse,
                mask,
                &mut bw.d_qkv,
                self.attention_shape(shape),
            );
            b.rope_backward(&mut bw.d_qkv, positions, self.rope_shape(n));
            b.rms_norm(&l.x, params, w.norm1, &mut plan.h, n, d, c.norm_eps);
            b.linear_backward_weight(&bw.d_qkv, &plan.h, grads, w.qkv, n, c.qkv(), d);
            b.linear_backward_input(&bw.d_qkv, params, w.qkv, &mut bw.dh, n, c.qkv(), d);
            b.rms_norm_backward(&bw.dh, &l.x, params, w.norm1, &mut bw.dx, grads, n, d, c.norm_eps);
        }
        b.embed_backward(ids, &bw.dx, grads, self.layout.embed, n, d);
        out
    }

    /// Matrix-product and attention FLOPs of one training step (forward and backward; recomputation and skipped
    /// tiles not counted): 6 per weight and row, 12 head_dim per (query, key, head) pair, head on `head_rows`.
    pub fn train_flops(&self, rows: usize, pairs: u64, head_rows: usize) -> f64 {
        let c = &self.config;
        let layer = c.qkv() * c.width + c.heads * c.head_dim * c.width + 3 * c.mlp * c.width;
        let linear = 6.0 * rows as f64 * (c.layers * layer) as f64;
        let attention = 12.0 * pairs as f64 * (c.layers * c.heads * c.head_dim) as f64;
        linear + attention + 6.0 * head_rows as f64 * (c.vocab * c.width) as f64
    }
}

impl<B: Backend> Plan<B> {
    /// Bytes of all buffers.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
    /// Rows the plan can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}
