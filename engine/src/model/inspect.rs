//! What a model is, from its headers alone, and everything that is wrong with its files: tensors that are missing or too
//! many, of another shape or type, an index that points outside its files, a tokenizer that does not fit the embedding.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;
use serde::Serialize;

use super::page::Fit;
use super::source::{Source, SourceError, Weights};
use super::{Keep, Layout, Serving, Trunk, family, quant};
use crate::config::{Family, ModelConfig};
use crate::data::Tokenizer;
use crate::decode::Attention;
use crate::decode::policy::{Caching, Storage};

/// Something that keeps a model from being used as it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Problem {
    /// the configuration asks for it
    Missing {
        tensor: String,
        shape: Vec<usize>,
    },
    /// the configuration does not know it
    Extra {
        tensor: String,
        shape: Vec<usize>,
    },
    Shape {
        tensor: String,
        got: Vec<usize>,
        want: Vec<usize>,
    },
    Dtype {
        tensor: String,
        got: String,
    },
    /// the index says otherwise than the files
    Index {
        tensor: String,
        file: String,
        message: String,
    },
    Tokenizer {
        message: String,
    },
    /// a file that does not read at all
    File {
        message: String,
    },
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Problem::Missing { tensor, shape } => write!(f, "tensor {tensor} {shape:?} is missing"),
            Problem::Extra { tensor, shape } => {
                write!(f, "tensor {tensor} {shape:?} is not part of such a model")
            }
            Problem::Shape { tensor, got, want } => {
                write!(f, "tensor {tensor} has shape {got:?}, the configuration asks for {want:?}")
            }
            Problem::Dtype { tensor, got } => {
                write!(f, "tensor {tensor} has type {got}, which is not read here")
            }
            Problem::Index { tensor, message, .. } => write!(f, "index: tensor {tensor}: {message}"),
            Problem::Tokenizer { message } => write!(f, "tokenizer: {message}"),
            Problem::File { message } => f.write_str(message),
        }
    }
}

/// The tokenizer beside the weights.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenizerFacts {
    pub tokens: usize,
    /// text of the mask token, and its id
    pub mask: (String, u32),
    pub eos: (String, u32),
}

/// A model's facts.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    /// "folder" or "gguf"
    pub format: &'static str,
    pub family: Option<Family>,
    pub parameters: Option<u64>,
    pub shape: Option<ModelConfig>,
    pub serving: Option<Serving>,
    /// tensors and bytes of each number format
    pub formats: BTreeMap<String, (usize, u64)>,
    pub tokenizer: Option<TokenizerFacts>,
    /// where its card names one
    pub licence: Option<String>,
    /// of the weights on disk
    pub bytes: u64,
    /// memory to decode 256 positions, and to train whole rows of that length one at a time
    pub decode_bytes: Option<u64>,
    pub train_bytes: Option<u64>,
    /// keys and values of a text that fills the context
    pub cache: Option<CacheFacts>,
    /// what it would be in the page
    pub page: Option<Fit>,
    pub problems: Vec<Problem>,
}

/// Bytes of the keys and values of a whole context ([`Trunk::cache_bytes`]): as computed, and with finished blocks rounded,
/// where a model has blocks that finish.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CacheFacts {
    pub positions: u64,
    pub f32: u64,
    pub q8: Option<u64>,
    pub q4: Option<u64>,
}

impl CacheFacts {
    fn new(trunk: &Trunk, serving: Serving) -> CacheFacts {
        let positions = trunk.config.context;
        let finish = serving.attention != Attention::Bidirectional;
        let block = if serving.attention == Attention::Causal { 0 } else { serving.block_size as u32 };
        let bytes = |cache_storage| {
            let caching = Caching { cache_storage, ..Caching::default() };
            trunk.cache_bytes(&caching.compression(block, None), positions)
        };
        CacheFacts {
            positions: positions as u64,
            f32: bytes(Storage::F32),
            q8: finish.then(|| bytes(Storage::Q8)),
            q4: finish.then(|| bytes(Storage::Q4)),
        }
    }
}

/// Positions that the memory figures are for.
const POSITIONS: usize = 256;

/// One tensor on disk.
struct Stored {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    bytes: u64,
    /// can its numbers be read?
    read: bool,
}

