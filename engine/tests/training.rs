//! The loop from outside: a run folder trained, stopped, resumed, broken.

use std::cell::Cell;
use std::path::Path;

use hilda_engine::config::{ModelSpec, RunConfig};
use hilda_engine::data::Packed;
use hilda_engine::data::Tokenizer;
use hilda_engine::model::{Layout, Trunk, checkpoint as model};
use hilda_engine::record::{Metric, State};
use hilda_engine::train::memory::{keep, plan_rows};
use hilda_engine::train::step::Learner;
use hilda_engine::train::trainer::model_config;
use hilda_engine::train::{FolderError, Hooks, Input, Outcome, RunFolder, TrainError, checkpoint, train};
use hilda_kernels::Cpu;

const PHASES: &str = r#"
[[phase]]
objective = "ar"
tokens = 512
lr = { peak = 1e-2, warmup = 2 }
[[phase]]
objective = "block"
block_size = [4, 0]
shift = true
tokens = 512
lr = { peak = 5e-3 }
optimiser = "fresh"
ema = "reset"
edit = { mix = 0.5, rate = 0.3 }
"#;

fn recipe(extra: &str, phases: &str) -> RunConfig {
    RunConfig::from_toml(&format!(
        "name = \"t\"\nseed = 3\n[model]\nwidth = 16\nlayers = 2\nheads = 2\nmlp = 32\n{extra}\n[data]\ntrain = \"x\"\npacking = {{ length = 16 }}\n\
         [batch]\nrows = 8\nmicro = 4\n[eval]\nevery = 2\nrows = 4\n[checkpoint]\nevery = 2\n[sample]\nlength = 8\nprompts = [\"a b\"]\n{phases}"
    ))
    .unwrap()
}

fn input() -> Input {
    let texts: Vec<String> = (0..40)
        .map(|i| {
            let names = ["the cat", "a dog", "my bird", "one fish"];
            format!("{} saw {} and {} went home", names[i % 4], names[(i / 2) % 4], names[(i / 4) % 4])
        })
        .collect();
    let tokenizer = hilda_engine::data::bpe::train(&texts, 300).unwrap();
    let train = hilda_engine::data::pack::pack_texts(&tokenizer, &texts, 16).unwrap();
    let valid = Packed { rows: train.rows[..6 * 16].to_vec(), ..train.clone() };
    Input { tokenizer, train, valid, bytes_per_token: 2.0, shape: None }
}

/// Trains until done or until `steps` more steps are done.
fn go(run: &Path, input: &Input, steps: u64) -> Result<Outcome, TrainError> {
    let config = RunFolder::config(run).unwrap();
    let mut folder = RunFolder::open(run).unwrap();
    let left = Cell::new(steps);
    let clock = Cell::new(0.0);
    let mut hooks = Hooks {
        now: &|| {
            clock.set(clock.get() + 1.0);
            clock.get()
        },
        stop: &|| left.get() == 0,
        progress: &mut |_| left.set(left.get().saturating_sub(1)),
        device: "test".into(),
        command: "test".into(),
    };
    // `stop` is asked before `progress`: the step that spends the last permit is the last one
    left.set(steps - 1);
    train(Cpu, &mut folder, &config, input, &mut hooks)
}

fn losses(run: &Path) -> Vec<(u64, f64, f64)> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|l| serde_json::from_str(l).unwrap());
    lines
        .filter_map(|m| match m {
            Metric::Train { step, loss, grad_norm, .. } => Some((step, loss, grad_norm)),
            _ => None,
        })
        .collect()
}

fn start(config: &RunConfig) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    RunFolder::create(dir.path(), config).unwrap();
    dir
}

#[test]
fn stopping_and_resuming_changes_no_bit() {
    let (config, input) = (recipe("", PHASES), input());
    assert_eq!(config.total_steps(), 8);
    let whole = start(&config);
    assert_eq!(go(whole.path(), &input, 100).unwrap(), Outcome::Finished);
    for cut in [1, 3, 4, 5] {
        let parts = start(&config);
        assert_eq!(go(parts.path(), &input, cut).unwrap(), Outcome::Stopped);
        assert_eq!(RunFolder::status(parts.path()).unwrap().unwrap().state, State::Stopped);
        // a torn line, as a power cut leaves it
        let metrics = parts.path().join("metrics.jsonl");
        let mut text = std::fs::read(&metrics).unwrap();
        text.extend(b"{\"kind\":\"train\",\"st");
        std::fs::write(&metrics, text).unwrap();
        assert_eq!(go(parts.path(), &input, 100).unwrap(), Outcome::Finished);
        assert_eq!(losses(parts.path()), losses(whole.path()), "stopped after {cut}");
        for file in ["model.safetensors", "config.json"] {
            let read = |d: &Path| std::fs::read(checkpoint::folder(d, 8).join(file)).unwrap();
            assert!(read(parts.path()) == read(whole.path()), "{file} differs after a stop at {cut}");
        }
        assert_eq!(RunFolder::status(parts.path()).unwrap().unwrap().attempt, 2);
    }
    let status = RunFolder::status(whole.path()).unwrap().unwrap();
    assert_eq!(
        (status.state, status.step, status.headline.unwrap().estimator),
        (State::Finished, 8, "nelbo_block(4,1)".into())
    );
    assert!(whole.path().join("samples/step-8.json").exists());
    assert!(checkpoint::list(whole.path()).len() <= 3);
}

