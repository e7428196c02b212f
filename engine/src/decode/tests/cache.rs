//! Which forwards are asked for, and that the exact cache is exact.

use super::*;
use serde_json::json;

fn ranges(net: &HashNet) -> Vec<(u32, u32, CacheOp)> {
    let end = |r: &ForwardRequest| r.query_positions.last().unwrap() + 1;
    net.log.iter().map(|r| (r.query_positions[0], end(r), r.cache)).collect()
}

fn block_causal(prompt: usize, length: u32) -> DecodeConfig {
    let mut c = DecodeConfig::new((0..prompt as u32).map(|i| i % 7).collect(), length, 12, 11);
    (c.attention, c.block_size) = (Attention::BlockCausal, 4);
    c.policy = policy(json!({"kind": "threshold", "tau": 0.0}));
    c
}

/// Prompt of 6 in blocks of 4: the complete block is cached, its tail heads the first generated block; the last
/// block is never stored.
#[test]
fn block_causal_requests() {
    let (d, net) = run(&block_causal(6, 15), 1.0);
    use CacheOp::{None as Forget, Store};
    let want =
        [(0, 4, Store), (4, 8, Forget), (4, 8, Store), (8, 12, Forget), (8, 12, Store), (12, 15, Forget)];
    assert_eq!(ranges(&net), want);
    assert_eq!(net.log[1].want.rows, [6, 7]);
    assert_eq!(net.log[1].ids[..2], [4, 5]);
    let l = d.ledger();
    assert_eq!((l.forwards, l.prefill, l.denoise, l.store), (6, 1, 3, 2));
    assert_eq!(l.positions, 4 + 4 * 4 + 3);
    let t = d.trajectory();
    assert_eq!(t.footer.tokens, 9);
    assert!((t.footer.tokens_per_forward - 9.0 / 5.0).abs() < 1e-12);
    assert_eq!(
        t.steps[2].cache,
        trajectory::CacheEvent { reused: 4, stored: Some((4, 8)), ..Default::default() }
    );
}

/// Without a complete prompt block there is no prefill; a block that is all fixed joins the next store pass.
#[test]
fn full_blocks_are_stored_together() {
    let mut c = block_causal(2, 16);
    c.fixed = (4..8).map(|p| (p, 3)).collect();
    let (d, net) = run(&c, 1.0);
    use CacheOp::{None as Forget, Store};
    assert_eq!(
        ranges(&net),
        [(0, 4, Forget), (0, 8, Store), (8, 12, Forget), (8, 12, Store), (12, 16, Forget)]
    );
    assert_eq!(d.ledger().prefill, 0);
    // text before the fixed block is written without seeing it
    assert_eq!(d.trajectory().header.unseen_fixed, [4, 5, 6, 7]);
}

/// Every denoising row of a cached run equals the row of the whole prefix without a cache.
#[test]
fn the_block_cache_is_exact() {
    for shift in [false, true] {
        let mut c = block_causal(6, 23);
        (c.shift, c.temperature, c.seed) = (shift, 1.0, 3);
        c.policy = policy(json!({"kind": "ancestral", "tokens_per_forward": 2}));
        let mut d = Decoder::new(c.clone()).unwrap();
        let mut net = HashNet::new(&c, 1.0);
        while let Some(r) = d.next() {
            let stats = net.forward(&r);
            if !r.want.rows.is_empty() {
                let end = r.query_positions.last().unwrap() + 1;
                let whole = ForwardRequest {
                    query_positions: (0..end).collect(),
                    ids: d.state().ids()[..end as usize].to_vec(),
                    cache: CacheOp::None,
                    compression: Default::default(),
                    ..r.clone()
                };
                assert_eq!(HashNet::new(&c, 1.0).forward(&whole), stats, "shift {shift}");
            }
            d.apply(stats).unwrap();
        }
        assert_eq!(d.state().masked_left(), 0);
    }
}

/// The first position of a block under the shift is read from the store pass of the block before.
#[test]
fn shift_reads_the_row_before_the_block() {
    let mut c = block_causal(4, 8);
    c.shift = true;
    let (_, net) = run(&c, 1.0);
    assert_eq!(ranges(&net), [(0, 4, CacheOp::Store), (4, 8, CacheOp::None)]);
    assert_eq!(net.log[1].want.rows, [4, 5, 6, 7]);

    c.prompt.clear();
    assert_eq!(Decoder::new(c.clone()).unwrap_err(), DecodeError::NothingBeforeFirst);
    c.fixed = vec![(0, 1)];
    let (_, net) = run(&c, 1.0);
    assert_eq!(net.log[0].want.rows, [1, 2, 3]);
    c.attention = Attention::Bidirectional;
    let (_, net) = run(&c, 1.0);
    assert_eq!(net.log[0].want.rows, (1..8).collect::<Vec<_>>());
}

/// A toy net that copies its hidden row's own token: with the shift, the text repeats the token before.
#[test]
fn shift_flag_on_a_copying_net() {
    let mut c = DecodeConfig::new(vec![5, 2], 6, 8, 7);
    (c.attention, c.shift) = (Attention::Causal, true);
    c.policy = Method::LeftToRight {}.into();
    let mut d = Decoder::new(c).unwrap();
    let mut text = vec![];
    drive(&mut d, |r| {
        r.query_positions.iter().zip(&r.ids).for_each(|(p, id)| {
            text.truncate(*p as usize);
            text.push(*id);
        });
        answer(r, |pos| {
            let before = text[pos as usize - 1];
            (0..8).map(|v| if v == before { 5.0 } else { 0.0 }).collect()
        })
    })
    .unwrap();
    assert_eq!(d.state().ids(), [5, 2, 2, 2, 2, 2]);
}

