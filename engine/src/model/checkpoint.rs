//! Checkpoints in Hugging Face layout: `config.json` (the family's public fields plus a `hilda` object) and
//! safetensors with the family's tensor names in F32, F16, BF16, int8 rows or 4-bit blocks ([`super::quant`]).
//!
//! Everything is read from bytes, so the page and the server share it. Nothing is trusted: shapes, types and
//! lengths are checked before a value is read.

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::shards::{Shards, Tensors};
use super::{Layout, family, quant};
use crate::config::{Family, ModelConfig};
use crate::decode::Attention;

/// A checkpoint that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("config.json: {0}")]
    Config(String),
    /// one of the below, in this file of the checkpoint
    #[error("{file}: {source}")]
    In { file: &'static str, source: Box<CheckpointError> },
    #[error("{0}")]
    Format(String),
    #[error("tensor {name} is missing")]
    Missing { name: String },
    #[error("tensor {name} has shape {got:?}, the configuration asks for {want:?}")]
    Shape { name: String, got: Vec<usize>, want: Vec<usize> },
    #[error(
        "tensor {name} has type {got}, which is not read here (F32, F16, BF16, I8 with a scale, U8 blocks)"
    )]
    Dtype { name: String, got: String },
    #[error("tensor {name} holds a value that is not finite")]
    NotFinite { name: String },
}

impl CheckpointError {
    /// The error with the name of the file it is about.
    pub fn of(self, file: &'static str) -> Self {
        CheckpointError::In { file, source: Box::new(self) }
    }
}

/// The file of weights.
pub const MODEL: &str = "model.safetensors";

/// How the model wants to be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    pub attention: Attention,
    /// tokens per block; 0 = the whole sequence
    pub block_size: usize,
    /// token n is read from row n - 1
    pub shift: bool,
    /// trained on whole-sequence blocks too, so it can fill holes with everything visible
    #[serde(default)]
    pub infill: bool,
    /// trained on corrupted visible tokens, so it can edit
    #[serde(default)]
    pub edits: bool,
    /// trained on uniform noise alone: it never saw a mask, from which every decoder begins
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub uniform: bool,
}

#[derive(Serialize, Deserialize)]
struct HildaObject {
    mask_id: u32,
    #[serde(default)]
    forbid: Vec<u32>,
    #[serde(flatten)]
    serving: Serving,
}

/// A model read from disk or from the network.
#[derive(Clone, Debug)]
pub struct LoadedModel {
    pub config: ModelConfig,
    pub serving: Serving,
    /// flat parameters in [`Layout`] order
    pub params: Vec<f32>,
}

/// `config.json` of a model: the family's public fields and a `hilda` object.
pub fn config_json(c: &ModelConfig, serving: Serving) -> String {
    let hilda = HildaObject { mask_id: c.mask_id, forbid: c.forbid.clone(), serving };
    let shared = json!({
        "vocab_size": c.vocab,
        "hidden_size": c.width,
        "intermediate_size": c.mlp,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "max_position_embeddings": c.context,
        "rms_norm_eps": c.norm_eps as f64,
        "rope_theta": c.rope_theta as f64,
        "tie_word_embeddings": c.arch.tied,
        "eos_token_id": c.eos_id,
        "bos_token_id": c.eos_id,
        "initializer_range": 0.02,
        "torch_dtype": "float32",
        "hilda": serde_json::to_value(hilda).expect("plain data"),
    });
    let Value::Object(mut fields) = shared else { unreachable!("an object was written") };
    family::write(c, &mut fields);
    serde_json::to_string_pretty(&Value::Object(fields)).expect("plain data")
}

