//! Wide in, narrow out.

use super::*;
use crate::decode::policy::{Plan, Rule, View};
use serde_json::json;

fn wino(wide: f32, narrow: f32) -> PolicySpec {
    policy(json!({"kind": "wino", "tau_wide": wide, "tau_narrow": narrow}))
}

/// Bidirectional and block-causal texts with and without the shift, in blocks of `block`.
fn configs(block: u32) -> Vec<DecodeConfig> {
    let mut all = Vec::new();
    for attention in [Attention::Bidirectional, Attention::BlockCausal] {
        for shift in [false, true] {
            let mut c = DecodeConfig::new(vec![3, 1, 4], 31, 12, 11);
            (c.attention, c.shift, c.block_size) = (attention, shift, block);
            c.fixed = vec![(9, 5), (14, 2)];
            all.push(c);
        }
    }
    all
}

/// Threshold with WINO's bound, written out.
#[derive(Debug)]
struct Bounded(f32);
impl Policy for Bounded {
    fn plan(&self, view: &View) -> Plan {
        let mut rows: Vec<_> = view.rows.iter().filter(|r| r.active && r.masked()).collect();
        rows.sort_by(|a, b| b.p().total_cmp(&a.p()).then(a.pos.cmp(&b.pos)));
        let most = ((0.7 * rows.len() as f64) as usize).clamp(5, 20);
        let mut above: Vec<_> = rows.iter().filter(|r| r.p() > self.0).take(most).collect();
        if above.is_empty() {
            above = rows.iter().take(1).collect();
        }
        let actions = above.iter().map(|r| r.commit(view.temperature, 1.0)).collect();
        let scores = view.rows.iter().map(|r| if r.active && r.masked() { 0.0 } else { f64::NEG_INFINITY });
        Plan { actions, scores: scores.collect(), rule: Rule::default() }
    }
    fn post_budget(&self) -> u32 {
        0
    }
}

/// tau_narrow = 0: threshold with the bound, and where no block exceeds the bound plain threshold.
#[test]
fn without_narrowing_it_is_bounded_threshold() {
    let written = |d: &Decoder| -> Vec<Vec<(u32, u32)>> {
        actions(d)
            .iter()
            .map(|a| {
                let mut a: Vec<(u32, u32)> = a.iter().map(|a| (a.pos, a.new)).collect();
                a.sort_unstable();
                a
            })
            .collect()
    };
    for block in [5, 0] {
        for mut c in configs(block) {
            for (tau, temperature) in [(0.0, 0.0), (0.3, 0.0), (0.5, 0.9), (1.0, 0.0)] {
                (c.policy, c.temperature) = (wino(tau, 0.0), temperature);
                let got = run(&c, 3.0).0;
                assert_eq!(got.ledger().remasks, 0);
                let mut want = Decoder::with_policy(c.clone(), Box::new(Bounded(tau))).unwrap();
                let mut net = HashNet::new(&c, 3.0);
                drive(&mut want, |r| net.forward(r)).unwrap();
                assert_eq!(written(&got), written(&want), "block {block}, tau {tau}");
                if block == 5 {
                    c.policy = policy(json!({"kind": "threshold", "tau": tau}));
                    assert_eq!(written(&got), written(&run(&c, 3.0).0));
                }
            }
        }
    }
}

/// p of a written token does not change when another token, or the mask, stands in its place, and is that of a forward over
/// everything else and the shadow; rows of the text do not change with the shadow.
#[test]
fn a_written_token_is_judged_without_itself() {
    for c in configs(8) {
        let c = DecodeConfig { policy: wino(0.2, 0.3), ..c };
        let mut d = Decoder::new(c.clone()).unwrap();
        let mut net = HashNet::new(&c, 2.0);
        let mut judged = 0;
        while let Some(r) = d.next() {
            if let Some(shadow) = &r.want.shadow {
                for pos in &shadow.rows {
                    let row = pos - u32::from(c.shift);
                    let hidden = net.row(&r, *pos);
                    for other in [0, 7, 11] {
                        let mut without = r.clone();
                        let at = r.query_positions.binary_search(pos).unwrap();
                        without.ids[at] = other;
                        assert_eq!(net.row(&without, *pos), hidden);
                    }
                    let mut alone = r.clone();
                    let at = r.query_positions.binary_search(pos).unwrap();
                    alone.query_positions.remove(at);
                    alone.ids.remove(at);
                    assert_eq!(net.hidden(&alone, row, 1), hidden, "the text without {pos}, and the shadow");
                    judged += 1;
                }
                let mut plain = r.clone();
                (plain.want.shadow, plain.rule) = (None, c.attention.rule());
                for pos in r.want.rows.iter().filter(|p| d.state().is_masked(**p)) {
                    assert_eq!(net.row(&plain, *pos), net.row(&r, *pos));
                }
            }
            d.apply(net.forward(&r)).unwrap();
        }
        assert!(judged > 20, "{judged}");
        assert!(d.ledger().remasks > 0);
        assert_eq!(d.trajectory().replay().unwrap().pop().unwrap(), *d.state());
    }
}

