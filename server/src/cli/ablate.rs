//! `hilda ablate PLAN`: the runs of an ablation, one after the other or `--jobs` at a time, then what came out, with
//! intervals. Runs that are finished are not repeated; an interrupted one goes on from its checkpoint.

mod queue;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use hilda_engine::config::{Ablation, Budget, RunConfig};
use hilda_engine::data::corpus::Registry;
use hilda_engine::decode::Attention;
use hilda_engine::diffusion::likelihood::{Estimator, Evaluation, Rule, plan_rows};
use hilda_engine::model::source::Source;
use hilda_engine::model::{Serving, Trunk};
use hilda_engine::record::{Estimate, Metric, State, Status};
use hilda_engine::train::{RunFolder, checkpoint, input};

use self::queue::{Queue, lock};
use super::likelihood::Estimates;
use super::train::Show;
use super::{CliError, data_dir, duration_text, open_data, train};
use crate::ablation::{AblationResult, RunResult, collect};
use crate::device::{self, Needs};
use crate::estimate::flops_of;

#[derive(clap::Args)]
pub struct Args {
    /// the plan (a .toml file; recipes/ablations has four)
    pub plan: PathBuf,
    /// say what would run and what it costs, and stop
    #[arg(long)]
    pub dry_run: bool,
    /// only these arms
    #[arg(long, value_delimiter = ',')]
    pub arms: Vec<String>,
    /// runs at a time; more than one pays on a GPU that a small model does not fill
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub jobs: usize,
    /// write the result here too (NAME.json and NAME.md)
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// threads [default: all cores]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    #[arg(long)]
    pub json: bool,
}

/// A run that the plan needs.
struct Job {
    name: String,
    /// None: the shared start
    arm: Option<String>,
    seed: u64,
    config: RunConfig,
}

pub fn run(a: Args) -> Result<(), CliError> {
    train::use_threads(a.threads)?;
    let bad = |e: &dyn std::fmt::Display| CliError::BadInput(format!("{}: {e}", a.plan.display()));
    let text = fs::read_to_string(&a.plan).map_err(|e| bad(&e))?;
    let plan = Ablation::from_toml(&text).map_err(|e| bad(&e))?;
    for arm in &a.arms {
        if !plan.arms.iter().any(|x| x.name == *arm) {
            return Err(bad(&format!("--arms {arm}: the plan has no such arm")));
        }
    }
    if !(1..=64).contains(&a.jobs) {
        return Err(CliError::BadInput(format!("--jobs {} is outside 1..64", a.jobs)));
    }
    let data = open_data()?;
    let runs = data.runs();
    let base = a.plan.parent().unwrap_or(Path::new("."));
    let jobs = jobs(&plan, &runs, &a.arms).map_err(|e| bad(&e))?;
    if a.dry_run {
        for j in &jobs {
            let tokens = j.config.total_steps() * (j.config.batch.rows * j.config.data.packing.length) as u64;
            let state = match status(&runs.join(&j.name)) {
                Some(s) => format!("{:?} at step {}", s.state, s.step).to_lowercase(),
                None => "new".into(),
            };
            println!("{} {tokens} tokens, {:.3e} FLOPs, {state}", j.name, flops_of(&j.config)?);
        }
        return Ok(());
    }
    for job in &jobs {
        unchanged(job, &runs.join(&job.name)).map_err(|e| bad(&e))?;
    }
    let queue = Queue::new(after(&jobs));
    let show = if a.jobs == 1 { Show::Bar } else { Show::Nothing };
    let saving = Mutex::new(());
    let each = |i: usize| -> Result<(), CliError> {
        let began = std::time::Instant::now();
        let (job, folder) = (&jobs[i], runs.join(&jobs[i].name));
        let done = status(&folder).is_some_and(|s| s.state == State::Finished);
        eprintln!("{} of {}: {}{}", i + 1, jobs.len(), job.name, if done { ", finished" } else { "" });
        if !done {
            one(job, base, &folder, show)?;
        }
        if train::stopped() {
            return Err(CliError::Failure("stopped; the same command goes on".into()));
        }
        if job.arm.is_some() {
            measure(&plan, &folder)?;
        }
        if !done && show == Show::Nothing {
            eprintln!("{}: {}", job.name, duration_text(began.elapsed().as_secs_f64()));
        }
        Ok(())
    };
    // what is known so far, for the page
    let then = |_| -> Result<(), CliError> {
        let _one_at_a_time = lock(&saving);
        result(&plan, &jobs, &runs, &a, |i| queue.is_done(i))?.save(&data)?;
        Ok(())
    };
    let ends: Vec<Result<(), CliError>> = std::thread::scope(|s| {
        let workers: Vec<_> =
            (0..a.jobs.min(jobs.len())).map(|_| s.spawn(|| queue.work(each, then))).collect();
        let join =
            |w: std::thread::ScopedJoinHandle<_>| w.join().unwrap_or_else(|e| std::panic::resume_unwind(e));
        workers.into_iter().map(join).collect()
    });
    ends.into_iter().collect::<Result<Vec<()>, _>>()?;
    let result = result(&plan, &jobs, &runs, &a, |_| true)?;
    let folder = result.save(&data)?;
    if let Some(out) = &a.out {
        let failed = |e: std::io::Error| CliError::Failure(format!("{}: {e}", out.display()));
        fs::create_dir_all(out).map_err(failed)?;
        for (end, from) in [("json", "result.json"), ("md", "result.md")] {
            fs::copy(folder.join(from), out.join(format!("{}.{end}", plan.name))).map_err(failed)?;
        }
    }
    if a.json {
        println!("{}", serde_json::to_string(&result).expect("plain data"));
    } else {
        println!("{}", result.markdown());
    }
    eprintln!("result in {}; on the page: /compare?ablation={}", folder.display(), plan.name);
    Ok(())
}

