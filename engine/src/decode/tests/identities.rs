//! Identities that hold exactly (`methods/decoding.md` 5.1).

use super::*;
use serde_json::json;

fn config(block_size: u32) -> DecodeConfig {
    let mut c = DecodeConfig::new(vec![3, 1], 19, 12, 11);
    c.fixed = vec![(7, 5), (12, 2)];
    c.block_size = block_size;
    c
}

/// Fixed steps with as many steps as masks, threshold 1, factor 0, entropy bound below 0: one best token a step.
#[test]
fn four_ways_to_write_one_token_at_a_time() {
    for (score, block, temperature) in
        [("top_prob", 0, 0.0), ("top_prob", 8, 0.7), ("margin", 8, 0.0), ("entropy", 0, 1.0)]
    {
        let mut specs = vec![
            policy(json!({"kind": "top_prob", "steps_per_block": 0, "score": score})),
            policy(json!({"kind": "top_prob", "steps_per_block": 99, "score": score})),
            policy(json!({"kind": "threshold", "tau": 1.0, "score": score})),
            policy(json!({"kind": "entropy_bound", "gamma": -0.01, "score": score})),
            policy(json!({"kind": "hierarchical", "tau": 1.0, "tau_low": 1.0, "score": score})),
            policy(json!({"kind": "edit", "tau_mask": 1.0, "tau_edit": null, "score": score})),
        ];
        if score == "top_prob" {
            specs.push(policy(json!({"kind": "factor", "f": 0.0})));
        }
        let traces: Vec<Vec<(u32, u32)>> = specs
            .iter()
            .map(|spec| {
                let mut c = config(block);
                (c.policy, c.temperature) = (*spec, temperature);
                let (d, _) = run(&c, 4.0);
                assert_eq!(d.ledger().denoise, 15, "{spec:?}");
                actions(&d)
                    .iter()
                    .map(|a| {
                        assert_eq!(a.len(), 1);
                        (a[0].pos, a[0].new)
                    })
                    .collect()
            })
            .collect();
        for (t, spec) in traces.iter().zip(&specs) {
            assert_eq!(t, &traces[0], "{spec:?}");
        }
    }
}

/// Confidences that round to 1 in f32 still give one token a forward at tau = 1.
#[test]
fn threshold_one_is_strict_even_for_certain_rows() {
    let mut c = config(0);
    c.policy = policy(json!({"kind": "threshold", "tau": 1.0}));
    let (d, _) = run(&c, 400.0);
    assert!(d.steps().iter().all(|s| s.actions.len() == 1));
    assert!(d.steps().iter().flat_map(|s| &s.actions).any(|a| a.p == 1.0));
}

/// tau = 0 writes each block in one forward: the argmax of the all-mask forward.
#[test]
fn threshold_zero_takes_one_step_per_block() {
    let mut c = config(8);
    c.policy = policy(json!({"kind": "threshold", "tau": 0.0}));
    let (d, _) = run(&c, 2.0);
    assert_eq!(d.ledger().denoise, 3);
    for step in d.steps() {
        for (row, a) in step.rows.iter().filter(|r| r.score.is_some()).zip(&step.actions) {
            assert_eq!((row.pos, row.candidate), (a.pos, a.new));
        }
    }
}

