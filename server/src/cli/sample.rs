//! `hilda sample`: text from a model folder, with the trajectory if asked.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hilda_engine::data::Tokenizer;
use hilda_engine::decode::PolicySpec;
use hilda_engine::model::LoadedModel;
use hilda_engine::model::generate::{GenerateError, Request, generate};
use hilda_engine::model::session::Weights;

use super::{CliError, data_dir};
use crate::library;

#[derive(clap::Args)]
pub struct Args {
    /// model folder, GGUF file, pulled model's name, or a run folder for its newest checkpoint
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    #[arg(long, default_value = "Once upon a time")]
    pub prompt: String,
    /// tokens after the prompt
    #[arg(long, default_value_t = 128)]
    pub length: usize,
    /// policy as JSON, {"kind": "threshold", "tau": 0.9}, or its name alone [default: the model's]
    #[arg(long)]
    pub policy: Option<String>,
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f32,
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// fill with everything visible, instead of block by block
    #[arg(long)]
    pub whole: bool,
    #[arg(long, default_value_t = 1)]
    pub count: u64,
    /// one JSON object per sample, with its trajectory
    #[arg(long)]
    pub json: bool,
}

/// A model and its tokenizer: a folder, a GGUF file, a run folder for its newest checkpoint, or the name of a model that
/// was pulled ([`library::open`]).
pub fn open_model(named: &Path) -> Result<(LoadedModel, Tokenizer), CliError> {
    library::open(&library::place(&data_dir(), named)).map_err(|e| CliError::BadInput(e.to_string()))
}

/// A policy from its name or its JSON.
pub fn parse_policy(text: &str) -> Result<PolicySpec, CliError> {
    let json =
        if text.trim_start().starts_with('{') { text.to_string() } else { format!("{{\"kind\": {text:?}}}") };
    let spec: PolicySpec =
        serde_json::from_str(&json).map_err(|e| CliError::BadInput(format!("--policy {text}: {e}")))?;
    spec.validate().map_err(|e| CliError::BadInput(format!("--policy: {e}")))?;
    Ok(spec)
}

pub fn run(args: Args) -> Result<(), CliError> {
    let policy = args.policy.as_deref().map(parse_policy).transpose()?;
    if !(0.0..=10.0).contains(&args.temperature) {
        return Err(CliError::BadInput(format!("--temperature {} is outside 0..10", args.temperature)));
    }
    let (model, tokenizer) = open_model(&args.model)?;
    let serving = model.serving;
    let weights = Arc::new(Weights::of(model));
    for i in 0..args.count {
        let request = Request {
            policy,
            temperature: args.temperature,
            seed: args.seed + i,
            whole: args.whole,
            ..Request::new(args.prompt.as_str(), args.length)
        };
        let (text, trajectory) = generate(&weights, serving, &tokenizer, &request).map_err(|e| match e {
            GenerateError::Session(_) => CliError::Failure(e.to_string()),
            e => CliError::BadInput(e.to_string()),
        })?;
        if args.json {
            let line = serde_json::json!({"text": text, "seed": request.seed, "trajectory": trajectory});
            println!("{line}");
        } else {
            println!("{text}");
            if i + 1 < args.count {
                println!();
            }
        }
    }
    Ok(())
}
