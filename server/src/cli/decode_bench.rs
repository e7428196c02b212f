//! `hilda decode-bench`: decoders over a grid of thresholds and temperatures, their texts before a judge, and their cost:
//! one table, one picture of quality against forwards, the first texts of each with the recorded actions that wrote them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use hilda_engine::data::Tokenizer;
use hilda_engine::data::document::{guess_format, read_documents};
use hilda_engine::data::tasks::{Problem, gsm8k};
use hilda_engine::decode::{Attention, DecodeConfig, Method, PolicySpec, Trajectory};
use hilda_engine::eval::decoders::{Point, Sample, accuracy, compare, judged};
use hilda_engine::eval::judge::TextJudge;
use hilda_engine::files;
use hilda_engine::model::generate::{GenerateError, Request, decode_config};
use hilda_engine::model::together::write_all;
use hilda_engine::model::{Arithmetic, Batch, LoadedModel};
use hilda_kernels::Cpu;

use super::arithmetic::Numbers;
use super::decode_grid::{GRID, REFERENCE, WHOLE};
use super::decode_table::{csv, parameters, table};
use super::progress::Progress;
use super::sample::{open_model, open_switch, parse_policy};
use super::{CliError, decode_grid, duration_text, open_data};
use crate::decoder_results;
use crate::share::decoders::page;
use crate::share::publish::write_page;
use crate::share::recording::Recording;

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
    /// gsm8k: the file holds problems (JSON lines with question and answer), each question is a prompt, and the share of
    /// problems that every decoder solves is told; --prompt means nothing then
    #[arg(long, value_parser = ["gsm8k"])]
    task: Option<String>,
    /// a policy as JSON or by name, again and again; a list in place of a parameter stands for each of its values
    /// [default: a grid over all of them]
    #[arg(long)]
    policy: Vec<String>,
    /// JSON file {"policies": [as for --policy, ...], "temperatures": [...]}
    #[arg(long, value_name = "FILE", conflicts_with = "policy")]
    grid: Option<PathBuf>,
    /// temperature of the draws, again and again
    #[arg(long, default_values_t = [0.6, 0.8, 1.0])]
    temperature: Vec<f32>,
    /// tokens of each document that are the prompt
    #[arg(long, default_value_t = 16)]
    prompt: usize,
    /// tokens after the prompt
    #[arg(long, default_value_t = 96)]
    length: usize,
    /// tokens after the prompt that the entropy is taken over
    #[arg(long, default_value_t = 64)]
    window: usize,
    /// at most this many documents
    #[arg(long, default_value_t = 40)]
    limit: usize,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// texts written side by side, in the same forwards: each is what it would be alone, and the seconds of a decoder are
    /// those of all its texts together
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    batch: u16,
    #[command(flatten)]
    numbers: Numbers,
    /// every position sees the whole text, instead of block by block; adds what needs that to the default grid
    #[arg(long)]
    whole: bool,
    /// texts of each decoder whose recorded actions are kept, to be replayed in the playground
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=8))]
    keep: u8,
    /// folder for results.json, results.csv and index.html; it must not exist
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// keep the same in the data folder, where the dashboard shows it under this name (/compare?decoders=NAME)
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// put the page into DIR/page too, so that any host serves the texts with their replay
    #[arg(long, requires = "out", conflicts_with = "playground")]
    with_page: bool,
    /// address of a playground that index.html links to
    #[arg(long, value_name = "URL")]
    playground: Option<String>,
    #[arg(long)]
    json: bool,
}

/// Bytes of all recordings of a result at most.
const MOST_KEPT: usize = 16 << 20;

