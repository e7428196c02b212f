//! Where each tensor lives in the flat parameter buffer, and what it is called on disk (Llama names).
//!
//! One flat buffer makes AdamW, clipping, averaging and checkpoints single loops. Offsets are multiples of 64
//! values, because WebGPU binds at 256 bytes. Query, key and value (and gate and up) are stored fused, in this
//! order; on disk they are separate tensors.

use hilda_kernels::At;
use hilda_kernels::rng::{Rng, Stream};

use crate::config::ModelConfig;

/// Tensors of one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerAt {
    pub norm1: At,
    /// [(heads + 2 kv_heads) head_dim, width]
    pub qkv: At,
    /// [width, heads head_dim]
    pub out: At,
    pub norm2: At,
    /// [2 mlp, width]: gate rows, then up rows
    pub gate_up: At,
    /// [width, mlp]
    pub down: At,
}

/// All tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// [vocab, width], also the head
    pub embed: At,
    pub layers: Vec<LayerAt>,
    pub norm: At,
    /// values in the flat buffer, padding included
    pub total: usize,
}

/// A tensor as stored on disk: name, shape, place in the flat buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    pub name: String,
    pub shape: Vec<usize>,
    pub at: At,
}

impl Layout {
    pub fn new(c: &ModelConfig) -> Layout {
        let mut total = 0;
        let mut take = |len: usize| {
            let at = At { offset: total, len };
            total += len.div_ceil(64) * 64;
            at
        };
        let embed = take(c.vocab * c.width);
        let layers = (0..c.layers)
            .map(|_| LayerAt {
                norm1: take(c.width),
                qkv: take(c.qkv() * c.width),
                out: take(c.width * c.heads * c.head_dim),
                norm2: take(c.width),
                gate_up: take(2 * c.mlp * c.width),
                down: take(c.width * c.mlp),
            })
            .collect();
        let norm = take(c.width);
        Layout { embed, layers, norm, total }
    }
    /// Every tensor under its public name, fused ones split by rows.
    pub fn named(&self, c: &ModelConfig) -> Vec<Named> {
        let part = |at: At, row: usize, rows: usize, cols: usize| At {
            offset: at.offset + row * cols,
            len: rows * cols,
        };
        let named = |name: String, shape: Vec<usize>, at: At| Named { name, shape, at };
        let mut out = vec![named("model.embed_tokens.weight".into(), vec![c.vocab, c.width], self.embed)];
        let (w, q, kv) = (c.width, c.heads * c.head_dim, c.kv_heads * c.head_dim);
        for (i, l) in self.layers.iter().enumerate() {
            let mut add = |name: &str, shape: Vec<usize>, at| {
                out.push(named(format!("model.layers.{i}.{name}.weight"), shape, at))
            };
            add("input_layernorm", vec![w], l.norm1);
            add("self_attn.q_proj", vec![q, w], part(l.qkv, 0, q, w));
            add("self_attn.k_proj", vec![kv, w], part(l.qkv, q, kv, w));
            add("self_attn.v_proj", vec![kv, w], part(l.qkv, q + kv, kv, w));
            add("self_attn.o_proj", vec![w, q], l.out);
            add("post_attention_layernorm", vec![w], l.norm2);
            add("mlp.gate_proj", vec![c.mlp, w], part(l.gate_up, 0, c.mlp, w));
            add("mlp.up_proj", vec![c.mlp, w], part(l.gate_up, c.mlp, c.mlp, w));
            add("mlp.down_proj", vec![w, c.mlp], l.down);
        }
        out.push(named("model.norm.weight".into(), vec![w], self.norm));
        out
    }
    /// Initial weights: normal(0, 0.02) for every matrix and the embedding, norms 1, no depth scaling.
    pub fn init(&self, c: &ModelConfig, seed: u64) -> Vec<f32> {
        let mut params = vec![0f32; self.total];
        for (i, t) in self.named(c).iter().enumerate() {
            let rng = Rng::new(seed, Stream::Init, i as u32);
            let one = t.shape.len() == 1;
            for (j, p) in params[t.at.offset..t.at.offset + t.at.len].iter_mut().enumerate() {
                *p = if one { 1.0 } else { 0.02 * rng.normal(0, j as u32, 0) as f32 };
            }
        }
        params
    }
}
