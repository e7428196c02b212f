//! The text while it is being written: ids and a status per position, divided into blocks from position 0.
//!
//! "Masked" is a status, never `id == mask_id`. Every change is an [`Action`]; the decoder and the replay of a
//! trajectory both go through [`State::act`], so a replay cannot differ from what happened.

use serde::{Deserialize, Serialize};
use std::ops::Range;

use super::{DecodeConfig, DecodeError};

/// What a position is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Prompt,
    /// set by the user
    Fixed,
    Masked,
    /// written at forward `step` with probability `psi` (temperature 1); `psi` = 1 after the user unfixed it
    Committed {
        step: u32,
        psi: f32,
    },
    /// end-of-text after an early stop, not decided by the model
    Filled,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Status::Prompt => "prompt",
            Status::Fixed => "fixed",
            Status::Masked => "masked",
            Status::Committed { .. } => "written",
            Status::Filled => "filled",
        }
    }
}

/// Kind of an [`Action`]; one letter in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ActionKind {
    /// masked -> written
    #[serde(rename = "c")]
    Commit,
    /// written -> another token
    #[serde(rename = "e")]
    Edit,
    /// written -> masked, by the policy
    #[serde(rename = "m")]
    Remask,
    /// masked -> end-of-text after an early stop
    #[serde(rename = "z")]
    Fill,
    /// the user sets a token
    #[serde(rename = "f")]
    Fix,
    /// the user lets go of a fixed token; its text stays until it is edited or reopened
    #[serde(rename = "u")]
    Unfix,
    /// written -> masked, by the user
    #[serde(rename = "r")]
    Reopen,
}

impl ActionKind {
    /// For people and files.
    pub fn name(self) -> &'static str {
        match self {
            ActionKind::Commit => "commit",
            ActionKind::Edit => "edit",
            ActionKind::Remask => "remask",
            ActionKind::Fill => "fill",
            ActionKind::Fix => "fix",
            ActionKind::Unfix => "unfix",
            ActionKind::Reopen => "reopen",
        }
    }
}

/// One change of one position. JSON: `[kind, pos, old, new, p, logq, margin]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "ActionTuple", into = "ActionTuple")]
pub struct Action {
    pub kind: ActionKind,
    pub pos: u32,
    pub old: u32,
    pub new: u32,
    /// probability of `new` at temperature 1 (1 for actions the model did not take); of a token that WINO masks again, whose
    /// `new` is itself, given all but itself
    pub p: f32,
    /// ln of its probability under the law it was drawn from (0 when greedy)
    pub logq: f32,
    /// by how much the decision was won, at most [`CERTAIN`]
    pub margin: f32,
}
type ActionTuple = (ActionKind, u32, u32, u32, f32, f32, f32);
impl From<ActionTuple> for Action {
    fn from((kind, pos, old, new, p, logq, margin): ActionTuple) -> Self {
        Action { kind, pos, old, new, p, logq, margin }
    }
}
impl From<Action> for ActionTuple {
    fn from(a: Action) -> Self {
        (a.kind, a.pos, a.old, a.new, a.p, a.logq, a.margin)
    }
}

/// Margin of a decision that no model output entered (a user's, or one by position or by lot).
pub const CERTAIN: f32 = 1e6;

/// Ids and statuses of one sequence of `length` positions.
#[derive(Clone, Debug)]
pub struct State {
    ids: Vec<u32>,
    status: Vec<Status>,
    block: u32,
    mask_id: u32,
}

/// The same text; how it is divided into blocks is a matter of the decoding.
impl PartialEq for State {
    fn eq(&self, other: &State) -> bool {
        (&self.ids, &self.status) == (&other.ids, &other.status)
    }
}

impl State {
    /// Prompt and fixed tokens in place, everything else masked.
    pub fn new(config: &DecodeConfig) -> State {
        let n = config.length as usize;
        let mut ids = vec![config.mask_id; n];
        let mut status = vec![Status::Masked; n];
        ids[..config.prompt.len()].copy_from_slice(&config.prompt);
        status[..config.prompt.len()].fill(Status::Prompt);
        for (pos, id) in &config.fixed {
            ids[*pos as usize] = *id;
            status[*pos as usize] = Status::Fixed;
        }
        State { ids, status, block: config.block(), mask_id: config.mask_id }
    }
    /// Token ids, the mask id where masked.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }
    pub fn statuses(&self) -> &[Status] {
        &self.status
    }
    pub fn status(&self, pos: u32) -> Status {
        self.status[pos as usize]
    }
    pub fn id(&self, pos: u32) -> u32 {
        self.ids[pos as usize]
    }
    pub fn len(&self) -> u32 {
        self.ids.len() as u32
    }
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
    pub(super) fn mask_id(&self) -> u32 {
        self.mask_id
    }
    /// One block over the whole text.
    pub(super) fn join_blocks(&mut self) {
        self.block = self.len().max(1);
    }
    pub fn blocks(&self) -> u32 {
        self.len().div_ceil(self.block)
    }
    pub fn block_of(&self, pos: u32) -> u32 {
        pos / self.block
    }
    pub fn block_range(&self, block: u32) -> Range<u32> {
        block * self.block..((block + 1) * self.block).min(self.len())
    }
    pub fn is_masked(&self, pos: u32) -> bool {
        self.status(pos) == Status::Masked
    }
    /// Masked positions inside `range`, ascending.
    pub fn masked(&self, range: Range<u32>) -> impl Iterator<Item = u32> + '_ {
        range.filter(|p| self.is_masked(*p))
    }
    pub fn masked_left(&self) -> u32 {
        self.masked(0..self.len()).count() as u32
    }

    /// Applies one action taken at forward `step`. Refuses actions that the position's status does not allow
    /// and actions whose `old` is not what stands there; a refused action changes nothing.
    pub fn act(&mut self, step: u32, a: &Action) -> Result<(), DecodeError> {
        if a.pos >= self.len() {
            return Err(DecodeError::PositionOutOfRange { pos: a.pos, length: self.len() });
        }
        let i = a.pos as usize;
        let now = self.status[i];
        let written = matches!(now, Status::Committed { .. });
        let (fits, needed) = match a.kind {
            ActionKind::Commit | ActionKind::Fill => (now == Status::Masked, "masked"),
            ActionKind::Edit | ActionKind::Remask => (written, "written"),
            ActionKind::Fix => (now != Status::Prompt, "outside the prompt"),
            ActionKind::Unfix => (now == Status::Fixed, "fixed"),
            ActionKind::Reopen => (written || now == Status::Filled, "written"),
        };
        if now == Status::Prompt {
            return Err(DecodeError::PromptPosition { pos: a.pos });
        }
        if !fits {
            return Err(DecodeError::WrongStatus { pos: a.pos, status: now.name(), needed });
        }
        if a.old != self.ids[i] {
            return Err(DecodeError::PolicyBroke {
                pos: a.pos,
                rule: "the action's old token is not what stands there",
            });
        }
        (self.ids[i], self.status[i]) = match a.kind {
            ActionKind::Commit | ActionKind::Edit => (a.new, Status::Committed { step, psi: a.p }),
            ActionKind::Remask | ActionKind::Reopen => (self.mask_id, Status::Masked),
            ActionKind::Fill => (a.new, Status::Filled),
            ActionKind::Fix => (a.new, Status::Fixed),
            ActionKind::Unfix => (self.ids[i], Status::Committed { step, psi: 1.0 }),
        };
        Ok(())
    }
}
