//! A model's files, from this site or from the visitor's disk: configuration, tokenizer and token frequencies first, which say whether the
//! page can hold the rest, then the weights in one file or piece by piece.

use std::cell::Cell;

use hilda_engine::config::ModelConfig;
use hilda_engine::data::{FREQUENCIES, Frequencies, Tokenizer};
use hilda_engine::model::page::{self, Fit, Index, Loader, Piece};
use hilda_engine::model::shards::INDEX;
use hilda_engine::model::{LoadedModel, Serving, checkpoint};
use wasm_bindgen_futures::JsFuture;

use super::fetch::{FetchError, Fetched, fetch, fetch_piece, sha256};
use super::host::{now, pause};
use super::{Source, Tell};
use crate::dom::message;

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";

/// What is known before the weights are.
pub struct Head {
    pub config: ModelConfig,
    pub serving: Serving,
    pub tokenizer: Tokenizer,
    text: String,
    pub bytes: u64,
    pub cached: bool,
}

impl Head {
    /// Why the page cannot hold the model, if it cannot.
    pub fn too_large(&self) -> Option<String> {
        let memory = page::memory(&self.config);
        (memory > page::MOST_MEMORY).then(|| {
            let what = Fit::new(&self.config);
            format!("The model is too large for the page: it would take {what}.")
        })
    }
}

/// Weights and how they came.
pub struct Weights {
    pub model: LoadedModel,
    /// SHA-256 of the file, or of the sums of the pieces
    pub hash: String,
    pub bytes: u64,
    pub cached: bool,
}

/// Configuration and tokenizer. `said` hears how it goes.
pub async fn head(source: &Source, files: &[web_sys::File], said: &impl Fn(&Tell)) -> Result<Head, String> {
    let config = get(source, files, CONFIG, said).await?;
    let json = get(source, files, TOKENIZER, said).await?;
    let text = String::from_utf8(config.bytes).map_err(|_| format!("{CONFIG} is not text"))?;
    let (config_read, serving) = checkpoint::parse_config(&text).map_err(|e| e.to_string())?;
    let tokenizer = Tokenizer::from_bytes(&json.bytes).map_err(|e| e.to_string())?;
    if tokenizer.vocab() > config_read.vocab {
        return Err(format!(
            "{TOKENIZER} has {} tokens, the model {}: they do not belong together",
            tokenizer.vocab(),
            config_read.vocab
        ));
    }
    let (mut bytes, mut cached) = ((text.len() + json.bytes.len()) as u64, config.cached && json.cached);
    let given = files.iter().any(|f| f.name() == FREQUENCIES);
    let tokenizer = if given || page::has_frequencies(&text) && matches!(source, Source::Url { .. }) {
        let file = get(source, files, FREQUENCIES, said).await?;
        bytes += file.bytes.len() as u64;
        cached &= file.cached;
        let counted = Frequencies::read(&file.bytes, config_read.vocab).map_err(|e| e.to_string())?;
        tokenizer.with_frequencies(counted)
    } else {
        tokenizer
    };
    Ok(Head { config: config_read, serving, tokenizer, text, bytes, cached })
}

/// The weights, as float32.
pub async fn weights(
    source: &Source,
    files: &[web_sys::File],
    head: &Head,
    said: &impl Fn(&Tell),
) -> Result<Weights, String> {
    let given = |name: &str| files.iter().any(|f| f.name() == name);
    let listed = page::has_index(&head.text) || given(INDEX) && !given(checkpoint::MODEL);
    if !listed {
        let file = get(source, files, checkpoint::MODEL, said).await?;
        reading(said).await;
        let model = checkpoint::load(&head.text, &file.bytes).map_err(|e| e.to_string())?;
        let (hash, bytes) = (sha256(&file.bytes).await, file.bytes.len() as u64);
        return Ok(Weights { model, hash, bytes, cached: file.cached });
    }
    let index = get(source, files, INDEX, said).await?;
    let index = Index::parse(&index.bytes).map_err(|e| e.to_string())?;
    let mut loader = Loader::new(&head.text, index.total()).map_err(|e| e.to_string())?;
    let (mut done, mut cached, mut sums) = (0, true, String::new());
    let count = index.metadata.pieces.len();
    for (i, piece) in index.metadata.pieces.iter().enumerate() {
        let what = format!("piece {} of {count}", i + 1);
        let bar = Bar::new(what, done, index.total(), said);
        let came = match source {
            Source::Url { base, .. } => {
                fetch_piece(&format!("{base}{}", piece.file), piece, |loaded| bar.at(loaded)).await
            }
            Source::Files { .. } => given_piece(files, piece).await,
        };
        let came = came.map_err(|e| said_of(source, &piece.file, e))?;
        done += came.bytes.len() as u64;
        bar.at(came.bytes.len() as u64);
        cached &= came.cached;
        match &piece.sha256 {
            Some(sum) => sums.push_str(sum),
            None => sums.push_str(&sha256(&came.bytes).await),
        }
        loader.add(&came.bytes).map_err(|e| format!("{}: {e}", piece.file))?;
        pause().await;
    }
    reading(said).await;
    let model = loader.finish().map_err(|e| e.to_string())?;
    let hash = match index.digest() {
        Some(hash) => hash,
        None => sha256(sums.as_bytes()).await,
    };
    Ok(Weights { model, hash, bytes: done, cached })
}

