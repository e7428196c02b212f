//! The judge agrees with the estimator `ar`, and sees every edit of a decoding once.

use std::sync::Arc;

use hilda_engine::config::{ModelSpec, PackingSpec};
use hilda_engine::data::{Packed, Tokenizer, bpe};
use hilda_engine::decode::{Attention, Method, PolicySpec};
use hilda_engine::diffusion::likelihood::{Estimator, Evaluation, evaluate, plan_rows};
use hilda_engine::eval::edits::write;
use hilda_engine::eval::judge::{NotCausal, Score, TextJudge};
use hilda_engine::model::generate::Request;
use hilda_engine::model::session::Weights;
use hilda_engine::model::{Layout, LoadedModel, Serving, Session, Trunk};
use hilda_kernels::Cpu;

const STORIES: [&str; 3] =
    ["Tom saw a red ball and a dog.", "The dog ran to Tom.", "Tom was happy and the dog was happy too."];

fn tokenizer() -> Tokenizer {
    bpe::train(&STORIES, 280).unwrap()
}

/// Random weights, large enough to have opinions.
fn model(tokenizer: &Tokenizer, attention: Attention) -> LoadedModel {
    let spec = ModelSpec {
        width: Some(16),
        layers: Some(2),
        heads: Some(2),
        mlp: Some(24),
        context: Some(48),
        ..Default::default()
    };
    let s = tokenizer.specials();
    let mut config = spec.resolve(tokenizer.vocab(), s.mask, s.eos, vec![]).unwrap();
    config.take_roles(tokenizer);
    let init = Layout::new(&config).init(&config, 11);
    let params = init.iter().map(|x| if *x == 1.0 { 1.0 } else { 12.0 * x }).collect();
    let serving =
        Serving { attention, block_size: 8, shift: true, infill: false, edits: true, uniform: false };
    LoadedModel { config, serving, params }
}

#[test]
fn a_score_is_the_ar_likelihood() {
    let tokenizer = tokenizer();
    let model = model(&tokenizer, Attention::Causal);
    let judge = TextJudge::new(&model, self::tokenizer()).unwrap();
    let trunk = Trunk::new(model.config.clone());
    // a longer text after a shorter one, and a short one again
    for text in [STORIES[1], STORIES[2], STORIES[1]] {
        let mut rows = vec![model.config.eos_id];
        rows.extend(tokenizer.encode(text).unwrap());
        let length = rows.len();
        let data =
            Packed { rows, length, eos: model.config.eos_id, documents: 1, tokens: length, answers: vec![] };
        let packing =
            PackingSpec { length, documents: false, restart_positions: false, restart_blocks: false };
        let e = Evaluation {
            estimator: Estimator::Ar,
            seed: 0,
            shift: true,
            packing,
            rows: 0,
            bytes_per_token: None,
        };
        let mut plan = trunk.plan(&Cpu, plan_rows(Estimator::Ar, length), false);
        let want = evaluate(&Cpu, &trunk, &model.params, &mut plan, &data, &e, |_, _| true).unwrap();
        let score = judge.score(text).unwrap();
        assert_eq!(score.tokens as u64, want.tokens);
        let nats = -score.log_p / score.tokens as f64;
        assert!((nats - want.value).abs() < 1e-4, "{nats} but ar = {}", want.value);
    }
    assert_eq!(judge.score("").unwrap(), Score::default());
    let (whole, start) = (judge.score(STORIES[2]).unwrap(), judge.score("Tom was").unwrap());
    assert!(whole.after(start).log_p > whole.log_p && whole.after(start).tokens < whole.tokens);
}

#[test]
fn what_cannot_be_judged_is_refused() {
    let tokenizer = tokenizer();
    let block = model(&tokenizer, Attention::BlockCausal);
    assert!(matches!(TextJudge::new(&block, self::tokenizer()), Err(NotCausal(_))));
    // a text longer than the context is read in windows: every token is scored once
    let judge = TextJudge::new(&model(&tokenizer, Attention::Causal), self::tokenizer()).unwrap();
    let long = STORIES[2].repeat(20);
    let score = judge.score(&long).unwrap();
    assert!(
        score.tokens > 48
            && score.tokens == tokenizer.encode(&long).unwrap().len()
            && score.log_p.is_finite()
    );
}

#[test]
fn every_edit_has_a_gain() {
    let tokenizer = tokenizer();
    let writer = model(&tokenizer, Attention::BlockCausal);
    let judge = TextJudge::new(&model(&tokenizer, Attention::Causal), self::tokenizer()).unwrap();
    let mut session = Session::new(&Cpu, Arc::new(Weights::new(&Cpu, &writer)), 48);
    let mut text = |tau_edit: Option<f32>, seed| {
        let policy = PolicySpec::from(Method::Edit {
            tau_mask: 0.1,
            tau_edit,
            max_post: 4,
            max_returns: Some(1),
            window: 1,
            window_passes: 5,
            window_by: hilda_engine::decode::policy::Reach::Adjacent,
            score: hilda_engine::decode::policy::Score::TopProb,
        });
        let request = Request { policy: Some(policy), temperature: 1.0, seed, ..Request::new("Tom", 12) };
        let text = write(&mut session, writer.serving, &tokenizer, &request, &judge).unwrap();
        let again = write(&mut session, writer.serving, &tokenizer, &request, &judge).unwrap();
        assert_eq!(text, again);
        text
    };
    let edited: usize = (0..4).map(|seed| text(Some(0.0), seed).gains.len()).sum();
    assert!(edited > 0, "a random model that may edit whenever it changes its mind did not");
    for seed in 0..4 {
        let plain = text(None, seed);
        assert!(plain.gains.is_empty() && plain.score.log_p < 0.0 && plain.forwards > 0);
    }
}
