//! What a recipe will need, before anything starts: parameters, memory, time, arithmetic.
//!
//! FLOPs of one data sequence of L tokens (P matrix weights of the blocks, D width, n layers, V vocabulary):
//! forward = 2 P pos + 4 D n pairs + 2 D V head, training = 3 x forward, with (pos, pairs, head) =
//! AR (L, L(L+1)/2, L); MDLM (L, L^2, L/2); block size B (2L, L(L+B), L/2); editing rows add their visible tokens
//! to the head. Memory is what the trainer plans ([`train::planned_bytes`]). Time comes from what runs reached on this machine, else from one measured matrix product.

use std::time::Instant;

use hilda_engine::{
    config::{ConfigError, ModelConfig, Objective, Phase, RunConfig},
    data::{Registry, Tokenizer},
    model::{Trunk, source::Source},
    record::Metric,
    train,
};
use serde::{Deserialize, Serialize};

use crate::{
    http::config_field,
    library,
    storage::{DataDir, Index, write_atomic},
};

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FieldError {
    pub field: String,
    pub message: String,
}

/// Answer of `POST /api/estimate`. Numbers are absent where errors keep them from being known.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Estimate {
    pub ok: bool,
    pub errors: Vec<FieldError>,
    pub parameters: Option<u64>,
    pub steps: Option<u64>,
    pub tokens: Option<u64>,
    pub memory_bytes: Option<u64>,
    pub seconds: Option<f64>,
    pub tokens_per_s: Option<f64>,
    pub flops: Option<f64>,
    /// where the time comes from, for people
    pub basis: String,
    /// the command line that does the same
    pub command: String,
}

/// Refuses what may not be launched over HTTP: paths, and corpora that are not registered. A parent model is named
/// by its run and becomes the path of that run's newest checkpoint.
pub fn check_launchable(data: &DataDir, mut config: RunConfig) -> Result<RunConfig, (String, String)> {
    let refuse = |field: &str, message: String| Err((field.to_string(), message));
    let d = &config.data;
    for (field, value) in
        [("data.train", &d.train), ("data.valid", &d.valid), ("data.tokenizer", &d.tokenizer)]
    {
        if value.is_some() {
            return refuse(
                field,
                "a run launched here names a registered corpus, never a file; register one with \
                 `hilda data add NAME PATH`, or start this recipe with `hilda train`"
                    .into(),
            );
        }
    }
    if let Some(name) = &d.corpus {
        let known = corpus_names(data);
        if !known.contains(name) {
            let known = if known.is_empty() { "none yet".to_string() } else { known.join(", ") };
            return refuse(
                "data.corpus",
                format!(
                    "no corpus \"{name}\" is registered (registered: {known}); `hilda data add {name} PATH` \
                     registers text"
                ),
            );
        }
    }
    if let Some(from) = &config.model.from {
        let pulled = library::folder(data.root(), from).filter(|p| p.is_dir());
        let folder = data.run(from).ok().and_then(|r| r.newest_checkpoint()).or(pulled);
        match folder {
            Some(p) => config.model.from = Some(p.display().to_string()),
            None => {
                return refuse(
                    "model.from",
                    format!(
                        "\"{from}\" is neither the id of a run that has a checkpoint nor the name of a pulled model"
                    ),
                );
            }
        }
    }
    resolve(&config).map_err(|e| config_field(&e))?;
    Ok(config)
}

/// Names of registered corpora.
pub fn corpus_names(data: &DataDir) -> Vec<String> {
    let (cards, _) = Registry::new(data.root()).list().unwrap_or_default();
    cards.into_iter().map(|c| c.name).collect()
}

/// Vocabulary of a tokenizer that is trained because the recipe names none (as `data::load` trains it).
const DEFAULT_VOCAB: usize = 4096;