#[test]
fn threads_and_micro_batches_do_not_matter() {
    let input = input();
    let run = |threads: usize, micro: usize| {
        let mut config = recipe("", PHASES);
        config.batch.micro = Some(micro);
        let dir = start(&config);
        let pool = rayon_pool(threads);
        pool(&mut || {
            go(dir.path(), &input, 100).unwrap();
        });
        (
            losses(dir.path()),
            std::fs::read(checkpoint::folder(dir.path(), 8).join("model.safetensors")).unwrap(),
        )
    };
    let one = run(1, 4);
    assert!(one == run(2, 4), "two threads compute other bits than one");
    for (a, b) in one.0.iter().zip(&run(1, 8).0) {
        assert!((a.1 - b.1).abs() < 1e-4 * a.1.abs() && (a.2 - b.2).abs() < 1e-3 * a.2, "{a:?} {b:?}");
    }
}

/// A run that recomputes its layers is the same run, from its hash to its last bit, in less memory.
#[test]
fn recomputing_layers_changes_no_bit_of_a_run() {
    let (kept, input) = (recipe("", PHASES), input());
    let mut config = kept.clone();
    config.memory.recompute = true;
    assert!(config.to_toml().contains("[memory]\nrecompute = true") && !kept.to_toml().contains("memory"));
    assert_eq!(
        (config.hash(), RunConfig::from_toml(&config.to_toml()).unwrap()),
        (kept.hash(), config.clone())
    );
    let run = |config: &RunConfig| {
        let dir = start(config);
        assert_eq!(go(dir.path(), &input, 100).unwrap(), Outcome::Finished);
        let weights = std::fs::read(checkpoint::folder(dir.path(), 8).join("model.safetensors")).unwrap();
        (losses(dir.path()), weights)
    };
    assert!(run(&config) == run(&kept), "recomputation changes bits");
    let trunk = Trunk::new(model_config(&config, &input).unwrap());
    let bytes = |c: &RunConfig| hilda_engine::train::planned_bytes(c, &trunk);
    assert!(bytes(&config) < bytes(&kept));
}

fn rayon_pool(threads: usize) -> impl Fn(&mut (dyn FnMut() + Send)) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    move |f| pool.install(f)
}

/// The model's own drafts are keyed by step and position: stopping, threads and micro-batches do not matter to them.
#[test]
fn drafted_editing_rows_resume_bit_for_bit() {
    let phases = PHASES.replace("rate = 0.3", "rate = 0.8, noise = \"drafts\"");
    assert_ne!(phases, PHASES);
    let (config, input) = (recipe("", &phases), input());
    let weights = |d: &Path| std::fs::read(checkpoint::folder(d, 8).join("model.safetensors")).unwrap();
    let whole = start(&config);
    rayon_pool(1)(&mut || assert_eq!(go(whole.path(), &input, 100).unwrap(), Outcome::Finished));
    let parts = start(&config);
    rayon_pool(2)(&mut || {
        assert_eq!(go(parts.path(), &input, 6).unwrap(), Outcome::Stopped);
        assert_eq!(go(parts.path(), &input, 100).unwrap(), Outcome::Finished);
    });
    assert_eq!(losses(parts.path()), losses(whole.path()));
    assert!(weights(parts.path()) == weights(whole.path()), "weights differ after a stop");
    let uniform = start(&recipe("", PHASES));
    go(uniform.path(), &input, 100).unwrap();
    assert!(losses(uniform.path()) != losses(whole.path()), "drafts are not uniform noise");
}

#[test]
fn it_learns() {
    let phases = "[[phase]]\nobjective = \"ar\"\ntokens = 10240\nlr = { peak = 2e-2, warmup = 5 }";
    let (config, input) = (recipe("", phases), input());
    let dir = start(&config);
    go(dir.path(), &input, 1000).unwrap();
    let l = losses(dir.path());
    assert!(l[0].1 > 5.0 && l.last().unwrap().1 < 1.0, "{:?} -> {:?}", l[0], l.last());
}

