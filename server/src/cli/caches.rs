//! `hilda eval caches`: nats per masked token of a text that is read through each way to keep finished blocks, against the exact
//! cache ([`hilda_engine::eval::caches`]).

use std::path::PathBuf;
use std::sync::Arc;

use hilda_engine::data::DataError;
use hilda_engine::data::document::{guess_format, read_documents};
use hilda_engine::decode::policy::{Compression, Press};
use hilda_engine::decode::{Attention, PolicySpec};
use hilda_engine::eval::caches::{Reading, read};
use hilda_engine::model::Session;
use hilda_engine::model::session::Weights;
use hilda_kernels::Cpu;
use serde_json::{Value, json};

use super::CliError;
use super::decode_grid::policies;
use super::decode_table::parameters;
use super::progress::Progress;
use super::sample::open_model;

#[derive(clap::Args)]
pub struct Args {
    /// block-causal or causal model
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// text or JSONL file
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// a cache as a policy that has it, {"kind": "threshold", "cache_press": "keydiff"}, again and again; lists stand for each
    /// of their values [default: every storage, every press at three ratios]
    #[arg(long)]
    policy: Vec<String>,
    /// tokens of each document that are read
    #[arg(long, default_value_t = 192)]
    length: usize,
    /// documents, those that are long enough
    #[arg(long, default_value_t = 32)]
    limit: usize,
    /// documents left out before the first
    #[arg(long, default_value_t = 0)]
    skip: usize,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[arg(long)]
    json: bool,
}

const ALL: [&str; 2] = [
    r#"{"kind": "threshold", "cache_storage": ["offloaded", "q8", "q4"]}"#,
    r#"{"kind": "threshold", "cache_press": ["random", "sinks", "knorm", "keydiff", "snapkv", "expected_attention"],
        "cache_ratio": [0.25, 0.5, 0.75]}"#,
];
const KVZAP: &str = r#"{"kind": "threshold", "cache_press": "kvzap", "cache_ratio": [0.25, 0.5, 0.75]}"#;

/// Mean and half a 95 % interval over texts (normal).
fn interval(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, 1.96 * (variance / n).sqrt())
}

fn mean(r: &Reading) -> f64 {
    r.nats.iter().sum::<f64>() / r.nats.len() as f64
}

