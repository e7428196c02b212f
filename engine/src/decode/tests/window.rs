//! Multi-block editing: identities of `methods/llada21_editing.md` (second part, 5), and what its passes see and keep.

use super::*;
use crate::decode::policy::Fired;
use serde_json::{Value, json};

fn config(attention: Attention, shift: bool, more: Value) -> DecodeConfig {
    let mut spec = json!({"kind": "edit", "tau_mask": 0.4, "tau_edit": 0.25, "max_returns": null});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut c = DecodeConfig::new(vec![3, 1, 4], 31, 12, 11);
    c.fixed = vec![(9, 5), (14, 2)];
    (c.attention, c.block_size, c.shift, c.policy) = (attention, 8, shift, policy(spec));
    c
}

fn passes(d: &Decoder) -> Vec<&StepRecord> {
    let window =
        |s: &&StepRecord| s.rule.as_ref().is_some_and(|r| matches!(r.selection, Fired::Window { .. }));
    d.steps().iter().filter(window).collect()
}

/// A window of one block, or one without passes, is LLaDA 2.1's own editing, record by record.
#[test]
fn one_block_is_no_window() {
    for (attention, shift) in
        [(Attention::BlockCausal, false), (Attention::BlockCausal, true), (Attention::Bidirectional, false)]
    {
        let plain = run(&config(attention, shift, json!({})), 2.0).0;
        for more in [json!({"window": 1, "window_passes": 9}), json!({"window": 3, "window_passes": 0})] {
            let d = run(&config(attention, shift, more), 2.0).0;
            assert_eq!((d.steps(), d.ledger()), (plain.steps(), plain.ledger()));
        }
    }
}

/// Under block-causal attention a finished block read again says what it said: the window's passes see later blocks, which is
/// why they edit. A net that looks at nothing but its own block edits nothing in them.
#[test]
fn only_what_is_seen_anew_is_edited() {
    let c = config(Attention::BlockCausal, false, json!({"window": 2, "max_post": 64, "tau_edit": 0.0}));
    let mut d = Decoder::new(c.clone()).unwrap();
    // what a row of a block says depends on the block's written tokens alone: it settles once all are written
    drive(&mut d, |r| {
        answer(r, |p| {
            let block = r.query_positions.iter().zip(&r.ids).filter(|(q, _)| **q / 8 == p / 8);
            let open = block.filter(|(_, id)| **id == 11).count() as u32;
            (0..12)
                .map(|v| {
                    if v == 11 {
                        f32::NEG_INFINITY
                    } else if v == (p + open) % 11 {
                        6.0
                    } else {
                        0.0
                    }
                })
                .collect()
        })
    })
    .unwrap();
    let seen = passes(&d);
    // one confirming pass for each of the blocks behind the first
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|s| s.actions.is_empty()));
    assert_eq!(d.state().masked_left(), 0);
}

/// Passes compute the window alone behind the blocks before it, under joint attention, edit only its blocks, and keep nothing:
/// the next block's store pass computes everything from the window on, so that what is cached is what the text is.
#[test]
fn passes_see_the_window_and_leave_the_cache_exact() {
    for shift in [false, true] {
        let mut edits = 0;
        for seed in 0..8 {
            let mut c = config(Attention::BlockCausal, shift, json!({"window": 2, "window_passes": 4}));
            (c.seed, c.temperature, c.prompt[0]) = (seed, 1.0, seed as u32);
            let (d, net) = run(&c, 2.0);
            let joint: Vec<&ForwardRequest> =
                net.log.iter().filter(|r| r.rule.base == Base::Bidirectional).collect();
            let seen = passes(&d);
            assert_eq!(joint.len(), seen.len());
            assert!(!seen.is_empty());
            for (r, s) in joint.iter().zip(&seen) {
                let Some(Fired::Window { first, blocks, .. }) = s.rule.as_ref().map(|r| r.selection.clone())
                else {
                    unreachable!()
                };
                assert_eq!((first + 1, blocks), (s.block, 2));
                let range = first * 8..(8 * s.block + 8).min(31);
                assert_eq!(r.query_positions, range.clone().collect::<Vec<u32>>());
                assert!(matches!(r.cache, CacheOp::None | CacheOp::Truncate { .. }));
                for a in &s.actions {
                    assert!(a.kind == ActionKind::Edit && range.contains(&a.pos) && a.pos > 2);
                    assert!(a.pos != 9 && a.pos != 14);
                    // nothing has read the token that stands first in the window
                    assert!(!shift || a.pos != range.start);
                    edits += 1;
                }
            }
            // what the last block was written behind is what stands there
            let last = net.log.iter().rposition(|r| r.cache == CacheOp::Store).unwrap();
            let stored: Vec<(u32, u32)> =
                net.log[last].query_positions.iter().copied().zip(net.log[last].ids.clone()).collect();
            let after = d.trajectory().replay().unwrap();
            let text = &after[last + 1];
            assert!(stored.iter().all(|(p, id)| text.id(*p) == *id));
            assert_eq!(d.trajectory().replay().unwrap().pop().unwrap(), *d.state());
            assert_eq!(
                d.ledger().denoise as usize,
                net.log.iter().filter(|r| !r.want.rows.is_empty()).count()
            );
        }
        assert!(edits > 10, "shift {shift}: {edits}");
    }
}