/// Hierarchical with low >= tau is threshold; with tau = 1 and low = 0 each forward writes the best of every run of masks.
#[test]
fn hierarchical_between_threshold_and_one_a_run() {
    for score in ["top_prob", "entropy"] {
        let mut c = config(8);
        for (tau, low) in [(0.3, 0.3), (0.3, 0.8), (0.0, 0.0), (1.0, 1.0)] {
            c.policy = policy(json!({"kind": "threshold", "tau": tau, "score": score}));
            let want = actions(&run(&c, 2.0).0);
            c.policy = policy(json!({"kind": "hierarchical", "tau": tau, "tau_low": low, "score": score}));
            let mut got = actions(&run(&c, 2.0).0);
            got.iter_mut().flatten().zip(want.iter().flatten()).for_each(|(a, b)| a.margin = b.margin);
            assert_eq!(got, want, "{score} {tau} {low}");
        }
    }
    let mut c = config(0);
    c.policy = policy(json!({"kind": "hierarchical", "tau": 1.0, "tau_low": 0.0}));
    let (d, _) = run(&c, 2.0);
    for step in d.steps() {
        let masked: Vec<u32> = step.rows.iter().filter(|r| r.masked).map(|r| r.pos).collect();
        let runs: Vec<&[u32]> = masked.chunk_by(|a, b| a + 1 == *b).collect();
        let best = |run: &&[u32]| {
            let rows = step.rows.iter().filter(|r| run.contains(&r.pos));
            rows.fold(None, |m: Option<&trajectory::RowRecord>, r| m.filter(|m| m.p >= r.p).or(Some(r)))
                .unwrap()
                .pos
        };
        assert_eq!(
            step.actions.iter().map(|a| a.pos).collect::<Vec<_>>(),
            runs.iter().map(best).collect::<Vec<_>>()
        );
    }
    // three gaps of 5, 4 and 6: halved until nothing is left
    assert!(d.ledger().denoise <= 6, "{}", d.ledger().denoise);
}

/// PC-Sampler's order, recomputed from the record: each step writes the row of the largest score; frequent tokens and late
/// positions wait. A model without frequencies is refused in plain words, and a record is read without them.
#[test]
fn pc_writes_early_and_rare_tokens_first() {
    let mut c = config(0);
    c.policy = policy(json!({"kind": "top_prob", "steps_per_block": 0, "score": "pc"}));
    let refused = Decoder::new(c.clone()).unwrap_err();
    assert_eq!(refused, DecodeError::NoFrequencies);
    assert!(refused.to_string().contains("frequencies.json"), "{refused}");
    let counts = [1u64, 40, 2, 8, 0, 300, 5, 90, 3, 1, 700, 0];
    c.frequencies = Some(crate::data::Frequencies::of(&counts).unwrap());
    let (d, _) = run(&c, 2.0);
    let total: u64 = counts.iter().sum();
    for step in d.steps() {
        let score = |r: &trajectory::RowRecord| {
            let f = counts[r.candidate as usize].max(1) as f64 / total as f64;
            (-0.25 * (r.pos - 2) as f64).exp() * (-(r.p as f64) * f.ln()).min(10.0)
        };
        let best = step.rows.iter().map(score).fold(f64::NEG_INFINITY, f64::max);
        let written = step.rows.iter().find(|r| r.pos == step.actions[0].pos).unwrap();
        assert!(best - score(written) < 1e-4, "{best} {}", score(written));
    }
    let (mut even, plain) = (c.clone(), policy(json!({"kind": "top_prob", "steps_per_block": 0})));
    even.policy = plain;
    assert_ne!(actions(&run(&even, 2.0).0), actions(&d));
    let t = d.trajectory();
    let back: Trajectory = serde_json::from_str(&serde_json::to_string(&t).unwrap()).unwrap();
    assert!(back.header.config.frequencies.is_none());
    assert_eq!(back.replay().unwrap().pop().unwrap(), *d.state());
    assert_eq!(crate::decode::verify(&t, &back, 0.0).unwrap().divergence, None);
}

/// k_s = floor(m0 / S) + [s < m0 mod S], and S steps in all.
#[test]
fn quota_divides_the_masks() {
    let mut c = DecodeConfig::new(vec![1], 12, 9, 8);
    c.policy = policy(json!({"kind": "top_prob", "steps_per_block": 4}));
    let (d, _) = run(&c, 1.0);
    let sizes: Vec<usize> = d.steps().iter().map(|s| s.actions.len()).collect();
    assert_eq!(sizes, [3, 3, 3, 2]);
}

