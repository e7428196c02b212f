//! One sentence under the text about the step that is shown: what it wrote, replaced or masked, and which test of the policy
//! decided that ([`Rule`]).

use hilda_engine::decode::policy::{Fired, SearchPhase};
use hilda_engine::decode::{Action, ActionKind, StepKind, StepRecord, Switched};
use leptos::prelude::*;

use super::player::{Pieces, Player};

/// Words that are named one by one; more are counted.
const NAMED: usize = 3;

#[component]
pub fn Narration(player: Player) -> impl IntoView {
    let said = move || {
        let at = player.at.get();
        player.tape.with(|tape| match at.checked_sub(1) {
            None if tape.frames.is_empty() => String::new(),
            None => beginning(tape.is_one_block(), tape.block_size),
            Some(i) => tape.steps.get(i).map_or_else(String::new, |s| player.pieces.with(|p| sentence(s, p))),
        })
    };
    view! { <p class="narration">{said}</p> }
}

fn beginning(one_block: bool, block: u32) -> String {
    if one_block {
        "Every step guesses all masked words at once and writes those it may.".into()
    } else {
        format!(
            "Blocks of {block} are written from left to right; every step guesses a block's masked words at once."
        )
    }
}

/// What a step did and why.
fn sentence(step: &StepRecord, pieces: &Pieces) -> String {
    let of = |kind: ActionKind| step.actions.iter().filter(move |a| a.kind == kind).collect::<Vec<_>>();
    let (written, replaced, masked) = (of(ActionKind::Commit), of(ActionKind::Edit), of(ActionKind::Remask));
    let mut parts = Vec::new();
    if step.kind == StepKind::User {
        parts.extend(visitor(step, pieces));
    }
    if let Some(Switched { d: Some(d), slow, .. }) = step.rule.as_ref().and_then(|r| r.switch) {
        let which = if slow { "slow" } else { "fast" };
        parts.push(format!("The {which} policy writes: the fast one fails with a chance of {d:.0} %"));
    }
    if !written.is_empty() {
        let what = words("Wrote", &written, |a| format!("“{}” ({:.2})", pieces.shown(a.new), a.p));
        let why = step.rule.as_ref().map_or_else(String::new, |r| why(&r.selection, written.len()));
        parts.push(if why.is_empty() { what } else { format!("{what}: {why}") });
    }
    if !replaced.is_empty() {
        parts.push(words("Replaced", &replaced, |a| {
            format!("“{}” by “{}” ({:.2})", pieces.shown(a.old), pieces.shown(a.new), a.p)
        }));
    }
    if !masked.is_empty() {
        let what = words("Masked", &masked, |a| format!("“{}”", pieces.shown(a.old))) + " again";
        let judged = step.rule.as_ref().map(|r| &r.selection).filter(|f| matches!(f, Fired::Judged { .. }));
        parts.push(judged.map_or(what.clone(), |f| format!("{what}: {}", why(f, masked.len()))));
    }
    if step.actions.iter().any(|a| a.kind == ActionKind::Fill) {
        parts.push("The text has ended: what is behind its end stays empty".into());
    }
    if parts.is_empty() {
        parts.push("Looked at the words again and left them as they are".into());
    }
    parts.join(". ") + "."
}

/// "Wrote “a” (0.9) and “b” (0.8)", "Wrote 7 words"
fn words(verb: &str, actions: &[&Action], name: impl Fn(&Action) -> String) -> String {
    if actions.len() > NAMED {
        return format!("{verb} {} words", actions.len());
    }
    let names: Vec<String> = actions.iter().map(|a| name(a)).collect();
    let (last, before) = names.split_last().expect("called with one action or more");
    if before.is_empty() {
        format!("{verb} {last}")
    } else {
        format!("{verb} {} and {last}", before.join(", "))
    }
}

fn visitor(step: &StepRecord, pieces: &Pieces) -> Option<String> {
    let reopened = step.actions.iter().filter(|a| a.kind == ActionKind::Reopen).count();
    if reopened > 0 {
        let words = if reopened == 1 { "a word".into() } else { format!("{reopened} words") };
        return Some(format!("You masked {words}, to be written again"));
    }
    step.actions.iter().find_map(|a| match a.kind {
        ActionKind::Fix => Some(format!("You fixed “{}”", pieces.shown(a.new))),
        ActionKind::Unfix => Some(format!("You let “{}” change again", pieces.shown(a.old))),
        _ => None,
    })
}

