//! Published families: one file each maps `config.json` to a [`ModelConfig`] and parts of the trunk to tensor names
//! (tables: `methods/ar_conversion.md` appendix A, `methods/mdlm.md` 2.7).

mod dit;
mod gemma3;
mod llada;
mod llama;
mod qwen;

use serde_json::{Map, Value};

use super::checkpoint::CheckpointError;
use crate::config::{Family, ModelConfig};

pub use dit::Dit;

/// A tensor of the trunk, whatever its family calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Embed,
    /// before attention
    Norm1,
    Norm1Bias,
    Q,
    K,
    V,
    QBias,
    KBias,
    VBias,
    QNorm,
    KNorm,
    Out,
    OutBias,
    /// behind attention
    Post1,
    /// before the feed-forward part
    Norm2,
    Norm2Bias,
    Gate,
    Up,
    UpBias,
    Down,
    DownBias,
    /// behind the feed-forward part
    Post2,
    /// before the head
    Norm,
    NormBias,
    Head,
}

impl Part {
    /// Scales of a norm, which start at one.
    pub fn is_norm(self) -> bool {
        use Part::*;
        matches!(self, Norm1 | QNorm | KNorm | Post1 | Norm2 | Post2 | Norm)
    }
}

/// The tensor's name in a safetensors file of this family.
pub fn name(family: Family, layer: usize, part: Part) -> String {
    match family {
        Family::Llama | Family::Qwen2 | Family::Qwen3 | Family::Dream | Family::Dit => {
            llama::name(layer, part)
        }
        Family::Gemma3 => gemma3::name(layer, part),
        Family::Llada => llada::name(layer, part),
    }
}

/// What is added to norm scales when a file is read (and taken off when one is written): Gemma stores w of 1 + w.
pub fn norm_offset(family: Family) -> f32 {
    if family == Family::Gemma3 { 1.0 } else { 0.0 }
}

/// Reads a `config.json` object; mask and forbidden ids come from its `hilda` object, or from the family's own.
pub fn read(v: &Value) -> Result<ModelConfig, CheckpointError> {
    let kind = v["model_type"].as_str().unwrap_or("");
    let config = match kind {
        "llama" => llama::read(&Fields(v)),
        "qwen2" => qwen::read(&Fields(v), Family::Qwen2),
        "qwen3" => qwen::read(&Fields(v), Family::Qwen3),
        "Dream" => qwen::read(&Fields(v), Family::Dream),
        "gemma3_text" => gemma3::read(&Fields(v)),
        "llada" => llada::read(&Fields(v)),
        _ if dit::is_dit(v) => dit::read(&Fields(v)),
        _ => Err(CheckpointError::Config(format!(
            "model_type \"{kind}\" is not supported (llama, qwen2, qwen3, gemma3_text, llada, Dream, mdlm)"
        ))),
    }?;
    config.validate().map_err(|e| CheckpointError::Config(e.to_string()))?;
    Ok(config)
}

/// The family's own fields of `config.json`, beside those every family shares.
pub fn write(c: &ModelConfig, out: &mut Map<String, Value>) {
    match c.arch.family {
        Family::Llama => llama::write(c, out),
        Family::Qwen2 | Family::Qwen3 | Family::Dream => qwen::write(c, out),
        Family::Gemma3 => gemma3::write(c, out),
        Family::Llada => llada::write(c, out),
        Family::Dit => dit::write(c, out),
    }
}

/// Largest size of anything in a configuration.
pub(super) const MOST: u64 = 1 << 24;

/// Typed access to the fields of `config.json`.
struct Fields<'a>(&'a Value);

impl Fields<'_> {
    fn size(&self, key: &str) -> Result<usize, CheckpointError> {
        self.maybe(key)
            .ok_or_else(|| CheckpointError::Config(format!("{key} is missing or no plausible whole number")))
    }
    /// A size; absurd ones, whose products would overflow, count as none.
    fn maybe(&self, key: &str) -> Option<usize> {
        self.0[key].as_u64().filter(|x| *x <= MOST).map(|x| x as usize)
    }
    fn number(&self, key: &str) -> Option<f64> {
        self.0[key].as_f64()
    }
    fn flag(&self, key: &str) -> Option<bool> {
        self.0[key].as_bool()
    }
    /// The first id of a number or a list.
    fn id(&self, key: &str) -> Option<u32> {
        match &self.0[key] {
            Value::Array(a) => a.first().and_then(Value::as_u64),
            x => x.as_u64(),
        }
        // beyond every vocabulary, which the check of the whole configuration says
        .map(|x| u32::try_from(x).unwrap_or(u32::MAX))
    }
    /// `rope_theta`, wherever this version of the format keeps it.
    fn rope_theta(&self, or: f64) -> f32 {
        let nested = self.0["rope_parameters"]["rope_theta"].as_f64();
        nested.or(self.number("rope_theta")).unwrap_or(or) as f32
    }
    /// Fails unless the field is absent or has this value.
    fn only(&self, key: &str, want: Value) -> Result<(), CheckpointError> {
        match &self.0[key] {
            Value::Null => Ok(()),
            got if *got == want => Ok(()),
            got => Err(CheckpointError::Config(format!("{key} = {got} is not supported (only {want})"))),
        }
    }
    /// The fields that all families of the Llama kind share.
    fn shared(&self) -> Result<ModelConfig, CheckpointError> {
        if !self.0["rope_scaling"].is_null() {
            return Err(CheckpointError::Config("rope_scaling is not supported".into()));
        }
        let (width, heads) = (self.size("hidden_size")?, self.size("num_attention_heads")?);
        Ok(ModelConfig {
            vocab: self.size("vocab_size")?,
            width,
            layers: self.size("num_hidden_layers")?,
            heads,
            kv_heads: self.maybe("num_key_value_heads").unwrap_or(heads),
            head_dim: self.maybe("head_dim").unwrap_or(width / heads.max(1)),
            mlp: self.size("intermediate_size")?,
            context: self.size("max_position_embeddings")?,
            rope_theta: self.rope_theta(10000.0),
            norm_eps: self.number("rms_norm_eps").unwrap_or(1e-6) as f32,
            mask_id: self.id("mask_token_id").unwrap_or(0),
            eos_id: self.id("eos_token_id").unwrap_or(0),
            forbid: vec![],
            arch: Default::default(),
        })
    }
}
