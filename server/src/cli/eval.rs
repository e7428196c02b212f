//! `hilda eval nelbo`: the likelihood of text under a model, with its estimator's name and standard error.
//! `hilda eval repair` is in `repair.rs`.

use std::path::PathBuf;

use hilda_engine::config::PackingSpec;
use hilda_engine::data::document::{guess_format, read_documents};
use hilda_engine::data::pack::pack_texts;
use hilda_engine::decode::Attention;
use hilda_engine::diffusion::likelihood::{Estimator, Evaluation, evaluate, plan_rows};
use hilda_engine::model::Trunk;
use hilda_engine::train::input::bytes_per_token;
use hilda_kernels::{Backend, Cpu};

use super::CliError;
use super::progress::Progress;
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
    let bad = |m: String| CliError::BadInput(m);
    if !(1..=4096).contains(&a.k) {
        return Err(bad(format!("--k {} is outside 1..4096", a.k)));
    }
    let whole = match a.packing.as_str() {
        "documents" => true,
        "stream" => false,
        other => return Err(bad(format!("--packing {other}: documents or stream"))),
    };
    let data = |e: hilda_engine::data::DataError| CliError::BadInput(e.to_string());
    let format = guess_format(&a.data).map_err(data)?;
    let documents = read_documents(&a.data, &format).map_err(data)?;
    let (model, tokenizer) = open_model(&a.model)?;
    let length = a.length.unwrap_or(model.config.context);
    if length > model.config.context {
        return Err(bad(format!(
            "--length {length} is longer than the model's context {}",
            model.config.context
        )));
    }
    let block = a.block.unwrap_or(model.serving.block_size);
    let own = match model.serving.attention {
        Attention::Causal => "ar",
        Attention::BlockCausal => "nelbo_block",
        Attention::Bidirectional => "nelbo_t",
    };
    let estimator = match a.estimator.as_deref().unwrap_or(own) {
        "ar" => Estimator::Ar,
        "nelbo_t" => Estimator::NelboT { k: a.k },
        "nelbo_block" if block > 0 && length % block == 0 => Estimator::NelboBlock { block, k: a.k },
        "nelbo_block" => return Err(bad(format!("--block {block} must divide the row length {length}"))),
        other => return Err(bad(format!("--estimator {other}: ar, nelbo_t or nelbo_block"))),
    };
    let packed = pack_texts(&tokenizer, &documents, length).map_err(data)?;
    let packing = PackingSpec { length, documents: whole, restart_positions: whole, restart_blocks: whole };
    let e = Evaluation {
        estimator,
        seed: a.seed,
        shift: model.serving.shift,
        packing,
        rows: a.limit,
        bytes_per_token: Some(bytes_per_token(&tokenizer, &packed)),
    };
    let trunk = Trunk::new(model.config.clone());
    let b = Cpu;
    let mut params = b.buf(trunk.layout.total);
    b.write(&mut params, 0, &model.params);
    let mut plan = trunk.plan(&b, plan_rows(estimator, length), false);
    let mut bar = Progress::new("forward");
    let began = std::time::Instant::now();
    let estimate = evaluate(&b, &trunk, &params, &mut plan, &packed, &e, |done, of| {
        let left = began.elapsed().as_secs_f64() / done as f64 * (of - done) as f64;
        bar.update(done as u64, of as u64, &format!("{} left", super::duration_text(left)));
        true
    });
    bar.finish();
    let r = estimate.ok_or_else(|| CliError::Failure("stopped".into()))?;
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
