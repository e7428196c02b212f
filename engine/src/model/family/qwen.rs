//! Qwen 2 and 2.5 (biases of query, key and value), Qwen 3 (norms of query and key heads, no biases), and Dream-7B,
//! which is a Qwen 2.5 with a mask token.

use serde_json::{Map, Value, json};

use super::{CheckpointError, Fields};
use crate::config::{Arch, Family, ModelConfig};

/// Mask tokens that published models use, and that no tokenizer of the family writes.
const QWEN2_MASK: u32 = 151_665;
const QWEN3_MASK: u32 = 151_669;
const DREAM_MASK: u32 = 151_666;

pub(super) fn read(f: &Fields, family: Family) -> Result<ModelConfig, CheckpointError> {
    f.only("hidden_act", json!("silu"))?;
    f.only("use_sliding_window", json!(false))?;
    if family == Family::Qwen3 {
        f.only("attention_bias", json!(false))?;
    }
    let three = family == Family::Qwen3;
    let arch = Arch {
        family,
        qkv_bias: !three,
        qk_norm: three,
        tied: f.flag("tie_word_embeddings").unwrap_or(false),
        ..Arch::default()
    };
    let mut c = ModelConfig { arch, ..f.shared()? };
    let mask = match family {
        Family::Qwen3 => QWEN3_MASK,
        Family::Dream => DREAM_MASK,
        _ => QWEN2_MASK,
    };
    if f.id("mask_token_id").is_none() && (mask as usize) < c.vocab {
        c.mask_id = mask;
    }
    Ok(c)
}

pub(super) fn write(c: &ModelConfig, out: &mut Map<String, Value>) {
    let (architecture, kind) = match c.arch.family {
        Family::Qwen3 => ("Qwen3ForCausalLM", "qwen3"),
        Family::Dream => ("DreamModel", "Dream"),
        _ => ("Qwen2ForCausalLM", "qwen2"),
    };
    out.insert("architectures".into(), json!([architecture]));
    out.insert("model_type".into(), json!(kind));
    out.insert("hidden_act".into(), json!("silu"));
    out.insert("use_sliding_window".into(), json!(false));
    if c.arch.family == Family::Qwen3 {
        out.insert("attention_bias".into(), json!(false));
    }
    if c.arch.family == Family::Dream {
        out.insert("mask_token_id".into(), json!(c.mask_id));
    }
}
