//! `hilda train RECIPE [--run DIR]` creates a run and trains it; `hilda train --run DIR` starts or resumes one.
//!
//! An interrupt (Ctrl-C, SIGTERM) writes a checkpoint and stops; a second one quits at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use hilda_engine::config::RunConfig;
use hilda_engine::data::Tokenizer;
use hilda_engine::data::corpus::Registry;
use hilda_engine::model::Trunk;
use hilda_engine::record::Status;
use hilda_engine::train::memory::{micro_for, micro_rows};
use hilda_engine::train::{self, FolderError, Hooks, RunFolder, TrainError, checkpoint, input};
use hilda_kernels::Train;

use super::progress::Progress;
use super::{CliError, data_dir, duration_text};
use crate::device::{self, Device, Needs, Work};
use crate::library;

#[derive(clap::Args)]
pub struct Args {
    /// recipe to start (a .toml file)
    pub recipe: Option<PathBuf>,
    /// run folder to create or to resume [default: a new one under the data folder]
    #[arg(long, value_name = "DIR")]
    pub run: Option<PathBuf>,
    /// threads [default: all cores]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// print the final status as JSON
    #[arg(long)]
    pub json: bool,
}

static STOP: AtomicBool = AtomicBool::new(false);

impl From<FolderError> for CliError {
    fn from(e: FolderError) -> Self {
        match e {
            FolderError::Io { ref source, .. } if source.kind() != std::io::ErrorKind::NotFound => {
                CliError::Failure(e.to_string())
            }
            _ => CliError::BadInput(e.to_string()),
        }
    }
}

impl From<TrainError> for CliError {
    fn from(e: TrainError) -> Self {
        match e {
            TrainError::Config(_) | TrainError::From { .. } => CliError::BadInput(e.to_string()),
            e => CliError::Failure(e.to_string()),
        }
    }
}

pub fn run(args: Args) -> Result<(), CliError> {
    use_threads(args.threads)?;
    let last = match (&args.recipe, args.run) {
        (Some(recipe), run) => {
            let (run, config) = plan(read_recipe(recipe)?, recipe.parent().unwrap_or(Path::new(".")), run)?;
            start(run, config, true, Show::Bar)?
        }
        (None, Some(run)) => {
            let config = RunFolder::config(&run)?;
            start(run, config, false, Show::Bar)?
        }
        (None, None) => return Err(CliError::BadInput("name a recipe, or a run with --run DIR".into())),
    };
    if args.json
        && let Some(s) = last
    {
        println!("{}", serde_json::to_string(&s).expect("plain data"));
    }
    Ok(())
}

/// A recipe from its file.
pub fn read_recipe(recipe: &Path) -> Result<RunConfig, CliError> {
    let bad = |e: &dyn std::fmt::Display| CliError::BadInput(format!("{}: {e}", recipe.display()));
    RunConfig::from_toml(&fs::read_to_string(recipe).map_err(|e| bad(&e))?).map_err(|e| bad(&e))
}

/// What a run says on standard error while it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// a bar
    Bar,
    /// nothing: other runs go on beside it
    Nothing,
}

/// Trains to the end or until asked to stop: a run that is `new`, or one that goes on. Returns what it said last.
pub fn start(run: PathBuf, mut config: RunConfig, new: bool, show: Show) -> Result<Option<Status>, CliError> {
    let registry = Registry::new(data_dir());
    let kept = checkpoint::list(&run).last().map(|s| checkpoint::folder(&run, *s).join("tokenizer.json"));
    let kept = kept.filter(|_| config.data.tokenizer.is_none()).filter(|p| p.exists());
    let tokenizer = kept.map(Tokenizer::from_file).transpose().map_err(bad)?;
    let data = input::read(&config, &run, &registry, tokenizer)?;
    if new {
        train::check(&config, &data)?;
    }
    let trunk = Trunk::new(train::model_config(&config, &data)?);
    // a run that goes on keeps what was chosen when it began, or what everyone had before that was written down: its sums
    // have that order
    let begun = RunFolder::status(&run)?.filter(|s| s.attempt > 0);
    config.batch.chosen = begun.map(|s| s.micro.unwrap_or_else(|| micro_rows(&config)));
    let device = place(&mut config, &trunk)?;
    if new {
        RunFolder::create(&run, &config)?;
    }
    let mut folder = RunFolder::open(&run)?;
    let _ = ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    });
    if show == Show::Bar {
        eprintln!("run {}", run.display());
    }
    let mut bar = Progress::new("step");
    let mut last: Option<Status> = None;
    let mut hooks = Hooks {
        now: &now,
        stop: &|| STOP.load(Ordering::SeqCst),
        progress: &mut |s: &Status| {
            let likelihood =
                s.headline.as_ref().map_or(String::new(), |h| format!(", {} {:.3}", h.estimator, h.value));
            let eta = s.eta.map_or(String::new(), |e| format!(", {} left", duration_text(e)));
            if show == Show::Bar {
                let speed = s.tokens as f64 / s.seconds.max(1e-9);
                bar.update(s.step, s.total_steps, &format!("{speed:.0} tokens/s{likelihood}{eta}"));
            }
            last = Some(s.clone());
        },
        device: device.name(),
        command: "hilda train run.toml".into(),
    };
    let outcome =
        device.run(Training { folder: &mut folder, config: &config, data: &data, hooks: &mut hooks });
    bar.finish();
    let at = last.as_ref().map_or(0, |s| s.step);
    let how = if outcome? == train::Outcome::Finished { "finished" } else { "stopped" };
    if show == Show::Bar {
        eprintln!("{how} at step {at}");
    }
    Ok(last)
}

