//! `hilda eval edits`: what a judge says of the edits that decoding makes, and of the texts with and without them.

use std::path::PathBuf;
use std::sync::Arc;

use hilda_engine::data::Tokenizer;
use hilda_engine::decode::{Method, PolicySpec};
use hilda_engine::diffusion::likelihood::ratio;
use hilda_engine::eval::edits::{EditsError, Written, write};
use hilda_engine::eval::judge::TextJudge;
use hilda_engine::eval::text::surface::entropy as entropy_of;
use hilda_engine::model::Session;
use hilda_engine::model::generate::{GenerateError, Request};
use hilda_engine::model::session::Weights;
use hilda_kernels::Cpu;

use super::CliError;
use super::decode_bench::prompts;
use super::progress::Progress;
use super::sample::{open_model, parse_policy};

#[derive(clap::Args)]
pub struct Args {
    /// model folder, GGUF file, pulled model's name, or a run folder for its newest checkpoint
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// an autoregressive model, named in the same ways
    #[arg(long, value_name = "DIR")]
    judge: PathBuf,
    /// text or JSONL file; every document's beginning is a prompt
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// tokens of each document that are the prompt
    #[arg(long, default_value_t = 16)]
    prompt: usize,
    /// tokens after the prompt
    #[arg(long, default_value_t = 96)]
    length: usize,
    /// a policy with editing, as JSON or by name
    #[arg(long, default_value = "edit")]
    policy: String,
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// at most this many documents
    #[arg(long, default_value_t = 50)]
    limit: usize,
    #[arg(long)]
    json: bool,
}

pub fn run(a: Args) -> Result<(), CliError> {
    let bad = |m: String| CliError::BadInput(m);
    let policy = parse_policy(&a.policy)?;
    let Method::Edit { tau_edit: Some(_), .. } = policy.method else {
        return Err(bad(format!("--policy {}: it edits nothing, there is nothing to judge", a.policy)));
    };
    let mut off = policy;
    if let Method::Edit { tau_edit, .. } = &mut off.method {
        *tau_edit = None;
    }
    if a.prompt == 0 {
        return Err(bad("--prompt 0: a text needs a beginning".into()));
    }
    let data = |e: hilda_engine::data::DataError| CliError::BadInput(e.to_string());
    let (model, tokenizer) = open_model(&a.model)?;
    let (other, other_tokenizer) = open_model(&a.judge)?;
    let judge = TextJudge::new(&other, other_tokenizer)
        .map_err(|e| bad(format!("--judge {}: {e}", a.judge.display())))?;
    let mut session = Session::new(&Cpu, Arc::new(Weights::new(&Cpu, &model)), model.config.context);
    let prompts = prompts(&a.data, &tokenizer, a.prompt, a.limit)?;
    let mut bar = Progress::new("text");
    let began = std::time::Instant::now();
    let (mut with, mut without) = (vec![], vec![]);
    for (i, prompt) in prompts.iter().enumerate() {
        for (policy, texts) in [(policy, &mut with), (off, &mut without)] {
            let request = Request {
                policy: Some(policy),
                temperature: a.temperature,
                seed: a.seed + i as u64,
                top_k: 0,
                ..Request::new(prompt.as_str(), a.length)
            };
            texts.push(write(&mut session, model.serving, &tokenizer, &request, &judge).map_err(
                |e| match e {
                    EditsError::Generate(GenerateError::Session(_)) => CliError::Failure(e.to_string()),
                    e => bad(format!("document {}: {e}", i + 1)),
                },
            )?);
        }
        let left = began.elapsed().as_secs_f64() / (i + 1) as f64 * (prompts.len() - i - 1) as f64;
        bar.update(i as u64 + 1, prompts.len() as u64, &format!("{} left", super::duration_text(left)));
    }
    bar.finish();
    report(&a, policy, &tokenizer, &with, &without).map_err(data)
}

/// Nats per token of the judge, with the standard error over texts.
fn nll(texts: &[Written]) -> (f64, f64) {
    ratio(&texts.iter().map(|w| (-w.score.log_p, w.score.tokens as f64)).collect::<Vec<_>>())
}

fn report(
    a: &Args,
    policy: PolicySpec,
    tokenizer: &Tokenizer,
    with: &[Written],
    without: &[Written],
) -> Result<(), hilda_engine::data::DataError> {
    let gains = |f: fn(f64) -> f64| {
        let parts = with.iter().map(|w| (w.gains.iter().map(|g| f(*g)).sum(), w.gains.len() as f64));
        ratio(&parts.collect::<Vec<_>>())
    };
    let (improved, improved_error) = gains(|g| f64::from(u8::from(g > 0.0)));
    let (gain, gain_error) = gains(|g| g);
    let edits: usize = with.iter().map(|w| w.gains.len()).sum();
    let difference: Vec<(f64, f64)> = with
        .iter()
        .zip(without)
        .map(|(w, o)| {
            let of = |w: &Written| -w.score.log_p / w.score.tokens.max(1) as f64;
            (of(w) - of(o), 1.0)
        })
        .collect();
    let (difference, difference_error) = ratio(&difference);
    let arm = |texts: &[Written]| {
        let (value, error) = nll(texts);
        let tokens: u32 = texts.iter().map(|w| w.tokens).sum();
        let forwards: u32 = texts.iter().map(|w| w.forwards).sum();
        let mut entropy = 0.0;
        for w in texts {
            entropy += entropy_of(&tokenizer.encode(&w.text)?) / texts.len() as f64;
        }
        Ok(serde_json::json!({
            "judge_nll": value, "judge_nll_stderr": error, "unigram_entropy": entropy,
            "tokens": tokens, "forwards": forwards,
            "tokens_per_forward": f64::from(tokens) / f64::from(forwards.max(1)),
        }))
    };
    let (with_arm, without_arm) = (arm(with)?, arm(without)?);
    if a.json {
        let line = serde_json::json!({
            "improved": improved, "improved_stderr": improved_error, "gain": gain, "gain_stderr": gain_error,
            "edits": edits, "with": with_arm, "without": without_arm,
            "difference": difference, "difference_stderr": difference_error, "texts": with.len(),
            "policy": policy, "temperature": a.temperature, "seed": a.seed, "length": a.length,
            "prompt": a.prompt, "judge": a.judge.display().to_string(),
        });
        println!("{line}");
        return Ok(());
    }
    println!("{edits} edits in {} texts", with.len());
    println!(
        "the judge prefers the new token in {:.1} ± {:.1} % of them, by {gain:.2} ± {gain_error:.2} nats on average",
        100.0 * improved,
        100.0 * improved_error
    );
    for (name, arm) in [("with edits", &with_arm), ("without", &without_arm)] {
        let of = |key: &str| arm[key].as_f64().unwrap_or(f64::NAN);
        println!(
            "{name}: {:.3} ± {:.3} nats per token of the judge, unigram entropy {:.2}, {:.2} tokens a forward",
            of("judge_nll"),
            of("judge_nll_stderr"),
            of("unigram_entropy"),
            of("tokens_per_forward")
        );
    }
    println!(
        "difference, text by text: {difference:+.3} ± {difference_error:.3} nats per token of the judge"
    );
    Ok(())
}
