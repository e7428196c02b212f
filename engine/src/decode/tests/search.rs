//! Order-Token Search and best of n: identities of `methods/order_token_search.md` 5.

use super::*;
use crate::decode::policy::{Fired, SearchFired, SearchPhase};
use proptest::prelude::*;
use serde_json::json;

fn config(spec: serde_json::Value) -> DecodeConfig {
    let mut c = DecodeConfig::new(vec![3, 1], 18, 12, 11);
    (c.policy, c.seed) = (policy(spec), 5);
    c
}

fn fired(d: &Decoder) -> Vec<SearchFired> {
    let of = |s: &StepRecord| match &s.rule.as_ref()?.selection {
        Fired::Search(f) => Some(f.clone()),
        _ => None,
    };
    d.steps().iter().filter_map(of).collect()
}

/// At temperature 0 every beam is fixed steps by confidence, with one beam and with several.
#[test]
fn without_noise_it_is_fixed_steps() {
    let mut plain = config(json!({"kind": "top_prob", "steps_per_block": 4}));
    plain.block_size = 8;
    // the first block has 6 masks, the others 8 and 2: two tokens a forward
    let (want, _) = run(&plain, 2.0);
    let pairs = |d: &Decoder| {
        let mut a: Vec<(u32, u32)> = actions(d).iter().flatten().map(|a| (a.pos, a.new)).collect();
        a.sort_unstable();
        a
    };
    for beams in [1, 3] {
        let (d, _) = run(&config(json!({"kind": "order_token_search", "beams": beams, "block": 8})), 2.0);
        let kept: Vec<u32> = fired(&d).iter().filter(|f| !f.kept.is_empty()).map(|f| f.distinct).collect();
        assert_eq!(kept, [1, 1, 1]);
        let same = {
            let mut c = config(json!({"kind": "ancestral"}));
            c.block_size = 8;
            let parts = policy::Parts {
                selection: policy::Selection::PerForward { k: 2 },
                ..policy(json!({"kind": "threshold"})).build().unwrap()
            };
            let mut d = Decoder::with_policy(c.clone(), Box::new(parts)).unwrap();
            let mut net = HashNet::new(&c, 2.0);
            drive(&mut d, |r| net.forward(r)).unwrap();
            d
        };
        assert_eq!(d.state().ids(), same.state().ids(), "{beams} beams");
        assert_eq!(pairs(&d), pairs(&same));
    }
    assert_eq!(want.state().masked_left(), 0);
}

/// S K + B K^2 - (K^2 - 1) forwards, and behind the last choice only those of the best beam.
#[test]
fn forwards_as_counted() {
    for (beams, steps, blocks) in [(1u32, 8, 2), (2, 8, 2), (4, 8, 2)] {
        let mut c = config(json!({"kind": "order_token_search", "beams": beams, "block": 8}));
        (c.prompt, c.length, c.temperature) = (vec![], 16, 0.7);
        let (d, net) = run(&c, 2.0);
        let want =
            steps * beams + blocks * beams * beams - (beams * beams - 1) - (beams - 1) * (steps / blocks - 1);
        assert_eq!((d.ledger().forwards, d.ledger().search), (want, want));
        assert_eq!(net.log.len() as u32, want);
    }
}

/// The score of the first child at temperature 0 is the sum of ln p of the block's guesses given the guesses outside.
#[test]
fn the_score_is_the_blocks_likelihood() {
    let mut c = DecodeConfig::new(vec![], 4, 4, 3);
    c.policy = policy(json!({"kind": "order_token_search", "beams": 1, "block": 2}));
    let net = HashNet::new(&c, 1.5);
    // what a row says of a text: a hash of everything but the row's own block partner
    let row = |ids: &[u32], p: u32| {
        let seen = ids.iter().fold(p as u64, |h, id| h * 31 + *id as u64);
        net.logits_of(seen)
    };
    let mut d = Decoder::new(c).unwrap();
    let (mut first, mut score) = (None, None);
    while let Some(r) = d.next() {
        let ids = r.ids.clone();
        let event = d.apply(answer(&r, |p| row(&ids, p))).unwrap();
        let Some(Fired::Search(f)) = event.record.rule.map(|r| r.selection) else { panic!("no search") };
        match f.phase {
            SearchPhase::Expand if first.is_none() => first = Some(ids),
            SearchPhase::Score if score.is_none() => score = f.score,
            _ => {}
        }
    }
    let masked = first.unwrap();
    let best = |z: &[f32]| (0..3u32).max_by(|a, b| z[*a as usize].total_cmp(&z[*b as usize])).unwrap();
    let guess: Vec<u32> = (0..4).map(|p| best(&row(&masked, p))).collect();
    let without = [3, 3, guess[2], guess[3]];
    let want: f64 = (0..2u32)
        .map(|p| {
            let z = row(&without, p);
            let sum: f64 = z[..3].iter().map(|z| (*z as f64).exp()).sum();
            z[guess[p as usize] as usize] as f64 - sum.ln()
        })
        .sum();
    assert!((score.unwrap() as f64 - want).abs() < 1e-5, "{score:?} {want}");
}

