//! Token editing: the goldens of `methods/llada21_editing.md` 5.

use super::*;
use serde_json::{Value, json};

fn edit(tau_mask: f32, tau_edit: Value, max_post: u32) -> PolicySpec {
    policy(json!({
        "kind": "edit", "tau_mask": tau_mask, "tau_edit": tau_edit, "max_post": max_post, "max_returns": null
    }))
}

/// 1. Without tau_edit (and with max_post = 0) every step is threshold decoding's.
#[test]
fn editing_off_is_threshold_decoding() {
    for (attention, block) in
        [(Attention::BlockCausal, 8), (Attention::Bidirectional, 8), (Attention::Bidirectional, 0)]
    {
        let mut c = DecodeConfig::new(vec![1, 2, 3], 27, 12, 11);
        (c.attention, c.block_size) = (attention, block);
        c.policy = policy(json!({"kind": "threshold", "tau": 0.6}));
        let want = run(&c, 3.0).0;
        for (tau_edit, max_post) in [(Value::Null, 0), (Value::Null, 16), (json!(0.0), 0), (json!(0.5), 0)] {
            c.policy = edit(0.6, tau_edit.clone(), max_post);
            let got = run(&c, 3.0).0;
            if tau_edit.is_null() {
                assert_eq!(actions(&got), actions(&want));
                assert_eq!(got.ledger(), want.ledger());
            }
            if max_post == 0 {
                assert_eq!(got.ledger().denoise, got.steps().iter().filter(|s| has_commit(s)).count() as u32);
            }
        }
    }
}

fn has_commit(s: &StepRecord) -> bool {
    s.actions.iter().any(|a| a.kind == ActionKind::Commit)
}

/// tau_edit = 1 never fires: threshold's tokens plus one confirming forward per block.
#[test]
fn an_unreachable_edit_threshold_costs_one_forward_per_block() {
    let mut c = DecodeConfig::new(vec![1, 2, 3], 27, 12, 11);
    (c.attention, c.block_size) = (Attention::BlockCausal, 8);
    c.policy = policy(json!({"kind": "threshold", "tau": 0.6}));
    let want = run(&c, 3.0).0;
    c.policy = edit(0.6, json!(1.0), 16);
    let got = run(&c, 3.0).0;
    // four blocks; random keys do not enter at temperature 0
    assert_eq!(got.ledger().denoise, want.ledger().denoise + 4);
    assert_eq!(got.state().ids(), want.state().ids());
}

/// 2. tau_mask = 1: one token per forward.
#[test]
fn top_one_fallback() {
    let mut c = DecodeConfig::new(vec![1], 9, 12, 11);
    c.policy = edit(1.0, json!(0.0), 16);
    let (d, _) = run(&c, 2.0);
    assert!(d.steps().iter().all(|s| s.actions.iter().filter(|a| a.kind == ActionKind::Commit).count() <= 1));
    assert_eq!(d.ledger().commits, 8);
}

/// 3. L' = 3, x = [5, m, m], v = [7, 2, 9], p(v) = [.6, .8, .55].
#[test]
fn golden_step() {
    const M: u32 = 10;
    for (tau_mask, tau_edit, want) in [
        (0.7, json!(0.5), [7, 2, M]),
        (0.5, json!(0.0), [7, 2, 9]),
        (0.95, json!(0.9), [5, 2, M]),
        (0.95, Value::Null, [5, 2, M]),
        (0.7, json!(0.6), [5, 2, M]), // strictly above
    ] {
        let mut c = DecodeConfig::new(vec![], 3, 11, M);
        c.policy = edit(tau_mask, tau_edit, 16);
        let mut d = Decoder::new(c).unwrap();
        let v = |token: u32, p: f32| -> Vec<f32> {
            (0..11).map(|i| if i == token { p.ln() } else { ((1.0 - p) / 9.0).ln() }).collect()
        };
        let masked = |mut z: Vec<f32>| {
            z[M as usize] = f32::NEG_INFINITY;
            z
        };
        // write 5 at position 0 first: the only row above both thresholds
        let r = d.next().unwrap();
        let first = |pos| masked(if pos == 0 { v(5, 0.99) } else { v(1, 0.2) });
        d.apply(answer(&r, first)).unwrap();
        assert_eq!(d.state().ids(), [5, M, M]);
        let r = d.next().unwrap();
        let (tokens, ps) = ([7, 2, 9], [0.6f32, 0.8, 0.55]);
        d.apply(answer(&r, |p| masked(v(tokens[p as usize], ps[p as usize])))).unwrap();
        assert_eq!(d.state().ids(), want);
    }
}

