//! Where a model lies: a folder in Hugging Face layout (one file of weights or several), a GGUF file, or a run folder,
//! which stands for its newest checkpoint. Files are mapped, not read whole.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::cache::{KVZAP, Surrogate};
use super::checkpoint::{self, CheckpointError, MODEL, parse_config};
use super::family;
use super::shards::{INDEX, IndexFault, Shards, weight_map};
use super::{LoadedModel, Serving};
use crate::config::{Family, ModelConfig};
use crate::data::{DataError, FREQUENCIES, Frequencies, Tokenizer, mask};
use crate::decode::switch::{SWITCH, Switch};

/// A model that cannot be read, with its place.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// the source names the file in the folder
    #[error("{}/{source}", path.display())]
    Folder { path: PathBuf, source: CheckpointError },
    #[error("{}: {message}", path.display())]
    File { path: PathBuf, message: String },
}

fn io<T>(path: &Path, r: std::io::Result<T>) -> Result<T, SourceError> {
    r.map_err(|source| SourceError::Io { path: path.into(), source })
}

/// A model on this machine's disk.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    Folder(PathBuf),
    Gguf(PathBuf),
}

/// A file in memory as far as it is touched.
pub fn map(path: &Path) -> Result<Mmap, SourceError> {
    let file = io(path, File::open(path))?;
    // SAFETY: models are renamed into place and never rewritten; whoever changes one under a reader sees odd numbers.
    io(path, unsafe { Mmap::map(&file) })
}

impl Source {
    /// Decides by what lies there; nothing is read yet.
    ///
    /// Errors: neither a folder nor a file, or a file that is no GGUF.
    pub fn open(path: &Path) -> Result<Source, SourceError> {
        let kind = io(path, std::fs::metadata(path))?;
        if kind.is_dir() {
            let newest = crate::train::checkpoint::list(path).last().copied();
            let folder = newest.map_or(path.into(), |step| crate::train::checkpoint::folder(path, step));
            if !folder.join("config.json").exists()
                && let Some(file) = only_gguf(&folder)
            {
                return Ok(Source::Gguf(file));
            }
            return Ok(Source::Folder(folder));
        }
        let mut start = [0u8; 4];
        let read = File::open(path).and_then(|mut f| std::io::Read::read_exact(&mut f, &mut start));
        if read.is_ok() && &start == b"GGUF" {
            return Ok(Source::Gguf(path.into()));
        }
        let message = "is neither a model folder nor a GGUF file".into();
        Err(SourceError::File { path: path.into(), message })
    }

    pub fn path(&self) -> &Path {
        match self {
            Source::Folder(p) | Source::Gguf(p) => p,
        }
    }

    /// Shape and manner of decoding.
    pub fn config(&self) -> Result<(ModelConfig, Serving), SourceError> {
        match self {
            Source::Folder(dir) => {
                let path = dir.join("config.json");
                parse_config(&io(&path, std::fs::read_to_string(&path))?).map_err(|e| self.failed(e))
            }
            #[cfg(feature = "gguf")]
            Source::Gguf(path) => {
                let content = super::gguf::content(&mut io(path, File::open(path))?);
                content.and_then(|c| super::gguf::read_config(&c)).map_err(|e| self.failed(e))
            }
            #[cfg(not(feature = "gguf"))]
            Source::Gguf(_) => Err(self.without_gguf()),
        }
    }

    /// Weights in float32.
    pub fn load(&self) -> Result<LoadedModel, SourceError> {
        match self {
            Source::Folder(dir) => {
                let (config, serving) = self.config()?;
                let weights = Weights::open(dir)?;
                if config.arch.family == Family::Dit
                    && let Some((_, bytes)) = weights.files.first()
                    && let Some(dit) =
                        family::Dit::open(&config, bytes).map_err(|e| self.failed(e.of(MODEL)))?
                {
                    let params = dit.fold(0.0).map_err(|e| self.failed(e.of(MODEL)))?;
                    return Ok(LoadedModel { config, serving, params });
                }
                let (shards, faults) = weights.shards().map_err(|e| self.failed(e))?;
                if let Some(fault) = faults.first() {
                    return Err(self.failed(CheckpointError::Format(fault.to_string()).of(INDEX)));
                }
                let params = checkpoint::read_params(&config, &shards);
                Ok(LoadedModel { params: params.map_err(|e| self.failed(e.of(MODEL)))?, config, serving })
            }
            #[cfg(feature = "gguf")]
            Source::Gguf(path) => {
                let file = io(path, File::open(path))?;
                super::gguf::load(&mut std::io::BufReader::new(file)).map_err(|e| self.failed(e))
            }
            #[cfg(not(feature = "gguf"))]
            Source::Gguf(_) => Err(self.without_gguf()),
        }
    }

    /// Its `tokenizer.json` as it lies there (for a GGUF file made from its keys); `None` where it has none.
    pub fn tokenizer_json(&self) -> Result<Option<Vec<u8>>, SourceError> {
        match self {
            Source::Folder(dir) => {
                let path = dir.join("tokenizer.json");
                match std::fs::read(&path) {
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    read => io(&path, read).map(Some),
                }
            }
            #[cfg(feature = "gguf")]
            Source::Gguf(path) => {
                let content = super::gguf::content(&mut io(path, File::open(path))?);
                content.and_then(|c| super::gguf_tokenizer::read(&c.metadata)).map_err(|e| self.failed(e))
            }
            #[cfg(not(feature = "gguf"))]
            Source::Gguf(_) => Err(self.without_gguf()),
        }
    }

