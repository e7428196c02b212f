use std::sync::Arc;

use hilda_kernels::Cpu;
use hilda_kernels::rng::{Rng, Stream};

use super::*;
use crate::config::{ModelConfig, ModelSpec};
use crate::decode::policy::{Compression, Press, Storage};
use crate::decode::{Attention, CacheOp, DecodeConfig, Decoder, RowStats, Trajectory, Want};
use crate::model::session::Weights;
use crate::model::{Layout, LoadedModel, Serving, Session};

const PRESSES: [Press; 7] = [
    Press::Random,
    Press::Knorm,
    Press::Keydiff,
    Press::Sinks,
    Press::Snapkv,
    Press::ExpectedAttention,
    Press::Kvzap,
];

fn config() -> ModelConfig {
    let spec = ModelSpec { size: Some("tiny".into()), ..Default::default() };
    let mut config = spec.resolve(70, 69, 68, vec![69]).unwrap();
    (config.layers, config.heads, config.kv_heads, config.head_dim) = (2, 4, 2, 16);
    config
}

fn weights(attention: Attention, shift: bool) -> Arc<Weights<Cpu>> {
    let config = config();
    let params = Layout::new(&config).init(&config, 3).iter().map(|x| 6.0 * x).collect();
    let serving = Serving { attention, block_size: 8, shift, infill: false, edits: false, uniform: false };
    Arc::new(Weights::of(LoadedModel { config, serving, params }))
}

/// A regression of random weights.
fn surrogate() -> Surrogate {
    let (c, rng) = (config(), Rng::new(9, Stream::Test, 0));
    let layers = (0..c.layers as u32).map(|l| Linear {
        w: (0..c.kv_heads as u32)
            .map(|h| (0..=c.width as u32).map(|i| rng.normal(l, i, h) as f32).collect())
            .collect(),
        r2: 0.0,
    });
    Surrogate {
        target: Target::Continuation,
        repeat_accuracy: 0.0,
        context: 8,
        documents: [1, 1],
        layers: layers.collect(),
    }
}

fn plan(attention: Attention, shift: bool, caching: serde_json::Value) -> DecodeConfig {
    let mut c = DecodeConfig::new(vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 48, 70, 69);
    (c.attention, c.block_size, c.shift) = (attention, 8, shift);
    let mut policy = serde_json::json!({"kind": "threshold", "tau": 0.3});
    if attention == Attention::Causal {
        policy = serde_json::json!({"kind": "left_to_right", "cache_block": 8});
    }
    policy.as_object_mut().unwrap().extend(caching.as_object().unwrap().clone());
    c.policy = serde_json::from_value(policy).unwrap();
    (c.fixed, c.surrogate) = (vec![(20, 33), (40, 12)], Some(Arc::new(surrogate())));
    c
}

/// Every answer of a decoding, and its record.
fn write(c: DecodeConfig) -> (Vec<RowStats>, Trajectory) {
    let mut session = Session::new(&Cpu, weights(c.attention, c.shift), 48);
    let (mut answers, mut decoder) = (vec![], Decoder::new(c).unwrap());
    while let Some(request) = decoder.next() {
        let stats = session.answer(&request).unwrap();
        answers.push(stats.clone());
        decoder.apply(stats).unwrap();
    }
    (answers, decoder.trajectory())
}

fn same(a: &[RowStats], b: &[RowStats]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.rows == b.rows && a.logits == b.logits)
}

const KINDS: [(Attention, bool); 3] =
    [(Attention::BlockCausal, false), (Attention::BlockCausal, true), (Attention::Causal, true)];

