//! A decoding policy is a pure function from the distributions of one forward to actions.
//!
//! Four independent parts (`methods/decoding.md` 1): the **candidate** token of a row, the **score** that orders
//! rows, the **selection** of the rows that are written now, and the **revision** of rows already written.
//! [`PolicySpec`] names a combination; [`Parts`] is the combination at work. A policy proposes, the decoder
//! enforces: prompt and fixed tokens never change, each position at most once a step, all at once, and at least
//! one commit while the block has masks.

mod ancestral;
mod caching;
mod candidate;
mod combination;
mod common;
mod compression;
mod defaults;
mod dial;
mod edit;
mod entropy_bound;
mod hierarchical;
mod klass;
mod left_to_right;
mod parameters;
mod parts;
mod preset;
mod quota;
mod remdm;
mod revisit;
mod score;
mod spec;
mod threshold;
mod wino;

pub use ancestral::AncestralForm;
pub use caching::{CacheMode, Caching};
pub use candidate::{Candidate, Confidence, Eos, Side};
pub use combination::PolicySpec;
pub use compression::{Compression, Press, SINKS, Storage};
pub use dial::{Parameter, PolicyInfo};
pub use edit::{Reach, Windows};
pub use klass::Stable;
pub use parts::{Parts, Revision, Selection};
pub use preset::Preset;
pub use quota::Schedule;
pub use remdm::{Moment, Remdm, Variant};
pub use revisit::{Between, Revisit};
pub use score::Score;
pub use spec::{Method, PolicyError};

use hilda_kernels::head::RowHead;
use serde::{Deserialize, Serialize};
use std::ops::Range;

use super::{Action, ActionKind, Status, state::CERTAIN, switch::Switched};
use crate::data::Frequencies;

/// One position whose distribution was computed.
#[derive(Clone, Debug)]
pub struct Row<'a> {
    pub pos: u32,
    pub status: Status,
    /// token that stands there (the mask id where masked)
    pub current: u32,
    /// inside the active block: only these may be acted upon
    pub active: bool,
    /// its distribution was computed from the token that stands there, too
    pub informed: bool,
    pub head: &'a RowHead,
    /// tokens this position held since its block was opened, the current one last
    pub held: &'a [u32],
    /// what tests and scores take for the probability of the candidate ([`Confidence`]), at most 1
    pub confidence: f32,
    /// KL(p_now || p_before) of the block's forwards since its second, nats; for policies that ask ([`Policy::compares`])
    pub kl: &'a [f32],
}

impl Row<'_> {
    pub fn masked(&self) -> bool {
        self.status == Status::Masked
    }
    /// Probability of the candidate at temperature 1. Rounding above 1 is cut, so that `p > 1` never holds.
    pub fn p(&self) -> f32 {
        self.head.p_candidate().min(1.0)
    }
    pub fn p_max(&self) -> f32 {
        self.head.p_max().min(1.0)
    }
    /// Writes the candidate.
    pub fn commit(&self, temperature: f32, margin: f32) -> Action {
        Action {
            kind: ActionKind::Commit,
            pos: self.pos,
            old: self.current,
            new: self.head.candidate,
            p: self.p(),
            logq: self.head.q_candidate(temperature).clamp(f32::MIN_POSITIVE, 1.0).ln(),
            margin: margin.min(self.head.margin).clamp(0.0, CERTAIN),
        }
    }
    /// Writes the most probable token, by an edit where a token stands already; for a remask it is the token that was
    /// preferred to the one that goes.
    pub fn write_argmax(&self, kind: ActionKind, margin: f32) -> Action {
        Action {
            kind,
            pos: self.pos,
            old: self.current,
            new: self.head.argmax,
            p: self.p_max(),
            logq: 0.0,
            margin: margin.min(self.head.max - self.head.second).clamp(0.0, CERTAIN),
        }
    }
}

/// What a policy sees after one forward.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// forwards before this one; part of every random key
    pub step: u32,
    pub block: u32,
    /// positions of the active block
    pub active: Range<u32>,
    /// denoising forwards of this block before this one
    pub block_step: u32,
    /// masked positions of the block when it was opened
    pub masked_at_start: u32,
    /// of the block's own grid of times ([`Policy::cells`])
    pub cell: u32,
    /// positions of the block written in the denoising forward before; none in its first
    pub commits: Option<u32>,
    pub temperature: f32,
    pub seed: u64,
    pub sequence: u32,
    /// of all positions
    pub statuses: &'a [Status],
    /// end-of-text
    pub eos: Option<u32>,
    /// first position behind the prompt
    pub start: u32,
    /// of the corpus; there whenever the policy's score is `pc`
    pub frequencies: Option<&'a Frequencies>,
    /// ascending by position
    pub rows: &'a [Row<'a>],
}

/// What a policy wants.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub actions: Vec<Action>,
    /// score of each row of the view, higher = earlier; minus infinity outside the masked rows of the block
    pub scores: Vec<f64>,
    pub rule: Rule,
}

