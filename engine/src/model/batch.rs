//! One forward for several texts, whatever each of them asks: the prefill of one, a denoising step of another, rows with a
//! shadow, rows inside a cache.
//!
//! The rows of all texts stand one behind the other, N = n_1 + .. + n_S. Embedding, norms, products and head treat them
//! alike and read each weight once for all; attention, its mask and its cache are each text's own ([`Segment`]). On the CPU
//! every sum over k is one chain in one order, whatever rows it is computed with (`kernels/src/gemm/blocks.rs`), so that what
//! a text gets does not depend to the bit on who shares the batch. Random keys know the request, never its place here.

use std::sync::Arc;

use hilda_kernels::head::{MAX_TOP_K, RowHead, STATS};
use hilda_kernels::{Backend, HeadJob, Train};

use super::cache::{Run, Slots};
use super::sequence::{Asked, MAX_LOGITS, Sequence, SessionError};
use super::trunk::Segment;
use super::{Plan, Weights};
use crate::decode::{ForwardRequest, RowStats};

/// Rows that buffers grow by.
const STEP: usize = 64;

/// Buffers for forwards of several texts.
pub struct Batch<B: Backend> {
    weights: Arc<Weights<B>>,
    plan: Plan<B>,
    ids: B::Ids,
    positions: B::Ids,
    /// wanted rows that there is room for
    room: usize,
    rows: B::Ids,
    draws: B::Ids,
    gathered: B::Buf,
    /// statistics of the last forward, [rows, STATS + 2 top_k] of text after text, then logits, [whole rows, vocabulary]
    pub stats: B::Buf,
    stats_len: usize,
    /// logits before they join the statistics; made when first asked for
    logits: Option<(usize, B::Buf)>,
}

/// Where a forward left the answer to one request in the values of [`Batch::stats`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    pub rows: usize,
    pub top_k: usize,
    /// number of logits
    pub logits: usize,
    /// first value of the statistics, and of the logits
    at: usize,
    logits_at: usize,
}

impl Pending {
    /// What a model with `vocab` tokens answers to `request` alone: statistics, then logits.
    pub fn of(request: &ForwardRequest, vocab: usize) -> Pending {
        let want = &request.want;
        let (rows, logits) = (want.rows.len(), want.whole.len() * vocab);
        let logits_at = rows * (STATS + 2 * want.top_k);
        Pending { rows, top_k: want.top_k, logits, at: 0, logits_at }
    }
    /// What an answer of `len` values holds: whatever is behind the statistics are logits.
    pub fn within(request: &ForwardRequest, len: usize) -> Pending {
        let bare = Pending::of(request, 0);
        Pending {
            logits: if request.want.whole.is_empty() { 0 } else { len.saturating_sub(bare.len()) },
            ..bare
        }
    }
    fn statistics(&self) -> usize {
        self.rows * (STATS + 2 * self.top_k)
    }
    /// Values of the answer. That of a text alone begins with the first value.
    pub fn len(&self) -> usize {
        self.statistics() + self.logits
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Values from the first on -> statistics.
    pub fn decode(&self, values: &[f32]) -> RowStats {
        let stride = STATS + 2 * self.top_k;
        let rows = values[self.at..][..self.statistics()].chunks_exact(stride);
        RowStats {
            rows: rows.map(|r| RowHead::decode(r, self.top_k)).collect(),
            logits: values[self.logits_at..][..self.logits].to_vec(),
            held: None,
        }
    }
}

/// A text in a forward.
struct Part<'a, B: Backend> {
    sequence: &'a mut Sequence<B>,
    asked: Asked<'a>,
    /// its first row
    row: usize,
    /// row of its carry, behind the rows of all texts
    carry: usize,
    runs: Option<Vec<Run>>,
}

impl<B: Backend> Part<'_, B> {
    /// Rows of a request as rows of the forward.
    fn absolute<'s>(&'s self, rows: &'s [u32]) -> impl Iterator<Item = u32> + 's {
        let n = self.asked.places.len();
        rows.iter().map(move |r| if *r as usize == n { self.carry as u32 } else { self.row as u32 + r })
    }
}

