//! Gemma 3, text only: norms that scale by 1 + w before and behind both parts, norms of query and key heads, GeGLU,
//! a scaled embedding, five layers of a sliding window to one of full attention, each kind with its rotary base.

use serde_json::{Map, Value, json};

use super::{CheckpointError, Fields, Part, llama};
use crate::config::{Arch, Family, Mlp, ModelConfig, Sliding};

const MASK: u32 = 4;

pub(super) fn name(layer: usize, part: Part) -> String {
    let inner = match part {
        Part::Post1 => "post_attention_layernorm.weight",
        Part::Norm2 => "pre_feedforward_layernorm.weight",
        Part::Post2 => "post_feedforward_layernorm.weight",
        other => return llama::name(layer, other),
    };
    format!("model.layers.{layer}.{inner}")
}

pub(super) fn read(f: &Fields) -> Result<ModelConfig, CheckpointError> {
    f.only("attention_bias", json!(false))?;
    f.only("hidden_activation", json!("gelu_pytorch_tanh"))?;
    f.only("use_bidirectional_attention", json!(false))?;
    for cap in ["final_logit_softcapping", "attn_logit_softcapping"] {
        if f.number(cap).is_some() {
            return Err(CheckpointError::Config(format!("{cap} is not supported")));
        }
    }
    let mut c = f.shared()?;
    let bases = &f.0["rope_parameters"];
    c.rope_theta = bases["full_attention"]["rope_theta"].as_f64().map_or(f.rope_theta(1e6), |x| x as f32);
    let local = bases["sliding_attention"]["rope_theta"].as_f64();
    let local = local.or(f.number("rope_local_base_freq")).unwrap_or(1e4) as f32;
    let layers: Vec<bool> = match f.0["layer_types"].as_array() {
        Some(kinds) => kinds.iter().map(|k| k == "sliding_attention").collect(),
        None => {
            let every = f.maybe("sliding_window_pattern").or(f.maybe("_sliding_window_pattern")).unwrap_or(6);
            (0..c.layers).map(|i| (i + 1) % every.max(1) != 0).collect()
        }
    };
    if layers.len() != c.layers {
        let message = format!("layer_types names {} layers of {}", layers.len(), c.layers);
        return Err(CheckpointError::Config(message));
    }
    let sliding = f.maybe("sliding_window").filter(|w| *w > 0);
    let scale = f.number("query_pre_attn_scalar").filter(|s| *s != c.head_dim as f64);
    c.arch = Arch {
        family: Family::Gemma3,
        mlp: Mlp::GeGlu,
        qk_norm: true,
        sandwich: true,
        tied: f.flag("tie_word_embeddings").unwrap_or(true),
        embed_scale: (c.width as f32).sqrt(),
        attention_scale: scale.map(|s| 1.0 / (s as f32).sqrt()),
        sliding: sliding.map(|w| Sliding { window: w as u32, rope_theta: local, layers }),
        ..Arch::default()
    };
    if f.id("mask_token_id").is_none() && c.vocab > 200_000 {
        c.mask_id = MASK;
    }
    Ok(c)
}

pub(super) fn write(c: &ModelConfig, out: &mut Map<String, Value>) {
    out.insert("architectures".into(), json!(["Gemma3ForCausalLM"]));
    out.insert("model_type".into(), json!("gemma3_text"));
    out.insert("hidden_activation".into(), json!("gelu_pytorch_tanh"));
    out.insert("attention_bias".into(), json!(false));
    let scale = c.attention_scale();
    out.insert("query_pre_attn_scalar".into(), json!((1.0 / (scale as f64 * scale as f64)).round() as u64));
    if let Some(s) = &c.arch.sliding {
        let kind = |slides: &bool| if *slides { "sliding_attention" } else { "full_attention" };
        out.insert("sliding_window".into(), json!(s.window));
        out.insert("layer_types".into(), json!(s.layers.iter().map(kind).collect::<Vec<_>>()));
        out.insert("rope_local_base_freq".into(), json!(s.rope_theta as f64));
    }
}