/// The shape with the vocabulary that the run will have: of the named tokenizer, or of the one to be trained.
fn resolve(config: &RunConfig) -> Result<ModelConfig, ConfigError> {
    // a run that goes on from a model takes its shape, unless the recipe says another
    if let Some(from) = config.model.from.as_ref().filter(|_| !config.model.shaped())
        && let Ok(source) = Source::open(std::path::Path::new(from))
    {
        let field = |m: String| ConfigError::field("model.from", m);
        let (shape, _) = source.config().map_err(|e| field(e.to_string()))?;
        let context = config.model.context.unwrap_or(config.data.packing.length);
        if context > shape.context {
            let message = format!("{context} tokens, but the model it goes on from knows {}", shape.context);
            return Err(ConfigError::field("model.context", message));
        }
        return Ok(ModelConfig { context, ..shape });
    }
    let given = config.data.tokenizer.as_ref().and_then(|p| Tokenizer::from_file(p).ok()).map(|t| t.vocab());
    let vocab = given.or(config.data.vocab).unwrap_or(DEFAULT_VOCAB);
    config.model.resolve(vocab, 0, 0, vec![0])
}

/// Model FLOPs of training one data sequence of a phase, forward and backward.
pub fn flops_per_sequence(m: &ModelConfig, phase: &Phase, length: usize) -> f64 {
    let (d, n) = (m.width as f64, m.layers as f64);
    let matrices = n * (m.qkv() * m.width + m.heads * m.head_dim * m.width + 3 * m.mlp * m.width) as f64;
    sequence(phase, length, |pos, pairs, head| {
        3.0 * (2.0 * matrices * pos + 4.0 * d * n * pairs + 2.0 * d * m.vocab as f64 * head)
    })
}

/// FLOPs that recomputing the layers adds to a data sequence: every layer but the last once more, without its last
/// product. They are work, but no model FLOPs.
fn recomputed_per_sequence(m: &ModelConfig, phase: &Phase, length: usize) -> f64 {
    let (d, n) = (m.width as f64, m.layers as f64 - 1.0);
    let matrices = n * ((m.qkv() + m.heads * m.head_dim + m.mlp_in()) * m.width) as f64;
    sequence(phase, length, |pos, pairs, _| 2.0 * matrices * pos + 4.0 * d * n * pairs)
}

/// Work over model FLOPs of a step.
fn overhead(m: &ModelConfig, config: &RunConfig, phase: &Phase) -> f64 {
    let length = config.data.packing.length;
    let more = recomputed_per_sequence(m, phase, length) / flops_per_sequence(m, phase, length);
    if config.memory.recompute { 1.0 + more } else { 1.0 }
}

/// `one` of (positions, pairs, head rows) of a data sequence; the mean over the block sizes of a phase.
fn sequence(phase: &Phase, length: usize, one: impl Fn(f64, f64, f64) -> f64) -> f64 {
    let l = length as f64;
    // complementary views: every noisy row twice, every token in the head
    let views = if phase.complementary { 2.0 } else { 1.0 };
    // every token under mixed noise, else half of them and what editing rows add
    let edit = phase.hybrid.map_or_else(|| phase.edit.map_or(0.0, |e| e.mix * l / 2.0), |_| l / 2.0);
    match phase.objective {
        Objective::Ar => one(l, l * (l + 1.0) / 2.0, l),
        Objective::Mdlm => one(views * l, views * l * l, views * l / 2.0 + edit),
        Objective::Block => {
            let sizes = phase.block_size.as_ref().map(|b| b.list()).unwrap_or_default();
            let sizes = if sizes.is_empty() { vec![0] } else { sizes };
            let each = |b: &usize| {
                let b = if *b == 0 { l } else { *b as f64 };
                let pairs = l * (l + b) + (views - 1.0) * l * (l + b) / 2.0;
                one((views + 1.0) * l, pairs, views * l / 2.0 + edit)
            };
            sizes.iter().map(each).sum::<f64>() / sizes.len() as f64
        }
    }
}

/// Model FLOPs of a whole recipe.
///
/// # Errors
/// [`ConfigError`] where its shape cannot be known.
pub fn flops_of(config: &RunConfig) -> Result<f64, ConfigError> {
    let m = resolve(config)?;
    let (length, rows) = (config.data.packing.length, config.batch.rows as f64);
    let steps = config.phase_steps();
    Ok(config
        .phases
        .iter()
        .zip(steps)
        .map(|(p, n)| n as f64 * rows * flops_per_sequence(&m, p, length))
        .sum())
}

