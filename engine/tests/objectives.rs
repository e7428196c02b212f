//! Objectives that change what a step computes: sharpening of right predictions, rows cut at random.

use hilda_engine::config::{ModelSpec, RunConfig};
use hilda_engine::data::Packed;
use hilda_engine::model::Trunk;
use hilda_engine::train::Learner;
use hilda_engine::train::memory::plan_rows;
use hilda_kernels::Cpu;

fn config(phase: &str) -> RunConfig {
    RunConfig::from_toml(&format!(
        "name = \"t\"\nseed = 3\n[model]\nwidth = 16\nlayers = 2\nheads = 2\nmlp = 32\n[data]\ntrain = \"x\"\npacking = {{ length = 16 }}\n\
         [batch]\nrows = 8\nmicro = 4\n[[phase]]\nobjective = \"mdlm\"\ntokens = 2560\nlr = {{ peak = 5e-3 }}\n{phase}\n"
    ))
    .unwrap()
}

/// Rows that alternate between two tokens: easy enough to be right about.
fn data() -> Packed {
    let rows: Vec<u32> = (0..16 * 16).map(|i| 3 + (i % 2)).collect();
    Packed { rows, length: 16, eos: 0, documents: 16, tokens: 16 * 16, answers: vec![] }
}

fn learner(config: &RunConfig) -> Learner<Cpu> {
    let spec = ModelSpec { context: Some(16), ..config.model.clone() };
    let trunk = Trunk::new(spec.resolve(9, 1, 0, vec![1]).unwrap());
    let params = trunk.layout.init(&trunk.config, 1);
    Learner::new(Cpu, trunk, &params, plan_rows(config))
}

/// Steps from the same weights: (loss, gradient) of the last one.
fn train(phase: &str, micro: usize, steps: u64) -> (f64, Vec<f32>, Vec<f32>) {
    let mut c = config(phase);
    c.batch.micro = Some(micro);
    let mut l = learner(&c);
    let mut loss = 0.0;
    for step in 0..steps {
        loss = l.step(&c, &data(), &c.phases[0], 5e-3, step).loss;
    }
    (loss, l.gradient(), l.params.clone())
}

/// With weight 0 it is the plain loss; with a weight the loss gains the entropies of right predictions, the result does not
/// depend on the cut into micro-batches, and the model ends surer than without.
#[test]
fn right_predictions_are_sharpened() {
    let (plain, gradient, _) = train("", 4, 1);
    assert_eq!(train("confidence = 0.0", 4, 1).1, gradient);
    let (loss, sharpened, _) = train("confidence = 2.0", 4, 20);
    let (without, _, _) = train("", 4, 20);
    assert!(loss.is_finite() && without < plain, "{plain} {without} {loss}");
    let (whole, all, _) = train("confidence = 2.0", 8, 20);
    assert!((whole - loss).abs() < 1e-4, "{whole} {loss}");
    assert!(all.iter().zip(&sharpened).all(|(a, b)| (a - b).abs() < 1e-3));
    // by how much the loss grows at the same weights: beta times the entropies of right predictions over all masked
    let mut c = config("confidence = 0.0");
    let mut l = learner(&c);
    for step in 0..20 {
        l.step(&c, &data(), &c.phases[0], 5e-3, step);
    }
    let weights = l.params.clone();
    let mut at = |beta: f64| {
        let mut l = learner(&c);
        l.params.copy_from_slice(&weights);
        c.phases[0].confidence = beta;
        l.step(&c, &data(), &c.phases[0].clone(), 1e-9, 20).loss
    };
    let (zero, one, two) = (at(0.0), at(1.0), at(2.0));
    assert!(one > zero && one - zero < 8f64.ln(), "at most ln 8 a token: {zero} {one}");
    assert!((two - zero - 2.0 * (one - zero)).abs() < 1e-4, "linear in the weight: {zero} {one} {two}");
}

#[test]
fn cut_rows_train_like_any_other() {
    let (never, _, _) = train("", 4, 3);
    let (always, _, params) = train("random_length = 1.0", 4, 3);
    assert!(always.is_finite() && params.iter().all(|p| p.is_finite()));
    assert_ne!(never, always, "cut rows see less");
    assert_eq!(train("random_length = 1.0", 8, 3).2.len(), params.len());
}

/// Training on answers alone: prompts weigh nothing, the first step's loss is that of the answers' tokens, and a model learns
/// to answer.
#[test]
fn prompts_are_context_and_answers_are_learnt() {
    // token 3 or 4 asks, 5 or 6 answers; what is asked is anything
    let rows: Vec<u32> = (0..32 * 16u32)
        .map(|i| {
            let asks = 3 + (i / 2) * 7919 % 2;
            if i % 2 == 0 { asks } else { asks + 2 }
        })
        .collect();
    let answers = (0..rows.len()).map(|i| i % 2 == 1).collect();
    let all = Packed { rows, length: 16, eos: 0, documents: 1, tokens: 32 * 16, answers: vec![] };
    let asked = Packed { answers, ..all.clone() };
    let run = |phase: &str, data: &Packed| {
        let mut c = config(phase);
        c.batch.micro = Some(8);
        let mut l = learner(&c);
        let losses: Vec<f64> = (0..60).map(|s| l.step(&c, data, &c.phases[0], 1e-2, s).loss).collect();
        (losses[0], losses[50..].iter().sum::<f64>() / 10.0)
    };
    for phase in ["", "shift = true", "hybrid = { p_uniform = 0.2 }\n[sample]\nlength = 0"] {
        let (first, last) = run(phase, &asked);
        let (_, whole) = run(phase, &all);
        assert!(first.is_finite() && last < 0.6 * first && last < whole, "{phase}: {first} {last} {whole}");
    }
    let micro = |data: &Packed| {
        let c = config("");
        let l = learner(&c);
        let rows: Vec<_> = (0..8).map(|i| data.row(i)).collect();
        hilda_engine::train::step::micro_batches(&c, &l.trunk, &c.phases[0], &rows, 0)
    };
    let columns = |data: &Packed| {
        let all = micro(data).into_iter().flat_map(|m| m.hidden_rows.into_iter().map(|h| h % 16));
        all.collect::<Vec<u32>>()
    };
    assert!(columns(&asked).iter().all(|c| c % 2 == 1) && columns(&all).iter().any(|c| c % 2 == 0));
}
