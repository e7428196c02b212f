//! What a text gets does not depend on who shares its forwards: every statistic to the bit, on every instruction set, for
//! texts of every kind that join and leave as they like.

use std::cell::Cell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hilda_engine::config::{Arch, Family, Mlp, ModelConfig, ModelSpec, Sliding};
use hilda_engine::data::Frequencies;
use hilda_engine::decode::policy::{CacheMode, Caching, Press, Storage};
use hilda_engine::decode::{
    Attention, CacheOp, DecodeConfig, Decoder, ForwardRequest, RowStats, Trajectory, Want,
};
use hilda_engine::model::together::write_all;
use hilda_engine::model::{
    Arithmetic, Batch, Layout, LoadedModel, Sequence, Serving, Session, SessionError, Weights,
};
use hilda_kernels::rng::{Rng, Stream};
use hilda_kernels::simd::{self, Level};
use hilda_kernels::{Base, Cpu};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

/// The instruction set is the whole process's, and one test lowers it: tests that compare bits take turns.
static TURNS: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURNS.lock().unwrap_or_else(PoisonError::into_inner)
}

const VOCAB: u32 = 90;
const MASK: u32 = 89;
const CONTEXT: usize = 56;

/// The shapes of every family that is decoded.
fn arch(family: usize, layers: usize) -> Arch {
    let plain = Arch::default();
    match family {
        0 => plain,
        1 => Arch { family: Family::Qwen2, qkv_bias: true, ..plain },
        2 => Arch { family: Family::Qwen3, qk_norm: true, tied: false, ..plain },
        3 => Arch { family: Family::Llada, tied: false, ..plain },
        4 => Arch {
            family: Family::Gemma3,
            mlp: Mlp::GeGlu,
            qk_norm: true,
            sandwich: true,
            embed_scale: 4.0,
            sliding: Some(Sliding {
                window: 5,
                rope_theta: 1e3,
                layers: (0..layers).map(|i| i % 2 == 0).collect(),
            }),
            ..plain
        },
        _ => Arch {
            family: Family::Dit,
            layer_norm: true,
            mlp: Mlp::Gelu,
            linear_bias: true,
            tied: false,
            head_bias: true,
            ..plain
        },
    }
}

/// A model without a parameter at zero.
fn weights(family: usize, deep: bool, shift: bool, seed: u64) -> Arc<Weights<Cpu>> {
    computing(family, deep, shift, seed, Arithmetic::F32)
}

fn computing(family: usize, deep: bool, shift: bool, seed: u64, arithmetic: Arithmetic) -> Arc<Weights<Cpu>> {
    // sums of one block of k, and of two
    let (width, layers, mlp) = if deep { (48, 3, 520) } else { (32, 2, 40) };
    let spec = ModelSpec {
        width: Some(width),
        layers: Some(layers),
        heads: Some(4),
        kv_heads: Some(if family == 5 { 4 } else { 2 }),
        mlp: Some(mlp),
        context: Some(CONTEXT),
        ..Default::default()
    };
    let eos = MASK - 1;
    let mut config: ModelConfig = spec.resolve(VOCAB as usize, MASK, eos, vec![MASK]).unwrap();
    config.arch = arch(family, layers);
    let rng = Rng::new(seed, Stream::Test, 1);
    let noise = |i: usize| 0.05 * rng.normal(0, (i >> 20) as u32, (i & 0xfffff) as u32) as f32;
    let params = Layout::new(&config).init(&config, seed);
    let params = params.iter().enumerate().map(|(i, x)| 4.0 * x + noise(i)).collect();
    let (attention, block_size) = (Attention::BlockCausal, 8);
    let serving = Serving { attention, block_size, shift, infill: false, edits: false, uniform: false };
    let model = LoadedModel { config, serving, params };
    Arc::new(Weights::computing(&Cpu, &model, arithmetic).unwrap())
}

const POLICIES: [&str; 16] = [
    r#"{"kind": "threshold", "tau": 0.3}"#,
    r#"{"kind": "threshold", "tau": 0.2, "guidance": 0.7}"#,
    r#"{"kind": "threshold", "tau": 0.4, "top_k": 9, "top_p": 0.8, "repetition": 0.4}"#,
    r#"{"kind": "ancestral", "tokens_per_forward": 3}"#,
    r#"{"kind": "top_prob", "steps_per_block": 3}"#,
    r#"{"kind": "entropy_bound", "gamma": 1.5, "score": "pc"}"#,
    r#"{"kind": "klass", "tau": 0.2, "epsilon": 0.5, "history": 1}"#,
    r#"{"kind": "factor", "f": 2}"#,
    r#"{"kind": "edit", "tau_mask": 0.2, "tau_edit": 0.1, "max_post": 3}"#,
    r#"{"kind": "remask", "tau_mask": 0.2, "tau_remask": 0.1, "max_post": 3}"#,
    r#"{"kind": "remdm", "steps": 6, "eta": 0.3}"#,
    r#"{"kind": "wino", "tau_wide": 0.1, "tau_narrow": 0.4}"#,
    r#"{"kind": "draft_refine", "tau": 0.3, "gamma": 0.3, "refine_tau": 0.3}"#,
    r#"{"kind": "best_of", "n": 2, "tau": 0.3}"#,
    r#"{"kind": "order_token_search", "beams": 2, "tokens_per_forward": 3}"#,
    r#"{"kind": "left_to_right"}"#,
];

