//! The backbone, forward, written once for every back end and every family.
//!
//! ```text
//! x = E[ids]
//! per layer: x += Wo attention(rope(Wqkv norm1(x)));  x += Wd swiglu(Wgu norm2(x))
//! hidden = norm(x)                                    the head reads rows of it
//! ```
//! with what a family adds ([`crate::config::Arch`]): biases, norms of query and key heads, norms behind both parts,
//! another activation, sliding layers. Rows N = batch * length, width D. What a plan keeps is its [`Keep`](super::Keep): per layer x,
//! qkv, attention output, log-sum-exp, the middle x and gate_up, or x alone, or nothing. Norms and the activation are
//! always recomputed in the backward pass (two per cent of the time, a quarter of the memory).

use hilda_kernels::head::LossRow;
use hilda_kernels::{
    At, AttentionShape, Backend, Gate, MaskRule, NormKind, NormShape, Place, RopeShape, Train,
};

use super::Layout;
use super::cache::{Cache, Slots};
use super::layout::LayerAt;
use super::plan::{LayerActs, Plan};
use crate::config::{Mlp, ModelConfig};

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

/// The mask of the full layers and, where a family has sliding layers, theirs.
pub struct Masks<B: Backend> {
    pub full: B::Mask,
    pub local: Option<B::Mask>,
}

/// Rows `row .. row + len` of a forward that are one sequence, with a mask and perhaps a cache of its own.
pub struct Segment<'a, B: Backend> {
    pub row: usize,
    pub len: usize,
    /// of the rows over their keys: themselves, or with a cache its first `keys` places
    pub masks: Masks<B>,
    pub cache: Option<(&'a mut Cache<B>, Slots<'a>)>,
}

/// Who attends to whom in a forward.
enum Attend<'a, 's, B: Backend> {
    /// sequences of one length, each over itself
    Packed(&'a Masks<B>, Shape),
    /// each over its own keys
    Segments(&'a mut [Segment<'s, B>]),
}

impl Trunk {
    pub fn new(config: ModelConfig) -> Trunk {
        let layout = Layout::new(&config);
        Trunk { config, layout }
    }

    /// Masks under `rule` for every layer; sliding layers see their window of it.
    pub fn masks<B: Backend>(
        &self,
        b: &B,
        rule: MaskRule,
        batch: usize,
        queries: &[Place],
        keys: &[Place],
    ) -> Masks<B> {
        let local = self.config.arch.sliding.as_ref().map(|s| {
            let window = Some(rule.window.map_or(s.window, |w| w.min(s.window)));
            b.mask(MaskRule { window, ..rule }, batch, queries, keys)
        });
        Masks { full: b.mask(rule, batch, queries, keys), local }
    }

    pub(super) fn norm_shape(&self, rows: usize) -> NormShape {
        let kind = if self.config.arch.layer_norm { NormKind::Layer } else { NormKind::Rms };
        NormShape::packed(kind, rows, self.config.width, self.config.norm_eps)
    }

    /// The last norm, into the rows the head reads.
    pub(super) fn head_norm_shape(&self, rows: usize) -> NormShape {
        NormShape { y_stride: self.config.head_width(), ..self.norm_shape(rows) }
    }

    /// Norms of `heads` heads from column `col` of qkv rows.
    pub(super) fn heads_norm_shape(&self, rows: usize, heads: usize, col: usize) -> NormShape {
        let c = &self.config;
        let stride = c.qkv();
        NormShape {
            kind: NormKind::Rms,
            rows,
            groups: heads,
            width: c.head_dim,
            eps: c.norm_eps,
            x_stride: stride,
            x_col: col,
            y_stride: stride,
            y_col: col,
        }
    }

    /// Heads and first column of queries and of keys, with their norms.
    pub(super) fn head_norms(&self, w: &LayerAt) -> Option<[(usize, usize, At); 2]> {
        let c = &self.config;
        let (q, k) = (w.q_norm?, w.k_norm?);
        Some([(c.heads, 0, q), (c.kv_heads, c.heads * c.head_dim, k)])
    }

