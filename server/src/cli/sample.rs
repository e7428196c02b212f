//! `hilda sample`: text from a model.

use std::path::PathBuf;

use super::CliError;

#[derive(clap::Args)]
pub struct Args {
    /// checkpoint folder
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    #[arg(long, default_value = "")]
    pub prompt: String,
}

pub fn run(_: Args) -> Result<(), CliError> {
    Err(CliError::Failure("sample: not built yet".into()))
}
