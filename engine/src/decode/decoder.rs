//! The decoding loop without its forwards: [`Decoder::next`] says what must be computed, [`Decoder::apply`] turns
//! the statistics into actions.
//!
//! What a forward computes and what is cached is decided in `forward.rs`.

use std::sync::Arc;

use hilda_kernels::head::RowHead;

use super::{
    Action, ActionKind, Attention, CacheOp, DecodeConfig, DecodeError, ForwardRequest, RowStats, State,
    Status, Trajectory,
    forward::Pending,
    policy::{Confidence, Fired, Moment, Policy, Row, View},
    refine::Refine,
    rows,
    rules::{best, cap, check_plan},
    search::Search,
    switch::Undecided,
    trajectory::{
        CacheEvent, Divergence, Footer, Header, Ledger, Provenance, RowRecord, StepKind, StepRecord, Stop,
        VERSION,
    },
};

/// What one [`Decoder::apply`] did.
#[derive(Clone, Debug, PartialEq)]
pub struct StepEvent {
    /// always with its rows, whatever the trajectory keeps
    pub record: StepRecord,
    /// masked positions left
    pub masked: u32,
    /// set if this was the last step
    pub stop: Option<Stop>,
}

/// Progress inside one block.
#[derive(Clone, Debug, Default)]
pub(super) struct BlockRun {
    pub done: bool,
    pub masked_at_start: u32,
    /// denoising forwards so far
    pub steps: u32,
    /// of them without a mask
    pub post: u32,
    /// cell of the block's own grid of times
    pub cell: u32,
    /// positions written in the denoising forward before
    pub commits: Option<u32>,
    /// tokens each position held since the block was opened
    pub held: Vec<Vec<u32>>,
    /// distribution of each masked position in the forward before, and how far it moved in each since the second; for
    /// policies that compare
    pub before: Vec<Option<Vec<f32>>>,
    pub kl: Vec<Vec<f32>>,
}

/// Rows of the active block against the same rows without the cache.
fn diverged(rows: &[Row], exact: &[RowHead]) -> Divergence {
    let mut d = Divergence::default();
    for (row, exact) in rows.iter().filter(|r| r.active).zip(exact) {
        let dp = (row.p_max() - exact.p_max()).abs();
        d.rows += 1;
        d.changed += u32::from(row.head.candidate != exact.candidate);
        d.largest_dp = d.largest_dp.max(dp);
        d.sum_dp += dp;
    }
    d
}

/// Positions between the first and the last query that are none, as ranges.
fn gaps(queries: &[u32]) -> Vec<(u32, u32)> {
    queries.windows(2).filter(|w| w[0] + 1 < w[1]).map(|w| (w[0] + 1, w[1])).collect()
}

/// KL history and distributions of the positions of a block.
type Moved = (Vec<Vec<f32>>, Vec<Option<Vec<f32>>>);

/// One sequence being decoded.
#[derive(Clone, Debug)]
pub struct Decoder {
    pub(super) config: DecodeConfig,
    pub(super) policy: Arc<dyn Policy>,
    /// what a position may see now: the configuration's until a draft is refined
    pub(super) attention: Attention,
    pub(super) refine: Option<Refine>,
    pub(super) search: Option<Search>,
    /// a switch that has not chosen yet
    pub(super) undecided: Option<Undecided>,
    /// confidences are those of the noised logits (Order-Token Search)
    pub(super) noised: bool,
    /// the draft came to an end of text
    pub(super) ended: bool,
    pub(super) state: State,
    pub(super) blocks: Vec<BlockRun>,
    /// forwards so far
    pub(super) step: u32,
    /// denoising forwards since the start or the last reopening: what `max_steps` limits
    pub(super) counted_steps: u32,
    /// positions in the driver's cache, and how many of them still hold
    pub(super) cached: u32,
    pub(super) valid: u32,
    pub(super) pending: Option<Pending>,
    /// logits of the block's open rows without the prompt, until the guided forward
    pub(super) unguided: Option<Vec<f32>>,
    /// block that an approximate cache was filled for, and the denoising forwards since
    pub(super) kept: Option<(u32, u32)>,
    /// positions changed in each of the last `cache_delay` denoising forwards since it was filled, the newest first
    pub(super) changed: Vec<Vec<u32>>,
    /// rows of the pending step without that cache
    pub(super) exact: Option<Vec<RowHead>>,
    pub(super) stop: Option<Stop>,
    ledger: Ledger,
    steps: Vec<StepRecord>,
    unseen_fixed: Vec<u32>,
    provenance: Provenance,
}

