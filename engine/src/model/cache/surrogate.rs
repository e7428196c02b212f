//! KVzap's surrogate (arXiv 2601.07891; `methods/kv_cache.md` E): per layer a linear map from the hidden state that the
//! attention reads to ln s+ of each head of keys, where s+ is how strongly the position is looked at when its text is
//! written again ([`super::oracle`]). `kvzap.json` beside a model's weights holds it.
//!
//! g(h)[head] = w[head] . h + w[head][D], h [D] the input of the attention, behind its norm, at the pass over clean tokens.

use serde::{Deserialize, Serialize};

use crate::config::ModelConfig;

/// Name of the file.
pub const KVZAP: &str = "kvzap.json";

/// What the queries of the oracle were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// a masked copy of the text behind it
    Repeat,
    /// the text's own continuation
    Continuation,
}

/// One layer of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Linear {
    /// [kv_heads, D + 1], the last column is the constant
    pub w: Vec<Vec<f32>>,
    /// explained variance on documents that were held out, all heads together
    pub r2: f64,
}

/// The file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Surrogate {
    pub target: Target,
    /// share of a masked copy's tokens that the model writes right
    pub repeat_accuracy: f64,
    /// tokens of a context
    pub context: usize,
    /// contexts that it was fitted to, and held out
    pub documents: [usize; 2],
    pub layers: Vec<Linear>,
}

impl Surrogate {
    /// Reads the file.
    ///
    /// # Errors
    /// Not such a file, or one for a model of another shape, in words.
    pub fn read(json: &[u8], c: &ModelConfig) -> Result<Surrogate, String> {
        let s: Surrogate = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        let fits = |l: &Linear| l.w.len() == c.kv_heads && l.w.iter().all(|w| w.len() == c.width + 1);
        if s.layers.len() != c.layers || !s.layers.iter().all(fits) {
            let (layers, heads, width) = (c.layers, c.kv_heads, c.width);
            return Err(format!("not for {layers} layers of {heads} key heads and width {width}"));
        }
        if s.layers.iter().flat_map(|l| &l.w).flatten().any(|w| !w.is_finite()) {
            return Err("a weight is no number".into());
        }
        Ok(s)
    }

    /// Scores [rows, kv_heads] of hidden states [rows, D] in layer `layer`.
    pub fn scores(&self, layer: usize, h: &[f32], width: usize) -> Vec<f32> {
        let heads = &self.layers[layer].w;
        h.chunks_exact(width)
            .flat_map(|h| {
                heads.iter().map(move |w| {
                    let dot: f64 = h.iter().zip(w).map(|(x, w)| *x as f64 * *w as f64).sum();
                    (dot + w[width] as f64) as f32
                })
            })
            .collect()
    }
}