/// Refuses a job whose run was made from another recipe.
fn unchanged(job: &Job, folder: &Path) -> Result<(), CliError> {
    if !folder.join("run.toml").exists() {
        return Ok(());
    }
    let changed = job.config.diff(&RunFolder::config(folder)?);
    // paths are kept whole in the run's folder
    let changed = changed.iter().find(|c| !c.0.starts_with("data.") && !c.0.starts_with("model.from"));
    match changed {
        None => Ok(()),
        Some((field, new, old)) => Err(CliError::BadInput(format!(
            "run {} was made by another plan ({field} is {old} there and {new} here); rename the plan or delete the run",
            job.name
        ))),
    }
}

/// Trains one run to its end, from its last checkpoint if it has one.
fn one(job: &Job, base: &Path, folder: &Path, show: Show) -> Result<(), CliError> {
    if folder.join("run.toml").exists() {
        train::start(folder.to_path_buf(), RunFolder::config(folder)?, false, show)?;
    } else {
        let (folder, config) = train::plan(job.config.clone(), base, Some(folder.to_path_buf()))?;
        train::start(folder, config, true, show)?;
    }
    Ok(())
}

/// The run that each waits for: an arm, for the start of its seed.
fn after(jobs: &[Job]) -> Vec<Option<usize>> {
    let start = |seed: u64| jobs.iter().position(|j| j.arm.is_none() && j.seed == seed);
    jobs.iter().map(|j| j.arm.as_ref().and_then(|_| start(j.seed))).collect()
}

fn status(folder: &Path) -> Option<Status> {
    RunFolder::status(folder).ok().flatten()
}

/// Every run in the order of its need: seed by seed, the start first.
fn jobs(plan: &Ablation, runs: &Path, only: &[String]) -> Result<Vec<Job>, CliError> {
    let mut out = vec![];
    for seed in &plan.seeds {
        let start = plan.run_name("start", *seed);
        if !plan.start.is_empty() {
            out.push(Job { name: start.clone(), arm: None, seed: *seed, config: plan.start_recipe(*seed)? });
        }
        for arm in plan.arms.iter().filter(|a| only.is_empty() || only.contains(&a.name)) {
            let mut config = plan.recipe(arm, *seed)?;
            if plan.equal == Budget::Flops && !arm.unequal {
                equalise(plan, arm, *seed, &mut config)?;
            }
            if plan.starts(arm) {
                config.model.from = Some(runs.join(&start).display().to_string());
            }
            out.push(Job { name: config.name.clone(), arm: Some(arm.name.clone()), seed: *seed, config });
        }
    }
    Ok(out)
}

/// Scales an arm's phases until it costs what the baseline costs, start included.
fn equalise(
    plan: &Ablation,
    arm: &hilda_engine::config::Arm,
    seed: u64,
    config: &mut RunConfig,
) -> Result<(), CliError> {
    let start = |a: &hilda_engine::config::Arm| -> Result<f64, CliError> {
        Ok(if plan.starts(a) { flops_of(&plan.start_recipe(seed)?)? } else { 0.0 })
    };
    let base = plan.arm(&plan.baseline);
    let target = flops_of(&plan.recipe(base, seed)?)? + start(base)?;
    let left = target - start(arm)?;
    if left <= 0.0 {
        return Err(CliError::BadInput(format!(
            "arm \"{}\": the start alone costs more than the baseline",
            arm.name
        )));
    }
    let scale = left / flops_of(config)?;
    for p in &mut config.phases {
        p.tokens = (p.tokens as f64 * scale) as u64;
    }
    config.validate()?;
    Ok(())
}