/// Speed that runs of this data folder reached.
struct Measured {
    tokens_per_s: Option<f64>,
    /// (FLOP per second, run)
    flops_per_s: Option<(f64, String)>,
}

fn median(mut v: Vec<f64>) -> Option<f64> {
    v.retain(|x| x.is_finite() && *x > 0.0);
    v.sort_by(f64::total_cmp);
    v.get(v.len() / 2).copied()
}

/// Looks through past runs for the same shape, length and objective; any run's FLOP rate is the second choice.
fn measured(data: &DataDir, index: &Index, m: &ModelConfig, wanted: &RunConfig, phase: &Phase) -> Measured {
    let length = wanted.data.packing.length;
    let mut found = Measured { tokens_per_s: None, flops_per_s: None };
    let mut newest = (0.0, 0.0);
    for id in data.run_ids() {
        let Ok(run) = data.run(&id) else { continue };
        let (Ok(config), Ok(job)) = (run.config(), run.job()) else { continue };
        let Ok(other) = resolve(&config) else { continue };
        let Ok(last) = index.last_id(&id) else { continue };
        let Ok(rows) = index.rows_after(&id, last - 200, 200) else { continue };
        let mut same = vec![];
        let mut rates = vec![];
        for (_, json) in rows {
            let Ok(Metric::Train { phase: p, seconds, tokens_per_s, flops, .. }) =
                serde_json::from_str(&json)
            else {
                continue;
            };
            let work = config.phases.get(p).map_or(1.0, |p| overhead(&other, &config, p));
            rates.push(work * flops / seconds);
            let alike = config.phases.get(p).is_some_and(|p| {
                p.objective == phase.objective
                    && p.block_size == phase.block_size
                    && p.edit == phase.edit
                    && p.hybrid == phase.hybrid
                    && p.complementary == phase.complementary
            });
            let kept = config.memory == wanted.memory;
            if alike && kept && other == *m && config.data.packing.length == length {
                same.push(tokens_per_s);
            }
        }
        if let Some(rate) = median(same).filter(|_| job.created > newest.0) {
            newest.0 = job.created;
            found.tokens_per_s = Some(rate);
        }
        if let Some(rate) = median(rates).filter(|_| job.created > newest.1) {
            newest.1 = job.created;
            found.flops_per_s = Some((rate, id));
        }
    }
    found
}

/// Share of the matrix product's rate that a training step is taken to reach when nothing was measured.
const ASSUMED_SHARE: f64 = 0.5;

/// The machine's matrix product rate, measured once and kept in `machine.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// f32, 1024 cubed, all threads: median of five, FLOP per second
    pub gemm_flops: f64,
    pub threads: usize,
}

pub fn machine(data: &DataDir) -> Machine {
    let path = data.root().join("machine.json");
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let kept: Option<Machine> = std::fs::read(&path).ok().and_then(|b| serde_json::from_slice(&b).ok());
    if let Some(m) = kept.filter(|m| m.threads == threads && m.gemm_flops > 0.0) {
        return m;
    }
    let m = Machine { gemm_flops: measure_gemm(1024, threads), threads };
    // only a saved measurement: without it the next estimate measures again
    let _ = write_atomic(&path, &serde_json::to_vec(&m).expect("plain data"));
    m
}

fn measure_gemm(n: usize, threads: usize) -> f64 {
    let a: Vec<f32> = (0..n * n).map(|i| (i % 7) as f32 - 3.0).collect();
    let b: Vec<f32> = (0..n * n).map(|i| (i % 5) as f32 - 2.0).collect();
    let mut c = vec![0f32; n * n];
    let mut rates = vec![];
    for _ in 0..6 {
        let start = Instant::now();
        let s = n as isize;
        // SAFETY: three buffers of n * n elements with unit column step and n row step.
        unsafe {
            gemm::gemm(
                n,
                n,
                n,
                c.as_mut_ptr(),
                1,
                s,
                false,
                a.as_ptr(),
                1,
                s,
                b.as_ptr(),
                1,
                s,
                0.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::Rayon(threads),
            );
        }
        rates.push(2.0 * (n as f64).powi(3) / start.elapsed().as_secs_f64());
    }
    // the first one warms up
    median(rates.split_off(1)).unwrap_or(1e9)
}

