//! `model.safetensors.index.json`: which pieces a model has, with their sizes and sums.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::PageDtype;
use crate::model::checkpoint::CheckpointError;
use crate::model::shards::{INDEX, weight_map};

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
pub(super) const FORMAT: &str = "hilda-page";

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
