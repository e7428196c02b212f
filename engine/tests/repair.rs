//! `eval::repair` on a model whose answers are known: it expects every token to repeat the one before.

use std::sync::Arc;

use hilda_engine::config::ModelSpec;
use hilda_engine::decode::Attention;
use hilda_engine::eval::repair::{Errors, Outcome, Repair, repair, share};
use hilda_engine::model::session::Weights;
use hilda_engine::model::{Layout, LoadedModel, Serving, Session};
use hilda_kernels::Cpu;

const CONTEXT: usize = 24;

/// Layers that add nothing and a tied head: with the logit shift, position n is predicted to be token n - 1.
fn repeats() -> Session<Cpu> {
    let spec = ModelSpec {
        width: Some(16),
        layers: Some(1),
        heads: Some(2),
        mlp: Some(24),
        context: Some(CONTEXT),
        ..Default::default()
    };
    let config = spec.resolve(12, 1, 0, vec![1]).unwrap();
    let layout = Layout::new(&config);
    let mut params = layout.init(&config, 11);
    params[layout.embed.len.div_ceil(64) * 64..layout.norm.offset].fill(0.0);
    // rows of length 4 in the embedding: each is closest to itself
    for row in params[..layout.embed.len].chunks_exact_mut(config.width) {
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|x| *x *= 4.0 / norm);
    }
    let serving = Serving {
        attention: Attention::BlockCausal,
        block_size: 8,
        shift: true,
        infill: false,
        edits: true,
        uniform: false,
    };
    let loaded = LoadedModel { config, serving, params };
    Session::new(&Cpu, Arc::new(Weights::new(&Cpu, &loaded)), CONTEXT)
}

fn outcome(errors: Errors, rate: f64, threshold: f32, text: &[u32]) -> Outcome {
    let r = Repair { errors, rate, threshold, passes: 16, block: 8, seed: 5 };
    let mut session = repeats();
    let first = repair(&Cpu, &mut session, text, 7, &r).unwrap();
    assert_eq!(
        first,
        repair(&Cpu, &mut session, text, 7, &r).unwrap(),
        "keyed by document and position alone"
    );
    assert_eq!(first.wrong + first.right, text.len() as u64 - 1, "the first token is given");
    assert!(first.repaired + first.moved <= first.wrong);
    first
}

#[test]
fn a_text_that_repeats_is_repaired() {
    let text = [5; CONTEXT - 1];
    let o = outcome(Errors::Uniform, 0.3, 0.0, &text);
    // a block's first row does not read its token, so that it is not edited; the row after repeats it
    assert!(o.wrong > 0 && o.good_edits > 0, "{o:?}");
    assert_eq!(o.good_edits as i64 - o.bad_edits as i64, o.repaired as i64 - o.harmed as i64, "{o:?}");
    assert_eq!(outcome(Errors::Uniform, 1.0, 0.0, &text).right, 0, "rate 1 replaces every token");
}

#[test]
fn a_text_that_never_repeats_is_spoiled_and_an_unreachable_threshold_spoils_nothing() {
    let text: Vec<u32> = (0..CONTEXT as u32).map(|i| 2 + i % 10).collect();
    let o = outcome(Errors::Uniform, 0.01, 0.0, &text);
    // all but the first tokens of the second and third block
    assert!(o.harmed + 2 == o.right && o.right > 20, "{o:?}");
    let still = outcome(Errors::Uniform, 0.5, 0.9999999, &text);
    assert_eq!((still.repaired, still.moved, still.harmed, still.good_edits), (0, 0, 0, 0), "{still:?}");
    assert!(still.wrong > 0);
}

#[test]
fn drafts_are_the_models_own_tokens() {
    // the model writes what stood before a mask; a lone mask in a repeating text is drafted right
    let o = outcome(Errors::Drafts, 0.1, 0.0, &[5; CONTEXT]);
    assert!(o.wrong <= 3, "{o:?}");
    let all = outcome(Errors::Drafts, 1.0, 0.9999999, &[5; CONTEXT]);
    assert!(all.wrong > 10, "behind other masks nothing is known: {all:?}");
}

#[test]
fn shares_carry_the_error_of_a_ratio() {
    let (value, error) = share([(1, 2), (1, 2), (1, 2)].into_iter());
    assert_eq!((value, error), (0.5, 0.0));
    let (value, error) = share([(0, 10), (10, 10)].into_iter());
    // two documents at 0 and 1: sqrt(2 (25 + 25)) / 20
    assert!((value - 0.5).abs() < 1e-12 && (error - 0.5).abs() < 1e-12, "{value} {error}");
    assert!(share([(1, 2)].into_iter()).1.is_nan());
}
