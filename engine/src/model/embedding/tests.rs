use std::sync::Arc;

use super::*;
use crate::config::ModelSpec;
use crate::decode::{DecodeConfig, Feature, Method, Switch, policy::Score};
use crate::model::{Layout, LoadedModel, Serving};
use hilda_kernels::Cpu;

fn weights(shift: bool) -> Arc<Weights<Cpu>> {
    let spec = ModelSpec { size: Some("tiny".into()), ..Default::default() };
    let mut config = spec.resolve(70, 69, 68, vec![69]).unwrap();
    config.layers = 2;
    let params = Layout::new(&config).init(&config, 3).iter().map(|x| 6.0 * x).collect();
    let serving = Serving {
        attention: Attention::BlockCausal,
        block_size: 8,
        shift,
        infill: false,
        edits: false,
        uniform: false,
    };
    Arc::new(Weights::of(LoadedModel { config, serving, params }))
}

fn config(attention: Attention, shift: bool, seed: u64) -> DecodeConfig {
    let prompt = (0..19).map(|i| (i * 7 + seed as u32) % 68).collect();
    let mut c = DecodeConfig::new(prompt, 40, 70, 69);
    (c.attention, c.shift, c.forbid, c.seed, c.temperature) = (attention, shift, vec![69], seed, 0.8);
    c.block_size = if attention == Attention::BlockCausal { 8 } else { 0 };
    c.policy = Method::Threshold { tau: 0.1, score: Score::TopProb }.into();
    c
}

fn largest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

/// e without a cache and without RoPE's inverse: the keys and values before rotation, straight from the projections of a
/// plain forward over the whole text.
fn recomputed(w: &Weights<Cpu>, ids: &[u32], attention: Attention, set: &[u32]) -> Vec<f32> {
    let (trunk, n) = (&w.trunk, ids.len());
    let c = &trunk.config;
    let mut plan = trunk.plan_keeping(&Cpu, n, Keep::Inputs);
    let block = if attention == Attention::BlockCausal { 8 } else { 0 };
    hidden_means(&Cpu, w, &mut plan, ids, (attention, block), set);
    let (d, kv, mut e) = (c.width, c.kv_heads * c.head_dim, vec![0.0f64; width(c)]);
    for layer in 0..c.layers {
        let l = &trunk.layout.layers[layer];
        for p in set {
            let x = &plan.inputs[layer][*p as usize * d..][..d];
            let ms = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / d as f64;
            let scale = 1.0 / (ms + f64::from(c.norm_eps)).sqrt();
            let h: Vec<f64> =
                (0..d).map(|i| f64::from(x[i]) * scale * f64::from(w.params[l.norm1.offset + i])).collect();
            let h: Vec<f32> = h.into_iter().map(|x| x as f32).collect();
            let mut y = vec![0.0; c.qkv()];
            Cpu.linear(&h, &w.params, l.qkv, &mut y, 1, c.qkv(), d, false);
            for (e, y) in e.iter_mut().zip(&y[c.heads * c.head_dim..]) {
                *e += f64::from(*y) / (c.layers * set.len()) as f64;
            }
        }
        assert_eq!(2 * kv, width(c));
    }
    e.into_iter().map(|x| x as f32).collect()
}

/// What the store passes of a decoding left is what one clean forward over the final text computes, and both are the keys
/// and values before RoPE. The last block has no store pass.
#[test]
fn the_cache_holds_the_clean_text() {
    for shift in [false, true] {
        let w = weights(shift);
        let mut session = Session::new(&Cpu, w.clone(), 40);
        let mut decoder = Decoder::new(config(Attention::BlockCausal, shift, 1)).unwrap();
        crate::model::generate::run(&Cpu, &mut session, &mut decoder, |_| true).unwrap();
        let ids = decoder.state().ids().to_vec();
        let blocks: Vec<Vec<u32>> = (0..4).map(|b| (b * 8..b * 8 + 8).collect()).collect();
        let stored = embeddings(&Cpu, &w.trunk, session.sequence(), &blocks);
        read_text(&Cpu, &mut session, &ids, Attention::BlockCausal, 8).unwrap();
        let clean = embeddings(&Cpu, &w.trunk, session.sequence(), &blocks);
        for (i, set) in blocks.iter().enumerate() {
            let (a, b) = (stored[i].as_ref().unwrap(), clean[i].as_ref().unwrap());
            assert!(largest(a, b) < 1e-4, "block {i}");
            let own = recomputed(&w, &ids, Attention::BlockCausal, set);
            assert!(largest(b, &own) < 1e-4, "block {i}: {}", largest(b, &own));
        }
        read_text(&Cpu, &mut session, &ids, Attention::Bidirectional, 0).unwrap();
        let whole = embeddings(&Cpu, &w.trunk, session.sequence(), &[vec![3, 17, 39], vec![], vec![40]]);
        let own = recomputed(&w, &ids, Attention::Bidirectional, &[3, 17, 39]);
        assert!(largest(whole[0].as_ref().unwrap(), &own) < 1e-4);
        assert_eq!(&whole[1..], [None, None]);
    }
}

