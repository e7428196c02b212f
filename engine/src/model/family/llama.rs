//! Llama: HILDA's own backbone, SmolLM2.

use serde_json::{Map, Value, json};

use super::{CheckpointError, Fields, Part};
use crate::config::{Arch, ModelConfig};

pub(super) fn name(layer: usize, part: Part) -> String {
    let inner = match part {
        Part::Embed => return "model.embed_tokens.weight".into(),
        Part::Norm => return "model.norm.weight".into(),
        Part::NormBias => return "model.norm.bias".into(),
        Part::Head => return "lm_head.weight".into(),
        Part::Norm1 => "input_layernorm.weight",
        Part::Norm1Bias => "input_layernorm.bias",
        Part::Q => "self_attn.q_proj.weight",
        Part::K => "self_attn.k_proj.weight",
        Part::V => "self_attn.v_proj.weight",
        Part::QBias => "self_attn.q_proj.bias",
        Part::KBias => "self_attn.k_proj.bias",
        Part::VBias => "self_attn.v_proj.bias",
        Part::QNorm => "self_attn.q_norm.weight",
        Part::KNorm => "self_attn.k_norm.weight",
        Part::Out => "self_attn.o_proj.weight",
        Part::OutBias => "self_attn.o_proj.bias",
        Part::Norm2 => "post_attention_layernorm.weight",
        Part::Norm2Bias => "post_attention_layernorm.bias",
        Part::Gate => "mlp.gate_proj.weight",
        Part::Up => "mlp.up_proj.weight",
        Part::UpBias => "mlp.up_proj.bias",
        Part::Down => "mlp.down_proj.weight",
        Part::DownBias => "mlp.down_proj.bias",
        Part::Post1 => "post_self_attn_layernorm.weight",
        Part::Post2 => "post_mlp_layernorm.weight",
    };
    format!("model.layers.{layer}.{inner}")
}

pub(super) fn read(f: &Fields) -> Result<ModelConfig, CheckpointError> {
    f.only("attention_bias", json!(false))?;
    f.only("mlp_bias", json!(false))?;
    f.only("hidden_act", json!("silu"))?;
    let norm_eps = f.number("rms_norm_eps").unwrap_or(1e-5) as f32;
    let arch = Arch { tied: f.flag("tie_word_embeddings").unwrap_or(true), ..Arch::default() };
    Ok(ModelConfig { norm_eps, arch, ..f.shared()? })
}

pub(super) fn write(_: &ModelConfig, out: &mut Map<String, Value>) {
    out.insert("architectures".into(), json!(["LlamaForCausalLM"]));
    out.insert("model_type".into(), json!("llama"));
    out.insert("hidden_act".into(), json!("silu"));
    out.insert("attention_bias".into(), json!(false));
    out.insert("mlp_bias".into(), json!(false));
}
