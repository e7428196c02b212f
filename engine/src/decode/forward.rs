//! Which forward a decoding needs next, and what it does to the cache.
//!
//! By attention:
//! - bidirectional: every forward computes all positions, nothing is cached;
//! - block-causal: one `Store` forward over the complete blocks before the active one (the prefill, later the
//!   finished block), then forwards over the active block alone. Exact: finished blocks do not see later ones.
//!   The store pass comes when the next block needs it, so none is spent after the last block;
//! - causal: every forward stores the positions not yet cached and predicts the first masked one.
//!
//! With the logit shift, position n is predicted from the hidden row of n - 1; the driver keeps that row for the
//! last position it stored. When stale entries are dropped, one more block (or position) is dropped with them, so
//! that this row is computed again.
//!
//! - bidirectional with an approximate cache: see [`super::policy::Caching`]; finished blocks that are rounded or have lost
//!   positions: [`Compression`](super::policy::Compression).
//!
//! A policy that judges written tokens without themselves (WINO) gets a shadow of the block behind the queries; a forward in
//! which nothing of the block is written goes without.
//!
//! A window of finished blocks that are edited together (`window.rs`) is computed like a block, in sight of itself.
//!
//! With guidance every forward comes twice, first with the prompt masked, and computes everything from position 0:
//! the two texts differ in their first positions, so they can share no cache.

use super::{
    Attention, CacheOp, Decoder, ForwardRequest, Shadow, Status, Want,
    policy::CacheMode,
    trajectory::{CacheEvent, StepKind},
};

/// A forward whose statistics are awaited.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub request: ForwardRequest,
    pub kind: StepKind,
    pub block: u32,
}

impl Decoder {
    /// Which forward the active block needs next.
    pub(super) fn plan_forward(&mut self, block: u32) -> Pending {
        if self.judging() {
            return self.plan_judging();
        }
        let window = self.window.as_ref().map(|w| w.range(&self.state));
        let range = window.clone().unwrap_or_else(|| self.state.block_range(block));
        let revises = self.policy.revises();
        let in_block = |p: &u32| {
            self.state.is_masked(*p) || revises && matches!(self.state.status(*p), Status::Committed { .. })
        };
        let first = u32::from(self.config.shift);
        let candidate = self.config.policy.candidate;
        let guided = candidate.guidance != 0.0;
        let (kind, queries, cache, rows): (_, Vec<u32>, _, Vec<u32>) = match self.attention {
            Attention::Bidirectional if self.config.policy.caching.approximate() => self.approximate(block),
            Attention::Bidirectional => {
                let rows = (first..self.state.len())
                    .filter(|p| if range.contains(p) { in_block(p) } else { self.state.is_masked(*p) });
                // a draft may have left its cache
                let cache = if self.cached > 0 { CacheOp::Truncate { keep: 0 } } else { CacheOp::None };
                (StepKind::Denoise, (0..self.state.len()).collect(), cache, rows.collect())
            }
            Attention::BlockCausal if guided => {
                let rows = range.clone().filter(|p| *p >= first).filter(in_block).collect();
                (StepKind::Denoise, (0..range.end).collect(), CacheOp::None, rows)
            }
            Attention::BlockCausal => {
                let stale = self.cached > self.valid;
                if stale && self.config.shift && self.valid > 0 {
                    self.valid = self.state.block_range(self.state.block_of(self.valid - 1)).start;
                }
                let valid = self.valid;
                if valid < range.start && stale {
                    let queries = self.state.block_range(self.state.block_of(valid)).collect();
                    (StepKind::Refresh, queries, CacheOp::Truncate { keep: valid }, Vec::new())
                } else if valid < range.start {
                    let kind = if self.step == 0 { StepKind::Prefill } else { StepKind::Store };
                    (kind, (valid..range.start).collect(), CacheOp::Store, Vec::new())
                } else {
                    let cache = if stale { CacheOp::Truncate { keep: valid } } else { CacheOp::None };
                    let rows = range.clone().filter(|p| *p >= first).filter(in_block).collect();
                    if self.checks(valid) {
                        (StepKind::Check, (0..range.end).collect(), CacheOp::Bypass, rows)
                    } else {
                        (StepKind::Denoise, range.clone().collect(), cache, rows)
                    }
                }
            }
            Attention::Causal => {
                let target = self.state.masked(range.clone()).next().unwrap_or(self.state.len());
                if guided {
                    (StepKind::Denoise, (0..target).collect(), CacheOp::None, vec![target])
                } else {
                    let stale = self.cached > self.valid;
                    if (stale && self.valid > 0) || self.valid == target {
                        self.valid = self.valid.min(target) - 1;
                    }
                    let stale = self.cached > self.valid;
                    let cache = if stale { CacheOp::Truncate { keep: self.valid } } else { CacheOp::Store };
                    if self.checks(self.valid) {
                        (StepKind::Check, (0..target).collect(), CacheOp::Bypass, vec![target])
                    } else {
                        (StepKind::Denoise, (self.valid..target).collect(), cache, vec![target])
                    }
                }
            }
        };
        let whole = if candidate.needs_rows(self.config.temperature) || self.policy.compares() || self.noised
        {
            let carried = |p: &u32| self.policy.carries() && self.state.is_masked(*p);
            rows.iter().copied().filter(|p| range.contains(p) || carried(p)).collect()
        } else {
            Vec::new()
        };
        let shadow = if self.policy.leaves_out() { self.shadow(block, &rows) } else { None };
        let shadowed = shadow.as_ref().and_then(|_| self.attention.shadow(first)).map(Into::into);
        // blocks of a window see each other, and all that is cached stands before them
        let joint = match window {
            Some(_) if kind == StepKind::Denoise => Attention::Bidirectional,
            _ => self.attention,
        };
        let mut ids: Vec<u32> = queries.iter().map(|p| self.state.id(*p)).collect();
        let (kind, rows) = if guided && self.unguided.is_none() {
            let prompt = queries.iter().map(|p| self.state.status(*p) == Status::Prompt);
            ids.iter_mut()
                .zip(prompt)
                .filter(|(_, prompt)| *prompt)
                .for_each(|(id, _)| *id = self.config.mask_id);
            (StepKind::Guide, Vec::new())
        } else {
            (kind, rows)
        };
        let request = ForwardRequest {
            sequence: self.config.sequence,
            // a check draws what the step it belongs to will draw
            step: self.step + u32::from(kind == StepKind::Check),
            ids,
            query_positions: queries,
            rule: shadowed.unwrap_or(joint.rule()),
            block_size: if joint == Attention::Bidirectional { 0 } else { self.config.block_size },
            cache,
            compression: self.config.compression(),
            want: Want {
                rows,
                top_k: self.config.top_k,
                temperature: self.config.temperature,
                seed: self.config.seed,
                whole,
                shadow,
            },
        };
        Pending { request, kind, block }
    }

