//! GGUF files (llama.cpp), read and written through candle, which knows the quantised layouts.
//!
//! Names and traps: `methods/ar_conversion.md` appendix A. Rows of q and k are stored permuted for interleaved rotary
//! pairs by the llama architecture only; Gemma's norms are stored with the one already added, and its local rotary base
//! and layer pattern are implied. Diffusion models carry `diffusion.shift_logits`, the mask token, and
//! `attention.causal = false`.

use std::collections::HashMap;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};

use candle_core::quantized::ggml_file::qtensor_from_ggml;
use candle_core::quantized::gguf_file::{self, Content, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use super::checkpoint::{CheckpointError, LoadedModel, Serving};
use super::family::{MOST, Part};
use super::{Layout, layout::Named};
use super::{gguf_header, gguf_tokenizer};
use crate::config::{Arch, Family, Mlp, ModelConfig, Sliding};
use crate::decode::Attention;

/// Layers from one full layer of Gemma 3 to the next, and the rotary base of those between.
const GEMMA_PATTERN: usize = 6;
const GEMMA_LOCAL_THETA: f32 = 1e4;

/// Number formats that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GgufFormat {
    F32,
    F16,
    /// blocks of 32 with an f16 scale
    Q8_0,
}

fn bad(what: impl std::fmt::Display) -> CheckpointError {
    CheckpointError::Format(format!("gguf: {what}"))
}

/// The tensor's name in a GGUF file.
pub(super) fn name(family: Family, layer: usize, part: Part) -> Option<String> {
    let inner = match part {
        Part::Embed => return Some("token_embd.weight".into()),
        Part::Norm => return Some("output_norm.weight".into()),
        Part::Head => return Some("output.weight".into()),
        Part::Norm1 => "attn_norm.weight",
        Part::Q => "attn_q.weight",
        Part::K => "attn_k.weight",
        Part::V => "attn_v.weight",
        Part::QBias => "attn_q.bias",
        Part::KBias => "attn_k.bias",
        Part::VBias => "attn_v.bias",
        Part::QNorm => "attn_q_norm.weight",
        Part::KNorm => "attn_k_norm.weight",
        Part::Out => "attn_output.weight",
        Part::Post1 => "post_attention_norm.weight",
        Part::Norm2 => "ffn_norm.weight",
        Part::Gate => "ffn_gate.weight",
        Part::Up => "ffn_up.weight",
        Part::Down => "ffn_down.weight",
        Part::Post2 => "post_ffw_norm.weight",
        _ => return None,
    };
    (family != Family::Dit).then(|| format!("blk.{layer}.{inner}"))
}

/// The architecture's name in `general.architecture`.
fn architecture(family: Family) -> Option<&'static str> {
    Some(match family {
        Family::Llama => "llama",
        Family::Qwen2 => "qwen2",
        Family::Qwen3 => "qwen3",
        Family::Gemma3 => "gemma3",
        Family::Dream => "dream",
        Family::Llada => "llada",
        Family::Dit => return None,
    })
}

/// Where row `r` of a q or k projection of heads of `head_dim` stands in a file of the llama architecture: halves of a
/// head are interleaved there.
fn interleaved(r: usize, head_dim: usize) -> usize {
    let (head, i) = (r / head_dim, r % head_dim);
    let half = head_dim / 2;
    head * head_dim + 2 * (i % half) + i / half
}

/// The inverse of [`interleaved`]: which row a file's row `r` is.
fn halved(r: usize, head_dim: usize) -> usize {
    let (head, i) = (r / head_dim, r % head_dim);
    head * head_dim + i / 2 + (i % 2) * (head_dim / 2)
}

/// Is the tensor one whose rows the llama architecture permutes?
fn permuted(family: Family, t: &Named) -> bool {
    family == Family::Llama && matches!(t.part, Part::Q | Part::K)
}

/// A file's header: metadata, and where its tensors are.
pub fn content<R: Read + Seek>(reader: &mut R) -> Result<Content, CheckpointError> {
    let mut reader = BufReader::with_capacity(1 << 16, reader);
    gguf_header::check(&mut reader)?;
    Content::read(&mut reader).map_err(bad)
}

