//! The decoding loop without its forwards: [`Decoder::next`] says what must be computed, [`Decoder::apply`] turns
//! the statistics into actions.
//!
//! What a forward computes and what is cached is decided in `forward.rs`; what a denoising forward does is in `denoise.rs`.

use std::sync::Arc;

use hilda_kernels::head::RowHead;

use super::{
    Attention, CacheOp, DecodeConfig, DecodeError, ForwardRequest, RowStats, State, Status, Trajectory,
    credit::Credit,
    forward::Pending,
    policy::{Moment, Policy, Reach},
    refine::Refine,
    search::Search,
    switch::Undecided,
    trajectory::{CacheEvent, Footer, Header, Ledger, Provenance, StepKind, StepRecord, Stop, VERSION},
    window::Window,
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
    /// of the tokens that were most probable at each masked position
    pub credit: Credit,
    /// entropies of the tokens written, when they were, nats: sum and number
    pub surprise: (f64, u32),
}

impl BlockRun {
    /// Mean entropy of its tokens when they were written, nats.
    pub fn surprise(&self) -> Option<f64> {
        let (sum, n) = self.surprise;
        (n > 0).then(|| sum / f64::from(n))
    }
}

/// Positions between the first and the last query that are none, as ranges.
fn gaps(queries: &[u32]) -> Vec<(u32, u32)> {
    queries.windows(2).filter(|w| w[0] + 1 < w[1]).map(|w| (w[0] + 1, w[1])).collect()
}

/// One sequence being decoded.
#[derive(Clone, Debug)]
pub struct Decoder {
    pub(super) config: DecodeConfig,
    pub(super) policy: Arc<dyn Policy>,
    /// what a position may see now: the configuration's until a draft is refined
    pub(super) attention: Attention,
    pub(super) refine: Option<Refine>,
    /// finished blocks that are edited together
    pub(super) window: Option<Window>,
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
            window: None,
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
            let block = match &self.window {
                Some(window) => window.last(),
                None => self.active()?,
            };
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
            StepKind::Denoise if self.window.is_some() => self.edit_window(&request, &stats, &mut record)?,
            StepKind::Denoise => self.denoise(&request, &stats, &mut record)?,
            StepKind::Judge => self.judge(&request, &stats, &mut record)?,
            StepKind::Guide => self.unguided = Some(stats.logits),
            StepKind::Check => {
                // what is measured is the cache: everything else is as in the step it belongs to
                let mut credit = self.blocks[block as usize].credit.clone();
                self.exact = Some(self.refined(&request, &stats, block, &mut credit)?);
            }
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
        if self.search.is_some() || self.refine.is_some() {
            return 0;
        }
        let open = match (&self.window, self.active()) {
            (Some(window), _) => window.last(),
            (None, Some(block)) => block,
            (None, None) => return self.state.len(),
        };
        // a window may still reach back
        let reach = self.policy.windows().map_or(0, |w| match w.by {
            Reach::Adjacent => w.blocks - 1,
            Reach::Surprisal => open,
        });
        self.state.block_range(open.saturating_sub(reach)).start
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

    pub(super) fn capped(&self) -> bool {
        self.config.max_steps.is_some_and(|most| self.counted_steps >= most)
    }

    /// Closes blocks that need no forward, opens the next one and notices the end.
    pub(super) fn settle(&mut self) {
        if self.judging() || self.window.is_some() {
            return;
        }
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
}