impl<B: Backend> Batch<B> {
    /// Buffers for `rows` rows; they grow where a forward has more.
    pub fn new(b: &B, weights: Arc<Weights<B>>, rows: usize) -> Self {
        let plan = weights.trunk.plan(b, rows, false);
        let stats_len = rows * (STATS + 2 * MAX_TOP_K);
        Batch {
            plan,
            ids: b.ids(rows),
            positions: b.ids(rows),
            room: rows,
            rows: b.ids(rows),
            draws: b.ids(4 * rows),
            gathered: b.buf(rows * weights.trunk.config.head_width()),
            stats: b.buf(stats_len),
            stats_len,
            logits: None,
            weights,
        }
    }

    pub fn weights(&self) -> &Arc<Weights<B>> {
        &self.weights
    }

    /// How many of `requests`, from the first on, one forward should take: as many as have at most `rows` rows, and logits
    /// that one request might have. One at least.
    pub fn take<'a>(&self, requests: impl IntoIterator<Item = &'a ForwardRequest>, rows: usize) -> usize {
        let (mut left, mut logits) = (rows, MAX_LOGITS);
        let fits = |r: &ForwardRequest| {
            let n = r.query_positions.len() + r.want.shadow.as_ref().map_or(0, |s| s.positions.len());
            let values = r.want.whole.len() * self.weights.trunk.config.vocab;
            let room = left.checked_sub(n).zip(logits.checked_sub(values));
            (left, logits) = room.unwrap_or((0, 0));
            room.is_some()
        };
        requests.into_iter().map(fits).take_while(|fits| *fits).count().max(1)
    }

    /// Room for a plan of `rows` rows, `wanted` rows that are read, and `values` in the answers.
    fn grow(&mut self, b: &B, rows: usize, wanted: usize, values: usize) {
        if rows > self.plan.capacity() {
            let rows = rows.next_multiple_of(STEP);
            self.plan = self.weights.trunk.plan(b, rows, false);
            (self.ids, self.positions) = (b.ids(rows), b.ids(rows));
        }
        if wanted > self.room {
            self.room = wanted.next_multiple_of(STEP);
            (self.rows, self.draws) = (b.ids(self.room), b.ids(4 * self.room));
            self.gathered = b.buf(self.room * self.weights.trunk.config.head_width());
        }
        if values > self.stats_len {
            self.stats_len = values.next_multiple_of(STEP);
            self.stats = b.buf(self.stats_len);
        }
    }

    /// Records one forward for all of `texts`; the answers are in `self.stats` once the device has run. A request that is
    /// refused changes nothing, neither in its text nor for the others.
    pub fn forward(
        &mut self,
        b: &B,
        texts: &mut [(&mut Sequence<B>, &ForwardRequest)],
    ) -> Vec<Result<Pending, SessionError>> {
        let w = self.weights.clone();
        let (c, d) = (&w.trunk.config, w.trunk.config.head_width());
        let asked: Vec<_> = texts.iter().map(|(sequence, request)| sequence.ask(&w, request)).collect();
        let alone = asked.iter().map(|a| a.as_ref().map(|a| Pending::of(a.request, c.vocab)));
        let mut answers: Vec<_> = alone.map(|p| p.map_err(Clone::clone)).collect();
        let (mut at, mut logits_at) = (0, answers.iter().flatten().map(Pending::statistics).sum());
        let statistics = logits_at;
        for p in answers.iter_mut().flatten() {
            (p.at, p.logits_at) = (at, logits_at);
            (at, logits_at) = (at + p.statistics(), logits_at + p.logits);
        }

        let sum = |of: fn(&Asked) -> usize| asked.iter().flatten().map(of).sum::<usize>();
        let n = sum(|a| a.places.len());
        let (wanted, whole) = (sum(|a| a.rows.len()), sum(|a| a.whole.len()));
        // a plan has one hidden row more than rows
        self.grow(b, n + asked.len().saturating_sub(1), wanted.max(whole), logits_at);
        let (mut parts, mut row): (Vec<Part<B>>, usize) = (Vec::new(), 0);
        for ((sequence, _), asked) in texts.iter_mut().zip(asked) {
            let Ok(asked) = asked else { continue };
            sequence.begin(b, &w.trunk, &asked);
            let place = |run: &Run| Run { row: row + run.row, ..*run };
            let runs = asked.runs.as_ref().map(|runs| runs.iter().map(place).collect());
            let (carry, len) = (n + parts.len(), asked.places.len());
            parts.push(Part { sequence, asked, row, carry, runs });
            row += len;
        }

        if n > 0 {
            let ids: Vec<u32> = parts.iter().flat_map(|p| &p.asked.ids).copied().collect();
            let places = parts.iter().flat_map(|p| &p.asked.places);
            let positions: Vec<u32> = places.map(|p| p.position).collect();
            b.write_ids(&mut self.ids, &ids);
            b.write_ids(&mut self.positions, &positions);
            let busy = parts.iter_mut().filter(|p| !p.asked.places.is_empty());
            let mut segments: Vec<Segment<B>> = busy
                .map(|Part { sequence, asked, row, runs, .. }| Segment {
                    row: *row,
                    len: asked.places.len(),
                    masks: w.trunk.masks(b, asked.request.rule, 1, &asked.places, &asked.keys),
                    cache: runs.as_ref().map(|runs| {
                        (&mut sequence.cache, Slots { runs: runs.as_slice(), keys: asked.keys.len() })
                    }),
                })
                .collect();
            let (ids, positions) = (&self.ids, &self.positions);
            w.trunk.forward_segments(b, &w.params, &mut self.plan, ids, positions, &mut segments);
        }
        for part in parts.iter().filter(|p| p.asked.carries()) {
            b.copy(&part.sequence.carry, 0, &mut self.plan.hidden, part.carry * d, d);
        }

        if wanted > 0 {
            let rows: Vec<u32> = parts.iter().flat_map(|p| p.absolute(&p.asked.rows)).collect();
            let draws: Vec<u32> = parts.iter().flat_map(|p| &p.asked.draws).copied().collect();
            b.write_ids(&mut self.rows, &rows);
            b.write_ids(&mut self.draws, &draws);
            b.gather(&self.plan.hidden, &self.rows, &mut self.gathered, wanted, d);
            let job = |p: &Part<B>| {
                let want = &p.asked.request.want;
                HeadJob {
                    rows: want.rows.len(),
                    width: d,
                    vocab: c.vocab,
                    top_k: want.top_k,
                    temperature: want.temperature,
                    seed: want.seed,
                    forbid: c.forbid.clone(),
                }
            };
            let jobs: Vec<HeadJob> = parts.iter().map(job).collect();
            let table = w.trunk.layout.head;
            b.heads(&self.gathered, &w.params, table, &self.draws, &mut self.stats, &jobs);
        }
        if whole > 0 {
            let values = whole * c.vocab;
            if self.logits.as_ref().is_none_or(|l| l.0 < values) {
                self.logits = Some((values, b.buf(values)));
            }
            let (_, logits) = self.logits.as_mut().expect("made above");
            let rows: Vec<u32> = parts.iter().flat_map(|p| p.absolute(&p.asked.whole)).collect();
            b.write_ids(&mut self.rows, &rows);
            b.gather(&self.plan.hidden, &self.rows, &mut self.gathered, whole, d);
            b.linear(&self.gathered, &w.params, w.trunk.layout.head, logits, whole, c.vocab, d, false);
            b.copy(logits, 0, &mut self.stats, statistics, values);
        }
        for part in parts {
            part.sequence.end(b, &part.asked, &self.plan.hidden, part.row, d);
        }
        answers
    }
}

impl<B: Train> Batch<B> {
    /// Forward and statistics at once, on a device whose buffers can be read.
    pub fn answer(
        &mut self,
        b: &B,
        texts: &mut [(&mut Sequence<B>, &ForwardRequest)],
    ) -> Vec<Result<RowStats, SessionError>> {
        let pending = self.forward(b, texts);
        let values = b.read_range(&self.stats, 0, pending.iter().flatten().map(Pending::len).sum());
        let held = texts.iter().map(|(sequence, _)| Some(sequence.held(&self.weights.trunk)));
        let answer = |(p, held): (Result<Pending, _>, _)| p.map(|p| RowStats { held, ..p.decode(&values) });
        pending.into_iter().zip(held).map(answer).collect()
    }
}
