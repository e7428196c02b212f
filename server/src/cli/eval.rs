//! `hilda eval ...`: measuring models. One file a measurement.

use super::CliError;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Negative log-likelihood or its bound, nats per counted token
    #[command(alias = "nelbo")]
    Likelihood(super::likelihood::Args),
    /// Entropy, repetition, story checks, a judge's perplexity and the cost of generated text
    Text(super::text::Args),
    /// How many wrong tokens a model's edits put right, and how many right ones they spoil
    Repair(super::repair::Args),
    /// Which range of mask rates gives a block model's loss the least variance
    Intervals(super::intervals::Args),
    /// What each way to keep finished blocks costs: nats per masked token of a text read through it
    Caches(super::caches::Args),
    /// What an autoregressive judge says of the edits that decoding makes
    Edits(super::edits::Args),
}

pub fn run(args: Args) -> Result<(), CliError> {
    match args.what {
        What::Likelihood(a) => super::likelihood::run(a),
        What::Text(a) => super::text::run(a),
        What::Repair(a) => super::repair::run(a),
        What::Intervals(a) => super::intervals::run(a),
        What::Caches(a) => super::caches::run(&a),
        What::Edits(a) => super::edits::run(a),
    }
}
