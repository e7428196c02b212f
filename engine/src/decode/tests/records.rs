//! Replay, JSON and the comparison of two records.

use super::*;
use crate::decode::{trajectory::ReplayError, verify};
use serde_json::json;

fn edited() -> (Decoder, HashNet) {
    let mut c = DecodeConfig::new(vec![1, 2], 20, 30, 29);
    c.fixed = vec![(9, 4)];
    c.block_size = 8;
    c.top_k = 8;
    c.policy = policy(json!({"kind": "edit", "tau_mask": 0.3, "tau_edit": 0.2}));
    run(&c, 2.0)
}

#[test]
fn replay_rebuilds_every_state() {
    let mut c = DecodeConfig::new(vec![1, 2], 20, 30, 29);
    (c.block_size, c.attention, c.rows) = (8, Attention::BlockCausal, false);
    c.policy = policy(json!({"kind": "edit", "tau_mask": 0.3, "tau_edit": 0.0}));
    let mut d = Decoder::new(c.clone()).unwrap();
    let mut net = HashNet::new(&c, 2.0);
    let mut states = vec![d.state().clone()];
    while let Some(r) = d.next() {
        d.apply(net.forward(&r)).unwrap();
        states.push(d.state().clone());
    }
    assert!(d.ledger().edits > 0);
    assert_eq!(d.trajectory().replay().unwrap(), states);
    assert!(d.trajectory().steps.iter().all(|s| s.rows.is_empty()));
}

#[test]
fn json_keeps_everything_and_is_compact() {
    let t = edited().0.trajectory();
    let text = serde_json::to_string(&t).unwrap();
    let back: Trajectory = serde_json::from_str(&text).unwrap();
    assert_eq!(back, t);
    let rows: usize = t.steps.iter().map(|s| s.rows.len()).sum();
    assert!(text.len() < 220 * rows, "{} bytes for {rows} rows", text.len());
    let row = serde_json::to_value(&t.steps[0].rows[0]).unwrap();
    assert_eq!(row.as_array().unwrap().len(), 12);
    assert_eq!(row[10].as_array().unwrap().len(), 8);
    assert_eq!(serde_json::to_value(t.steps[0].actions[0]).unwrap()[0], "c");
    let counted = |kind| t.steps.iter().flat_map(|s| &s.actions).filter(|a| a.kind == kind).count() as u32;
    let ledger = t.footer.ledger;
    assert_eq!((ledger.commits, ledger.edits), (counted(ActionKind::Commit), counted(ActionKind::Edit)));
    assert_eq!(ledger.commits, 17);
    assert!(t.footer.sum_log_p < 0.0);
}

/// Policies that compare record by how much each masked row of the block has moved since the forward before; others write rows
/// as they always were, and those are read.
#[test]
fn rows_that_moved() {
    let mut c = DecodeConfig::new(vec![1, 2], 20, 30, 29);
    (c.block_size, c.policy) =
        (8, policy(json!({"kind": "klass", "tau": 0.2, "epsilon": 1.0, "history": 1})));
    let t = run(&c, 2.0).0.trajectory();
    let mut known = 0;
    for pair in t.steps.windows(2) {
        for row in &pair[1].rows {
            let compared = row.score.is_some() && pair[0].block == pair[1].block;
            assert_eq!(row.kl.is_some(), compared, "{row:?}");
            known += u32::from(row.kl.is_some_and(|kl| kl > 0.0));
        }
    }
    assert!(known > 3 && t.steps[0].rows.iter().all(|r| r.kl.is_none()));
    let text = serde_json::to_string(&t).unwrap();
    assert_eq!(serde_json::from_str::<Trajectory>(&text).unwrap(), t);
    let row = t.steps.iter().flat_map(|s| &s.rows).find(|r| r.kl.is_some()).unwrap();
    let mut value = serde_json::to_value(row).unwrap();
    let read = |v: &serde_json::Value| serde_json::from_value::<trajectory::RowRecord>(v.clone());
    assert_eq!(value.as_array().unwrap().len(), 13);
    value.as_array_mut().unwrap().pop();
    assert_eq!(read(&value).unwrap(), trajectory::RowRecord { kl: None, ..row.clone() });
    value.as_array_mut().unwrap().pop();
    assert!(read(&value).is_err());
    for v in [json!([]), json!(0.5), json!(0.5)] {
        value.as_array_mut().unwrap().push(v);
    }
    assert!(read(&value).is_err(), "14 values");
}