/// Offloaded, a ratio of 0 and a threshold below everything: the same bits in every row of every forward.
#[test]
fn what_keeps_everything_is_exact_to_the_bit() {
    for (attention, shift) in KINDS {
        let exact = write(plan(attention, shift, serde_json::json!({})));
        let ledger = exact.1.footer.ledger;
        let c = config();
        let row = (8 * c.layers * c.kv_heads * c.head_dim) as u64;
        assert_eq!(ledger.cache_bytes, ledger.cache_positions as u64 * row);
        let off = write(plan(attention, shift, serde_json::json!({"cache_storage": "offloaded"})));
        assert!(same(&exact.0, &off.0) && exact.1.footer.ids == off.1.footer.ids);
        assert_eq!(off.1.footer.ledger.cache_bytes, ledger.cache_bytes);
        for press in PRESSES {
            let mut c = plan(attention, shift, serde_json::json!({}));
            (c.policy.caching.cache_press, c.policy.caching.cache_ratio) = (press, 0.0);
            let pressed = write(c.clone());
            assert!(same(&exact.0, &pressed.0), "{press:?}");
            if press == Press::Kvzap {
                (c.policy.caching.cache_ratio, c.policy.caching.cache_tau) = (0.5, Some(f32::NEG_INFINITY));
                let pressed = write(c);
                assert!(same(&exact.0, &pressed.0));
                assert_eq!(pressed.1.footer.ledger.evicted, 0);
            }
        }
    }
}

/// Rounded blocks take less memory, give other rows, and say by how much they differ; more bits differ by less.
#[test]
fn rounded_blocks_are_near_and_small() {
    for (attention, shift) in KINDS {
        let exact = write(plan(attention, shift, serde_json::json!({}))).1;
        let of = |storage: &str| {
            write(plan(attention, shift, serde_json::json!({"cache_storage": storage, "cache_check": true})))
                .1
        };
        let (q8, q4) = (of("q8"), of("q4"));
        let d = |t: &Trajectory| t.footer.divergence.unwrap();
        let mean = |t: &Trajectory| d(t).sum_dp / d(t).rows as f32;
        assert!(mean(&q8) > 0.0 && mean(&q8) < mean(&q4), "{:?} {:?}", d(&q8), d(&q4));
        // weights six times the usual make a network that doubts nothing
        assert!(mean(&q8) < 0.05, "{:?}", d(&q8));
        let bytes = |t: &Trajectory| t.footer.ledger.cache_bytes;
        assert!(bytes(&q4) < bytes(&q8) && bytes(&q8) < bytes(&exact));
        assert_eq!(q8.footer.cache_bytes, Some(bytes(&q8)));
        assert!(q8.steps.iter().any(|s| s.cache.quantised.is_some()) && q8.footer.ledger.check > 0);
        q8.replay().unwrap();
    }
}

/// What the formula says is what is held, at every length and for every way to keep it that it covers.
#[test]
fn bytes_held_are_those_of_the_formula() {
    let weights = weights(Attention::BlockCausal, false);
    for storage in [Storage::F32, Storage::Q8, Storage::Q4, Storage::Offloaded] {
        for ratio in [None, Some(0.5), Some(0.75)] {
            let press = if ratio.is_some() { Press::Knorm } else { Press::None };
            let how =
                Compression { storage, press, ratio: ratio.unwrap_or(0.5), block: 8, ..Default::default() };
            let mut session = Session::new(&Cpu, weights.clone(), 48);
            for blocks in 1..=6 {
                let stats = session.answer(&store(8 * (blocks - 1)..8 * blocks, &how)).unwrap();
                let (got, want) =
                    (stats.held.unwrap().bytes, weights.trunk.cache_bytes(&how, 8 * blocks as usize));
                // a press may have taken the same rows of all heads of a block or not: what rounding costs a block differs
                let near =
                    if how.press == Press::None { got == want } else { got.abs_diff(want) * 10 <= want };
                assert!(near, "{storage:?} {ratio:?} {blocks}: {got} {want}");
            }
        }
    }
}

/// What a text will keep is known before its first forward.
#[test]
fn a_text_keeps_what_was_planned() {
    for (attention, shift) in KINDS {
        let trunk = crate::model::Trunk::new(config());
        for asked in [
            serde_json::json!({}),
            serde_json::json!({"cache_storage": "q8"}),
            serde_json::json!({"cache_storage": "q4"}),
            serde_json::json!({"cache_storage": "offloaded"}),
            serde_json::json!({"cache_press": "knorm", "cache_ratio": 0.5}),
        ] {
            let c = plan(attention, shift, asked.clone());
            let planned = trunk.planned_cache(&c);
            let kept = write(c).1.footer.ledger.cache_bytes;
            let near = if asked.get("cache_press").is_none() {
                kept == planned
            } else {
                kept.abs_diff(planned) * 10 <= planned
            };
            assert!(near && kept > 0, "{attention:?} {shift} {asked}: {kept} of {planned}");
        }
        let mut guided = plan(attention, shift, serde_json::json!({}));
        guided.policy.candidate.guidance = 0.5;
        assert_eq!((trunk.planned_cache(&guided), write(guided).1.footer.ledger.cache_bytes), (0, 0));
    }
}