    /// Is a forward that reads `kept` cached positions to be compared with one that reads none?
    fn checks(&self, kept: u32) -> bool {
        let caching = self.config.policy.caching;
        caching.cache_check && caching.lossy() && kept > 0 && self.exact.is_none()
    }

    /// The block's shadow, from which the rows of its written positions are read; none where none of them is written, since
    /// no other row sees it. With the logit shift its rows stand one position before what they predict, and a block-causal
    /// block's first position, predicted from the block before, has none.
    fn shadow(&self, block: u32, rows: &[u32]) -> Option<Shadow> {
        let (range, ahead) = (self.state.block_range(block), u32::from(self.config.shift));
        let shadowed = |p: &u32| *p >= ahead && self.config.informed(self.attention, *p);
        let written = |p: &u32| matches!(self.state.status(*p), Status::Committed { .. });
        let read = |p: &&u32| range.contains(p) && written(p) && shadowed(p);
        let rows: Vec<u32> = rows.iter().filter(read).copied().collect();
        (!rows.is_empty()).then(|| Shadow {
            positions: range.clone().filter(shadowed).map(|p| p - ahead).collect(),
            mask: self.config.mask_id,
            rows,
        })
    }

    /// A forward under an approximate cache ([`super::policy::Caching`]).
    fn approximate(&self, block: u32) -> (StepKind, Vec<u32>, CacheOp, Vec<u32>) {
        let (range, caching) = (self.state.block_range(block), self.config.policy.caching);
        let shift = u32::from(self.config.shift);
        let revises = self.policy.revises();
        let open = |p: &u32| {
            let written =
                revises && range.contains(p) && matches!(self.state.status(*p), Status::Committed { .. });
            *p >= shift && (self.state.is_masked(*p) || written)
        };
        // the row that predicts the block's first position is computed with it
        let start = range.start.saturating_sub(shift);
        let age = self.kept.filter(|k| k.0 == block).map(|k| k.1);
        let fresh = age.is_none_or(|a| caching.cache_refresh > 0 && a >= caching.cache_refresh);
        let all = 0..self.state.len();
        let in_block = || range.clone().filter(open).collect();
        match caching.cache {
            mode if fresh => {
                let keep = if mode.holds_the_block() { all.end } else { start };
                (StepKind::Denoise, all.clone().collect(), CacheOp::Keep { keep }, all.filter(open).collect())
            }
            _ if caching.cache_check && self.exact.is_none() => {
                (StepKind::Check, all.collect(), CacheOp::Bypass, in_block())
            }
            CacheMode::Delayed => {
                let rows: Vec<u32> = all.filter(open).collect();
                let before = rows.iter().map(|p| p - shift);
                let mut asked: Vec<u32> = rows
                    .iter()
                    .copied()
                    .chain(before)
                    .chain(self.changed.iter().flatten().copied())
                    .collect();
                asked.sort_unstable();
                asked.dedup();
                (StepKind::Denoise, asked, CacheOp::Replace, rows)
            }
            CacheMode::Dual => {
                (StepKind::Denoise, (start..range.end).collect(), CacheOp::Replace, in_block())
            }
            _ => {
                let rows = (range.start..all.end).filter(open).collect();
                (StepKind::Denoise, (start..all.end).collect(), CacheOp::None, rows)
            }
        }
    }

    pub(super) fn cache_event(&self, request: &ForwardRequest) -> CacheEvent {
        let first = request.query_positions.first().copied().unwrap_or(0);
        let last = request.query_positions.last().map_or(0, |p| p + 1);
        match request.cache {
            CacheOp::None => CacheEvent {
                reused: self.cached,
                age: self.kept.filter(|_| self.cached > 0).map(|k| k.1),
                ..Default::default()
            },
            CacheOp::Store => {
                CacheEvent { reused: self.cached, stored: Some((first, last)), ..Default::default() }
            }
            CacheOp::Truncate { keep } => {
                CacheEvent { reused: keep, dropped: Some((keep, self.cached)), ..Default::default() }
            }
            CacheOp::Keep { keep } => CacheEvent {
                stored: Some((0, keep)).filter(|_| keep > 0),
                dropped: Some((0, self.cached)).filter(|_| self.cached > 0),
                ..Default::default()
            },
            CacheOp::Replace => CacheEvent {
                reused: first,
                behind: Some((last, self.cached)).filter(|_| last < self.cached),
                age: self.kept.map(|k| k.1),
                ..Default::default()
            },
            CacheOp::Bypass => CacheEvent::default(),
        }
    }
}