/// A text in its own words.
fn text() -> impl Strategy<Value = DecodeConfig> {
    let shape = (prop::collection::vec(0..MASK - 1, 1..14), 1u32..30, 0u32..12, 0usize..3);
    let draws = (any::<u64>(), 0u32..1 << 24, any::<bool>(), 0usize..5, 0usize..8);
    (shape, draws, 0..POLICIES.len()).prop_map(
        |((prompt, more, block_size, attention), (seed, sequence, greedy, top_k, cache), policy)| {
            let length = prompt.len() as u32 + more;
            let mut c = DecodeConfig::new(prompt, length, VOCAB, MASK);
            c.attention = [Attention::BlockCausal, Attention::Bidirectional, Attention::Causal][attention];
            c.block_size = block_size;
            c.eos_id = Some(MASK - 1);
            c.forbid = vec![MASK];
            (c.seed, c.sequence, c.top_k, c.rows) = (seed, sequence, top_k, true);
            c.temperature = if greedy { 0.0 } else { 0.7 };
            let counts: Vec<u64> = (0..VOCAB as u64).map(|i| 1 + i % 7).collect();
            c.frequencies = Some(Frequencies::of(&counts).unwrap());
            c.policy = serde_json::from_str(POLICIES[policy]).unwrap();
            if c.attention == Attention::Bidirectional {
                let mode = [CacheMode::Prefix, CacheMode::Dual, CacheMode::Delayed].get(cache);
                if let Some(mode) = mode {
                    let caching =
                        Caching { cache: *mode, cache_block: 5, cache_refresh: 3, ..c.policy.caching };
                    c.policy.caching = Caching { cache_check: seed % 2 == 0, ..caching };
                }
            } else if let Some((storage, press)) = [
                (Storage::Q8, Press::None),
                (Storage::Q4, Press::Keydiff),
                (Storage::Offloaded, Press::Snapkv),
                (Storage::F32, Press::Random),
            ]
            .get(cache)
            {
                let caching = Caching { cache_storage: *storage, cache_press: *press, ..c.policy.caching };
                let ratio = if *press == Press::None { 0.0 } else { 0.4 };
                c.policy.caching = Caching { cache_ratio: ratio, cache_check: seed % 2 == 0, ..caching };
            }
            c
        },
    )
}

/// The text under the model's shift; where its policy does not fit it, a simpler one.
fn decoder(config: &DecodeConfig, shift: bool) -> Decoder {
    let mut c = config.clone();
    c.shift = shift;
    if c.attention == Attention::Causal && !shift {
        // a model without the shift predicts no position from those before
        c.attention = Attention::BlockCausal;
    }
    if let Ok(d) = Decoder::new(c.clone()) {
        return d;
    }
    let simple = if c.attention == Attention::Causal { 15 } else { 0 };
    c.policy = serde_json::from_str(POLICIES[simple]).unwrap();
    Decoder::new(c).unwrap()
}

/// Every number of an answer.
fn bits(stats: &RowStats) -> Vec<u32> {
    let mut all: Vec<u32> = stats.logits.iter().map(|z| z.to_bits()).collect();
    for r in &stats.rows {
        let fields = [r.lse, r.max, r.second, r.entropy, r.current, r.candidate_logit, r.lse_t, r.margin];
        all.extend(fields.iter().map(|x| x.to_bits()));
        all.extend([r.argmax, r.candidate]);
        all.extend(r.top.iter().flat_map(|(id, p)| [*id, p.to_bits()]));
    }
    all
}

/// A record and the bits of each answer.
type Told = (Trajectory, Vec<Vec<u32>>);

fn alone(weights: &Arc<Weights<Cpu>>, mut decoder: Decoder) -> Told {
    let mut session = Session::new(&Cpu, weights.clone(), decoder.config().length as usize);
    let mut answers = vec![];
    while let Some(request) = decoder.next() {
        let stats = session.answer(&request).unwrap();
        answers.push(bits(&stats));
        decoder.apply(stats).unwrap();
    }
    (decoder.trajectory(), answers)
}

