//! The first steps of the two parity recipes on a smaller model, through the whole loop, against a recorded curve
//! (`curves.json`): whatever changes what a run computes shows here first.
//!
//! `HILDA_RECORD=1 cargo test -p hilda-engine --test curves` records again. Another matrix product (AVX-512, AVX2,
//! NEON) rounds differently, and that grows from step to step, hence the tolerance.

use std::path::Path;

use hilda_engine::config::RunConfig;
use hilda_engine::data::{Packed, bpe, pack::pack_texts};
use hilda_engine::record::Metric;
use hilda_engine::train::{Hooks, Input, Outcome, RunFolder, train};
use hilda_kernels::Cpu;
use serde::{Deserialize, Serialize};

const STEPS: u64 = 12;
/// Relative, for every recorded number.
const TOLERANCE: f64 = 1e-3;

#[derive(Debug, Serialize, Deserialize)]
struct Curve {
    recipe: String,
    /// (loss, gradient norm before clipping, learning rate) of each step
    train: Vec<[f64; 3]>,
    /// estimator and value after the last step
    estimator: String,
    valid: f64,
}

fn input(length: usize) -> Input {
    let names = ["the cat", "a small dog", "my bird", "one fish", "her old horse"];
    let places = ["in the park", "by the lake", "under a tree"];
    let text = |i: usize| {
        let (a, b, place) = (names[i % 5], names[(i / 5 + i % 3) % 5], places[(i / 7) % 3]);
        format!("Day {i}: {a} saw {b} {place}. They played until the sun went down and went home.")
    };
    let texts: Vec<String> = (0..300).map(text).collect();
    let tokenizer = bpe::train(&texts, 320).unwrap();
    let all = pack_texts(&tokenizer, &texts, length).unwrap();
    let (valid, train) = all.rows.split_at(8 * length);
    let part = |rows: &[u32]| Packed { rows: rows.to_vec(), ..all.clone() };
    Input { train: part(train), valid: part(valid), tokenizer, bytes_per_token: 2.0, shape: None }
}

fn run(name: &str) -> Curve {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes").join(format!("{name}.toml"));
    let mut config = RunConfig::from_toml(&std::fs::read_to_string(recipe).unwrap()).unwrap();
    config.model.size = Some("tiny".into());
    config.batch.rows = 8;
    config.data.packing.length = 64;
    config.phases[0].tokens = STEPS * 8 * 64;
    // at the recipe's own warm-up twelve steps would hardly move a weight
    config.phases[0].lr.warmup = 4;
    config.validate().unwrap();
    let folder = tempfile::tempdir().unwrap();
    RunFolder::create(folder.path(), &config).unwrap();
    let mut open = RunFolder::open(folder.path()).unwrap();
    let mut hooks = Hooks {
        now: &|| 0.0,
        stop: &|| false,
        progress: &mut |_| {},
        device: "test".into(),
        command: "test".into(),
    };
    let outcome = train(Cpu, &mut open, &config, &input(64), &mut hooks).unwrap();
    assert_eq!(outcome, Outcome::Finished);
    let mut curve = Curve { recipe: name.into(), train: vec![], estimator: String::new(), valid: f64::NAN };
    for line in std::fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap().lines() {
        match serde_json::from_str(line).unwrap() {
            Metric::Train { loss, grad_norm, lr, .. } => curve.train.push([loss, grad_norm, lr]),
            Metric::Valid { estimate, .. } => {
                (curve.estimator, curve.valid) = (estimate.estimator, estimate.value)
            }
            _ => {}
        }
    }
    curve
}

#[test]
fn the_parity_recipes_follow_their_recorded_curves() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/curves.json");
    let now: Vec<Curve> = ["parity-ar-9m", "parity-mdlm-9m"].map(run).into();
    if std::env::var_os("HILDA_RECORD").is_some() {
        return std::fs::write(file, serde_json::to_string_pretty(&now).unwrap() + "\n").unwrap();
    }
    let recorded: Vec<Curve> = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(recorded.len(), now.len());
    for (got, want) in now.iter().zip(&recorded) {
        assert_eq!((&got.recipe, &got.estimator), (&want.recipe, &want.estimator));
        assert_eq!(got.train.len(), STEPS as usize, "{}", got.recipe);
        let mut worst = (got.valid - want.valid).abs() / want.valid;
        for (g, w) in got.train.iter().zip(&want.train) {
            worst = g.iter().zip(w).map(|(g, w)| (g - w).abs() / w).fold(worst, f64::max);
        }
        println!("{}: largest relative difference {worst:.1e}", got.recipe);
        assert!(worst < TOLERANCE, "{}: {worst:e}\nnow {:?}\nrecorded {:?}", got.recipe, got, want);
    }
}