pub fn run(a: &Args) -> Result<(), CliError> {
    let bad = |e: &dyn std::fmt::Display| CliError::BadInput(e.to_string());
    let (model, tokenizer) = open_model(&a.model)?;
    let serving = model.serving;
    if serving.attention == Attention::Bidirectional {
        let message = "--model: where every position sees the whole text no block is ever finished";
        return Err(CliError::BadInput(message.into()));
    }
    if a.length > model.config.context {
        let message = format!("--length {}: the model's context is {}", a.length, model.config.context);
        return Err(CliError::BadInput(message));
    }
    let mut named: Vec<&str> = a.policy.iter().map(String::as_str).collect();
    if named.is_empty() {
        named.extend(ALL);
        named.extend(tokenizer.surrogate().map(|_| KVZAP));
    }
    let mut caches: Vec<PolicySpec> = vec![PolicySpec::default()];
    for text in named {
        caches.extend(policies(text)?);
    }
    let how = |spec: &PolicySpec| -> Result<Compression, CliError> {
        let block = if serving.attention == Attention::Causal { 0 } else { serving.block_size as u32 };
        let how = spec.caching.compression(block, tokenizer.surrogate());
        if how.press == Press::Kvzap && how.surrogate.is_none() {
            return Err(bad(&hilda_engine::decode::DecodeError::NoSurrogate));
        }
        if spec.caching.approximate() {
            let message = format!("--policy: {} is not about finished blocks", parameters(spec));
            return Err(CliError::BadInput(message));
        }
        Ok(how)
    };
    let hows = caches.iter().map(how).collect::<Result<Vec<_>, _>>()?;
    let in_data = |e: DataError| CliError::BadInput(format!("--data {}: {e}", a.data.display()));
    let mut texts = vec![];
    for document in read_documents(&a.data, &guess_format(&a.data).map_err(in_data)?).map_err(in_data)? {
        let mut ids = vec![tokenizer.specials().eos];
        ids.extend(tokenizer.encode(&document).map_err(in_data)?);
        if ids.len() >= a.length {
            ids.truncate(a.length);
            texts.push(ids);
        }
        if texts.len() == a.skip.saturating_add(a.limit) {
            break;
        }
    }
    let texts = texts.split_off(a.skip.min(texts.len()));
    if texts.len() < 2 {
        let message = format!("{}: {} documents of {} tokens", a.data.display(), texts.len(), a.length);
        return Err(CliError::BadInput(message));
    }
    let block = |how: &Compression| 2 * how.block.max(serving.block_size as u32) as usize;
    let first = hows.iter().map(block).max().unwrap_or(0);
    let context = model.config.context;
    let mut session = Session::new(&Cpu, Arc::new(Weights::of(model)), context);
    let mut exact: Vec<Reading> = vec![];
    let mut rows: Vec<Value> = vec![];
    let mut bar = Progress::new("cache");
    for (spec, how) in caches.iter().zip(&hows) {
        let mut readings = vec![];
        for text in &texts {
            readings.push(read(&mut session, serving, text, how, first, a.seed).map_err(|e| bad(&e))?);
        }
        if exact.is_empty() {
            exact = readings.clone();
        }
        if readings.iter().any(|r| r.nats.is_empty()) {
            return Err(CliError::BadInput(format!("--length {}: fewer than three blocks", a.length)));
        }
        let (nats, spread) = interval(&readings.iter().map(mean).collect::<Vec<_>>());
        let pairs = || readings.iter().zip(&exact);
        let (more, more_half) = interval(&pairs().map(|(r, e)| mean(r) - mean(e)).collect::<Vec<_>>());
        let changed = pairs().flat_map(|(r, e)| r.top.iter().zip(&e.top)).filter(|(a, b)| a != b).count();
        let tokens: usize = readings.iter().map(|r| r.nats.len()).sum();
        let sum = |f: fn(&Reading) -> u64, of: &[Reading]| of.iter().map(f).sum::<u64>() as f64;
        let bytes = sum(|r| r.bytes, &readings);
        rows.push(json!({
            "cache": if rows.is_empty() { "exact".into() } else { name(spec) }, "caching": spec.caching,
            "standing": spec.caching.standing(), "nats": nats, "nats_95": spread, "more": more, "more_95": more_half,
            "changed": changed as f64 / tokens as f64, "tokens": tokens, "bytes": bytes / texts.len() as f64,
            "bytes_share": bytes / sum(|r| r.bytes, &exact), "evicted": sum(|r| r.evicted, &readings),
        }));
        bar.pass(rows.len() as u64, caches.len() as u64);
    }
    bar.finish();
    if a.json {
        println!("{}", json!({ "texts": texts.len(), "length": a.length, "seed": a.seed, "caches": rows }));
        return Ok(());
    }
    println!(
        "{:<42} {:>14} {:>18} {:>8} {:>8}",
        "cache", "nats a token", "more than exact", "changed", "bytes"
    );
    for r in &rows {
        let f = |key: &str| r[key].as_f64().unwrap_or(f64::NAN);
        println!(
            "{:<42} {:>6.3} ± {:<5.3} {:>+9.4} ± {:<6.4} {:>7.1}% {:>7.1}%",
            r["cache"].as_str().unwrap_or(""),
            f("nats"),
            f("nats_95"),
            f("more"),
            f("more_95"),
            100.0 * f("changed"),
            100.0 * f("bytes_share")
        );
    }
    Ok(())
}

/// A cache's parameters that are not as usual.
fn name(spec: &PolicySpec) -> String {
    let c = &spec.caching;
    let mut parts = vec![];
    if c.cache_storage != Default::default() {
        parts.push(word(&c.cache_storage));
    }
    if c.cache_press != Press::None {
        let by = c.tau().map_or(format!("{}", c.cache_ratio), |tau| format!("tau {tau}"));
        parts.push(format!("{} {by}", word(&c.cache_press)));
    }
    if parts.is_empty() { "f32".into() } else { parts.join(", ") }
}

/// A choice as policies spell it.
fn word(choice: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(choice).unwrap_or_default();
    value.as_str().map(String::from).unwrap_or_default()
}
