//! `hilda eval`: likelihoods.

use super::CliError;

#[derive(clap::Args)]
pub struct Args {
    /// what to measure: nelbo
    pub what: String,
}

pub fn run(_: Args) -> Result<(), CliError> {
    Err(CliError::Failure("eval: not built yet".into()))
}
