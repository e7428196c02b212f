//! Shape of the HILDA backbone: pre-norm RMS, grouped-query attention with rotary positions, SwiGLU, tied head,
//! no biases, no time input. On disk it is a Llama `config.json` plus a `hilda` object.

use serde::{Deserialize, Serialize};

use super::run::ConfigError;

/// What a recipe says about the model: one dial (`size`) and optional overrides.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// the dial: "2m", "9m", "14m", "30m", "60m" (parameters with a vocabulary of 4096, about)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_heads: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlp: Option<usize>,
    /// longest sequence the model is made for, tokens
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f32>,
    /// start from this checkpoint folder instead of random weights
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// A resolved shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    pub vocab: usize,
    pub width: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub mlp: usize,
    pub context: usize,
    pub rope_theta: f32,
    pub norm_eps: f32,
    /// id of the mask token
    pub mask_id: u32,
    /// id that ends a document
    pub eos_id: u32,
    /// ids removed from every softmax: the mask and unused specials
    pub forbid: Vec<u32>,
}

impl ModelSpec {
    /// Derives every size from the dial, then applies the overrides. `vocab` comes from the tokenizer.
    pub fn resolve(
        &self,
        vocab: usize,
        mask_id: u32,
        eos_id: u32,
        forbid: Vec<u32>,
    ) -> Result<ModelConfig, ConfigError> {
        let (width, layers, mlp) = match self.size.as_deref() {
            None => (256, 8, 1024),
            Some("tiny") => (64, 2, 128),
            Some("2m") => (128, 6, 512),
            Some("9m") => (256, 8, 1024),
            Some("14m") => (384, 6, 1024),
            Some("30m") => (512, 8, 1536),
            Some("60m") => (640, 12, 1792),
            Some(other) => {
                return Err(ConfigError::field(
                    "model.size",
                    format!("unknown size \"{other}\"; sizes are tiny, 2m, 9m, 14m, 30m, 60m"),
                ));
            }
        };
        let width = self.width.unwrap_or(width);
        let heads = self.heads.unwrap_or((width / 64).max(1));
        let config = ModelConfig {
            vocab,
            width,
            layers: self.layers.unwrap_or(layers),
            heads,
            kv_heads: self.kv_heads.unwrap_or(heads),
            head_dim: width.checked_div(heads).unwrap_or(0),
            mlp: self.mlp.unwrap_or(if self.width.is_some() { 4 * width } else { mlp }),
            context: self.context.unwrap_or(256),
            rope_theta: self.rope_theta.unwrap_or(10000.0),
            norm_eps: 1e-5,
            mask_id,
            eos_id,
            forbid,
        };
        config.validate()?;
        Ok(config)
    }
}

impl ModelConfig {
    /// Every impossible shape, by field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let bad = |f: &str, m: String| Err(ConfigError::field(&format!("model.{f}"), m));
        if !(8..=16384).contains(&self.width) {
            return bad("width", format!("{} is outside 8..16384", self.width));
        }
        if !(1..=256).contains(&self.layers) {
            return bad("layers", format!("{} is outside 1..256", self.layers));
        }
        if self.heads == 0 || self.width % self.heads != 0 || self.head_dim % 2 != 0 {
            return bad(
                "heads",
                format!("width {} must split into {} heads of even size", self.width, self.heads),
            );
        }
        if self.kv_heads == 0 || self.heads % self.kv_heads != 0 {
            return bad("kv_heads", format!("{} must divide heads = {}", self.kv_heads, self.heads));
        }
        if !(8..=65536).contains(&self.mlp) {
            return bad("mlp", format!("{} is outside 8..65536", self.mlp));
        }
        if !(2..=65536).contains(&self.context) {
            return bad("context", format!("{} is outside 2..65536", self.context));
        }
        if !(2..=1_000_000).contains(&self.vocab) {
            return bad("vocab", format!("{} is outside 2..1000000", self.vocab));
        }
        if self.mask_id as usize >= self.vocab || self.eos_id as usize >= self.vocab {
            return bad(
                "vocab",
                format!("mask {} or eos {} outside {}", self.mask_id, self.eos_id, self.vocab),
            );
        }
        Ok(())
    }
    /// Columns of the fused query, key and value projection.
    pub fn qkv(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }
    /// Trainable numbers, the tied embedding counted once.
    pub fn parameters(&self) -> usize {
        let layer = self.qkv() * self.width
            + self.heads * self.head_dim * self.width
            + 3 * self.mlp * self.width
            + 2 * self.width;
        self.vocab * self.width + self.layers * layer + self.width
    }
}
