//! The loop: phases, steps, validation, samples, checkpoints, status. Time enters through [`Hooks`].

use std::path::Path;

use hilda_kernels::rng::{Rng, Stream};
use hilda_kernels::{At, Train};

use super::checkpoint::{self, Counters, SaveError};
use super::folder::{FolderError, RunFolder};
use super::input::Input;
use super::memory::{keep, micro_rows, plan_rows};
use super::schedule::{phase_of, rate};
use super::step::Learner;
use crate::config::{ConfigError, EmaPolicy, ModelConfig, Objective, OptimiserPolicy, RunConfig};
use crate::decode::Attention;
use crate::diffusion::likelihood::{self, Estimator, Evaluation};
use crate::files;
use crate::model::lora::Adapter;
use crate::model::source::{Source, SourceError};
use crate::model::{Serving, Trunk};
use crate::record::{Estimate, Metric, SampleFile, State, Status};

/// What the loop needs from outside.
pub struct Hooks<'a> {
    /// Unix seconds
    pub now: &'a dyn Fn() -> f64,
    /// asked between steps
    pub stop: &'a dyn Fn() -> bool,
    /// after every step
    pub progress: &'a mut dyn FnMut(&Status),
    /// the device's name for the record
    pub device: String,
    /// the command that reproduces the run, for the card
    pub command: String,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Finished,
    Stopped,
}