/// Reads headers, configuration and tokenizer.
///
/// Errors: nothing there that could be a model. Whatever else is wrong is in `problems`.
pub fn inspect(path: &Path) -> Result<Facts, SourceError> {
    let source = Source::open(path)?;
    let format = if matches!(source, Source::Folder(_)) { "folder" } else { "gguf" };
    let mut facts = Facts {
        format,
        family: None,
        parameters: None,
        shape: None,
        serving: None,
        formats: BTreeMap::new(),
        tokenizer: None,
        licence: licence(&source),
        bytes: 0,
        decode_bytes: None,
        train_bytes: None,
        cache: None,
        page: None,
        problems: vec![],
    };
    let file = |e: SourceError| Problem::File { message: e.to_string() };
    let shape = match source.config() {
        Ok((shape, serving)) => {
            facts.serving = Some(serving);
            Some(shape)
        }
        Err(e) => {
            facts.problems.push(file(e));
            None
        }
    };
    match stored(&source, &mut facts.problems) {
        Ok(all) => {
            for t in &all {
                let entry = facts.formats.entry(t.dtype.clone()).or_default();
                *entry = (entry.0 + 1, entry.1 + t.bytes);
                facts.bytes += t.bytes;
            }
            if let Some(c) = &shape {
                tensors(&source, c, &all, &mut facts.problems);
            }
        }
        Err(e) => facts.problems.push(file(e)),
    }
    match source.tokenizer() {
        Ok(Some(t)) => {
            let of = |id: u32| (t.piece(id), id);
            let s = t.specials();
            facts.tokenizer = Some(TokenizerFacts { tokens: t.vocab(), mask: of(s.mask), eos: of(s.eos) });
            facts.problems.extend(shape.as_ref().and_then(|c| misfit(c, &t)));
        }
        Ok(None) => {
            facts.problems.push(Problem::Tokenizer { message: "there is none beside the weights".into() })
        }
        // without a configuration the tokenizer was not looked at, and why is said already
        Err(_) if shape.is_none() => {}
        Err(e) => facts.problems.push(Problem::Tokenizer { message: e.to_string() }),
    }
    if let Some(c) = shape {
        facts.family = Some(c.arch.family);
        facts.parameters = Some(c.parameters() as u64);
        let (trunk, layout) = (Trunk::new(c.clone()), Layout::new(&c).total);
        facts.decode_bytes = Some((4 * layout + trunk.plan_bytes(POSITIONS, Keep::Nothing)) as u64);
        facts.train_bytes = Some((16 * layout + trunk.plan_bytes(POSITIONS, Keep::Activations)) as u64);
        facts.cache = facts.serving.map(|serving| CacheFacts::new(&trunk, serving));
        facts.page = Some(Fit::new(&c));
        facts.shape = Some(c);
    }
    Ok(facts)
}

fn misfit(c: &ModelConfig, t: &Tokenizer) -> Option<Problem> {
    (!c.takes_tokenizer(t.vocab())).then(|| Problem::Tokenizer {
        message: format!("{} tokens, the embedding has {} rows", t.vocab(), c.vocab),
    })
}

/// Every tensor of the files; entries of an index that do not hold become problems.
fn stored(source: &Source, problems: &mut Vec<Problem>) -> Result<Vec<Stored>, SourceError> {
    match source {
        Source::Folder(dir) => {
            let weights = Weights::open(dir)?;
            let failed = |source| SourceError::Folder { path: dir.clone(), source };
            let (shards, faults) = weights.shards().map_err(failed)?;
            problems.extend(faults.into_iter().map(|f| Problem::Index {
                tensor: f.tensor,
                file: f.file,
                message: f.message,
            }));
            Ok(joined(shards.all().into_iter().map(one).collect()))
        }
        #[cfg(feature = "gguf")]
        Source::Gguf(path) => {
            let io = |source| SourceError::Io { path: path.clone(), source };
            let mut file = std::fs::File::open(path).map_err(io)?;
            let length = file.metadata().map_err(io)?.len();
            let content = super::gguf::content(&mut file)
                .map_err(|e| SourceError::File { path: path.clone(), message: e.to_string() })?;
            let mut out = vec![];
            for (name, info) in &content.tensor_infos {
                let (block, size) = (info.ggml_dtype.block_size(), info.ggml_dtype.type_size());
                let bytes = (info.shape.elem_count() / block * size) as u64;
                let end = content.tensor_data_offset.saturating_add(info.offset).saturating_add(bytes);
                if end > length {
                    let message =
                        format!("tensor {name} ends at byte {end} of a file of {length}: it is cut short");
                    problems.push(Problem::File { message });
                }
                let (dtype, shape) = (format!("{:?}", info.ggml_dtype), info.shape.dims().to_vec());
                out.push(Stored { name: name.clone(), dtype, shape, bytes, read: true });
            }
            out.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(out)
        }
        #[cfg(not(feature = "gguf"))]
        Source::Gguf(path) => {
            Err(SourceError::File { path: path.clone(), message: "GGUF is not part of this build".into() })
        }
    }
}

/// A tensor of a safetensors file; 4-bit blocks under the shape of what they hold.
fn one((name, dtype, mut shape, bytes): (String, Dtype, Vec<usize>, usize)) -> Stored {
    let blocks = dtype == Dtype::U8 && shape.len() == 2 && shape[1] % quant::BLOCK_BYTES == 0;
    if blocks {
        shape[1] = shape[1] / quant::BLOCK_BYTES * quant::BLOCK;
    }
    let read = blocks || matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::I8);
    let dtype = if blocks { "Q4_0".into() } else { format!("{dtype:?}") };
    Stored { name, dtype, shape, bytes: bytes as u64, read }
}

