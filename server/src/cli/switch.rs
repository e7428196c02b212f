//! `hilda switch measure | fit`: what a fast and a slow policy make of the same problems, and a switch between the two learned
//! from it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hilda_engine::data::document::{guess_format, read_documents};
use hilda_engine::decode::{Attention, DecodeConfig, Method, PolicySpec};
use hilda_engine::eval::insight::infill::{self, Holes, answer_blocks, signs, with_hole};
use hilda_engine::eval::insight::{Header, Outcome, Problem, document_id};
use hilda_engine::eval::judge::TextJudge;
use hilda_engine::model::embedding::hidden_plan;
use hilda_engine::model::generate::{self, Request, decode_config};
use hilda_engine::model::session::Weights;
use hilda_engine::model::{LoadedModel, Plan, Session};
use hilda_kernels::Cpu;

use super::progress::Progress;
use super::sample::{open_model, parse_policy};
use super::{CliError, duration_text};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Write the same problems with both policies: what the first forward said, what came out, what it cost
    Measure(Measure),
    /// Learn a switch from such a file, on documents apart from those it is judged on
    Fit(super::switch_fit::Fit),
}

#[derive(clap::Args)]
struct Measure {
    /// model folder, or a run folder for its newest checkpoint
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// text or JSONL file of documents that the model has not seen
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// infill (words taken out of each document, right or wrong) or stories (continued, and judged)
    #[arg(long, default_value = "infill")]
    task: String,
    /// as for hilda sample
    #[arg(long, default_value = r#"{"kind": "threshold", "tau": 0}"#)]
    fast: String,
    #[arg(long, default_value = r#"{"kind": "threshold", "tau": 1}"#)]
    slow: String,
    /// an autoregressive model; for stories
    #[arg(long, value_name = "DIR")]
    judge: Option<PathBuf>,
    /// JSON lines; a file that is there already is continued if it was begun in the same way
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// at most this many documents; 0 = all
    #[arg(long, default_value_t = 0)]
    limit: usize,
    /// infill: tokens of each document that are shown; stories: tokens after the prompt
    #[arg(long, default_value_t = 96)]
    length: usize,
    /// infill: holes of a document, each a problem
    #[arg(long, default_value_t = 6)]
    holes: u32,
    /// infill: tokens of a hole, at least
    #[arg(long, default_value_t = 2)]
    shortest: u32,
    /// infill: tokens of a hole, at most
    #[arg(long, default_value_t = 6)]
    longest: u32,
    /// stories: tokens of each document that are the prompt
    #[arg(long, default_value_t = 16)]
    prompt: usize,
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub fn run(args: Args) -> Result<(), CliError> {
    match args.command {
        // on a thread of the pool from the start: thousands of short forwards, each of which would be handed over
        Command::Measure(a) => measure(&a),
        Command::Fit(a) => super::switch_fit::run(&a),
    }
}

/// A policy that can be one of a switch's: a method without candidates of its own.
fn method(name: &str, text: &str) -> Result<Method, CliError> {
    let spec = parse_policy(text)?;
    if spec != PolicySpec::from(spec.method) {
        return Err(CliError::BadInput(format!(
            "--{name} {text}: a switch chooses between methods, without candidates or caches"
        )));
    }
    Ok(spec.method)
}

/// A file of problems: its header and, where they are wanted, its problems.
pub fn read(path: &Path) -> Result<(Header, Vec<Problem>), CliError> {
    let bad = |line: usize, e: &dyn std::fmt::Display| {
        CliError::BadInput(format!("{}, line {line}: {e}", path.display()))
    };
    let text =
        fs::read_to_string(path).map_err(|e| CliError::BadInput(format!("{}: {e}", path.display())))?;
    let mut lines = text.lines().enumerate();
    let first = lines.next().ok_or_else(|| bad(1, &"the file is empty"))?.1;
    let header = serde_json::from_str(first).map_err(|e| bad(1, &e))?;
    let problems = lines.map(|(i, l)| serde_json::from_str(l).map_err(|e| bad(i + 1, &e)));
    Ok((header, problems.collect::<Result<_, _>>()?))
}

fn measure(a: &Measure) -> Result<(), CliError> {
    let bad = |m: String| CliError::BadInput(m);
    let (fast, slow) = (method("fast", &a.fast)?, method("slow", &a.slow)?);
    let infills = match a.task.as_str() {
        "infill" => true,
        "stories" => false,
        other => return Err(bad(format!("--task {other}: infill or stories"))),
    };
    if infills && !(1..=64).contains(&a.holes) {
        return Err(bad(format!("--holes {} is outside 1..64", a.holes)));
    }
    if infills && (a.shortest == 0 || a.shortest > a.longest || a.longest > 64) {
        return Err(bad("--shortest and --longest: 1 <= shortest <= longest <= 64".into()));
    }
    if !(0.0..=10.0).contains(&a.temperature) {
        return Err(bad(format!("--temperature {} is outside 0..10", a.temperature)));
    }
    let data = |e: hilda_engine::data::DataError| CliError::BadInput(e.to_string());
    let documents = read_documents(&a.data, &guess_format(&a.data).map_err(data)?).map_err(data)?;
    let (model, tokenizer) = open_model(&a.model)?;
    if model.serving.attention == Attention::Causal {
        return Err(bad(format!("{}: a causal model has one decoder, left to right", a.model.display())));
    }
    let judge = match (&a.judge, infills) {
        (None, true) => None,
        (Some(_), true) => return Err(bad("--judge: infilling is right or wrong, nobody judges it".into())),
        (None, false) => return Err(bad("--judge: stories need one".into())),
        (Some(path), false) => {
            let (other, own) = open_model(path)?;
            let judge = TextJudge::new(&other, own);
            Some(judge.map_err(|e| bad(format!("--judge {}: {e}", path.display())))?)
        }
    };
    let limit = if a.limit == 0 { documents.len() } else { a.limit.min(documents.len()) };
    let name = |p: &Path| p.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let how = if infills {
        format!("{} holes of {} to {} tokens in the first {}", a.holes, a.shortest, a.longest, a.length)
    } else {
        format!("{} tokens behind {}", a.length, a.prompt)
    };
    let note = format!("{}, temperature {}, seed {}, {how}", name(&a.data), a.temperature, a.seed);
    let header = Header { model: name(&a.model), task: a.task.clone(), fast, slow, note };
    let mut seen = BTreeSet::new();
    let failed = |e: &dyn std::fmt::Display| CliError::Failure(format!("{}: {e}", a.out.display()));
    if a.out.exists() {
        let (other, done) = read(&a.out)?;
        if other != header {
            return Err(bad(format!(
                "--out {}: is there already, and was begun in another way",
                a.out.display()
            )));
        }
        seen.extend(done.into_iter().map(|p| p.id));
    }
    let mut file = OpenOptions::new().append(true).create(true).open(&a.out).map_err(|e| failed(&e))?;
    if seen.is_empty() && file.metadata().map_err(|e| failed(&e))?.len() == 0 {
        writeln!(file, "{}", serde_json::to_string(&header).expect("plain data")).map_err(|e| failed(&e))?;
    }
    let base = Request { temperature: a.temperature, top_k: 0, ..Request::new("", 1) };
    let config =
        decode_config(&model.config, model.serving, &tokenizer, &base).map_err(|e| bad(e.to_string()))?;
    let work = Work::new(a, &model, header);
    let mut work = Work { judge, ..work };
    let mut bar = Progress::new("document");
    let began = std::time::Instant::now();
    let (mut problems, mut started) = (0, 0);
    for (i, text) in documents[..limit].iter().enumerate() {
        let id = document_id(text);
        if !seen.insert(id.clone()) {
            continue;
        }
        let mut ids = vec![model.config.eos_id];
        ids.extend(tokenizer.encode(text).map_err(data)?);
        ids.truncate(model.config.context);
        let config = DecodeConfig { seed: a.seed + i as u64, sequence: 0, ..config.clone() };
        let failed_at = |e: CliError| match e {
            CliError::BadInput(m) => bad(format!("document {}: {m}", i + 1)),
            CliError::Failure(m) => CliError::Failure(format!("document {}: {m}", i + 1)),
        };
        let mut lines = String::new();
        if infills {
            ids.truncate(a.length);
            let h = Holes { holes: a.holes, shortest: a.shortest, longest: a.longest, seed: a.seed };
            for hole in infill::holes(&ids, &tokenizer, i as u32, &h) {
                let (truth, at) = (&ids[hole.start as usize..hole.end as usize], hole.clone());
                let around = (hole.start - 1..hole.end + 1).map(|p| vec![p]).collect::<Vec<_>>();
                let quality =
                    |ids: &[u32]| Ok(f64::from(u8::from(&ids[at.start as usize..at.end as usize] == truth)));
                let make = |m| with_hole(&config, &ids, &hole, m);
                let p = work.problem(&id, make, |_| around.clone(), quality).map_err(failed_at)?;
                lines += &(serde_json::to_string(&p).expect("plain data") + "\n");
                problems += 1;
            }
        } else if ids.len() > a.prompt {
            ids.truncate(a.prompt + 1);
            let prompt = generate::text(&tokenizer, &ids);
            let judge = work.judge.take().expect("asked for above");
            let before = judge.score(&prompt).map_err(data)?;
            let quality = |ids: &[u32]| {
                let s = judge.score(&generate::text(&tokenizer, ids)).map_err(data)?.after(before);
                Ok(s.log_p / s.tokens.max(1) as f64)
            };
            let make = |m: Method| DecodeConfig {
                prompt: ids.clone(),
                length: (ids.len() + a.length) as u32,
                policy: m.into(),
                ..config.clone()
            };
            let p = work.problem(&id, make, answer_blocks, quality);
            work.judge = Some(judge);
            lines += &(serde_json::to_string(&p.map_err(failed_at)?).expect("plain data") + "\n");
            problems += 1;
        }
        file.write_all(lines.as_bytes()).map_err(|e| failed(&e))?;
        started += 1;
        let left = began.elapsed().as_secs_f64() / f64::from(started) * (limit - i - 1) as f64;
        bar.update(i as u64 + 1, limit as u64, &format!("{} left", duration_text(left)));
    }
    bar.finish();
    println!("{}: {problems} more problems", a.out.display());
    Ok(())
}

/// What every problem needs.
struct Work {
    session: Session<Cpu>,
    plan: Plan<Cpu>,
    header: Header,
    judge: Option<TextJudge>,
}

impl Work {
    fn new(a: &Measure, model: &LoadedModel, header: Header) -> Work {
        let weights = Arc::new(Weights::new(&Cpu, model));
        let rows = (a.length + a.prompt + 1).min(model.config.context);
        let plan = hidden_plan(&Cpu, &weights, rows);
        Work { session: Session::new(&Cpu, weights, model.config.context), plan, header, judge: None }
    }