/// Stores positions under `how`, ids by position.
fn store(positions: Range<u32>, how: &Compression) -> ForwardRequest {
    ForwardRequest {
        sequence: 1,
        step: 0,
        ids: positions.clone().map(|p| (7 * p + 3) % 68).collect(),
        query_positions: positions.collect(),
        rule: Attention::BlockCausal.rule(),
        block_size: 8,
        cache: CacheOp::Store,
        compression: how.clone(),
        want: Want { seed: 5, ..Default::default() },
    }
}

fn pressed(press: Press, ratio: f32, tau: Option<f32>) -> Compression {
    let surrogate = (press == Press::Kvzap).then(|| Arc::new(surrogate()));
    Compression { press, ratio, tau, block: 8, surrogate, ..Default::default() }
}

/// Per head floor(T (1 - ratio)) positions stay, the first four and the last block among them, and the record says how many
/// went; in all of a press's forms the same number of every head, with a threshold not.
#[test]
fn presses_drop_what_they_say() {
    for press in PRESSES {
        let how = pressed(press, 0.5, None);
        let mut session = Session::new(&Cpu, weights(Attention::BlockCausal, false), 48);
        let mut before = 0;
        for block in 0..6u32 {
            let stats = session.answer(&store(8 * block..8 * block + 8, &how)).unwrap();
            let end = 8 * (block + 1);
            let host = session.cache_for_tests().host.as_ref().unwrap();
            let stay = if block == 0 { 8 } else { (end / 2).max(12) };
            for (layer, head) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let kept = host.keys(layer, head).positions;
                assert_eq!(kept.len(), stay as usize, "{press:?} {block}");
                assert!((0..4).chain(end - 8..end).all(|p| kept.contains(&p)), "{press:?}: {kept:?}");
            }
            let gone = before + 8 - stay;
            let evicted = stats.held.unwrap().evicted;
            assert_eq!(evicted, if block == 0 { vec![] } else { vec![gone; 4] });
            before = stay;
        }
    }
    let how = pressed(Press::Kvzap, 0.5, Some(0.0));
    let mut session = Session::new(&Cpu, weights(Attention::BlockCausal, false), 48);
    session.answer(&store(0..40, &how)).unwrap();
    let host = session.cache_for_tests().host.as_ref().unwrap();
    let counts: Vec<usize> = (0..2).map(|head| host.keys(0, head).positions.len()).collect();
    assert_ne!(counts[0], counts[1]);
    for head in 0..2 {
        let keys = host.keys(0, head);
        let stays = |(p, s): (&u32, &f32)| *p < 4 || *p >= 32 || *s >= 0.0;
        assert!(keys.positions.iter().zip(&keys.scores).all(stays));
    }
}

/// After a cut what comes before it stays as it was and the rest is whole again; after a cut at 0 nothing is left of what
/// was dropped.
#[test]
fn a_cut_brings_dropped_positions_back() {
    let weights = weights(Attention::BlockCausal, false);
    let how = Compression { storage: Storage::Q8, ..pressed(Press::Keydiff, 0.5, None) };
    let whole = |session: &mut Session<Cpu>, keep: u32| {
        let mut cut = store(keep..keep + 8, &how);
        cut.cache = CacheOp::Truncate { keep };
        session.answer(&cut).unwrap();
        assert_eq!(session.cached(), keep as usize);
    };
    let all = |session: &Session<Cpu>| -> Vec<_> {
        let host = session.cache_for_tests().host.as_ref().unwrap();
        [(0, 0), (0, 1), (1, 0), (1, 1)]
            .map(|(layer, head)| {
                let keys = host.keys(layer, head);
                (keys.positions, keys.k, keys.v)
            })
            .into()
    };
    let mut session = Session::new(&Cpu, weights.clone(), 48);
    for block in 0..5 {
        session.answer(&store(8 * block..8 * block + 8, &how)).unwrap();
    }
    let before = all(&session);
    whole(&mut session, 16);
    let cut = all(&session);
    for (before, cut) in before.iter().zip(&cut) {
        let n = before.0.partition_point(|p| *p < 16);
        assert_eq!(
            (&before.0[..n], &before.1[..n * 16], &before.2[..n * 16]),
            (&cut.0[..], &cut.1[..], &cut.2[..])
        );
        assert!(n < 16);
    }
    session.answer(&store(16..24, &how)).unwrap();
    for (positions, ..) in all(&session) {
        assert!((16..24).all(|p| positions.contains(&p)) && positions.len() <= 20);
    }
    whole(&mut session, 0);
    session.answer(&store(0..40, &how)).unwrap();
    let mut fresh = Session::new(&Cpu, weights, 48);
    fresh.answer(&store(0..40, &how)).unwrap();
    assert_eq!(all(&session), all(&fresh));
}

