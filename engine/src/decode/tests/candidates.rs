//! Filters, penalties, guidance, end-of-text, the order's noise, and rows that have settled.

use super::*;
use crate::decode::policy::{Fired, PolicySpec};
use serde_json::json;

fn config(spec: serde_json::Value) -> DecodeConfig {
    let mut c = DecodeConfig::new(vec![3, 1], 19, 12, 11);
    c.fixed = vec![(7, 5), (12, 2)];
    (c.block_size, c.policy, c.eos_id) = (8, policy(spec), Some(4));
    c
}

fn texts(decoder: &Decoder) -> Vec<(u32, u32)> {
    actions(decoder).iter().flatten().map(|a| (a.pos, a.new)).collect()
}

/// One token to draw from is the most probable one, however it comes about.
#[test]
fn a_filter_of_one_is_greedy() {
    let greedy = run(&config(json!({"kind": "top_prob"})), 2.0).0;
    for filter in [json!({"top_k": 1}), json!({"top_p": 1e-6}), json!({"top_k": 5, "top_p": 0.01})] {
        let mut spec = filter.clone();
        spec["kind"] = json!("top_prob");
        let mut c = config(spec);
        c.temperature = 1.0;
        assert_eq!(texts(&run(&c, 2.0).0), texts(&greedy), "{filter}");
    }
    // at temperature 0 a filter has nothing to do, and asks for nothing
    let (_, net) = run(&config(json!({"kind": "top_prob", "top_k": 3})), 2.0);
    assert!(net.log.iter().all(|r| r.want.whole.is_empty()));
}

/// A filter that keeps everything changes nothing, though it goes another way.
#[test]
fn a_filter_of_everything_is_none() {
    for confidence in ["raw", "drawn"] {
        let mut plain = config(json!({"kind": "threshold", "tau": 0.4, "confidence": confidence}));
        let mut all =
            config(json!({"kind": "threshold", "tau": 0.4, "confidence": confidence, "top_p": 1.0}));
        (plain.temperature, all.temperature) = (0.8, 0.8);
        let ((a, _), (b, net)) = (run(&plain, 2.0), run(&all, 2.0));
        assert_eq!(texts(&a), texts(&b));
        assert!(net.log.iter().any(|r| !r.want.whole.is_empty()));
    }
}

/// Only tokens of the nucleus are drawn, and `drawn` confidences are those of the nucleus.
#[test]
fn the_nucleus_is_kept() {
    let mut c = config(json!({"kind": "ancestral", "top_p": 0.6}));
    (c.temperature, c.top_k) = (1.0, 8);
    for seed in 0..20 {
        c.seed = seed;
        for step in run(&c, 1.5).0.steps() {
            for a in &step.actions {
                let row = step.rows.iter().find(|r| r.pos == a.pos).unwrap();
                let rank = row.top.iter().position(|t| t.0 == a.new).unwrap();
                let before: f32 = row.top[..rank].iter().map(|t| t.1).sum();
                assert!(before < 0.6 + 1e-4, "{before}");
                assert!(a.logq.exp() + 1e-4 >= a.p);
            }
        }
    }
}

