//! `hilda bench`: how fast this machine trains and decodes.

use super::CliError;

#[derive(clap::Args)]
pub struct Args {
    /// what to measure: train or decode
    pub what: String,
}

pub fn run(_: Args) -> Result<(), CliError> {
    Err(CliError::Failure("bench: not built yet".into()))
}
