//! WINO, wide in and narrow out (arXiv 2507.18578, section 3.2; bounds from its code): write generously, and take back what
//! the rest of the text does not bear out. A shadow of the block made of masks ([`hilda_kernels::Base::Shadow`]) gives every
//! written token its probability p_i given everything but itself (through the first layer; deeper keys of the text have read
//! it, as in the paper). In each forward, with m masked rows in the block:
//!
//! 1. **wide in**: masked rows with confidence > tau_wide, of more than A = clamp(floor(0.7 m), 5, 20) the A best; if there
//!    is none, the best. a rows are written;
//! 2. **narrow out**, only if a > 1: written rows of the block with p_i < tau_narrow are masked again, of a' or more the a' - 1
//!    least probable. a' is what the block's forward before wrote, 30 in its first. Rows written in this forward are no
//!    candidates, nor are prompt and fixed tokens, nor rows that do not depend on the block (with the logit shift and
//!    block-causal attention its first position).
//!
//! So the masked rows fall by at least a - a' + 1 in a forward, and a block takes at most m0 + 30 - a of them, m0 masked at
//! its start: sum over forwards.

use super::{
    Action, ActionKind, EditFired, Fired, Row, View,
    parts::{Chosen, Ranked},
    threshold,
};
use crate::decode::{Status, state::CERTAIN};

/// a' of a block's first forward.
const BEFORE: u32 = 30;

pub(super) fn wide(ranked: &Ranked, tau: f32, masked: usize) -> Chosen {
    let most = (7 * masked / 10).clamp(5, 20);
    let Chosen { mut rows, fired } = threshold::above(ranked, tau);
    let above = match fired {
        Fired::Threshold { above, .. } => above,
        _ => 0,
    };
    if rows.len() > most {
        rows.truncate(most);
        rows.iter_mut().for_each(|(i, margin)| *margin = margin.min(ranked.gap(*i, most)));
    }
    Chosen { rows, fired: Fired::Wide { tau, above, most: most as u32 } }
}

pub(super) fn narrow(view: &View, tau: f32, chosen: &Chosen) -> (Vec<Action>, EditFired) {
    // that more than one row is written is part of the decision
    let Some((_, lead)) = chosen.rows.get(1) else { return (Vec::new(), EditFired { n: 0, held_back: 0 }) };
    let p = |r: &Row| r.head.p_current().min(1.0);
    let written = |r: &&Row| r.active && r.informed && matches!(r.status, Status::Committed { .. });
    let mut doubtful: Vec<&Row> = view.rows.iter().filter(written).filter(|r| p(r) < tau).collect();
    doubtful.sort_by(|a, b| p(a).total_cmp(&p(b)).then(a.pos.cmp(&b.pos)));
    let before = view.commits.unwrap_or(BEFORE) as usize;
    let n = if doubtful.len() >= before { before.saturating_sub(1) } else { doubtful.len() };
    let next = doubtful.get(n).map(|r| p(r));
    let remask = |r: &&Row| {
        let gap = next.map_or(f32::INFINITY, |next| next - p(r));
        Action {
            kind: ActionKind::Remask,
            pos: r.pos,
            old: r.current,
            new: r.current,
            p: p(r),
            logq: 0.0,
            margin: (tau - p(r)).min(gap).min(*lead).clamp(0.0, CERTAIN),
        }
    };
    let fired = EditFired { n: n as u32, held_back: (doubtful.len() - n) as u32 };
    (doubtful[..n].iter().map(remask).collect(), fired)
}
