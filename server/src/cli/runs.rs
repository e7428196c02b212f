//! `hilda runs list | show | export | publish`: reads run folders, with or without a server beside it.

use std::path::PathBuf;

use hilda_engine::data::FREQUENCIES;
use hilda_engine::model::checkpoint::{self, Format};
use hilda_engine::model::source::Source;
use serde_json::json;

use super::{CliError, bytes_text, duration_text, open_data};
use crate::{
    jobs::state_name,
    share::{self, publish},
    storage::{DataDir, Index, RunFolder, date_text, shares},
};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// All runs, newest first
    List {
        #[arg(long)]
        json: bool,
    },
    /// One run: configuration, progress, checkpoints
    Show {
        /// id of the run
        run: String,
        #[arg(long)]
        json: bool,
    },
    /// Copy a checkpoint of a run (config.json, model.safetensors, tokenizer.json) to a folder
    Export {
        /// id of the run
        run: String,
        /// new folder
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// checkpoint to take [default: the newest]
        #[arg(long)]
        step: Option<u64>,
        /// number format of the weights: f32, f16 or int8 (rows, as the page takes them)
        #[arg(long, default_value = "f32")]
        format: String,
    },
    /// Write a run's result as a static folder that any host can serve
    Publish {
        /// id of the run
        run: String,
        /// empty folder, or one that was published into before
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        #[arg(long)]
        title: Option<String>,
        #[arg(long, default_value = "")]
        note: String,
        /// put the model beside it (int8 rows)
        #[arg(long)]
        with_model: bool,
        /// put the page with its demo model there too, as index.html
        #[arg(long)]
        with_page: bool,
        #[arg(long)]
        json: bool,
    },
}

pub fn run(args: Args) -> Result<(), CliError> {
    let data = open_data()?;
    match args.command {
        Command::List { json } => list(&data, json),
        Command::Show { run, json } => show(&data.run(&run)?, json),
        Command::Export { run, out, step, format } => export(&data.run(&run)?, &out, step, &format),
        Command::Publish { run, out, title, note, with_model, with_page, json } => {
            let run = data.run(&run)?;
            // the same link as before, if the run was shared or published already
            let known = shares::list(&data).into_iter().find(|s| s.run == run.id && title.is_none());
            let share = match known {
                Some(s) => s,
                None => {
                    let title = title.map_or_else(|| run.config().map(|c| c.name), Ok)?;
                    shares::create(&data, &run.id, &title, &note)?
                }
            };
            let index = Index::open(&data.root().join("hilda.sqlite"))?;
            let result = share::build(&index, &run, &share)?;
            let folder = publish::publish(&out, &result, &run, with_model, with_page)?;
            let path = format!("r/{}/", share.slug);
            if json {
                println!("{}", json!({ "slug": share.slug, "path": path, "folder": folder }));
            } else {
                eprintln!("{} is in {}; its address ends in /{path}", share.title, folder.display());
            }
            Ok(())
        }
    }
}