/// A net that always prefers another token takes all passes and stops.
#[test]
fn passes_are_bounded() {
    for most in [1, 3, 5] {
        let c = config(
            Attention::BlockCausal,
            false,
            json!({"window": 2, "window_passes": most, "max_post": 1, "tau_edit": 0.0}),
        );
        let mut d = Decoder::new(c).unwrap();
        drive(&mut d, |r| {
            let at = |p: u32| r.query_positions.binary_search(&p).map_or(0, |i| r.ids[i]);
            answer(r, |p| {
                (0..12)
                    .map(|v| {
                        if v == (at(p) + 1) % 11 {
                            9.0
                        } else if v == 11 {
                            f32::NEG_INFINITY
                        } else {
                            0.0
                        }
                    })
                    .collect()
            })
        })
        .unwrap();
        assert_eq!(passes(&d).len() as u32, 3 * most);
        assert_eq!(d.state().masked_left(), 0);
    }
}

/// By surprisal the blocks between are computed and stay; a block that was written surely is not opened again.
#[test]
fn the_most_uncertain_block_is_opened() {
    let mut c = DecodeConfig::new(vec![0], 32, 12, 11);
    (c.block_size, c.attention) = (8, Attention::BlockCausal);
    c.policy = policy(
        json!({"kind": "edit", "tau_mask": 0.5, "tau_edit": 0.0, "window": 2, "window_by": "surprisal"}),
    );
    let mut d = Decoder::new(c).unwrap();
    // block 1 is written in doubt; once block 3 is there every row but those of block 2 prefers another token
    drive(&mut d, |r| {
        let far = r.rule.base == Base::Bidirectional;
        answer(r, |p| {
            let sure = if p / 8 == 1 { 2.0 } else { 9.0 };
            let token = if far && r.query_positions.contains(&31) { 2 } else { 1 };
            (0..12)
                .map(|v| {
                    if v == 11 {
                        f32::NEG_INFINITY
                    } else if v == token {
                        sure
                    } else {
                        0.0
                    }
                })
                .collect()
        })
    })
    .unwrap();
    let seen = passes(&d);
    let firsts: Vec<(u32, u32)> = seen
        .iter()
        .map(|s| match s.rule.as_ref().unwrap().selection {
            Fired::Window { first, .. } => (first, s.block),
            _ => unreachable!(),
        })
        .collect();
    assert_eq!(firsts, [(1, 2), (1, 3), (1, 3)]);
    assert_eq!(seen[1].actions.len(), 16);
    assert!(d.state().ids()[16..24].iter().all(|id| *id == 1));
    assert!(d.state().ids()[8..16].iter().chain(&d.state().ids()[24..]).all(|id| *id == 2));
}

/// What is said to be settled never changes afterwards, whatever a window reaches back to.
#[test]
fn settled_text_stays() {
    for by in ["adjacent", "surprisal"] {
        for seed in 0..6 {
            let mut c =
                config(Attention::BlockCausal, false, json!({"window": 2, "window_by": by, "tau_edit": 0.0}));
            (c.seed, c.temperature) = (seed, 1.0);
            let mut d = Decoder::new(c.clone()).unwrap();
            let mut net = HashNet::new(&c, 2.0);
            let mut settled: Vec<u32> = Vec::new();
            while let Some(r) = d.next() {
                d.apply(net.forward(&r)).unwrap();
                assert_eq!(d.state().ids()[..settled.len()], settled[..], "{by} {seed}");
                settled = d.state().ids()[..d.settled() as usize].to_vec();
            }
            assert_eq!(settled.len(), 31);
        }
    }
}

/// A change by the user ends a window, and the text goes on.
#[test]
fn a_change_ends_a_window() {
    let c = config(Attention::BlockCausal, true, json!({"window": 2}));
    let mut d = Decoder::new(c.clone()).unwrap();
    let mut net = HashNet::new(&c, 2.0);
    while passes(&d).is_empty() {
        let r = d.next().unwrap();
        d.apply(net.forward(&r)).unwrap();
    }
    d.fix(5, 6).unwrap();
    d.reopen(&[4]).unwrap();
    drive(&mut d, |r| net.forward(r)).unwrap();
    assert_eq!((d.state().id(5), d.state().masked_left()), (6, 0));
    d.trajectory().replay().unwrap();
}

/// An end of text that a window may still take away ends the text only afterwards.
#[test]
fn an_early_end_waits_for_the_window() {
    let mut c = DecodeConfig::new(vec![0], 24, 12, 11);
    (c.block_size, c.attention, c.eos_id, c.early_stop) = (8, Attention::BlockCausal, Some(7), true);
    c.policy = policy(json!({"kind": "edit", "tau_mask": 0.5, "tau_edit": 0.0, "window": 2}));
    let decode = |taken: bool| {
        let mut d = Decoder::new(c.clone()).unwrap();
        drive(&mut d, |r| {
            let far = r.rule.base == Base::Bidirectional;
            answer(r, |p| {
                let token = if p == 12 && !(far && taken) { 7 } else { 1 };
                (0..12)
                    .map(|v| {
                        if v == 11 {
                            f32::NEG_INFINITY
                        } else if v == token {
                            9.0
                        } else {
                            0.0
                        }
                    })
                    .collect()
            })
        })
        .unwrap();
        (d.stop(), d.state().id(12), d.state().status(23))
    };
    assert_eq!(decode(false), (Some(Stop::EarlyStop), 7, Status::Filled));
    let (stop, id, last) = decode(true);
    assert_eq!((stop, id), (Some(Stop::Complete), 1));
    assert!(matches!(last, Status::Committed { .. }));
}

/// What a window cannot be combined with is refused by name.
#[test]
fn windows_refuse_other_texts() {
    for more in [json!({"window": 2, "guidance": 1.0}), json!({"window": 2, "cache": "prefix"})] {
        let refused = Decoder::new(config(Attention::Bidirectional, false, more)).unwrap_err().to_string();
        assert!(refused.contains("window = 1"), "{refused}");
    }
}