    /// Both policies on one problem.
    fn problem(
        &mut self,
        id: &str,
        make: impl Fn(Method) -> DecodeConfig,
        groups: impl Fn(&hilda_engine::decode::Trajectory) -> Vec<Vec<u32>>,
        quality: impl Fn(&[u32]) -> Result<f64, CliError>,
    ) -> Result<Problem, CliError> {
        let wrong = |e: generate::GenerateError| match e {
            generate::GenerateError::Session(_) => CliError::Failure(e.to_string()),
            e => CliError::BadInput(e.to_string()),
        };
        let mut written =
            |config: DecodeConfig, look: bool| -> Result<(infill::Written, Outcome), CliError> {
                let w = infill::write(&Cpu, &mut self.session, config).map_err(wrong)?;
                let t = &w.trajectory;
                let signs = if look {
                    signs(&Cpu, &mut self.session, &mut self.plan, t, &groups(t)).map_err(wrong)?
                } else {
                    BTreeMap::new()
                };
                let ledger = &t.footer.ledger;
                let forwards = ledger.forwards - ledger.prefill;
                let quality = quality(&t.footer.ids)?;
                let outcome = Outcome { quality, forwards, positions: ledger.positions, signs };
                Ok((w, outcome))
            };
        let config = make(self.header.fast);
        let known = config.prompt.len() + config.fixed.len();
        let open = config.length - known as u32;
        let (first, fast) = written(config, true)?;
        let (_, slow) = written(make(self.header.slow), false)?;
        Ok(Problem {
            id: id.into(),
            known: known as u32,
            open,
            entropy: first.entropy,
            fast,
            slow,
            embeddings: first.embeddings,
        })
    }
}