/// Reads a whole model; quantised tensors become f32.
pub fn load<R: Read + Seek>(reader: &mut R) -> Result<LoadedModel, CheckpointError> {
    let content = content(reader)?;
    let (config, serving) = read_config(&content)?;
    let layout = Layout::new(&config);
    let length = reader.seek(SeekFrom::End(0)).map_err(bad)?;
    // two bits a value are the smallest format
    if (length as usize).saturating_mul(4) < layout.total {
        return Err(bad(format!("{length} bytes cannot hold {} parameters", layout.total)));
    }
    let mut params = vec![0f32; layout.total];
    for t in layout.named(&config) {
        let family = config.arch.family;
        let name = name(family, t.layer, t.part).ok_or_else(|| bad(format!("{} has no place", t.name)))?;
        let info =
            content.tensor_infos.get(&name).ok_or_else(|| CheckpointError::Missing { name: name.clone() })?;
        if info.shape.dims() != t.shape {
            let got = info.shape.dims().to_vec();
            return Err(CheckpointError::Shape { name, got, want: t.shape });
        }
        let out = &mut params[t.at.offset..][..t.at.len];
        let head_dim = permuted(family, &t).then_some(config.head_dim);
        read_rows(reader, &content, &name, head_dim, out)?;
    }
    Ok(LoadedModel { config, serving, params })
}

/// Bytes that are read and dequantised at once: a whole embedding would take its size in float32 twice over.
const CHUNK: usize = 1 << 20;

/// One tensor as f32, some rows at a time; rows of heads of `head_dim` back from their interleaved order.
fn read_rows<R: Read + Seek>(
    reader: &mut R,
    content: &Content,
    name: &str,
    head_dim: Option<usize>,
    out: &mut [f32],
) -> Result<(), CheckpointError> {
    let failed = |e: &dyn std::fmt::Display| bad(format!("{name}: {e}"));
    let info =
        content.tensor_infos.get(name).ok_or_else(|| CheckpointError::Missing { name: name.into() })?;
    let cols = info.shape.dims().last().copied().unwrap_or(1).max(1);
    let (block, size) = (info.ggml_dtype.block_size(), info.ggml_dtype.type_size());
    if cols % block != 0 {
        return Err(failed(&format!("rows of {cols} are no multiple of a block of {block}")));
    }
    let row = cols / block * size;
    let start = content.tensor_data_offset.checked_add(info.offset).ok_or_else(|| failed(&"lies nowhere"))?;
    reader.seek(SeekFrom::Start(start)).map_err(|e| failed(&e))?;
    let rows = (CHUNK / row).max(1);
    let mut raw = vec![0u8; rows.min(out.len() / cols) * row];
    for first in (0..out.len() / cols).step_by(rows) {
        let n = rows.min(out.len() / cols - first);
        let raw = &mut raw[..n * row];
        reader.read_exact(raw).map_err(|e| failed(&e))?;
        let tensor = qtensor_from_ggml(info.ggml_dtype, raw, vec![n, cols], &Device::Cpu);
        let values = tensor.and_then(|t| t.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>());
        let values = values.map_err(|e| failed(&e))?;
        if values.iter().any(|x| !x.is_finite()) {
            return Err(CheckpointError::NotFinite { name: name.into() });
        }
        for (i, values) in values.chunks_exact(cols).enumerate() {
            let r = head_dim.map_or(first + i, |hd| halved(first + i, hd));
            out[r * cols..][..cols].copy_from_slice(values);
        }
    }
    Ok(())
}

