//! Prefix, dual and delayed caches: which forwards they ask for, and when they are exact.

use super::*;
use serde_json::json;

fn config(cache: &str, shift: bool) -> DecodeConfig {
    let mut c = DecodeConfig::new(vec![3, 1, 4], 19, 12, 11);
    c.fixed = vec![(9, 5)];
    (c.shift, c.temperature, c.seed) = (shift, 0.7, 2);
    c.policy = policy(json!({"kind": "threshold", "tau": 0.5, "cache": cache, "cache_block": 8}));
    c
}

fn with(c: &DecodeConfig, key: &str, value: serde_json::Value) -> DecodeConfig {
    let mut spec = serde_json::to_value(c.policy).unwrap();
    spec[key] = value;
    DecodeConfig { policy: policy(spec), ..c.clone() }
}

/// The same blocks without a cache.
fn uncached(c: &DecodeConfig) -> DecodeConfig {
    DecodeConfig { block_size: 8, ..with(c, "cache", json!("exact")) }
}

fn written(d: &Decoder) -> Vec<(u32, u32)> {
    actions(d).iter().flatten().map(|a| (a.pos, a.new)).collect()
}

#[test]
fn forwards_of_a_block() {
    for shift in [false, true] {
        for cache in ["prefix", "dual"] {
            let (d, net) = run(&config(cache, shift), 1.0);
            let mut begun = None;
            for (r, step) in net.log.iter().zip(d.steps()) {
                let range = d.state().block_range(step.block);
                let start = range.start.saturating_sub(u32::from(shift));
                let (first, last) = (r.query_positions[0], r.query_positions.last().unwrap() + 1);
                let want = match (begun == Some(step.block), cache) {
                    (false, "prefix") => (0, 19, CacheOp::Keep { keep: start }),
                    (false, _) => (0, 19, CacheOp::Keep { keep: 19 }),
                    (true, "prefix") => (start, 19, CacheOp::None),
                    (true, _) => (start, range.end, CacheOp::Replace),
                };
                assert_eq!((first, last, r.cache), want, "{cache}, shift {shift}");
                // what is reused says how old it is
                let reuses = begun == Some(step.block) && (cache == "dual" || start > 0);
                assert_eq!(step.cache.age.is_some(), reuses);
                begun = Some(step.block);
            }
            let l = d.ledger();
            assert!(l.positions < 19 * l.forwards as u64);
            assert!(l.cache_positions > 0);
            d.trajectory().replay().unwrap();
        }
    }
}

/// Delayed: the block's first forward computes everything; then what is masked, what the forward before wrote, and with the
/// shift the row that each masked position is read from.
#[test]
fn forwards_of_a_delayed_cache() {
    for shift in [false, true] {
        for delay in [0, 1, 2] {
            let c = with(&config("delayed", shift), "cache_delay", json!(delay));
            let (d, net) = run(&c, 1.0);
            let states = d.trajectory().replay().unwrap();
            let mut begun = None;
            let mut written: Vec<Vec<u32>> = Vec::new();
            let mut scattered = 0;
            for ((r, step), state) in net.log.iter().zip(d.steps()).zip(&states) {
                if begun != Some(step.block) {
                    assert_eq!((r.query_positions.len(), r.cache), (19, CacheOp::Keep { keep: 19 }));
                    written.clear();
                } else {
                    let masked: Vec<u32> = state.masked(0..19).collect();
                    let mut want = masked.clone();
                    want.extend(masked.iter().filter(|_| shift).map(|p| p - 1));
                    want.extend(written.iter().rev().take(delay).flatten());
                    want.sort_unstable();
                    want.dedup();
                    assert_eq!((&r.query_positions, r.cache), (&want, CacheOp::Replace), "shift {shift}");
                    assert_eq!(r.want.rows, masked);
                    assert!(step.cache.age.is_some());
                    scattered += step.gaps.len();
                }
                written.push(step.actions.iter().map(|a| a.pos).collect());
                begun = Some(step.block);
            }
            assert!(scattered > 0);
            assert_eq!(d.ledger().cache_positions, 19);
        }
    }
}

