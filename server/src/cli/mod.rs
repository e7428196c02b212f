//! The command line: `hilda serve | train | convert | sample | eval | ablate | audit | models | parity | bench | switch | runs | data | pull |
//! doctor`.
//!
//! Exit codes: 0 done, 1 failed, 2 bad input. What a program would read goes to standard output (JSON with
//! `--json`), everything for people about progress to standard error, bars only on a terminal.

pub mod ablate;
mod arithmetic;
pub mod audit;
mod average;
pub mod bench;
mod caches;
pub mod convert;
pub mod data;
pub mod decode_bench;
pub mod decode_grid;
pub mod decode_table;
pub mod doctor;
mod edits;
pub mod eval;
pub mod export;
mod intervals;
mod kvzap;
mod likelihood;
mod measure;
pub mod models;
pub mod parity;
pub mod progress;
pub mod pull;
mod repair;
pub mod runs;
pub mod sample;
pub mod serve;
mod switch;
mod switch_fit;
mod text;
pub mod train;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::OnceLock,
};

use clap::{Parser, Subcommand};

use crate::storage::{DataDir, StorageError};

/// Why a command ended without doing its work; the message says what and where.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// the caller can fix it: exit code 2
    #[error("{0}")]
    BadInput(String),
    /// exit code 1
    #[error("{0}")]
    Failure(String),
}

impl CliError {
    pub fn exit_code(&self) -> u8 {
        match self {
            CliError::Failure(_) => 1,
            CliError::BadInput(_) => 2,
        }
    }
}

impl From<StorageError> for CliError {
    fn from(e: StorageError) -> Self {
        match e {
            StorageError::NoRun(_) | StorageError::BadId(_) | StorageError::Conflict(_) => {
                CliError::BadInput(e.to_string())
            }
            _ => CliError::Failure(e.to_string()),
        }
    }
}

impl From<hilda_engine::config::ConfigError> for CliError {
    fn from(e: hilda_engine::config::ConfigError) -> Self {
        CliError::BadInput(e.to_string())
    }
}

/// HILDA: train small diffusion language models, watch them write, share the result.
#[derive(Parser)]
#[command(name = "hilda", version, arg_required_else_help = true)]
struct Cli {
    /// folder of runs, corpora and shared results [default: $HILDA_DATA, else the platform's data folder]
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start the page and the API
    Serve(serve::Args),
    /// Train a recipe, or resume a run
    Train(train::Args),
    /// Turn an autoregressive model into a diffusion model
    Convert(convert::Args),
    /// Write text with a model
    Sample(sample::Args),
    /// Measure a model
    Eval(eval::Args),
    /// List, show and check models
    Models(models::Args),
    /// Train the arms of an ablation under paired seeds and compare them
    Ablate(ablate::Args),
    /// Check that a configuration or a model proves what it claims
    Audit(audit::Args),
    /// Compare checkpoints with what reference implementations computed
    Parity(parity::Args),
    /// Measure this machine
    Bench(bench::Args),
    /// Compare decoders of one model: quality before a judge against forwards
    DecodeBench(decode_bench::Args),
    /// Learn when a fast decoder will do
    Switch(switch::Args),
    /// List, show, export and publish runs
    Runs(runs::Args),
    /// Register and list corpora
    Data(data::Args),
    /// Fetch a model from the Hugging Face hub
    Pull(pull::Args),
    /// Say what works on this machine and what does not
    Doctor(doctor::Args),
}

static DATA_DIR: OnceLock<PathBuf> = OnceLock::new();

/// The data folder of this command: `--data-dir`, `$HILDA_DATA`, or the platform's (`$XDG_DATA_HOME/hilda`,
/// `~/.local/share/hilda`; on macOS `~/Library/Application Support/hilda`). Not created.
pub fn data_dir() -> PathBuf {
    DATA_DIR.get_or_init(|| default_data_dir(|name| std::env::var_os(name).map(PathBuf::from))).clone()
}

fn default_data_dir(env: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    let set = |name: &str| env(name).filter(|p| !p.as_os_str().is_empty());
    if let Some(p) = set("HILDA_DATA") {
        return p;
    }
    // the specification asks to ignore relative values
    if let Some(p) = set("XDG_DATA_HOME").filter(|p| p.is_absolute()) {
        return p.join("hilda");
    }
    match set("HOME") {
        Some(home) if cfg!(target_os = "macos") => home.join("Library/Application Support/hilda"),
        Some(home) => home.join(".local/share/hilda"),
        None => Path::new("hilda-data").to_path_buf(),
    }
}

/// Opens the data folder, creating what is missing.
pub fn open_data() -> Result<DataDir, CliError> {
    Ok(DataDir::open(&data_dir())?)
}

pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(dir) = cli.data_dir {
        let _ = DATA_DIR.set(dir);
    }
    let result = match cli.command {
        Command::Serve(a) => serve::run(a),
        Command::Train(a) => train::run(a),
        Command::Convert(a) => convert::run(a),
        Command::Sample(a) => sample::run(a),
        Command::Eval(a) => eval::run(a),
        Command::Models(a) => models::run(a),
        Command::Ablate(a) => ablate::run(a),
        Command::Audit(a) => audit::run(a),
        Command::Parity(a) => parity::run(a),
        Command::Bench(a) => bench::run(a),
        Command::DecodeBench(a) => decode_bench::run(a),
        Command::Switch(a) => switch::run(a),
        Command::Runs(a) => runs::run(a),
        Command::Data(a) => data::run(a),
        Command::Pull(a) => pull::run(a),
        Command::Doctor(a) => doctor::run(a),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("hilda: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}

/// "12.3 MB"
pub fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 999.95 && unit < UNITS.len() - 1 {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// "2 h 05 min", "3 min 20 s", "42 s", "1.2 s"
pub fn duration_text(seconds: f64) -> String {
    let s = seconds.max(0.0);
    let whole = s.round() as u64;
    match whole {
        0..10 => format!("{s:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn data_folder_by_precedence() {
        let with = |pairs: &'static [(&str, &str)]| {
            default_data_dir(|n| pairs.iter().find(|p| p.0 == n).map(|p| PathBuf::from(p.1)))
        };
        assert_eq!(with(&[("HILDA_DATA", "/d"), ("HOME", "/h")]), Path::new("/d"));
        assert_eq!(with(&[("XDG_DATA_HOME", "/x"), ("HOME", "/h")]), Path::new("/x/hilda"));
        if cfg!(target_os = "linux") {
            let home = Path::new("/h/.local/share/hilda");
            assert_eq!(with(&[("HILDA_DATA", ""), ("XDG_DATA_HOME", "rel"), ("HOME", "/h")]), home);
        }
    }

    #[test]
    fn figures_for_people() {
        assert_eq!(
            [0, 999, 1000, 999_960, 12_345_678].map(bytes_text),
            ["0 B", "999 B", "1.0 kB", "1.0 MB", "12.3 MB"]
        );
        assert_eq!(
            [0.0, 1.25, 41.6, 59.7, 200.0, 7500.0].map(duration_text),
            ["0.0 s", "1.2 s", "42 s", "1 min 00 s", "3 min 20 s", "2 h 05 min"]
        );
    }
}
