//! `hilda models list | show | check | frequencies | kvzap | export | average`: what lies here, what it is, what is wrong with it; and out again.

use std::path::{Path, PathBuf};

use hilda_engine::data::document::{guess_format, read_documents};
use hilda_engine::data::frequencies::count;
use hilda_engine::data::{DataError, FREQUENCIES, Frequencies};
use hilda_engine::files;
use hilda_engine::model::inspect::{Facts, inspect};
use hilda_engine::model::source::Source;
use serde::Serialize;
use serde_json::{Value, json};

use super::{CliError, bytes_text, data_dir};
use crate::library;
use crate::models::Fits;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Write a model as a Hugging Face folder, a GGUF file, or a folder for the page
    Export(super::export::Export),
    /// The mean of checkpoints of one stage
    Average(super::average::Average),
    /// Models of the data folder: pulled ones, and the newest checkpoint of every run
    List {
        /// also what lies in this folder: model folders and GGUF files
        folder: Option<PathBuf>,
        #[arg(long)]
        json: bool,
    },
    /// Family, sizes, tokenizer, licence, memory
    Show {
        /// model folder, GGUF file, run folder, or the name of a pulled model
        model: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// Count a text's tokens into the model's folder, for decoding with score pc
    Frequencies {
        /// model folder, run folder for its newest checkpoint, or the name of a pulled model
        model: PathBuf,
        /// text or JSONL file
        #[arg(long, value_name = "FILE")]
        data: PathBuf,
    },
    /// Fit what scores cached positions for the press kvzap to a text, into the model's folder
    Kvzap(super::kvzap::Args),
    /// Everything that is wrong with a model's files; exit code 2 if anything is
    Check {
        /// model folder, GGUF file, run folder, or the name of a pulled model
        model: PathBuf,
        #[arg(long)]
        json: bool,
    },
}

/// A model's facts with its name and whether it fits this machine.
#[derive(Serialize)]
struct Entry {
    name: String,
    #[serde(flatten)]
    facts: Facts,
    /// does the memory that is free now suffice to decode, and to train?
    fits: Option<Fits>,
}

impl Entry {
    fn new(name: String, path: &Path) -> Result<Entry, CliError> {
        let facts = inspect(path).map_err(|e| CliError::BadInput(e.to_string()))?;
        let fits = Fits::new(&facts);
        Ok(Entry { name, facts, fits })
    }

    fn family(&self) -> String {
        let family = self.facts.family.map(|f| serde_json::to_value(f).expect("plain data"));
        family.as_ref().and_then(Value::as_str).unwrap_or("?").to_string()
    }

    fn fit_text(&self) -> &'static str {
        match self.fits {
            Some(Fits { train: true, .. }) => "trains here",
            Some(Fits { decode: true, .. }) => "decodes here",
            Some(_) => "too large",
            None => "",
        }
    }
}

pub fn run(args: Args) -> Result<(), CliError> {
    match args.command {
        Command::Export(a) => super::export::run(a),
        Command::Average(a) => super::average::run(a),
        Command::List { folder, json } => list(folder.as_deref(), json),
        Command::Show { model, json } => show(&model, json),
        Command::Check { model, json } => check(&model, json),
        Command::Kvzap(a) => super::kvzap::run(&a),
        Command::Frequencies { model, data } => frequencies(&model, &data),
    }
}

fn frequencies(named: &Path, data: &Path) -> Result<(), CliError> {
    let bad = |e: &dyn std::fmt::Display| CliError::BadInput(e.to_string());
    let place = library::place(&data_dir(), named);
    let (_, _, tokenizer) = library::head(&place).map_err(|e| bad(&e))?;
    let folder = match Source::open(&place).map_err(|e| bad(&e))? {
        Source::Folder(folder) => folder,
        Source::Gguf(file) => {
            let message =
                format!("{}: frequencies lie in a model's folder, and this is one file", file.display());
            return Err(CliError::BadInput(message));
        }
    };
    let in_data = |e: DataError| CliError::BadInput(format!("--data {}: {e}", data.display()));
    let documents = read_documents(data, &guess_format(data).map_err(in_data)?).map_err(in_data)?;
    let counts = count(&tokenizer, &documents).map_err(in_data)?;
    let frequencies = Frequencies::of(&counts).map_err(in_data)?;
    let path = folder.join(FREQUENCIES);
    let failed = |e| CliError::Failure(format!("{}: {e}", path.display()));
    files::replace(&path, &frequencies.json()).map_err(failed)?;
    let seen = counts.iter().filter(|c| **c > 0).count();
    let tokens = frequencies.tokens();
    println!("{}: {tokens} tokens, {seen} of {} different ones", path.display(), counts.len());
    Ok(())
}

fn open(named: &Path) -> Result<Entry, CliError> {
    let place = library::place(&data_dir(), named);
    let name = named.display().to_string();
    if !place.exists() && library::valid_name(&name) {
        let message = format!("there is no model {name} here; fetch it with: hilda pull {name}");
        return Err(CliError::BadInput(message));
    }
    Entry::new(name, &place)
}

