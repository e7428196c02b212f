//! Weights for the page: small numbers in pieces that a browser keeps one by one.
//!
//! ```text
//! config.json                          hilda.index names the next file, hilda.frequencies the last one
//! model.safetensors.index.json         {"metadata": {format, dtype, total_size, pieces: [{file, bytes, sha256}]}, "weight_map"}
//! model-00001-of-00007.safetensors     at most about 16 MiB each
//! frequencies.json                     how often each token occurs in a corpus ([`crate::data::frequencies`]), where that is known
//! ```
//!
//! A piece is a safetensors file of its own. A matrix larger than a piece is cut between rows: `X.rows0`, `X.rows7281`
//! and so on, named by their first row. Matrices are int8 rows or 4-bit blocks ([`super::quant`]); with blocks, the
//! embedding and the head stay at int8, as llama.cpp keeps them finer, and so do matrices whose rows are no multiple of
//! a block. Vectors are F32. [`Loader`] takes piece after piece, so a tab holds the float32 weights and one piece.

mod index;
mod loader;

use std::collections::BTreeMap;

use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::checkpoint::{self, CheckpointError, LoadedModel, serialize};
use super::family::{self, Part};
use super::layout::Named;
use super::quant::{self, BLOCK, BLOCK_BYTES};
use super::shards::INDEX;
use super::{Keep, Layout, Serving, Trunk};
use crate::config::ModelConfig;
use crate::data::FREQUENCIES;
use index::FORMAT;
pub use index::{Index, Metadata, Piece};
pub use loader::Loader;

/// Bytes of tensors in a piece, at most.
pub const PIECE: usize = 16 << 20;
/// Positions that the page computes at most, whatever the model's context.
pub const CONTEXT: usize = 1024;
/// Files of the largest model that the page opens.
pub const MOST_BYTES: u64 = 200_000_000;
/// Memory that a tab is asked for at most: half of what 32-bit WebAssembly can address.
pub const MOST_MEMORY: u64 = 2 << 30;

/// Number format of matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PageDtype {
    Int8,
    #[serde(rename = "q4_0")]
    Q4_0,
}

impl PageDtype {
    pub fn name(self) -> &'static str {
        match self {
            PageDtype::Int8 => "int8",
            PageDtype::Q4_0 => "q4_0",
        }
    }
    /// How this tensor is stored; `None` as F32.
    fn of(self, t: &Named) -> Option<PageDtype> {
        let blocks = self == PageDtype::Q4_0 && !matches!(t.part, Part::Embed | Part::Head);
        match t.shape.len() {
            2 if blocks && t.shape[1] % BLOCK == 0 => Some(PageDtype::Q4_0),
            2 => Some(PageDtype::Int8),
            _ => None,
        }
    }
}

/// Bytes of a row of this tensor, its scale included.
fn row_bytes(t: &Named, dtype: PageDtype) -> usize {
    let cols = t.shape.get(1).copied().unwrap_or(1);
    match dtype.of(t) {
        None => 4 * cols,
        Some(PageDtype::Int8) => cols + 4,
        Some(PageDtype::Q4_0) => cols / BLOCK * BLOCK_BYTES,
    }
}

/// Bytes of all tensors, without the headers of the pieces.
pub fn bytes(c: &ModelConfig, dtype: PageDtype) -> u64 {
    Layout::new(c).named(c).iter().map(|t| (t.shape[0] * row_bytes(t, dtype)) as u64).sum()
}

/// Positions of a session in the page.
pub fn context(c: &ModelConfig) -> usize {
    c.context.min(CONTEXT)
}

/// Memory of a model in the page: float32 weights, activations, keys and values, and a piece being read.
pub fn memory(c: &ModelConfig) -> u64 {
    let n = context(c);
    let trunk = Trunk::new(c.clone());
    let cache = 4 * c.layers * n * 2 * c.kv_heads * c.head_dim;
    let rows = 4 * n * (c.head_width() + hilda_kernels::head::STATS + 2 * hilda_kernels::head::MAX_TOP_K);
    (4 * trunk.layout.total + trunk.plan_bytes(n, Keep::Nothing) + cache + rows + 2 * PIECE) as u64
}

/// What a model is in the page.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fit {
    /// int8, or 4-bit blocks where int8 is too large
    pub dtype: PageDtype,
    /// of the files
    pub bytes: u64,
    pub memory: u64,
    pub fits: bool,
}

impl Fit {
    pub fn new(c: &ModelConfig) -> Fit {
        let small = |d: &PageDtype| bytes(c, *d) <= MOST_BYTES;
        let dtype = Some(PageDtype::Int8).filter(small).unwrap_or(PageDtype::Q4_0);
        let (bytes, memory) = (bytes(c, dtype), memory(c));
        Fit { dtype, bytes, memory, fits: bytes <= MOST_BYTES && memory <= MOST_MEMORY }
    }
}

impl std::fmt::Display for Fit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mb = |b: u64| b as f64 / 1e6;
        write!(
            f,
            "{:.0} MB of files ({}) and {:.0} MB of memory, where the page opens up to {:.0} MB and {:.0} MB",
            mb(self.bytes),
            self.dtype.name(),
            mb(self.memory),
            mb(MOST_BYTES),
            mb(MOST_MEMORY)
        )
    }
}

/// Rows of a tensor that go into one piece.
struct Slice {
    tensor: usize,
    first: usize,
    rows: usize,
}

