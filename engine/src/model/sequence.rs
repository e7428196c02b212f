//! One text on a device: what is kept of it between forwards, and which forwards it can answer.
//!
//! Keys and values of finished positions stay in a cache; a forward computes only the positions asked for.
//! With the logit shift, position n is read from hidden row n - 1; the hidden row of the last stored position is
//! kept (`carry`), because a block's first token is read from the store pass of the block before.
//!
//! Nothing here depends on other texts: [`super::Batch`] computes several sequences at once.

use std::ops::Range;

use hilda_kernels::head::MAX_TOP_K;
use hilda_kernels::{Backend, Base, Place};

use super::cache::Run;
use super::{Cache, Trunk, Weights};
use crate::decode::{CacheOp, ForwardRequest, Held, Shadow};

/// Most logits one forward gives back: 128 MB.
pub(super) const MAX_LOGITS: usize = 1 << 25;

/// A request that cannot be answered.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SessionError {
    #[error("{what} {value} is outside 0..{limit}")]
    Range { what: &'static str, value: usize, limit: usize },
    #[error("positions must ascend and start at or after the cached prefix of {cached}")]
    Positions { cached: usize },
    #[error("stored positions must continue the cached prefix of {cached}, got {got}")]
    Store { cached: usize, got: usize },
    #[error("position {position} has no row: its predecessor is not computed in this forward")]
    NoRow { position: usize },
    #[error("this device's keys and values cannot be read back: {what} needs WebAssembly, the CPU or CUDA")]
    Unreadable { what: &'static str },
    #[error("finished blocks cannot be kept so: {why}")]
    Compression { why: &'static str },
    #[error("a press has dropped position {position} in layer {layer}, key head {head}")]
    Evicted { position: usize, layer: usize, head: usize },
    #[error("a shadow of {rows} rows cannot stand beside this forward: {why}")]
    Shadow { rows: usize, why: &'static str },
}

/// What a device keeps of one text.
pub struct Sequence<B: Backend> {
    context: usize,
    pub(super) cache: Cache<B>,
    cached: Vec<Place>,
    /// leading places that hold the keys and values of the position of their number, kept or not
    read: usize,
    /// hidden row of the last stored position, [head_width]
    pub(super) carry: B::Buf,
}

/// A request that was checked: the rows it computes and where its answer is read.
pub(super) struct Asked<'a> {
    pub request: &'a ForwardRequest,
    /// positions kept once the request's operation on the cache has dropped what it drops
    keeps: usize,
    /// ids and places of the rows: queries, then the shadow
    pub ids: Vec<u32>,
    pub places: Vec<Place>,
    /// of what the rows may see, in the order of the cache
    pub keys: Vec<Place>,
    /// where the cache takes the rows' keys and values; none: the rows see themselves and leave the cache alone
    pub runs: Option<Vec<Run>>,
    /// row that each wanted position is read from; one behind the last row is the carry
    pub rows: Vec<u32>,
    /// likewise of the positions whose logits are wanted
    pub whole: Vec<u32>,
    /// keys of the head, [rows, 4]
    pub draws: Vec<u32>,
}

impl Asked<'_> {
    /// Whether a wanted position is read from the carry.
    pub fn carries(&self) -> bool {
        let carry = self.places.len() as u32;
        self.rows.iter().chain(&self.whole).any(|r| *r == carry)
    }
}

impl<B: Backend> Sequence<B> {
    /// Room for up to `context` positions.
    pub fn new(b: &B, weights: &Weights<B>, context: usize) -> Self {
        let cache = weights.trunk.cache(b, context);
        Sequence { context, cache, cached: vec![], read: 0, carry: b.buf(weights.trunk.config.head_width()) }
    }

    /// Positions whose keys and values are kept.
    pub fn cached(&self) -> usize {
        self.cached.len()
    }

    /// Forgets the cached text: the next request begins another one.
    pub fn forget(&mut self) {
        self.cached.clear();
    }

    /// Keys and values of cached positions in one layer, [len, 2 kv_heads head_dim]: keys of all heads, then values. Keys are
    /// those the attention reads; `plain` turns them back to before the rotary embedding.
    ///
    /// # Errors
    /// A layer or positions that are not there; a device that cannot be read.
    pub fn keys_values(
        &self,
        b: &B,
        trunk: &Trunk,
        layer: usize,
        positions: Range<usize>,
        plain: bool,
    ) -> Result<Vec<f32>, SessionError> {
        let (end, width) = (self.cached.len(), 2 * trunk.config.kv_heads * trunk.config.head_dim);
        let range = |what, value, limit| Err(SessionError::Range { what, value, limit });
        if layer >= trunk.config.layers {
            return range("layer", layer, trunk.config.layers);
        }
        if positions.end > end || positions.start > positions.end {
            return range("end of cached positions", positions.end, end + 1);
        }
        let at: Vec<u32> = self.cached[positions.clone()].iter().map(|p| p.position).collect();
        let mut rows = self.cache.rows(b, trunk, layer, positions)?;
        if plain {
            trunk.unrotate(layer, &mut rows, &at, width);
        }
        Ok(rows)
    }

    /// Did the last forward that uses the cache look at positions 0..`len`?
    pub fn looked_at(&self, len: usize) -> bool {
        len <= self.read
    }

    /// Keys before the rotary embedding, and values, of positions 0..`len` as the last forward found or left them: of one
    /// layer, [len, 2 kv_heads head_dim]. None where it looked at fewer, a press has dropped some, or the device cannot be
    /// read.
    pub fn seen(&self, b: &B, trunk: &Trunk, layer: usize, len: usize) -> Option<Vec<f32>> {
        let positions: Vec<u32> = (0..len as u32).collect();
        let rows = |_| self.cache.rows(b, trunk, layer, 0..len).ok();
        let mut rows = self.looked_at(len).then_some(()).and_then(rows)?;
        trunk.unrotate(layer, &mut rows, &positions, 2 * trunk.config.kv_heads * trunk.config.head_dim);
        Some(rows)
    }

    /// What is cached, measured.
    pub fn held(&self, trunk: &Trunk) -> Held {
        self.cache.held(trunk, self.cached.len())
    }

    /// Checks a request and says what it needs.
    pub(super) fn ask<'a>(&self, w: &Weights<B>, r: &'a ForwardRequest) -> Result<Asked<'a>, SessionError> {
        let (c, context) = (&w.trunk.config, self.context);
        let keeps = match r.cache {
            CacheOp::Truncate { keep } => self.cached.len().min(keep as usize),
            CacheOp::Keep { .. } => 0,
            _ => self.cached.len(),
        };
        let bypass = r.cache == CacheOp::Bypass;
        let cached = if bypass { 0 } else { keeps };
        let q = r.query_positions.len();
        let no_shadow = Shadow::default();
        let shadow = r.want.shadow.as_ref().unwrap_or(&no_shadow);
        let n = q + shadow.positions.len();
        let limit = |what, value: u32, limit: usize| {
            if (value as usize) < limit {
                Ok(())
            } else {
                Err(SessionError::Range { what, value: value as usize, limit })
            }
        };
        for (p, id) in r.query_positions.iter().zip(&r.ids) {
            limit("position", *p, context)?;
            limit("token id", *id, c.vocab)?;
        }
        for p in &shadow.positions {
            limit("position", *p, context)?;
        }
        limit("token id", shadow.mask, c.vocab)?;
        limit("number of shadow rows", shadow.positions.len() as u32, context + 1)?;
        limit("top_k", r.want.top_k as u32, MAX_TOP_K + 1)?;
        // each row of statistics has one place
        limit("number of rows", r.want.rows.len() as u32, context + 1)?;
        limit("number of whole rows", r.want.whole.len() as u32, context + 1)?;
        limit("number of logits", (r.want.whole.len() * c.vocab) as u32, MAX_LOGITS + 1)?;
        let ascending = r.query_positions.windows(2).all(|w| w[0] < w[1]);
        let first = r.query_positions.first().map_or(cached, |p| *p as usize);
        if !shadow.positions.is_empty() {
            let refused = |why| Err(SessionError::Shadow { rows: shadow.positions.len(), why });
            if !matches!(r.rule.base, Base::Shadow { .. }) {
                return refused("its rule knows no shadow");
            }
            if r.cache == CacheOp::Replace {
                return refused("the cache holds the keys and values of the tokens that it leaves out");
            }
            if shadow.positions.windows(2).any(|w| w[0] >= w[1]) {
                return refused("its positions must ascend");
            }
        }
        // inside the cache each place is its position
        let inside = r.cache == CacheOp::Replace
            && r.query_positions.last().is_none_or(|p| (*p as usize) < cached)
            && (0..cached).all(|i| self.cached[i].position as usize == i);
        if !ascending || r.ids.len() != q || (first < cached || r.cache == CacheOp::Replace) && !inside {
            return Err(SessionError::Positions { cached });
        }
        if let CacheOp::Keep { keep } = r.cache
            && (keep as usize > q || (0..keep).any(|i| r.query_positions[i as usize] != i))
        {
            return Err(SessionError::Store { cached: keep as usize, got: q });
        }
        if !inside && cached + q > context {
            let value = cached + q;
            return Err(SessionError::Range { what: "sequence length", value, limit: context + 1 });
        }
        if r.cache == CacheOp::Store
            && r.query_positions.iter().enumerate().any(|(i, p)| *p as usize != cached + i)
        {
            let got = r.query_positions.first().map_or(cached, |p| *p as usize);
            return Err(SessionError::Store { cached, got });
        }

        if !bypass && n > 0 {
            self.cache.check(r, cached)?;
        }

        let source = |p: u32| {
            let source = if w.shift { p.checked_sub(1) } else { Some(p) };
            let row = match source {
                Some(s) if shadow.rows.binary_search(&p).is_ok() => {
                    shadow.positions.binary_search(&s).ok().map(|i| q + i)
                }
                Some(s) => match r.query_positions.binary_search(&s) {
                    Err(_) if w.shift && s as usize + 1 == cached => Some(n),
                    found => found.ok(),
                },
                None => None,
            };
            row.map(|i| i as u32).ok_or(SessionError::NoRow { position: p as usize })
        };
        let rows = r.want.rows.iter().map(|p| source(*p)).collect::<Result<Vec<u32>, _>>()?;
        let whole = r.want.whole.iter().map(|p| source(*p)).collect::<Result<Vec<u32>, _>>()?;
        let current = |p: &u32| r.query_positions.binary_search(p).map_or(u32::MAX, |i| r.ids[i]);
        let draws = r.want.rows.iter().flat_map(|p| [*p, r.step, r.sequence, current(p)]).collect();

        let place = |p: u32, stream: u32| Place {
            position: p,
            document: 0,
            block: p.checked_div(r.block_size).unwrap_or(0),
            stream,
        };
        let queries = r.query_positions.iter().map(|p| place(*p, 0));
        let places: Vec<Place> = queries.chain(shadow.positions.iter().map(|p| place(*p, 1))).collect();
        let fresh = if inside { &[][..] } else { &places[..] };
        let keys = self.cached[..cached].iter().chain(fresh).copied().collect();
        let runs = match (bypass, inside) {
            (true, _) => None,
            (_, true) => Some(runs(&r.query_positions)),
            _ => Some(vec![Run { row: 0, at: cached, len: n }]),
        };
        let mut ids = r.ids.clone();
        ids.resize(n, shadow.mask);
        Ok(Asked { request: r, keeps, ids, places, keys, runs, rows, whole, draws })
    }

    /// Before the forward: drops what the request drops, and makes room for the rows of a shadow, which stand in no text.
    pub(super) fn begin(&mut self, b: &B, trunk: &Trunk, asked: &Asked) {
        self.cached.truncate(asked.keeps);
        if asked.runs.is_some() && !asked.places.is_empty() {
            self.cache.begin(b, trunk, asked.request, self.cached.len(), &asked.places);
        }
        if asked.runs.is_some() && asked.keys.len() > self.cache.capacity {
            self.cache = trunk.cache_from(b, asked.keys.len(), &mut self.cache, self.cached.len());
        }
        if asked.runs.is_some() && !asked.places.is_empty() {
            let own = |(i, p): &(usize, &Place)| p.stream == 0 && p.position as usize == *i;
            self.read = asked.keys.iter().enumerate().take_while(own).count();
        }
    }

    /// After it: keeps what the request keeps. Its rows begin at `row` of `hidden`, which are `width` wide.
    pub(super) fn end(&mut self, b: &B, asked: &Asked, hidden: &B::Buf, row: usize, width: usize) {
        let stored = match asked.request.cache {
            CacheOp::Store => asked.request.query_positions.len(),
            CacheOp::Keep { keep } => keep as usize,
            _ => 0,
        };
        if stored > 0 {
            self.cached.extend(&asked.places[..stored]);
            b.copy(hidden, (row + stored - 1) * width, &mut self.carry, 0, width);
        }
    }
}

/// Ascending positions as runs without a gap, each in the place of its position.
fn runs(positions: &[u32]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (row, p) in positions.iter().enumerate() {
        let at = *p as usize;
        match runs.last_mut() {
            Some(run) if run.at + run.len == at => run.len += 1,
            _ => runs.push(Run { row, at, len: 1 }),
        }
    }
    runs
}
