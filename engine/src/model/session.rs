//! A decoding session: answers [`ForwardRequest`]s with head statistics, on any back end.
//!
//! Keys and values of finished positions stay in a cache; a forward computes only the positions asked for.
//! With the logit shift, position n is read from hidden row n - 1; the hidden row of the last stored position is
//! kept (`carry`), because a block's first token is read from the store pass of the block before.

use std::sync::Arc;

use hilda_kernels::head::{RowHead, STATS};
use hilda_kernels::{Backend, Base, HeadJob, Place, Train};

use super::cache::{Run, Slots};
use super::{Cache, LoadedModel, Plan, Shape, Trunk};
use crate::decode::{CacheOp, ForwardRequest, RowStats, Shadow};

/// Most logits one forward gives back: 128 MB.
const MAX_LOGITS: usize = 1 << 25;

/// A request the session cannot answer.
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
    #[error("a shadow of {rows} rows cannot stand beside this forward: {why}")]
    Shadow { rows: usize, why: &'static str },
}

/// Weights on a device, shared by sessions.
pub struct Weights<B: Backend> {
    pub trunk: Trunk,
    pub shift: bool,
    pub params: B::Buf,
}

impl<B: Backend> Weights<B> {
    pub fn new(b: &B, model: &LoadedModel) -> Self {
        let mut trunk = Trunk::new(model.config.clone());
        let mut params = b.buf(trunk.layout.total);
        b.write(&mut params, 0, &model.params);
        trunk.prepare(b, &mut params);
        Weights { trunk, shift: model.serving.shift, params }
    }
}

impl Weights<hilda_kernels::Cpu> {
    /// The same without a second copy of the weights.
    pub fn of(model: LoadedModel) -> Self {
        let (mut trunk, mut params) = (Trunk::new(model.config), model.params);
        trunk.prepare(&hilda_kernels::Cpu, &mut params);
        Weights { trunk, shift: model.serving.shift, params }
    }
}

/// One sequence being decoded.
pub struct Session<B: Backend> {
    weights: Arc<Weights<B>>,
    plan: Plan<B>,
    cache: Cache<B>,
    context: usize,
    cached: Vec<Place>,
    carry: B::Buf,
    ids: B::Ids,
    positions: B::Ids,
    rows: B::Ids,
    keys: B::Ids,
    gathered: B::Buf,
    /// statistics of the last forward, [rows, STATS + 2 top_k], then logits, [whole rows, vocabulary]
    pub stats: B::Buf,
    stats_len: usize,
    /// logits before they join the statistics; made when first asked for
    logits: Option<(usize, B::Buf)>,
}

/// What a forward left in `Session::stats`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    pub rows: usize,
    pub top_k: usize,
    /// logits behind the statistics
    pub logits: usize,
}

impl Pending {
    /// What a model with `vocab` tokens answers to `request`.
    pub fn of(request: &ForwardRequest, vocab: usize) -> Pending {
        let want = &request.want;
        Pending { rows: want.rows.len(), top_k: want.top_k, logits: want.whole.len() * vocab }
    }
    /// What an answer of `len` values holds: whatever is behind the statistics are logits.
    pub fn within(request: &ForwardRequest, len: usize) -> Pending {
        let bare = Pending::of(request, 0);
        Pending {
            logits: if request.want.whole.is_empty() { 0 } else { len.saturating_sub(bare.len()) },
            ..bare
        }
    }
    /// Values to read back.
    pub fn len(&self) -> usize {
        self.rows * (STATS + 2 * self.top_k) + self.logits
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Read values -> statistics.
    pub fn decode(&self, values: &[f32]) -> RowStats {
        let stride = STATS + 2 * self.top_k;
        RowStats {
            rows: values
                .chunks_exact(stride)
                .take(self.rows)
                .map(|r| RowHead::decode(r, self.top_k))
                .collect(),
            logits: values[self.rows * stride..].to_vec(),
        }
    }
}

impl<B: Backend> Session<B> {
    /// Buffers for sequences of up to `context` positions.
    pub fn new(b: &B, weights: Arc<Weights<B>>, context: usize) -> Self {
        let (plan, cache) = (weights.trunk.plan(b, context, false), weights.trunk.cache(b, context));
        let width = weights.trunk.config.head_width();
        let stats_len = context * (STATS + 2 * hilda_kernels::head::MAX_TOP_K);
        Session {
            plan,
            cache,
            context,
            cached: vec![],
            carry: b.buf(width),
            ids: b.ids(context),
            positions: b.ids(context),
            rows: b.ids(context),
            keys: b.ids(4 * context),
            gathered: b.buf(context * width),
            stats: b.buf(stats_len),
            stats_len,
            logits: None,
            weights,
        }
    }

    pub fn weights(&self) -> &Arc<Weights<B>> {
        &self.weights
    }

    /// Positions whose keys and values are kept.
    pub fn cached(&self) -> usize {
        self.cached.len()
    }

    /// Forgets the cached text: the next request begins another sequence.
    pub fn forget(&mut self) {
        self.cached.clear();
    }

    /// Room for the rows of a shadow, which stand in no text: `rows` in all.
    fn grow(&mut self, b: &B, rows: usize) {
        if rows > self.cache.capacity {
            let trunk = &self.weights.trunk;
            self.plan = trunk.plan(b, rows, false);
            self.cache = trunk.cache_from(b, rows, &self.cache, self.cached.len());
            (self.ids, self.positions) = (b.ids(rows), b.ids(rows));
        }
    }

