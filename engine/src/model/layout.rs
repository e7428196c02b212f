//! Where each tensor lives in the flat parameter buffer, and what it is called on disk.
//!
//! One flat buffer makes AdamW, clipping, averaging and checkpoints single loops. Offsets are multiples of 64
//! values, because WebGPU binds at 256 bytes. Query, key and value (and gate and up) are stored fused, in this
//! order; on disk they are separate tensors. A head with a bias is stored [vocab, width + 4]: the bias is the column
//! behind the weights (see [`ModelConfig::head_width`]).

use hilda_kernels::At;
use hilda_kernels::rng::{Rng, Stream};

use super::family::{self, Part};
use crate::config::{Mlp, ModelConfig};

/// Tensors of one layer; those a family does not have are `None`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerAt {
    pub norm1: At,
    pub norm1_bias: Option<At>,
    /// [(heads + 2 kv_heads) head_dim, width]
    pub qkv: At,
    pub qkv_bias: Option<At>,
    pub q_norm: Option<At>,
    pub k_norm: Option<At>,
    /// [width, heads head_dim]
    pub out: At,
    pub out_bias: Option<At>,
    /// norm of what attention adds
    pub post1: Option<At>,
    pub norm2: At,
    pub norm2_bias: Option<At>,
    /// [2 mlp, width]: gate rows, then up rows; [mlp, width] without a gate
    pub gate_up: At,
    pub up_bias: Option<At>,
    /// [width, mlp]
    pub down: At,
    pub down_bias: Option<At>,
    /// norm of what the feed-forward part adds
    pub post2: Option<At>,
}

impl LayerAt {
    /// The weights of its products, each with (outputs n, terms k).
    pub fn matrices(&mut self, c: &ModelConfig) -> [(&mut At, usize, usize); 4] {
        let (d, a) = (c.width, c.heads * c.head_dim);
        [
            (&mut self.qkv, c.qkv(), d),
            (&mut self.out, d, a),
            (&mut self.gate_up, c.mlp_in(), d),
            (&mut self.down, d, c.mlp),
        ]
    }
}

/// All tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// [vocab, width]
    pub embed: At,
    pub layers: Vec<LayerAt>,
    pub norm: At,
    pub norm_bias: Option<At>,
    /// [vocab, head_width]; the embedding itself if tied
    pub head: At,
    /// values in the flat buffer, padding included
    pub total: usize,
}

/// A tensor as stored on disk: name, shape, place in the flat buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    pub name: String,
    pub layer: usize,
    pub part: Part,
    pub shape: Vec<usize>,
    pub at: At,
    /// a scale of a normalised row, which starts at one
    pub norm: bool,
}

impl Layout {
    pub fn new(c: &ModelConfig) -> Layout {
        let mut total = 0;
        let mut take = |len: usize| {
            let at = At::new(total, len);
            total += len.div_ceil(64) * 64;
            at
        };
        let (a, d) = (&c.arch, c.width);
        let embed = take(c.vocab * d);
        let layers = (0..c.layers)
            .map(|_| LayerAt {
                norm1: take(d),
                norm1_bias: a.layer_norm.then(|| take(d)),
                qkv: take(c.qkv() * d),
                qkv_bias: a.qkv_bias.then(|| take(c.qkv())),
                q_norm: a.qk_norm.then(|| take(c.head_dim)),
                k_norm: a.qk_norm.then(|| take(c.head_dim)),
                out: take(d * c.heads * c.head_dim),
                out_bias: a.linear_bias.then(|| take(d)),
                post1: a.sandwich.then(|| take(d)),
                norm2: take(d),
                norm2_bias: a.layer_norm.then(|| take(d)),
                gate_up: take(c.mlp_in() * d),
                up_bias: a.linear_bias.then(|| take(c.mlp_in())),
                down: take(d * c.mlp),
                down_bias: a.linear_bias.then(|| take(d)),
                post2: a.sandwich.then(|| take(d)),
            })
            .collect();
        let norm = take(d);
        let norm_bias = a.layer_norm.then(|| take(d));
        let head = if a.tied { embed } else { take(c.vocab * c.head_width()) };
        Layout { embed, layers, norm, norm_bias, head, total }
    }

