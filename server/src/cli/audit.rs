//! `hilda audit`: does a configuration prove what it claims? Exit code 1 where it claims more.

use std::path::PathBuf;

use hilda_engine::data::document::{guess_format, read_documents};
use hilda_engine::eval::audit::checkpoint::{AuditError, Subject, model};
use hilda_engine::eval::audit::{Report, recipe};
use hilda_engine::model::Trunk;
use hilda_engine::train::RunFolder;
use hilda_kernels::{Backend, Cpu};

use super::sample::open_model;
use super::train::read_recipe;
use super::{CliError, data_dir};
use crate::audit::{self, audit};

#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("subject").required(true).args(["recipe", "run", "model"])))]
pub struct Args {
    /// recipe whose tiny counterpart is enumerated
    pub recipe: Option<PathBuf>,
    /// run, by id or folder: its recipe is audited and the result kept beside it (audit.json)
    #[arg(long, value_name = "RUN")]
    pub run: Option<PathBuf>,
    /// trained model: audited on short rows of --data
    #[arg(long, value_name = "DIR", requires = "data")]
    pub model: Option<PathBuf>,
    /// text or JSONL file
    #[arg(long, value_name = "FILE", requires = "model")]
    pub data: Option<PathBuf>,
    /// rows of text for --model
    #[arg(long, default_value_t = 24)]
    pub rows: usize,
    /// every check, not only the broken ones
    #[arg(long)]
    pub all: bool,
    #[arg(long)]
    pub json: bool,
}

pub fn run(a: Args) -> Result<(), CliError> {
    let report = match (&a.recipe, &a.run, &a.model) {
        (Some(path), _, _) => recipe(&read_recipe(path)?)?,
        (_, Some(named), _) => {
            let folder = match named.join("run.toml").exists() {
                true => named.clone(),
                false => data_dir().join("runs").join(named),
            };
            audit(&folder, &RunFolder::config(&folder)?).map_err(|e| match e {
                audit::AuditError::Config(e) => e.into(),
                e => CliError::Failure(e.to_string()),
            })?
        }
        _ => trained(&a)?,
    };
    if a.json {
        println!("{}", serde_json::to_string(&report).expect("plain data"));
    } else {
        print!("{}", report.table(a.all));
    }
    match report.passed {
        true => Ok(()),
        false => Err(CliError::Failure(format!("{}: the audit failed", report.subject))),
    }
}

fn trained(a: &Args) -> Result<Report, CliError> {
    let (Some(named), Some(path)) = (&a.model, &a.data) else { unreachable!("clap asks for both") };
    if !(2..=4096).contains(&a.rows) {
        return Err(CliError::BadInput(format!("--rows {} is outside 2..4096", a.rows)));
    }
    let bad = |e: hilda_engine::data::DataError| CliError::BadInput(e.to_string());
    let documents = read_documents(path, &guess_format(path).map_err(bad)?).map_err(bad)?;
    let (loaded, tokenizer) = open_model(named)?;
    let mut text = vec![];
    for d in &documents {
        text.extend(tokenizer.encode(d).map_err(bad)?);
        text.push(loaded.config.eos_id);
        if text.len() > 4096 * 64 {
            break;
        }
    }
    let trunk = Trunk::new(loaded.config.clone());
    let mut params = Cpu.buf(trunk.layout.total);
    Cpu.write(&mut params, 0, &loaded.params);
    let subject = Subject {
        name: named.display().to_string(),
        backend: &Cpu,
        trunk: &trunk,
        serving: loaded.serving,
        params: &params,
        text: &text,
        rows: a.rows,
    };
    model(&subject).map_err(|e| match e {
        AuditError::Model(_) | AuditError::Likelihood(_) => {
            CliError::BadInput(format!("{}: {e}", named.display()))
        }
        e => CliError::Failure(e.to_string()),
    })
}