/// The same e whatever the session held before and whoever shares its weights, to the bit.
#[test]
fn others_change_nothing() {
    let w = weights(true);
    let look = |session: &mut Session<Cpu>, seed| {
        session.forget();
        let mut decoder = Decoder::new(config(Attention::Bidirectional, true, seed)).unwrap();
        let request = decoder.next().unwrap();
        session.answer(&request).unwrap();
        let sets = [Feature::Known, Feature::Near, Feature::Open]
            .map(|f| f.positions(decoder.state(), 0, 40).unwrap());
        embeddings(&Cpu, &session.weights().trunk, session.sequence(), &sets)
    };
    let mut alone = Session::new(&Cpu, w.clone(), 40);
    let first = look(&mut alone, 1);
    let mut shared = Session::new(&Cpu, w.clone(), 64);
    for seed in 2..5 {
        look(&mut shared, seed);
        read_text(&Cpu, &mut shared, &[5; 60], Attention::BlockCausal, 8).unwrap();
    }
    let other = look(&mut shared, 1);
    assert_eq!(first, other);
    assert!(first.iter().all(Option::is_some) && first[0] != first[1]);
}

fn switch(features: Vec<Feature>, width: usize, bias: f32) -> Switch {
    let method = |tau| Method::Threshold { tau, score: Score::TopProb };
    Switch {
        fast: method(0.0),
        slow: method(1.0),
        features,
        mean: vec![0.0; width],
        scale: vec![1.0; width],
        weights: vec![0.0; width],
        bias,
        note: String::new(),
    }
}

/// A switch that says fast writes exactly what the fast policy writes, and likewise slow; d and the choice are in the record
/// of the first denoising forward and nowhere else; no forward is added.
#[test]
fn a_switch_is_one_of_its_policies() {
    let w = weights(true);
    let wide = width(&w.trunk.config);
    for attention in [Attention::BlockCausal, Attention::Bidirectional] {
        for (bias, slow) in [(-2.0, false), (2.0, true)] {
            let s = switch(vec![Feature::Near, Feature::Entropy], wide + 1, bias);
            let run = |policy, switch| {
                let mut c = config(attention, true, 1);
                (c.policy, c.switch) = (policy, switch);
                let mut session = Session::new(&Cpu, w.clone(), 40);
                let mut decoder = Decoder::new(c).unwrap();
                crate::model::generate::run(&Cpu, &mut session, &mut decoder, |_| true).unwrap();
                decoder.trajectory()
            };
            let alone = run(if slow { s.slow } else { s.fast }.into(), None);
            let chosen = run(Method::Switch { at: 50.0 }.into(), Some(Arc::new(s.clone())));
            assert_eq!(alone.footer.ids, chosen.footer.ids);
            assert_eq!(alone.footer.ledger, chosen.footer.ledger);
            let told: Vec<_> =
                chosen.steps.iter().filter_map(|s| Some((s.kind, s.rule.as_ref()?.switch?))).collect();
            assert_eq!(told.len(), 1);
            let d = 100.0 / (1.0 + (-bias).exp());
            assert_eq!(told[0].1.slow, slow);
            assert!((told[0].1.d.unwrap() - d).abs() < 1e-3 && told[0].1.at == 50.0);
            let first = chosen.steps.iter().position(|s| s.rule.is_some()).unwrap();
            assert_eq!(first, usize::from(attention == Attention::BlockCausal));
            let json = serde_json::to_string(&chosen).unwrap();
            let back: crate::decode::Trajectory = serde_json::from_str(&json).unwrap();
            assert_eq!(back.steps[first].rule.as_ref().unwrap().switch, Some(told[0].1));
            assert!(back.replay().is_ok());
        }
    }
}

#[test]
fn a_switch_that_cannot_decide_is_refused() {
    use crate::decode::DecodeError;
    let w = weights(true);
    let wide = width(&w.trunk.config);
    let with = |s: Option<Switch>| {
        let mut c = config(Attention::Bidirectional, true, 1);
        (c.policy, c.switch) = (Method::Switch { at: 50.0 }.into(), s.map(Arc::new));
        c
    };
    let refused = |s: Option<Switch>| Decoder::new(with(s)).unwrap_err();
    assert_eq!(refused(None), DecodeError::NoSwitch);
    let mut search = switch(vec![Feature::Near], wide, 0.0);
    search.slow = serde_json::from_str(r#"{"kind": "best_of"}"#).unwrap();
    assert!(refused(Some(search.clone())).to_string().contains("best_of"));
    for method in [
        r#"{"kind": "klass"}"#,
        r#"{"kind": "remdm"}"#,
        r#"{"kind": "switch"}"#,
        r#"{"kind": "draft_refine"}"#,
    ] {
        search.slow = serde_json::from_str(method).unwrap();
        assert!(matches!(refused(Some(search.clone())), DecodeError::Switch(_)), "{method}");
    }
    let both = switch(vec![Feature::Near, Feature::Known], 2 * wide, 0.0);
    assert!(matches!(refused(Some(both)), DecodeError::Switch(_)));
    // a driver that cannot read keys and values
    let s = switch(vec![Feature::Near], wide, 0.0);
    let mut decoder = Decoder::new(with(Some(s))).unwrap();
    let mut session = Session::new(&Cpu, w.clone(), 40);
    let stats = session.answer(&decoder.next().unwrap()).unwrap();
    assert_eq!(decoder.apply(stats.clone()).unwrap_err(), DecodeError::NoEmbedding);
    // the forward is still pending, and goes through once it is told
    tell(&Cpu, &w.trunk, session.sequence(), &mut decoder);
    assert!(decoder.apply(stats).is_ok());
}