/// Entropy bound: sum minus maximum is at most gamma, and one more row would exceed it.
#[test]
fn entropy_bound_takes_the_largest_prefix() {
    let mut c = DecodeConfig::new(vec![1], 24, 9, 8);
    let gamma = 0.8f32;
    c.policy = policy(json!({"kind": "entropy_bound", "gamma": gamma}));
    (c.temperature, c.seed) = (1.0, 5);
    let (d, _) = run(&c, 5.0);
    let mut several = 0;
    for step in d.steps() {
        let mut h: Vec<f32> = step.rows.iter().map(|r| r.entropy).collect();
        h.sort_by(f32::total_cmp);
        let n = step.actions.len();
        // in entropy order the largest is the last, so the test is on the sum of those before it
        let before = |n: usize| h[..n.saturating_sub(1)].iter().sum::<f32>();
        assert!(before(n) <= gamma + 1e-3);
        assert!(n == h.len() || before(n + 1) > gamma - 1e-3);
        several += (n > 1) as usize;
    }
    assert!(several > 0);
}

/// Factor with f = 1: all n confidences above 1 - 1 / (n + 1) means the product's argmax is the joint's. Joint:
/// every token right except that exactly one of n is wrong with the rest of the mass.
#[test]
fn factor_stops_where_the_theorem_does() {
    // confidences 0.95, 0.9, 0.8, 0.7 and 3 (1 - .9) = .3, 4 (1 - .8) = .8, 5 (1 - .7) = 1.5
    let p = [0.95f32, 0.9, 0.8, 0.7];
    for (f, n) in [(0.0, 1), (0.29, 1), (0.31, 2), (0.79, 2), (0.81, 3), (1.0, 3), (1.6, 4)] {
        let mut c = DecodeConfig::new(vec![], 4, 3, 2);
        c.policy = policy(json!({"kind": "factor", "f": f}));
        let mut d = Decoder::new(c).unwrap();
        let request = d.next().unwrap();
        let event =
            d.apply(answer(&request, |pos| logits(&[p[pos as usize], 1.0 - p[pos as usize], 0.0]))).unwrap();
        assert_eq!(event.record.actions.len(), n, "f = {f}");
    }
}

/// Equal scores go to the lower position.
#[test]
fn ties_go_to_the_lower_position() {
    for spec in ["top_prob", "threshold", "entropy_bound"] {
        let mut c = DecodeConfig::new(vec![], 5, 4, 3);
        c.policy = match spec {
            "top_prob" => policy(json!({"kind": spec, "steps_per_block": 0})),
            "threshold" => policy(json!({"kind": spec, "tau": 1.0})),
            _ => policy(json!({"kind": spec, "gamma": -0.1})),
        };
        let mut d = Decoder::new(c).unwrap();
        drive(&mut d, |r| answer(r, |_| vec![1.0, 1.0, 0.0, f32::NEG_INFINITY])).unwrap();
        let order: Vec<(u32, u32)> = actions(&d).iter().map(|a| (a[0].pos, a[0].new)).collect();
        assert_eq!(order, [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)], "{spec}");
        assert!(d.steps().iter().flat_map(|s| &s.actions).all(|a| a.margin == 0.0));
    }
}

/// A batch is its single runs: the key is the request's own index, and interleaving changes nothing.
#[test]
fn a_batch_equals_its_single_runs() {
    let of = |sequence| {
        let mut c = config(8);
        (c.sequence, c.temperature, c.seed) = (sequence, 1.0, 9);
        c.policy = policy(json!({"kind": "ancestral"}));
        c
    };
    let alone: Vec<Trajectory> = (0..4).map(|s| run(&of(s), 1.0).0.trajectory()).collect();
    let mut batch: Vec<(Decoder, HashNet)> =
        (0..4).rev().map(|s| (Decoder::new(of(s)).unwrap(), HashNet::new(&of(s), 1.0))).collect();
    loop {
        let mut any = false;
        for (d, net) in &mut batch {
            if let Some(r) = d.next() {
                d.apply(net.forward(&r)).unwrap();
                any = true;
            }
        }
        if !any {
            break;
        }
    }
    for (d, _) in &batch {
        assert_eq!(d.trajectory(), alone[d.config().sequence as usize]);
    }
    assert_ne!(alone[0].footer.ids, alone[1].footer.ids);
}