/// Reads `config.json`. Without a `hilda` object a model is decoded as its family was trained: DiTs and LLaDA see
/// everything, the others are causal and have no mask token of their own.
pub fn parse_config(text: &str) -> Result<(ModelConfig, Serving), CheckpointError> {
    let bad = |m: String| CheckpointError::Config(m);
    let v: Value = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
    let mut config = family::read(&v)?;
    let hilda: Option<HildaObject> = match v.get("hilda") {
        None | Some(Value::Null) => None,
        Some(h) => Some(serde_json::from_value(h.clone()).map_err(|e| bad(format!("hilda: {e}")))?),
    };
    if let Some(h) = &hilda {
        (config.mask_id, config.forbid) = (h.mask_id, h.forbid.clone());
        config.validate().map_err(|e| bad(e.to_string()))?;
    }
    if let Some(id) = config.forbid.iter().find(|id| **id as usize >= config.vocab) {
        return Err(bad(format!("hilda.forbid: id {id} is outside the vocabulary of {}", config.vocab)));
    }
    let serving = |attention, block_size, shift| Serving {
        attention,
        block_size,
        shift,
        infill: false,
        edits: false,
        uniform: false,
    };
    let native = match config.arch.family {
        Family::Dit | Family::Llada => {
            config.forbid = if hilda.is_none() { vec![config.mask_id] } else { config.forbid };
            serving(Attention::Bidirectional, 0, false)
        }
        Family::Dream => {
            config.forbid = if hilda.is_none() { vec![config.mask_id] } else { config.forbid };
            serving(Attention::Bidirectional, 0, true)
        }
        _ => serving(Attention::Causal, 1, true),
    };
    Ok((config, hilda.map_or(native, |h| h.serving)))
}

/// Reads `config.json` and `model.safetensors` from bytes.
pub fn load(config: &str, tensors: &[u8]) -> Result<LoadedModel, CheckpointError> {
    let (config, serving) = parse_config(config)?;
    if config.arch.family == Family::Dit
        && let Some(dit) = family::Dit::open(&config, tensors)?
    {
        return Ok(LoadedModel { params: dit.fold(0.0)?, config, serving });
    }
    let params = Shards::one(tensors).and_then(|shards| read_params(&config, &shards));
    Ok(LoadedModel { params: params.map_err(|e| e.of(MODEL))?, config, serving })
}

/// Flat parameters from the family's tensors.
pub fn read_params(config: &ModelConfig, tensors: &impl Tensors) -> Result<Vec<f32>, CheckpointError> {
    let layout = Layout::new(config);
    let offset = family::norm_offset(config.arch.family);
    can_hold(tensors.bytes(), layout.total)?;
    let mut params = vec![0f32; layout.total];
    for t in layout.named(config) {
        let out = &mut params[t.at.offset..t.at.offset + t.at.len];
        read_tensor(tensors, &t.name, &t.shape, out)?;
        if t.norm && offset != 0.0 {
            out.iter_mut().for_each(|w| *w += offset);
        }
    }
    Ok(params)
}

/// A configuration may ask for more than the memory holds; a weight takes at least half a byte of its file.
pub(super) fn can_hold(bytes: usize, parameters: usize) -> Result<(), CheckpointError> {
    if bytes.saturating_mul(2) < parameters {
        let message = format!("{bytes} bytes cannot hold {parameters} parameters");
        return Err(CheckpointError::Format(message));
    }
    Ok(())
}

/// A safetensors file, its header checked.
pub fn tensors(bytes: &[u8]) -> Result<SafeTensors<'_>, CheckpointError> {
    SafeTensors::deserialize(bytes)
        .map_err(|e| CheckpointError::Format(format!("does not read as safetensors: {e}")))
}

/// One tensor into `out`, converting to f32. A matrix may lie in parts, `X.rows0` and so on ([`super::page`]).
pub fn read_tensor(
    st: &impl Tensors,
    name: &str,
    shape: &[usize],
    out: &mut [f32],
) -> Result<(), CheckpointError> {
    let missing = |name: &str| CheckpointError::Missing { name: name.into() };
    if let Some(view) = st.view(name) {
        return read_view(st, name, &view, shape, out);
    }
    let &[rows, cols] = shape else { return Err(missing(name)) };
    let mut first = 0;
    while first < rows {
        let part = format!("{name}.rows{first}");
        let view = st.view(&part).ok_or_else(|| missing(if first == 0 { name } else { &part }))?;
        let n = view.shape().first().copied().unwrap_or(0);
        if n == 0 || n > rows - first {
            let (got, want) = (view.shape().to_vec(), vec![rows - first, cols]);
            return Err(CheckpointError::Shape { name: part, got, want });
        }
        read_view(st, &part, &view, &[n, cols], &mut out[first * cols..][..n * cols])?;
        first += n;
    }
    Ok(())
}

