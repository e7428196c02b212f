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

/// Controls: the draft is read again in one forward over the whole text, and the tokens it thinks least of are masked; with
/// gamma = 0 nothing is read.
#[test]
fn a_draft_read_again() {
    for (attention, shift) in
        [(Attention::Bidirectional, false), (Attention::BlockCausal, false), (Attention::BlockCausal, true)]
    {
        for choose in ["post_hoc", "left_out"] {
            let of = |gamma: f32, choose: &str| {
                let mut c = config(attention, gamma);
                c.shift = shift;
                c.policy = policy(
                    json!({"kind": "draft_refine", "tau": 0.4, "gamma": gamma, "refine_tau": 0.3, "choose": choose}),
                );
                run(&c, 1.5)
            };
            let (none, snapshot) = (of(0.0, choose).0, of(0.0, "snapshot").0);
            assert_eq!((none.ledger(), none.state()), (snapshot.ledger(), snapshot.state()));
            let (d, net) = of(0.3, choose);
            let (read, plain) = (d.ledger(), of(0.3, "snapshot").0);
            assert_eq!((read.judge, read.remasks), (1, plain.ledger().remasks));
            assert_eq!((d.state().masked_left(), read.forwards), (0, net.log.len() as u32));
            let at = d.steps().iter().position(|s| s.kind == StepKind::Judge).unwrap();
            let (step, request) = (&d.steps()[at], &net.log[at]);
            assert_eq!(request.query_positions.len(), 24);
            assert_eq!(request.ids, d.trajectory().replay().unwrap()[at].ids());
            let shadow = request.want.shadow.as_ref();
            assert_eq!(
                shadow.map(|s| s.rows.clone()),
                (choose == "left_out").then(|| request.want.rows.clone())
            );
            // what is masked is what the forward thinks least of
            let mut p: Vec<(f32, u32)> = step.rows.iter().map(|r| (r.p_current, r.pos)).collect();
            assert_eq!(p.len(), 21);
            p.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let mut least: Vec<u32> = p[..6].iter().map(|p| p.1).collect();
            let mut masked: Vec<u32> = step.actions.iter().map(|a| a.pos).collect();
            least.sort_unstable();
            masked.sort_unstable();
            assert_eq!(masked, least);
            assert!(step.actions.iter().all(|a| a.kind == ActionKind::Remask && a.p <= p[6].0 + 1e-5));
            let t = d.trajectory();
            assert_eq!(t.replay().unwrap().pop().unwrap(), *d.state());
            let text = serde_json::to_string(&t).unwrap();
            assert!(text.contains("\"test\":\"judged\""));
            let back: Trajectory = serde_json::from_str(&text).unwrap();
            assert_eq!((back.replay().unwrap(), back.footer.ledger), (t.replay().unwrap(), t.footer.ledger));
            assert_eq!((back.steps[at].kind, &back.steps[at].rule), (StepKind::Judge, &step.rule));
        }
    }
}

/// Left out, a token is judged by the others alone: of 0 1 0 0 under a rule that all tokens are equal the 1 goes, though each
/// row that reads its own token is content with it.
#[test]
fn a_token_that_confirms_itself_is_found_by_the_others() {
    let odd = |choose: &str| {
        let mut c = DecodeConfig::new(vec![], 4, 3, 2);
        c.policy = policy(json!({"kind": "draft_refine", "tau": 0.0, "gamma": 0.25, "choose": choose}));
        let mut d = Decoder::new(c).unwrap();
        drive(&mut d, |r| {
            let left_out = r.want.shadow.is_some();
            answer(r, |p| match r.ids[p as usize] {
                2 if r.ids.iter().filter(|id| **id == 2).count() == 4 => {
                    vec![f32::from(p != 1), f32::from(p == 1), -30.0]
                }
                own if own != 2 && !left_out => {
                    vec![f32::from(own == 0) * 9.0, f32::from(own == 1) * 9.0, -30.0]
                }
                _ => {
                    let others = (0..4).filter(|q| *q != p);
                    let ones = others.filter(|q| r.ids[*q as usize] == 1).count() as f32;
                    vec![9.0 - 6.0 * ones, 6.0 * ones - 9.0, -30.0]
                }
            })
        })
        .unwrap();
        d.steps().iter().flat_map(|s| &s.actions).find(|a| a.kind == ActionKind::Remask).unwrap().pos
    };
    assert_eq!((odd("left_out"), odd("post_hoc")), (1, 0));
}

/// A change by the user before the draft is read again is read too.
#[test]
fn a_change_before_the_reading() {
    let mut c = config(Attention::BlockCausal, 0.5);
    c.policy = policy(json!({"kind": "draft_refine", "tau": 0.4, "gamma": 0.5, "choose": "post_hoc"}));
    let mut d = Decoder::new(c.clone()).unwrap();
    let mut net = HashNet::new(&c, 1.5);
    while d.state().masked_left() > 0 {
        let r = d.next().unwrap();
        d.apply(net.forward(&r)).unwrap();
    }
    d.fix(10, 4).unwrap();
    d.reopen(&[12]).unwrap();
    let r = d.next().unwrap();
    assert_eq!((r.ids[10], r.ids[12], r.want.rows.contains(&10)), (4, 11, false));
    drive(&mut d, |r| net.forward(r)).unwrap();
    assert_eq!((d.ledger().judge, d.state().masked_left(), d.state().id(10)), (1, 0, 4));
    d.trajectory().replay().unwrap();
}