/// Never fails: what is wrong with the recipe is part of the answer.
pub fn estimate(data: &DataDir, index: &Index, toml: &str) -> Estimate {
    let mut out = Estimate::default();
    let config = match RunConfig::from_toml(toml) {
        Ok(c) => c,
        Err(e) => {
            let p = crate::http::config_problem(&e, toml);
            out.errors.push(FieldError { field: p.field.unwrap_or_default(), message: p.detail });
            return out;
        }
    };
    out.command = format!("hilda train {}.toml", config.name);
    let config = match check_launchable(data, config.clone()) {
        Ok(launchable) => launchable,
        Err((field, message)) => {
            out.errors.push(FieldError { field, message });
            config
        }
    };
    let m = match resolve(&config) {
        Ok(m) => m,
        Err(e) => {
            let (field, message) = config_field(&e);
            if out.errors.iter().all(|e| e.field != field) {
                out.errors.push(FieldError { field, message });
            }
            return out;
        }
    };
    out.ok = out.errors.is_empty();
    let length = config.data.packing.length;
    let per_step = (config.batch.rows * length) as u64;
    out.parameters = Some(m.parameters() as u64);
    out.steps = Some(config.total_steps());
    out.tokens = Some(config.total_steps() * per_step);
    out.memory_bytes = Some(train::planned_bytes(&config, &Trunk::new(m.clone())) as u64);
    let (mut flops, mut seconds) = (0.0, 0.0);
    let mut bases: Vec<String> = vec![];
    for (phase, steps) in config.phases.iter().zip(config.phase_steps()) {
        let tokens = (steps * per_step) as f64;
        let f = flops_per_sequence(&m, phase, length) * tokens / length as f64;
        flops += f;
        let found = measured(data, index, &m, &config, phase);
        let work = f * overhead(&m, &config, phase);
        let basis = if let Some(rate) = found.tokens_per_s {
            seconds += tokens / rate;
            format!("{rate:.0} tokens/s measured on this machine for the same model and objective")
        } else if let Some((rate, run)) = found.flops_per_s {
            seconds += work / rate;
            format!("{:.1} GFLOP/s that run {run} reached on this machine", rate / 1e9)
        } else {
            let machine = machine(data);
            seconds += work / (machine.gemm_flops * ASSUMED_SHARE);
            format!(
                "{:.0} % of the {:.0} GFLOP/s that a matrix product reached on this machine ({} threads)",
                ASSUMED_SHARE * 100.0,
                machine.gemm_flops / 1e9,
                machine.threads
            )
        };
        if !bases.contains(&basis) {
            bases.push(basis);
        }
    }
    out.flops = Some(flops);
    out.seconds = Some(seconds);
    out.tokens_per_s = Some(out.tokens.unwrap_or(0) as f64 / seconds);
    out.basis = format!("Estimate from {}; evaluation and checkpoints come on top.", bases.join("; "));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECIPE: &str = "name = \"t\"\n[model]\nsize = \"9m\"\n[data]\ncorpus = \"c\"\nvocab = 4096\n[batch]\n\
        rows = 8\n[[phase]]\nobjective = \"ar\"\ntokens = 409600\nlr = { peak = 1e-3 }\n";

    fn setup() -> (tempfile::TempDir, DataDir, Index) {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let text = dir.path().join("c.txt");
        std::fs::write(&text, "one\n\ntwo\n\nthree").unwrap();
        Registry::new(data.root()).add("c", &text, &Default::default()).unwrap();
        let index = Index::open(&dir.path().join("hilda.sqlite")).unwrap();
        (dir, data, index)
    }

    #[test]
    fn figures_of_a_known_recipe() {
        let (_dir, data, index) = setup();
        let e = estimate(&data, &index, RECIPE);
        assert!(e.ok, "{:?}", e.errors);
        // 4096*256 + 8*(768*256 + 256*256 + 3*1024*256 + 512) + 256
        assert_eq!(e.parameters, Some(9_441_536));
        assert_eq!((e.steps, e.tokens), (Some(200), Some(409_600)));
        // 6 (P + V D) per token plus attention: 12 * D * n * (L + 1) / 2
        let per_token = 6.0 * (8_388_608.0 + 1_048_576.0) + 12.0 * 256.0 * 8.0 * 257.0 / 2.0;
        assert!((e.flops.unwrap() / (per_token * 409_600.0) - 1.0).abs() < 1e-12);
        assert!(e.memory_bytes.unwrap() > 4 * 4 * 9_441_536 && e.memory_bytes.unwrap() < 1 << 30);
        // what the trainer plans, and what the plan of a run that recomputes its layers is
        let config = RunConfig::from_toml(RECIPE).unwrap();
        let trunk = Trunk::new(resolve(&config).unwrap());
        assert_eq!(e.memory_bytes, Some(train::planned_bytes(&config, &trunk) as u64));
        let less = estimate(&data, &index, &format!("{RECIPE}[memory]\nrecompute = true\n"));
        let layer = 4 * (8 * 256 * (768 + 256 + 256 + 4 + 2048) + 3) as u64;
        assert_eq!(less.memory_bytes.unwrap() + 7 * layer, e.memory_bytes.unwrap());
        let more = less.seconds.unwrap() / e.seconds.unwrap();
        assert!(less.flops == e.flops && (1.1..1.34).contains(&more), "{more}");
        assert!(e.seconds.unwrap() > 0.0 && e.basis.contains("matrix product"), "{}", e.basis);
    }

    #[test]
    fn block_diffusion_costs_two_streams() {
        let (_dir, data, index) = setup();
        let mdlm = RECIPE.replace("\"ar\"", "\"mdlm\"");
        let block = RECIPE.replace("objective = \"ar\"", "objective = \"block\"\nblock_size = 8");
        let [a, m, b] = [RECIPE, &mdlm, &block].map(|r| estimate(&data, &index, r).flops.unwrap());
        assert!(m < a && b > 1.7 * m && b < 2.2 * m, "{a} {m} {b}");
    }

    #[test]
    fn wrong_recipes_say_which_field() {
        let (_dir, data, index) = setup();
        for (from, to, field) in [
            ("corpus = \"c\"", "corpus = \"d\"", "data.corpus"),
            ("corpus = \"c\"", "train = \"/etc/passwd\"", "data.train"),
            ("size = \"9m\"", "size = \"9x\"", "model.size"),
            ("size = \"9m\"", "size = \"9m\"\nfrom = \"../../etc\"", "model.from"),
            ("size = \"9m\"", "size = \"9m\"\nheads = 7", "model.heads"),
            ("rows = 8", "rwos = 8", "batch.rwos"),
        ] {
            let e = estimate(&data, &index, &RECIPE.replace(from, to));
            assert!(!e.ok);
            assert_eq!(e.errors.iter().map(|e| e.field.as_str()).collect::<Vec<_>>(), [field], "{to}");
        }
    }

    #[test]
    fn speed_of_past_runs_is_preferred() {
        let (_dir, data, index) = setup();
        let config = RunConfig::from_toml(RECIPE).unwrap();
        let run = crate::storage::RunFolder::create(&data.runs(), "old", &config, None).unwrap();
        let rows: Vec<Metric> = (1..=30)
            .map(|step| Metric::Train {
                step,
                attempt: 1,
                tokens: step * 2048,
                phase: 0,
                loss: 1.0,
                grad_norm: 1.0,
                lr: 1e-3,
                seconds: 2.0,
                tokens_per_s: 1024.0,
                flops: 4e10,
                time: 0.0,
            })
            .collect();
        let rows: Vec<_> = rows
            .into_iter()
            .map(|m| {
                let text = serde_json::to_string(&m).unwrap();
                (m, text)
            })
            .collect();
        index.commit(&run.id, &rows, 0, 10).unwrap();
        let e = estimate(&data, &index, RECIPE);
        assert_eq!(e.seconds, Some(400.0), "{}", e.basis);
        let other = estimate(&data, &index, &RECIPE.replace("9m", "2m"));
        assert!(other.basis.contains("run old"), "{}", other.basis);
        assert!((other.seconds.unwrap() - other.flops.unwrap() / 2e10).abs() < 1e-6);
    }
}
