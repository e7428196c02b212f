//! A decoding session: answers [`ForwardRequest`]s with head statistics, on any back end.
//!
//! Keys and values of finished positions stay in a cache; a forward computes only the positions asked for.
//! With the logit shift, position n is read from hidden row n - 1; the hidden row of the last stored position is
//! kept (`carry`), because a block's first token is read from the store pass of the block before.

use std::sync::Arc;

use hilda_kernels::head::{RowHead, STATS};
use hilda_kernels::{Backend, HeadJob, Place};

use super::{Cache, LoadedModel, Plan, Shape, Trunk};
use crate::decode::{CacheOp, ForwardRequest, RowStats};

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
}

/// Weights on a device, shared by sessions.
pub struct Weights<B: Backend> {
    pub trunk: Trunk,
    pub shift: bool,
    pub params: B::Buf,
}

impl<B: Backend> Weights<B> {
    pub fn new(b: &B, model: &LoadedModel) -> Self {
        let trunk = Trunk::new(model.config.clone());
        let mut params = b.buf(trunk.layout.total);
        b.write(&mut params, 0, &model.params);
        Weights { trunk, shift: model.serving.shift, params }
    }
}

impl Weights<hilda_kernels::Cpu> {
    /// The same without a second copy of the weights.
    pub fn of(model: LoadedModel) -> Self {
        let trunk = Trunk::new(model.config);
        Weights { trunk, shift: model.serving.shift, params: model.params }
    }
}

/// One sequence being decoded.
pub struct Session<B: Backend> {
    weights: Arc<Weights<B>>,
    plan: Plan<B>,
    cache: Cache<B>,
    cached: Vec<Place>,
    carry: B::Buf,
    ids: B::Ids,
    positions: B::Ids,
    rows: B::Ids,
    keys: B::Ids,
    gathered: B::Buf,
    /// statistics of the last forward, [rows, STATS + 2 top_k]
    pub stats: B::Buf,
}

/// What a forward left in `Session::stats`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    pub rows: usize,
    pub top_k: usize,
}

impl Pending {
    /// Values to read back.
    pub fn len(&self) -> usize {
        self.rows * (STATS + 2 * self.top_k)
    }
    pub fn is_empty(&self) -> bool {
        self.rows == 0
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
        }
    }
}

impl<B: Backend> Session<B> {
    /// Buffers for sequences of up to `context` positions.
    pub fn new(b: &B, weights: Arc<Weights<B>>, context: usize) -> Self {
        let (plan, cache) = (weights.trunk.plan(b, context, false), weights.trunk.cache(b, context));
        let width = weights.trunk.config.head_width();
        Session {
            plan,
            cache,
            cached: vec![],
            carry: b.buf(width),
            ids: b.ids(context),
            positions: b.ids(context),
            rows: b.ids(context),
            keys: b.ids(4 * context),
            gathered: b.buf(context * width),
            stats: b.buf(context * (STATS + 2 * hilda_kernels::head::MAX_TOP_K)),
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

    /// Records one forward; its statistics are in `self.stats` once the device has run.
    pub fn forward(&mut self, b: &B, r: &ForwardRequest) -> Result<Pending, SessionError> {
        let w = self.weights.clone();
        let (c, context) = (&w.trunk.config, self.cache.capacity);
        if let CacheOp::Truncate { keep } = r.cache {
            self.cached.truncate(keep as usize);
        }
        let cached = self.cached.len();
        let n = r.query_positions.len();
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
        limit("top_k", r.want.top_k as u32, hilda_kernels::head::MAX_TOP_K + 1)?;
        // each row of statistics has one place
        limit("number of rows", r.want.rows.len() as u32, context + 1)?;
        let ascending = r.query_positions.windows(2).all(|w| w[0] < w[1]);
        if !ascending || r.ids.len() != n || r.query_positions.first().is_some_and(|p| (*p as usize) < cached)
        {
            return Err(SessionError::Positions { cached });
        }
        if cached + n > context {
            return Err(SessionError::Range {
                what: "sequence length",
                value: cached + n,
                limit: context + 1,
            });
        }
        if r.cache == CacheOp::Store
            && r.query_positions.iter().enumerate().any(|(i, p)| *p as usize != cached + i)
        {
            let got = r.query_positions.first().map_or(cached, |p| *p as usize);
            return Err(SessionError::Store { cached, got });
        }
        let place = |p: u32| Place {
            position: p,
            document: 0,
            block: p.checked_div(r.block_size).unwrap_or(0),
            stream: 0,
        };
        let queries: Vec<Place> = r.query_positions.iter().map(|p| place(*p)).collect();

        // which hidden row each wanted position is read from; row n of the plan holds the carry
        let mut rows = Vec::with_capacity(r.want.rows.len());
        let mut keys = Vec::with_capacity(4 * r.want.rows.len());
        for p in &r.want.rows {
            let source = if w.shift { p.checked_sub(1) } else { Some(*p) };
            let row = match source {
                Some(s) if w.shift && s as usize + 1 == cached => Some(n),
                Some(s) => r.query_positions.binary_search(&s).ok(),
                None => None,
            };
            rows.push(row.ok_or(SessionError::NoRow { position: *p as usize })? as u32);
            let current = r.query_positions.binary_search(p).map_or(u32::MAX, |i| r.ids[i]);
            keys.extend([*p, r.step, r.sequence, current]);
        }

        if n > 0 {
            let all: Vec<Place> = self.cached.iter().copied().chain(queries.iter().copied()).collect();
            let masks = w.trunk.masks(b, r.rule, 1, &queries, &all);
            b.write_ids(&mut self.ids, &r.ids);
            b.write_ids(&mut self.positions, &r.query_positions);
            let shape = Shape { batch: 1, len: n };
            let cache = Some((&mut self.cache, cached));
            w.trunk.forward(b, &w.params, &mut self.plan, &self.ids, &self.positions, &masks, shape, cache);
        }
        let d = c.head_width();
        b.copy(&self.carry, 0, &mut self.plan.hidden, n * d, d);
        let pending = Pending { rows: rows.len(), top_k: r.want.top_k };
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
        if r.cache == CacheOp::Store && n > 0 {
            self.cached.extend(&queries);
            b.copy(&self.plan.hidden, (n - 1) * d, &mut self.carry, 0, d);
        }
        Ok(pending)
    }
}

impl Session<hilda_kernels::Cpu> {
    /// Forward and statistics at once.
    pub fn answer(&mut self, r: &ForwardRequest) -> Result<RowStats, SessionError> {
        let pending = self.forward(&hilda_kernels::Cpu, r)?;
        Ok(pending.decode(&self.stats[..pending.len()]))
    }
}
