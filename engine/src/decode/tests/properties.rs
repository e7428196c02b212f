//! What holds for every policy, attention and text; and that the decoder, not the policy, enforces the rules.

use super::*;
use crate::decode::policy::{CacheMode, Caching, Fired, Plan, Press, Rule, Storage, View};
use proptest::prelude::*;
use serde_json::json;

fn any_policy() -> impl Strategy<Value = PolicySpec> {
    let score = prop::sample::select(policy::Score::NAMES.to_vec());
    let p = 0.0f32..=1.0;
    let method = prop_oneof![
        (1u32..5, any::<bool>(), 1u32..20).prop_map(|(k, grid, steps)| {
            let form = if grid { "time_grid" } else { "first_hitting" };
            json!({"kind": "ancestral", "form": form, "tokens_per_forward": k, "steps": steps})
        }),
        (0u32..12, score.clone())
            .prop_map(|(s, score)| json!({"kind": "top_prob", "steps_per_block": s, "score": score})),
        (p.clone(), score.clone())
            .prop_map(|(t, score)| json!({"kind": "threshold", "tau": t, "score": score})),
        (p.clone(), p.clone(), score.clone()).prop_map(|(t, low, score)| {
            json!({"kind": "hierarchical", "tau": t, "tau_low": low, "score": score})
        }),
        (0.0f32..3.0).prop_map(|f| json!({"kind": "factor", "f": f})),
        (-0.5f32..5.0, score.clone())
            .prop_map(|(g, score)| json!({"kind": "entropy_bound", "gamma": g, "score": score})),
        (p.clone(), p.clone(), 0u32..6, 0u32..4, score.clone()).prop_map(|(m, r, post, most, score)| json!({
            "kind": "remask", "tau_mask": m, "tau_remask": r, "max_post": post, "max_remasks": most, "score": score
        })),
        (p.clone(), prop::option::of(p.clone()), 0u32..6, prop::option::of(0u32..3), score.clone()).prop_map(
            |(m, e, post, returns, score)| json!({
                "kind": "edit", "tau_mask": m, "tau_edit": e, "max_post": post, "max_returns": returns,
                "score": score
            })
        ),
        (p.clone(), p.clone()).prop_map(|(t, n)| json!({"kind": "wino", "tau_wide": t, "tau_narrow": n})),
        (p.clone(), 0.0f32..2.0, 1u32..4, 0u32..6, score.clone()).prop_map(|(t, e, n, s, score)| json!({
            "kind": "klass", "tau": t, "epsilon": e, "history": n, "steps_per_block": s, "score": score
        })),
        (
            prop::sample::select(vec!["cap", "rescale", "conf", "loop", "forward_backward"]),
            1u32..24,
            0.0f32..=1.0
        )
            .prop_map(|(variant, steps, eta)| {
                json!({"kind": "remdm", "variant": variant, "steps": steps, "eta": eta})
            }),
        (0u32..9, 0u32..5, 1u32..4, p.clone(), score.clone()).prop_map(|(steps, extra, r, from, score)| {
            json!({"kind": "remdm_quota", "steps_per_block": steps, "extra_steps": extra, "remasked": r,
                "from": from, "score": score})
        }),
        (p.clone(), 1u32..4, any::<bool>(), score.clone()).prop_map(|(t, history, carry, score)| {
            json!({"kind": "klass", "tau": t, "epsilon": 1.0, "history": history, "carry": carry, "score": score})
        }),
        (p.clone(), p.clone(), 2u32..4, 0u32..4, any::<bool>()).prop_map(|(m, e, window, passes, far)| {
            let by = if far { "surprisal" } else { "adjacent" };
            json!({"kind": "edit", "tau_mask": m, "tau_edit": e, "max_post": 3, "window": window,
                "window_passes": passes, "window_by": by})
        }),
        Just(json!({"kind": "left_to_right"})),
    ];
    (method, any_candidate()).prop_map(|(mut method, candidate)| {
        let object = method.as_object_mut().unwrap();
        object.extend(candidate.as_object().unwrap().clone());
        if object.get("window").is_some_and(|w| w != 1) {
            // passes over a window see one text alone
            object.insert("guidance".into(), json!(0.0));
        }
        super::policy(method)
    })
}

