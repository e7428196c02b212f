//! Fix, unfix, reopen: on finished and on running decodes, with and without a cache.

use super::*;
use serde_json::json;

fn block_causal(shift: bool) -> DecodeConfig {
    let mut c = DecodeConfig::new(vec![1, 2, 3, 4, 5], 16, 12, 11);
    (c.attention, c.block_size, c.shift) = (Attention::BlockCausal, 4, shift);
    c.policy = policy(json!({"kind": "threshold", "tau": 0.0}));
    c
}

fn finish(d: &mut Decoder, net: &mut HashNet) -> Vec<(u32, u32, CacheOp)> {
    let before = net.log.len();
    drive(d, |r| net.forward(r)).unwrap();
    let end = |r: &ForwardRequest| r.query_positions.last().unwrap() + 1;
    net.log[before..].iter().map(|r| (r.query_positions[0], end(r), r.cache)).collect()
}

/// Reopening drops the cache from the block's start, decodes it again, and later text stays as it is.
#[test]
fn reopen_in_a_block_causal_model() {
    let (mut d, mut net) = run(&block_causal(false), 1.0);
    let before = d.state().ids().to_vec();
    let record = d.reopen(&[9, 8]).unwrap();
    assert_eq!(record.actions.iter().map(|a| a.pos).collect::<Vec<_>>(), [8, 9]);
    assert_eq!((d.stop(), d.state().masked_left()), (None, 2));
    let got = finish(&mut d, &mut net);
    assert_eq!(got, [(8, 12, CacheOp::Truncate { keep: 8 })]);
    assert_eq!(net.log.last().unwrap().want.rows, [8, 9]);
    assert_eq!(d.state().ids()[10..], before[10..]);
    // later blocks reopened too: the block in between is stored again
    d.reopen(&[6, 13]).unwrap();
    use CacheOp::{None as Forget, Store, Truncate};
    let got = finish(&mut d, &mut net);
    assert_eq!(got, [(4, 8, Truncate { keep: 4 }), (4, 12, Store), (12, 16, Forget)]);
    assert_eq!(d.stop(), Some(Stop::Complete));
    assert_eq!(d.trajectory().replay().unwrap().last().unwrap(), d.state());
}

/// With the shift the row before the block is needed, so one block more is dropped and stored again.
#[test]
fn reopen_under_the_shift() {
    let (mut d, mut net) = run(&block_causal(true), 1.0);
    d.reopen(&[9]).unwrap();
    use CacheOp::{None as Forget, Store, Truncate};
    let got = finish(&mut d, &mut net);
    assert_eq!(got, [(4, 8, Truncate { keep: 4 }), (4, 8, Store), (8, 12, Forget)]);
    assert_eq!(d.ledger().refresh, 1);
}

#[test]
fn reopen_in_a_causal_model() {
    let mut c = DecodeConfig::new(vec![1, 2, 3], 9, 12, 11);
    (c.attention, c.shift, c.policy) = (Attention::Causal, true, Method::LeftToRight {}.into());
    let (mut d, mut net) = run(&c, 1.0);
    d.reopen(&[5, 6, 7, 8]).unwrap();
    let got = finish(&mut d, &mut net);
    use CacheOp::{Store, Truncate};
    assert_eq!(got, [(4, 5, Truncate { keep: 4 }), (4, 6, Store), (6, 7, Store), (7, 8, Store)]);
    // the very last token was never stored: its predecessor is computed again
    d.reopen(&[8]).unwrap();
    assert_eq!(finish(&mut d, &mut net), [(7, 8, Truncate { keep: 7 })]);
}

/// A reopened position is drawn anew: the step is part of the key.
#[test]
fn reopening_draws_again() {
    let mut c = DecodeConfig::new(vec![1], 33, 200, 199);
    c.temperature = 1.0;
    c.policy = policy(json!({"kind": "ancestral", "tokens_per_forward": 8}));
    let (mut d, mut net) = run(&c, 0.1);
    let before = d.state().ids().to_vec();
    d.reopen(&(1..33).collect::<Vec<_>>()).unwrap();
    finish(&mut d, &mut net);
    let same = before.iter().zip(d.state().ids()).filter(|(a, b)| a == b).count();
    assert!(same < 10, "{same}");
    // a block restarts its quota
    assert_eq!(d.ledger().denoise, 8);
}