/// Matrices that lie in parts (`X.rows0` and so on) as one; a part that does not continue the others stays by itself.
fn joined(all: Vec<Stored>) -> Vec<Stored> {
    let part = |name: &str| {
        let (base, first) = name.rsplit_once(".rows")?;
        let (first, scale) = match first.strip_suffix(".scale") {
            Some(first) => (first, ".scale"),
            None => (first, ""),
        };
        Some((format!("{base}{scale}"), first.parse::<usize>().ok()?))
    };
    let mut parts: BTreeMap<String, Vec<(usize, Stored)>> = BTreeMap::new();
    let mut out = vec![];
    for t in all {
        match part(&t.name) {
            Some((base, first)) => parts.entry(base).or_default().push((first, t)),
            None => out.push(t),
        }
    }
    for (name, mut list) in parts {
        list.sort_by_key(|p| p.0);
        let mut whole: Option<Stored> = None;
        for (first, t) in list {
            match &mut whole {
                None if first == 0 && !t.shape.is_empty() => whole = Some(Stored { name: name.clone(), ..t }),
                Some(w) if w.shape[0] == first && w.shape[1..] == t.shape[1..] && w.dtype == t.dtype => {
                    (w.shape[0], w.bytes) = (first + t.shape[0], w.bytes + t.bytes);
                }
                _ => out.push(t),
            }
        }
        out.extend(whole);
    }
    out
}

/// Holds what is stored against what the configuration asks for.
fn tensors(source: &Source, c: &ModelConfig, all: &[Stored], problems: &mut Vec<Problem>) {
    if c.arch.family == Family::Dit && all.iter().any(|t| t.name.ends_with("vocab_embed.embedding")) {
        // a DiT as it was published: folding it asks for every tensor by name
        if let Err(e) = source.load() {
            problems.push(Problem::File { message: e.to_string() });
        }
        return;
    }
    let mut wanted: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for t in Layout::new(c).named(c) {
        let name = match source {
            Source::Folder(_) => Some(family::name(c.arch.family, t.layer, t.part)),
            #[cfg(feature = "gguf")]
            Source::Gguf(_) => super::gguf::name(c.arch.family, t.layer, t.part),
            #[cfg(not(feature = "gguf"))]
            Source::Gguf(_) => None,
        };
        wanted.insert(name.unwrap_or(t.name), t.shape);
    }
    let stored: BTreeMap<&str, &Stored> = all.iter().map(|t| (t.name.as_str(), t)).collect();
    for (name, want) in &wanted {
        let Some(t) = stored.get(name.as_str()) else {
            problems.push(Problem::Missing { tensor: name.clone(), shape: want.clone() });
            continue;
        };
        if t.shape != *want {
            let (got, want) = (t.shape.clone(), want.clone());
            problems.push(Problem::Shape { tensor: name.clone(), got, want });
        }
        if !t.read {
            problems.push(Problem::Dtype { tensor: name.clone(), got: t.dtype.clone() });
        }
        if t.dtype == "I8" && !stored.contains_key(format!("{name}.scale").as_str()) {
            problems.push(Problem::Missing { tensor: format!("{name}.scale"), shape: want[..1].to_vec() });
        }
    }
    for t in all {
        let scale = t.name.strip_suffix(".scale").is_some_and(|n| wanted.contains_key(n));
        if !wanted.contains_key(&t.name) && !scale && !derived(&t.name, c) {
            problems.push(Problem::Extra { tensor: t.name.clone(), shape: t.shape.clone() });
        }
    }
}

/// Tensors that files carry although the configuration implies them: a tied head, rotary tables, and the mask schedule
/// of BD3-LM.
fn derived(name: &str, c: &ModelConfig) -> bool {
    let tied = c.arch.tied && (name == "lm_head.weight" || name == "output.weight");
    tied || name.ends_with("rotary_emb.inv_freq")
        || name == "rope_freqs.weight"
        || name.contains("sampling_eps_")
}

/// The licence that the card beside the weights (front matter of README.md) or the GGUF file names.
fn licence(source: &Source) -> Option<String> {
    match source {
        Source::Folder(dir) => {
            let card = std::fs::read_to_string(dir.join("README.md")).ok()?;
            let front = card.strip_prefix("---\n")?.split("\n---").next()?;
            let value = front.lines().find_map(|l| l.strip_prefix("license:"))?;
            Some(value.trim().trim_matches(['"', '\'']).to_string()).filter(|l| !l.is_empty())
        }
        #[cfg(feature = "gguf")]
        Source::Gguf(path) => {
            let content = super::gguf::content(&mut std::fs::File::open(path).ok()?).ok()?;
            content.metadata.get("general.license")?.to_string().ok().cloned()
        }
        #[cfg(not(feature = "gguf"))]
        Source::Gguf(_) => None,
    }
}

#[cfg(test)]
mod tests;