/// The control of the delay: without it a token's keys stay those of the mask, and the difference is recorded. With it a
/// net of one layer is exact.
#[test]
fn the_delay_is_what_makes_it_work() {
    for shift in [false, true] {
        let c =
            DecodeConfig { temperature: 0.0, ..with(&config("delayed", shift), "cache_check", json!(true)) };
        let off = |delay: u32| {
            let (d, _) = run(&with(&c, "cache_delay", json!(delay)), 1.0);
            d.trajectory().footer.divergence.unwrap().largest_dp
        };
        assert!(off(1) < 1e-6 && off(0) > 1e-2, "{} {}", off(1), off(0));
    }
}

/// Everything computed in every forward is no cache at all. And in a net of one layer, whose keys follow from their own
/// token, all three are exact however old.
#[test]
fn when_they_are_exact() {
    for shift in [false, true] {
        for cache in ["prefix", "dual", "delayed"] {
            let c = config(cache, shift);
            let (plain, _) = run(&uncached(&c), 1.0);
            let (always, _) = run(&with(&c, "cache_refresh", json!(1)), 1.0);
            assert_eq!(written(&always), written(&plain));
            assert_eq!(always.ledger().positions, plain.ledger().positions);
            let (old, _) = run(&c, 1.0);
            assert_eq!(written(&old), written(&plain), "{cache}, shift {shift}");
            let greedy = DecodeConfig { temperature: 0.0, ..with(&c, "cache_check", json!(true)) };
            let (checked, _) = run(&greedy, 1.0);
            let found = checked.trajectory().footer.divergence.unwrap();
            assert!(found.rows > 0 && found.changed == 0 && found.largest_dp < 1e-6, "{found:?}");
            assert!(checked.ledger().check > 0);
            let plain = DecodeConfig { temperature: 0.0, ..uncached(&c) };
            assert_eq!(written(&checked), written(&run(&plain, 1.0).0));
        }
    }
}

/// A change by the user and a lost cache begin the block's cache anew.
#[test]
fn changes_and_losses_are_computed_again() {
    for cache in ["prefix", "dual", "delayed"] {
        let c = config(cache, false);
        let mut d = Decoder::new(c.clone()).unwrap();
        let mut net = HashNet::new(&c, 0.5);
        for _ in 0..2 {
            let r = d.next().unwrap();
            d.apply(net.forward(&r)).unwrap();
        }
        d.fix(12, 6).unwrap();
        assert!(matches!(d.next().unwrap().cache, CacheOp::Keep { .. }));
        let r = d.next().unwrap();
        d.apply(net.forward(&r)).unwrap();
        assert!(!matches!(d.next().unwrap().cache, CacheOp::Keep { .. }));
        d.forget_cache();
        net = HashNet::new(&c, 0.5);
        drive(&mut d, |r| net.forward(r)).unwrap();
        assert_eq!((d.state().masked_left(), d.state().id(12)), (0, 6));
    }
}

#[test]
fn what_cannot_be_cached_is_refused_by_name() {
    let mut c = config("dual", false);
    (c.attention, c.block_size) = (Attention::BlockCausal, 8);
    assert!(matches!(Decoder::new(c).unwrap_err(), DecodeError::Unserved { policy: "threshold", .. }));
    for spec in [
        json!({"kind": "order_token_search", "cache": "dual"}),
        json!({"kind": "best_of", "cache": "prefix"}),
        json!({"kind": "draft_refine", "cache": "prefix"}),
        json!({"kind": "threshold", "cache": "prefix", "guidance": 1.0}),
        json!({"kind": "threshold", "cache": "delayed", "guidance": 1.0}),
    ] {
        let mut c = DecodeConfig::new(vec![1], 8, 12, 11);
        c.policy = policy(spec.clone());
        assert!(matches!(Decoder::new(c).unwrap_err(), DecodeError::Unserved { .. }), "{spec}");
    }
}
