//! What a run reads: tokenizer, packed training and validation rows.

use std::path::{Path, PathBuf};

use crate::config::RunConfig;
use crate::data::{DataError, Format, Packed, Tokenizer, document, pack};

/// Data that cannot be trained on.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    #[error("{field}: {source}")]
    Data { field: &'static str, source: DataError },
    #[error("data.corpus: no corpus \"{name}\" is registered (hilda data add {name} PATH)")]
    UnknownCorpus { name: String },
    #[error("data: {message}")]
    Message { message: String },
}

/// Loaded data.
pub struct Input {
    pub tokenizer: Tokenizer,
    pub train: Packed,
    pub valid: Packed,
    /// UTF-8 bytes per token of the validation text
    pub bytes_per_token: f64,
}

/// Files of a run, absolute.
#[derive(Clone, Debug, PartialEq)]
pub struct Sources {
    pub train: PathBuf,
    pub valid: Option<PathBuf>,
    pub tokenizer: Option<PathBuf>,
}

impl Sources {
    /// Resolves the recipe's paths against `base` (the folder of the recipe) and corpus names through `corpus`.
    pub fn resolve(
        config: &RunConfig,
        base: &Path,
        corpus: impl Fn(&str) -> Option<(PathBuf, Option<PathBuf>)>,
    ) -> Result<Sources, InputError> {
        let d = &config.data;
        let at = |p: &String| base.join(p);
        let (train, valid) = match (&d.corpus, &d.train) {
            (Some(name), _) => {
                corpus(name).ok_or_else(|| InputError::UnknownCorpus { name: name.clone() })?
            }
            (None, Some(t)) => (at(t), d.valid.as_ref().map(at)),
            (None, None) => {
                return Err(InputError::Message { message: "no corpus and no train file".into() });
            }
        };
        Ok(Sources { train, valid, tokenizer: d.tokenizer.as_ref().map(at) })
    }
}

/// Reads and packs. Without a validation file the last 5 % of the documents (at least one) are held out.
pub fn load(config: &RunConfig, s: &Sources, log: &mut dyn FnMut(String)) -> Result<Input, InputError> {
    let read = |field: &'static str, path: &Path| {
        let name = path.display().to_string();
        let text = std::fs::read(path).map_err(DataError::io(path)).and_then(|b| document::utf8(&name, b));
        text.and_then(|t| document::documents(&name, &t, &Format::guess(&name, &t)))
            .map_err(|source| InputError::Data { field, source })
    };
    let mut train = read("data.train", &s.train)?;
    let valid = match &s.valid {
        Some(p) => read("data.valid", p)?,
        None if train.len() > 1 => train.split_off(train.len() - (train.len() / 20).max(1)),
        None => {
            return Err(InputError::Message {
                message: "one document only: nothing is left to validate on".into(),
            });
        }
    };
    if let Some(limit) = config.data.limit {
        train.truncate(limit);
    }
    let tokenizer = match &s.tokenizer {
        Some(p) => {
            Tokenizer::from_file(p).map_err(|source| InputError::Data { field: "data.tokenizer", source })?
        }
        None => {
            return Err(InputError::Message { message: "no tokenizer given".into() });
        }
    };
    let length = config.data.packing.length;
    let encode = |field: &'static str, docs: &[String]| -> Result<Packed, InputError> {
        pack::pack_texts(&tokenizer, docs, length).map_err(|source| InputError::Data { field, source })
    };
    let (train, packed_valid) = (encode("data.train", &train)?, encode("data.valid", &valid)?);
    let bytes: usize = valid.iter().map(String::len).sum();
    log(format!(
        "{} training rows of {length} ({} tokens), {} validation rows",
        train.len(),
        train.tokens,
        packed_valid.len()
    ));
    let bytes_per_token = bytes as f64 / packed_valid.tokens as f64;
    Ok(Input { tokenizer, train, valid: packed_valid, bytes_per_token })
}