/// Records come from strangers: nothing in them panics, everything that does not hold together is named.
#[test]
fn a_broken_record_is_refused() {
    let good = edited().0.trajectory();
    let replay = |change: &dyn Fn(&mut Trajectory)| {
        let mut t = good.clone();
        change(&mut t);
        t.replay()
    };
    assert!(replay(&|_| {}).is_ok());
    assert_eq!(replay(&|t| t.version = 9), Err(ReplayError::Version { found: 9 }));
    assert!(matches!(replay(&|t| t.header.config.length = 1), Err(ReplayError::Header(_))));
    assert!(matches!(replay(&|t| t.header.config.length = u32::MAX), Err(ReplayError::Header(_))));
    assert!(matches!(replay(&|t| t.steps[0].actions[0].pos = 0), Err(ReplayError::Action { .. })));
    assert!(matches!(replay(&|t| t.steps[0].actions[0].pos = 9), Err(ReplayError::Action { .. })));
    assert!(matches!(replay(&|t| t.steps[0].actions[0].pos = 1 << 30), Err(ReplayError::Action { .. })));
    assert!(matches!(replay(&|t| t.steps[0].actions[0].new = 1 << 30), Err(ReplayError::Id { .. })));
    assert!(matches!(replay(&|t| t.steps[0].actions[0].old = 3), Err(ReplayError::Action { .. })));
    assert_eq!(replay(&|t| t.footer.ids[3] ^= 1), Err(ReplayError::Final { pos: 3 }));
    assert!(replay(&|t| t.footer.ids.truncate(3)).is_err());
}

/// Another back end = the same logits with noise of 1e-5: the record agrees, or first differs at a small margin.
#[test]
fn noise_changes_only_close_decisions() {
    let mut diverged = 0;
    for seed in 0..104u64 {
        let mut c = DecodeConfig::new(vec![1, 2], 26, 12, 11);
        (c.seed, c.block_size) = (seed, 8);
        c.temperature = (seed % 2) as f32;
        c.policy = [
            policy(json!({"kind": "edit", "tau_mask": 0.3, "tau_edit": 0.0})),
            policy(json!({"kind": "threshold", "tau": 0.3, "score": "margin"})),
            policy(json!({"kind": "entropy_bound", "gamma": 1.0})),
            policy(json!({"kind": "top_prob", "steps_per_block": 3})),
            policy(json!({"kind": "factor", "f": 2.0})),
            policy(json!({"kind": "ancestral", "form": "time_grid", "steps": 6})),
            policy(json!({"kind": "wino", "tau_wide": 0.3, "tau_narrow": 0.3})),
            policy(json!({"kind": "hierarchical", "tau": 0.6, "tau_low": 0.3})),
            policy(json!({"kind": "remdm_quota", "extra_steps": 4, "steps_per_block": 4})),
            policy(json!({"kind": "edit", "tau_mask": 0.3, "tau_edit": 0.2, "window": 2})),
            policy(json!({"kind": "draft_refine", "tau": 0.3, "gamma": 0.4, "choose": "post_hoc"})),
            policy(json!({"kind": "draft_refine", "tau": 0.3, "gamma": 0.4, "choose": "left_out"})),
            policy(json!({"kind": "klass", "tau": 0.2, "epsilon": 0.5, "history": 1, "carry": true})),
        ][seed as usize % 13];
        c.prompt[0] = (seed % 11) as u32;
        // coarse logits make close calls frequent
        let noisy = |noise: f32| {
            let mut d = Decoder::new(c.clone()).unwrap();
            let mut net = HashNet::new(&c, 2.0);
            drive(&mut d, |r| {
                net.forward(r);
                answer(r, |pos| {
                    let mut z = net.logits_of(net.row(r, pos));
                    for (v, x) in z.iter_mut().enumerate() {
                        *x = (*x * 4.0).round() / 4.0;
                        *x += noise * ((pos as usize * 31 + v * 17) % 13) as f32 / 13.0;
                    }
                    z
                })
            })
            .unwrap();
            d.trajectory()
        };
        let (a, b) = (noisy(0.0), noisy(1e-5));
        let agreement = verify(&a, &b, 5e-5).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert!(agreement.largest_dp < 1e-4);
        diverged += agreement.divergence.is_some() as u32;
        assert_eq!(verify(&a, &a, 0.0).unwrap().divergence, None);

        // a different decision that was clearly won is an error
        let mut wrong = a.clone();
        let (step, action) = wrong
            .steps
            .iter()
            .enumerate()
            .flat_map(|(i, s)| s.actions.iter().enumerate().map(move |(j, a)| (i, j, a.margin)))
            .find(|x| x.2 > 1e-3)
            .map(|x| (x.0, x.1))
            .expect("some decision is clear");
        wrong.steps[step].actions[action].new ^= 1;
        assert!(matches!(verify(&a, &wrong, 5e-5), Err(VerifyError::Unexplained { .. })), "seed {seed}");
    }
    assert!(diverged > 5, "{diverged}: the test must see close calls");
}

#[test]
fn verify_refuses_other_requests_and_forms() {
    let a = edited().0.trajectory();
    let mut b = a.clone();
    b.header.config.seed = 1;
    assert_eq!(verify(&a, &b, 1e-4), Err(VerifyError::Request));
    let mut b = a.clone();
    b.steps.pop();
    assert_eq!(verify(&a, &b, 1e-4), Err(VerifyError::Form { index: b.steps.len() }));
    // an unfinished one agrees as far as it goes
    b.footer.stop = None;
    assert_eq!(verify(&a, &b, 1e-4).unwrap().identical, b.steps.len());
}