    /// Records one forward; its statistics are in `self.stats` once the device has run.
    pub fn forward(&mut self, b: &B, r: &ForwardRequest) -> Result<Pending, SessionError> {
        let w = self.weights.clone();
        let (c, context) = (&w.trunk.config, self.context);
        match r.cache {
            CacheOp::Truncate { keep } => self.cached.truncate(keep as usize),
            CacheOp::Keep { .. } => self.cached.clear(),
            _ => {}
        }
        let bypass = r.cache == CacheOp::Bypass;
        let cached = if bypass { 0 } else { self.cached.len() };
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
        limit("top_k", r.want.top_k as u32, hilda_kernels::head::MAX_TOP_K + 1)?;
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
        let place = |p: u32, stream: u32| Place {
            position: p,
            document: 0,
            block: p.checked_div(r.block_size).unwrap_or(0),
            stream,
        };
        let queries: Vec<Place> = r.query_positions.iter().map(|p| place(*p, 0)).collect();
        let behind = shadow.positions.iter().map(|p| place(*p, 1));

        // which hidden row each wanted position is read from; row n of the plan holds the carry
        let mut rows = Vec::with_capacity(r.want.rows.len());
        let mut keys = Vec::with_capacity(4 * r.want.rows.len());
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
        let whole = r.want.whole.iter().map(|p| source(*p)).collect::<Result<Vec<u32>, _>>()?;
        for p in &r.want.rows {
            rows.push(source(*p)?);
            let current = r.query_positions.binary_search(p).map_or(u32::MAX, |i| r.ids[i]);
            keys.extend([*p, r.step, r.sequence, current]);
        }

        if n > 0 {
            let asked: Vec<Place> = queries.iter().copied().chain(behind).collect();
            let known = if bypass { &[][..] } else { &self.cached[..] };
            let fresh = if inside { &[][..] } else { &asked[..] };
            let all: Vec<Place> = known.iter().chain(fresh).copied().collect();
            self.grow(b, all.len());
            let masks = w.trunk.masks(b, r.rule, 1, &asked, &all);
            let mut ids = r.ids.clone();
            ids.resize(n, shadow.mask);
            b.write_ids(&mut self.ids, &ids);
            let positions: Vec<u32> = asked.iter().map(|p| p.position).collect();
            b.write_ids(&mut self.positions, &positions);
            let shape = Shape { batch: 1, len: n };
            let at = if inside { runs(&r.query_positions) } else { vec![Run { row: 0, at: cached, len: n }] };
            let slots = Slots { runs: &at, keys: all.len() };
            let cache = (!bypass).then_some((&mut self.cache, slots));
            w.trunk.forward(b, &w.params, &mut self.plan, &self.ids, &self.positions, &masks, shape, cache);
        }
        let d = c.head_width();
        b.copy(&self.carry, 0, &mut self.plan.hidden, n * d, d);
        let pending = Pending::of(r, c.vocab);
        if pending.len() > self.stats_len {
            (self.stats, self.stats_len) = (b.buf(pending.len()), pending.len());
        }
        if !rows.is_empty() {
            b.write_ids(&mut self.rows, &rows);
            b.write_ids(&mut self.keys, &keys);
            b.gather(&self.plan.hidden, &self.rows, &mut self.gathered, rows.len(), d);
            let job = HeadJob {
                rows: rows.len(),
                width: d,
                vocab: c.vocab,
                top_k: r.want.top_k,
                temperature: r.want.temperature,
                seed: r.want.seed,
                forbid: c.forbid.clone(),
            };
            b.head(&self.gathered, &w.params, w.trunk.layout.head, &self.keys, &mut self.stats, &job);
        }
        if !whole.is_empty() {
            let n = whole.len();
            if self.logits.as_ref().is_none_or(|l| l.0 < pending.logits) {
                self.logits = Some((pending.logits, b.buf(pending.logits)));
            }
            let (_, logits) = self.logits.as_mut().expect("made above");
            b.write_ids(&mut self.rows, &whole);
            b.gather(&self.plan.hidden, &self.rows, &mut self.gathered, n, d);
            b.linear(&self.gathered, &w.params, w.trunk.layout.head, logits, n, c.vocab, d, false);
            b.copy(logits, 0, &mut self.stats, pending.len() - pending.logits, pending.logits);
        }
        if r.cache == CacheOp::Store && q > 0 {
            self.cached.extend(&queries);
            b.copy(&self.plan.hidden, (q - 1) * d, &mut self.carry, 0, d);
        }
        if let CacheOp::Keep { keep } = r.cache
            && keep > 0
        {
            self.cached.extend(&queries[..keep as usize]);
            b.copy(&self.plan.hidden, (keep as usize - 1) * d, &mut self.carry, 0, d);
        }
        Ok(pending)
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

impl Session<hilda_kernels::Cpu> {
    /// Forward and statistics at once.
    pub fn answer(&mut self, r: &ForwardRequest) -> Result<RowStats, SessionError> {
        let pending = self.forward(&hilda_kernels::Cpu, r)?;
        Ok(pending.decode(&self.stats[..pending.len()]))
    }
}

impl<B: Train> Session<B> {
    /// Forward and statistics at once, on a device whose buffers can be read.
    pub fn answer_on(&mut self, b: &B, r: &ForwardRequest) -> Result<RowStats, SessionError> {
        let pending = self.forward(b, r)?;
        Ok(pending.decode(&b.read_range(&self.stats, 0, pending.len())))
    }
}

#[cfg(test)]
mod tests;