/// w = 0 takes one forward a step and is the plain decoding; w = -1 does not read the prompt.
#[test]
fn guidance_identities() {
    for (attention, shift) in
        [(Attention::Bidirectional, false), (Attention::BlockCausal, false), (Attention::BlockCausal, true)]
    {
        let of = |w: f32, prompt: Vec<u32>| {
            let mut c = config(json!({"kind": "threshold", "tau": 0.3, "guidance": w}));
            (c.attention, c.shift, c.prompt) = (attention, shift, prompt);
            run(&c, 2.0)
        };
        let plain = {
            let mut c = config(json!({"kind": "threshold", "tau": 0.3}));
            (c.attention, c.shift) = (attention, shift);
            run(&c, 2.0).0
        };
        let (zero, _) = of(0.0, vec![3, 1]);
        assert_eq!((zero.ledger(), texts(&zero)), (plain.ledger(), texts(&plain)));
        let (alone, net) = of(-1.0, vec![3, 1]);
        assert_eq!(texts(&alone), texts(&of(-1.0, vec![6, 9]).0), "{attention:?} {shift}");
        assert_ne!(texts(&alone), texts(&plain));
        assert_eq!(alone.ledger().guide, alone.ledger().denoise);
        // the pair: the same positions, the prompt masked in the first
        for pair in net.log.chunks(2) {
            assert_eq!(pair[0].query_positions, pair[1].query_positions);
            assert_eq!((pair[0].ids[..2].to_vec(), pair[1].ids[..2].to_vec()), (vec![11, 11], vec![3, 1]));
            assert_eq!(pair[0].ids[2..], pair[1].ids[2..]);
            assert_eq!(
                (pair[0].want.rows.len(), pair[0].want.whole.clone()),
                (0, pair[1].want.whole.clone())
            );
        }
        // a stronger prompt: z_u + 2 (z_c - z_u), by hand, in the first forward
        let (guided, _) = of(1.0, vec![3, 1]);
        let step = guided.steps().iter().find(|s| s.kind == StepKind::Denoise).unwrap();
        assert!(step.rows.iter().filter(|r| r.score.is_some()).count() > 0);
        assert_ne!(texts(&guided), texts(&plain));
    }
}

/// A change by the user between the two forwards of a pair begins the pair anew.
#[test]
fn a_change_between_a_pair_is_seen() {
    let c = config(json!({"kind": "threshold", "guidance": 1.0}));
    let mut d = Decoder::new(c.clone()).unwrap();
    let mut net = HashNet::new(&c, 1.0);
    let first = d.next().unwrap();
    d.apply(net.forward(&first)).unwrap();
    d.fix(4, 6).unwrap();
    let again = d.next().unwrap();
    assert_eq!((again.ids[4], again.want.rows.len()), (6, 0));
    drive(&mut d, |r| net.forward(r)).unwrap();
    d.trajectory().replay().unwrap();
}

/// A net that wants token 1 everywhere, token 2 a little less: with the penalty no two neighbours are equal.
#[test]
fn repetition_is_penalised_near() {
    let decode = |spec| {
        let mut c = DecodeConfig::new(vec![0], 12, 5, 4);
        c.policy = policy(spec);
        let mut d = Decoder::new(c).unwrap();
        drive(&mut d, |r| answer(r, |_| vec![0.0, 2.0, 1.5, 1.0, f32::NEG_INFINITY])).unwrap();
        d.state().ids().to_vec()
    };
    let plain = decode(json!({"kind": "left_to_right"}));
    assert_eq!(plain[1..], [1; 11]);
    let near = decode(json!({"kind": "left_to_right", "repetition": 5.0}));
    assert_eq!(near[1..7], [1, 2, 1, 2, 1, 2]);
    let wide = decode(json!({"kind": "left_to_right", "repetition": 5.0, "repetition_window": 2}));
    assert_eq!(wide[1..7], [1, 2, 3, 1, 2, 3]);
    // from right to left there is nothing on the left
    let right = |side: &str| {
        let mut c = DecodeConfig::new(vec![0], 12, 5, 4);
        c.fixed = vec![(11, 2)];
        c.policy = policy(json!({"kind": "left_to_right", "repetition": 5.0, "repetition_side": side}));
        let mut d = Decoder::new(c).unwrap();
        drive(&mut d, |r| answer(r, |_| vec![0.0, 2.0, 1.5, 1.0, f32::NEG_INFINITY])).unwrap();
        d.state().id(10)
    };
    // behind a 1 stands a 2, unless the 2 that follows counts too: then a 3
    assert_eq!((right("left"), right("both")), (2, 3));
}