/// Shape and manner of decoding from the metadata.
pub fn read_config(content: &Content) -> Result<(ModelConfig, Serving), CheckpointError> {
    let meta = &content.metadata;
    let text = |key: &str| meta.get(key).and_then(|v| v.to_string().ok());
    let arch = text("general.architecture").ok_or_else(|| bad("general.architecture is missing"))?.clone();
    let family = match arch.as_str() {
        "llama" => Family::Llama,
        "qwen2" => Family::Qwen2,
        "qwen3" => Family::Qwen3,
        "gemma3" => Family::Gemma3,
        "dream" => Family::Dream,
        "llada" => Family::Llada,
        other => {
            return Err(bad(format!(
                "architecture \"{other}\" is not supported (llama, qwen2, qwen3, gemma3, dream, llada)"
            )));
        }
    };
    let int = |key: &str| meta.get(key).and_then(integer);
    let of = |key: &str| int(&format!("{arch}.{key}"));
    let need = |key: &str| of(key).ok_or_else(|| bad(format!("{arch}.{key} is missing")));
    let float = |key: &str| meta.get(&format!("{arch}.{key}")).and_then(|v| v.to_f32().ok());
    let (width, heads) = (need("embedding_length")?, need("attention.head_count")?);
    let embed = content
        .tensor_infos
        .get("token_embd.weight")
        .ok_or_else(|| CheckpointError::Missing { name: "token_embd.weight".into() })?;
    let head_dim = of("attention.key_length").unwrap_or(width / heads.max(1));
    let layers = need("block_count")?;
    let has = |name: &str| content.tensor_infos.contains_key(name);
    let gemma = family == Family::Gemma3;
    let window = of("attention.sliding_window").filter(|_| gemma);
    let theta = float("rope.freq_base").unwrap_or(if gemma { 1e6 } else { 1e4 });
    let config = ModelConfig {
        vocab: embed.shape.dims().first().copied().unwrap_or(0),
        width,
        layers,
        heads,
        kv_heads: of("attention.head_count_kv").unwrap_or(heads),
        head_dim,
        mlp: need("feed_forward_length")?,
        context: need("context_length")?,
        rope_theta: theta,
        norm_eps: float("attention.layer_norm_rms_epsilon").unwrap_or(1e-5),
        mask_id: int("tokenizer.ggml.mask_token_id").unwrap_or(0) as u32,
        eos_id: int("tokenizer.ggml.eos_token_id").unwrap_or(0) as u32,
        forbid: int("tokenizer.ggml.mask_token_id").map(|id| id as u32).into_iter().collect(),
        arch: Arch {
            family,
            qkv_bias: has("blk.0.attn_q.bias"),
            qk_norm: has("blk.0.attn_q_norm.weight"),
            sandwich: gemma,
            mlp: if gemma { Mlp::GeGlu } else { Mlp::SwiGlu },
            tied: !has("output.weight"),
            embed_scale: if gemma { (width as f32).sqrt() } else { 1.0 },
            sliding: window.map(|w| Sliding {
                window: w as u32,
                rope_theta: GEMMA_LOCAL_THETA,
                layers: (0..layers).map(|i| (i + 1) % GEMMA_PATTERN != 0).collect(),
            }),
            ..Arch::default()
        },
    };
    config.validate().map_err(bad)?;
    let flag = |key: &str| meta.get(key).and_then(|v| v.to_bool().ok());
    let shift = flag("diffusion.shift_logits");
    let block = int("diffusion.block_size");
    let open = flag(&format!("{arch}.attention.causal")) == Some(false) || shift.is_some();
    let (attention, block_size) = match (open, block) {
        (false, _) => (Attention::Causal, 1),
        (true, Some(n)) if n > 0 => (Attention::BlockCausal, n),
        (true, _) => (Attention::Bidirectional, 0),
    };
    // a diffusion model without the key shifts, as llama.cpp assumes
    let serving = Serving {
        attention,
        block_size,
        shift: shift.unwrap_or(true),
        infill: false,
        edits: false,
        uniform: false,
    };
    Ok((config, serving))
}

/// Any whole number; absurd sizes, whose products would overflow, count as none.
fn integer(v: &Value) -> Option<usize> {
    let number = match v {
        Value::U8(x) => Some(*x as u64),
        Value::U16(x) => Some(*x as u64),
        Value::U32(x) => Some(*x as u64),
        Value::U64(x) => Some(*x),
        Value::I32(x) => u64::try_from(*x).ok(),
        Value::I64(x) => u64::try_from(*x).ok(),
        _ => None,
    };
    number.filter(|x| *x <= MOST).map(|x| x as usize)
}

