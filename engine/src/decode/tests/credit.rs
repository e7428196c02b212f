//! Credit: a weight of 0 is none, a net that repeats itself is believed sooner, and what was credited goes where it has to.

use super::*;
use serde_json::{Value, json};

/// Every method with parameters under which it writes more than one token at a time.
fn methods() -> Vec<Value> {
    vec![
        json!({"kind": "ancestral"}),
        json!({"kind": "top_prob", "steps_per_block": 3}),
        json!({"kind": "threshold", "tau": 0.4}),
        json!({"kind": "hierarchical", "tau": 0.6, "tau_low": 0.3}),
        json!({"kind": "factor", "f": 1.5}),
        json!({"kind": "entropy_bound", "gamma": 1.0}),
        json!({"kind": "klass", "tau": 0.3, "epsilon": 0.5, "history": 1}),
        json!({"kind": "edit", "tau_mask": 0.4, "tau_edit": 0.3}),
        json!({"kind": "remask", "tau_mask": 0.4, "tau_remask": 0.3}),
        json!({"kind": "wino", "tau_wide": 0.4, "tau_narrow": 0.4}),
        json!({"kind": "remdm", "eta": 0.1, "steps": 16}),
        json!({"kind": "remdm_quota", "extra_steps": 3}),
        json!({"kind": "draft_refine", "tau": 0.4, "gamma": 0.5, "refine_tau": 0.4}),
        json!({"kind": "left_to_right"}),
    ]
}

fn config(mut spec: Value, more: Value) -> DecodeConfig {
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut c = DecodeConfig::new(vec![3, 1], 24, 12, 11);
    c.fixed = vec![(7, 5), (12, 2)];
    (c.block_size, c.eos_id, c.top_k, c.seed) = (8, Some(4), 4, 5);
    c.policy = policy(spec);
    c
}

/// Weight 0 equals none bit for bit, also where whole rows are read for another reason; with a weight every method comes to
/// its end, and what it records replays.
#[test]
fn no_weight_is_no_credit() {
    for spec in methods() {
        for (temperature, more) in [
            (0.0, json!({})),
            (0.8, json!({"top_p": 0.9})),
            (0.8, json!({"guidance": 0.5})),
            (0.0, json!({"eos": "never"})),
        ] {
            let with = |credit: Value| {
                let mut more = more.clone();
                more.as_object_mut().unwrap().extend(credit.as_object().unwrap().clone());
                let mut c = config(spec.clone(), more);
                c.temperature = temperature;
                run(&c, 2.0).0
            };
            let (none, zero) = (with(json!({})), with(json!({"credit": 0.0, "credit_decay": 0.3})));
            assert_eq!((none.steps(), none.ledger()), (zero.steps(), zero.ledger()), "{spec} {more}");
            let credited = with(json!({"credit": 0.7}));
            assert_eq!(credited.state().masked_left(), 0);
            assert_eq!(
                credited.trajectory().replay().unwrap().pop().unwrap(),
                *credited.state(),
                "{spec} {more}"
            );
        }
    }
}

/// A net that says p = 0.6 for token 1 in every forward: behind n of them its credit is c = 0.6^0.2 (1 - 0.8^n) / 0.2 and the
/// record's p, which the threshold looks at, is that of z + w ln(1 + c).
#[test]
fn what_is_said_again_is_believed() {
    let mut c = DecodeConfig::new(vec![0], 9, 4, 3);
    c.policy = policy(json!({"kind": "threshold", "tau": 0.71, "credit": 0.7}));
    let mut d = Decoder::new(c).unwrap();
    drive(&mut d, |r| answer(r, |_| logits(&[0.3, 0.6, 0.1, 0.0]))).unwrap();
    let p = |n: i32| {
        let credit = 0.6f64.powf(0.2) * (1.0 - 0.8f64.powi(n)) / 0.2;
        let boosted = 0.6 * (1.0 + credit).powf(0.7);
        boosted / (boosted + 0.4)
    };
    let first = (1..).find(|n| p(*n) > 0.71).unwrap();
    assert!(first > 1 && p(1) < 0.71, "{} {}", p(1), p(2));
    for (n, step) in (1..).zip(d.steps()) {
        for row in &step.rows {
            assert!((row.p as f64 - p(n)).abs() < 2e-5, "{n}: {} {}", row.p, p(n));
        }
        // one token a forward until the credit carries all of them over the threshold
        assert_eq!(step.actions.len(), if n < first { 1 } else { 8 - (first as usize - 1) });
    }
    assert_eq!(d.ledger().denoise as i32, first);
}

/// The order is guidance, repetition, forbidden tokens, credit: p of the credit is that of what stands there.
#[test]
fn credit_comes_behind_guidance_and_penalties() {
    let decode = |spec: Value| {
        let mut c = DecodeConfig::new(vec![1], 4, 4, 3);
        c.policy = policy(spec);
        let mut d = Decoder::new(c).unwrap();
        let r = d.next().unwrap();
        d.apply(answer(&r, |_| logits(&[0.3, 0.6, 0.1, 0.0]))).unwrap().record
    };
    let record = decode(
        json!({"kind": "threshold", "tau": 1.0, "credit": 0.7, "repetition": 2.0, "repetition_side": "left"}),
    );
    // beside the prompt's token 1 the penalty makes 0 the most probable token, which is what is credited
    let (a, b, c) = (0.3f64, 0.6 * (-2.0f64).exp(), 0.1);
    let best = a / (a + b + c);
    let boosted = a * (1.0 + best.powf(0.2)).powf(0.7);
    assert_eq!(record.rows[0].candidate, 0);
    assert!((record.rows[0].p as f64 - boosted / (boosted + b + c)).abs() < 2e-5);
    assert_eq!(record.rows[1].candidate, 1);
}