/// Which rows go into which piece, in the order of the layout.
fn cut(tensors: &[Named], dtype: PageDtype, piece: usize) -> Vec<Vec<Slice>> {
    let (mut out, mut now, mut free) = (vec![], vec![], piece);
    for (tensor, t) in tensors.iter().enumerate() {
        let (row, rows) = (row_bytes(t, dtype).max(1), t.shape[0]);
        let mut first = 0;
        while first < rows {
            let fits = if row * rows <= piece && row * (rows - first) > free { 0 } else { free / row };
            if fits == 0 && !now.is_empty() {
                out.push(std::mem::take(&mut now));
                free = piece;
                continue;
            }
            // a row larger than a piece has one of its own; vectors stay whole
            let n = if t.shape.len() == 2 { fits.max(1).min(rows - first) } else { rows };
            now.push(Slice { tensor, first, rows: n });
            (first, free) = (first + n, free.saturating_sub(n * row));
        }
    }
    if !now.is_empty() {
        out.push(now);
    }
    out
}

/// Makes the pieces of a model one by one and hands each to `write(file, bytes)`; gives the index over them.
///
/// Errors: those of `write`.
pub fn pieces<E: From<CheckpointError>>(
    model: &LoadedModel,
    dtype: PageDtype,
    write: impl FnMut(&str, &[u8]) -> Result<(), E>,
) -> Result<Index, E> {
    pieces_of(model, dtype, PIECE, write)
}

fn pieces_of<E: From<CheckpointError>>(
    model: &LoadedModel,
    dtype: PageDtype,
    piece: usize,
    mut write: impl FnMut(&str, &[u8]) -> Result<(), E>,
) -> Result<Index, E> {
    let c = &model.config;
    let named = Layout::new(c).named(c);
    let cuts = cut(&named, dtype, piece);
    let offset = family::norm_offset(c.arch.family);
    let mut index = Index {
        metadata: Metadata { format: FORMAT.into(), dtype: Some(dtype), ..Default::default() },
        weight_map: BTreeMap::new(),
    };
    for (i, slices) in cuts.iter().enumerate() {
        let file = format!("model-{:05}-of-{:05}.safetensors", i + 1, cuts.len());
        let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = vec![];
        for s in slices {
            let t = &named[s.tensor];
            let cols: usize = t.shape[1..].iter().product();
            let values = &model.params[t.at.offset + s.first * cols..][..s.rows * cols];
            let name =
                if s.rows == t.shape[0] { t.name.clone() } else { format!("{}.rows{}", t.name, s.first) };
            let shape = [&[s.rows], &t.shape[1..]].concat();
            match dtype.of(t) {
                Some(PageDtype::Q4_0) => {
                    let shape = quant::q4_0_shape(&shape).unwrap_or_default();
                    tensors.push((name, Dtype::U8, shape, quant::to_q4_0(values)));
                }
                Some(PageDtype::Int8) => {
                    let (bytes, scales) = quant::to_int8(values, cols);
                    tensors.push((format!("{name}.scale"), Dtype::F32, vec![s.rows], scales));
                    tensors.push((name, Dtype::I8, shape, bytes));
                }
                None => {
                    let minus = if t.norm { offset } else { 0.0 };
                    let bytes = values.iter().flat_map(|x| (x - minus).to_le_bytes()).collect();
                    tensors.push((name, Dtype::F32, shape, bytes));
                }
            }
        }
        let bytes = serialize(&tensors)?;
        write(&file, &bytes)?;
        index.metadata.total_size += bytes.len() as u64;
        index.weight_map.extend(tensors.into_iter().map(|t| (t.0, file.clone())));
        let sha256 = Some(hex::encode(Sha256::digest(&bytes)));
        index.metadata.pieces.push(Piece { file, bytes: Some(bytes.len() as u64), sha256 });
    }
    Ok(index)
}

/// `config.json` of a folder in pieces; `frequencies` says that the folder tells how often each token occurs in a corpus.
pub fn config_json(c: &ModelConfig, serving: Serving, frequencies: bool) -> String {
    let mut v: serde_json::Value =
        serde_json::from_str(&checkpoint::config_json(c, serving)).expect("it was just written");
    v["hilda"]["index"] = INDEX.into();
    if frequencies {
        v["hilda"]["frequencies"] = FREQUENCIES.into();
    }
    serde_json::to_string_pretty(&v).expect("plain data")
}

/// The index that `config.json` names.
pub fn has_index(config: &str) -> bool {
    names(config, "index", INDEX)
}

/// Does `config.json` say that the model has [`FREQUENCIES`]? Whoever asks a site for the file would else see that most models
/// have none.
pub fn has_frequencies(config: &str) -> bool {
    names(config, "frequencies", FREQUENCIES)
}

/// `config.json` with that said.
///
/// Errors: no JSON object.
pub fn naming_frequencies(config: &str) -> Result<String, CheckpointError> {
    let bad = |m: String| CheckpointError::Format(m).of("config.json");
    let mut v: serde_json::Value = serde_json::from_str(config).map_err(|e| bad(e.to_string()))?;
    let object = v.as_object_mut().ok_or_else(|| bad("no object".into()))?;
    let hilda = object.entry("hilda").or_insert_with(|| serde_json::json!({}));
    let hilda = hilda.as_object_mut().ok_or_else(|| bad("hilda is no object".into()))?;
    hilda.insert("frequencies".into(), FREQUENCIES.into());
    Ok(serde_json::to_string_pretty(&v).expect("plain data"))
}

fn names(config: &str, key: &str, file: &str) -> bool {
    let v: Option<serde_json::Value> = serde_json::from_str(config).ok();
    v.is_some_and(|v| v["hilda"][key] == file)
}

#[cfg(test)]
mod tests;
