//! LLaDA-8B: a Llama with an untied head, full attention, and OLMo's names.

use serde_json::{Map, Value, json};

use super::{CheckpointError, Fields, Part, llama};
use crate::config::{Arch, Family, ModelConfig};

const MASK: u32 = 126_336;

pub(super) fn name(layer: usize, part: Part) -> String {
    let inner = match part {
        Part::Embed => return "model.transformer.wte.weight".into(),
        Part::Norm => return "model.transformer.ln_f.weight".into(),
        Part::Head => return "model.transformer.ff_out.weight".into(),
        Part::Norm1 => "attn_norm",
        Part::Q => "q_proj",
        Part::K => "k_proj",
        Part::V => "v_proj",
        Part::Out => "attn_out",
        Part::Norm2 => "ff_norm",
        Part::Gate => "ff_proj",
        Part::Up => "up_proj",
        Part::Down => "ff_out",
        other => return llama::name(layer, other),
    };
    format!("model.transformer.blocks.{layer}.{inner}.weight")
}

pub(super) fn read(f: &Fields) -> Result<ModelConfig, CheckpointError> {
    f.only("include_bias", json!(false))?;
    f.only("include_qkv_bias", json!(false))?;
    f.only("block_type", json!("llama"))?;
    let (width, heads) = (f.size("d_model")?, f.size("n_heads")?);
    Ok(ModelConfig {
        vocab: f.maybe("embedding_size").unwrap_or(f.size("vocab_size")?),
        width,
        layers: f.size("n_layers")?,
        heads,
        kv_heads: f.maybe("n_kv_heads").unwrap_or(heads),
        head_dim: width / heads.max(1),
        mlp: f.size("mlp_hidden_size")?,
        context: f.size("max_sequence_length")?,
        rope_theta: f.rope_theta(500_000.0),
        norm_eps: f.number("rms_norm_eps").unwrap_or(1e-5) as f32,
        mask_id: f.id("mask_token_id").unwrap_or(MASK),
        eos_id: f.id("eos_token_id").unwrap_or(0),
        forbid: vec![],
        arch: Arch {
            family: Family::Llada,
            tied: f.flag("weight_tying").unwrap_or(false),
            ..Arch::default()
        },
    })
}

pub(super) fn write(c: &ModelConfig, out: &mut Map<String, Value>) {
    let fields = [
        ("architectures", json!(["LLaDAModelLM"])),
        ("model_type", json!("llada")),
        ("block_type", json!("llama")),
        ("d_model", json!(c.width)),
        ("n_heads", json!(c.heads)),
        ("n_kv_heads", json!(c.kv_heads)),
        ("n_layers", json!(c.layers)),
        ("mlp_hidden_size", json!(c.mlp)),
        ("max_sequence_length", json!(c.context)),
        ("embedding_size", json!(c.vocab)),
        ("mask_token_id", json!(c.mask_id)),
        ("include_bias", json!(false)),
        ("include_qkv_bias", json!(false)),
        ("weight_tying", json!(c.arch.tied)),
    ];
    out.extend(fields.map(|(k, v)| (k.to_string(), v)));
}