    /// Every tensor under its public name, fused ones split by rows.
    pub fn named(&self, c: &ModelConfig) -> Vec<Named> {
        let rows =
            |at: At, row: usize, rows: usize, cols: usize| At::new(at.offset + row * cols, rows * cols);
        let mut out = vec![];
        let mut add = |layer: usize, part: Part, shape: Vec<usize>, at: At| {
            let name = family::name(c.arch.family, layer, part);
            out.push(Named { name, layer, part, shape, at, norm: part.is_norm() });
        };
        let (w, q, kv, m) = (c.width, c.heads * c.head_dim, c.kv_heads * c.head_dim, c.mlp);
        add(0, Part::Embed, vec![c.vocab, w], self.embed);
        for (i, l) in self.layers.iter().enumerate() {
            let gated = c.arch.mlp != Mlp::Gelu;
            let bias = |row: usize, n: usize| l.qkv_bias.map(|at| rows(at, row, n, 1));
            let tensors = [
                (Part::Norm1, vec![w], Some(l.norm1)),
                (Part::Norm1Bias, vec![w], l.norm1_bias),
                (Part::Q, vec![q, w], Some(rows(l.qkv, 0, q, w))),
                (Part::K, vec![kv, w], Some(rows(l.qkv, q, kv, w))),
                (Part::V, vec![kv, w], Some(rows(l.qkv, q + kv, kv, w))),
                (Part::QBias, vec![q], bias(0, q)),
                (Part::KBias, vec![kv], bias(q, kv)),
                (Part::VBias, vec![kv], bias(q + kv, kv)),
                (Part::QNorm, vec![c.head_dim], l.q_norm),
                (Part::KNorm, vec![c.head_dim], l.k_norm),
                (Part::Out, vec![w, q], Some(l.out)),
                (Part::OutBias, vec![w], l.out_bias),
                (Part::Post1, vec![w], l.post1),
                (Part::Norm2, vec![w], Some(l.norm2)),
                (Part::Norm2Bias, vec![w], l.norm2_bias),
                (Part::Gate, vec![m, w], gated.then(|| rows(l.gate_up, 0, m, w))),
                (Part::Up, vec![m, w], Some(rows(l.gate_up, if gated { m } else { 0 }, m, w))),
                (Part::UpBias, vec![c.mlp_in()], l.up_bias),
                (Part::Down, vec![w, m], Some(l.down)),
                (Part::DownBias, vec![w], l.down_bias),
                (Part::Post2, vec![w], l.post2),
            ];
            for (part, shape, at) in tensors {
                if let Some(at) = at {
                    add(i, part, shape, at);
                }
            }
        }
        add(0, Part::Norm, vec![w], self.norm);
        if let Some(b) = self.norm_bias {
            add(0, Part::NormBias, vec![w], b);
        }
        if !c.arch.tied {
            add(0, Part::Head, vec![c.vocab, c.head_width()], self.head);
        }
        out
    }

    /// Initial weights: normal(0, 0.02) for every matrix and the embedding, norms 1, biases 0, no depth scaling.
    pub fn init(&self, c: &ModelConfig, seed: u64) -> Vec<f32> {
        let mut params = vec![0f32; self.total];
        for (i, t) in self.named(c).iter().enumerate() {
            let rng = Rng::new(seed, Stream::Init, i as u32);
            let vector = t.shape.len() == 1;
            for (j, p) in params[t.at.offset..t.at.offset + t.at.len].iter_mut().enumerate() {
                *p = match (t.norm, vector) {
                    (true, _) => 1.0,
                    (false, true) => 0.0,
                    (false, false) => 0.02 * rng.normal(0, j as u32, 0) as f32,
                };
            }
        }
        if c.arch.head_bias {
            // the bias starts at zero, the columns behind it stay there
            let (d, w) = (c.width, c.head_width());
            params[self.head.offset..][..self.head.len].chunks_exact_mut(w).for_each(|r| r[d..].fill(0.0));
        }
        params
    }
}