impl Decoder {
    /// Checks the configuration and sets up the text.
    pub fn new(config: DecodeConfig) -> Result<Decoder, DecodeError> {
        config.validate()?;
        let policy = Arc::new(config.policy.build()?);
        if let Some(undecided) = Undecided::of(&config)? {
            let mut decoder = Decoder::assemble(config, policy)?;
            decoder.undecided = Some(undecided);
            return Ok(decoder);
        }
        let Some(search) = Search::of(&config)? else { return Decoder::assemble(config, policy) };
        let mut decoder = Decoder::assemble(config, policy)?;
        // the text shown is divided as the search divides it
        let leader = search.leader();
        (decoder.state, decoder.blocks) = (leader.state.clone(), leader.blocks.clone());
        if decoder.stop.is_none() {
            decoder.search = Some(search);
        }
        Ok(decoder)
    }

    /// With a policy of one's own; `config.policy` is then only what the record says.
    pub fn with_policy(config: DecodeConfig, policy: Box<dyn Policy>) -> Result<Decoder, DecodeError> {
        Decoder::assemble(config, policy.into())
    }

    pub(super) fn assemble(config: DecodeConfig, policy: Arc<dyn Policy>) -> Result<Decoder, DecodeError> {
        config.validate()?;
        config.servable()?;
        let state = State::new(&config);
        let blocks = vec![BlockRun::default(); state.blocks() as usize];
        let mut decoder = Decoder {
            unseen_fixed: config.unseen_fixed(),
            policy,
            attention: config.attention,
            refine: config.policy.refine(),
            search: None,
            undecided: None,
            noised: false,
            ended: false,
            state,
            blocks,
            step: 0,
            counted_steps: 0,
            cached: 0,
            valid: 0,
            pending: None,
            unguided: None,
            kept: None,
            changed: Vec::new(),
            exact: None,
            stop: None,
            ledger: Ledger::default(),
            steps: Vec::new(),
            provenance: Provenance::default(),
            config,
        };
        decoder.settle();
        decoder.skip_refining();
        Ok(decoder)
    }

