//! Weights for the page: small numbers in pieces that a browser keeps one by one.
//!
//! ```text
//! config.json                          hilda.index names the next file
//! model.safetensors.index.json         {"metadata": {format, dtype, total_size, pieces: [{file, bytes, sha256}]}, "weight_map"}
//! model-00001-of-00007.safetensors     at most about 16 MiB each
//! ```
//!
//! A piece is a safetensors file of its own. A matrix larger than a piece is cut between rows: `X.rows0`, `X.rows7281`
//! and so on, named by their first row. Matrices are int8 rows or 4-bit blocks ([`super::quant`]); with blocks, the
//! embedding and the head stay at int8, as llama.cpp keeps them finer, and so do matrices whose rows are no multiple of
//! a block. Vectors are F32. [`Loader`] takes piece after piece, so a tab holds the float32 weights and one piece.

use std::collections::{BTreeMap, HashMap};

use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::checkpoint::{self, CheckpointError, LoadedModel, parse_config, read_tensor, serialize};
use super::family::{self, Part};
use super::layout::Named;
use super::quant::{self, BLOCK, BLOCK_BYTES};
use super::shards::{INDEX, weight_map};
use super::{Keep, Layout, Serving, Trunk};
use crate::config::ModelConfig;

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

/// A file of weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    pub file: String,
    pub bytes: Option<u64>,
    /// hexadecimal; absent in folders that were not written for the page
    pub sha256: Option<String>,
}

/// `model.safetensors.index.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Index {
    pub metadata: Metadata,
    pub weight_map: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    #[serde(default)]
    pub format: String,
    #[serde(default)]
    pub dtype: Option<PageDtype>,
    #[serde(default)]
    pub total_size: u64,
    #[serde(default)]
    pub pieces: Vec<Piece>,
}

/// What [`Metadata::format`] says.
const FORMAT: &str = "hilda-page";

impl Index {
    /// Reads the file. An index that was not written for the page lists its files without sizes and sums.
    ///
    /// Errors: no such file, names that leave the folder, sums that are none.
    pub fn parse(json: &[u8]) -> Result<Index, CheckpointError> {
        let bad = |m: String| CheckpointError::Format(m).of(INDEX);
        let weight_map = weight_map(json)?;
        let value: serde_json::Value = serde_json::from_slice(json).map_err(|e| bad(e.to_string()))?;
        let mut metadata = match value["metadata"]["format"] == FORMAT {
            true => serde_json::from_value(value["metadata"].clone()).map_err(|e| bad(e.to_string()))?,
            false => Metadata::default(),
        };
        if metadata.pieces.is_empty() {
            let files: std::collections::BTreeSet<&String> = weight_map.values().collect();
            let piece = |file: &String| Piece { file: file.clone(), bytes: None, sha256: None };
            metadata.pieces = files.into_iter().map(piece).collect();
        }
        let listed: std::collections::BTreeSet<&str> =
            metadata.pieces.iter().map(|p| p.file.as_str()).collect();
        if let Some(other) = weight_map.values().find(|f| !listed.contains(f.as_str())) {
            return Err(bad(format!("{other} is not among its pieces")));
        }
        if listed.len() != metadata.pieces.len()
            || listed.iter().any(|f| !weight_map.values().any(|v| v == f))
        {
            return Err(bad("its pieces are not the files of its tensors".into()));
        }
        for p in &metadata.pieces {
            let hex = |s: &String| s.len() == 64 && s.bytes().all(|b| b.is_ascii_hexdigit());
            if p.sha256.as_ref().is_some_and(|s| !hex(s)) {
                return Err(bad(format!("the sum of {} is no SHA-256", p.file)));
            }
        }
        Ok(Index { metadata, weight_map })
    }

    /// Bytes of all pieces, where every one is known.
    pub fn total(&self) -> Option<u64> {
        self.metadata.pieces.iter().try_fold(0u64, |sum, p| sum.checked_add(p.bytes?))
    }