/// Credit begins anew with a block, after a reopening, where a token was masked again, and once the user has changed the text;
/// taking a fixed token's lock off changes no text.
#[test]
fn credit_is_forgotten() {
    let said = |_: u32| logits(&[0.3, 0.6, 0.1, 0.0]);
    let begin = || {
        let mut c = DecodeConfig::new(vec![0], 9, 4, 3);
        c.fixed = vec![(8, 1)];
        c.policy = policy(json!({"kind": "threshold", "tau": 1.0, "credit": 0.7}));
        let mut d = Decoder::new(c).unwrap();
        let mut first = 0.0;
        for n in 0..3 {
            let r = d.next().unwrap();
            let record = d.apply(answer(&r, said)).unwrap().record;
            first = if n == 0 { record.rows[0].p } else { first };
            assert_eq!(record.rows[0].p > first, n > 0);
        }
        (d, first)
    };
    let next = |d: &mut Decoder| {
        let r = d.next().unwrap();
        d.apply(answer(&r, said)).unwrap().record.rows.last().unwrap().p
    };
    let (mut d, first) = begin();
    assert!(next(&mut d) > first);
    d.unfix(8).unwrap();
    assert!(next(&mut d) > first);
    let (mut d, first) = begin();
    d.fix(5, 2).unwrap();
    assert_eq!(next(&mut d), first);
    let (mut d, first) = begin();
    d.reopen(&[1]).unwrap();
    assert_eq!(next(&mut d), first);

    // a block's first forward knows nothing of the block before
    let mut c = DecodeConfig::new(vec![0], 16, 4, 3);
    (c.block_size, c.attention) = (8, Attention::BlockCausal);
    c.policy = policy(json!({"kind": "threshold", "tau": 1.0, "credit": 0.7}));
    let mut d = Decoder::new(c).unwrap();
    drive(&mut d, |r| answer(r, said)).unwrap();
    let firsts: Vec<f32> = [0, 1]
        .map(|b| d.steps().iter().find(|s| s.block == b && !s.rows.is_empty()).unwrap().rows[0].p)
        .into();
    assert_eq!(firsts[0], firsts[1]);

    // a token masked again begins anew, its neighbours do not
    let mut c = DecodeConfig::new(vec![], 4, 4, 3);
    c.policy = policy(json!({"kind": "remdm_quota", "extra_steps": 1, "from": 0.5, "credit": 0.7}));
    let mut d = Decoder::new(c).unwrap();
    drive(&mut d, |r| answer(r, said)).unwrap();
    let record = d
        .steps()
        .iter()
        .find(|s| matches!(s.rule.as_ref().unwrap().selection, policy::Fired::Revisit { .. }));
    let rows: Vec<f32> = record.unwrap().rows.iter().filter(|r| r.masked).map(|r| r.p).collect();
    assert_eq!(rows.len(), 3);
    assert!(rows[0] < rows[1] && rows[1] == rows[2], "{rows:?}");
}

/// A check of an approximate cache with every step computed anew finds no difference: credit is the same on both sides.
#[test]
fn a_check_sees_the_same_credit() {
    let c = config(
        json!({"kind": "threshold", "tau": 0.9}),
        json!({"credit": 0.7, "cache": "prefix", "cache_block": 8, "cache_check": true}),
    );
    // a net that does not look around: caches cannot be wrong
    let mut d = Decoder::new(c).unwrap();
    drive(&mut d, |r| {
        answer(r, |p| {
            (0..12)
                .map(|v| if v == 11 { f32::NEG_INFINITY } else { ((v * 7 + p) % 5) as f32 / 2.0 })
                .collect()
        })
    })
    .unwrap();
    let divergence = d.trajectory().footer.divergence.unwrap();
    assert!(divergence.rows > 0);
    assert_eq!((divergence.changed, divergence.largest_dp), (0, 0.0));
}

/// Searches rank by what the model alone says.
#[test]
fn searches_refuse_credit() {
    for kind in ["best_of", "order_token_search"] {
        let c = config(json!({"kind": kind}), json!({"credit": 0.7}));
        let refused = Decoder::new(c).unwrap_err();
        assert!(
            matches!(refused, DecodeError::Unserved { .. }) && refused.to_string().contains("credit 0"),
            "{refused}"
        );
    }
}

/// Two back ends that round a tie differently credit different tokens; what follows differs by more than rounding, and is
/// known to rest on the tie.
#[test]
fn a_tie_in_the_credit_is_a_close_decision() {
    let trace = |tie: f32| {
        let mut c = DecodeConfig::new(vec![0], 5, 4, 3);
        c.policy = policy(json!({"kind": "threshold", "tau": 0.55, "credit": 2.0}));
        let mut d = Decoder::new(c).unwrap();
        drive(&mut d, |r| {
            answer(r, |p| match p {
                4 => vec![1.0, 1.0 + tie, 0.0, f32::NEG_INFINITY],
                p if r.step == 0 => vec![0.4 * p as f32, 0.0, 0.0, f32::NEG_INFINITY],
                _ => vec![1.0, 0.9, 0.0, f32::NEG_INFINITY],
            })
        })
        .unwrap();
        d.trajectory()
    };
    let (a, b) = (trace(1e-6), trace(-1e-6));
    let agreement = crate::decode::verify(&a, &b, 5e-5).unwrap();
    assert!(agreement.divergence.is_some(), "position 4 takes the token that was credited");
    assert!(crate::decode::verify(&a, &a, 0.0).unwrap().divergence.is_none());
}
