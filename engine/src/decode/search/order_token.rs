//! Order-Token Search (arXiv 2601.20339; `methods/order_token_search.md`): K partial texts; once a block each proposes K
//! noisy continuations that differ in which positions they write and in what they write there, and a likelihood of the
//! block prunes the K^2 candidates back to K.
//!
//! At the first step of block n, of every beam x: one forward gives z. Child j draws x0 = argmax(z + T g_j) at every
//! masked position and writes the r positions of block n whose x0 is surest under softmax(z + T g_j) (`noised`); its guess
//! f fills every mask with x0. f with the whole block n masked goes through a second forward, and
//!
//! ```text
//! score = parent's score + sum over i in block n of ln p(f_i | f without block n)
//! ```
//!
//! The other steps of the block are ordinary: r surest tokens per beam and forward. With K beams and one root, S steps and
//! B blocks this costs S K + B K^2 - (K^2 - 1) forwards, and (K - 1) (S / B - 1) less than that because after the last choice
//! only the best beam is written on. Without `accumulate` that choice is by the last block's score alone. The best K are kept in order of score, then parent, then child.
//!
//! With a `budget` of forwards the search narrows to its best beam at the block from which searching on would exceed it.
//! Only with attention to the whole text: without later blocks in sight the score is the first forward's own.

use std::sync::Arc;

use super::super::{
    CacheOp, DecodeConfig, DecodeError, Decoder, ForwardRequest, Method, RowStats, Status, Want,
    policy::{Parts, PolicySpec, Score, SearchFired, SearchPhase, Selection},
    rows,
    state::CERTAIN,
};
use super::{Progress, decoder, seed, sub_config};

#[derive(Clone, Debug)]
struct Beam {
    decoder: Decoder,
    score: f64,
}

#[derive(Clone, Debug)]
struct Child {
    beam: Beam,
    /// every mask filled
    guess: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq)]
enum Phase {
    /// beam whose children are made
    Expand(usize),
    /// child that is scored
    Score(usize),
    /// beam that goes on writing
    Write(usize),
}

#[derive(Clone, Debug)]
pub(in super::super) struct OrderToken {
    beams: Vec<Beam>,
    children: Vec<Child>,
    phase: Phase,
    block: u32,
    /// K
    width: usize,
    accumulate: bool,
    budget: u32,
    /// tokens a forward
    step: u32,
    seed: u64,
    /// searching is over, the best beam is written to its end
    narrowed: bool,
    pub margin: f32,
}

impl OrderToken {
    pub fn new(config: &DecodeConfig) -> Result<OrderToken, DecodeError> {
        let Method::OrderTokenSearch { beams, block, tokens_per_forward, noised, accumulate, budget } =
            config.policy.method
        else {
            unreachable!("called for this method")
        };
        let plain = Method::TopProb {
            steps_per_block: 0,
            score: Score::TopProb,
            schedule: Default::default(),
            alg_temp: 0.0,
        };
        let mut c = sub_config(config, plain, 0);
        // a beam goes on behind its end of text, so that all of them score the same number of positions
        (c.block_size, c.early_stop, c.rows) = (block, false, true);
        let parts: Parts = PolicySpec::from(plain).build()?;
        let selection = Selection::PerForward { k: tokens_per_forward };
        let parts = Parts { selection, eos: config.policy.candidate.eos, ..parts };
        let mut root = decoder(c, Some(Arc::new(parts)))?;
        root.noised = noised;
        let first = root.active().unwrap_or(0);
        Ok(OrderToken {
            beams: vec![Beam { decoder: root, score: 0.0 }],
            children: Vec::new(),
            phase: Phase::Expand(0),
            block: first,
            width: beams as usize,
            accumulate,
            budget,
            step: tokens_per_forward,
            seed: config.seed,
            narrowed: false,
            margin: CERTAIN,
        })
    }

    pub fn leader(&self) -> &Decoder {
        &self.beams[0].decoder
    }

    pub fn request(&mut self) -> Option<ForwardRequest> {
        if self.beams[0].decoder.active().is_none() && self.children.is_empty() {
            return None;
        }
        match self.phase {
            Phase::Expand(at) => {
                let sub = &mut self.beams[at].decoder;
                sub.next()?;
                // children guess every masked position
                let pending = sub.pending.as_mut()?;
                pending.request.want.whole = pending.request.want.rows.clone();
                Some(pending.request.clone())
            }
            Phase::Score(at) => {
                let child = &self.children[at];
                let sub = &child.beam.decoder;
                let scored = scored(sub, self.block);
                let mut ids = child.guess.clone();
                scored.iter().for_each(|p| ids[*p as usize] = sub.config().mask_id);
                Some(ForwardRequest {
                    sequence: sub.config().sequence,
                    step: sub.step,
                    query_positions: (0..sub.state().len()).collect(),
                    ids,
                    rule: sub.config().attention.rule(),
                    block_size: sub.config().block_size,
                    cache: CacheOp::None,
                    compression: Default::default(),
                    want: Want { whole: scored, ..Default::default() },
                })
            }
            Phase::Write(at) => self.beams[at].decoder.next(),
        }
    }