    /// One name for all weights: the SHA-256 of the pieces' sums, one a line. `None` where a piece has none.
    pub fn digest(&self) -> Option<String> {
        let mut hash = Sha256::new();
        for p in &self.metadata.pieces {
            hash.update(p.sha256.as_ref()?.to_ascii_lowercase());
            hash.update("\n");
        }
        Some(hex::encode(hash.finalize()))
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

/// `config.json` of a folder in pieces.
pub fn config_json(c: &ModelConfig, serving: Serving) -> String {
    let mut v: serde_json::Value =
        serde_json::from_str(&checkpoint::config_json(c, serving)).expect("it was just written");
    v["hilda"]["index"] = INDEX.into();
    serde_json::to_string_pretty(&v).expect("plain data")
}

/// The index that `config.json` names.
pub fn has_index(config: &str) -> bool {
    let v: Option<serde_json::Value> = serde_json::from_str(config).ok();
    v.is_some_and(|v| v["hilda"]["index"] == INDEX)
}

/// Takes a model's weights file by file.
pub struct Loader {
    config: ModelConfig,
    serving: Serving,
    params: Vec<f32>,
    /// tensor by name, and how many of its rows have come
    tensors: HashMap<String, (Named, usize)>,
}

impl Loader {
    /// `bytes` is what all files together have, as far as it is known: a configuration may ask for more than they can
    /// hold, and more than there is memory.
    pub fn new(config: &str, bytes: Option<u64>) -> Result<Loader, CheckpointError> {
        let (config, serving) = parse_config(config)?;
        let layout = Layout::new(&config);
        if let Some(has) = bytes {
            checkpoint::can_hold(has as usize, layout.total)?;
        }
        let tensors = layout.named(&config).into_iter().map(|t| (t.name.clone(), (t, 0))).collect();
        Ok(Loader { params: vec![0f32; layout.total], config, serving, tensors })
    }

    /// The next file.
    ///
    /// Errors: no safetensors, tensors of another shape or type, rows that come twice or out of order. Tensors that the
    /// configuration does not know are passed over.
    pub fn add(&mut self, piece: &[u8]) -> Result<(), CheckpointError> {
        let file = checkpoint::tensors(piece)?;
        let rows_of = |name: &str| name.rsplit_once(".rows").and_then(|(_, n)| n.parse::<usize>().ok());
        let mut names: Vec<&str> = file.names();
        // parts of one matrix in the order of their rows
        names.sort_by_key(|n| (rows_of(n).unwrap_or(0), *n));
        for name in names {
            let whole = self.tensors.contains_key(name);
            let (base, first) = match (whole, rows_of(name), name.rsplit_once(".rows")) {
                (false, Some(first), Some((base, _))) => (base, first),
                _ => (name, 0),
            };
            let Some((t, come)) = self.tensors.get_mut(base) else { continue };
            let shape =
                file.tensor(name).map_err(|e| CheckpointError::Format(e.to_string()))?.shape().to_vec();
            let rows = if whole { t.shape[0] } else { shape.first().copied().unwrap_or(0) };
            let left = t.shape[0] - *come;
            if first != *come || rows == 0 || rows > left {
                let message =
                    format!("{name}: {rows} rows from {first} on, where {come} of {} have come", t.shape[0]);
                return Err(CheckpointError::Format(message));
            }
            let cols: usize = t.shape[1..].iter().product();
            let out = &mut self.params[t.at.offset + first * cols..][..rows * cols];
            read_tensor(&file, name, &[&[rows], &t.shape[1..]].concat(), out)?;
            let offset = if t.norm { family::norm_offset(self.config.arch.family) } else { 0.0 };
            if offset != 0.0 {
                out.iter_mut().for_each(|w| *w += offset);
            }
            *come += rows;
        }
        Ok(())
    }

    /// The model, once every file was added.
    ///
    /// Errors: a tensor that did not come, or not whole.
    pub fn finish(self) -> Result<LoadedModel, CheckpointError> {
        let missing = self.tensors.values().filter(|(t, come)| *come < t.shape[0]);
        if let Some((t, _)) = missing.min_by_key(|(t, _)| t.at.offset) {
            return Err(CheckpointError::Missing { name: t.name.clone() });
        }
        Ok(LoadedModel { config: self.config, serving: self.serving, params: self.params })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::Attention;
    use crate::model::shards::Shards;

    fn model(kind: &str) -> LoadedModel {
        let json = format!(
            r#"{{"model_type":"{kind}","vocab_size":300,"hidden_size":64,"num_attention_heads":2,"num_key_value_heads":1,
            "intermediate_size":80,"num_hidden_layers":2,"max_position_embeddings":32}}"#
        );
        let (config, mut serving) = parse_config(&json).unwrap();
        serving.attention = Attention::Bidirectional;
        let params = Layout::new(&config).init(&config, 3);
        LoadedModel { config, serving, params }
    }

    fn written(m: &LoadedModel, dtype: PageDtype, piece: usize) -> (Index, Vec<(String, Vec<u8>)>) {
        let mut files = vec![];
        let write = |name: &str, bytes: &[u8]| {
            files.push((name.to_string(), bytes.to_vec()));
            Ok::<(), CheckpointError>(())
        };
        let index = pieces_of(m, dtype, piece, write).unwrap();
        (index, files)
    }

    #[test]
    fn pieces_come_back_by_loader_and_by_index() {
        for kind in ["llama", "qwen3", "gemma3_text"] {
            let m = model(kind);
            let config = config_json(&m.config, m.serving);
            assert!(has_index(&config) && !has_index(&checkpoint::config_json(&m.config, m.serving)));
            for (dtype, most) in [(PageDtype::Int8, 5e-4), (PageDtype::Q4_0, 1.2e-2)] {
                let (index, files) = written(&m, dtype, 7000);
                assert!(files.len() > 3 && files.iter().all(|f| f.1.len() < 7000 + 4096), "{kind}");
                assert!(index.weight_map.keys().any(|k| k.contains(".rows")), "the embedding is cut");
                let json = serde_json::to_vec(&index).unwrap();
                let read = Index::parse(&json).unwrap();
                assert_eq!(read, index);
                assert_eq!(read.total(), Some(files.iter().map(|f| f.1.len() as u64).sum()));
                assert_eq!(read.total(), Some(index.metadata.total_size));
                for (p, (_, bytes)) in read.metadata.pieces.iter().zip(&files) {
                    assert_eq!(p.sha256, Some(hex::encode(Sha256::digest(bytes))));
                }
                assert!(bytes(&m.config, dtype) <= read.total().unwrap());
                let mut loader = Loader::new(&config, read.total()).unwrap();
                files.iter().for_each(|(_, bytes)| loader.add(bytes).unwrap());
                let loaded = loader.finish().unwrap();
                assert_eq!((&loaded.config, loaded.serving), (&m.config, m.serving));
                let worst =
                    loaded.params.iter().zip(&m.params).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst > 0.0 && worst <= most, "{kind} {dtype:?}: {worst}");
                // the same numbers for whoever reads the folder by its index
                let contents: Vec<(String, &[u8])> =
                    files.iter().map(|(n, b)| (n.clone(), b.as_slice())).collect();
                let (shards, faults) = Shards::many(&weight_map(&json).unwrap(), &contents).unwrap();
                assert_eq!(faults, []);
                assert_eq!(checkpoint::read_params(&m.config, &shards).unwrap(), loaded.params);
            }
        }
    }