struct Member {
    decoder: Decoder,
    sequence: Sequence<Cpu>,
    answers: Vec<Vec<u32>>,
    /// round in which it joins
    joins: u32,
}

/// All of them in one batch, each from a round of its own on, and in each round only some, in changing order.
fn together(weights: &Arc<Weights<Cpu>>, decoders: Vec<Decoder>, seed: u64) -> Vec<Told> {
    let rng = Rng::new(seed, Stream::Test, 2);
    let member = |(i, decoder): (usize, Decoder)| Member {
        sequence: Sequence::new(&Cpu, weights, decoder.config().length as usize),
        decoder,
        answers: vec![],
        joins: rng.below(0, 0, i as u32, 6) as u32,
    };
    let mut members: Vec<Member> = decoders.into_iter().enumerate().map(member).collect();
    let mut batch = Batch::new(&Cpu, weights.clone(), 1);
    for round in 0.. {
        let requests: Vec<Option<ForwardRequest>> = members.iter_mut().map(|m| m.decoder.next()).collect();
        if requests.iter().all(Option::is_none) {
            break;
        }
        let here =
            |(i, m, r): (usize, &mut Member, Option<ForwardRequest>)| -> Option<(usize, ForwardRequest)> {
                r.filter(|_| m.joins <= round && rng.below(1, round, i as u32, 4) > 0).map(|r| (i, r))
            };
        let asking = members.iter_mut().zip(requests).enumerate().map(|(i, (m, r))| (i, m, r));
        let mut asked: Vec<(usize, ForwardRequest)> = asking.filter_map(here).collect();
        if rng.below(2, round, 0, 2) == 0 {
            asked.reverse();
        }
        let mut free: Vec<Option<&mut Member>> = members.iter_mut().map(Some).collect();
        let mut taken: Vec<&mut Member> = asked.iter().map(|(i, _)| free[*i].take().unwrap()).collect();
        let mut forward: Vec<(&mut Sequence<Cpu>, &ForwardRequest)> =
            taken.iter_mut().zip(&asked).map(|(m, (_, r))| (&mut m.sequence, r)).collect();
        let answers = batch.answer(&Cpu, &mut forward);
        assert_eq!(answers.len(), asked.len());
        for (m, stats) in taken.into_iter().zip(answers) {
            let stats = stats.unwrap();
            m.answers.push(bits(&stats));
            m.decoder.apply(stats).unwrap();
        }
    }
    members.into_iter().map(|m| (m.decoder.trajectory(), m.answers)).collect()
}

#[test]
fn a_text_does_not_know_who_shares_its_forwards() {
    let _turn = turn();
    let (forwards, replaced, shadows, shrunk) = (Cell::new(0), Cell::new(0), Cell::new(0), Cell::new(0));
    for level in [Level::Base, Level::V3, Level::V4] {
        if simd::limit(level) != level {
            println!("SKIPPED a_text_does_not_know_who_shares_its_forwards: this machine has no {level:?}");
            continue;
        }
        let mut runner =
            TestRunner::new(Config { cases: 60, failure_persistence: None, ..Config::default() });
        let arithmetic = prop_oneof![Just(Arithmetic::F32), Just(Arithmetic::Int8)];
        let model = (0usize..6, prop::bool::weighted(0.25), any::<bool>(), any::<u64>(), arithmetic);
        let all = (model, prop::collection::vec(text(), 2..6), any::<u64>());
        let ran = runner.run(&all, |((family, deep, shift, seed, arithmetic), texts, schedule)| {
            let weights = computing(family, deep, shift, seed, arithmetic);
            let decoders = || texts.iter().map(|c| decoder(c, shift)).collect::<Vec<_>>();
            let want: Vec<Told> = decoders().into_iter().map(|d| alone(&weights, d)).collect();
            let got = together(&weights, decoders(), schedule);
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                prop_assert_eq!(&got.1, &want.1, "answers to text {}", i);
                prop_assert_eq!(&got.0, &want.0, "record of text {}", i);
                prop_assert_eq!(got.0.footer.ids.len(), texts[i].length as usize);
            }
            let configs = decoders().iter().map(|d| d.config().clone()).collect();
            let at_once = 1 + schedule as usize % 4;
            let mut batch = Batch::new(&Cpu, weights.clone(), 8);
            let written = write_all(&Cpu, &mut batch, configs, at_once);
            for (got, want) in written.into_iter().zip(&want) {
                prop_assert_eq!(&got.unwrap(), &want.0);
            }
            for (t, _) in &want {
                forwards.set(forwards.get() + t.footer.ledger.forwards);
                shadows.set(shadows.get() + t.footer.ledger.shadow);
                let storage = t.header.config.policy.caching.cache_storage;
                shrunk.set(shrunk.get() + usize::from(storage != Storage::F32));
                let inside = t.steps.iter().filter(|s| s.cache.behind.is_some()).count();
                replaced.set(replaced.get() + inside);
            }
            Ok(())
        });
        ran.unwrap();
    }
    let (forwards, shadows, replaced, shrunk) = (forwards.get(), shadows.get(), replaced.get(), shrunk.get());
    println!(
        "{forwards} forwards, {shadows} rows of shadows, {replaced} forwards inside a cache, {shrunk} texts with a rounded or \
         offloaded one"
    );
    assert!(forwards > 1000 && shadows > 0 && replaced > 0 && shrunk > 0, "the cases are too plain");
    simd::limit(Level::V4);
}