fn read_view(
    st: &impl Tensors,
    name: &str,
    view: &TensorView,
    shape: &[usize],
    out: &mut [f32],
) -> Result<(), CheckpointError> {
    let blocks = if view.dtype() == Dtype::U8 { quant::q4_0_shape(shape) } else { None };
    let want = blocks.as_deref().unwrap_or(shape);
    if view.shape() != want {
        let (got, want) = (view.shape().to_vec(), want.to_vec());
        return Err(CheckpointError::Shape { name: name.into(), got, want });
    }
    let data = view.data();
    match view.dtype() {
        Dtype::F32 => {
            for (o, b) in out.iter_mut().zip(data.chunks_exact(4)) {
                *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        Dtype::F16 => {
            for (o, b) in out.iter_mut().zip(data.chunks_exact(2)) {
                *o = f16::from_le_bytes([b[0], b[1]]).to_f32();
            }
        }
        Dtype::BF16 => {
            for (o, b) in out.iter_mut().zip(data.chunks_exact(2)) {
                *o = bf16::from_le_bytes([b[0], b[1]]).to_f32();
            }
        }
        Dtype::I8 => {
            let mut scale = vec![0f32; shape[0]];
            read_tensor(st, &format!("{name}.scale"), &shape[..1], &mut scale)?;
            quant::from_int8(data, &scale, out);
        }
        Dtype::U8 if blocks.is_some() => quant::from_q4_0(data, out),
        other => return Err(CheckpointError::Dtype { name: name.into(), got: format!("{other:?}") }),
    }
    if out.iter().any(|x| !x.is_finite()) {
        return Err(CheckpointError::NotFinite { name: name.into() });
    }
    Ok(())
}

/// Number format of written weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    F32,
    F16,
    /// int8 rows for matrices, F32 for vectors
    Int8,
}

/// `model.safetensors` from flat parameters.
pub fn save(config: &ModelConfig, params: &[f32], format: Format) -> Result<Vec<u8>, CheckpointError> {
    let layout = Layout::new(config);
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = vec![];
    for t in layout.named(config) {
        let offset = if t.norm { family::norm_offset(config.arch.family) } else { 0.0 };
        let values = &params[t.at.offset..t.at.offset + t.at.len];
        let shifted: Vec<f32>;
        let values = if offset == 0.0 {
            values
        } else {
            shifted = values.iter().map(|w| w - offset).collect();
            &shifted
        };
        match format {
            Format::Int8 if t.shape.len() == 2 => {
                let (bytes, scales) = quant::to_int8(values, t.shape[1]);
                tensors.push((format!("{}.scale", t.name), Dtype::F32, vec![t.shape[0]], scales));
                tensors.push((t.name, Dtype::I8, t.shape, bytes));
            }
            Format::F16 => {
                let bytes = values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
                tensors.push((t.name, Dtype::F16, t.shape, bytes));
            }
            _ => tensors.push((
                t.name,
                Dtype::F32,
                t.shape,
                values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            )),
        }
    }
    serialize(&tensors)
}

/// Named byte tensors as one safetensors file.
pub fn serialize(tensors: &[(String, Dtype, Vec<usize>, Vec<u8>)]) -> Result<Vec<u8>, CheckpointError> {
    let format = |e: safetensors::SafeTensorError| CheckpointError::Format(e.to_string());
    let views = tensors
        .iter()
        .map(|(n, d, s, b)| Ok((n.clone(), TensorView::new(*d, s.clone(), b).map_err(format)?)))
        .collect::<Result<Vec<_>, CheckpointError>>()?;
    safetensors::serialize(views, None).map_err(format)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> ModelConfig {
        crate::config::ModelSpec { size: Some("tiny".into()), ..Default::default() }
            .resolve(50, 1, 0, vec![1, 2])
            .unwrap()
    }
    const SERVING: Serving = Serving {
        attention: Attention::BlockCausal,
        block_size: 8,
        shift: true,
        infill: true,
        edits: true,
        uniform: false,
    };

    #[test]
    fn formats_round_trip() {
        let c = tiny();
        let params = Layout::new(&c).init(&c, 3);
        for (format, tolerance) in [(Format::F32, 0.0), (Format::F16, 1e-4), (Format::Int8, 5e-4)] {
            let bytes = save(&c, &params, format).unwrap();
            let m = load(&config_json(&c, SERVING), &bytes).unwrap();
            assert_eq!((&m.config, m.serving), (&c, SERVING));
            let worst = m.params.iter().zip(&params).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= tolerance, "{format:?}: {worst}");
        }
    }

    /// Random weights of two layers in the layout of every family; names as the published files have them.
    #[test]
    fn every_family_round_trips_under_its_names() {
        let sizes = r#""vocab_size":50,"hidden_size":16,"num_attention_heads":2,"num_key_value_heads":1,
            "intermediate_size":24,"num_hidden_layers":2,"max_position_embeddings":32"#;
        let llada = r#"{"model_type":"llada","d_model":16,"n_heads":2,"n_kv_heads":2,"n_layers":2,"vocab_size":48,
            "embedding_size":50,"mlp_hidden_size":24,"max_sequence_length":32,"mask_token_id":7,"block_type":"llama",
            "include_bias":false,"weight_tying":false}"#;
        let dit = r#"{"model_type":"mdlm","vocab_size":50,"hidden_dim":16,"n_heads":2,"n_blocks":2,"model_length":32}"#;
        let of = |kind: &str| format!(r#"{{"model_type":"{kind}",{sizes}}}"#);
        for (json, names) in [
            (of("llama"), ["model.layers.1.mlp.gate_proj.weight", "model.norm.weight"]),
            (of("qwen2"), ["model.layers.1.self_attn.q_proj.bias", "lm_head.weight"]),
            (of("qwen3"), ["model.layers.1.self_attn.k_norm.weight", "lm_head.weight"]),
            (of("Dream"), ["model.layers.1.self_attn.v_proj.bias", "lm_head.weight"]),
            (
                of("gemma3_text"),
                ["model.layers.1.pre_feedforward_layernorm.weight", "model.layers.1.self_attn.q_norm.weight"],
            ),
            (
                llada.to_string(),
                ["model.transformer.blocks.1.ff_out.weight", "model.transformer.ff_out.weight"],
            ),
            (dit.to_string(), ["model.layers.1.mlp.up_proj.bias", "lm_head.weight"]),
        ] {
            let (c, serving) = parse_config(&json).unwrap();
            let params = Layout::new(&c).init(&c, 3);
            let bytes = save(&c, &params, Format::F32).unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            names.iter().for_each(|n| assert!(file.tensor(n).is_ok(), "{json}: no {n}"));
            let m = load(&config_json(&c, serving), &bytes).unwrap();
            assert_eq!((&m.config, m.serving), (&c, serving), "{json}");
            let worst = m.params.iter().zip(&params).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert_eq!(worst, 0.0, "{json}");
        }
    }

    #[test]
    fn hostile_files_are_errors() {
        let c = tiny();
        let params = Layout::new(&c).init(&c, 3);
        let json = config_json(&c, SERVING);
        let good = save(&c, &params, Format::F32).unwrap();
        for cut in [0, 7, 8, 100, good.len() - 1] {
            assert!(load(&json, &good[..cut]).is_err(), "cut at {cut}");
        }
        let mut huge = good.clone();
        huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(load(&json, &huge).is_err());
        let e =
            load(&json.replace("\"vocab_size\": 50", "\"vocab_size\": 51"), &good).unwrap_err().to_string();
        assert!(e.starts_with("model.safetensors: tensor model.embed_tokens.weight has shape"), "{e}");
        let e =
            load(&json.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 200"), &good).unwrap_err();
        assert!(e.to_string().contains("cannot hold"), "{e}");
        assert!(load("{}", &good).is_err() && load("[", &good).is_err());
        let mut nan = params.clone();
        nan[5] = f32::NAN;
        let bytes = save(&c, &nan, Format::F32).unwrap();
        let e = load(&json, &bytes).unwrap_err().to_string();
        assert!(e.starts_with("model.safetensors: ") && e.ends_with("not finite"), "{e}");
    }
}
