//! Keys and values of positions that need not be computed again, and attention over them.
//!
//! On the device, per layer one buffer [capacity, 2 kv_heads head_dim]: keys (after RoPE) of all heads, then values. Or, where a
//! text asks for it ([`Compression`](crate::decode::policy::Compression)), in the host's memory: [`host`], with [`codes`]
//! for what is rounded and [`press`] for what is dropped.

pub mod codes;
mod host;
#[cfg(feature = "train")]
pub mod oracle;
pub mod press;
mod surrogate;

use std::ops::Range;

use hilda_kernels::rope::rope;
use hilda_kernels::{AttentionShape, Backend, MaskRule, Place, RopeShape};

use super::plan::LayerActs;
use super::{SessionError, Trunk};
use crate::decode::policy::{Compression, Press, SINKS};
use crate::decode::{Attention, DecodeConfig, ForwardRequest, Held};
use host::Host;
pub use surrogate::{KVZAP, Linear, Surrogate, Target};

/// Keys and values of finished positions, one buffer per layer: [capacity, 2 kv_heads head_dim].
pub struct Cache<B: Backend> {
    /// none while they are in the host's memory
    layers: Vec<B::Buf>,
    host: Option<Host<B>>,
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

impl<B: Backend> Cache<B> {
    /// May a request over `kept` positions be answered?
    ///
    /// # Errors
    /// A way of keeping them that this device or this request does not allow.
    pub(super) fn check(&self, r: &ForwardRequest, kept: usize) -> Result<(), SessionError> {
        if kept > 0 && !self.keeps(&r.compression) {
            return Err(SessionError::Compression { why: "the text so far was kept in another way" });
        }
        if r.compression.is_plain() { Ok(()) } else { Host::<B>::check(r) }
    }

    fn keeps(&self, asked: &Compression) -> bool {
        self.host.as_ref().map_or(asked.is_plain(), |host| host.how == *asked)
    }

    /// A forward comes that was checked, whose rows stand in `places`; of what was kept before it the first `kept` positions
    /// hold. Changes how things are kept where the request asks for another way.
    pub(super) fn begin(&mut self, b: &B, trunk: &Trunk, r: &ForwardRequest, kept: usize, places: &[Place]) {
        if !self.keeps(&r.compression) {
            if r.compression.is_plain() {
                *self = trunk.cache(b, self.capacity);
            } else {
                self.layers.clear();
                self.host = Some(Host::new(b, trunk, r.compression.clone(), self.capacity));
            }
        }
        if let Some(host) = &mut self.host {
            host.begin(r, kept, places);
        }
    }

    /// What is kept of `positions` positions, and what happened to it in the last forward.
    pub(super) fn held(&self, trunk: &Trunk, positions: usize) -> Held {
        let c = &trunk.config;
        match &self.host {
            Some(host) => Held { bytes: host.bytes(), ..host.held.clone() },
            None => {
                Held { bytes: (8 * positions * c.layers * c.kv_heads * c.head_dim) as u64, ..Held::default() }
            }
        }
    }

    /// Keys and values of places [len, 2 kv_heads head_dim] as attention reads them.
    ///
    /// # Errors
    /// A device that cannot be read (WebGPU); a position that a head has dropped.
    pub(super) fn rows(
        &self,
        b: &B,
        trunk: &Trunk,
        layer: usize,
        places: Range<usize>,
    ) -> Result<Vec<f32>, SessionError> {
        let (heads, d) = (trunk.config.kv_heads, trunk.config.head_dim);
        let width = 2 * heads * d;
        let Some(host) = &self.host else {
            let rows = b.peek(&self.layers[layer], places.start * width, places.len() * width);
            return rows.ok_or(SessionError::Unreadable { what: "looking at them" });
        };
        let mut rows = vec![0.0; places.len() * width];
        for head in 0..heads {
            let keys = host.keys(layer, head);
            for (row, position) in rows.chunks_exact_mut(width).zip(places.clone()) {
                let at = keys.positions.binary_search(&(position as u32));
                let at = at.map_err(|_| SessionError::Evicted { position, layer, head })?;
                row[head * d..][..d].copy_from_slice(&keys.k[at * d..][..d]);
                row[(heads + head) * d..][..d].copy_from_slice(&keys.v[at * d..][..d]);
            }
        }
        Ok(rows)
    }
}

impl Trunk {
    pub fn cache<B: Backend>(&self, b: &B, capacity: usize) -> Cache<B> {
        let width = 2 * self.config.kv_heads * self.config.head_dim;
        let layers = (0..self.config.layers).map(|_| b.buf(capacity * width)).collect();
        Cache { layers, host: None, capacity }
    }