    #[test]
    fn blocks_spare_the_embedding_and_odd_rows() {
        let m = model("llama");
        let (index, files) = written(&m, PageDtype::Q4_0, PIECE);
        assert_eq!(files.len(), 1);
        let file = checkpoint::tensors(&files[0].1).unwrap();
        let dtype = |name: &str| file.tensor(name).unwrap().dtype();
        assert_eq!(dtype("model.embed_tokens.weight"), Dtype::I8);
        assert_eq!(dtype("model.layers.0.self_attn.q_proj.weight"), Dtype::U8);
        // rows of 80 are two and a half blocks
        assert_eq!(dtype("model.layers.0.mlp.down_proj.weight"), Dtype::I8);
        assert_eq!(dtype("model.norm.weight"), Dtype::F32);
        assert_eq!(index.metadata.pieces.len(), 1);
    }

    #[test]
    fn what_does_not_come_or_comes_twice_is_named() {
        let m = model("llama");
        let config = config_json(&m.config, m.serving);
        let (index, files) = written(&m, PageDtype::Int8, 7000);
        let mut loader = Loader::new(&config, index.total()).unwrap();
        loader.add(&files[0].1).unwrap();
        let e = loader.add(&files[0].1).unwrap_err().to_string();
        assert!(e.contains("have come"), "{e}");
        let mut loader = Loader::new(&config, None).unwrap();
        let e = loader.add(&files[1].1).unwrap_err().to_string();
        assert!(e.contains("0 of 300 have come"), "{e}");
        let mut loader = Loader::new(&config, None).unwrap();
        files[..files.len() - 1].iter().for_each(|f| loader.add(&f.1).unwrap());
        assert!(matches!(loader.finish(), Err(CheckpointError::Missing { .. })));
        assert!(Loader::new(&config, Some(100)).is_err_and(|e| e.to_string().contains("cannot hold")));
    }

    #[test]
    fn an_index_holds_together_or_is_refused() {
        let (index, _) = written(&model("llama"), PageDtype::Int8, 7000);
        let refused = |change: &dyn Fn(&mut Index), word: &str| {
            let mut other = index.clone();
            change(&mut other);
            let e = Index::parse(&serde_json::to_vec(&other).unwrap()).unwrap_err().to_string();
            assert!(e.contains(word), "{e}");
        };
        refused(&|i| i.metadata.pieces[0].sha256 = Some("12".into()), "no SHA-256");
        refused(&|i| drop(i.metadata.pieces.remove(0)), "not among");
        refused(&|i| i.metadata.pieces.push(i.metadata.pieces[0].clone()), "not the files");
        let plain = br#"{"weight_map":{"a":"x.safetensors","b":"x.safetensors"}}"#;
        let plain = Index::parse(plain).unwrap();
        assert_eq!((plain.metadata.pieces.len(), plain.total(), plain.digest()), (1, None, None));
        assert_eq!(index.digest().unwrap().len(), 64);
    }

    #[test]
    fn what_is_too_large_says_so_in_numbers() {
        let small = Fit::new(&model("llama").config);
        assert!(small.fits && small.dtype == PageDtype::Int8);
        let sized = |layers: usize| ModelConfig {
            layers,
            width: 1024,
            heads: 16,
            head_dim: 64,
            kv_heads: 16,
            mlp: 4096,
            ..model("llama").config
        };
        let middle = Fit::new(&sized(16));
        assert!(middle.fits && middle.dtype == PageDtype::Q4_0, "{middle}");
        let large = Fit::new(&sized(60));
        assert!(
            !large.fits && large.to_string().contains("where the page opens up to 200 MB and 2147 MB"),
            "{large}"
        );
    }
}
