//! `hilda data add | pull | list`: corpora that recipes and the launch form name.

use std::path::PathBuf;

use hilda_engine::data::{AddOptions, DataError, Format, Registry};

use super::progress::Progress;
use super::{CliError, bytes_text, duration_text, open_data};
use crate::{
    http::corpus_cards,
    hub::{self, HubFile},
    storage::now,
};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Register a text or JSON-lines file under a name
    Add(Add),
    /// Fetch a known corpus from the Hugging Face hub and register it
    Pull(Pull),
    /// Registered corpora
    List {
        #[arg(long)]
        json: bool,
    },
}

#[derive(clap::Args)]
struct Add {
    /// lower-case letters, digits, '-', '_' and '.'
    name: String,
    /// text or JSON-lines file
    path: PathBuf,
    /// how the file holds its documents [default: guessed]
    #[arg(long, value_enum)]
    format: Option<FormatName>,
    /// what stands between documents (text)
    #[arg(long, default_value = "<|endoftext|>")]
    separator: String,
    /// field that holds the text (JSON lines); several are joined by a line break
    #[arg(long, value_name = "NAME")]
    field: Vec<String>,
    /// file with the validation documents; without it a share is set aside
    #[arg(long, value_name = "PATH")]
    valid: Option<PathBuf>,
    /// share of documents set aside for validation, 0 to 0.5
    #[arg(long, default_value_t = 0.02)]
    valid_share: f64,
    /// use at most this many training documents
    #[arg(long)]
    limit: Option<usize>,
    /// one sentence and the licence
    #[arg(long, default_value = "")]
    about: String,
    /// replace a corpus of the same name
    #[arg(long)]
    replace: bool,
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct Pull {
    /// tinystories
    name: String,
    /// use at most this many training documents
    #[arg(long)]
    limit: Option<usize>,
}

/// Corpora that can be pulled: name, repository, training file, validation file, what it is.
const KNOWN: [(&str, &str, &str, &str, &str); 1] = [(
    "tinystories",
    "roneneldan/TinyStories",
    "TinyStoriesV2-GPT4-train.txt",
    "TinyStoriesV2-GPT4-valid.txt",
    "Short stories in a small child's words (Eldan & Li 2023), CDLA-Sharing-1.0",
)];

#[derive(Clone, Copy, clap::ValueEnum)]
enum FormatName {
    /// documents with a separator between them
    Text,
    /// documents with blank lines between them
    Paragraphs,
    /// one JSON object a line
    Jsonl,
}

impl From<DataError> for CliError {
    fn from(e: DataError) -> Self {
        match &e {
            DataError::Io { source, .. } if source.kind() != std::io::ErrorKind::NotFound => {
                CliError::Failure(e.to_string())
            }
            DataError::Damaged { .. } => CliError::Failure(e.to_string()),
            _ => CliError::BadInput(e.to_string()),
        }
    }
}

pub fn run(args: Args) -> Result<(), CliError> {
    match args.command {
        Command::Add(a) => add(a),
        Command::Pull(p) => pull(p),
        Command::List { json } => list(json),
    }
}

fn add(a: Add) -> Result<(), CliError> {
    let format = match a.format {
        Some(FormatName::Text) => Some(Format::Text { separator: a.separator }),
        Some(FormatName::Paragraphs) => Some(Format::Paragraphs),
        Some(FormatName::Jsonl) => {
            Some(Format::Jsonl { fields: if a.field.is_empty() { vec!["text".into()] } else { a.field } })
        }
        None if !a.field.is_empty() => Some(Format::Jsonl { fields: a.field }),
        None => None,
    };
    let options = AddOptions {
        format,
        valid: a.valid,
        valid_share: Some(a.valid_share),
        limit: a.limit,
        about: a.about,
        replace: a.replace,
        time: Some(now()),
    };
    let data = open_data()?;
    let card = Registry::new(data.root()).add(&a.name, &a.path, &options)?.card;
    if a.json {
        println!("{}", serde_json::to_string(&card).expect("plain data"));
    } else {
        eprintln!(
            "{}: {} documents, {} ({} for training, {} for validation, {} duplicates left out)",
            card.name,
            card.documents,
            bytes_text(card.bytes),
            card.train.documents,
            card.valid.documents,
            card.duplicates
        );
    }
    Ok(())
}

fn pull(p: Pull) -> Result<(), CliError> {
    let Some((name, repository, train, valid, about)) = KNOWN.into_iter().find(|k| k.0 == p.name) else {
        let known: Vec<_> = KNOWN.iter().map(|k| k.0).collect();
        return Err(CliError::BadInput(format!(
            "no corpus \"{}\" is known here ({}); hilda data add NAME PATH takes any file",
            p.name,
            known.join(", ")
        )));
    };
    let data = open_data()?;
    let folder = data.root().join("downloads").join(name);
    let mut paths = vec![];
    for file in [valid, train] {
        let mut bar = Progress::new("megabyte");
        let to = folder.join(file);
        let began = std::time::Instant::now();
        let mut first = None;
        hub::download(&HubFile::dataset(repository, file), &to, |have, total| {
            let start = *first.get_or_insert(have);
            let speed = (have - start) as f64 / began.elapsed().as_secs_f64().max(1e-3);
            let left = if total > have && speed > 0.0 {
                format!("{file}, {} left", duration_text((total - have) as f64 / speed))
            } else {
                file.to_string()
            };
            bar.update(have >> 20, total >> 20, &left);
        })
        .map_err(|e| CliError::Failure(e.to_string()))?;
        bar.finish();
        paths.push(to);
    }
    let options = AddOptions {
        valid: Some(paths[0].clone()),
        limit: p.limit,
        about: about.into(),
        replace: true,
        time: Some(now()),
        ..Default::default()
    };
    let card = Registry::new(data.root()).add(name, &paths[1], &options)?.card;
    eprintln!("{}: {} documents, {}", card.name, card.documents, bytes_text(card.bytes));
    Ok(())
}

fn list(json: bool) -> Result<(), CliError> {
    let data = open_data()?;
    Registry::new(data.root()).clean();
    if json {
        println!("{}", serde_json::to_string_pretty(&corpus_cards(&data)?).expect("plain data"));
        return Ok(());
    }
    let (cards, broken) = Registry::new(data.root()).list()?;
    for c in &cards {
        println!("{:<24} {:>9} documents  {:>10}  {}", c.name, c.documents, bytes_text(c.bytes), c.about);
    }
    broken.iter().for_each(|e| eprintln!("hilda: {e}"));
    if cards.is_empty() {
        eprintln!("no corpora in {}; `hilda data add NAME PATH` registers one", data.corpora().display());
    }
    Ok(())
}