    pub(super) fn mask_of<'a, B: Backend>(&self, masks: &'a Masks<B>, layer: usize) -> &'a B::Mask {
        let slides = self.config.arch.sliding.as_ref().is_some_and(|s| s.layers[layer]);
        masks.local.as_ref().filter(|_| slides).unwrap_or(&masks.full)
    }

    pub(super) fn activate<B: Backend>(&self, b: &B, x: &B::Buf, y: &mut B::Buf, rows: usize) {
        match self.config.arch.mlp {
            Mlp::SwiGlu => b.glu(Gate::Silu, x, y, rows, self.config.mlp),
            Mlp::GeGlu => b.glu(Gate::Gelu, x, y, rows, self.config.mlp),
            Mlp::Gelu => b.gelu(x, y, rows * self.config.mlp),
        }
    }

    pub(super) fn attention_shape(&self, s: Shape) -> AttentionShape {
        let c = &self.config;
        AttentionShape {
            row: 0,
            batch: s.batch,
            q_len: s.len,
            k_len: s.len,
            heads: c.heads,
            kv_heads: c.kv_heads,
            head_dim: c.head_dim,
            scale: c.attention_scale(),
            q_stride: c.qkv(),
            q_col: 0,
            kv_stride: c.qkv(),
            k_col: c.heads * c.head_dim,
            v_col: (c.heads + c.kv_heads) * c.head_dim,
        }
    }

    pub(super) fn rope_shape(&self, rows: usize, layer: usize) -> RopeShape {
        let c = &self.config;
        let sliding = c.arch.sliding.as_ref().filter(|s| s.layers[layer]);
        RopeShape {
            rows,
            stride: c.qkv(),
            col: 0,
            heads: c.heads + c.kv_heads,
            head_dim: c.head_dim,
            theta: sliding.map_or(c.rope_theta, |s| s.rope_theta),
        }
    }

    /// Fills `plan.hidden` with the rows of sequences of one length.
    pub fn forward<B: Backend>(
        &self,
        b: &B,
        params: &B::Buf,
        plan: &mut Plan<B>,
        ids: &B::Ids,
        positions: &B::Ids,
        masks: &Masks<B>,
        shape: Shape,
    ) {
        self.run(b, params, plan, ids, positions, shape.rows(), Attend::Packed(masks, shape));
    }

    /// Fills `plan.hidden` with the rows of sequences that stand one behind the other from row 0 on. Everything but attention
    /// treats rows alike, so that the products read each weight once for all of them.
    pub fn forward_segments<B: Backend>(
        &self,
        b: &B,
        params: &B::Buf,
        plan: &mut Plan<B>,
        ids: &B::Ids,
        positions: &B::Ids,
        segments: &mut [Segment<B>],
    ) {
        let n = segments.iter().map(|s| s.len).sum();
        self.run(b, params, plan, ids, positions, n, Attend::Segments(segments));
    }

    /// The layers over `n` rows.
    fn run<B: Backend>(
        &self,
        b: &B,
        params: &B::Buf,
        plan: &mut Plan<B>,
        ids: &B::Ids,
        positions: &B::Ids,
        n: usize,
        mut attend: Attend<B>,
    ) {
        let c = &self.config;
        let d = c.width;
        assert!(n <= plan.capacity(), "plan holds {} rows, asked for {n}", plan.capacity());
        b.embed(ids, params, self.layout.embed, c.arch.embed_scale, &mut plan.inputs[0], n, d);
        let (inputs, sets) = (plan.inputs.len(), plan.layers.len());
        for i in 0..c.layers {
            let w = &self.layout.layers[i];
            let l = &mut plan.layers[i % sets];
            self.layer(b, params, i, &plan.inputs[i % inputs], l, &mut plan.h, positions, n, &mut attend);
            self.activate(b, &l.gate_up, &mut plan.act, n);
            let next = if i + 1 == c.layers { &mut plan.last } else { &mut plan.inputs[(i + 1) % inputs] };
            b.copy(&l.mid, 0, next, 0, n * d);
            let down = (w.down, w.down_bias, w.post2);
            self.add_linear(b, params, &plan.act, down, &mut l.post[1], next, n, c.mlp);
        }
        let (w, bias) = (self.layout.norm, self.layout.norm_bias);
        b.norm(&plan.last, params, w, bias, &mut plan.hidden, self.head_norm_shape(n), false);
    }

    /// Layer `i` from its input up to gate_up: everything of `l` but what the feed-forward part adds.
    #[allow(clippy::too_many_arguments)]
    fn layer<B: Backend>(
        &self,
        b: &B,
        params: &B::Buf,
        i: usize,
        x: &B::Buf,
        l: &mut LayerActs<B>,
        h: &mut B::Buf,
        positions: &B::Ids,
        n: usize,
        attend: &mut Attend<B>,
    ) {
        let (c, w) = (&self.config, &self.layout.layers[i]);
        let (d, a) = (c.width, c.heads * c.head_dim);
        let kv = c.kv_heads * c.head_dim;
        let norm = self.norm_shape(n);
        b.norm(x, params, w.norm1, w.norm1_bias, h, norm, false);
        let heads = self.head_norms(w);
        let qkv = if heads.is_some() { &mut l.raw } else { &mut l.qkv };
        b.linear(h, params, w.qkv, qkv, n, c.qkv(), d, false);
        if let Some(bias) = w.qkv_bias {
            b.add_bias(qkv, params, bias, n, c.qkv());
        }
        if let Some(heads) = heads {
            for (count, col, at) in heads {
                let s = self.heads_norm_shape(n, count, col);
                b.norm(&l.raw, params, at, None, &mut l.qkv, s, false);
            }
            b.copy_columns(&l.raw, c.qkv(), a + kv, &mut l.qkv, c.qkv(), a + kv, 0, n, kv);
        }
        b.rope(&mut l.qkv, positions, self.rope_shape(n, i));
        match attend {
            Attend::Packed(masks, shape) => {
                let (mask, s) = (self.mask_of(masks, i), self.attention_shape(*shape));
                b.attention(&l.qkv, &l.qkv, mask, &mut l.att, &mut l.lse, s);
            }
            Attend::Segments(all) => all.iter_mut().for_each(|segment| self.attend(b, i, h, l, segment)),
        }
        b.copy(x, 0, &mut l.mid, 0, n * d);
        let out = (w.out, w.out_bias, w.post1);
        self.add_linear(b, params, &l.att, out, &mut l.post[0], &mut l.mid, n, a);
        b.norm(&l.mid, params, w.norm2, w.norm2_bias, h, norm, false);
        b.linear(h, params, w.gate_up, &mut l.gate_up, n, c.mlp_in(), d, false);
        if let Some(bias) = w.up_bias {
            b.add_bias(&mut l.gate_up, params, bias, n, c.mlp_in());
        }
    }

    /// Attention of one sequence of several in layer `i`.
    fn attend<B: Backend>(
        &self,
        b: &B,
        i: usize,
        h: &B::Buf,
        l: &mut LayerActs<B>,
        segment: &mut Segment<B>,
    ) {
        let mask = self.mask_of(&segment.masks, i);
        let s = self.attention_shape(Shape { batch: 1, len: segment.len });
        let mut s = AttentionShape { row: segment.row, ..s };
        match &mut segment.cache {
            None => {
                // its keys and values stand in its own rows
                (s.k_col, s.v_col) = (s.k_col + s.row * s.kv_stride, s.v_col + s.row * s.kv_stride);
                b.attention(&l.qkv, &l.qkv, mask, &mut l.att, &mut l.lse, s);
            }
            Some((cache, slots)) => self.attend_cached(b, i, h, l, mask, s, cache, *slots),
        }
    }

    /// Fills the activations of layer `i` again from its kept input, as the forward pass computed them.
    pub(super) fn recompute<B: Backend>(
        &self,
        b: &B,
        params: &B::Buf,
        i: usize,
        plan: &mut Plan<B>,
        positions: &B::Ids,
        masks: &Masks<B>,
        shape: Shape,
    ) {
        let (l, n, mut attend) = (&mut plan.layers[0], shape.rows(), Attend::Packed(masks, shape));
        self.layer(b, params, i, &plan.inputs[i], l, &mut plan.h, positions, n, &mut attend);
        let (c, w) = (&self.config, &self.layout.layers[i]);
        if w.post2.is_some() {
            // the norm behind the feed-forward part needs what that part gave
            self.activate(b, &l.gate_up, &mut plan.act, n);
            b.linear(&plan.act, params, w.down, &mut l.post[1], n, c.width, c.mlp, false);
            if let Some(bias) = w.down_bias {
                b.add_bias(&mut l.post[1], params, bias, n, c.width);
            }
        }
    }

    /// y += W x + b, or y += norm(W x + b), whose argument is kept in `post`.
    #[allow(clippy::too_many_arguments)]
    fn add_linear<B: Backend>(
        &self,
        b: &B,
        params: &B::Buf,
        x: &B::Buf,
        (w, bias, norm): (At, Option<At>, Option<At>),
        post: &mut B::Buf,
        y: &mut B::Buf,
        rows: usize,
        k: usize,
    ) {
        let d = self.config.width;
        let to = if norm.is_some() { &mut *post } else { &mut *y };
        b.linear(x, params, w, to, rows, d, k, norm.is_none());
        if let Some(bias) = bias {
            b.add_bias(to, params, bias, rows, d);
        }
        if let Some(norm) = norm {
            b.norm(post, params, norm, None, y, self.norm_shape(rows), true);
        }
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
        let (c, hw) = (&self.config, self.config.head_width());
        let mut index = b.ids(hidden_rows.len());
        b.write_ids(&mut index, hidden_rows);
        let mut gathered = b.buf(hidden_rows.len() * hw);
        b.gather(&plan.hidden, &index, &mut gathered, hidden_rows.len(), hw);
        let out = b.head_loss(&gathered, params, self.layout.head, rows, &c.forbid, hw, None);
        (out.log_p, out.entropy)
    }

    /// (query, key) pairs that the masks leave to compute, summed over the layers.
    pub fn pairs<B: Train>(&self, b: &B, masks: &Masks<B>, batch: usize) -> u64 {
        let slides = self.config.arch.sliding.iter().flat_map(|s| &s.layers).filter(|s| **s).count() as u64;
        let local = masks.local.as_ref().map_or(0, |m| slides * b.pairs(m, batch));
        let full = self.config.layers as u64 - if masks.local.is_some() { slides } else { 0 };
        local + full * b.pairs(&masks.full, batch)
    }

    /// Matrix-product and attention FLOPs of one training step (forward and backward; recomputation and skipped
    /// tiles not counted): 6 per weight and row, 12 head_dim per (query, key, head) pair of all layers, head on
    /// `head_rows`.
    pub fn train_flops(&self, rows: usize, pairs: u64, head_rows: usize) -> f64 {
        let c = &self.config;
        let layer = (c.qkv() + c.heads * c.head_dim + c.mlp_in() + c.mlp) * c.width;
        let linear = 6.0 * rows as f64 * (c.layers * layer) as f64;
        let attention = 12.0 * pairs as f64 * (c.heads * c.head_dim) as f64;
        linear + attention + 6.0 * head_rows as f64 * (c.vocab * c.head_width()) as f64
    }
}