/// Often none of it, else all of it at once.
fn any_candidate() -> impl Strategy<Value = serde_json::Value> {
    let some = (
        prop::option::of(1u32..14),
        prop::option::of(0.01f32..=1.0),
        prop::sample::select(vec![0.0, 1.5]),
        1u32..5,
        prop::sample::select(vec![0.0f32, -1.0, 1.5]),
        prop::sample::select(vec!["raw", "drawn"]),
        prop::sample::select(vec!["any", "last", "never"]),
        prop::sample::select(vec!["both", "left"]),
        prop::sample::select(vec![0.0f32, 0.7, 3.0]),
    );
    let some = some.prop_map(|(k, p, repetition, window, guidance, confidence, eos, side, credit)| {
        json!({"top_k": k, "top_p": p, "repetition": repetition, "repetition_window": window,
            "repetition_side": side, "guidance": guidance, "credit": credit, "confidence": confidence, "eos": eos})
    });
    prop_oneof![2 => Just(json!({})), 1 => some]
}

prop_compose! {
    fn any_config()(
        policy in any_policy(),
        prompt in prop::collection::vec(0u32..11, 1..7),
        more in 0u32..22,
        fixed in prop::collection::btree_map(7u32..30, 0u32..11, 0..4),
        block_size in 0u32..9,
        kind in 0u32..3,
        (shift, early_stop, greedy) in any::<(bool, bool, bool)>(),
        (seed, sequence) in (any::<u64>(), 0u32..1 << 24),
        max_steps in prop::option::weighted(0.3, 0u32..10),
        caching in 0u32..9,
    ) -> DecodeConfig {
        let length = prompt.len() as u32 + more;
        let mut c = DecodeConfig::new(prompt, length, 12, 11);
        c.fixed = fixed.into_iter().filter(|f| f.0 < length).collect();
        c.block_size = block_size;
        (c.attention, c.shift) = match kind {
            0 if policy.method == (Method::LeftToRight {}) => (Attention::Causal, true),
            0 | 1 => (Attention::BlockCausal, shift),
            _ => (Attention::Bidirectional, shift),
        };
        c.policy = policy;
        c.frequencies = Some(crate::data::Frequencies::of(&[9, 4, 0, 7, 1, 30, 2, 2, 5, 1, 1, 0]).unwrap());
        c.eos_id = Some(3);
        c.early_stop = early_stop;
        c.temperature = if greedy { 0.0 } else { 0.8 };
        (c.seed, c.sequence, c.top_k) = (seed, sequence, 2);
        let windows = matches!(c.policy.method, Method::Edit { window: 2.., .. });
        if c.attention == Attention::Bidirectional && c.policy.candidate.guidance == 0.0 && caching > 0 && !windows {
            let wino = matches!(c.policy.method, Method::Wino { .. });
            c.policy.caching = Caching {
                cache: [CacheMode::Prefix, CacheMode::Dual, CacheMode::Delayed][if wino { 0 } else { caching as usize % 3 }],
                cache_block: 1 + block_size,
                cache_refresh: caching / 3,
                cache_delay: seed as u32 % 3,
                cache_check: caching > 5,
                ..Caching::default()
            };
        }
        let whole = matches!(
            c.policy.method,
            Method::OrderTokenSearch { .. } | Method::BestOf { .. } | Method::DraftRefine { .. }
        );
        let lossy = !whole && c.policy.candidate.guidance == 0.0 && caching > 4;
        if c.attention != Attention::Bidirectional {
            c.policy.caching = Caching {
                cache_storage: if lossy { Storage::Q4 } else { Storage::Offloaded },
                cache_press: if lossy { Press::Keydiff } else { Press::None },
                cache_check: caching > 6,
                cache_block: 1 + block_size,
                ..Caching::default()
            };
        }
        c.max_steps = max_steps.filter(|_| c.attention != Attention::Causal);
        c
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    /// Known tokens stay, decoding ends within the bound, nothing is left masked, the replay is the text, and the
    /// ledger counts what the record holds.
    #[test]
    fn invariants(c in any_config(), scale in 0.1f32..6.0) {
        let (d, net) = run(&c, scale);
        let ids = d.state().ids();
        prop_assert_eq!(&ids[..c.prompt.len()], &c.prompt[..]);
        for (pos, id) in &c.fixed {
            prop_assert_eq!((ids[*pos as usize], d.state().status(*pos)), (*id, Status::Fixed));
        }
        prop_assert_eq!(d.state().masked_left(), 0);
        prop_assert!(ids.iter().all(|id| *id < 11));

        let open = c.length - c.prompt.len() as u32 - c.fixed.len() as u32;
        let post = match c.policy.method {
            Method::Edit { tau_edit: Some(_), max_post, .. } | Method::Remask { max_post, .. } => max_post,
            _ => 0,
        };
        let passes = match c.policy.method {
            Method::Edit { window: 2.., window_passes, .. } => window_passes,
            _ => 0,
        };
        let (writes, extra) = match c.policy.method {
            Method::Remask { max_remasks, .. } => (1 + max_remasks, 0),
            // an extra step may write fewer than were masked for it where end-of-text waits
            Method::RemdmQuota { extra_steps, remasked, .. } => (1, extra_steps * remasked),
            _ => (1, 0),
        };
        let l = d.ledger();
        match c.policy.method {
            Method::Wino { .. } => {
                prop_assert!(l.denoise <= open + 30 * d.state().blocks());
                let beside = net.log.iter().filter_map(|r| r.want.shadow.as_ref());
                prop_assert_eq!(l.shadow, beside.map(|s| s.positions.len() as u64).sum::<u64>());
            }
            Method::Remdm { steps, .. } => prop_assert!(l.denoise <= (steps + 1) * d.state().blocks()),
            _ => {
                prop_assert!(l.denoise <= open * writes + (post + passes + extra) * d.state().blocks());
                prop_assert!(l.remasks == 0 || writes > 1 || extra > 0);
                prop_assert!(l.remasks <= open * (writes - 1) + extra * d.state().blocks());
            }
        }
        if let Some(most) = c.max_steps {
            prop_assert!(l.denoise <= most + d.state().blocks());
        }
        prop_assert_eq!(l.forwards, net.log.len() as u32);
        prop_assert_eq!(l.forwards, l.prefill + l.denoise + l.store + l.refresh + l.guide + l.check + l.judge);
        prop_assert_eq!(l.guide, if c.policy.candidate.guidance == 0.0 { 0 } else { l.denoise });
        let computed: u64 = net.log.iter().map(|r| r.query_positions.len() as u64).sum();
        prop_assert_eq!(l.positions, computed + l.shadow);
        let fills = d.steps().iter().flat_map(|s| &s.actions).filter(|a| a.kind == ActionKind::Fill).count();
        prop_assert_eq!(l.commits + fills as u32, open + l.remasks);
        prop_assert!(c.early_stop || fills == 0);

        for step in d.steps() {
            // what a policy masks between two forwards is recorded behind what the first of them did
            let between = matches!(c.policy.method, Method::RemdmQuota { .. });
            let asked = step.actions.iter().filter(|a| !between || a.kind != ActionKind::Remask);
            let mut at: Vec<u32> = asked.map(|a| a.pos).collect();
            at.sort_unstable();
            prop_assert!(at.windows(2).all(|w| w[0] < w[1]));
            for a in &step.actions {
                prop_assert!((0.0..=CERTAIN).contains(&a.margin) && (0.0..=1.0).contains(&a.p));
                prop_assert!(a.logq <= 0.0 && a.logq.is_finite());
            }
        }
        recorded_forwards(&d, &net)?;
        let t = d.trajectory();
        prop_assert_eq!(t.replay().unwrap().pop().unwrap(), d.state().clone());
        let back: Trajectory = serde_json::from_str(&serde_json::to_string(&t).unwrap()).unwrap();
        prop_assert_eq!(&back.footer.ids[..], ids);
        prop_assert_eq!(back.steps.len(), t.steps.len());
        prop_assert_eq!(run(&c, scale).0.trajectory(), t);
    }

    /// Any sequence of the user's operations keeps the record replayable and the text decodable.
    #[test]
    fn users_cannot_break_it(
        c in any_config(),
        ops in prop::collection::vec((0u32..3, 0u32..30, 0u32..12, 0u32..4), 1..12),
    ) {
        let mut d = Decoder::new(c.clone()).unwrap();
        let mut net = HashNet::new(&c, 1.0);
        for (op, pos, id, forwards) in ops {
            for _ in 0..forwards {
                let Some(r) = d.next() else { break };
                d.apply(net.forward(&r)).unwrap();
            }
            let before = d.trajectory();
            let done = match op {
                0 => d.reopen(&[pos, pos + 1]),
                1 => d.fix(pos, id),
                _ => d.unfix(pos),
            };
            if done.is_err() {
                prop_assert_eq!(d.trajectory(), before);
            }
        }
        drive(&mut d, |r| net.forward(r)).unwrap();
        recorded_forwards(&d, &net)?;
        prop_assert_eq!(d.state().masked_left(), 0);
        prop_assert_eq!(&d.state().ids()[..c.prompt.len()], &c.prompt[..]);
        prop_assert_eq!(d.trajectory().replay().unwrap().pop().unwrap(), d.state().clone());
    }
}

/// The record says which positions each forward computed; the net has refused gaps between them and the cached prefix.
fn recorded_forwards(d: &Decoder, net: &HashNet) -> Result<(), TestCaseError> {
    let steps = d.steps().iter().filter(|s| s.kind != StepKind::User);
    let gap = |s: &StepRecord, p: &u32| s.gaps.iter().any(|(a, b)| (*a..*b).contains(p));
    let computed: Vec<Vec<u32>> = steps.map(|s| s.computed().filter(|p| !gap(s, p)).collect()).collect();
    let asked: Vec<Vec<u32>> = net.log.iter().map(|r| r.query_positions.clone()).collect();
    prop_assert_eq!(computed, asked);
    prop_assert!(d.steps().iter().filter(|s| s.kind == StepKind::User).all(|s| s.computed().is_empty()));
    Ok(())
}

/// A policy that returns what it is told.
#[derive(Debug)]
struct Told(fn(&View) -> Vec<Action>);
impl Policy for Told {
    fn plan(&self, view: &View) -> Plan {
        let scores = view.rows.iter().map(|r| if r.active && r.masked() { 1.0 } else { f64::NEG_INFINITY });
        let rule = Rule::default();
        Plan { actions: (self.0)(view), scores: scores.collect(), rule }
    }
    fn post_budget(&self) -> u32 {
        1
    }
}

fn told(f: fn(&View) -> Vec<Action>) -> Result<StepEvent, DecodeError> {
    let mut c = DecodeConfig::new(vec![1], 8, 12, 11);
    c.block_size = 4;
    let mut d = Decoder::with_policy(c.clone(), Box::new(Told(f))).unwrap();
    let before = d.trajectory();
    let r = d.next().unwrap();
    let result = d.apply(HashNet::new(&c, 1.0).forward(&r));
    if result.is_err() {
        assert_eq!(d.trajectory(), before);
        assert_eq!(d.next(), Some(r));
    }
    result
}

#[test]
fn a_policy_that_does_nothing_is_moved_on() {
    let event = told(|_| vec![]).unwrap();
    assert!(event.record.forced);
    assert_eq!(event.record.actions.len(), 1);
    assert_eq!((event.record.actions[0].kind, event.record.actions[0].pos), (ActionKind::Commit, 1));
    assert_eq!(event.masked, 6);
}

#[test]
fn a_policy_that_breaks_a_rule_is_refused() {
    let broke: [fn(&View) -> Vec<Action>; 6] = [
        |v| vec![v.rows[0].commit(0.0, 1.0), v.rows[0].commit(0.0, 1.0)],
        // a later block
        |v| vec![v.rows[4].commit(0.0, 1.0)],
        // an edit of a masked row
        |v| vec![v.rows[0].write_argmax(ActionKind::Edit, 1.0)],
        // the prompt
        |v| vec![Action { pos: 0, ..v.rows[0].commit(0.0, 1.0) }],
        |v| vec![Action { kind: ActionKind::Fix, ..v.rows[0].commit(0.0, 1.0) }],
        |v| vec![Action { old: 3, ..v.rows[0].commit(0.0, 1.0) }],
    ];
    for (i, f) in broke.into_iter().enumerate() {
        assert!(matches!(told(f), Err(DecodeError::PolicyBroke { .. })), "{i}");
    }
    let mask = told(|v| vec![Action { new: 11, ..v.rows[0].commit(0.0, 1.0) }]);
    assert_eq!(mask.unwrap_err(), DecodeError::ForbiddenToken { id: 11 });
}

#[test]
fn unusable_statistics_are_named() {
    let c = DecodeConfig::new(vec![1], 4, 12, 11);
    let mut d = Decoder::new(c.clone()).unwrap();
    let r = d.next().unwrap();
    let good = HashNet::new(&c, 1.0).forward(&r);
    let mut with = |change: fn(&mut RowStats)| {
        let mut s = good.clone();
        change(&mut s);
        d.apply(s).unwrap_err()
    };
    assert_eq!(with(|s| s.rows.truncate(1)), DecodeError::RowCount { wanted: 3, got: 1 });
    assert!(matches!(with(|s| s.rows[1].lse = f32::NAN), DecodeError::BadRow { pos: 2, field: "lse", .. }));
    assert!(matches!(with(|s| s.rows[0].entropy = f32::INFINITY), DecodeError::BadRow { pos: 1, .. }));
    assert!(matches!(with(|s| s.rows[0].margin = f32::NAN), DecodeError::BadRow { field: "margin", .. }));
    assert_eq!(with(|s| s.rows[0].argmax = 11), DecodeError::ForbiddenToken { id: 11 });
    assert!(matches!(with(|s| s.rows[2].candidate = 40), DecodeError::IdOutOfRange { id: 40, .. }));
    assert!(d.apply(good).is_ok());
}

#[test]
fn impossible_requests_are_refused_by_name() {
    let base = || DecodeConfig::new(vec![1, 2], 8, 12, 11);
    let error = |change: &dyn Fn(&mut DecodeConfig)| {
        let mut c = base();
        change(&mut c);
        Decoder::new(c).unwrap_err()
    };
    use DecodeError::*;
    assert_eq!(error(&|c| c.length = 1), PromptTooLong { prompt: 2, length: 1 });
    assert!(matches!(error(&|c| c.length = 0), Length { .. }));
    assert_eq!(error(&|c| c.prompt[1] = 12), IdOutOfRange { what: "prompt token", id: 12, vocab: 12 });
    assert!(matches!(error(&|c| c.mask_id = 12), IdOutOfRange { what: "mask_id", .. }));
    assert!(matches!(error(&|c| c.eos_id = Some(99)), IdOutOfRange { what: "eos_id", .. }));
    assert!(matches!(error(&|c| c.forbid = vec![99]), IdOutOfRange { .. }));
    assert_eq!(error(&|c| c.fixed = vec![(8, 1)]), PositionOutOfRange { pos: 8, length: 8 });
    assert_eq!(error(&|c| c.fixed = vec![(1, 1)]), PromptPosition { pos: 1 });
    assert_eq!(error(&|c| c.fixed = vec![(4, 1), (4, 2)]), FixedTwice { pos: 4 });
    assert_eq!(error(&|c| c.fixed = vec![(4, 11)]), ForbiddenToken { id: 11 });
    assert_eq!(error(&|c| c.temperature = -1.0), Temperature { temperature: -1.0 });
    assert_eq!(error(&|c| c.top_k = 17), TopK { top_k: 17, max: 16 });
    assert!(matches!(
        error(&|c| (c.temperature, c.policy) = (1.5, super::policy(json!({"kind": "entropy_bound"})))),
        EntropyBoundTemperature { .. }
    ));
    assert!(matches!(
        error(&|c| c.policy = super::policy(json!({"kind": "threshold", "tau": 2.0}))),
        Policy(_)
    ));
    // a full prompt has nothing to decode
    let mut d = Decoder::new(DecodeConfig::new(vec![1, 2], 2, 12, 11)).unwrap();
    assert_eq!((d.next(), d.stop()), (None, Some(Stop::Complete)));
}

/// After the step limit each block takes one forward of argmaxes.
#[test]
fn the_step_limit_fills_with_argmaxes() {
    let mut c = DecodeConfig::new(vec![1], 24, 12, 11);
    (c.block_size, c.max_steps, c.temperature) = (8, Some(3), 1.0);
    c.policy = super::policy(json!({"kind": "ancestral"}));
    let (d, _) = run(&c, 1.0);
    let sizes: Vec<(usize, bool)> = d.steps().iter().map(|s| (s.actions.len(), s.forced)).collect();
    assert_eq!(sizes, [(1, false), (1, false), (1, false), (4, true), (8, true), (8, true)]);
    assert_eq!(d.ledger().forced, 3);
    assert_eq!(d.steps()[3].rule.as_ref().unwrap().selection, Fired::Capped { n: 4 });
}
