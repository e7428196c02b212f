//! `hilda eval nelbo`: the likelihood of text under a model, with its estimator's name and standard error.
//! `hilda eval repair` is in `repair.rs`.

use std::path::PathBuf;

use super::CliError;
use super::likelihood::{Measure, likelihood};
use super::sample::open_model;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Negative log-likelihood or its bound, nats per counted token
    Nelbo(Nelbo),
    /// How many wrong tokens a model's edits put right, and how many right ones they spoil
    Repair(super::repair::Args),
    /// What an autoregressive judge says of the edits that decoding makes
    Edits(super::edits::Args),
}

#[derive(clap::Args)]
struct Nelbo {
    /// model folder, GGUF file, pulled model's name, or a run folder for its newest checkpoint
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// text or JSONL file
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// ar, nelbo_t or nelbo_block [default: the model's own]
    #[arg(long)]
    estimator: Option<String>,
    /// block size of nelbo_block [default: the model's serving block]
    #[arg(long)]
    block: Option<usize>,
    /// draws per row
    #[arg(long, default_value_t = 8)]
    k: usize,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// documents (attention, positions and blocks restart at each) or stream (plain concatenation)
    #[arg(long, default_value = "stream")]
    packing: String,
    /// row length [default: the model's context]
    #[arg(long)]
    length: Option<usize>,
    /// at most this many rows
    #[arg(long, default_value_t = 0)]
    limit: usize,
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<(), CliError> {
    let a = match args.what {
        What::Nelbo(a) => a,
        What::Repair(a) => return super::repair::run(a),
        What::Edits(a) => return super::edits::run(a),
    };
    let documents = match a.packing.as_str() {
        "documents" => true,
        "stream" => false,
        other => return Err(CliError::BadInput(format!("--packing {other}: documents or stream"))),
    };
    let measure = Measure {
        estimator: a.estimator,
        block: a.block,
        k: a.k,
        seed: a.seed,
        documents,
        length: a.length,
        limit: a.limit,
    };
    let (model, tokenizer) = open_model(&a.model)?;
    let (r, length) = likelihood(&model, &tokenizer, &a.data, &measure)?;
    if a.json {
        let line = serde_json::json!({
            "nelbo": r.value, "estimator": r.estimator, "k": r.k, "stderr": r.stderr,
            "bits_per_byte": r.bits_per_byte, "tokens": r.tokens, "rows": r.rows, "seed": r.seed,
            "packing": a.packing, "length": length,
        });
        println!("{line}");
    } else {
        println!(
            "{} = {:.4} ± {:.4} nats per token, {:.4} bits per byte ({} tokens in {} rows, seed {})",
            r.estimator,
            r.value,
            r.stderr,
            r.bits_per_byte.unwrap_or(f64::NAN),
            r.tokens,
            r.rows,
            r.seed
        );
    }
    Ok(())
}
