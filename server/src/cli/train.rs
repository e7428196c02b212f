//! `hilda train RECIPE` and `hilda train --run DIR`.

use std::path::PathBuf;

use super::CliError;

#[derive(clap::Args)]
pub struct Args {
    /// recipe to start
    pub recipe: Option<PathBuf>,
    /// run folder to create or to resume
    #[arg(long, value_name = "DIR")]
    pub run: Option<PathBuf>,
}

pub fn run(_: Args) -> Result<(), CliError> {
    Err(CliError::Failure("train: not built yet".into()))
}