#[test]
fn fix_and_unfix() {
    let (mut d, mut net) = run(&block_causal(false), 1.0);
    let old = d.state().id(9);
    let new = (old + 1) % 11;
    let record = d.fix(9, new).unwrap();
    assert_eq!(record.actions[0].old, old);
    // nothing is masked: the text is final, and the change is not undone by anything
    assert_eq!(d.next(), None);
    assert_eq!((d.state().id(9), d.state().status(9)), (new, Status::Fixed));
    assert_eq!(
        d.reopen(&[9]).unwrap_err(),
        DecodeError::WrongStatus { pos: 9, status: "fixed", needed: "written (unfix it first)" }
    );
    // the change makes its block's cache stale: it is stored again before the next block
    d.reopen(&[13]).unwrap();
    use CacheOp::{None as Forget, Store, Truncate};
    let got = finish(&mut d, &mut net);
    assert_eq!(got, [(8, 12, Truncate { keep: 8 }), (8, 12, Store), (12, 16, Forget)]);
    d.unfix(9).unwrap();
    assert_eq!((d.state().id(9), d.state().status(9)), (new, Status::Committed { step: 9, psi: 1.0 }));
    d.reopen(&[9]).unwrap();
    finish(&mut d, &mut net);
    assert_eq!(d.ledger().user, 4);
    assert_eq!(d.trajectory().replay().unwrap().last().unwrap(), d.state());
}

/// In the middle of decoding, between two forwards.
#[test]
fn operations_while_running() {
    let mut c = DecodeConfig::new(vec![1], 12, 12, 11);
    c.policy = policy(json!({"kind": "top_prob", "steps_per_block": 0}));
    let mut d = Decoder::new(c.clone()).unwrap();
    let mut net = HashNet::new(&c, 1.0);
    for _ in 0..3 {
        let r = d.next().unwrap();
        assert_eq!(d.fix(5, 2), Err(DecodeError::ForwardPending));
        assert_eq!(d.reopen(&[5]), Err(DecodeError::ForwardPending));
        d.apply(net.forward(&r)).unwrap();
    }
    let masked: Vec<u32> = (1..12).filter(|p| d.state().is_masked(*p)).collect();
    d.fix(masked[0], 2).unwrap();
    let written = (1..12).find(|p| matches!(d.state().status(*p), Status::Committed { .. })).unwrap();
    d.reopen(&[written, masked[1]]).unwrap();
    assert_eq!(d.state().masked_left(), 8);
    finish(&mut d, &mut net);
    assert_eq!((d.state().id(masked[0]), d.state().status(masked[0])), (2, Status::Fixed));
    assert_eq!(d.ledger().denoise, 3 + 8);
}

/// Positions filled after an early stop open together with whatever is reopened.
#[test]
fn reopen_after_an_early_stop() {
    let mut c = DecodeConfig::new(vec![1], 12, 12, 11);
    (c.block_size, c.eos_id, c.early_stop) = (4, Some(9), true);
    c.policy = policy(json!({"kind": "threshold", "tau": 0.0}));
    let mut d = Decoder::new(c).unwrap();
    let say = |token: u32| {
        move |r: &ForwardRequest| answer(r, |_| (0..12).map(|v| if v == token { 4.0 } else { 0.0 }).collect())
    };
    drive(&mut d, say(9)).unwrap();
    assert_eq!((d.stop(), d.state().status(11)), (Some(Stop::EarlyStop), Status::Filled));
    d.reopen(&[1, 2, 3]).unwrap();
    assert_eq!(d.state().masked_left(), 11);
    drive(&mut d, say(3)).unwrap();
    assert_eq!(d.state().ids(), [1, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3]);
    assert_eq!(d.stop(), Some(Stop::Complete));
}

#[test]
fn refused_operations_change_nothing() {
    let (mut d, _) = run(&block_causal(true), 1.0);
    let before = d.trajectory();
    assert_eq!(d.fix(2, 1), Err(DecodeError::PromptPosition { pos: 2 }));
    assert_eq!(d.fix(16, 1), Err(DecodeError::PositionOutOfRange { pos: 16, length: 16 }));
    assert_eq!(d.fix(9, 11), Err(DecodeError::ForbiddenToken { id: 11 }));
    let out = DecodeError::IdOutOfRange { what: "fixed token", id: 12, vocab: 12 };
    assert_eq!(d.fix(9, 12), Err(out));
    assert_eq!(d.reopen(&[9, 2]), Err(DecodeError::PromptPosition { pos: 2 }));
    assert_eq!(d.reopen(&[9, 99]), Err(DecodeError::PositionOutOfRange { pos: 99, length: 16 }));
    assert_eq!(d.unfix(9), Err(DecodeError::WrongStatus { pos: 9, status: "written", needed: "fixed" }));
    assert_eq!(d.unfix(0), Err(DecodeError::PromptPosition { pos: 0 }));
    assert_eq!(d.apply(RowStats::default()), Err(DecodeError::NoForwardPending));
    assert_eq!(d.trajectory(), before);
}
