//! Adapters: their gradient against finite differences and against the gradient of the full weights, training that
//! moves nothing else, exact resume, PEFT's files.

use std::path::Path;

use hilda_engine::config::{LoraSpec, RunConfig};
use hilda_engine::data::{Packed, Row};
use hilda_engine::model::lora::Adapter;
use hilda_engine::model::source::Source;
use hilda_engine::model::{Keep, Trunk, checkpoint as model};
use hilda_engine::train::memory::plan_rows;
use hilda_engine::train::step::{Learner, micro_batches};
use hilda_engine::train::trainer::model_config;
use hilda_engine::train::{Hooks, Input, RunFolder, checkpoint, train};
use hilda_kernels::Cpu;
use hilda_kernels::rng::{Rng, Stream};

fn recipe(lora: &str) -> RunConfig {
    RunConfig::from_toml(&format!(
        "name = \"l\"\nseed = 5\n[model]\nwidth = 16\nlayers = 2\nheads = 4\nkv_heads = 2\nmlp = 24\n{lora}\n[data]\ntrain = \"x\"\n\
         packing = {{ length = 16 }}\n[batch]\nrows = 4\n[optimiser]\nweight_decay = 0.0\n[eval]\nrows = 4\n[checkpoint]\nevery = 2\n\
         [sample]\nlength = 0\n[[phase]]\nobjective = \"mdlm\"\nshift = true\ntokens = 384\nlr = {{ peak = 1e-2 }}"
    ))
    .unwrap()
}

const LORA: &str = "[lora]\nrank = 3\nalpha = 5.0\ntargets = [\"q\", \"v\", \"o\", \"down\", \"gate\"]";

fn input() -> Input {
    let texts: Vec<String> =
        (0..60).map(|i| format!("the cat {} saw a dog {} go home", i % 7, i % 5)).collect();
    let tokenizer = hilda_engine::data::bpe::train(&texts, 280).unwrap();
    let train = hilda_engine::data::pack::pack_texts(&tokenizer, &texts, 16).unwrap();
    let valid = Packed { rows: train.rows[..6 * 16].to_vec(), ..train.clone() };
    Input { tokenizer, train, valid, bytes_per_token: 2.0, shape: None }
}

/// An adapter that is not at its start: B differs from zero.
fn moved(trunk: &Trunk, spec: &LoraSpec) -> Adapter {
    let mut a = Adapter::new(&trunk.config, &trunk.layout, spec, 1);
    let rng = Rng::new(9, Stream::Init, 0);
    a.theta.iter_mut().enumerate().for_each(|(i, x)| *x = 0.1 * rng.normal(0, i as u32, 0) as f32);
    a
}

#[test]
fn the_gradient_is_that_of_the_loss_and_follows_from_the_full_one() {
    let (config, input) = (recipe(LORA), input());
    let spec = config.lora.clone().unwrap();
    let trunk = Trunk::new(model_config(&config, &input).unwrap());
    // weights large enough that no gradient drowns in rounding
    let base: Vec<f32> =
        trunk.layout.init(&trunk.config, 1).iter().map(|x| if *x == 1.0 { 1.0 } else { 8.0 * x }).collect();
    let total = trunk.layout.total;
    let rows: Vec<Row> = (0..4).map(|i| input.train.row(i)).collect();
    let micros = micro_batches(&config, &trunk, &config.phases[0], &rows, 0);
    let loss = |adapter: &Adapter| {
        let mut merged = vec![0f32; total];
        adapter.merge(&Cpu, &base, &mut merged, total);
        let mut learner = Learner::new(Cpu, trunk.clone(), &merged, plan_rows(&config));
        let value: f64 = micros.iter().map(|m| learner.accumulate(m).0).sum();
        (value, learner.gradient())
    };
    let adapter = moved(&trunk, &spec);
    let (_, full) = loss(&adapter);
    let got = adapter.gradient(&Cpu, &full);
    assert_eq!(got.len(), adapter.theta.len());
    // dA = s B^T dW, dB = s dW A^T, in plain loops
    let (r, s) = (spec.rank, spec.scale());
    for site in &adapter.sites {
        let dw = |o: usize, i: usize| full[site.at.offset + o * site.input + i] as f64;
        let a = |k: usize, i: usize| adapter.theta[site.start + k * site.input + i] as f64;
        let at_b = |o: usize, k: usize| site.start + r * site.input + o * r + k;
        for k in 0..r {
            for i in 0..site.input {
                let want: f64 = (0..site.out).map(|o| s * adapter.theta[at_b(o, k)] as f64 * dw(o, i)).sum();
                let got = got[site.start + k * site.input + i] as f64;
                assert!((got - want).abs() < 1e-6 + 1e-4 * want.abs(), "{} dA: {got} {want}", site.module);
            }
            for o in 0..site.out {
                let want: f64 = (0..site.input).map(|i| s * dw(o, i) * a(k, i)).sum();
                let got = got[at_b(o, k)] as f64;
                assert!((got - want).abs() < 1e-6 + 1e-4 * want.abs(), "{} dB: {got} {want}", site.module);
            }
        }
    }
    // central differences, along the gradient of each site's A and B (one number alone drowns in float32)
    for site in &adapter.sites {
        for (from, len) in [(site.start, r * site.input), (site.start + r * site.input, r * site.out)] {
            let g = &got[from..from + len];
            let norm = g.iter().map(|x| *x as f64 * *x as f64).sum::<f64>().sqrt();
            let h = 1e-2;
            let step = |sign: f64| {
                let mut moved = adapter.clone();
                for (x, g) in moved.theta[from..from + len].iter_mut().zip(g) {
                    *x += (sign * h * *g as f64 / norm) as f32;
                }
                loss(&moved).0
            };
            // the objective is the negative of what is minimised: sum of coefficient times ln p, coefficients below zero
            let slope = (step(1.0) - step(-1.0)) / (2.0 * h);
            assert!(
                (slope.abs() - norm).abs() < 0.02 * norm + 1e-4,
                "{}: {slope} against {norm}",
                site.module
            );
        }
    }
}