/// The test that chose `n` written words.
fn why(fired: &Fired, n: usize) -> String {
    let surest = if n == 1 { "only the surest" } else { "only the surest ones" };
    match *fired {
        Fired::None => String::new(),
        Fired::PerForward { k: 1 } => "one a forward".into(),
        Fired::PerForward { k } => format!("{k} a forward"),
        Fired::TimeGrid { .. } => "places whose random time has come".into(),
        Fired::Quota { masked, .. } if masked as usize > n => format!("the best of {masked} masked places"),
        Fired::Quota { .. } => "all that were masked".into(),
        Fired::Threshold { tau, above: 0 } | Fired::Wide { tau, above: 0, .. } => {
            format!("nothing was above {tau:.2}, so {surest}")
        }
        Fired::Wide { tau, above, .. } if above as usize > n => {
            format!("the surest of {above} above {tau:.2}")
        }
        Fired::Threshold { tau, .. } | Fired::Wide { tau, .. } => format!("all above {tau:.2}"),
        Fired::Hierarchical { above: 0, runs: 0, low, .. } => {
            format!("nothing was above {low:.2}, so {surest}")
        }
        Fired::Hierarchical { tau, low, .. } => {
            format!("all above {tau:.2}, and the best of every gap if above {low:.2}")
        }
        Fired::Factor { .. } => "as many as are sure enough to be written together".into(),
        Fired::EntropyBound { gamma, .. } => {
            format!("as many as share at most {gamma:.2} nats of doubt")
        }
        Fired::Klass { ready: 0, .. } => format!("no guess had settled, so {surest}"),
        Fired::Klass { tau, .. } => format!("guesses that have settled above {tau:.2}"),
        Fired::Revisit { .. } => "an extra step that looks at doubtful words again".into(),
        Fired::Judged { n, of } => format!("the {n} least likely of {of} when the draft was read again"),
        Fired::Window { blocks, .. } => format!("{blocks} finished blocks are read together"),
        Fired::Search(ref search) => match search.phase {
            SearchPhase::Expand => "the leading text of the search goes on".into(),
            SearchPhase::Score => "another text of the search leads now".into(),
            SearchPhase::Write => String::new(),
        },
        Fired::Remdm { .. } => "places whose random time has come".into(),
        Fired::NoiseRemoval { .. } => {
            "the grid of times has ended, what was left takes its best guess".into()
        }
        Fired::Capped { .. } => "the limit of steps is reached, what was left takes its best guess".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use hilda_engine::decode::policy::Rule;

    use super::*;

    fn pieces() -> Pieces {
        Pieces::new(HashMap::from([(1, " dog".into()), (2, " cat".into()), (3, " ran".into())]), Some(9))
    }
    fn act(kind: ActionKind, old: u32, new: u32, p: f32) -> Action {
        Action { kind, pos: old, old, new, p, logq: 0.0, margin: 0.1 }
    }
    fn step(fired: Fired, actions: Vec<Action>) -> StepRecord {
        let rule = Some(Rule { selection: fired, ..Default::default() });
        StepRecord { kind: StepKind::Denoise, actions, rule, ..Default::default() }
    }

    #[test]
    fn a_step_is_told_with_its_reason() {
        let one = vec![act(ActionKind::Commit, 8, 1, 0.412)];
        let said = sentence(&step(Fired::Threshold { tau: 0.7, above: 0 }, one), &pieces());
        assert_eq!(said, "Wrote “dog” (0.41): nothing was above 0.70, so only the surest.");
        let two = vec![act(ActionKind::Commit, 8, 1, 0.9), act(ActionKind::Edit, 2, 3, 0.8)];
        let said = sentence(&step(Fired::Threshold { tau: 0.7, above: 1 }, two), &pieces());
        assert_eq!(said, "Wrote “dog” (0.90): all above 0.70. Replaced “cat” by “ran” (0.80).");
    }

    #[test]
    fn many_words_are_counted_and_none_is_said_too() {
        let many = (0..5).map(|_| act(ActionKind::Commit, 8, 1, 0.9)).collect();
        let said = sentence(&step(Fired::Quota { k: 5, masked: 12 }, many), &pieces());
        assert_eq!(said, "Wrote 5 words: the best of 12 masked places.");
        let said = sentence(&step(Fired::None, vec![]), &pieces());
        assert_eq!(said, "Looked at the words again and left them as they are.");
        let three = (1..4).map(|i| act(ActionKind::Remask, i, 9, 0.1)).collect();
        assert_eq!(sentence(&step(Fired::None, three), &pieces()), "Masked “dog”, “cat” and “ran” again.");
    }

    #[test]
    fn what_the_visitor_did_is_said_to_be_theirs() {
        let mut fixed = step(Fired::None, vec![act(ActionKind::Fix, 8, 2, 1.0)]);
        fixed.kind = StepKind::User;
        assert_eq!(sentence(&fixed, &pieces()), "You fixed “cat”.");
    }
}