#[test]
fn a_broken_loss_stops_and_keeps_the_checkpoint() {
    let phases = "[[phase]]\nobjective = \"ar\"\ntokens = 1280\nlr = { peak = 1e-3, decay = \"constant\" }";
    let (config, input) = (recipe("", phases), input());
    let dir = start(&config);
    go(dir.path(), &input, 2).unwrap();
    // poison the raw weights of the trainer's state, where only training reads them
    let folder = checkpoint::folder(dir.path(), 2);
    let before = std::fs::read(folder.join("model.safetensors")).unwrap();
    let file = folder.join("trainer.safetensors");
    let mut state = std::fs::read(&file).unwrap();
    let header = u64::from_le_bytes(state[..8].try_into().unwrap()) as usize;
    let json: serde_json::Value = serde_json::from_slice(&state[8..8 + header]).unwrap();
    let at = 8 + header + json["params"]["data_offsets"][0].as_u64().unwrap() as usize;
    for i in 0..5000 {
        state[at + 4 * i..][..4].copy_from_slice(&1e30f32.to_le_bytes());
    }
    std::fs::write(&file, state).unwrap();
    let e = go(dir.path(), &input, 100).unwrap_err();
    assert!(matches!(e, TrainError::NotFinite { step: 3, checkpoint: Some(2), .. }), "{e}");
    let status = RunFolder::status(dir.path()).unwrap().unwrap();
    assert_eq!(status.state, State::Failed);
    assert!(status.error.unwrap().contains("step 3"));
    assert_eq!(std::fs::read(folder.join("model.safetensors")).unwrap(), before);
}

/// One weight that is no number, wherever it is and even where no token of the batch meets it, must not pass as a
/// gradient of zero: loss or gradient norm say so, and the step changes neither weights nor moments.
#[test]
fn one_bad_weight_never_passes_as_a_zero_gradient() {
    let input = input();
    let vocab = input.tokenizer.vocab();
    let unseen = (0..vocab as u32).rev().find(|id| !input.train.rows.contains(id)).expect("an unused token");
    for phase in ["objective = \"ar\"", "objective = \"mdlm\"", "objective = \"block\"\nblock_size = 4"] {
        let config = recipe("", &format!("[[phase]]\n{phase}\ntokens = 512\nlr = {{ peak = 1e-3 }}"));
        let trunk = Trunk::new(model_config(&config, &input).unwrap());
        let (good, l) = (trunk.layout.init(&trunk.config, 1), &trunk.layout);
        let seen = input.train.rows[0] as usize;
        let width = trunk.config.width;
        for at in [
            l.embed.offset + seen * width,
            l.embed.offset + unseen as usize * width + 3,
            l.layers[0].qkv.offset,
            l.layers[1].down.offset,
            l.layers[1].norm2.offset,
            l.norm.offset,
        ] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut params = good.clone();
                params[at] = bad;
                let mut learner = Learner::new(Cpu, trunk.clone(), &params, plan_rows(&config));
                let report = learner.step(&config, &input.train, &config.phases[0], 1e-3, 0);
                let finite = report.loss.is_finite() && report.grad_norm.is_finite();
                assert!(!finite, "{phase}: weight {at} = {bad}: {report:?}");
                assert!(
                    learner.m.iter().all(|m| *m == 0.0) && learner.updates == 0,
                    "{phase}: moments changed"
                );
                let same = learner.params.iter().zip(&params).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{phase}: weights changed");
            }
        }
    }
}