async fn reading(said: &impl Fn(&Tell)) {
    said(&Tell::Progress { what: "Reading the weights".into(), loaded: 0, total: None });
    pause().await;
}

/// One bar over everything that is loaded.
struct Bar<'a, F: Fn(&Tell)> {
    what: String,
    before: u64,
    total: Option<u64>,
    last: Cell<f64>,
    said: &'a F,
}

impl<'a, F: Fn(&Tell)> Bar<'a, F> {
    fn new(what: String, before: u64, total: Option<u64>, said: &'a F) -> Self {
        Bar { what, before, total, last: Cell::new(-1e9), said }
    }

    fn at(&self, loaded: u64) {
        let loaded = self.before + loaded;
        // ten times a second is enough for a bar
        if now() - self.last.get() > 100.0 || Some(loaded) == self.total {
            self.last.set(now());
            (self.said)(&Tell::Progress { what: self.what.clone(), loaded, total: self.total });
        }
    }
}

/// A whole file by its name.
async fn get(
    source: &Source,
    files: &[web_sys::File],
    name: &str,
    said: &impl Fn(&Tell),
) -> Result<Fetched, String> {
    match source {
        Source::Url { base, .. } => {
            let last = Cell::new(-1e9);
            let progress = |loaded, total| {
                if now() - last.get() > 100.0 || Some(loaded) == total {
                    last.set(now());
                    said(&Tell::Progress { what: name.into(), loaded, total });
                }
            };
            fetch(&format!("{base}{name}"), progress).await.map_err(|e| said_of(source, name, e))
        }
        Source::Files { .. } => {
            let bytes = given_file(files, name).await.map_err(|e| e.to_string())?;
            let loaded = bytes.len() as u64;
            said(&Tell::Progress { what: name.into(), loaded, total: Some(loaded) });
            Ok(Fetched { bytes, cached: true })
        }
    }
}

fn said_of(source: &Source, name: &str, error: FetchError) -> String {
    match (source, error) {
        (Source::Url { base, .. }, FetchError::Status { status: 404, .. }) => {
            format!("There is no model at {base} ({name} is missing). Another one can be opened below.")
        }
        (_, error) => error.to_string(),
    }
}

async fn given_file(files: &[web_sys::File], name: &str) -> Result<Vec<u8>, FetchError> {
    let file = files.iter().find(|f| f.name() == name);
    let file = file.ok_or_else(|| FetchError::NotGiven { name: name.into() })?;
    let unread = |e| FetchError::Offline { url: name.into(), why: message(&e) };
    let buffer = JsFuture::from(file.array_buffer()).await.map_err(unread)?;
    Ok(js_sys::Uint8Array::new(&buffer).to_vec())
}

async fn given_piece(files: &[web_sys::File], piece: &Piece) -> Result<Fetched, FetchError> {
    let bytes = given_file(files, &piece.file).await?;
    if let Some(want) = &piece.sha256
        && !sha256(&bytes).await.eq_ignore_ascii_case(want)
    {
        return Err(FetchError::Sum { url: piece.file.clone() });
    }
    Ok(Fetched { bytes, cached: true })
}