/// A net that ends the text everywhere but at positions 5 and 6.
#[test]
fn end_of_text_waits_or_never_comes() {
    let decode = |spec| {
        let mut c = DecodeConfig::new(vec![0], 8, 5, 4);
        (c.policy, c.eos_id) = (policy(spec), Some(3));
        let mut d = Decoder::new(c).unwrap();
        drive(&mut d, |r| {
            answer(r, |p| match p {
                5 | 6 => vec![0.0, 1.0, 0.0, 0.0, f32::NEG_INFINITY],
                _ => vec![0.0, 0.0, 1.0, 9.0, f32::NEG_INFINITY],
            })
        })
        .unwrap();
        (texts(&d), d.state().ids().to_vec())
    };
    for kind in ["top_prob", "threshold", "entropy_bound", "factor", "klass"] {
        let (order, ids) = decode(json!({"kind": kind, "eos": "last"}));
        assert_eq!(order[..2], [(5, 1), (6, 1)], "{kind}");
        assert_eq!(ids[1..], [3, 3, 3, 3, 1, 1, 3]);
        let (order, _) = decode(json!({"kind": kind}));
        assert_eq!(order[0], (1, 3), "{kind}");
        let (_, ids) = decode(json!({"kind": kind, "eos": "never"}));
        assert_eq!(ids[1..], [2, 2, 2, 2, 1, 1, 2], "{kind}");
    }
    let mut c = DecodeConfig::new(vec![0], 8, 5, 4);
    for eos in ["last", "never"] {
        c.policy = policy(json!({"kind": "threshold", "eos": eos}));
        assert_eq!(Decoder::new(c.clone()).unwrap_err(), DecodeError::EosControl { eos });
    }
}

/// The first position of an order without replacement has probability softmax(score / alg_temp).
#[test]
fn the_order_is_drawn_from_its_softmax() {
    let p = [0.9f32, 0.6, 0.5];
    let (t, n) = (0.4f64, 4000);
    let mut counts = [0.0; 3];
    for sequence in 0..n {
        let mut c = DecodeConfig::new(vec![], 3, 3, 2);
        c.policy = policy(json!({"kind": "top_prob", "steps_per_block": 0, "alg_temp": t}));
        (c.seed, c.sequence) = (3, sequence);
        let mut d = Decoder::new(c).unwrap();
        let request = d.next().unwrap();
        let at = |pos: u32| logits(&[p[pos as usize], 1.0 - p[pos as usize], 0.0]);
        let event = d.apply(answer(&request, at)).unwrap();
        counts[event.record.actions[0].pos as usize] += 1.0 / n as f64;
    }
    let sum: f64 = p.iter().map(|p| (*p as f64 / t).exp()).sum();
    for (got, p) in counts.iter().zip(p) {
        let want = (p as f64 / t).exp() / sum;
        assert!((got - want).abs() < 5.0 * (want / n as f64).sqrt(), "{counts:?}");
    }
}

/// Dream's grid over 4 steps of 16 masks: t = 1, .75025, .5005, .25075, .001.
#[test]
fn dreams_grid() {
    let mut c = DecodeConfig::new(vec![1], 17, 9, 8);
    c.policy = policy(json!({"kind": "top_prob", "steps_per_block": 4, "schedule": "dream"}));
    let sizes: Vec<usize> = run(&c, 1.0).0.steps().iter().map(|s| s.actions.len()).collect();
    // 16 (1 - .75025) = 3.996, 13 (1 - .66711) = 4.3, 9 (1 - .501) = 4.5, all
    assert_eq!(sizes, [3, 4, 4, 5]);
}

/// With eps = 0 nothing settles: one token a forward. With a net that never changes its mind all rows above tau are
/// written in forward history + 1, the others one by one.
#[test]
fn settled_rows() {
    let mut c = config(json!({"kind": "klass", "epsilon": 0.0, "tau": 0.0}));
    let one = {
        let mut c = c.clone();
        c.policy = policy(json!({"kind": "threshold", "tau": 1.0}));
        texts(&run(&c, 3.0).0)
    };
    assert_eq!(texts(&run(&c, 3.0).0), one);

    let constant =
        |p: u32| if p < 6 { vec![5.0, 0.0, 0.0, 0.0] } else { vec![1.0, 0.9, 0.0, f32::NEG_INFINITY] };
    for history in [1u32, 2, 3] {
        c = DecodeConfig::new(vec![1], 9, 4, 3);
        c.policy = policy(json!({"kind": "klass", "tau": 0.9, "epsilon": 0.001, "history": history}));
        let mut d = Decoder::new(c).unwrap();
        drive(&mut d, |r| answer(r, constant)).unwrap();
        let sizes: Vec<usize> = d.steps().iter().map(|s| s.actions.len()).collect();
        let mut want = vec![1; history as usize];
        want.push(5 - history as usize);
        want.extend([1; 3]);
        assert_eq!(sizes, want);
        let fired = &d.steps()[history as usize].rule.as_ref().unwrap().selection;
        assert!(matches!(fired, Fired::Klass { ready, .. } if *ready == 5 - history));
    }
}