/// What a model of this kind is measured by under the plan's name of a likelihood.
fn estimator(name: &str, serving: Serving, k: usize) -> Estimator {
    let block = serving.block_size;
    match (name, serving.attention) {
        (_, Attention::Causal) => Estimator::Ar,
        ("exact", _) => Estimator::LeftToRight { block },
        ("duel", _) => Estimator::Duel { rule: Rule::PMax { k: 1 }, block },
        ("nelbo_n", _) => Estimator::NelboN { block, k },
        (_, Attention::BlockCausal) => Estimator::NelboBlock { block, k },
        (_, Attention::Bidirectional) => Estimator::NelboT { k },
    }
}

/// Measurements of a run, kept beside it so that they are made once.
fn measure(plan: &Ablation, folder: &Path) -> Result<BTreeMap<String, Estimate>, CliError> {
    let failed = |e: &dyn std::fmt::Display| CliError::Failure(format!("{}: {e}", folder.display()));
    let step = checkpoint::list(folder).last().copied().ok_or_else(|| failed(&"has no checkpoint"))?;
    let path = folder.join("measures.json");
    // by estimator, rows and step: another plan may ask for others
    let mut kept: BTreeMap<String, Estimate> =
        fs::read(&path).ok().and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default();
    let source = Source::open(&checkpoint::folder(folder, step)).map_err(|e| failed(&e))?;
    let loaded = source.load().map_err(|e| failed(&e))?;
    let mut out = BTreeMap::new();
    let mut input = None;
    for name in &plan.measure.likelihoods {
        let estimator = estimator(name, loaded.serving, plan.measure.k);
        let key = format!("{} rows {} step {step}", estimator.name(), plan.measure.rows);
        if let Some(e) = kept.get(&key) {
            out.insert(name.clone(), e.clone());
            continue;
        }
        let config = RunFolder::config(folder)?;
        let input = match &mut input {
            Some(i) => i,
            none => {
                let tokenizer = source.tokenizer().map_err(|e| failed(&e))?;
                none.insert(
                    input::read(&config, folder, &Registry::new(data_dir()), tokenizer)
                        .map_err(|e| failed(&e))?,
                )
            }
        };
        let trunk = Trunk::new(loaded.config.clone());
        let e = Evaluation {
            estimator,
            seed: 0,
            shift: loaded.serving.shift,
            packing: config.data.packing,
            rows: plan.measure.rows,
            bytes_per_token: Some(input.bytes_per_token),
        };
        let rows = plan_rows(estimator, config.data.packing.length);
        let device = device::ready(&config.device, Needs::forward(&trunk, rows))?;
        eprintln!("measuring {} by {}", folder.display(), estimator.name());
        let work = Estimates {
            trunk: &trunk,
            params: &loaded.params,
            text: &input.valid,
            wanted: vec![e],
            show: false,
            stop: &train::stopped,
        };
        let found = device.run(work)?.remove(0);
        kept.insert(key, found.clone());
        out.insert(name.clone(), found);
        let bytes = serde_json::to_vec_pretty(&kept).expect("plain data");
        hilda_engine::files::replace(&path, &bytes).map_err(|e| failed(&e))?;
    }
    Ok(out)
}

/// Model FLOPs and seconds of a run, the last attempt of each step.
fn cost(folder: &Path) -> (f64, f64) {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap_or_default();
    let mut steps = BTreeMap::new();
    for line in text.lines() {
        if let Ok(Metric::Train { step, flops, seconds, .. }) = serde_json::from_str(line) {
            steps.insert(step, (flops, seconds));
        }
    }
    steps.values().fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1))
}

/// The finished runs of every arm, measured, of those that `count`.
fn result(
    plan: &Ablation,
    jobs: &[Job],
    runs: &Path,
    a: &Args,
    count: impl Fn(usize) -> bool,
) -> Result<AblationResult, CliError> {
    let mut arms = vec![];
    for arm in &plan.arms {
        let mut results = vec![];
        for (i, job) in jobs.iter().enumerate() {
            if job.arm.as_ref() != Some(&arm.name) || !count(i) {
                continue;
            }
            let folder = runs.join(&job.name);
            let Some(s) = status(&folder).filter(|s| s.state == State::Finished) else { continue };
            let start = plan.starts(arm).then(|| runs.join(plan.run_name("start", job.seed)));
            let (flops, seconds) = cost(&folder);
            let (before, earlier) = start.as_deref().map_or((0.0, 0.0), cost);
            let tokens = start.as_deref().and_then(status).map_or(0, |s| s.tokens);
            results.push(RunResult {
                run: job.name.clone(),
                seed: job.seed,
                tokens: s.tokens + tokens,
                flops: flops + before,
                seconds: seconds + earlier,
                likelihoods: measure(plan, &folder)?,
            });
        }
        arms.push((arm.name.clone(), results));
    }
    let file = a.plan.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(collect(plan, arms, format!("hilda ablate recipes/ablations/{file}")))
}
