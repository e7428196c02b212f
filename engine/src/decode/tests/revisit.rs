//! ReMDM for LLaDA: the quota, extra steps near a block's end that write its least sure tokens again.

use super::*;
use crate::decode::policy::Fired;
use serde_json::json;

fn config(attention: Attention, spec: serde_json::Value) -> DecodeConfig {
    let mut c = DecodeConfig::new(vec![3, 1, 4], 31, 12, 11);
    (c.attention, c.block_size, c.shift) = (attention, 8, attention == Attention::BlockCausal);
    c.fixed = vec![(9, 5), (14, 2)];
    (c.temperature, c.seed, c.policy) = (1.0, 7, policy(spec));
    c
}

/// Without extra steps it is the quota, step by step and row by row.
#[test]
fn no_extra_steps_are_the_quota() {
    for attention in [Attention::Bidirectional, Attention::BlockCausal] {
        for steps in [0, 1, 3, 8, 99] {
            let quota = run(&config(attention, json!({"kind": "top_prob", "steps_per_block": steps})), 2.0).0;
            let spec =
                json!({"kind": "remdm_quota", "steps_per_block": steps, "extra_steps": 0, "remasked": 3});
            let none = run(&config(attention, spec), 2.0).0;
            assert_eq!((none.steps(), none.ledger()), (quota.steps(), quota.ledger()), "{steps}");
        }
    }
}

/// Forwards are those of the quota and the extra ones; each extra step writes what was masked for it, which were the tokens
/// with the lowest psi; prompt and fixed tokens stay, and the text ends complete.
#[test]
fn each_extra_step_writes_the_least_sure_again() {
    for attention in [Attention::Bidirectional, Attention::BlockCausal] {
        for (steps, extra, count) in [(0, 5, 1), (0, 3, 4), (3, 4, 2), (1, 6, 2), (8, 1, 20)] {
            let quota = run(&config(attention, json!({"kind": "top_prob", "steps_per_block": steps})), 2.0).0;
            let spec = json!({"kind": "remdm_quota", "steps_per_block": steps, "extra_steps": extra, "remasked": count});
            let c = config(attention, spec);
            let d = run(&c, 2.0).0;
            let blocks = 4;
            assert_eq!(
                d.ledger().denoise,
                quota.ledger().denoise + blocks * extra,
                "{steps} {extra} {count}"
            );
            assert_eq!((d.ledger().forced, d.state().masked_left()), (0, 0));
            assert_eq!(d.ledger().commits, quota.ledger().commits + d.ledger().remasks);
            let states = d.trajectory().replay().unwrap();
            for (i, step) in d.steps().iter().enumerate() {
                let masked: Vec<&Action> =
                    step.actions.iter().filter(|a| a.kind == ActionKind::Remask).collect();
                let Some(first) = masked.first() else { continue };
                // the next forward of the block writes as many
                let next = d.steps()[i + 1..].iter().find(|s| s.kind == StepKind::Denoise).unwrap();
                let written = next.actions.iter().filter(|a| a.kind == ActionKind::Commit).count();
                let fired = &next.rule.as_ref().unwrap().selection;
                let Fired::Revisit { of, k, .. } = *fired else { panic!("{fired:?}") };
                assert_eq!((of, k as usize, masked.len() <= count as usize), (extra, written, true));
                assert_eq!(written, masked.len());
                // no token of the block that stays was written with less
                let block = first.pos / 8 * 8..(first.pos / 8 * 8 + 8).min(31);
                let left = block.filter_map(|p| match states[i + 1].status(p) {
                    Status::Committed { psi, .. } => Some(psi),
                    _ => None,
                });
                let most = masked.iter().map(|a| a.p).fold(0.0, f32::max);
                assert!(left.fold(f32::INFINITY, f32::min) >= most);
                assert!(masked.iter().all(|a| !matches!(a.pos, 0..=2 | 9 | 14)));
            }
        }
    }
}

/// The step limit ends it as it ends everything.
#[test]
fn the_step_limit_holds() {
    let mut c = config(Attention::Bidirectional, json!({"kind": "remdm_quota", "extra_steps": 50}));
    c.max_steps = Some(9);
    let d = run(&c, 2.0).0;
    assert!(d.ledger().denoise <= 9 + 4, "{}", d.ledger().denoise);
    assert_eq!(d.state().masked_left(), 0);
}
