//! What the decoder enforces, whatever the policy (`methods/decoding.md` 2.1, rules 1, 2 and 4).

use super::{
    Action, ActionKind, DecodeConfig, DecodeError, Status,
    policy::{Fired, Plan, Row, Rule, View},
};

/// The step limit or the end of a grid of times: everything masked in the block takes its most probable token.
pub(super) fn cap(view: &View, selection: Fired) -> Plan {
    let actions: Vec<Action> = view
        .rows
        .iter()
        .filter(|r| r.active && r.masked())
        .map(|r| r.write_argmax(ActionKind::Commit, f32::INFINITY))
        .collect();
    Plan {
        actions,
        scores: vec![f64::NEG_INFINITY; view.rows.len()],
        rule: Rule { selection, edit: None, switch: None },
    }
}

/// The best-scored masked row of the block; ties to the lower position.
pub(super) fn best(view: &View, plan: &Plan) -> Action {
    let mut best: Option<(&Row, f64)> = None;
    let mut second = f64::NEG_INFINITY;
    for (row, score) in view.rows.iter().zip(&plan.scores).filter(|(r, _)| r.active && r.masked()) {
        match best {
            Some((_, s)) if *score <= s => second = second.max(*score),
            _ => {
                second = best.map_or(second, |b| b.1);
                best = Some((row, *score));
            }
        }
    }
    let (row, score) = best.expect("called only if a row of the block is masked");
    row.commit(view.temperature, (score - second) as f32)
}

/// Rules 1 and 4: commits on masked rows, edits and remasks on written rows, of the active block, each position
/// at most once, writable tokens only.
pub(super) fn check_plan(config: &DecodeConfig, view: &View, plan: &Plan) -> Result<(), DecodeError> {
    let broke = |pos, rule| Err(DecodeError::PolicyBroke { pos, rule });
    if plan.scores.len() != view.rows.len() {
        return broke(view.active.start, "there is not one score per row");
    }
    let mut last = None;
    let mut sorted: Vec<&Action> = plan.actions.iter().collect();
    sorted.sort_by_key(|a| a.pos);
    for a in sorted {
        if last == Some(a.pos) {
            return broke(a.pos, "a position may be acted upon once a step");
        }
        last = Some(a.pos);
        let Some(row) = view.rows.iter().find(|r| r.pos == a.pos && r.active) else {
            return broke(a.pos, "only computed rows of the active block may be acted upon");
        };
        let fits = match a.kind {
            ActionKind::Commit => row.masked(),
            ActionKind::Edit | ActionKind::Remask => matches!(row.status, Status::Committed { .. }),
            _ => return broke(a.pos, "a policy commits, edits and remasks, nothing else"),
        };
        if !fits {
            return broke(a.pos, "commits need a masked row, edits and remasks a written one");
        }
        if a.old != row.current {
            return broke(a.pos, "the action's old token is not what stands there");
        }
        if a.kind != ActionKind::Remask && !config.writable(a.new) {
            return Err(DecodeError::ForbiddenToken { id: a.new });
        }
    }
    Ok(())
}