    pub fn apply(&mut self, stats: RowStats, forwards: u32) -> Result<Progress, DecodeError> {
        let mut event = None;
        let fired = match self.phase {
            Phase::Expand(at) => {
                let mut made = Vec::with_capacity(self.width);
                for j in 0..self.width {
                    made.push(self.child(at, j, &stats)?);
                }
                self.margin = made.iter().map(|(_, m)| *m).fold(self.margin, f32::min);
                self.children.extend(made.into_iter().map(|(c, _)| c));
                self.phase = if at + 1 < self.beams.len() { Phase::Expand(at + 1) } else { Phase::Score(0) };
                SearchFired::new(SearchPhase::Expand, at)
            }
            Phase::Score(at) => {
                let child = &mut self.children[at];
                let sub = &child.beam.decoder;
                let positions = scored(sub, self.block);
                let wanted = positions.len() * sub.config().vocab as usize;
                if stats.logits.len() != wanted {
                    return Err(DecodeError::LogitCount { wanted, got: stats.logits.len() });
                }
                let lp = positions.iter().enumerate().map(|(i, p)| {
                    let z = rows::row(sub.config(), &stats, i);
                    rows::log_probability(sub.config(), z, child.guess[*p as usize])
                });
                let lp: f64 = lp.sum();
                child.beam.score = lp + if self.accumulate { child.beam.score } else { 0.0 };
                let mut fired = SearchFired::new(SearchPhase::Score, at);
                fired.score = Some(child.beam.score as f32);
                if at + 1 < self.children.len() {
                    self.phase = Phase::Score(at + 1);
                } else {
                    (fired.kept, fired.distinct) = self.prune();
                    self.next_phase(0, forwards);
                }
                fired
            }
            Phase::Write(at) => {
                let e = self.beams[at].decoder.apply(stats)?;
                self.margin = e.record.actions.iter().map(|a| a.margin).fold(self.margin, f32::min);
                let mut fired = SearchFired::new(SearchPhase::Write, at);
                fired.score = Some(self.beams[at].score as f32);
                if at == 0 {
                    event = Some(e);
                }
                self.next_phase(at, forwards);
                fired
            }
        };
        let done = self.children.is_empty() && self.beams.iter().all(|b| b.decoder.active().is_none());
        Ok(Progress { event, fired, done })
    }

    /// Child `j` of beam `at`, and the closest decision in it.
    fn child(&self, at: usize, j: usize, stats: &RowStats) -> Result<(Child, f32), DecodeError> {
        let parent = &self.beams[at];
        let mut sub = parent.decoder.clone();
        // slots 0..K are the beams'
        let slot = (self.width + at * self.width + j) as u64;
        sub.reseed(if self.width == 1 { self.seed } else { seed(self.seed, slot) });
        let event = sub.apply(stats.clone())?;
        let mut guess = sub.state().ids().to_vec();
        for row in event.record.rows.iter().filter(|r| sub.state().is_masked(r.pos)) {
            guess[row.pos as usize] = row.candidate;
        }
        let margin = event.record.actions.iter().map(|a| a.margin).fold(CERTAIN, f32::min);
        Ok((Child { beam: Beam { decoder: sub, score: parent.score }, guess }, margin))
    }

    /// Keeps the best children; their numbers, and how many different texts they are.
    fn prune(&mut self) -> (Vec<u32>, u32) {
        let mut order: Vec<usize> = (0..self.children.len()).collect();
        // stable: ties go to the lower parent, then the lower child
        order.sort_by(|a, b| self.children[*b].beam.score.total_cmp(&self.children[*a].beam.score));
        let score = |i: usize| self.children[order[i]].beam.score;
        for i in [1, self.width] {
            if i < order.len() {
                self.margin = self.margin.min((score(i - 1) - score(i)) as f32);
            }
        }
        order.truncate(self.width);
        self.beams = order.iter().map(|i| self.children[*i].beam.clone()).collect();
        for (slot, beam) in self.beams.iter_mut().enumerate() {
            beam.decoder.reseed(seed(self.seed, slot as u64));
        }
        self.children.clear();
        let mut texts: Vec<&[u32]> = self.beams.iter().map(|b| b.decoder.state().ids()).collect();
        texts.sort_unstable();
        texts.dedup();
        let distinct = texts.len() as u32;
        (order.iter().map(|i| *i as u32).collect(), distinct)
    }

    /// Goes to the beam that has to write next, from `at` on, or to the next block.
    fn next_phase(&mut self, at: usize, forwards: u32) {
        let block = self.block;
        // nothing will be chosen any more: the others need no end
        let state = self.beams[0].decoder.state();
        if state.masked(state.block_range(block).end..state.len()).next().is_none() {
            self.beams.truncate(1);
        }
        let writes = |b: &Beam| b.decoder.active().is_some_and(|a| a == block);
        if let Some(next) = (at..self.beams.len()).find(|i| writes(&self.beams[*i])) {
            self.phase = Phase::Write(next);
            return;
        }
        let Some(block) = self.beams[0].decoder.active() else { return };
        self.block = block;
        if !self.narrowed && self.budget > 0 && forwards + self.cost(block) > self.budget {
            self.narrowed = true;
            self.beams.truncate(1);
        }
        self.phase = if self.narrowed { Phase::Write(0) } else { Phase::Expand(0) };
    }

    /// Forwards of searching block `block` and writing the rest with one beam.
    fn cost(&self, block: u32) -> u32 {
        let state = self.beams[0].decoder.state();
        let steps = |b: u32| (state.masked(state.block_range(b)).count() as u32).div_ceil(self.step);
        let (k, n) = (self.width as u32, self.beams.len() as u32);
        n + n * k + k * steps(block).saturating_sub(1) + (block + 1..state.blocks()).map(steps).sum::<u32>()
    }
}

/// Positions of a block that the score is over: all that the user has not set.
fn scored(sub: &Decoder, block: u32) -> Vec<u32> {
    let open = |p: &u32| matches!(sub.state().status(*p), Status::Masked | Status::Committed { .. });
    sub.state().block_range(block).filter(open).filter(|p| *p > 0 || !sub.config().shift).collect()
}