/// Autoregressive decoding: prefill with the first prediction, then one position a forward, the last not stored.
#[test]
fn causal_requests() {
    let mut c = DecodeConfig::new(vec![1, 2, 3], 7, 12, 11);
    (c.attention, c.shift, c.block_size) = (Attention::Causal, true, 4);
    c.policy = Method::LeftToRight {}.into();
    c.fixed = vec![(5, 9)];
    let (d, net) = run(&c, 1.0);
    use CacheOp::Store;
    assert_eq!(ranges(&net), [(0, 3, Store), (3, 4, Store), (4, 6, Store)]);
    let rows: Vec<u32> = net.log.iter().map(|r| r.want.rows[0]).collect();
    assert_eq!(rows, [3, 4, 6]);
    assert_eq!(d.state().id(5), 9);
    assert_eq!(d.trajectory().header.unseen_fixed, [5]);

    let mut bad = c.clone();
    bad.policy = PolicySpec::default();
    assert!(matches!(Decoder::new(bad), Err(DecodeError::Causal { .. })));
    let mut bad = c.clone();
    bad.max_steps = Some(4);
    assert!(matches!(Decoder::new(bad), Err(DecodeError::Causal { .. })));
    c.shift = false;
    assert!(matches!(Decoder::new(c), Err(DecodeError::Causal { .. })));
}

/// Bidirectional: all positions each forward, nothing cached, rows of later blocks are computed but not acted on.
#[test]
fn bidirectional_requests() {
    let mut c = block_causal(6, 12);
    c.attention = Attention::Bidirectional;
    let (d, net) = run(&c, 1.0);
    assert_eq!(ranges(&net), [(0, 12, CacheOp::None), (0, 12, CacheOp::None)]);
    assert_eq!(net.log[0].want.rows, [6, 7, 8, 9, 10, 11]);
    let first = &d.steps()[0];
    assert_eq!(first.rows.len(), 6);
    assert_eq!(first.rows.iter().filter(|r| r.score.is_some()).count(), 2);
    assert_eq!(first.actions.iter().map(|a| a.pos).collect::<Vec<_>>(), [6, 7]);
}

/// End-of-text in a finished block ends decoding; the rest is filled, and nothing more is computed.
#[test]
fn early_stop() {
    for attention in [Attention::Bidirectional, Attention::BlockCausal] {
        let mut c = block_causal(4, 16);
        (c.attention, c.eos_id, c.early_stop) = (attention, Some(9), true);
        c.fixed = vec![(13, 2)];
        let ends_at_6 = |r: &ForwardRequest| {
            answer(r, |pos| {
                (0..12).map(|v| if v == if pos == 6 { 9 } else { 1 } { 4.0 } else { 0.0 }).collect()
            })
        };
        let mut d = Decoder::new(c.clone()).unwrap();
        assert_eq!(drive(&mut d, ends_at_6).unwrap(), Some(Stop::EarlyStop));
        assert_eq!(d.state().ids()[4..], [1, 1, 9, 1, 9, 9, 9, 9, 9, 2, 9, 9]);
        assert_eq!(d.state().status(8), Status::Filled);
        assert_eq!((d.ledger().denoise, d.trajectory().footer.tokens), (1, 2));
        assert_eq!(d.trajectory().replay().unwrap().last().unwrap(), d.state());

        // a policy that revises waits until the block is final
        c.policy = policy(json!({"kind": "edit", "tau_mask": 0.0, "tau_edit": 0.0}));
        let mut d = Decoder::new(c.clone()).unwrap();
        drive(&mut d, ends_at_6).unwrap();
        assert_eq!((d.stop(), d.ledger().denoise), (Some(Stop::EarlyStop), 2));

        c.early_stop = false;
        let mut d = Decoder::new(c.clone()).unwrap();
        assert_eq!(drive(&mut d, ends_at_6).unwrap(), Some(Stop::Complete));
        c.eos_id = None;
        c.early_stop = true;
        assert_eq!(Decoder::new(c).unwrap_err(), DecodeError::NoEos);
    }
}

/// A driver that loses its cache in the middle, as when a graphics processor stops answering, writes the same text.
#[test]
fn a_lost_cache_is_computed_again() {
    for attention in [Attention::Bidirectional, Attention::BlockCausal, Attention::Causal] {
        for shift in [false, true] {
            let mut c = block_causal(6, 23);
            (c.attention, c.shift) = (attention, shift || attention == Attention::Causal);
            c.policy = match attention {
                Attention::Causal => policy(json!({"kind": "left_to_right"})),
                _ => policy(json!({"kind": "threshold", "tau": 0.3})),
            };
            let (whole, _) = run(&c, 1.0);
            let mut decoder = Decoder::new(c.clone()).unwrap();
            let mut net = HashNet::new(&c, 1.0);
            let mut answered = 0;
            while let Some(request) = decoder.next() {
                answered += 1;
                if answered % 4 == 0 {
                    decoder.forget_cache();
                    net = HashNet::new(&c, 1.0);
                    continue;
                }
                decoder.apply(net.forward(&request)).unwrap();
            }
            assert_eq!(decoder.state().ids(), whole.state().ids(), "{attention:?} {shift}");
            let written = |d: &Decoder| actions(d).into_iter().filter(|a| !a.is_empty()).collect::<Vec<_>>();
            assert_eq!(written(&decoder), written(&whole));
            decoder.trajectory().replay().unwrap();
        }
    }
}