/// A budget is kept, down to that of one plain decoding.
#[test]
fn budgets_are_kept() {
    for budget in [9u32, 20, 40, 80] {
        let mut c = config(json!({"kind": "order_token_search", "beams": 3, "block": 4, "budget": budget}));
        c.temperature = 0.7;
        let (d, _) = run(&c, 2.0);
        // the first block is always searched: 1 + 3 forwards more than plain
        assert!(d.ledger().forwards <= budget.max(8 + 6), "{budget}: {}", d.ledger().forwards);
        assert_eq!(d.state().masked_left(), 0);
        let mut c = config(json!({"kind": "best_of", "n": 9, "tau": 0.5, "budget": budget}));
        c.temperature = 0.7;
        let (d, _) = run(&c, 2.0);
        let one = run(&config(json!({"kind": "best_of", "n": 1, "tau": 0.5})), 2.0).0.ledger().forwards;
        assert!(d.ledger().forwards <= budget.max(2 * one + 4), "{budget}: {}", d.ledger().forwards);
    }
}

/// Best of n by commits is the best of n runs with the seeds of the slots; of 1, the run itself.
#[test]
fn the_best_of_several_is_the_best_of_them() {
    for attention in [Attention::Bidirectional, Attention::BlockCausal] {
        let with = |spec| {
            let mut c = config(spec);
            (c.attention, c.block_size, c.temperature) = (attention, 4, 0.9);
            c
        };
        let mean = |d: &Decoder| {
            let p: Vec<f64> = actions(d).iter().flatten().map(|a| (a.p as f64).ln()).collect();
            p.iter().sum::<f64>() / p.len() as f64
        };
        let alone: Vec<Decoder> = (0..4u64)
            .map(|slot| {
                let mut c = with(json!({"kind": "threshold", "tau": 0.5}));
                c.seed = 5u64.wrapping_add(slot.wrapping_mul(0x9E37_79B9_7F4A_7C15));
                run(&c, 1.5).0
            })
            .collect();
        for n in 1..=4usize {
            let (d, _) = run(&with(json!({"kind": "best_of", "n": n, "tau": 0.5, "by": "commits"})), 1.5);
            let best = alone[..n].iter().max_by(|a, b| mean(a).total_cmp(&mean(b))).unwrap();
            assert_eq!(d.state().ids(), best.state().ids(), "{attention:?} {n}");
        }
        let (d, _) = run(&with(json!({"kind": "best_of", "n": 3, "tau": 0.5})), 1.5);
        let scores: Vec<f32> = fired(&d).iter().filter_map(|f| f.score).collect();
        assert_eq!(scores.len(), 3);
        let best = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let kept = fired(&d).iter().filter(|f| !f.kept.is_empty()).filter_map(|f| f.score).next_back();
        assert_eq!(kept, Some(best));
    }
}