/// The shadow is the whole block, one place earlier with the shift; block-causal with the shift, the first position has none
/// and is never doubted. A forward with nothing written in the block has no shadow, and the ledger counts the others' rows.
#[test]
fn the_shadow_is_the_block() {
    for c in configs(8) {
        let c = DecodeConfig { policy: wino(0.2, 0.9), ..c };
        let (d, net) = run(&c, 2.0);
        let mut rows = 0;
        let steps = d.steps();
        let states = d.trajectory().replay().unwrap();
        for ((r, step), before) in net.log.iter().zip(steps).zip(&states) {
            let range = d.state().block_range(step.block);
            let written = |p: u32| matches!(before.status(p), Status::Committed { .. });
            let first = match (c.shift, c.attention) {
                (false, _) => range.start,
                (true, Attention::BlockCausal) => range.start + 1,
                (true, _) => range.start.max(1),
            };
            let any = (first..range.end).any(written);
            let beside = (first..range.end).map(|p| p - u32::from(c.shift)).collect::<Vec<u32>>();
            match &r.want.shadow {
                Some(s) => {
                    assert!(any && step.kind == StepKind::Denoise);
                    assert_eq!((&s.positions, s.mask), (&beside, 11));
                    assert_eq!(s.rows, (first..range.end).filter(|p| written(*p)).collect::<Vec<_>>());
                }
                None => assert!(!any || step.kind != StepKind::Denoise),
            }
            assert_eq!(step.shadow as usize, r.want.shadow.as_ref().map_or(0, |s| s.positions.len()));
            rows += step.shadow as u64;
            for a in step.actions.iter().filter(|a| a.kind == ActionKind::Remask) {
                assert!(a.pos >= first && a.p < 0.9 && a.new == a.old);
                let row = step.rows.iter().find(|r| r.pos == a.pos).unwrap();
                assert!((row.p_current - a.p).abs() < 1e-4);
            }
        }
        let queries: u64 = net.log.iter().map(|r| r.query_positions.len() as u64).sum();
        let l = d.ledger();
        assert!(rows > 0 && l.remasks > 0);
        assert_eq!((l.shadow, l.positions), (rows, queries + rows));
    }
}

/// A net that is sure of every mask and doubts every written token: all the bounds bind, and the end comes in time.
fn doubter(c: &DecodeConfig) -> Decoder {
    let mut d = Decoder::new(c.clone()).unwrap();
    let mut at = 0;
    drive(&mut d, |r| {
        at += 1;
        let shadow: &[u32] = r.want.shadow.as_ref().map_or(&[], |s| &s.rows);
        answer(r, |pos| {
            // another token in each forward, so that what stands there is always doubted
            let best = if shadow.contains(&pos) { 10 } else { (at + pos) % 9 };
            (0..12)
                .map(|v| {
                    if v == 11 {
                        f32::NEG_INFINITY
                    } else if v == best {
                        9.0
                    } else {
                        0.0
                    }
                })
                .collect()
        })
    })
    .unwrap();
    d
}

