//! Models of the data folder: `models/ORG/NAME/`, where `hilda pull` puts them. A name is accepted wherever a folder or
//! a file is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hilda_engine::config::ModelConfig;
use hilda_engine::data::Tokenizer;
use hilda_engine::decode::Switch;
use hilda_engine::model::source::{Source, SourceError};
use hilda_engine::model::{LoadedModel, Serving};

/// A model that cannot be used with its tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("{}: has no tokenizer.json", .0.display())]
    NoTokenizer(PathBuf),
    #[error("{}: this tokenizer has {tokens} tokens, the model {vocab}: it belongs to another checkpoint", file.display())]
    Vocabulary { file: PathBuf, tokens: usize, vocab: usize },
}

/// The model at a place: a folder, a GGUF file, or a run folder for its newest checkpoint. A model as it was published
/// gets mask, end of text and forbidden ids from its tokenizer.
pub fn open(place: &Path) -> Result<(LoadedModel, Tokenizer), OpenError> {
    let source = Source::open(place)?;
    let mut model = source.load()?;
    let tokenizer = tokenizer(&source, &mut model.config)?;
    Ok((model, tokenizer))
}

/// How the model at a place chooses between a fast and a slow policy, where its folder says so.
///
/// # Errors
/// A file that is not such a choice, or another model's.
pub fn switch(place: &Path) -> Result<Option<Arc<Switch>>, OpenError> {
    Ok(Source::open(place)?.switch()?.map(Arc::new))
}

/// The same without the weights.
pub fn head(place: &Path) -> Result<(ModelConfig, Serving, Tokenizer), OpenError> {
    let source = Source::open(place)?;
    let (mut config, serving) = source.config()?;
    let tokenizer = tokenizer(&source, &mut config)?;
    Ok((config, serving, tokenizer))
}

fn tokenizer(source: &Source, config: &mut ModelConfig) -> Result<Tokenizer, OpenError> {
    let tokenizer = source.tokenizer()?.ok_or_else(|| OpenError::NoTokenizer(source.path().into()))?;
    if !config.takes_tokenizer(tokenizer.vocab()) {
        let file = source.path().join("tokenizer.json");
        return Err(OpenError::Vocabulary { file, tokens: tokenizer.vocab(), vocab: config.vocab });
    }
    if config.forbid.is_empty() {
        config.take_roles(&tokenizer);
    }
    Ok(tokenizer)
}

/// Is this the name of a repository on the hub, ORG/NAME?
pub fn valid_name(name: &str) -> bool {
    let part = |p: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !p.is_empty() && p.len() <= 96 && !p.starts_with('.') && p.chars().all(plain)
    };
    name.split_once('/').is_some_and(|(org, name)| part(org) && part(name))
}

/// Where the model of this name is or would be.
pub fn folder(data: &Path, name: &str) -> Option<PathBuf> {
    valid_name(name).then(|| data.join("models").join(name))
}

/// What a person means by a model: a path that exists, the name of a pulled model, or a run's id; else the path as given,
/// for the message.
pub fn place(data: &Path, named: &Path) -> PathBuf {
    if named.exists() {
        return named.into();
    }
    let text = named.to_str().unwrap_or("");
    let run = crate::storage::valid_id(text).then(|| data.join("runs").join(text));
    let known = [folder(data, text), run];
    known.into_iter().flatten().find(|p| p.exists()).unwrap_or_else(|| named.into())
}

/// Names of the models here, in order.
pub fn installed(data: &Path) -> Vec<String> {
    let names = |folder: PathBuf| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let folders = entries.filter(|e| e.path().is_dir());
        folders.filter_map(|e| e.file_name().into_string().ok()).collect::<Vec<_>>()
    };
    let root = data.join("models");
    let of = |org: String| names(root.join(&org)).into_iter().map(move |name| format!("{org}/{name}"));
    let mut all: Vec<String> =
        names(root.clone()).into_iter().flat_map(of).filter(|n| valid_name(n)).collect();
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_not_paths() {
        for good in ["HuggingFaceTB/SmolLM2-135M", "a/b", "org_1/x.y-z"] {
            assert!(valid_name(good), "{good}");
        }
        for bad in ["", "a", "a/", "/b", "../b", "a/..", "a/.b", "a/b/c", "a\\b/c", "a/b\0", "a/b c"] {
            assert!(!valid_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_path_comes_before_a_name_and_a_name_before_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let pulled = dir.path().join("models/org/name");
        std::fs::create_dir_all(&pulled).unwrap();
        std::fs::create_dir_all(dir.path().join("runs/tiny-1")).unwrap();
        std::fs::create_dir_all(dir.path().join("models/org/.half.1-0.partial")).unwrap();
        assert_eq!(installed(dir.path()), ["org/name"]);
        assert_eq!(place(dir.path(), Path::new("org/name")), pulled);
        assert_eq!(place(dir.path(), Path::new("tiny-1")), dir.path().join("runs/tiny-1"));
        assert_eq!(place(dir.path(), &pulled), pulled);
        assert_eq!(place(dir.path(), Path::new("gone/model")), Path::new("gone/model"));
        assert_eq!(place(dir.path(), Path::new("../../etc")), Path::new("../../etc"));
    }
}