fn list(data: &DataDir, as_json: bool) -> Result<(), CliError> {
    let mut rows = vec![];
    for id in data.run_ids() {
        let run = data.run(&id)?;
        match (run.config(), run.status(), run.job()) {
            (Ok(config), Ok(status), Ok(job)) => rows.push((job.created, run, config, status)),
            (c, s, j) => {
                let errors = [c.err(), s.err(), j.err()];
                errors.into_iter().flatten().take(1).for_each(|e| eprintln!("hilda: run {id}: {e}"));
            }
        }
    }
    rows.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| b.1.id.cmp(&a.1.id)));
    if as_json {
        let all: Vec<_> = rows
            .iter()
            .map(|(created, run, config, status)| {
                json!({
                    "id": run.id, "name": config.name, "created": created, "status": status,
                    "recipe_hash": config.hash(), "disk_bytes": run.disk_bytes(),
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&all).expect("plain data"));
        return Ok(());
    }
    if rows.is_empty() {
        eprintln!("no runs in {}; `hilda train RECIPE` starts one", data.runs().display());
    }
    for (_, run, _, status) in &rows {
        let state = state_name(status.as_ref().map(|s| s.state));
        let Some(s) = status else {
            println!("{:<44} {state}", run.id);
            continue;
        };
        let headline = s
            .headline
            .as_ref()
            .map_or(String::new(), |e| format!("{} {:.4} +- {:.4} nats", e.estimator, e.value, e.stderr));
        println!(
            "{:<44} {state:<9} step {}/{}  {}  {}  {headline}",
            run.id,
            s.step,
            s.total_steps,
            duration_text(s.seconds),
            bytes_text(run.disk_bytes()),
        );
    }
    Ok(())
}

fn show(run: &RunFolder, as_json: bool) -> Result<(), CliError> {
    let (config, status, job) = (run.config()?, run.status()?, run.job()?);
    let checkpoints = run.checkpoints();
    if as_json {
        let v = json!({
            "id": run.id, "path": run.path, "created": job.created, "parent": job.parent, "config": config,
            "recipe_hash": config.hash(), "status": status, "checkpoints": checkpoints, "files": run.files(),
        });
        println!("{}", serde_json::to_string_pretty(&v).expect("plain data"));
        return Ok(());
    }
    println!("{}  ({})", run.id, state_name(status.as_ref().map(|s| s.state)));
    println!(
        "created {}, {} on disk, {}",
        date_text(job.created),
        bytes_text(run.disk_bytes()),
        run.path.display()
    );
    if let Some(s) = &status {
        println!(
            "step {}/{}, {} of {} tokens, {} on {}",
            s.step,
            s.total_steps,
            s.tokens,
            s.total_tokens,
            duration_text(s.seconds),
            s.device
        );
        if let Some(e) = &s.headline {
            println!(
                "{} = {:.4} +- {:.4} nats per token ({} tokens, {} rows, K = {}, seed {}){}",
                e.estimator,
                e.value,
                e.stderr,
                e.tokens,
                e.rows,
                e.k,
                e.seed,
                e.bits_per_byte.map_or(String::new(), |b| format!(", {b:.4} bits per byte"))
            );
        }
        if let Some(e) = &s.error {
            println!("error: {e}");
        }
    }
    for c in &checkpoints {
        println!("checkpoint step {}  {}", c.step, bytes_text(c.bytes));
    }
    println!("\n{}", run.toml()?);
    Ok(())
}

fn export(run: &RunFolder, out: &std::path::Path, step: Option<u64>, format: &str) -> Result<(), CliError> {
    let format = match format {
        "f32" => Format::F32,
        "f16" => Format::F16,
        "int8" => Format::Int8,
        other => return Err(CliError::BadInput(format!("--format {other}: f32, f16 or int8"))),
    };
    let checkpoints = run.checkpoints();
    let step = match step {
        Some(s) if checkpoints.iter().any(|c| c.step == s) => s,
        Some(s) => {
            let known: Vec<_> = checkpoints.iter().map(|c| c.step.to_string()).collect();
            return Err(CliError::BadInput(format!(
                "run {} has no checkpoint of step {s}; it has: {}",
                run.id,
                if known.is_empty() { "none".into() } else { known.join(", ") }
            )));
        }
        None => match checkpoints.last() {
            Some(c) => c.step,
            None => return Err(CliError::BadInput(format!("run {} has no checkpoint yet", run.id))),
        },
    };
    let from = run.path.join("ckpt").join(format!("step-{step}"));
    let fail = |e: std::io::Error| CliError::Failure(format!("exporting to {}: {e}", out.display()));
    if out.exists() {
        return Err(CliError::BadInput(format!("{} exists already; name a new folder", out.display())));
    }
    let unreadable = |e: &dyn std::fmt::Display| CliError::Failure(format!("{}: {e}", from.display()));
    let model = Source::Folder(from.clone()).load().map_err(|e| unreadable(&e))?;
    let weights = checkpoint::save(&model.config, &model.params, format).map_err(|e| unreadable(&e))?;
    std::fs::create_dir_all(out).map_err(fail)?;
    std::fs::write(out.join("model.safetensors"), weights).map_err(fail)?;
    let mut copied = vec!["model.safetensors"];
    for name in ["config.json", "tokenizer.json", "README.md"] {
        if from.join(name).is_file() {
            std::fs::copy(from.join(name), out.join(name)).map_err(fail)?;
            copied.push(name);
        }
    }
    crate::models::take_frequencies(&from, out)?;
    if out.join(FREQUENCIES).is_file() {
        copied.push(FREQUENCIES);
    }
    let (config, status) = (run.config()?, run.status()?);
    let card = json!({
        "name": config.name, "about": config.about, "step": step,
        "data": config.data.corpus.clone().or(config.data.train.as_ref().map(|t| {
            t.rsplit('/').next().unwrap_or_default().to_string()
        })),
        "tokens": status.as_ref().map(|s| s.tokens),
        "likelihood": status.as_ref().and_then(|s| s.headline.clone()),
        "seconds": status.as_ref().map(|s| s.seconds),
        "device": status.as_ref().map(|s| s.device.clone()),
        "recipe_hash": config.hash(), "weights": format!("{format:?}").to_lowercase(),
    });
    let text = serde_json::to_string_pretty(&card).expect("plain data");
    std::fs::write(out.join("card.json"), text + "\n").map_err(fail)?;
    copied.push("card.json");
    eprintln!("step {step} of {} is in {} ({})", run.id, out.display(), copied.join(", "));
    Ok(())
}
