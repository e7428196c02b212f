//! Keys and values of positions that need not be computed again, and attention over them.
//!
//! Per layer one buffer [capacity, 2 kv_heads head_dim]: keys (after RoPE) of all heads, then values.

use hilda_kernels::{Backend, Train};

use super::Trunk;
use super::trunk::{LayerActs, Shape};

/// Keys and values of finished positions, one buffer per layer: [capacity, 2 kv_heads head_dim].
pub struct Cache<B: Backend> {
    layers: Vec<B::Buf>,
    pub capacity: usize,
}

/// Rows of a forward and where the cache keeps them: rows `row ..` in places `at ..`, `len` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub row: usize,
    pub at: usize,
    pub len: usize,
}

/// What a forward writes into a cache before it reads the first `keys` places.
#[derive(Clone, Copy, Debug)]
pub struct Slots<'a> {
    pub runs: &'a [Run],
    pub keys: usize,
}

impl<B: Train> Cache<B> {
    /// Keys and values of `len` places from `at` on: [len, width], width 2 kv_heads head_dim.
    pub(super) fn read(&self, b: &B, layer: usize, at: usize, len: usize, width: usize) -> Vec<f32> {
        b.read_range(&self.layers[layer], at * width, len * width)
    }
}

impl Trunk {
    pub fn cache<B: Backend>(&self, b: &B, capacity: usize) -> Cache<B> {
        let width = 2 * self.config.kv_heads * self.config.head_dim;
        Cache { layers: (0..self.config.layers).map(|_| b.buf(capacity * width)).collect(), capacity }
    }

    /// A cache of `capacity` positions whose first `keep` are those of `from`.
    pub fn cache_from<B: Backend>(&self, b: &B, capacity: usize, from: &Cache<B>, keep: usize) -> Cache<B> {
        let width = 2 * self.config.kv_heads * self.config.head_dim;
        let mut cache = self.cache(b, capacity);
        for (old, new) in from.layers.iter().zip(&mut cache.layers) {
            b.copy(old, 0, new, 0, keep * width);
        }
        cache
    }

    /// Attention of layer `layer` over cached places: writes the forward's keys and values where `slots` says, then reads
    /// the first `slots.keys` places.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn attend_cached<B: Backend>(
        &self,
        b: &B,
        layer: usize,
        acts: &mut LayerActs<B>,
        mask: &B::Mask,
        shape: Shape,
        cache: &mut Cache<B>,
        slots: Slots,
    ) {
        let c = &self.config;
        let (queries, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let store = &mut cache.layers[layer];
        for Run { row, at, len } in slots.runs {
            let from = row * c.qkv() + queries;
            b.copy_columns(&acts.qkv, c.qkv(), from, store, 2 * kv, 0, *at, *len, 2 * kv);
        }
        let mut s = self.attention_shape(shape);
        (s.k_len, s.kv_stride, s.k_col, s.v_col) = (slots.keys, 2 * kv, 0, kv);
        b.attention(&acts.qkv, store, mask, &mut acts.att, &mut acts.lse, s);
    }
}