#[test]
fn at_most_m0_and_thirty_forwards() {
    let mut c = DecodeConfig::new(vec![1], 101, 12, 11);
    c.policy = wino(0.5, 0.9);
    c.fixed = vec![(40, 10)];
    let d = doubter(&c);
    let sizes: Vec<(usize, usize)> = d
        .steps()
        .iter()
        .map(|s| {
            let count = |kind| s.actions.iter().filter(|a| a.kind == kind).count();
            (count(ActionKind::Commit), count(ActionKind::Remask))
        })
        .collect();
    // 99 masks: 20 written; then the 20 are doubted, fewer than the 30 that a first forward allows for
    assert_eq!(sizes[..3], [(20, 0), (20, 19), (20, 19)]);
    assert!(d.steps().len() <= 99 + 30, "{}", d.steps().len());
    let mut masked = 99;
    for pair in sizes.windows(2) {
        masked += pair[0].1;
        masked -= pair[0].0;
        let ((before, _), (a, r)) = (pair[0], pair[1]);
        assert!(r < before && (a > 1 || r == 0));
        assert_eq!(a, (7 * masked / 10).clamp(5, 20).min(masked));
    }
    assert_eq!(d.state().id(40), 10);
    assert_eq!(d.state().masked_left(), 0);
    assert_eq!(d.trajectory().replay().unwrap().pop().unwrap(), *d.state());
    for block in [1, 3, 8, 16] {
        c.block_size = block;
        let d = doubter(&c);
        for b in 0..d.state().blocks() {
            let range = d.state().block_range(b);
            let m0 = range.clone().filter(|p| *p > 0 && *p != 40).count();
            let steps = d.steps().iter().filter(|s| s.block == b).count();
            assert!(steps <= m0 + 30, "block {b}: {steps}");
        }
    }
}

/// Only written tokens are doubted, whatever the net says of prompt and fixed ones, and never those of this very forward.
#[test]
fn prompt_and_fixed_tokens_are_never_doubted() {
    for c in configs(16) {
        let c = DecodeConfig { policy: wino(0.1, 1.0), ..c };
        let d = doubter(&c);
        assert!(d.ledger().remasks > 0);
        let states = d.trajectory().replay().unwrap();
        for (step, before) in d.steps().iter().zip(&states) {
            for a in step.actions.iter().filter(|a| a.kind == ActionKind::Remask) {
                assert!(matches!(before.status(a.pos), Status::Committed { .. }));
            }
        }
        for pos in [0, 1, 2, 9, 14] {
            assert!(matches!(d.state().status(pos), Status::Prompt | Status::Fixed));
        }
    }
}

/// A prefix cache holds nothing of the block: with it the text of a net of one layer is the same. One that holds the block's
/// own keys is refused by name, in plain words.
#[test]
fn caches() {
    for shift in [false, true] {
        let mut c = DecodeConfig::new(vec![3, 1, 4], 27, 12, 11);
        (c.shift, c.block_size) = (shift, 8);
        c.policy = wino(0.3, 0.4);
        let plain = run(&c, 2.0).0;
        c.policy.caching = policy::Caching {
            cache: policy::CacheMode::Prefix,
            cache_block: 8,
            cache_check: true,
            ..Default::default()
        };
        let cached = run(&c, 2.0).0;
        let written = |d: &Decoder| actions(d).into_iter().flatten().collect::<Vec<_>>();
        assert_eq!(written(&cached), written(&plain));
        assert!(cached.trajectory().footer.divergence.unwrap().largest_dp < 1e-6);
        assert!(plain.ledger().remasks > 0);
        for cache in [policy::CacheMode::Dual, policy::CacheMode::Delayed] {
            c.policy.caching.cache = cache;
            let error = Decoder::new(c.clone()).unwrap_err();
            assert!(matches!(error, DecodeError::Unserved { policy: "wino", .. }));
            assert!(error.to_string().contains("the block's own keys"), "{error}");
        }
    }
}

/// Guidance gives both its forwards the shadow.
#[test]
fn guided() {
    for mut c in configs(8) {
        c.policy = policy(json!({"kind": "wino", "tau_wide": 0.3, "tau_narrow": 0.5, "guidance": 0.7}));
        let (d, net) = run(&c, 2.0);
        assert!(d.ledger().remasks > 0 && d.ledger().guide == d.ledger().denoise);
        for pair in net.log.chunks(2) {
            assert_eq!(pair[0].want.shadow, pair[1].want.shadow);
        }
    }
}