pub fn run(a: Args) -> Result<(), CliError> {
    let bad = |m: String| CliError::BadInput(m);
    let reference = parse_policy(REFERENCE)?;
    let mut temperatures = a.temperature.clone();
    let grid: Vec<PolicySpec> = match (&a.grid, a.policy.as_slice()) {
        (Some(file), _) => {
            let (policies, own) = decode_grid::read(file)?;
            if !own.is_empty() {
                temperatures = own;
            }
            policies
        }
        (None, []) => {
            let whole = WHOLE.iter().filter(|_| a.whole);
            GRID.iter().chain(whole).map(|p| parse_policy(p)).collect::<Result<_, _>>()?
        }
        (None, named) => {
            let all = named.iter().map(|p| decode_grid::policies(p)).collect::<Result<Vec<_>, _>>()?;
            all.into_iter().flatten().collect()
        }
    };
    let mut policies = vec![reference];
    for policy in grid {
        if !policies.contains(&policy) {
            policies.push(policy);
        }
    }
    if let Some(t) = temperatures.iter().find(|t| !(0.0..=10.0).contains(*t)) {
        return Err(bad(format!("--temperature {t} is outside 0..10")));
    }
    if a.prompt == 0 || a.window == 0 || a.window > a.length {
        return Err(bad("--prompt and --window must be at least 1, and --window at most --length".into()));
    }
    if let Some(out) = a.out.as_ref().filter(|out| out.exists()) {
        return Err(bad(format!("--out {}: is there already", out.display())));
    }
    let kept_in = match &a.name {
        None => None,
        Some(name) => {
            let folder = decoder_results::folder(&open_data()?, name).ok_or_else(|| {
                bad(format!("--name {name}: letters, digits, dots, dashes and low lines, at most 100"))
            })?;
            if folder.exists() {
                return Err(bad(format!("--name {name}: is there already")));
            }
            Some(folder)
        }
    };
    if let Some(url) =
        a.playground.as_ref().filter(|u| !u.starts_with("http://") && !u.starts_with("https://"))
    {
        return Err(bad(format!("--playground {url}: an address begins with http:// or https://")));
    }
    let (model, tokenizer) = open_model(&a.model)?;
    if model.serving.attention == Attention::Causal {
        return Err(bad(format!("{}: a causal model has one decoder, left to right", a.model.display())));
    }
    let problems = match &a.task {
        Some(_) => problems(&a, &tokenizer, model.config.context)?,
        None => vec![],
    };
    let prompts = match &a.task {
        Some(_) => problems.iter().map(Problem::prompt).collect(),
        None => prompts(&a.data, &tokenizer, a.prompt, a.limit)?,
    };
    let (other, other_tokenizer) = open_model(&a.judge)?;
    let judge = TextJudge::new(&other, other_tokenizer)
        .map_err(|e| bad(format!("--judge {}: {e}", a.judge.display())))?;
    let measured = measure(&a, &model, &tokenizer, &judge, &policies, &temperatures, &prompts, &problems)?;
    let Measured { arithmetic, points, first, kept, left_out } = measured;
    if left_out > 0 {
        eprintln!("{left_out} recordings were too long to be kept");
    }
    let mut report = serde_json::json!({
        "model": name(&a.model), "judge": name(&a.judge), "texts": prompts.len(), "prompt": a.prompt,
        "length": a.length, "window": a.window, "seed": a.seed, "whole": a.whole, "batch": a.batch, "arithmetic": arithmetic,
        "reference": reference,
        "points": points,
    });
    let playground = if a.with_page { Some("page/".into()) } else { a.playground.clone() };
    for out in [&a.out, &kept_in].into_iter().flatten() {
        let failed = |e: &dyn std::fmt::Display| CliError::Failure(format!("{}: {e}", out.display()));
        fs::create_dir_all(out).map_err(|e| failed(&e))?;
        let write = |name: &str, bytes: &[u8]| files::replace(&out.join(name), bytes).map_err(|e| failed(&e));
        if a.with_page && a.out.as_ref() == Some(out) {
            write_page(&out.join("page")).map_err(|e| failed(&e))?;
        }
        // the server's own playground is the dashboard's to name
        let link = playground.as_deref().filter(|_| a.out.as_ref() == Some(out));
        write("results.csv", csv(&points).as_bytes())?;
        write("index.html", page(&report, &points, &first, &kept, link, &tokenizer).as_bytes())?;
        let mut whole = report.clone();
        for (i, recordings) in kept.iter().enumerate() {
            whole["points"][i]["parameters"] = parameters(&points[i].policy).into();
            whole["points"][i]["kept"] = serde_json::to_value(recordings).unwrap_or_default();
        }
        write("results.json", serde_json::to_string(&whole).unwrap_or_default().as_bytes())?;
    }
    if let Some(n) = &a.name {
        report["name"] = n.as_str().into();
    }
    if a.json {
        println!("{report}");
    } else {
        print!("{}", table(&points));
    }
    Ok(())
}

fn name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned())
}