/// A net sure of what it sees: no edit, exactly one confirming forward. One that always prefers another token:
/// `max_post` passes with `tau_edit` = 0 and no guard, fewer with the guard.
#[test]
fn confirming_and_restless_nets() {
    let confirm = |r: &ForwardRequest| {
        let ids = r.ids.clone();
        answer(r, move |p| (0..6).map(|v| if v == ids[p as usize].min(4) { 9.0 } else { 0.0 }).collect())
    };
    let mut c = DecodeConfig::new(vec![], 4, 6, 5);
    c.policy = edit(0.5, json!(0.0), 16);
    let mut d = Decoder::new(c.clone()).unwrap();
    drive(&mut d, confirm).unwrap();
    assert_eq!((d.ledger().denoise, d.ledger().edits), (2, 0));

    // prefers the other of two tokens
    let restless = |r: &ForwardRequest| {
        let ids = r.ids.clone();
        answer(r, move |p| {
            (0..6).map(|v| if v == u32::from(ids[p as usize] == 0) { 9.0 } else { 0.0 }).collect()
        })
    };
    for max_post in [1, 5, 16] {
        c.policy = edit(0.5, json!(0.0), max_post);
        let mut d = Decoder::new(c.clone()).unwrap();
        drive(&mut d, restless).unwrap();
        assert_eq!((d.ledger().denoise, d.ledger().edits), (1 + max_post, 4 * max_post));
    }
    // held 0, then 1 (new), 0 and 1 (one return each): four tokens, three edits, then held back
    for (max_returns, edits) in [(0, 1), (1, 3), (2, 5)] {
        c.policy = policy(json!({
            "kind": "edit", "tau_mask": 0.5, "tau_edit": 0.0, "max_returns": max_returns
        }));
        let mut d = Decoder::new(c.clone()).unwrap();
        drive(&mut d, restless).unwrap();
        assert_eq!(d.ledger().edits, 4 * edits);
        let last = d.steps().last().unwrap().rule.clone().unwrap().edit.unwrap();
        assert_eq!((last.n, last.held_back), (0, 4));
    }
}

/// tau_edit null, 0 and 0.5 are three different behaviours on one net.
#[test]
fn none_is_not_zero() {
    let edits = |tau_edit: Value| {
        let mut c = DecodeConfig::new(vec![1], 17, 12, 11);
        c.policy = edit(0.2, tau_edit, 16);
        run(&c, 1.5).0.ledger().edits
    };
    let (off, zero, half) = (edits(Value::Null), edits(json!(0.0)), edits(json!(0.5)));
    assert_eq!(off, 0);
    assert!(zero > half && half > 0, "{zero} {half}");
}

/// 7. At most L' + max_post + 1 forwards per block, for any thresholds, on nets that change their mind.
#[test]
fn termination() {
    for seed in 0..20 {
        let mut c = DecodeConfig::new(vec![1], 13, 12, 11);
        (c.seed, c.temperature) = (seed, 1.0);
        c.policy = edit(0.9, json!(0.0), 6);
        let (d, _) = run(&c, 0.5);
        assert!(d.ledger().denoise <= 13 + 6 + 1);
        assert_eq!(d.state().masked_left(), 0);
    }
}