/// A decoder whose finished block is opened again computes everything anew: rows are those of a text that came so.
#[test]
fn an_edit_restores_what_was_dropped() {
    let c =
        plan(Attention::BlockCausal, true, serde_json::json!({"cache_press": "knorm", "cache_ratio": 0.6}));
    let mut session = Session::new(&Cpu, weights(c.attention, c.shift), 48);
    let mut decoder = Decoder::new(c).unwrap();
    while let Some(request) = decoder.next() {
        decoder.apply(session.answer(&request).unwrap()).unwrap();
    }
    assert!(decoder.ledger().evicted > 0);
    decoder.reopen(&[30]).unwrap();
    let mut stored = None;
    while let Some(request) = decoder.next() {
        if request.cache == CacheOp::Store && stored.is_none() {
            stored = Some((request.query_positions[0], session.cached()));
        }
        decoder.apply(session.answer(&request).unwrap()).unwrap();
    }
    assert_eq!(stored, Some((0, 0)), "the text is computed from its start");
    decoder.trajectory().replay().unwrap();
}

/// The forward over what a press left is attention in which the dropped keys count nothing: computed by hand over all of
/// them, in f64, for equal and for unequal counts.
#[test]
fn removal_is_masking() {
    let c = config();
    let (d, kv, group) = (c.head_dim, c.kv_heads, c.heads / c.kv_heads);
    for how in [pressed(Press::Random, 0.5, None), pressed(Press::Kvzap, 0.0, Some(0.5))] {
        let weights = weights(Attention::BlockCausal, false);
        let mut session = Session::new(&Cpu, weights.clone(), 48);
        let mut plain = Session::new(&Cpu, weights.clone(), 48);
        let all = Compression { storage: Storage::Offloaded, block: 8, ..Default::default() };
        session.answer(&store(0..32, &how)).unwrap();
        plain.answer(&store(0..32, &all)).unwrap();
        let mut block = store(32..40, &how);
        block.cache = CacheOp::None;
        let n = 8;
        // a layer's rows at work, from the tests' own numbers
        let rng = Rng::new(1, Stream::Test, 0);
        let qkv: Vec<f32> = (0..n * c.qkv()).map(|i| rng.normal(0, i as u32, 0) as f32).collect();
        let places: Vec<Place> =
            (32..40).map(|p| Place { position: p, block: p / 8, ..Place::default() }).collect();
        for layer in 0..c.layers {
            let full: Vec<_> = {
                let host = plain.cache_for_tests().host.as_ref().unwrap();
                (0..kv).map(|head| host.keys(layer, head)).collect()
            };
            let cache = session.cache_for_tests_mut();
            cache.begin(&Cpu, &weights.trunk, &block, 32, &places);
            let host = cache.host.as_mut().unwrap();
            let kept: Vec<_> = (0..kv).map(|head| host.keys(layer, head).positions).collect();
            assert!(kept[0] != kept[1] && kept.iter().all(|k| k.len() < 32));
            let mut acts = LayerActs::<Cpu> {
                raw: vec![],
                qkv: qkv.clone(),
                att: vec![0.0; n * c.heads * d],
                lse: vec![0.0; n * c.heads],
                mid: vec![],
                gate_up: vec![],
                post: [vec![], vec![]],
            };
            host.attend(&Cpu, &weights.trunk, layer, 0, &vec![0.0; n * c.width], &mut acts);
            for row in 0..n {
                for h in 0..c.heads {
                    let q = &qkv[row * c.qkv() + h * d..][..d];
                    let own = |first: usize, r: usize| &qkv[r * c.qkv() + (first + h / group) * d..][..d];
                    let (mut sum, mut out) = (0f64, vec![0f64; d]);
                    let mut add = |k: &[f32], v: &[f32], visible: bool| {
                        let z: f64 = q.iter().zip(k).map(|(a, b)| *a as f64 * *b as f64).sum();
                        let p = if visible { (z * c.attention_scale() as f64).exp() } else { 0.0 };
                        sum += p;
                        out.iter_mut().zip(v).for_each(|(o, v)| *o += p * *v as f64);
                    };
                    let keys = &full[h / group];
                    for (i, position) in keys.positions.iter().enumerate() {
                        let visible = kept[h / group].contains(position);
                        add(&keys.k[i * d..][..d], &keys.v[i * d..][..d], visible);
                    }
                    for r in 0..n {
                        add(own(c.heads, r), own(c.heads + kv, r), true);
                    }
                    for (got, want) in acts.att[(row * c.heads + h) * d..][..d].iter().zip(&out) {
                        let want = want / sum;
                        assert!((*got as f64 - want).abs() < 1e-5 * (1.0 + want.abs()), "{got} {want}");
                    }
                }
            }
        }
    }
}