/// The first `tokens` tokens of every document that has as many, at most `limit` of them (0 = all).
///
/// # Errors
/// A file that does not read, or without such a document.
pub fn prompts(
    file: &Path,
    tokenizer: &Tokenizer,
    tokens: usize,
    limit: usize,
) -> Result<Vec<String>, CliError> {
    let data = |e: hilda_engine::data::DataError| CliError::BadInput(e.to_string());
    let format = guess_format(file).map_err(data)?;
    let mut prompts = vec![];
    for text in read_documents(file, &format).map_err(data)? {
        if limit > 0 && prompts.len() == limit {
            break;
        }
        let ids = tokenizer.encode(&text).map_err(data)?;
        if ids.len() >= tokens {
            prompts.push(tokenizer.decode(&ids[..tokens]));
        }
    }
    if prompts.is_empty() {
        return Err(CliError::BadInput(format!("{}: no document has {tokens} tokens", file.display())));
    }
    Ok(prompts)
}

/// The problems of a file whose prompt and `--length` fit the context, at most `--limit` of them (0 = all).
///
/// # Errors
/// A file that does not read, or without such a problem.
fn problems(a: &Args, tokenizer: &Tokenizer, context: usize) -> Result<Vec<Problem>, CliError> {
    let (file, bad) = (a.data.display().to_string(), |e: String| CliError::BadInput(e));
    let text = fs::read_to_string(&a.data).map_err(|e| bad(format!("{file}: {e}")))?;
    let all = gsm8k(&file, &text).map_err(|e| bad(e.to_string()))?;
    let mut fitting = vec![];
    let mut long = 0;
    for problem in all {
        if a.limit > 0 && fitting.len() == a.limit {
            break;
        }
        // the token that begins a document stands before the prompt
        let ids = tokenizer.encode(&problem.prompt()).map_err(|e| bad(e.to_string()))?;
        if ids.len() + 1 + a.length <= context {
            fitting.push(problem);
        } else {
            long += 1;
        }
    }
    if fitting.is_empty() {
        let length = a.length;
        return Err(bad(format!("{file}: no problem fits {context} tokens with --length {length}")));
    }
    if long > 0 {
        eprintln!("{long} problems are longer than the model's context allows and are left out");
    }
    Ok(fitting)
}

/// What was measured: a point, its first text and its recordings for every decoder and temperature.
struct Measured {
    arithmetic: Arithmetic,
    points: Vec<Point>,
    first: Vec<Sample>,
    kept: Vec<Vec<Recording>>,
    /// recordings beyond a limit of size
    left_out: usize,
}

fn failed(document: usize, e: GenerateError) -> CliError {
    match e {
        GenerateError::Session(_) => CliError::Failure(e.to_string()),
        e => CliError::BadInput(format!("document {}: {e}", document + 1)),
    }
}

/// The texts of a decoder, `at_once` of them side by side, and the seconds that all of them took.
fn write(
    batch: &mut Batch<Cpu>,
    configs: Vec<DecodeConfig>,
    at_once: usize,
) -> Result<(Vec<Trajectory>, f64), CliError> {
    let start = Instant::now();
    let written = write_all(&Cpu, batch, configs, at_once);
    let seconds = start.elapsed().as_secs_f64();
    let whole = written.into_iter().enumerate().map(|(i, t)| t.map_err(|e| failed(i, e)));
    Ok((whole.collect::<Result<_, _>>()?, seconds))
}