/// Which test fired, with its values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    #[serde(flatten)]
    pub selection: Fired,
    /// the edit test, if the policy revises
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edit: Option<EditFired>,
    /// which policy a switch chose, in the forward that it decided by
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switch: Option<Switched>,
}

/// Values of the selection test.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "test", rename_all = "snake_case")]
pub enum Fired {
    /// nothing was masked
    #[default]
    None,
    /// a fixed number of rows
    PerForward { k: u32 },
    /// cell of the time grid (t from 1 - cell / cells downwards)
    TimeGrid { cell: u32, cells: u32 },
    /// k of `masked` rows
    Quota { k: u32, masked: u32 },
    /// rows above tau (0: the best one is written)
    Threshold { tau: f32, above: u32 },
    /// rows above tau (0: the best one is written), of which at most so many are written
    Wide { tau: f32, above: u32, most: u32 },
    /// rows above tau, and runs of masks whose best row is above `low` (both 0: the best one is written)
    Hierarchical { tau: f32, low: f32, above: u32, runs: u32 },
    /// rows written, and the value (k + 1)(1 - c_k) of the last of them
    Factor { f: f32, n: u32 },
    /// rows written, and their summed entropy without the largest, nats
    EntropyBound { gamma: f32, n: u32, sum: f32 },
    /// rows that have settled (0: the quota was written)
    Klass { tau: f32, epsilon: f32, ready: u32 },
    /// k rows in one of the extra steps that look again
    Revisit { step: u32, of: u32, k: u32 },
    /// a finished draft was read again: `n` of its `of` tokens are masked
    Judged { n: u32, of: u32 },
    /// a pass over `blocks` finished blocks together, the earliest of them `first`
    Window { first: u32, blocks: u32, pass: u32 },
    /// a forward of a search
    Search(SearchFired),
    /// cell of ReMDM's grid, the share of written positions at its end and the chance to be masked again in it
    Remdm { cell: u32, cells: u32, alpha: f32, sigma: f32 },
    /// the grid has ended: what is still masked takes its most probable token
    NoiseRemoval { n: u32 },
    /// the step limit was reached: everything masked takes its most probable token
    Capped { n: u32 },
}

impl Fired {
    /// Did no row pass the policy's test, so that what was best was written all the same, or was the step limit reached?
    pub(super) fn missed(&self) -> bool {
        match self {
            Fired::Threshold { above, .. } | Fired::Wide { above, .. } => *above == 0,
            Fired::Hierarchical { above, runs, .. } => above + runs == 0,
            Fired::Klass { ready, .. } => *ready == 0,
            Fired::Capped { .. } => true,
            _ => false,
        }
    }
}

/// Values of the revision's test; remasks count as edits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EditFired {
    /// edits made
    pub n: u32,
    /// edits that the guard against oscillation, or the bound on remasks, refused
    pub held_back: u32,
}

/// What a forward of a search was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SearchPhase {
    /// makes children
    Expand,
    /// scores a child, or a finished text
    Score,
    /// writes
    Write,
}

/// A forward of a search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchFired {
    pub phase: SearchPhase,
    /// number of the beam, the child (K times its parent and its own) or the text
    pub of: u32,
    /// of it, nats
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
    /// children kept, best first; of whole texts the new best one
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<u32>,
    /// different texts among them
    #[serde(default, skip_serializing_if = "is_zero")]
    pub distinct: u32,
}
fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl SearchFired {
    pub(super) fn new(phase: SearchPhase, of: usize) -> SearchFired {
        SearchFired { phase, of: of as u32, score: None, kept: Vec::new(), distinct: 0 }
    }
}

/// Pure: the same view gives the same plan. All memory (steps in the block, tokens held) is in the view.
pub trait Policy: std::fmt::Debug + Send + Sync {
    fn plan(&self, view: &View) -> Plan;
    /// Mask-free forwards a block may take after its last mask is gone; 0 = the policy never revises.
    fn post_budget(&self) -> u32;
    /// May it change what it wrote?
    fn revises(&self) -> bool {
        self.post_budget() > 0
    }
    /// Cells of a block's own grid of times: the block then ends with the grid and not with its last mask, and a forward
    /// that writes nothing is no lack of progress.
    fn cells(&self) -> Option<u32> {
        None
    }
    /// Does anything happen in this cell? If not it needs no forward.
    fn stirs(&self, _cell: u32, _moment: &Moment) -> bool {
        true
    }
    /// Written positions of the block to be masked before its next forward, and by how much each choice was won. Asked after
    /// every forward of the block; no model output enters but the probabilities that tokens were written with.
    fn again(&self, _between: &Between) -> Vec<(u32, f32)> {
        Vec::new()
    }
    /// Does it ask for the probability of written tokens given all but themselves? That needs a shadow of the block.
    fn leaves_out(&self) -> bool {
        false
    }
    /// Does it ask how far distributions moved since the forward before? That needs whole rows.
    fn compares(&self) -> bool {
        false
    }
    /// Does it ask that of later blocks as well, where their rows are computed?
    fn carries(&self) -> bool {
        false
    }
    /// Does it edit finished blocks together?
    fn windows(&self) -> Option<Windows> {
        None
    }
}
