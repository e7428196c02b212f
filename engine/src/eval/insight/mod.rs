//! What keys and values say of a text, measured (`methods/kv_cache.md` H): whether a finished text is right (chain of
//! embedding), and whether a fast decoding of a prompt would do (the switch), both beside baselines that are free.
//!
//! A problem is written by two policies; its record holds what the first forward said, what came out and what it cost.
//! Everything fitted is judged on documents that it did not see.

pub mod coe;
pub mod fit;
pub mod infill;
pub mod logistic;
pub mod split;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::decode::Method;

/// First line of a file of problems.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    pub model: String,
    /// what was asked: infill or stories
    pub task: String,
    pub fast: Method,
    pub slow: Method,
    /// how it was made, for people
    pub note: String,
}

/// What a policy made of a problem.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// higher is better: 1 for right and 0 for wrong, or minus the judge's nats per token
    pub quality: f64,
    pub forwards: u32,
    pub positions: u64,
    /// of the finished text of the fast policy, higher = more likely right: features of the chain of embedding (absent where
    /// undefined) and a baseline
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub signs: BTreeMap<String, f64>,
}

/// One problem; the other lines of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// of the document: the beginning of its SHA-256, so that a document that occurs twice is one
    pub id: String,
    /// known tokens
    pub known: u32,
    /// tokens to be written
    pub open: u32,
    /// mean entropy of the first forward's masked rows, nats
    pub entropy: f64,
    pub fast: Outcome,
    pub slow: Outcome,
    /// mean keys and values by [`crate::decode::Feature`]
    pub embeddings: BTreeMap<String, Vec<f32>>,
}

/// Id of a document.
pub fn document_id(text: &str) -> String {
    use sha2::{Digest, Sha256};
    hex::encode(&Sha256::digest(text.trim())[..8])
}