    /// Names the weights and the device in the record.
    pub fn set_provenance(&mut self, provenance: Provenance) {
        self.provenance = provenance;
    }
    pub fn config(&self) -> &DecodeConfig {
        &self.config
    }
    pub fn state(&self) -> &State {
        &self.state
    }
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }
    /// Why it ended; none while there is work left.
    pub fn stop(&self) -> Option<Stop> {
        self.stop
    }
    /// Steps recorded so far (forwards and the user's operations).
    pub fn steps(&self) -> &[StepRecord] {
        &self.steps
    }
    /// The record so far.
    pub fn trajectory(&self) -> Trajectory {
        Trajectory {
            version: VERSION,
            header: Header {
                config: self.config.clone(),
                model: self.provenance.clone(),
                unseen_fixed: self.unseen_fixed.clone(),
            },
            steps: self.steps.clone(),
            footer: Footer::new(&self.config, &self.state, &self.steps, self.ledger, self.stop),
        }
    }

    /// The forward needed now, or none if the text is final. Asking again gives the same request until
    /// [`Decoder::apply`] has taken its statistics.
    #[allow(clippy::should_implement_trait)] // an iterator could not be fed in between
    pub fn next(&mut self) -> Option<ForwardRequest> {
        if self.pending.is_none() && self.search.is_some() {
            self.pending = self.plan_search();
        } else if self.pending.is_none() {
            let block = self.active()?;
            self.pending = Some(self.plan_forward(block));
        }
        self.pending.as_ref().map(|p| p.request.clone())
    }

    /// Takes the statistics of the pending forward. After an error the forward is still pending and nothing has
    /// changed.
    pub fn apply(&mut self, stats: RowStats) -> Result<StepEvent, DecodeError> {
        let Pending { request, kind, block } = self.pending.clone().ok_or(DecodeError::NoForwardPending)?;
        let held = stats.held.clone().unwrap_or_default();
        if self.search.is_some() {
            let event = self.cache_event(&request);
            let event = self.apply_search(&request, stats, event)?;
            self.ledger.held(&held);
            return Ok(event);
        }
        self.check_stats(&request, &stats)?;
        let mut record = StepRecord {
            step: request.step,
            block,
            kind,
            queries: request.query_positions.len() as u32,
            shadow: request.want.shadow.as_ref().map_or(0, |s| s.positions.len() as u32),
            gaps: gaps(&request.query_positions),
            cache: CacheEvent { quantised: held.quantised, ..self.cache_event(&request) },
            evicted: held.summary(),
            rows: Vec::new(),
            actions: Vec::new(),
            rule: None,
            forced: false,
            divergence: None,
        };
        let rows = stats.rows.len() + request.want.whole.len();
        match kind {
            StepKind::Denoise => self.denoise(&request, &stats, &mut record)?,
            StepKind::Guide => self.unguided = Some(stats.logits),
            StepKind::Check => self.exact = Some(stats.rows),
            _ => {}
        }
        match request.cache {
            CacheOp::Bypass => {}
            CacheOp::Keep { .. } => self.kept = Some((block, 1)),
            _ => self.kept = self.kept.map(|(block, age)| (block, age + 1)),
        }
        if !matches!(request.cache, CacheOp::None | CacheOp::Replace | CacheOp::Bypass) {
            self.cached = request.cached_after(self.cached);
            self.valid = self.cached;
        }

        self.step += 1;
        self.pending = None;
        self.settle();
        if self.active().is_none() && self.refine.is_some() {
            self.begin_refining(request.step, &mut record.actions)?;
        }
        self.ledger.held(&held);
        self.record(&record, rows);
        Ok(StepEvent { record, masked: self.state.masked_left(), stop: self.stop })
    }

    /// Tells that the driver's cache is gone, as when it goes on with another device: the pending forward is planned
    /// anew, and what it needs is computed again. Text and policy stay as they are.
    pub fn forget_cache(&mut self) {
        self.pending = None;
        (self.cached, self.valid) = (0, 0);
        self.kept = None;
        if let Some(search) = &mut self.search {
            search.forget_cache();
        }
    }

    pub(super) fn pending(&self) -> bool {
        self.pending.is_some()
    }

    pub(super) fn record(&mut self, record: &StepRecord, rows: usize) {
        self.ledger.add(record, rows);
        self.ledger.cache_positions = self.ledger.cache_positions.max(self.cached);
        let mut kept = record.clone();
        if !self.config.rows {
            kept.rows.clear();
        }
        self.steps.push(kept);
    }

    /// Leading positions that no later step can change, the user's changes aside.
    pub fn settled(&self) -> u32 {
        match self.active() {
            _ if self.search.is_some() || self.refine.is_some() => 0,
            Some(block) => self.state.block_range(block).start,
            None => self.state.len(),
        }
    }

    /// Another seed for all that is drawn from now on, also by the pending forward.
    pub(super) fn reseed(&mut self, seed: u64) {
        self.config.seed = seed;
        if let Some(pending) = &mut self.pending {
            pending.request.want.seed = seed;
        }
    }

    /// A draft that ended without a forward is not refined.
    pub(super) fn skip_refining(&mut self) {
        if self.active().is_none() && self.refine.take().is_some() {
            self.settle();
        }
    }

    pub(super) fn active(&self) -> Option<u32> {
        self.blocks.iter().position(|b| !b.done).map(|b| b as u32)
    }

    fn capped(&self) -> bool {
        self.config.max_steps.is_some_and(|most| self.counted_steps >= most)
    }

    /// Closes blocks that need no forward, opens the next one and notices the end.
    pub(super) fn settle(&mut self) {
        while let Some(block) = self.active() {
            let range = self.state.block_range(block);
            let masked = self.state.masked(range.clone()).count() as u32;
            let capped = self.capped();
            let run = &mut self.blocks[block as usize];
            if let Some(cells) = self.policy.cells() {
                let moment = Moment {
                    statuses: self.state.statuses(),
                    block: range.clone(),
                    seed: self.config.seed,
                    sequence: self.config.sequence,
                };
                while run.cell < cells && !self.policy.stirs(run.cell, &moment) {
                    run.cell += 1;
                }
                if masked == 0 && (run.cell >= cells || capped) {
                    run.done = true;
                    continue;
                }
            }
            let budget = self.policy.post_budget();
            let timed = self.policy.cells().is_some();
            if !timed && masked == 0 && (run.post >= budget || run.steps == 0 || capped) {
                run.done = true;
                continue;
            }
            if run.steps == 0 {
                run.masked_at_start = masked;
                run.held = range
                    .map(|p| match self.state.status(p) {
                        Status::Masked => Vec::new(),
                        _ => vec![self.state.id(p)],
                    })
                    .collect();
            }
            return;
        }
        if self.refine.is_none() && self.search.is_none() {
            let stop = if self.ended { Stop::EarlyStop } else { Stop::Complete };
            self.stop = self.stop.or(Some(stop));
        }
    }

    fn check_stats(&self, request: &ForwardRequest, stats: &RowStats) -> Result<(), DecodeError> {
        let (wanted, got) = (request.want.rows.len(), stats.rows.len());
        if wanted != got {
            return Err(DecodeError::RowCount { wanted, got });
        }
        rows::check(&self.config, request, stats)?;
        for (pos, head) in request.want.rows.iter().zip(&stats.rows) {
            let bad = |field, value| DecodeError::BadRow { pos: *pos, field, value };
            for (field, value) in [
                ("lse", head.lse),
                ("max", head.max),
                ("entropy", head.entropy),
                ("candidate_logit", head.candidate_logit),
                ("lse_t", head.lse_t),
            ] {
                if !value.is_finite() {
                    return Err(bad(field, value));
                }
            }
            // what a masked row's mask token scores means nothing
            let current = if self.state.is_masked(*pos) { 0.0 } else { head.current };
            for (field, value) in [("second", head.second), ("current", current), ("margin", head.margin)] {
                if value.is_nan() {
                    return Err(bad(field, value));
                }
            }
            for id in [head.argmax, head.candidate] {
                if id >= self.config.vocab {
                    let vocab = self.config.vocab;
                    return Err(DecodeError::IdOutOfRange { what: "predicted token", id, vocab });
                }
                if !self.config.writable(id) {
                    return Err(DecodeError::ForbiddenToken { id });
                }
            }
        }
        Ok(())
    }

    /// View, plan, check, progress, all actions at once, bookkeeping.
    fn denoise(
        &mut self,
        request: &ForwardRequest,
        stats: &RowStats,
        record: &mut StepRecord,
    ) -> Result<(), DecodeError> {
        let block = record.block;
        let range = self.state.block_range(block);
        let noised = if self.noised { rows::noised(&self.config, request, stats) } else { Vec::new() };
        let heads = rows::refined(&self.config, &self.state, request, stats, self.unguided.as_deref())?;
        let moved = self.compared(block, request, stats);
        let decided = self.decide(request, stats)?;
        let policy = decided.as_ref().map_or(&self.policy, |d| &d.0).clone();
        let run = &self.blocks[block as usize];
        let temperature = self.config.temperature;
        let drawn = temperature > 0.0 && self.config.policy.candidate.confidence == Confidence::Drawn;
        let rows: Vec<Row> = request
            .want
            .rows
            .iter()
            .zip(&heads)
            .map(|(pos, head)| {
                let active = range.contains(pos);
                let at = pos.wrapping_sub(range.start) as usize;
                let held = if active { run.held[at].as_slice() } else { &[] };
                let kl = moved.as_ref().filter(|_| active).map_or(&[][..], |(kl, _)| &kl[at]);
                let (status, current) = (self.state.status(*pos), self.state.id(*pos));
                let informed = self.config.informed(self.attention, *pos);
                let noised = noised.iter().find(|n| n.0 == *pos);
                let p = if let Some((_, p)) = noised {
                    *p
                } else if drawn {
                    head.q_candidate(temperature)
                } else {
                    head.p_candidate()
                };
                let confidence = p.min(1.0);
                Row { pos: *pos, status, current, active, informed, head, held, confidence, kl }
            })
            .collect();
        let view = View {
            step: request.step,
            block,
            active: range.clone(),
            block_step: run.steps,
            masked_at_start: run.masked_at_start,
            cell: run.cell,
            commits: run.commits,
            temperature: self.config.temperature,
            seed: self.config.seed,
            sequence: self.config.sequence,
            statuses: self.state.statuses(),
            eos: self.config.eos_id,
            start: self.config.prompt.len() as u32,
            frequencies: self.config.frequencies.as_ref(),
            rows: &rows,
        };
        let open = |r: &&Row| r.active && r.masked();
        let was_open = rows.iter().any(|r| open(&r));
        let n = rows.iter().filter(open).count() as u32;
        let timed = policy.cells();
        let mut plan = match timed {
            _ if self.capped() => cap(&view, Fired::Capped { n }),
            Some(cells) if run.cell >= cells => cap(&view, Fired::NoiseRemoval { n }),
            _ => policy.plan(&view),
        };
        record.forced = matches!(plan.rule.selection, Fired::Capped { .. });
        check_plan(&self.config, &view, &plan)?;
        if timed.is_none() && was_open && plan.actions.iter().all(|a| a.kind != ActionKind::Commit) {
            plan.actions.push(best(&view, &plan));
            record.forced = true;
        }
        record.divergence = self.exact.as_ref().map(|exact| diverged(&rows, exact));
        record.rows = rows.iter().zip(&plan.scores).map(|(r, s)| RowRecord::new(r, *s)).collect();

        let mut state = self.state.clone();
        for a in &plan.actions {
            state.act(request.step, a)?;
        }
        self.state = state;
        if let Some((policy, switched)) = decided {
            (self.policy, self.undecided) = (policy, None);
            plan.rule.switch = Some(switched);
        }
        self.unguided = None;
        self.exact = None;
        let run = &mut self.blocks[block as usize];
        if let Some((kl, before)) = moved {
            (run.kl, run.before) = (kl, before);
        }
        for a in plan.actions.iter().filter(|a| a.kind != ActionKind::Remask) {
            run.held[(a.pos - range.start) as usize].push(a.new);
        }
        run.commits = Some(plan.actions.iter().filter(|a| a.kind == ActionKind::Commit).count() as u32);
        run.steps += 1;
        run.cell += 1;
        if !was_open && timed.is_none() {
            run.post += 1;
            // masks that the last of these forwards left are still to be written: then `settle` ends the block
            run.done = plan.actions.is_empty();
        }
        self.counted_steps += 1;
        record.actions = plan.actions;
        record.rule = Some(plan.rule);
        self.settle();
        self.stop_early(request.step, block, &mut record.actions)?;
        if matches!(request.cache, CacheOp::Keep { .. }) {
            self.changed.clear();
        }
        self.changed.insert(0, record.actions.iter().map(|a| a.pos).collect());
        self.changed.truncate(self.config.policy.caching.cache_delay as usize);
        Ok(())
    }

    /// How far each position of the block has moved in this and earlier forwards, and where it is now; nothing for
    /// policies that do not ask.
    fn compared(&self, block: u32, request: &ForwardRequest, stats: &RowStats) -> Option<Moved> {
        if !self.policy.compares() {
            return None;
        }
        let (range, run) = (self.state.block_range(block), &self.blocks[block as usize]);
        let mut kl = run.kl.clone();
        kl.resize(range.len(), Vec::new());
        let mut before = vec![None; range.len()];
        for (i, pos) in request.want.whole.iter().enumerate().filter(|(_, p)| self.state.is_masked(**p)) {
            let at = (pos - range.start) as usize;
            let now = rows::probabilities(&self.config, rows::row(&self.config, stats, i));
            if let Some(then) = run.before.get(at).and_then(Option::as_ref) {
                kl[at].push(rows::divergence(&now, then));
            }
            before[at] = Some(now);
        }
        Some((kl, before))
    }

    /// End-of-text written and nothing before it masked: the remaining masks become end-of-text. A policy that
    /// revises may still take the token back, so there it waits until the block is final.
    fn stop_early(&mut self, step: u32, block: u32, actions: &mut Vec<Action>) -> Result<(), DecodeError> {
        let Some(eos) = self.config.eos_id.filter(|_| self.config.early_stop) else { return Ok(()) };
        if self.policy.revises() && !self.blocks[block as usize].done {
            return Ok(());
        }
        let written =
            |p: u32| self.state.id(p) == eos && matches!(self.state.status(p), Status::Committed { .. });
        let known = (0..self.state.len()).take_while(|p| !self.state.is_masked(*p));
        if !known.into_iter().any(written) {
            return Ok(());
        }
        let rest: Vec<u32> = self.state.masked(0..self.state.len()).collect();
        if rest.is_empty() && self.active().is_none() {
            return Ok(());
        }
        for pos in rest {
            let old = self.state.id(pos);
            let fill = Action { kind: ActionKind::Fill, ..Action::certain(pos, old, eos) };
            self.state.act(step, &fill)?;
            actions.push(fill);
        }
        self.blocks.iter_mut().for_each(|b| b.done = true);
        self.ended = true;
        self.stop = Some(Stop::EarlyStop).filter(|_| self.refine.is_none());
        Ok(())
    }
}