    /// Its tokenizer with a mask token, which it is given where it has none ([`mask::with_mask`]).
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>, SourceError> {
        let Some(json) = self.tokenizer_json()? else { return Ok(None) };
        let (c, _) = self.config()?;
        let published = (c.mask_id != 0).then_some(c.mask_id);
        let of = |e: DataError| {
            let path = match self {
                Source::Folder(dir) => dir.join("tokenizer.json"),
                Source::Gguf(path) => path.clone(),
            };
            let message = e.to_string();
            let message = message.strip_prefix("tokenizer.json: ").unwrap_or(&message).into();
            SourceError::File { path, message }
        };
        let (json, _) = mask::with_mask(&json, c.vocab, published).map_err(of)?;
        let tokenizer = Tokenizer::from_bytes(&json).map_err(of)?;
        if tokenizer.vocab() > c.vocab {
            let message = format!("{} tokens, the embedding has {} rows", tokenizer.vocab(), c.vocab);
            return Err(of(DataError::Tokenizer(message)));
        }
        let tokenizer = match self.frequencies(c.vocab)? {
            Some(frequencies) => tokenizer.with_frequencies(frequencies),
            None => tokenizer,
        };
        Ok(Some(match self.surrogate(&c)? {
            Some(surrogate) => tokenizer.with_surrogate(surrogate),
            None => tokenizer,
        }))
    }

    /// What scores its cached positions for the press kvzap, where the folder has it.
    fn surrogate(&self, c: &ModelConfig) -> Result<Option<Surrogate>, SourceError> {
        let Source::Folder(dir) = self else { return Ok(None) };
        let path = dir.join(KVZAP);
        let json = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => io(&path, read)?,
        };
        Surrogate::read(&json, c).map(Some).map_err(|message| SourceError::File { path, message })
    }

    /// How often its tokens occur in a corpus, where the folder says so.
    fn frequencies(&self, vocab: usize) -> Result<Option<Frequencies>, SourceError> {
        let Source::Folder(dir) = self else { return Ok(None) };
        let path = dir.join(FREQUENCIES);
        let json = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => io(&path, read)?,
        };
        let failed = |e: DataError| {
            let message = e.to_string();
            let message = message.strip_prefix("tokenizer.json: ").unwrap_or(&message);
            SourceError::File { path: path.clone(), message: message.into() }
        };
        Frequencies::read(&json, vocab).map(Some).map_err(failed)
    }

    /// How to choose between a fast and a slow policy, where the folder says so.
    pub fn switch(&self) -> Result<Option<Switch>, SourceError> {
        let Source::Folder(dir) = self else { return Ok(None) };
        let path = dir.join(SWITCH);
        let json = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => io(&path, read)?,
        };
        let (config, _) = self.config()?;
        let message = |e: crate::decode::DecodeError| e.to_string();
        match Switch::read(&json, super::embedding::width(&config)).map_err(message) {
            Ok(switch) => Ok(Some(switch)),
            Err(message) => Err(SourceError::File { path, message }),
        }
    }

    fn failed(&self, source: CheckpointError) -> SourceError {
        match self {
            Source::Folder(path) => SourceError::Folder { path: path.clone(), source },
            Source::Gguf(path) => {
                let message = source.to_string();
                let message = message.strip_prefix("gguf: ").unwrap_or(&message).into();
                SourceError::File { path: path.clone(), message }
            }
        }
    }

    #[cfg(not(feature = "gguf"))]
    fn without_gguf(&self) -> SourceError {
        let message = "GGUF is not part of this build".into();
        SourceError::File { path: self.path().into(), message }
    }
}

/// The GGUF file of a folder that holds one and no more.
fn only_gguf(folder: &Path) -> Option<PathBuf> {
    let files = std::fs::read_dir(folder).ok()?.flatten().map(|e| e.path());
    let mut found = files.filter(|p| p.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")));
    found.next().filter(|_| found.next().is_none())
}

/// The mapped files of weights of a folder.
pub struct Weights {
    pub files: Vec<(String, Mmap)>,
    index: Option<std::collections::BTreeMap<String, String>>,
}

impl Weights {
    /// Maps `model.safetensors`, or what the index lists and is there.
    pub fn open(dir: &Path) -> Result<Weights, SourceError> {
        let (index, one) = (dir.join(INDEX), dir.join(MODEL));
        if !index.exists() || one.exists() {
            return Ok(Weights { files: vec![(MODEL.into(), map(&one)?)], index: None });
        }
        let json = io(&index, std::fs::read(&index))?;
        let index = weight_map(&json).map_err(|source| SourceError::Folder { path: dir.into(), source })?;
        let names: std::collections::BTreeSet<&String> = index.values().collect();
        let here = names.into_iter().filter(|name| dir.join(name).is_file());
        let files = here.map(|n| Ok((n.clone(), map(&dir.join(n))?))).collect::<Result<_, SourceError>>()?;
        Ok(Weights { files, index: Some(index) })
    }

    pub fn shards(&self) -> Result<(Shards<'_>, Vec<IndexFault>), CheckpointError> {
        match &self.index {
            None => Ok((Shards::one(&self.files[0].1).map_err(|e| e.of(MODEL))?, vec![])),
            Some(index) => {
                let contents: Vec<(String, &[u8])> =
                    self.files.iter().map(|(n, m)| (n.clone(), &m[..])).collect();
                Shards::many(index, &contents)
            }
        }
    }
}
