//! Draft, then refine: identities of `methods/diffusion_in_diffusion.md` 5.

use super::*;
use serde_json::json;

fn config(attention: Attention, gamma: f32) -> DecodeConfig {
    let mut c = DecodeConfig::new(vec![3, 1], 24, 12, 11);
    c.fixed = vec![(7, 5)];
    (c.attention, c.block_size, c.temperature, c.seed) = (attention, 4, 0.8, 3);
    c.policy = policy(json!({"kind": "draft_refine", "tau": 0.4, "gamma": gamma, "refine_tau": 0.3}));
    c
}

fn split(d: &Decoder) -> (Vec<Action>, Vec<Action>) {
    d.steps().iter().flat_map(|s| s.actions.clone()).partition(|a| a.kind == ActionKind::Remask)
}

/// gamma = 0 is the draft and costs what the draft costs; gamma = 1 keeps nothing of it.
#[test]
fn the_ends_of_gamma() {
    for attention in [Attention::Bidirectional, Attention::BlockCausal] {
        let mut plain = config(attention, 0.0);
        plain.policy = policy(json!({"kind": "threshold", "tau": 0.4}));
        let (draft, _) = run(&plain, 1.5);
        let (none, _) = run(&config(attention, 0.0), 1.5);
        assert_eq!((none.ledger(), none.state()), (draft.ledger(), draft.state()));
        let (all, _) = run(&config(attention, 1.0), 1.5);
        assert_eq!(all.ledger().remasks, 21);
        assert_eq!(all.state().masked_left(), 0);
    }
}

/// floor(gamma m) tokens, the least sure when they were written, are masked again; the others never change.
#[test]
fn the_least_sure_are_written_anew() {
    for attention in [Attention::Bidirectional, Attention::BlockCausal] {
        for gamma in [0.1f32, 0.25, 0.5] {
            let mut plain = config(attention, gamma);
            plain.policy = policy(json!({"kind": "threshold", "tau": 0.4}));
            let draft = run(&plain, 1.5).0;
            let (d, net) = run(&config(attention, gamma), 1.5);
            let (remasks, commits) = split(&d);
            let n = (gamma as f64 * 21.0) as usize;
            assert_eq!((remasks.len(), commits.len()), (n, 21 + n));
            let mut psi: Vec<(f32, u32)> = commits[..21].iter().map(|a| (a.p, a.pos)).collect();
            psi.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let least: Vec<u32> = psi[..n].iter().map(|p| p.1).collect();
            assert_eq!(remasks.iter().map(|a| a.pos).collect::<Vec<_>>(), least);
            for pos in 0..24 {
                if !least.contains(&pos) {
                    assert_eq!(d.state().id(pos), draft.state().id(pos));
                }
            }
            // the pass sees everything and caches nothing
            let last = net.log.last().unwrap();
            assert_eq!((last.query_positions.len(), last.rule.base), (24, Base::Bidirectional));
            d.trajectory().replay().unwrap();
        }
    }
}

/// Texts are 00 and 11; drafts write both tokens at once and are wrong half of the time, refined ones never.
#[test]
fn a_draft_of_independent_tokens_is_put_right() {
    let valid = |gamma: f32| {
        let mut right = 0;
        for sequence in 0..400 {
            let mut c = DecodeConfig::new(vec![], 2, 3, 2);
            (c.temperature, c.sequence) = (1.0, sequence);
            c.policy = policy(json!({"kind": "draft_refine", "tau": 0.0, "gamma": gamma}));
            let mut d = Decoder::new(c).unwrap();
            drive(&mut d, |r| {
                answer(r, |p| match r.ids[1 - p as usize] {
                    2 => logits(&[0.5, 0.5, 0.0]),
                    v => logits(&[1.0 - v as f32, v as f32, 0.0]).iter().map(|z| z.max(-30.0)).collect(),
                })
            })
            .unwrap();
            right += u32::from(d.state().id(0) == d.state().id(1));
        }
        right
    };
    assert!((150..250).contains(&valid(0.0)));
    assert_eq!(valid(0.5), 400);
}

/// An end of text in the draft: what was filled behind it is not refined, and the answer says that the text ended.
#[test]
fn a_draft_that_ends_early() {
    let mut c = DecodeConfig::new(vec![1], 12, 5, 4);
    (c.eos_id, c.early_stop, c.block_size, c.attention) = (Some(3), true, 4, Attention::BlockCausal);
    c.policy = policy(json!({"kind": "draft_refine", "gamma": 0.5}));
    let mut d = Decoder::new(c).unwrap();
    let end = |r: &ForwardRequest| {
        answer(r, |p| {
            if p == 5 { vec![0.0, 0.0, 0.0, 9.0] } else { vec![9.0, 0.0, 0.0, 0.0] }
                .into_iter()
                .chain([f32::NEG_INFINITY])
                .collect()
        })
    };
    assert_eq!(drive(&mut d, end).unwrap(), Some(Stop::EarlyStop));
    assert_eq!(d.state().ids()[4..8], [0, 3, 0, 0]);
    let filled = (0..12).filter(|p| d.state().status(*p) == Status::Filled).count();
    assert_eq!((d.ledger().remasks, filled), (3, 4));
    d.trajectory().replay().unwrap();
    // and can be changed afterwards
    d.reopen(&[2]).unwrap();
    drive(&mut d, end).unwrap();
    assert_eq!(d.state().masked_left(), 0);
}