/// Every decoder (first the reference) at every temperature over every prompt.
fn measure(
    a: &Args,
    model: &LoadedModel,
    tokenizer: &Tokenizer,
    judge: &TextJudge,
    policies: &[PolicySpec],
    temperatures: &[f32],
    prompts: &[String],
    problems: &[Problem],
) -> Result<Measured, CliError> {
    let weights = a.numbers.on_cpu(model.clone());
    let mut m = Measured {
        arithmetic: weights.arithmetic(),
        points: vec![],
        first: vec![],
        kept: vec![],
        left_out: 0,
    };
    let mut batch = Batch::new(&Cpu, Arc::new(weights), model.config.context);
    let mut bytes_left = MOST_KEPT;
    let mut bar = Progress::new("decoder");
    let began = Instant::now();
    let mut temperatures = temperatures.to_vec();
    temperatures.dedup();
    // entropy-bound decoding is defined up to temperature 1
    let defined = |p: &PolicySpec, t: f32| !matches!(p.method, Method::EntropyBound { .. }) || t <= 1.0;
    let each = |p: &PolicySpec| temperatures.iter().filter(|t| defined(p, **t)).count();
    let total: usize = policies.iter().map(each).sum();
    for policy in policies {
        for temperature in &temperatures {
            if !defined(policy, *temperature) {
                continue;
            }
            let switch = open_switch(&a.model, Some(*policy))?;
            let request = |i: usize, prompt: &String| Request {
                policy: Some(*policy),
                temperature: *temperature,
                seed: a.seed + i as u64,
                top_k: 0,
                whole: a.whole,
                switch: switch.clone(),
                ..Request::new(prompt.as_str(), a.length)
            };
            let config = |(i, prompt)| {
                let config = decode_config(&model.config, model.serving, tokenizer, &request(i, prompt));
                config.map_err(|e| failed(i, e))
            };
            let configs = prompts.iter().enumerate().map(config).collect::<Result<Vec<_>, _>>()?;
            let (written, seconds) = write(&mut batch, configs, a.batch.into())?;
            let mut samples = vec![];
            for (i, (trajectory, prompt)) in written.into_iter().zip(prompts).enumerate() {
                let sample = judged(trajectory, tokenizer, judge, prompt, a.window);
                let bad = |e| CliError::BadInput(format!("document {}: judge: {e}", i + 1));
                samples.push(sample.map_err(bad)?);
            }
            let mut kept = vec![];
            for (sample, prompt) in samples.iter().zip(prompts).take(a.keep.into()) {
                let made = Recording::new(prompt, &sample.trajectory, tokenizer, a.whole);
                match made.filter(|r| r.bytes() <= bytes_left) {
                    Some(recording) => {
                        bytes_left -= recording.bytes();
                        kept.push(recording);
                    }
                    None => m.left_out += 1,
                }
            }
            m.kept.push(kept);
            let mut point = Point::new(*policy, *temperature, &samples, seconds);
            if !problems.is_empty() {
                let solved = |(p, s): (&Problem, &Sample)| p.solved_by(&s.text);
                point.accuracy =
                    Some(accuracy(&problems.iter().zip(&samples).map(solved).collect::<Vec<_>>()));
            }
            m.points.push(point);
            m.first.extend(samples.into_iter().next());
            let done = m.points.len();
            let left = began.elapsed().as_secs_f64() / done as f64 * total.saturating_sub(done) as f64;
            bar.update(done as u64, total as u64, &format!("{} left", duration_text(left)));
        }
    }
    bar.finish();
    compare(&mut m.points, &policies[0]);
    Ok(m)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hilda_engine::model::Weights;

    /// The demo model writes the same texts side by side as one at a time.
    #[test]
    fn texts_side_by_side_are_those_written_one_at_a_time() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../public/models/hilda-tiny");
        let (model, tokenizer) = open_model(&folder).unwrap();
        let mut batch = Batch::new(&Cpu, Arc::new(Weights::new(&Cpu, &model)), 16);
        let config = |seed: u64| {
            let policy = parse_policy(GRID[seed as usize * 5 % GRID.len()]).unwrap();
            let prompt = ["Once upon a time", "The cat", "Lily and Tom went"][seed as usize % 3];
            let request =
                Request { policy: Some(policy), temperature: 0.8, seed, ..Request::new(prompt, 24) };
            decode_config(&model.config, model.serving, &tokenizer, &request).unwrap()
        };
        let mut texts = |at_once| write(&mut batch, (0..7).map(config).collect(), at_once).unwrap().0;
        let alone = texts(1);
        assert_eq!(texts(3), alone);
        assert_eq!(texts(32), alone);
        assert!(alone.iter().all(|t| t.footer.tokens > 0 && t.footer.seconds.is_none()));
    }

    #[test]
    fn the_grid_is_made_of_policies_and_names_them_apart() {
        let mut seen = std::collections::BTreeSet::new();
        for text in GRID.iter().chain(&WHOLE).chain([&REFERENCE]) {
            let policy = parse_policy(text).unwrap();
            assert!(seen.insert(format!("{} {}", policy.kind(), parameters(&policy))), "{text}");
        }
        assert!(seen.contains("edit tau_mask 0.5, tau_edit 0"), "{seen:?}");
    }
}