/// A request that is refused leaves its own text and the others as they were.
#[test]
fn a_refused_request_changes_nothing() {
    let _turn = turn();
    let weights = weights(0, false, true, 3);
    let request = |ids: Vec<u32>, cache, rows| ForwardRequest {
        sequence: 0,
        step: 0,
        query_positions: (0..ids.len() as u32).collect(),
        ids,
        rule: Base::Bidirectional.into(),
        block_size: 0,
        cache,
        compression: Default::default(),
        want: Want { rows, top_k: 2, ..Default::default() },
    };
    let good = request(vec![3, 4, 5, MASK], CacheOp::Store, vec![3]);
    let bad = request(vec![3, VOCAB], CacheOp::Keep { keep: 1 }, vec![1]);
    let fresh = || Sequence::new(&Cpu, &weights, CONTEXT);
    let (mut a, mut b, mut c) = (fresh(), fresh(), fresh());
    let mut batch = Batch::new(&Cpu, weights.clone(), 4);
    let want = batch.answer(&Cpu, &mut [(&mut a, &good)]).pop().unwrap().unwrap();
    let got = batch.answer(&Cpu, &mut [(&mut b, &good), (&mut a, &bad), (&mut c, &good)]);
    assert_eq!(
        got[1],
        Err(SessionError::Range { what: "token id", value: VOCAB as usize, limit: VOCAB as usize })
    );
    for i in [0, 2] {
        assert_eq!(bits(got[i].as_ref().unwrap()), bits(&want));
    }
    assert_eq!((a.cached(), b.cached(), c.cached()), (4, 4, 4));
    // nobody at all
    assert!(batch.answer(&Cpu, &mut []).is_empty());
}

/// Nothing of a forward stays in the rows of a later one: a family whose head has a bias keeps a one beside each hidden row,
/// which the carried row of an empty text must not overwrite.
#[test]
fn a_longer_forward_behind_a_shorter_one_is_as_the_first() {
    let _turn = turn();
    for family in 0..6 {
        let weights = weights(family, false, true, 5);
        let request = |n: u32| ForwardRequest {
            sequence: 0,
            step: 0,
            query_positions: (0..n).collect(),
            ids: (0..n).map(|i| if i % 3 == 0 { MASK } else { i }).collect(),
            rule: Base::Bidirectional.into(),
            block_size: 0,
            cache: CacheOp::None,
            compression: Default::default(),
            want: Want { rows: (1..n).collect(), top_k: 2, ..Default::default() },
        };
        let mut session = Session::new(&Cpu, weights.clone(), CONTEXT);
        let first = session.answer(&request(20)).unwrap();
        session.answer(&request(5)).unwrap();
        assert_eq!(bits(&session.answer(&request(20)).unwrap()), bits(&first), "family {family}");
    }
}

/// One forward takes what fits, and at least one request.
#[test]
fn rows_and_logits_limit_a_forward() {
    let _turn = turn();
    let batch = Batch::new(&Cpu, weights(0, false, false, 1), 1);
    let asks = |rows: u32, whole: u32| {
        let want = Want { whole: (0..whole).collect(), ..Default::default() };
        let text = json!({"sequence": 0, "step": 0, "query_positions": (0..rows).collect::<Vec<_>>(),
            "ids": vec![0; rows as usize], "rule": {"attention": "bidirectional"}, "block_size": 0, "cache": "none",
            "want": want});
        serde_json::from_value::<ForwardRequest>(text).unwrap()
    };
    let of = |all: &[(u32, u32)], rows| {
        let all: Vec<ForwardRequest> = all.iter().map(|(n, whole)| asks(*n, *whole)).collect();
        batch.take(&all, rows)
    };
    assert_eq!(of(&[(8, 0), (8, 0), (8, 0)], 16), 2);
    assert_eq!(of(&[(40, 0), (8, 0)], 16), 1);
    assert_eq!(of(&[(8, 0), (40, 0), (8, 0)], 16), 1);
    // 2 ^ 25 logits of 90 tokens are those of 372 827 rows
    assert_eq!(of(&[(1, 200_000), (1, 200_000), (1, 1)], 1 << 20), 1);
}