/// The device of a run, which holds its step at least one row at a time, and in `config` how many rows a forward has there.
fn place(config: &mut RunConfig, trunk: &Trunk) -> Result<Device, CliError> {
    let given = config.batch.micro.or(config.batch.chosen);
    let mut least = config.clone();
    least.batch.micro = given.or(Some(1));
    let device = device::ready(&config.device, Needs::training(trunk, &least))?;
    if given.is_none() {
        config.batch.chosen = Some(micro_for(config, trunk, device.memory()));
    }
    Ok(device)
}

struct Training<'a, 'h> {
    folder: &'a mut RunFolder,
    config: &'a RunConfig,
    data: &'a input::Input,
    hooks: &'a mut Hooks<'h>,
}

impl Work for Training<'_, '_> {
    type Out = Result<train::Outcome, TrainError>;

    fn on<B: Train + Clone>(self, backend: B) -> Self::Out {
        train::train(backend, self.folder, self.config, self.data, self.hooks)
    }
}

fn bad(e: impl std::fmt::Display) -> CliError {
    CliError::BadInput(e.to_string())
}

/// Was an interrupt asked for?
pub fn stopped() -> bool {
    STOP.load(Ordering::SeqCst)
}

/// Unix seconds.
pub fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// Sizes the one thread pool; must come before any computation.
pub fn use_threads(n: Option<usize>) -> Result<(), CliError> {
    match n {
        Some(n @ 1..=1024) => {
            // the pool reads this when it starts; nothing has used it yet and no other thread runs
            unsafe { std::env::set_var("RAYON_NUM_THREADS", n.to_string()) };
            Ok(())
        }
        Some(n) => Err(CliError::BadInput(format!("--threads {n} is outside 1..1024"))),
        None => Ok(()),
    }
}

/// Where a recipe's run would be, and its configuration with whole paths, those of the recipe starting at `base`.
/// Nothing is created.
pub fn plan(
    mut config: RunConfig,
    base: &Path,
    run: Option<PathBuf>,
) -> Result<(PathBuf, RunConfig), CliError> {
    let fields = [
        ("data.train", &mut config.data.train),
        ("data.valid", &mut config.data.valid),
        ("data.tokenizer", &mut config.data.tokenizer),
        ("model.from", &mut config.model.from),
    ];
    for (field, path) in fields {
        if let Some(p) = path {
            let mut full = base.join(&*p);
            if field == "model.from" && !full.exists() {
                // the name of a pulled model, or a run's id
                full = library::place(&data_dir(), Path::new(&*p));
            }
            let full = full
                .canonicalize()
                .map_err(|e| CliError::BadInput(format!("{field}: {}: {e}", full.display())))?;
            *path = Some(full.display().to_string());
        }
    }
    let run = match run {
        Some(r) => r,
        None => {
            let runs = data_dir().join("runs");
            let name =
                |i: u32| runs.join(if i == 1 { config.name.clone() } else { format!("{}-{i}", config.name) });
            (1..).map(name).find(|p| !p.exists()).expect("numbers do not end")
        }
    };
    if run.join("run.toml").exists() {
        return Err(CliError::BadInput(format!(
            "{} holds a run already; resume it with: hilda train --run DIR",
            run.display()
        )));
    }
    Ok((run, config))
}
