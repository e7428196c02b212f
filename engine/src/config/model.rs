//! Shape of a model. HILDA's own backbone is pre-norm RMS, grouped-query attention with rotary positions, SwiGLU, tied
//! head, no biases, no time input: a Llama. What published families do differently is in [`Arch`].

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
    /// start from this model (folder, GGUF file or run) instead of random weights; without sizes of its own the recipe
    /// takes the shape of that model
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
    #[serde(default)]
    pub arch: Arch,
}

/// Published families the one trunk can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// HILDA's own backbone; SmolLM2
    #[default]
    Llama,
    Qwen2,
    Qwen3,
    Gemma3,
    /// LLaDA-8B: a Llama under OLMo's names
    Llada,
    /// Dream-7B: a Qwen2 with a mask token
    Dream,
    /// MDLM and BD3-LM: layer norm, GELU, adaptive modulation folded into the weights
    Dit,
}

/// The feed-forward part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mlp {
    #[default]
    SwiGlu,
    GeGlu,
    /// up, GELU, down: no gate
    Gelu,
}

/// Layers that see a window only, with a rotary base of their own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sliding {
    /// |i - j| < window
    pub window: u32,
    pub rope_theta: f32,
    /// which layers slide
    pub layers: Vec<bool>,
}

/// What a family does differently from the HILDA backbone (the default).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Arch {
    pub family: Family,
    /// layer norm with bias instead of RMS norm
    pub layer_norm: bool,
    pub mlp: Mlp,
    pub qkv_bias: bool,
    /// biases of the output projection and of the feed-forward part
    pub linear_bias: bool,
    /// RMS norm of each query and key head before the rotation
    pub qk_norm: bool,
    /// norms behind attention and feed-forward part too
    pub sandwich: bool,
    /// the head is the embedding
    pub tied: bool,
    pub head_bias: bool,
    pub embed_scale: f32,
    /// 1 / sqrt(head_dim) unless given
    pub attention_scale: Option<f32>,
    pub sliding: Option<Sliding>,
}

impl Default for Arch {
    fn default() -> Arch {
        Arch {
            family: Family::Llama,
            layer_norm: false,
            mlp: Mlp::SwiGlu,
            qkv_bias: false,
            linear_bias: false,
            qk_norm: false,
            sandwich: false,
            tied: true,
            head_bias: false,
            embed_scale: 1.0,
            attention_scale: None,
            sliding: None,
        }
    }
}

impl ModelSpec {
    /// Does the recipe say anything about the shape itself?
    pub fn shaped(&self) -> bool {
        let sizes = [self.width, self.layers, self.heads, self.kv_heads, self.mlp];
        self.size.is_some() || self.rope_theta.is_some() || sizes.iter().any(Option::is_some)
    }

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
        if heads == 0 || width % heads != 0 {
            let message = format!("width {width} must split into {heads} heads of even size");
            return Err(ConfigError::field("model.heads", message));
        }
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
            arch: Arch::default(),
        };
        config.validate()?;
        Ok(config)
    }
}

impl ModelConfig {
    /// Is a tokenizer of `tokens` ids the model's? Rows without a token are forbidden ones, unless nothing is forbidden:
    /// then the model is as it was published.
    pub fn takes_tokenizer(&self, tokens: usize) -> bool {
        let unused =
            || self.forbid.is_empty() || (tokens..self.vocab).all(|id| self.forbid.contains(&(id as u32)));
        tokens == self.vocab || (tokens < self.vocab && unused())
    }
    /// Takes mask, end of text and forbidden ids from a tokenizer; rows without a token are forbidden too.
    pub fn take_roles(&mut self, tokenizer: &crate::data::Tokenizer) {
        let s = tokenizer.specials();
        (self.mask_id, self.eos_id) = (s.mask, s.eos);
        self.forbid = tokenizer.forbid();
        self.forbid.extend(tokenizer.vocab() as u32..self.vocab as u32);
    }
    /// Every impossible shape, by field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let bad = |f: &str, m: String| Err(ConfigError::field(&format!("model.{f}"), m));
        if !(8..=16384).contains(&self.width) {
            return bad("width", format!("{} is outside 8..16384", self.width));
        }
        if !(1..=256).contains(&self.layers) {
            return bad("layers", format!("{} is outside 1..256", self.layers));
        }
        if self.heads == 0 || self.head_dim == 0 || self.head_dim % 2 != 0 {
            return bad(
                "heads",
                format!("width {} must split into {} heads of even size", self.width, self.heads),
            );
        }
        if self.heads > 1024 || self.head_dim > 1024 {
            return bad("heads", format!("{} heads of {} are too many", self.heads, self.head_dim));
        }
        if self.kv_heads == 0 || self.heads % self.kv_heads != 0 {
            return bad("kv_heads", format!("{} must divide heads = {}", self.kv_heads, self.heads));
        }
        if !(8..=65536).contains(&self.mlp) {
            return bad("mlp", format!("{} is outside 8..65536", self.mlp));
        }
        let a = &self.arch;
        let finite =
            [self.norm_eps, a.embed_scale, a.attention_scale.unwrap_or(1.0)].iter().all(|x| x.is_finite());
        if !(finite && self.rope_theta.is_finite() && self.rope_theta > 0.0) {
            return bad(
                "rope_theta",
                "rotary base, epsilon and scales must be finite, the base above 0".into(),
            );
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
    /// Columns of a row the head reads: with a bias, the width and four more (1, 0, 0, 0), which the bias multiplies.
    pub fn head_width(&self) -> usize {
        self.width + if self.arch.head_bias { 4 } else { 0 }
    }
    /// Columns of the feed-forward part's first projection.
    pub fn mlp_in(&self) -> usize {
        if self.arch.mlp == Mlp::Gelu { self.mlp } else { 2 * self.mlp }
    }
    /// Factor of the attention scores.
    pub fn attention_scale(&self) -> f32 {
        self.arch.attention_scale.unwrap_or(1.0 / (self.head_dim as f32).sqrt())
    }
    /// Columns of the fused query, key and value projection.
    pub fn qkv(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }
    /// Trainable numbers, a tied embedding counted once.
    pub fn parameters(&self) -> usize {
        let (a, d) = (&self.arch, self.width);
        let norm = if a.layer_norm { 2 * d } else { d };
        let on = |flag: bool, n: usize| if flag { n } else { 0 };
        let layer = self.qkv() * d
            + self.heads * self.head_dim * d
            + (self.mlp_in() + self.mlp) * d
            + 2 * norm
            + on(a.sandwich, 2 * norm)
            + on(a.qkv_bias, self.qkv())
            + on(a.qk_norm, 2 * self.head_dim)
            + on(a.linear_bias, 2 * d + self.mlp_in());
        let head = on(!a.tied, self.vocab * d) + on(a.head_bias, self.vocab);
        self.vocab * d + self.layers * layer + norm + head
    }
}