/// A block begins without history.
#[test]
fn history_begins_with_the_block() {
    let mut c = DecodeConfig::new(vec![1], 12, 4, 3);
    (c.block_size, c.attention) = (4, Attention::BlockCausal);
    c.policy = policy(json!({"kind": "klass", "tau": 0.5, "epsilon": 0.001, "history": 1}));
    let mut d = Decoder::new(c).unwrap();
    drive(&mut d, |r| answer(r, |_| vec![5.0, 0.0, 0.0, f32::NEG_INFINITY])).unwrap();
    let sizes: Vec<usize> =
        d.steps().iter().filter(|s| s.kind == StepKind::Denoise).map(|s| s.actions.len()).collect();
    assert_eq!(sizes, [1, 2, 1, 3, 1, 3]);
}

/// With `carry` what later blocks thought before counts: a net that never changes its mind has settled there long ago, and the
/// block's n-th forward is the first that may write it. Where only the block is computed nothing is carried.
#[test]
fn history_may_go_over_to_later_blocks() {
    let decode = |attention, history: u32, carry: bool| {
        let mut c = DecodeConfig::new(vec![1], 12, 4, 3);
        (c.block_size, c.attention) = (4, attention);
        c.policy = policy(
            json!({"kind": "klass", "tau": 0.5, "epsilon": 0.001, "history": history, "carry": carry}),
        );
        let mut d = Decoder::new(c).unwrap();
        let mut whole = Vec::new();
        drive(&mut d, |r| {
            whole.push(r.want.whole.len());
            answer(r, |_| vec![5.0, 0.0, 0.0, f32::NEG_INFINITY])
        })
        .unwrap();
        let steps = d.steps().iter().filter(|s| s.kind == StepKind::Denoise);
        (steps.map(|s| s.actions.len()).collect::<Vec<usize>>(), whole[0])
    };
    let one = Attention::Bidirectional;
    assert_eq!(decode(one, 1, false), (vec![1, 2, 1, 3, 1, 3], 3));
    assert_eq!(decode(one, 1, true), (vec![1, 2, 4, 4], 11));
    assert_eq!(decode(one, 2, true), (vec![1, 1, 1, 1, 3, 1, 3], 11));
    for history in [1, 2, 3] {
        let (a, b) =
            (decode(Attention::BlockCausal, history, false), decode(Attention::BlockCausal, history, true));
        assert_eq!(a, b);
    }
}

/// Logits that are missing or no numbers are refused, and the forward stays pending.
#[test]
fn unusable_logits_are_named() {
    let c = config(json!({"kind": "klass"}));
    let mut d = Decoder::new(c.clone()).unwrap();
    let r = d.next().unwrap();
    let good = HashNet::new(&c, 1.0).forward(&r);
    let mut bad = good.clone();
    bad.logits.pop();
    assert!(matches!(d.apply(bad).unwrap_err(), DecodeError::LogitCount { .. }));
    let mut bad = good.clone();
    bad.logits[2] = f32::NAN;
    assert!(matches!(d.apply(bad).unwrap_err(), DecodeError::BadRow { field: "logit", pos: 2, .. }));
    d.apply(good).unwrap();
}

/// Everything about candidates travels in the policy's own object.
#[test]
fn candidates_are_part_of_the_policy() {
    let spec = policy(json!({"kind": "factor", "top_p": 0.9, "eos": "last"}));
    let text = serde_json::to_string(&spec).unwrap();
    assert!(text.contains("\"top_p\":0.9") && text.contains("\"kind\":\"factor\""), "{text}");
    assert_eq!(serde_json::from_str::<PolicySpec>(&text).unwrap(), spec);
    assert!(serde_json::from_value::<PolicySpec>(json!({"kind": "factor", "top_q": 1})).is_err());
    assert!(serde_json::from_value::<PolicySpec>(json!({"kind": "factor", "eos": "first"})).is_err());
}
