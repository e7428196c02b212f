//! `hilda eval repair`: how many wrong tokens a model's edits put right, and how many right ones they spoil.

use std::path::PathBuf;
use std::sync::Arc;

use hilda_engine::data::document::{guess_format, read_documents};
use hilda_engine::decode::Attention;
use hilda_engine::eval::repair::{Errors, Outcome, Repair, repair, share};
use hilda_engine::model::Session;
use hilda_engine::model::session::Weights;
use hilda_kernels::Cpu;

use super::CliError;
use super::progress::Progress;
use super::sample::open_model;

#[derive(clap::Args)]
pub struct Args {
    /// model folder, or a run folder for its newest checkpoint
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// text or JSONL file
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// uniform (any ordinary token) or drafts (the model's own, several positions at once)
    #[arg(long, default_value = "drafts")]
    errors: String,
    /// share of the tokens that are replaced or drafted anew
    #[arg(long, default_value_t = 0.25)]
    rate: f64,
    /// tau_edit: an edit needs a probability above it
    #[arg(long, default_value_t = 0.5)]
    threshold: f32,
    /// at most this many passes over a block
    #[arg(long, default_value_t = 16)]
    passes: u32,
    /// block size [default: the model's serving block]
    #[arg(long)]
    block: Option<usize>,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// at most this many documents
    #[arg(long, default_value_t = 100)]
    limit: usize,
    #[arg(long)]
    json: bool,
}

pub fn run(a: Args) -> Result<(), CliError> {
    let bad = |m: String| CliError::BadInput(m);
    let errors = match a.errors.as_str() {
        "uniform" => Errors::Uniform,
        "drafts" => Errors::Drafts,
        other => return Err(bad(format!("--errors {other}: uniform or drafts"))),
    };
    if !(a.rate > 0.0 && a.rate <= 1.0) {
        return Err(bad(format!("--rate {} is outside (0, 1]", a.rate)));
    }
    if !(0.0..1.0).contains(&a.threshold) {
        return Err(bad(format!("--threshold {} is outside [0, 1)", a.threshold)));
    }
    if !(1..=1000).contains(&a.passes) {
        return Err(bad(format!("--passes {} is outside 1..1000", a.passes)));
    }
    let data = |e: hilda_engine::data::DataError| CliError::BadInput(e.to_string());
    let format = guess_format(&a.data).map_err(data)?;
    let documents = read_documents(&a.data, &format).map_err(data)?;
    let (model, tokenizer) = open_model(&a.model)?;
    if model.serving.attention != Attention::BlockCausal {
        return Err(bad(format!(
            "{}: edits are measured block by block, and this model is not block-causal",
            a.model.display()
        )));
    }
    let block = a.block.unwrap_or(model.serving.block_size);
    let context = model.config.context;
    if !(1..=context).contains(&block) {
        return Err(bad(format!("--block {block} is outside 1..{context}")));
    }
    let r = Repair { errors, rate: a.rate, threshold: a.threshold, passes: a.passes, block, seed: a.seed };
    let mut session = Session::new(&Cpu, Arc::new(Weights::new(&Cpu, &model)), context);
    let n = if a.limit == 0 { documents.len() } else { a.limit.min(documents.len()) };
    let mut bar = Progress::new("document");
    let began = std::time::Instant::now();
    let mut outcomes = Vec::with_capacity(n);
    for (i, text) in documents[..n].iter().enumerate() {
        let mut ids = vec![model.config.eos_id];
        ids.extend(tokenizer.encode(text).map_err(data)?);
        ids.push(model.config.eos_id);
        ids.truncate(context);
        let o = repair(&Cpu, &mut session, &ids, i as u32, &r)
            .map_err(|e| CliError::Failure(format!("document {}: {e}", i + 1)))?;
        outcomes.push(o);
        let left = began.elapsed().as_secs_f64() / (i + 1) as f64 * (n - i - 1) as f64;
        bar.update(i as u64 + 1, n as u64, &format!("{} left", super::duration_text(left)));
    }
    bar.finish();
    report(&a, &r, &outcomes);
    Ok(())
}

fn report(a: &Args, r: &Repair, outcomes: &[Outcome]) {
    let total = |f: fn(&Outcome) -> u64| outcomes.iter().map(f).sum::<u64>();
    let of = |y: fn(&Outcome) -> u64, x: fn(&Outcome) -> u64| share(outcomes.iter().map(|o| (y(o), x(o))));
    let (repaired, repaired_error) = of(|o| o.repaired, |o| o.wrong);
    let (harmed, harmed_error) = of(|o| o.harmed, |o| o.right);
    let all = |o: &Outcome| o.good_edits + o.bad_edits + o.neutral_edits;
    let (good, good_error) = share(outcomes.iter().map(|o| (o.good_edits, all(o))));
    let (wrong, right) = (total(|o| o.wrong), total(|o| o.right));
    if a.json {
        let line = serde_json::json!({
            "repaired": repaired, "repaired_stderr": repaired_error,
            "harmed": harmed, "harmed_stderr": harmed_error,
            "good_edits": good, "good_edits_stderr": good_error,
            "wrong_tokens": wrong, "right_tokens": right, "moved": total(|o| o.moved),
            "edits": outcomes.iter().map(all).sum::<u64>(),
            "edits_to_right": total(|o| o.good_edits), "edits_of_right": total(|o| o.bad_edits),
            "errors": a.errors, "rate": r.rate, "threshold": r.threshold, "passes": r.passes,
            "block": r.block, "seed": r.seed, "documents": outcomes.len(),
        });
        println!("{line}");
        return;
    }
    let percent = |v: f64, e: f64| format!("{:.1} ± {:.1} %", 100.0 * v, 100.0 * e);
    println!("wrong tokens repaired: {} of {wrong}", percent(repaired, repaired_error));
    println!("right tokens harmed:   {} of {right}", percent(harmed, harmed_error));
    println!(
        "edits: {} made a wrong token right, {} a right one wrong, {} one wrong one another",
        total(|o| o.good_edits),
        total(|o| o.bad_edits),
        total(|o| o.neutral_edits)
    );
}