/// Edits stay inside the active block, and the store pass of a block comes after its last edit.
#[test]
fn edits_precede_the_store_pass() {
    let mut c = DecodeConfig::new(vec![1, 2], 24, 12, 11);
    (c.attention, c.block_size) = (Attention::BlockCausal, 8);
    c.policy = edit(0.2, json!(0.0), 4);
    let (d, net) = run(&c, 1.5);
    assert!(d.ledger().edits > 0);
    for s in d.steps() {
        assert!(s.actions.iter().all(|a| a.pos / 8 == s.block));
    }
    let stored: Vec<u32> =
        net.log.iter().filter(|r| r.cache == CacheOp::Store).flat_map(|r| r.ids.clone()).collect();
    assert_eq!(stored, d.state().ids()[..16]);
}

/// With the logit shift a block's first position is predicted without a look at its token: sampled there, it stays.
#[test]
fn rows_that_do_not_read_their_token_edit_nothing() {
    for (attention, shift) in
        [(Attention::BlockCausal, true), (Attention::BlockCausal, false), (Attention::Bidirectional, true)]
    {
        let (mut first, mut others) = (0, 0);
        for seed in 0..20 {
            let mut c = DecodeConfig::new(vec![1, 2, 3], 27, 12, 11);
            (c.attention, c.block_size, c.shift) = (attention, 8, shift);
            (c.temperature, c.seed, c.policy) = (1.0, seed, edit(0.3, json!(0.0), 4));
            let d = run(&c, 2.0).0;
            for a in d.steps().iter().flat_map(|s| &s.actions).filter(|a| a.kind == ActionKind::Edit) {
                *(if a.pos % 8 == 0 { &mut first } else { &mut others }) += 1;
            }
        }
        assert!(others > 20, "{attention:?}, shift {shift}: {others}");
        assert_eq!(
            first == 0,
            attention == Attention::BlockCausal && shift,
            "{attention:?}, shift {shift}: {first}"
        );
    }
}

/// The trigger of an edit masks the position again; the next forward writes it anew, and the guard counts.
#[test]
fn remasking_instead_of_replacing() {
    // prefers the other of two tokens wherever one stands, token 0 where none does
    let restless = |r: &ForwardRequest| {
        let ids = r.ids.clone();
        answer(r, move |p| {
            (0..6).map(|v| if v == u32::from(ids[p as usize] == 0) { 9.0 } else { 0.0 }).collect()
        })
    };
    for (max_remasks, max_post) in [(0, 16), (1, 16), (3, 16), (3, 1), (3, 0)] {
        let mut c = DecodeConfig::new(vec![], 4, 6, 5);
        c.policy = policy(json!({
            "kind": "remask", "tau_mask": 0.5, "tau_remask": 0.5, "max_remasks": max_remasks, "max_post": max_post
        }));
        let mut d = Decoder::new(c).unwrap();
        drive(&mut d, restless).unwrap();
        // all four are written at once, and masked again at once while both bounds allow it
        let rounds = max_remasks.min(max_post);
        assert_eq!((d.ledger().remasks, d.ledger().commits), (4 * rounds, 4 + 4 * rounds));
        // a forward that masks and one that writes each round, and one that is held back, unless none are left
        let held_back = u32::from(max_post > max_remasks);
        assert_eq!(d.ledger().denoise, 1 + 2 * rounds + held_back);
        assert_eq!((d.state().masked_left(), d.state().ids()), (0, &[0u32; 4][..]));
        assert_eq!(d.trajectory().replay().unwrap().pop().unwrap(), *d.state());
    }
}

/// A net sure of what it sees masks nothing again: one confirming forward, as with edits.
#[test]
fn remasking_leaves_what_is_confirmed() {
    let mut c = DecodeConfig::new(vec![], 4, 6, 5);
    c.policy = policy(json!({"kind": "remask", "tau_mask": 0.5}));
    let mut d = Decoder::new(c).unwrap();
    drive(&mut d, |r| {
        let ids = r.ids.clone();
        answer(r, move |p| (0..6).map(|v| if v == ids[p as usize].min(4) { 9.0 } else { 0.0 }).collect())
    })
    .unwrap();
    assert_eq!((d.ledger().denoise, d.ledger().remasks), (2, 0));
}
