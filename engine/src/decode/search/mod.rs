//! Search: several decodings of one request, of which one is answered with. A search lives inside a [`Decoder`], so that
//! every driver runs it: the decoder asks for one forward after the other, whosever they are.
//!
//! What is shown and recorded is the leading decoding. Forwards of the others are records of kind `search` without
//! actions; where another one takes the lead, the record carries the actions that turn the text shown into its own, so
//! that a replay needs no model and no tree. The margin of such actions is the closest decision of the search so far.

mod best_of;
mod order_token;

use std::sync::Arc;

pub(super) use best_of::BestOf;
pub use best_of::RankBy;
pub(super) use order_token::OrderToken;

use super::{
    Action, ActionKind, DecodeConfig, DecodeError, Decoder, ForwardRequest, Method, PolicySpec, RowStats,
    State, Status, StepEvent, Stop,
    forward::Pending,
    policy::{Policy, SearchFired},
    state::CERTAIN,
    trajectory::{CacheEvent, StepKind, StepRecord},
};

/// What one forward did to a search.
pub(super) struct Progress {
    /// of the leading decoding, if the forward was one of its own
    pub event: Option<StepEvent>,
    pub fired: SearchFired,
    pub done: bool,
}

/// A search at work.
#[derive(Clone, Debug)]
pub(super) enum Search {
    OrderToken(Box<OrderToken>),
    BestOf(Box<BestOf>),
}

impl Search {
    /// The search that a policy asks for.
    pub fn of(config: &DecodeConfig) -> Result<Option<Search>, DecodeError> {
        Ok(match config.policy.method {
            Method::OrderTokenSearch { .. } => Some(Search::OrderToken(Box::new(OrderToken::new(config)?))),
            Method::BestOf { .. } => Some(Search::BestOf(Box::new(BestOf::new(config)?))),
            _ => None,
        })
    }
    pub fn leader(&self) -> &Decoder {
        match self {
            Search::OrderToken(s) => s.leader(),
            Search::BestOf(s) => s.leader(),
        }
    }
    fn request(&mut self) -> Option<ForwardRequest> {
        match self {
            Search::OrderToken(s) => s.request(),
            Search::BestOf(s) => s.request(),
        }
    }
    fn apply(&mut self, stats: RowStats, forwards: u32) -> Result<Progress, DecodeError> {
        match self {
            Search::OrderToken(s) => s.apply(stats, forwards),
            Search::BestOf(s) => s.apply(stats, forwards),
        }
    }
    fn margin(&self) -> f32 {
        match self {
            Search::OrderToken(s) => s.margin,
            Search::BestOf(s) => s.margin,
        }
    }
    /// The driver's cache is gone.
    pub fn forget_cache(&mut self) {
        match self {
            Search::OrderToken(_) => {}
            Search::BestOf(s) => s.forget_cache(),
        }
    }
}

/// The configuration of one of the decodings: another seed for each slot, slot 0 keeps the request's.
fn sub_config(config: &DecodeConfig, method: Method, slot: u64) -> DecodeConfig {
    let mut c = config.clone();
    c.policy = PolicySpec { method, ..config.policy };
    c.seed = seed(config.seed, slot);
    c
}

fn seed(seed: u64, slot: u64) -> u64 {
    seed.wrapping_add(slot.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

fn decoder(config: DecodeConfig, policy: Option<Arc<dyn Policy>>) -> Result<Decoder, DecodeError> {
    match policy {
        Some(policy) => Decoder::assemble(config, policy),
        None => Decoder::new(config),
    }
}

/// Actions that turn one text into another.
fn difference(from: &State, to: &State, margin: f32) -> Vec<Action> {
    let mut actions = Vec::new();
    for pos in 0..from.len() {
        let (a, b) = (from.status(pos), to.status(pos));
        let (old, new) = (from.id(pos), to.id(pos));
        let p = match b {
            Status::Committed { psi, .. } => psi,
            _ => 1.0,
        };
        let kind = match (a, b) {
            (Status::Masked, Status::Committed { .. }) => ActionKind::Commit,
            (Status::Masked, Status::Filled) => ActionKind::Fill,
            (Status::Committed { .. }, Status::Masked) => ActionKind::Remask,
            (Status::Committed { .. }, Status::Committed { .. }) if old != new => ActionKind::Edit,
            // one text ended early where the other did not: only through a mask
            (Status::Filled, Status::Committed { .. }) | (Status::Committed { .. }, Status::Filled) => {
                ActionKind::Reopen
            }
            (Status::Filled, Status::Masked) => ActionKind::Reopen,
            _ => continue,
        };
        let action = Action { kind, pos, old, new, p, logq: 0.0, margin: margin.clamp(0.0, CERTAIN) };
        if kind == ActionKind::Reopen {
            let mask = from.mask_id();
            actions.push(Action { new: mask, ..action });
            match b {
                Status::Masked => {}
                Status::Filled => actions.push(Action { kind: ActionKind::Fill, old: mask, ..action }),
                _ => actions.push(Action { kind: ActionKind::Commit, old: mask, ..action }),
            }
        } else {
            actions.push(action);
        }
    }
    actions
}

impl Decoder {
    /// The search's next forward.
    pub(super) fn plan_search(&mut self) -> Option<Pending> {
        let search = self.search.as_mut()?;
        let request = search.request()?;
        Some(Pending { request, kind: StepKind::Search, block: 0 })
    }

    /// Takes the statistics of a forward of the search.
    pub(super) fn apply_search(
        &mut self,
        request: &ForwardRequest,
        stats: RowStats,
        cache: CacheEvent,
    ) -> Result<StepEvent, DecodeError> {
        let rows = stats.rows.len() + request.want.whole.len();
        let search = self.search.as_mut().expect("a search is at work");
        let Progress { event, fired, done } = search.apply(stats, self.step + 1)?;
        let (leader, margin) = (search.leader(), search.margin());
        self.cached = request.cached_after(self.cached);
        let mut record = StepRecord {
            step: self.step,
            block: leader.active().or(leader.blocks.len().checked_sub(1).map(|b| b as u32)).unwrap_or(0),
            kind: StepKind::Search,
            queries: request.query_positions.len() as u32,
            shadow: 0,
            gaps: Vec::new(),
            cache,
            evicted: Vec::new(),
            rows: Vec::new(),
            actions: Vec::new(),
            rule: Some(super::policy::Rule {
                selection: super::policy::Fired::Search(fired),
                edit: None,
                switch: None,
            }),
            forced: false,
            divergence: None,
        };
        match event {
            Some(event) => {
                (record.rows, record.actions) = (event.record.rows, event.record.actions);
                record.forced = event.record.forced;
            }
            None => record.actions = difference(&self.state, leader.state(), margin),
        }
        for a in &record.actions {
            self.state.act(self.step, a)?;
        }
        if done {
            let leader = leader.clone();
            (self.blocks, self.policy) = (leader.blocks, leader.policy);
            (self.cached, self.valid) = (leader.cached, leader.valid);
            self.stop = leader.stop.or(Some(Stop::Complete));
            self.search = None;
        }
        self.step += 1;
        self.pending = None;
        self.record(&record, rows);
        Ok(StepEvent { record, masked: self.state.masked_left(), stop: self.stop })
    }
}
