//! `hilda sample`: text from a model folder, with the trajectory if asked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use hilda_engine::data::Tokenizer;
use hilda_engine::decode::{Decoder, Method, PolicySpec, StepKind, Switch, Trajectory};
use hilda_engine::model::generate::{self, GenerateError, Request, decode_config, text};
use hilda_engine::model::session::Weights;
use hilda_engine::model::{LoadedModel, Serving, Session};
use hilda_kernels::Cpu;

use super::arithmetic::Numbers;
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
    /// policy as JSON, {"kind": "threshold", "tau": 0.9}, its kind alone, or a preset by its paper's name: quality, llada,
    /// dream, klass, wino, remdm-loop, ... (docs/decoding.md) [default: the model's]
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
    #[command(flatten)]
    pub numbers: Numbers,
    /// one JSON object per sample, with its cost and its trajectory
    #[arg(long)]
    pub json: bool,
}

/// A model and its tokenizer: a folder, a GGUF file, a run folder for its newest checkpoint, or the name of a model that
/// was pulled ([`library::open`]).
pub fn open_model(named: &Path) -> Result<(LoadedModel, Tokenizer), CliError> {
    library::open(&library::place(&data_dir(), named)).map_err(|e| CliError::BadInput(e.to_string()))
}

/// What a model's switch decides by, if the policy is one.
pub fn open_switch(named: &Path, policy: Option<PolicySpec>) -> Result<Option<Arc<Switch>>, CliError> {
    if !matches!(policy.map(|p| p.method), Some(Method::Switch { .. })) {
        return Ok(None);
    }
    library::switch(&library::place(&data_dir(), named)).map_err(|e| CliError::BadInput(e.to_string()))
}

/// A policy from its JSON, or by the name of a kind or of a preset ([`hilda_engine::decode::policy::Preset`]).
pub fn parse_policy(text: &str) -> Result<PolicySpec, CliError> {
    let json = if text.trim_start().starts_with('{') { text.to_string() } else { format!("{text:?}") };
    let spec: PolicySpec =
        serde_json::from_str(&json).map_err(|e| CliError::BadInput(format!("--policy {text}: {e}")))?;
    spec.validate().map_err(|e| CliError::BadInput(format!("--policy: {e}")))?;
    Ok(spec)
}

/// A text, its record, and the seconds that forwards of each kind took.
type Written = (String, Trajectory, BTreeMap<&'static str, f64>);

fn write(
    weights: &Arc<Weights<Cpu>>,
    serving: Serving,
    tokenizer: &Tokenizer,
    request: &Request,
) -> Result<Written, GenerateError> {
    let config = decode_config(&weights.trunk.config, serving, tokenizer, request)?;
    let mut session = Session::new(&Cpu, weights.clone(), config.length as usize);
    let mut decoder = Decoder::new(config)?;
    let mut seconds = BTreeMap::new();
    let (began, mut last) = (Instant::now(), Instant::now());
    generate::run(&Cpu, &mut session, &mut decoder, |event| {
        let kind = match event.record.kind {
            StepKind::Prefill => "prefill",
            StepKind::Denoise => "denoise",
            StepKind::Store => "store",
            StepKind::Refresh => "refresh",
            StepKind::Guide => "guide",
            StepKind::Search => "search",
            StepKind::Check => "check",
            StepKind::Judge => "judge",
            StepKind::User => "user",
        };
        *seconds.entry(kind).or_insert(0.0) += last.elapsed().as_secs_f64();
        last = Instant::now();
        true
    })?;
    let mut trajectory = decoder.trajectory();
    trajectory.footer.seconds = Some(began.elapsed().as_secs_f64());
    Ok((text(tokenizer, &trajectory.footer.ids), trajectory, seconds))
}

pub fn run(args: Args) -> Result<(), CliError> {
    let policy = args.policy.as_deref().map(parse_policy).transpose()?;
    if !(0.0..=10.0).contains(&args.temperature) {
        return Err(CliError::BadInput(format!("--temperature {} is outside 0..10", args.temperature)));
    }
    let (model, tokenizer) = open_model(&args.model)?;
    let serving = model.serving;
    let switch = open_switch(&args.model, policy)?;
    let asked = policy.unwrap_or_else(|| generate::default_policy(serving));
    if let Some(remark) = generate::remark(serving, &asked, args.whole) {
        eprintln!("{remark}");
    }
    let weights = Arc::new(args.numbers.on_cpu(model));
    for i in 0..args.count {
        let request = Request {
            policy,
            temperature: args.temperature,
            seed: args.seed + i,
            whole: args.whole,
            switch: switch.clone(),
            ..Request::new(args.prompt.as_str(), args.length)
        };
        let (text, trajectory, seconds) =
            write(&weights, serving, &tokenizer, &request).map_err(|e| match e {
                GenerateError::Session(_) => CliError::Failure(e.to_string()),
                e => CliError::BadInput(e.to_string()),
            })?;
        if args.json {
            let footer = &trajectory.footer;
            let cost = serde_json::json!({
                "ledger": footer.ledger, "tokens_per_forward": footer.tokens_per_forward,
                "positions_per_token": footer.positions_per_token, "cache_bytes": footer.cache_bytes,
                "cache_planned": weights.trunk.planned_cache(&trajectory.header.config),
                "divergence": footer.divergence, "seconds": seconds,
                "cache": trajectory.header.config.policy.caching.standing(),
            });
            let line = serde_json::json!({
                "text": text, "seed": request.seed, "cost": cost, "trajectory": trajectory,
            });
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