/// Heads in another order lose the same positions, head by head.
#[test]
fn presses_know_no_order_of_heads() {
    let c = config();
    let (d, trunk) = (c.head_dim, Trunk::new(c.clone()));
    let rng = Rng::new(2, Stream::Test, 0);
    let qkv: Vec<f32> = (0..40 * c.qkv()).map(|i| rng.normal(1, i as u32, 0) as f32).collect();
    // the two groups of query heads, and the two heads of keys and of values, change places
    let swapped: Vec<f32> = qkv
        .chunks_exact(c.qkv())
        .flat_map(|row| [2, 3, 0, 1, 5, 4, 7, 6].map(|h| row[h * d..][..d].to_vec()).concat())
        .collect();
    let places: Vec<Place> =
        (0..40).map(|p| Place { position: p, block: p / 8, ..Place::default() }).collect();
    let run = |press: Press, qkv: &[f32]| {
        let mut cache = trunk.cache(&Cpu, 48);
        let how = pressed(press, 0.5, None);
        cache.begin(&Cpu, &trunk, &store(0..40, &how), 0, &places);
        let mut acts = LayerActs::<Cpu> {
            raw: vec![],
            qkv: qkv.to_vec(),
            att: vec![0.0; 40 * c.heads * d],
            lse: vec![0.0; 40 * c.heads],
            mid: vec![],
            gate_up: vec![],
            post: [vec![], vec![]],
        };
        let host = cache.host.as_mut().unwrap();
        host.attend(&Cpu, &trunk, 0, 0, &vec![0.1; 40 * c.width], &mut acts);
        [host.keys(0, 0).positions, host.keys(0, 1).positions]
    };
    for press in PRESSES {
        // by lot each head has its own, and the regression has a row of its own for each
        if !matches!(press, Press::Random | Press::Kvzap) {
            let ([a, b], [x, y]) = (run(press, &qkv), run(press, &swapped));
            assert_eq!((a, b), (y, x), "{press:?}");
        }
    }
}

/// With presses and rounding a text still keeps prompt and fixed tokens, and its record replays.
#[test]
fn known_tokens_stay() {
    for (attention, shift) in KINDS {
        for press in PRESSES {
            let mut c =
                plan(attention, shift, serde_json::json!({"cache_storage": "q4", "cache_check": true}));
            (c.policy.caching.cache_press, c.policy.caching.cache_ratio) = (press, 0.75);
            let (_, t) = write(c.clone());
            assert_eq!(t.footer.ids[..10], c.prompt[..]);
            assert_eq!((t.footer.ids[20], t.footer.ids[40]), (33, 12));
            assert!(t.footer.divergence.unwrap().rows > 0 && t.footer.ledger.evicted > 0);
            t.replay().unwrap();
            let text = serde_json::to_string(&t).unwrap();
            assert_eq!(serde_json::from_str::<Trajectory>(&text).unwrap().steps, t.steps);
        }
    }
}