#[test]
fn bad_folders_are_named() {
    let (config, input) = (recipe("", PHASES), input());
    let dir = start(&config);
    let _held = RunFolder::open(dir.path()).unwrap();
    assert!(matches!(RunFolder::open(dir.path()), Err(FolderError::Locked { .. })));
    assert!(RunFolder::create(dir.path(), &config).is_err());
    assert!(matches!(RunFolder::config(Path::new("/nowhere")), Err(FolderError::Io { .. })));
    drop(_held);
    // a truncated checkpoint is an error, and nothing is overwritten
    go(dir.path(), &input, 2).unwrap();
    let file = checkpoint::folder(dir.path(), 2).join("trainer.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    assert!(matches!(go(dir.path(), &input, 2), Err(TrainError::Save(_))));
    assert_eq!(std::fs::read(&file).unwrap().len(), bytes.len() / 2);
}

#[test]
fn another_tokenizer_or_shape_is_refused() {
    let input = input();
    let donor = tempfile::tempdir().unwrap();
    let write = |width: usize, tokenizer: &Tokenizer| {
        let spec = ModelSpec {
            width: Some(width),
            layers: Some(2),
            heads: Some(2),
            mlp: Some(32),
            context: Some(16),
            ..Default::default()
        };
        let s = tokenizer.specials();
        let c = spec.resolve(tokenizer.vocab(), s.mask, s.eos, tokenizer.forbid()).unwrap();
        let params = Layout::new(&c).init(&c, 1);
        let (_, serving) = model::parse_config(r#"{"model_type":"llama","vocab_size":300,"hidden_size":16,"num_attention_heads":2,"intermediate_size":32,"num_hidden_layers":2,"max_position_embeddings":16}"#).unwrap();
        std::fs::write(donor.path().join("config.json"), model::config_json(&c, serving)).unwrap();
        std::fs::write(
            donor.path().join("model.safetensors"),
            model::save(&c, &params, model::Format::F32).unwrap(),
        )
        .unwrap();
        std::fs::write(donor.path().join("tokenizer.json"), tokenizer.json()).unwrap();
    };
    let from = format!("from = {:?}", donor.path().to_str().unwrap());
    let attempt = || {
        let dir = start(&recipe(&from, PHASES));
        go(dir.path(), &input, 1)
    };
    write(16, &input.tokenizer);
    attempt().unwrap();
    // a checkpoint's card is given away; folders of this machine stay out of it
    let dir = start(&recipe(&from, PHASES));
    go(dir.path(), &input, 1).unwrap();
    let card = std::fs::read_to_string(checkpoint::folder(dir.path(), 1).join("README.md")).unwrap();
    let name = donor.path().file_name().unwrap().to_str().unwrap();
    assert!(card.contains(&format!("from = \"{name}\"")), "{card}");
    // the same sizes in another family are another layout
    let config = std::fs::read_to_string(donor.path().join("config.json")).unwrap();
    let qwen = config.replace("\"llama\"", "\"qwen3\"");
    let (c, _) = model::parse_config(&qwen).unwrap();
    std::fs::write(donor.path().join("config.json"), qwen).unwrap();
    let weights = model::save(&c, &Layout::new(&c).init(&c, 1), model::Format::F32).unwrap();
    std::fs::write(donor.path().join("model.safetensors"), weights).unwrap();
    assert!(matches!(attempt(), Err(TrainError::From { .. })));
    write(32, &input.tokenizer);
    assert!(matches!(attempt(), Err(TrainError::From { .. })));
    let other = hilda_engine::data::bpe::train(&["zz yy xx ww vv uu".repeat(50)], input.tokenizer.vocab());
    if let Ok(other) = other
        && other.vocab() == input.tokenizer.vocab()
    {
        write(16, &other);
        assert!(matches!(attempt(), Err(TrainError::From { .. })));
    }
}

#[test]
fn rows_of_a_forward_follow_the_device_unless_the_recipe_says() {
    use hilda_engine::train::memory::{micro_for, micro_rows};
    let mut config = recipe("", PHASES);
    let trunk = Trunk::new(model_config(&config, &input()).unwrap());
    let bytes = |config: &RunConfig, micro: usize| {
        let mut c = config.clone();
        c.batch.micro = Some(micro);
        hilda_engine::train::planned_bytes(&c, &trunk)
    };
    // what a recipe says wins, whatever the memory
    assert_eq!([None, Some(0), Some(usize::MAX)].map(|m| micro_for(&config, &trunk, m)), [4; 3]);
    config.batch.micro = None;
    // a CPU: 2,048 positions at most; a memory of its own: as much as fits, a row at least
    assert_eq!(micro_for(&config, &trunk, None), micro_rows(&config));
    for micro in [8, 4, 2, 1] {
        assert_eq!(micro_for(&config, &trunk, Some(bytes(&config, micro))), micro);
    }
    assert_eq!(micro_for(&config, &trunk, Some(0)), 1);
    // two streams of 16 positions: 256 rows are 8,192
    config.batch.rows = 1024;
    assert_eq!(micro_for(&config, &trunk, Some(usize::MAX)), 256);
    // what was chosen is what the step uses
    config.batch.chosen = Some(256);
    assert_eq!((micro_rows(&config), plan_rows(&config)), (256, 8192));
    // and no part of the recipe
    assert!(!config.to_toml().contains("chosen"));
}

#[test]
fn planned_bytes_are_those_that_a_learner_allocates() {
    let (mut config, input) = (recipe("", PHASES), input());
    for recompute in [false, true] {
        config.memory.recompute = recompute;
        let trunk = Trunk::new(model_config(&config, &input).unwrap());
        let params = trunk.layout.init(&trunk.config, 1);
        let planned = hilda_engine::train::planned_bytes(&config, &trunk);
        // two streams of 4 rows of 16 tokens
        let mut learner = Learner::adapted(Cpu, trunk, &params, 2 * 4 * 16, keep(&config), None);
        learner.start_ema();
        assert_eq!(planned, learner.bytes());
    }
}