/// What a search cannot work with is refused by name, and so is a change while it is at work.
#[test]
fn searches_refuse_by_name() {
    let mut c = config(json!({"kind": "order_token_search"}));
    (c.attention, c.block_size) = (Attention::BlockCausal, 4);
    assert!(matches!(
        Decoder::new(c).unwrap_err(),
        DecodeError::Unserved { policy: "order_token_search", .. }
    ));
    for kind in ["order_token_search", "best_of"] {
        let c = config(json!({"kind": kind, "guidance": 1.0}));
        assert!(matches!(Decoder::new(c).unwrap_err(), DecodeError::Unserved { .. }));
        let c = config(json!({"kind": kind}));
        let mut d = Decoder::new(c.clone()).unwrap();
        let mut net = HashNet::new(&c, 1.0);
        let r = d.next().unwrap();
        d.apply(net.forward(&r)).unwrap();
        assert_eq!(d.fix(6, 2).unwrap_err(), DecodeError::Searching);
        drive(&mut d, |r| net.forward(r)).unwrap();
        d.reopen(&[5]).unwrap();
        drive(&mut d, |r| net.forward(r)).unwrap();
        assert_eq!(d.state().masked_left(), 0);
    }
}

fn any_search() -> impl Strategy<Value = (serde_json::Value, bool)> {
    let search = prop_oneof![
        (1u32..4, 1u32..9, 1u32..4, any::<bool>(), any::<bool>(), prop::sample::select(vec![0u32, 30])).prop_map(
            |(beams, block, k, noised, accumulate, budget)| {
                (
                    json!({"kind": "order_token_search", "beams": beams, "block": block,
                        "tokens_per_forward": k, "noised": noised, "accumulate": accumulate, "budget": budget}),
                    false,
                )
            }
        ),
        (1u32..4, 0.0f32..=1.0, any::<bool>(), prop::sample::select(vec![0u32, 30]), any::<bool>()).prop_map(
            |(n, tau, chain, budget, blocks)| {
                let by = if chain { "chain" } else { "commits" };
                (json!({"kind": "best_of", "n": n, "tau": tau, "by": by, "budget": budget}), blocks)
            }
        ),
        (0.0f32..=1.0, 0.0f32..=1.0, 0.0f32..=1.0, any::<bool>(), any::<bool>()).prop_map(
            |(tau, gamma, refine, random, blocks)| {
                let choose = if random { "random" } else { "snapshot" };
                let spec = json!({"kind": "draft_refine", "tau": tau, "gamma": gamma, "refine_tau": refine,
                    "choose": choose});
                (spec, blocks)
            }
        ),
    ];
    search.boxed()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    /// Known tokens stay, nothing is left masked, the record replays to the text, and a second run is the same.
    #[test]
    fn searches_keep_the_rules(
        (spec, blocks) in any_search(),
        (shift, early, greedy) in any::<(bool, bool, bool)>(),
        more in 0u32..20,
        fixed in prop::collection::btree_map(7u32..26, 0u32..11, 0..3),
        seed in any::<u64>(),
    ) {
        let mut c = DecodeConfig::new(vec![3, 1, 2, 6, 5], 5 + more, 12, 11);
        c.fixed = fixed.into_iter().filter(|f| f.0 < c.length).collect();
        (c.policy, c.shift, c.eos_id, c.early_stop, c.seed) = (policy(spec), shift, Some(4), early, seed);
        (c.block_size, c.temperature, c.top_k) = (4, if greedy { 0.0 } else { 0.8 }, 2);
        if blocks {
            c.attention = Attention::BlockCausal;
        }
        let (d, net) = run(&c, 2.0);
        prop_assert_eq!(d.state().masked_left(), 0);
        prop_assert!(d.stop().is_some());
        prop_assert_eq!(&d.state().ids()[..5], &c.prompt[..]);
        for (pos, id) in &c.fixed {
            prop_assert_eq!((d.state().id(*pos), d.state().status(*pos)), (*id, Status::Fixed));
        }
        let l = d.ledger();
        prop_assert_eq!(l.forwards, net.log.len() as u32);
        prop_assert_eq!(l.forwards, l.prefill + l.denoise + l.store + l.refresh + l.guide + l.search);
        let t = d.trajectory();
        let last = t.replay().unwrap().pop().unwrap();
        prop_assert_eq!(last.ids(), d.state().ids());
        prop_assert_eq!(run(&c, 2.0).0.trajectory(), t.clone());
        let text = serde_json::to_string(&t).unwrap();
        let back: Trajectory = serde_json::from_str(&text).unwrap();
        prop_assert_eq!((back.footer.ids, back.footer.ledger), (t.footer.ids, t.footer.ledger));
    }
}