/// Writes a whole model, with the keys of its `tokenizer.json` if there is one; vectors stay F32, and so do matrices whose
/// rows are no multiple of a block.
pub fn save<W: Write + Seek>(
    out: &mut W,
    model: &LoadedModel,
    format: GgufFormat,
    tokenizer: Option<&[u8]>,
) -> Result<(), CheckpointError> {
    let (c, serving) = (&model.config, model.serving);
    let arch = architecture(c.arch.family).ok_or_else(|| bad("GGUF has no architecture for a DiT"))?;
    let mut tensors = vec![];
    for t in Layout::new(c).named(c) {
        let name = name(c.arch.family, t.layer, t.part)
            .ok_or_else(|| bad(format!("GGUF has no name for {}", t.name)))?;
        let mut values = model.params[t.at.offset..][..t.at.len].to_vec();
        if permuted(c.arch.family, &t) {
            let (cols, source) = (t.shape[1], values.clone());
            for (r, row) in source.chunks_exact(cols).enumerate() {
                values[interleaved(r, c.head_dim) * cols..][..cols].copy_from_slice(row);
            }
        }
        let dtype = match format {
            GgufFormat::F16 if t.shape.len() == 2 => GgmlDType::F16,
            GgufFormat::Q8_0 if t.shape.len() == 2 && t.shape[1] % 32 == 0 => GgmlDType::Q8_0,
            _ => GgmlDType::F32,
        };
        let tensor = Tensor::from_vec(values, t.shape.as_slice(), &Device::Cpu).map_err(bad)?;
        tensors.push((name, QTensor::quantize(&tensor, dtype).map_err(bad)?));
    }
    let mut meta = HashMap::new();
    let mut put = |key: &str, v: Value| meta.insert(key.replace("{arch}", arch), v);
    let size = |n: usize| Value::U32(n as u32);
    put("general.architecture", Value::String(arch.into()));
    put("{arch}.context_length", size(c.context));
    put("{arch}.embedding_length", size(c.width));
    put("{arch}.block_count", size(c.layers));
    put("{arch}.feed_forward_length", size(c.mlp));
    put("{arch}.vocab_size", size(c.vocab));
    put("{arch}.attention.head_count", size(c.heads));
    put("{arch}.attention.head_count_kv", size(c.kv_heads));
    put("{arch}.attention.key_length", size(c.head_dim));
    put("{arch}.attention.value_length", size(c.head_dim));
    put("{arch}.attention.layer_norm_rms_epsilon", Value::F32(c.norm_eps));
    put("{arch}.rope.freq_base", Value::F32(c.rope_theta));
    put("{arch}.rope.dimension_count", size(c.head_dim));
    if let Some(s) = &c.arch.sliding {
        put("{arch}.attention.sliding_window", size(s.window as usize));
    }
    put("tokenizer.ggml.eos_token_id", size(c.eos_id as usize));
    put("tokenizer.ggml.bos_token_id", size(c.eos_id as usize));
    if serving.attention != Attention::Causal {
        put("{arch}.attention.causal", Value::Bool(false));
        put("tokenizer.ggml.mask_token_id", size(c.mask_id as usize));
        put("diffusion.shift_logits", Value::Bool(serving.shift));
        if serving.attention == Attention::BlockCausal {
            put("diffusion.block_size", size(serving.block_size));
        }
    }
    if let Some(json) = tokenizer {
        meta.extend(gguf_tokenizer::write(json, c.vocab)?);
    }
    let meta: Vec<(&str, &Value)> = meta.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
    gguf_file::write(out, &meta, &tensors).map_err(bad)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::model::checkpoint::parse_config;

    fn model(json: &str) -> LoadedModel {
        let (config, serving) = parse_config(json).unwrap();
        let params = Layout::new(&config).init(&config, 3);
        LoadedModel { config, serving, params }
    }

    const SHAPE: &str = r#""vocab_size":37,"hidden_size":64,"num_attention_heads":4,"num_key_value_heads":2,
        "intermediate_size":96,"num_hidden_layers":6,"max_position_embeddings":24,"tie_word_embeddings":true"#;

    #[test]
    fn families_round_trip() {
        for kind in ["llama", "qwen2", "qwen3", "gemma3_text"] {
            let m = model(&format!(r#"{{"model_type":"{kind}","sliding_window":8,{SHAPE}}}"#));
            for (format, most) in [(GgufFormat::F32, 0.0), (GgufFormat::F16, 1e-4), (GgufFormat::Q8_0, 5e-4)]
            {
                let mut file = Cursor::new(vec![]);
                save(&mut file, &m, format, None).unwrap();
                file.set_position(0);
                let back = load(&mut file).unwrap();
                assert_eq!((&back.config.arch, back.serving), (&m.config.arch, m.serving), "{kind}");
                let worst = back.params.iter().zip(&m.params).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst <= most, "{kind} {format:?}: {worst}");
            }
        }
    }

    #[test]
    fn diffusion_keys_round_trip() {
        let mut m = model(&format!(r#"{{"model_type":"llama",{SHAPE}}}"#));
        for (attention, block_size, shift) in [
            (Attention::BlockCausal, 8, true),
            (Attention::BlockCausal, 4, false),
            (Attention::Bidirectional, 0, false),
        ] {
            m.serving = Serving { attention, block_size, shift, infill: false, edits: false, uniform: false };
            let mut file = Cursor::new(vec![]);
            save(&mut file, &m, GgufFormat::F32, None).unwrap();
            file.set_position(0);
            assert_eq!(load(&mut file).unwrap().serving, m.serving);
        }
    }

    #[test]
    fn hostile_files_are_errors() {
        let m = model(&format!(r#"{{"model_type":"llama",{SHAPE}}}"#));
        let mut file = Cursor::new(vec![]);
        save(&mut file, &m, GgufFormat::F32, None).unwrap();
        let good = file.into_inner();
        for cut in [0, 3, 8, 100, good.len() / 2, good.len() - 1] {
            assert!(load(&mut Cursor::new(&good[..cut])).is_err(), "cut at {cut}");
        }
        assert!(load(&mut Cursor::new(b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff".to_vec())).is_err());
    }

    #[test]
    fn interleaving_is_the_published_permutation() {
        // W.reshape(H, 2, hd/2, in).swap(1, 2): row (h, j, i) goes to (h, i, j)
        let (heads, hd) = (3, 8);
        for (h, j, i) in (0..heads).flat_map(|h| (0..2).flat_map(move |j| (0..4).map(move |i| (h, j, i)))) {
            let (here, there) = (h * hd + j * 4 + i, h * hd + i * 2 + j);
            assert_eq!((interleaved(here, hd), halved(there, hd)), (there, here));
        }
    }
}