fn go(run: &Path, input: &Input, steps: u64) {
    let config = RunFolder::config(run).unwrap();
    let mut folder = RunFolder::open(run).unwrap();
    let left = std::cell::Cell::new(steps - 1);
    let mut hooks = Hooks {
        now: &|| 1.0,
        stop: &|| left.get() == 0,
        progress: &mut |_| left.set(left.get().saturating_sub(1)),
        device: "test".into(),
        command: "test".into(),
    };
    train(Cpu, &mut folder, &config, input, &mut hooks).unwrap();
}

#[test]
fn only_the_adapted_layers_move_and_a_resumed_run_is_the_same() {
    let (config, input) = (recipe(LORA), input());
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for dir in [&whole, &parts] {
        RunFolder::create(dir.path(), &config).unwrap();
    }
    go(whole.path(), &input, 100);
    go(parts.path(), &input, 3);
    go(parts.path(), &input, 100);
    let last = |run: &Path| checkpoint::folder(run, *checkpoint::list(run).last().unwrap());
    let (a, b) = (last(whole.path()), last(parts.path()));
    for file in ["model.safetensors", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"] {
        assert!(std::fs::read(a.join(file)).unwrap() == std::fs::read(b.join(file)).unwrap(), "{file}");
    }
    let trunk = Trunk::new(model_config(&config, &input).unwrap());
    let start = trunk.layout.init(&trunk.config, config.seed);
    let end = Source::open(whole.path()).unwrap().load().unwrap();
    let parts =
        |t: &str| ["q_proj", "v_proj", "o_proj", "down_proj", "gate_proj"].iter().any(|p| t.contains(p));
    for t in trunk.layout.named(&trunk.config) {
        let range = t.at.offset..t.at.offset + t.at.len;
        assert_eq!(start[range.clone()] != end.params[range], parts(&t.name), "{}", t.name);
    }
    // the adapter on the weights it started from is the merged model, read back through PEFT's files
    let read = |f: &str| std::fs::read(a.join("adapter").join(f)).unwrap();
    let back = Adapter::from_peft(
        &trunk.config,
        &trunk.layout,
        &read("adapter_config.json"),
        &read("adapter_model.safetensors"),
    )
    .unwrap();
    assert_eq!(back.spec.rank, 3);
    let mut merged = vec![0f32; trunk.layout.total];
    back.merge(&Cpu, &start, &mut merged, trunk.layout.total);
    assert_eq!(merged, end.params);
    let st = model::tensors(&read("adapter_model.safetensors")).map(|st| st.names().len());
    assert_eq!(st.unwrap(), 2 * 2 * 5);
    // an adapter for another model is refused by name
    let odd = String::from_utf8(read("adapter_config.json")).unwrap().replace("gate_proj", "fc_in");
    let e =
        Adapter::from_peft(&trunk.config, &trunk.layout, odd.as_bytes(), &read("adapter_model.safetensors"));
    assert!(e.unwrap_err().to_string().contains("fc_in"));
}

#[test]
fn planned_bytes_are_those_of_an_adapted_learner() {
    let (config, input) = (recipe(LORA), input());
    let trunk = Trunk::new(model_config(&config, &input).unwrap());
    let planned = hilda_engine::train::planned_bytes(&config, &trunk);
    let params = trunk.layout.init(&trunk.config, 1);
    let adapter = Adapter::new(&trunk.config, &trunk.layout, config.lora.as_ref().unwrap(), 1);
    assert_eq!(
        planned,
        Learner::adapted(Cpu, trunk, &params, plan_rows(&config), Keep::Activations, Some(adapter)).bytes()
    );
}