    /// A cache of `capacity` positions whose first `keep` are those of `from`, which is given up.
    pub fn cache_from<B: Backend>(
        &self,
        b: &B,
        capacity: usize,
        from: &mut Cache<B>,
        keep: usize,
    ) -> Cache<B> {
        if let Some(host) = from.host.take() {
            let host = Some(host.with_capacity(b, self, capacity));
            return Cache { layers: vec![], host, capacity };
        }
        let width = 2 * self.config.kv_heads * self.config.head_dim;
        let mut cache = self.cache(b, capacity);
        for (old, new) in from.layers.iter().zip(&mut cache.layers) {
            b.copy(old, 0, new, 0, keep * width);
        }
        cache
    }

    /// Bytes of keys and values of `positions` positions of finished blocks kept as `how` says: 8 layers kv_heads head_dim
    /// each in f32. Rounded: head_dim bits / 4 a head and position for both codes, 4 bytes for the step of its values and
    /// 4 head_dim a block for those of its keys; the first positions and the last block stay f32. A press by share leaves
    /// floor(T (1 - ratio)) of T positions of finished blocks, with 4 bytes for the place of each; what a threshold leaves depends on the text.
    pub fn cache_bytes(&self, how: &Compression, positions: usize) -> u64 {
        let (c, block) = (&self.config, (how.block as usize).max(1));
        let (d, sinks) = (c.head_dim, SINKS as usize);
        let old = (positions / block).saturating_sub(1) * block;
        // of one head
        let whole = sinks.min(old) + positions - old;
        let drops = how.press != Press::None && how.ratio > 0.0 && old > 0;
        let done = positions / block * block;
        let most = ((1.0 - how.ratio as f64) * done as f64 + 1e-6) as usize + positions - done;
        let kept = if drops { most.clamp(whole, positions) } else { positions };
        let middle = kept - whole;
        let chunks = (old / block).saturating_sub(sinks / block);
        let coded = how.storage.bits().map_or(8 * d * middle, |bits| {
            middle * (2 * (d * bits as usize).div_ceil(8) + 4) + 4 * d * chunks.min(middle)
        });
        let places = if drops { 4 * middle } else { 0 };
        (c.layers * c.kv_heads * (8 * d * whole + coded + places)) as u64
    }

    /// Bytes of keys and values that a whole text of `config` will keep, known before its first forward: all finished blocks
    /// of a block-causal text, all but the last position of a causal one, every position under an approximate cache, nothing
    /// where everything is computed anew. For a press by threshold, which depends on the text, those of no press; a search
    /// keeps as much for each of its texts.
    pub fn planned_cache(&self, config: &DecodeConfig) -> u64 {
        let (length, caching) = (config.length as usize, config.policy.caching);
        let positions = match config.attention {
            _ if config.policy.candidate.guidance != 0.0 => 0,
            Attention::Bidirectional if caching.approximate() => length,
            Attention::Bidirectional => 0,
            Attention::BlockCausal => {
                let block = config.block() as usize;
                length.saturating_sub(1) / block * block
            }
            Attention::Causal => length.saturating_sub(1),
        };
        let mut how = config.compression();
        if how.tau.is_some() {
            how.press = Press::None;
        }
        self.cache_bytes(&how, positions)
    }

    /// Turns keys [rows, kv_heads head_dim, with values behind them or not: `stride` a row] back to where they stood before
    /// the rotary embedding of their positions.
    pub fn unrotate(&self, layer: usize, rows: &mut [f32], positions: &[u32], stride: usize) {
        let heads = self.config.kv_heads;
        let shape = RopeShape { stride, heads, ..self.rope_shape(positions.len(), layer) };
        rope(rows, positions, shape, true);
    }

    /// The rule of a layer: sliding ones see their window of it.
    pub(super) fn rule_of(&self, rule: MaskRule, layer: usize) -> MaskRule {
        let slides = self.config.arch.sliding.as_ref().filter(|s| s.layers[layer]);
        let window = slides.map_or(rule.window, |s| Some(rule.window.map_or(s.window, |w| w.min(s.window))));
        MaskRule { window, ..rule }
    }

    /// Attention of layer `layer` over cached places, for the queries that `s` names: writes the forward's keys and values
    /// where `slots` says, then reads the first `slots.keys` places. `h` is the input of the attention, behind its norm.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn attend_cached<B: Backend>(
        &self,
        b: &B,
        layer: usize,
        h: &B::Buf,
        acts: &mut LayerActs<B>,
        mask: &B::Mask,
        mut s: AttentionShape,
        cache: &mut Cache<B>,
        slots: Slots,
    ) {
        if let Some(host) = &mut cache.host {
            return host.attend(b, self, layer, s.row, h, acts);
        }
        let c = &self.config;
        let (queries, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let store = &mut cache.layers[layer];
        for Run { row, at, len } in slots.runs {
            let from = row * c.qkv() + queries;
            b.copy_columns(&acts.qkv, c.qkv(), from, store, 2 * kv, 0, *at, *len, 2 * kv);
        }
        (s.k_len, s.kv_stride, s.k_col, s.v_col) = (slots.keys, 2 * kv, 0, kv);
        b.attention(&acts.qkv, store, mask, &mut acts.att, &mut acts.lse, s);
    }
}

#[cfg(test)]
mod tests;