/// Why a run failed. Its last checkpoint is intact.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Save(#[from] SaveError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{what} became {value} at step {step}; {}", kept(*checkpoint))]
    NotFinite { what: &'static str, value: f64, step: u64, checkpoint: Option<u64> },
    #[error("{message} at step {step}; {}", kept(*checkpoint))]
    Device { message: String, step: u64, checkpoint: Option<u64> },
    #[error("model.from: {message}")]
    From { message: String },
    #[error("sampling: {0}")]
    Sample(#[from] crate::model::generate::GenerateError),
}

fn kept(checkpoint: Option<u64>) -> String {
    checkpoint
        .map_or("there is no checkpoint yet".into(), |c| format!("the checkpoint of step {c} is intact"))
}

/// The model's shape under this recipe and tokenizer.
pub fn model_config(config: &RunConfig, input: &Input) -> Result<ModelConfig, ConfigError> {
    let (s, length) = (input.tokenizer.specials(), config.data.packing.length);
    if let Some(shape) = input.shape.as_ref().filter(|_| !config.model.shaped()) {
        let (tokens, rows) = (input.tokenizer.vocab(), shape.vocab);
        if tokens > rows {
            let message = format!("{tokens} tokens, but the model goes on from an embedding of {rows} rows");
            return Err(ConfigError::field("data.tokenizer", message));
        }
        let context = config.model.context.unwrap_or(length);
        if context > shape.context {
            let message = format!("{context} tokens, but the model it goes on from knows {}", shape.context);
            return Err(ConfigError::field("model.context", message));
        }
        let mut resolved = ModelConfig { context, ..shape.clone() };
        resolved.take_roles(&input.tokenizer);
        resolved.validate()?;
        return Ok(resolved);
    }
    let mut spec = config.model.clone();
    spec.context = Some(spec.context.unwrap_or(config.data.packing.length));
    spec.resolve(input.tokenizer.vocab(), s.mask, s.eos, input.tokenizer.forbid())
}

/// How a checkpoint of phase `phase` decodes.
pub fn serving_of(config: &RunConfig, phase: usize) -> Serving {
    let last = &config.phases[phase];
    let sizes = last.block_size.as_ref().map_or(vec![], |b| b.list());
    let block = sizes.iter().copied().filter(|b| *b > 0).min().unwrap_or(0);
    let (attention, block_size) = match last.objective {
        Objective::Ar => (Attention::Causal, 1),
        Objective::Block if block > 0 => (Attention::BlockCausal, block),
        _ => (Attention::Bidirectional, 0),
    };
    Serving {
        attention,
        block_size,
        shift: last.shift || last.objective == Objective::Ar,
        infill: block_size == 0 || sizes.contains(&0),
        edits: last.edits(),
        uniform: last.hybrid.as_ref().is_some_and(|h| h.p_uniform == 1.0),
    }
}

/// The estimator a phase is validated with.
pub fn estimator(config: &RunConfig, phase: usize) -> Estimator {
    let p = &config.phases[phase];
    let k = config.eval.k;
    let block = p.block_size.as_ref().and_then(|b| b.list().into_iter().filter(|b| *b > 0).min());
    if let Some(h) = &p.hybrid {
        return Estimator::Hybrid { p_uniform: h.p_uniform, loo: false, block: block.unwrap_or(0), k };
    }
    match (p.objective, block) {
        (Objective::Ar, _) => Estimator::Ar,
        (Objective::Block, Some(block)) => Estimator::NelboBlock { block, k },
        _ => Estimator::NelboT { k },
    }
}

/// Runs (or resumes) the run in `folder` to its end, or until asked to stop.
pub fn train<B: Train + Clone>(
    backend: B,
    folder: &mut RunFolder,
    config: &RunConfig,
    input: &Input,
    hooks: &mut Hooks,
) -> Result<Outcome, TrainError> {
    let path = folder.path.clone();
    let trunk = Trunk::new(model_config(config, input)?);
    let newest = checkpoint::list(&path).last().copied();
    // a checkpoint overwrites whatever the weights start from
    let params = match newest {
        None => initial(config, &trunk, input)?,
        Some(_) => vec![0.0; trunk.layout.total],
    };
    let adapter = config.lora.as_ref().map(|l| Adapter::new(&trunk.config, &trunk.layout, l, config.seed));
    let mut learner = Learner::adapted(backend, trunk, &params, plan_rows(config), keep(config), adapter);
    drop(params);
    let before = RunFolder::status(&path)?;
    let mut counters = Counters::default();
    if let Some(step) = newest {
        counters = checkpoint::resume(&checkpoint::folder(&path, step), &mut learner)?;
    }
    let now = (hooks.now)();
    let mut status = Status {
        state: State::Running,
        step: counters.step,
        total_steps: config.total_steps(),
        tokens: counters.tokens,
        total_tokens: config.total_steps() * (config.batch.rows * config.data.packing.length) as u64,
        phase: 0,
        attempt: before.as_ref().map_or(0, |s| s.attempt) + 1,
        started: before.as_ref().map_or(now, |s| s.started),
        updated: now,
        seconds: counters.seconds,
        eta: None,
        device: hooks.device.clone(),
        micro: Some(micro_rows(config)),
        parameters: learner.trunk.config.parameters() as u64,
        config_hash: config.hash(),
        error: None,
        headline: before.and_then(|s| s.headline),
        checkpoint: checkpoint::list(&path).last().copied(),
    };
    folder.write_status(&status)?;
    folder.log(&format!(
        "attempt {} from step {}: {} parameters, {} MB planned, {} of {} rows a forward, {}",
        status.attempt,
        counters.step,
        status.parameters,
        learner.bytes() >> 20,
        micro_rows(config),
        config.batch.rows,
        status.device
    ))?;
    let result = run_loop(&mut learner, folder, config, input, hooks, &mut status, &mut counters);
    match &result {
        Ok(Outcome::Finished) => status.state = State::Finished,
        Ok(Outcome::Stopped) => status.state = State::Stopped,
        Err(e) => {
            status.state = State::Failed;
            status.error = Some(e.to_string());
        }
    }
    status.updated = (hooks.now)();
    status.eta = None;
    match &result {
        Ok(_) => folder.write_status(&status)?,
        // on a full disk neither may succeed; what is reported is why the run failed
        Err(e) => drop((folder.log(&format!("failed: {e}")), folder.write_status(&status))),
    }
    (hooks.progress)(&status);
    result
}

/// Whatever would keep [`train`] from its first step, before a run folder exists.
pub fn check(config: &RunConfig, input: &Input) -> Result<(), TrainError> {
    let trunk = Trunk::new(model_config(config, input)?);
    match config.model.from {
        Some(_) => initial(config, &trunk, input).map(|_| ()),
        None => Ok(()),
    }
}

fn initial(config: &RunConfig, trunk: &Trunk, input: &Input) -> Result<Vec<f32>, TrainError> {
    let Some(from) = &config.model.from else { return Ok(trunk.layout.init(&trunk.config, config.seed)) };
    let unread = |e: SourceError| TrainError::From { message: e.to_string() };
    let source = Source::open(Path::new(from)).map_err(unread)?;
    let loaded = source.load().map_err(unread)?;
    let same = |a: &ModelConfig, b: &ModelConfig| {
        (a.vocab, a.width, a.layers, a.heads, a.kv_heads, a.head_dim, a.mlp, &a.arch)
            == (b.vocab, b.width, b.layers, b.heads, b.kv_heads, b.head_dim, b.mlp, &b.arch)
    };
    if !same(&loaded.config, &trunk.config) {
        let message =
            format!("{from} has another shape: {:?}, the recipe asks for {:?}", loaded.config, trunk.config);
        return Err(TrainError::From { message });
    }
    if let Ok(Some(theirs)) = source.tokenizer()
        && theirs.hash() != input.tokenizer.hash()
    {
        return Err(TrainError::From { message: format!("{from} was trained with another tokenizer") });
    }
    let mut params = loaded.params;
    if config.phases.iter().any(|p| p.objective != Objective::Ar) {
        revive_mask(&trunk.config, trunk.layout.embed, &mut params, config.seed);
    }
    Ok(params)
}

/// A row of the embedding shorter than this share of the median one has decayed: no token ever used it.
const DEAD: f64 = 0.1;

/// Gives a dead mask row the mean of all rows and a little noise (`methods/ar_conversion.md` 4): gradients through a
/// row near zero explode at high mask rates. A row of ordinary length stays. Says whether it changed the row.
pub fn revive_mask(c: &ModelConfig, embed: At, params: &mut [f32], seed: u64) -> bool {
    let d = c.width;
    let table = &mut params[embed.offset..][..embed.len];
    let norm = |row: &[f32]| row.iter().map(|x| *x as f64 * *x as f64).sum::<f64>().sqrt();
    let mut norms: Vec<f64> = table.chunks_exact(d).map(norm).collect();
    let own = norms[c.mask_id as usize];
    norms.sort_by(f64::total_cmp);
    let median = norms[norms.len() / 2];
    if own >= DEAD * median {
        return false;
    }
    let mut mean = vec![0f64; d];
    table.chunks_exact(d).for_each(|row| row.iter().zip(&mut mean).for_each(|(x, m)| *m += *x as f64));
    let (rng, rows) = (Rng::new(seed, Stream::Init, u32::MAX), norms.len() as f64);
    let noise = 0.1 * median / (d as f64).sqrt();
    for (j, x) in table[c.mask_id as usize * d..][..d].iter_mut().enumerate() {
        *x = (mean[j] / rows + noise * rng.normal(0, j as u32, 0)) as f32;
    }
    true
}

fn run_loop<B: Train + Clone>(
    learner: &mut Learner<B>,
    folder: &mut RunFolder,
    config: &RunConfig,
    input: &Input,
    hooks: &mut Hooks,
    status: &mut Status,
    counters: &mut Counters,
) -> Result<Outcome, TrainError> {
    let mut speed = None;
    while let Some((p, s)) = phase_of(config, counters.step) {
        let phase = &config.phases[p];
        status.phase = p;
        if s == 0 {
            begin_phase(learner, config, p);
            let objective =
                serde_json::to_value(phase.objective).expect("plain").as_str().unwrap_or("").to_string();
            folder.log(&format!("step {}: phase {} ({objective}) begins", counters.step, p + 1))?;
            let (step, attempt, time) = (counters.step, status.attempt, (hooks.now)());
            folder.metric(&Metric::Phase { step, attempt, time, phase: p, objective })?;
        }
        let began = (hooks.now)();
        let lr = rate(&phase.lr, s, config.phase_steps()[p]);
        let report = learner.step(config, &input.train, phase, lr, counters.step);
        let time = (hooks.now)();
        let seconds = (time - began).max(1e-9);
        if let Some(message) = learner.backend.failure() {
            let checkpoint = checkpoint::list(&folder.path).last().copied();
            return Err(TrainError::Device { message, step: counters.step + 1, checkpoint });
        }
        for (what, value) in [("loss", report.loss), ("gradient norm", report.grad_norm)] {
            if !value.is_finite() {
                let checkpoint = checkpoint::list(&folder.path).last().copied();
                return Err(TrainError::NotFinite { what, value, step: counters.step + 1, checkpoint });
            }
        }
        counters.step += 1;
        counters.tokens += report.tokens;
        counters.seconds += seconds;
        let speed = *speed.insert(speed.map_or(seconds, |v: f64| 0.9 * v + 0.1 * seconds));
        status.step = counters.step;
        status.tokens = counters.tokens;
        status.seconds = counters.seconds;
        status.updated = time;
        status.eta = Some(speed * (status.total_steps - counters.step) as f64);
        folder.metric(&Metric::Train {
            step: counters.step,
            attempt: status.attempt,
            tokens: counters.tokens,
            phase: p,
            loss: report.loss,
            grad_norm: report.grad_norm,
            lr,
            seconds,
            tokens_per_s: report.tokens as f64 / seconds,
            flops: report.flops,
            time,
        })?;
        let last_of_phase = s + 1 == config.phase_steps()[p];
        let due = |every: u64| last_of_phase || (every > 0 && counters.step % every == 0);
        if due(config.eval.every) {
            let estimate = validate(learner, config, input, p, hooks.stop);
            if let Some(estimate) = estimate {
                let (step, attempt, tokens) = (counters.step, status.attempt, counters.tokens);
                folder.log(&format!(
                    "step {step}: {} = {:.4} ± {:.4} nats/token",
                    estimate.estimator, estimate.value, estimate.stderr
                ))?;
                // values of different phases are not comparable: the best starts over
                let fresh = counters.best.is_none_or(|b| {
                    estimate.value < b.0 || phase_of(config, b.1 - 1).map(|x| x.0) != Some(p)
                });
                if fresh {
                    counters.best = Some((estimate.value, step));
                }
                status.headline = Some(estimate.clone());
                let time = (hooks.now)();
                folder.metric(&Metric::Valid { step, attempt, tokens, phase: p, time, estimate })?;
            }
        }
        let stopping = (hooks.stop)();
        if due(config.checkpoint.every) || stopping {
            write_checkpoint(learner, folder, config, input, hooks, status, counters)?;
        }
        folder.write_status(status)?;
        (hooks.progress)(status);
        if stopping && phase_of(config, counters.step).is_some() {
            folder.log(&format!("stopped at step {}", counters.step))?;
            return Ok(Outcome::Stopped);
        }
    }
    Ok(Outcome::Finished)
}

fn begin_phase<B: Train>(learner: &mut Learner<B>, config: &RunConfig, p: usize) {
    let phase = &config.phases[p];
    if phase.optimiser == OptimiserPolicy::Fresh {
        learner.fresh_optimiser();
    }
    match phase.ema {
        EmaPolicy::Off => learner.ema = None,
        EmaPolicy::Reset => learner.start_ema(),
        EmaPolicy::Carry if learner.ema.is_none() => learner.start_ema(),
        EmaPolicy::Carry => {}
    }
}

/// Validation of phase `p` on the evaluated weights; None if asked to stop meanwhile.
fn validate<B: Train>(
    learner: &Learner<B>,
    config: &RunConfig,
    input: &Input,
    p: usize,
    stop: &dyn Fn() -> bool,
) -> Option<Estimate> {
    let estimator = estimator(config, p);
    let e = Evaluation {
        estimator,
        seed: 0,
        shift: config.phases[p].shift,
        packing: config.data.packing,
        rows: config.eval.rows,
        bytes_per_token: Some(input.bytes_per_token),
    };
    let rows = likelihood::plan_rows(estimator, config.data.packing.length);
    let mut plan = learner.trunk.plan(&learner.backend, rows, false);
    let (b, trunk) = (&learner.backend, &learner.trunk);
    likelihood::evaluate(b, trunk, learner.evaluated(), &mut plan, &input.valid, &e, |_, _| !stop()).ok()
}

fn write_checkpoint<B: Train + Clone>(
    learner: &Learner<B>,
    folder: &mut RunFolder,
    config: &RunConfig,
    input: &Input,
    hooks: &Hooks,
    status: &mut Status,
    counters: &mut Counters,
) -> Result<(), TrainError> {
    (counters.updates, counters.ema_updates, counters.ema) =
        (learner.updates, learner.ema_updates, learner.ema.is_some());
    let card = card(config, status, hooks);
    let bytes = checkpoint::save(
        &folder.path,
        learner,
        counters,
        serving_of(config, status.phase),
        input.tokenizer.json(),
        &card,
        &config.published().model.from.unwrap_or_default(),
    )?;
    status.checkpoint = Some(counters.step);
    let (step, attempt) = (counters.step, status.attempt);
    folder.metric(&Metric::Checkpoint { step, attempt, time: (hooks.now)(), bytes })?;
    let samples = super::samples::write(learner, config, input, serving_of(config, status.phase));
    if let Some(samples) = samples? {
        let file = format!("samples/step-{step}.json");
        let content = SampleFile { step, samples };
        let path = folder.path.join(&file);
        super::folder::io(&path, files::replace(&path, &serde_json::to_vec(&content).expect("plain data")))?;
        folder.metric(&Metric::Sample { step, attempt, time: (hooks.now)(), file })?;
    }
    Ok(())
}

/// The model card of a checkpoint.
fn card(config: &RunConfig, status: &Status, hooks: &Hooks) -> String {
    let likelihood = status.headline.as_ref().map_or("not measured yet".to_string(), |h| {
        let bits = h.bits_per_byte.map_or(String::new(), |b| format!(", {b:.3} bits per byte"));
        format!(
            "{} = {:.4} ± {:.4} nats per token ({} tokens, {} rows, seed {}){bits}",
            h.estimator, h.value, h.stderr, h.tokens, h.rows, h.seed
        )
    });
    format!(
        "# {}\n\n{}\n\n- step {} of {}, {} tokens seen\n- likelihood on held-out text: {likelihood}\n- {} parameters, trained {:.0} s on {}\n- recipe hash {}\n- reproduce: `{}`\n\n```toml\n{}```\n",
        config.name,
        config.about,
        status.step,
        status.total_steps,
        status.tokens,
        status.parameters,
        status.seconds,
        status.device,
        status.config_hash,
        hooks.command,
        config.published().to_toml()
    )
}
