//! Token editing (LLaDA 2.1, arXiv 2602.08676, "joint threshold"): in the same forward that fills masks, every
//! written row of the active block whose most probable token v is not the one that stands there is overwritten
//! if p(v) > tau_edit. tau_edit = 0 therefore edits whenever the argmax differs; editing is off only if it is
//! absent. When no mask is left, up to `max_post` forwards of edits only, until one changes nothing.
//!
//! A row that does not read the token it would replace has nothing to say about it (with the logit shift a block's first
//! position is predicted from the finished block before): it is not edited. At temperature 0 it would not be anyway,
//! since the same row wrote the token.
//!
//! **Remasking instead of replacing** (arXiv 2604.18738): the same trigger masks the position again, and it is written anew
//! once more of its surroundings is known. A position is masked again at most `max_remasks` times since its block was
//! opened, so a block of n positions takes at most n (max_remasks + 1) forwards that write and `max_post` that do not.
//!
//! Guard against oscillation (ours, not the paper's): a position may come back to a token it held before at most
//! `max_returns` times since its block was opened.

use serde::{Deserialize, Serialize};

use super::{Action, ActionKind, EditFired, Row, View};
use crate::decode::Status;

/// Which finished blocks are opened again with the one that was just finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// those before it
    #[default]
    Adjacent,
    /// the most uncertain ones
    Surprisal,
}

/// Editing over the border of a block (Multi-Block Editing, arXiv 2607.22663).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// edited together, the finished one included
    pub blocks: u32,
    /// forwards at most
    pub passes: u32,
    pub by: Reach,
}

/// Written rows of the active block that now prefer another token with a probability above `tau`.
fn doubtful<'a>(view: &'a View, tau: f32) -> impl Iterator<Item = &'a Row<'a>> {
    let written = |r: &&Row| r.active && r.informed && matches!(r.status, Status::Committed { .. });
    view.rows.iter().filter(written).filter(move |r| r.head.argmax != r.current && r.p_max() > tau)
}

pub(super) fn remasks(view: &View, tau: f32, max_remasks: u32) -> (Vec<Action>, EditFired) {
    let mut held_back = 0;
    let actions: Vec<Action> = doubtful(view, tau)
        .filter(|r| {
            let allowed = r.held.len() <= max_remasks as usize;
            held_back += !allowed as u32;
            allowed
        })
        .map(|r| r.write_argmax(ActionKind::Remask, r.p_max() - tau))
        .collect();
    let n = actions.len() as u32;
    (actions, EditFired { n, held_back })
}

pub(super) fn edits(view: &View, tau_edit: f32, max_returns: Option<u32>) -> (Vec<Action>, EditFired) {
    let mut held_back = 0;
    let edits: Vec<Action> = doubtful(view, tau_edit)
        .filter(|r| {
            let times = r.held.iter().filter(|t| **t == r.head.argmax).count() as u32;
            let allowed = max_returns.is_none_or(|most| times <= most);
            held_back += !allowed as u32;
            allowed
        })
        .map(|r| r.write_argmax(ActionKind::Edit, r.p_max() - tau_edit))
        .collect();
    let n = edits.len() as u32;
    (edits, EditFired { n, held_back })
}