/// What `list` looks at: name and place.
fn places(folder: Option<&Path>) -> Result<Vec<(String, PathBuf)>, CliError> {
    let data = data_dir();
    let mut all: Vec<(String, PathBuf)> = vec![];
    for name in library::installed(&data) {
        let place = data.join("models").join(&name);
        all.push((name, place));
    }
    let mut runs: Vec<PathBuf> =
        std::fs::read_dir(data.join("runs")).into_iter().flatten().flatten().map(|e| e.path()).collect();
    runs.sort();
    runs.retain(|run| !hilda_engine::train::checkpoint::list(run).is_empty());
    if let Some(folder) = folder {
        let bad = |e: std::io::Error| CliError::BadInput(format!("{}: {e}", folder.display()));
        let mut found: Vec<PathBuf> =
            std::fs::read_dir(folder).map_err(bad)?.flatten().map(|e| e.path()).collect();
        found.sort();
        let gguf = |p: &Path| p.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
        runs.extend(found.into_iter().filter(|p| p.join("config.json").is_file() || gguf(p)));
    }
    let named = |p: PathBuf| (p.file_name().unwrap_or_default().to_string_lossy().into_owned(), p);
    all.extend(runs.into_iter().map(named));
    Ok(all)
}

fn list(folder: Option<&Path>, as_json: bool) -> Result<(), CliError> {
    let mut entries = vec![];
    for (name, place) in places(folder)? {
        entries.extend(Entry::new(name, &place).ok());
    }
    if as_json {
        println!("{}", serde_json::to_string(&entries).expect("plain data"));
        return Ok(());
    }
    if entries.is_empty() {
        eprintln!("no models yet; fetch one with: hilda pull ORG/NAME, or train one");
    }
    for e in &entries {
        let f = &e.facts;
        let parameters = f.parameters.map_or("?".into(), |p| format!("{:.1} M", p as f64 / 1e6));
        let sound = match f.problems.len() {
            0 => String::new(),
            n => format!("  {n} problems"),
        };
        println!(
            "{:<40} {:<7} {:>9} {:>9}  {:<12} {}{sound}",
            e.name,
            e.family(),
            parameters,
            bytes_text(f.bytes),
            e.fit_text(),
            f.licence.as_deref().unwrap_or(""),
        );
    }
    Ok(())
}

fn show(named: &Path, as_json: bool) -> Result<(), CliError> {
    let e = open(named)?;
    if as_json {
        println!("{}", serde_json::to_string(&e).expect("plain data"));
        return Ok(());
    }
    let f = &e.facts;
    let line = |name: &str, value: String| println!("{name:<12} {value}");
    line("model", format!("{} ({})", e.name, f.format));
    line("family", e.family());
    if let (Some(p), Some(c)) = (f.parameters, &f.shape) {
        line("parameters", format!("{p}"));
        line(
            "shape",
            format!(
                "{} layers of {}, {} heads of {} ({} of keys), feed-forward {}, {} rows of embedding{}",
                c.layers,
                c.width,
                c.heads,
                c.head_dim,
                c.kv_heads,
                c.mlp,
                c.vocab,
                if c.arch.tied { ", tied" } else { "" }
            ),
        );
        line("context", format!("{} tokens", c.context));
    }
    if let Some(s) = f.serving {
        let block = if s.block_size > 1 { format!(", blocks of {}", s.block_size) } else { String::new() };
        let shift = if s.shift { ", shifted" } else { "" };
        line("decodes", format!("{:?}{block}{shift}", s.attention).to_lowercase());
    }
    if let Some(t) = &f.tokenizer {
        let (mask, eos) = (&t.mask, &t.eos);
        line(
            "tokenizer",
            format!("{} tokens, mask {} ({}), end {} ({})", t.tokens, mask.0, mask.1, eos.0, eos.1),
        );
    }
    let formats = f.formats.iter().map(|(d, (n, b))| format!("{d} {} in {n} tensors", bytes_text(*b)));
    line("weights", formats.collect::<Vec<_>>().join(", "));
    line("licence", f.licence.clone().unwrap_or_else(|| "not named".into()));
    if let (Some(decode), Some(train)) = (f.decode_bytes, f.train_bytes) {
        line(
            "memory",
            format!("{} to decode, {} to train; {}", bytes_text(decode), bytes_text(train), e.fit_text()),
        );
    }
    if let Some(c) = f.cache {
        let less = |bits, bytes: Option<u64>| {
            bytes.map_or(String::new(), |b| format!(", {} in {bits} bits", bytes_text(b)))
        };
        let rounded = format!("{}{}", less(8, c.q8), less(4, c.q4));
        line("cache", format!("{} for {} positions{rounded}", bytes_text(c.f32), c.positions));
    }
    if let Some(p) = f.page {
        line("page", if p.fits { format!("opens there: {p}") } else { format!("too large: {p}") });
    }
    for p in &f.problems {
        line("problem", p.to_string());
    }
    Ok(())
}

fn check(named: &Path, as_json: bool) -> Result<(), CliError> {
    let e = open(named)?;
    let problems = &e.facts.problems;
    if as_json {
        let messages: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let value =
            json!({ "name": e.name, "ok": problems.is_empty(), "problems": problems, "messages": messages });
        println!("{value}");
    } else {
        problems.iter().for_each(|p| println!("{p}"));
    }
    match problems.len() {
        0 => {
            if !as_json {
                println!("{}: sound", e.name);
            }
            Ok(())
        }
        n => Err(CliError::BadInput(format!("{}: {n} problems", e.name))),
    }
}