#[test]
fn what_cannot_be_kept_is_refused() {
    let refused = |c: DecodeConfig| Decoder::new(c).unwrap_err().to_string();
    let mut c = plan(Attention::BlockCausal, false, serde_json::json!({"cache_press": "kvzap"}));
    c.surrogate = None;
    assert!(refused(c).contains("kvzap.json"));
    let c = plan(Attention::Bidirectional, false, serde_json::json!({"cache_storage": "q8"}));
    assert!(refused(c).contains("no block is ever finished"));
    let mut c =
        plan(Attention::BlockCausal, false, serde_json::json!({"cache_press": "knorm", "guidance": 1.0}));
    assert!(refused(c.clone()).contains("guidance"));
    c.policy.candidate.guidance = 0.0;
    c.policy.caching.cache_ratio = 1.5;
    assert!(refused(c.clone()).contains("cache_ratio"));
    (c.policy.caching.cache_ratio, c.policy.caching.cache_tau) = (0.5, Some(f32::NAN));
    assert!(refused(c).contains("cache_tau"));
    for kind in ["best_of", "draft_refine"] {
        let mut c = plan(Attention::BlockCausal, false, serde_json::json!({"cache_storage": "q4"}));
        let caching = c.policy.caching;
        c.policy = serde_json::from_value(serde_json::json!({ "kind": kind })).unwrap();
        c.policy.caching = caching;
        assert!(refused(c.clone()).contains("cache_storage"), "{kind}");
        c.policy.caching.cache_storage = Storage::Offloaded;
        Decoder::new(c).unwrap();
    }
    // and by the session, whoever asks
    let mut session = Session::new(&Cpu, weights(Attention::BlockCausal, false), 48);
    let q8 = Compression { storage: Storage::Q8, block: 8, ..Default::default() };
    session.answer(&store(0..8, &Compression::default())).unwrap();
    let mut error = |r: &ForwardRequest| session.answer(r).unwrap_err();
    assert!(matches!(error(&store(8..16, &q8)), SessionError::Compression { .. }));
    session.forget();
    let mut error = |r: &ForwardRequest| session.answer(r).unwrap_err();
    assert!(matches!(
        error(&store(0..8, &Compression { block: 0, ..q8.clone() })),
        SessionError::Compression { .. }
    ));
    let mut keep = store(0..8, &q8);
    keep.cache = CacheOp::Keep { keep: 8 };
    assert!(matches!(error(&keep), SessionError::Compression { .. }));
    let how = Compression { surrogate: None, ..pressed(Press::Kvzap, 0.5, None) };
    assert!(matches!(error(&store(0..8, &how)), SessionError::Compression { .. }));
    // a dropped position cannot be looked at
    session.answer(&store(0..32, &pressed(Press::Sinks, 0.5, None))).unwrap();
    let error = session.keys_values(&Cpu, 0, 0..32, false).unwrap_err();
    assert_eq!(error, SessionError::Evicted { position: 4, layer: 0, head: 0 });
    assert_eq!(session.keys_values(&Cpu, 0, 24..32, false).unwrap().len(), 8 * 64);
}

/// Where keys cannot be read back in the middle of a forward the first request is refused.
#[cfg(feature = "web")]
#[test]
fn webgpu_refuses_what_it_cannot_keep() {
    use hilda_kernels::backend::web::Web;
    let web = match pollster::block_on(Web::new()) {
        Ok(web) => web,
        Err(e) => {
            println!("SKIPPED webgpu_refuses_what_it_cannot_keep: {e}");
            return;
        }
    };
    let config = config();
    let params = Layout::new(&config).init(&config, 3);
    let attention = Attention::BlockCausal;
    let serving =
        Serving { attention, block_size: 8, shift: false, infill: false, edits: false, uniform: false };
    #[allow(clippy::arc_with_non_send_sync)] // sessions of every back end share weights by Arc
    let weights = Arc::new(Weights::new(&web, &LoadedModel { config, serving, params }));
    let mut session = Session::new(&web, weights, 48);
    let offloaded = Compression { storage: Storage::Offloaded, block: 8, ..Default::default() };
    for how in [offloaded, pressed(Press::Knorm, 0.5, None)] {
        let error = session.forward(&web, &store(0..8, &how)).unwrap_err();
        assert!(matches!(error, SessionError::Unreadable { .. }), "{error}");
        assert_eq!(session.cached(), 0);
    }
    session.forward(&web, &store(0..8, &Compression::default())).unwrap();
    assert_eq!(session.held().bytes, 8 * 512);
}
