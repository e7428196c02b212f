//! The DiT of MDLM and BD3-LM (`methods/mdlm.md` 2.6, 2.7) on the trunk: layer norm modulated by a condition c(sigma),
//! gated parts, GELU, an untied head with bias.
//!
//! ```text
//! c = silu(W2 silu(W1 s(sigma) + b1) + b2)                s: 128 cosines, 128 sines
//! x += g1 Wo attention(norm1(x) (1 + sc1) + sh1);  x += g2 (M2 gelu(M1 (norm2(x) (1 + sc2) + sh2) + b1) + b2)
//! ```
//! The trunk has no time input. At a fixed sigma everything that depends on c folds into weights: 1 + sc into the
//! norm's scale, sh into its bias, g into the rows of Wo and M2 (and b2). Public checkpoints were trained without time
//! conditioning, which means sigma = 0 throughout; [`Dit::fold`] takes any sigma, so that conditioned ones can be run
//! one noise level at a time. HILDA writes the folded form.

use safetensors::SafeTensors;
use serde_json::{Map, Value, json};

use super::super::checkpoint::read_tensor;
use super::super::layout::{LayerAt, Layout};
use super::{CheckpointError, Fields};
use crate::config::{Arch, Family, Mlp, ModelConfig};

/// Frequencies of the time embedding.
const FREQUENCIES: usize = 128;

/// Is this `config.json` a DiT's?
pub(super) fn is_dit(v: &Value) -> bool {
    v["model_type"] == "mdlm" || v.get("n_blocks").is_some() || v["model"].get("n_blocks").is_some()
}

pub(super) fn read(f: &Fields) -> Result<ModelConfig, CheckpointError> {
    // training configurations nest the shape, published ones do not
    let nested = Fields(&f.0["model"]);
    let size = |a: &str, b: &str| nested.maybe(a).or(f.maybe(b)).or(f.maybe(a));
    let need = |a: &str, b: &str| {
        size(a, b)
            .ok_or_else(|| CheckpointError::Config(format!("{b} is missing or no plausible whole number")))
    };
    let (width, heads) = (need("hidden_size", "hidden_dim")?, need("n_heads", "n_heads")?);
    let vocab = f.size("vocab_size")?;
    Ok(ModelConfig {
        vocab,
        width,
        layers: need("n_blocks", "n_blocks")?,
        heads,
        kv_heads: heads,
        head_dim: width / heads.max(1),
        mlp: 4 * width,
        context: need("length", "model_length")?,
        rope_theta: 1e4,
        norm_eps: 1e-5,
        mask_id: f.id("mask_id").or(f.id("mask_token_id")).unwrap_or(vocab.saturating_sub(1) as u32),
        eos_id: f.id("eos_token_id").unwrap_or(vocab.saturating_sub(2) as u32),
        forbid: vec![],
        arch: Arch {
            family: Family::Dit,
            layer_norm: true,
            mlp: Mlp::Gelu,
            linear_bias: true,
            tied: false,
            head_bias: true,
            ..Arch::default()
        },
    })
}

pub(super) fn write(c: &ModelConfig, out: &mut Map<String, Value>) {
    let fields = [
        ("architectures", json!(["HildaFoldedDiT"])),
        ("model_type", json!("mdlm")),
        ("hidden_dim", json!(c.width)),
        ("n_blocks", json!(c.layers)),
        ("n_heads", json!(c.heads)),
        ("model_length", json!(c.context)),
        ("mask_id", json!(c.mask_id)),
        ("time_conditioning", json!(false)),
    ];
    out.extend(fields.map(|(k, v)| (k.to_string(), v)));
}

/// A checkpoint with its adaptive modulation still unfolded.
pub struct Dit<'a> {
    tensors: SafeTensors<'a>,
    config: ModelConfig,
    prefix: &'static str,
}

impl<'a> Dit<'a> {
    /// `None` if the file holds the folded form.
    pub fn open(config: &ModelConfig, bytes: &'a [u8]) -> Result<Option<Dit<'a>>, CheckpointError> {
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| CheckpointError::Format(e.to_string()))?;
        let names = tensors.names();
        let prefix = match names.iter().find(|n| n.ends_with("vocab_embed.embedding")) {
            None => return Ok(None),
            Some(n) if n.starts_with("backbone.") => "backbone.",
            Some(_) => "",
        };
        Ok(Some(Dit { tensors, config: config.clone(), prefix }))
    }

    fn get(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let mut out = vec![0f32; shape.iter().product()];
        read_tensor(&self.tensors, &format!("{}{name}", self.prefix), shape, &mut out)?;
        Ok(out)
    }

    /// y = W x + b for a tensor pair `name.weight`, `name.bias`.
    fn linear(&self, name: &str, rows: usize, x: &[f32]) -> Result<Vec<f32>, CheckpointError> {
        let w = self.get(&format!("{name}.weight"), &[rows, x.len()])?;
        let b = self.get(&format!("{name}.bias"), &[rows])?;
        let dot = |row: &[f32]| row.iter().zip(x).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>();
        Ok(w.chunks_exact(x.len()).zip(b).map(|(row, b)| (dot(row) + b as f64) as f32).collect())
    }

    /// The condition at noise level `sigma`.
    fn condition(&self, sigma: f32) -> Result<Vec<f32>, CheckpointError> {
        let angle = |k: usize| sigma as f64 * (-(1e4f64.ln()) * k as f64 / FREQUENCIES as f64).exp();
        let waves = (0..FREQUENCIES).map(|k| angle(k).cos()).chain((0..FREQUENCIES).map(|k| angle(k).sin()));
        let s: Vec<f32> = waves.map(|x| x as f32).collect();
        let dim = self
            .tensors
            .tensor(&format!("{}sigma_map.mlp.0.bias", self.prefix))
            .map_err(|_| CheckpointError::Missing { name: format!("{}sigma_map.mlp.0.bias", self.prefix) })?
            .shape()
            .iter()
            .product();
        let silu = |v: Vec<f32>| v.into_iter().map(|x| x / (1.0 + (-x).exp())).collect::<Vec<f32>>();
        let hidden = silu(self.linear("sigma_map.mlp.0", dim, &s)?);
        Ok(silu(self.linear("sigma_map.mlp.2", dim, &hidden)?))
    }

    /// Flat parameters in [`Layout`] order for noise level `sigma`.
    pub fn fold(&self, sigma: f32) -> Result<Vec<f32>, CheckpointError> {
        let (c, layout) = (&self.config, Layout::new(&self.config));
        let (d, v, hw) = (c.width, c.vocab, c.head_width());
        let mut params = vec![0f32; layout.total];
        let condition = self.condition(sigma)?;
        params[layout.embed.offset..][..v * d].copy_from_slice(&self.get("vocab_embed.embedding", &[v, d])?);
        for (i, l) in layout.layers.iter().enumerate() {
            self.fold_layer(i, l, &condition, &mut params)?;
        }
        let m = self.linear("output_layer.adaLN_modulation", 2 * d, &condition)?;
        let scale = self.get("output_layer.norm_final.weight", &[d])?;
        let bias = layout.norm_bias.expect("layer norm");
        for j in 0..d {
            params[bias.offset + j] = m[j];
            params[layout.norm.offset + j] = scale[j] * (1.0 + m[d + j]);
        }
        let weight = self.get("output_layer.linear.weight", &[v, d])?;
        let bias = self.get("output_layer.linear.bias", &[v])?;
        let head = params[layout.head.offset..][..v * hw].chunks_exact_mut(hw);
        for ((row, w), b) in head.zip(weight.chunks_exact(d)).zip(bias) {
            row[..d].copy_from_slice(w);
            row[d] = b;
        }
        Ok(params)
    }

    fn fold_layer(
        &self,
        i: usize,
        l: &LayerAt,
        condition: &[f32],
        params: &mut [f32],
    ) -> Result<(), CheckpointError> {
        let (d, m) = (self.config.width, self.config.mlp);
        let name = |part: &str| format!("blocks.{i}.{part}");
        let modulation = self.linear(&name("adaLN_modulation"), 6 * d, condition)?;
        let of = |k: usize| &modulation[k * d..][..d];
        let gated = |w: Vec<f32>, cols: usize, gate: &[f32]| -> Vec<f32> {
            w.chunks_exact(cols).zip(gate).flat_map(|(row, g)| row.iter().map(move |x| x * g)).collect()
        };
        let mut put = |at: hilda_kernels::At, values: &[f32]| {
            params[at.offset..][..at.len].copy_from_slice(values);
        };
        for (part, at, bias, shift) in
            [("norm1.weight", l.norm1, l.norm1_bias, 0), ("norm2.weight", l.norm2, l.norm2_bias, 3)]
        {
            let w = self.get(&name(part), &[d])?;
            let scaled: Vec<f32> = w.iter().zip(of(shift + 1)).map(|(w, s)| w * (1.0 + s)).collect();
            put(at, &scaled);
            put(bias.expect("layer norm"), of(shift));
        }
        put(l.qkv, &self.get(&name("attn_qkv.weight"), &[3 * d, d])?);
        put(l.out, &gated(self.get(&name("attn_out.weight"), &[d, d])?, d, of(2)));
        put(l.gate_up, &self.get(&name("mlp.0.weight"), &[m, d])?);
        put(l.up_bias.expect("biases"), &self.get(&name("mlp.0.bias"), &[m])?);
        put(l.down, &gated(self.get(&name("mlp.2.weight"), &[d, m])?, m, of(5)));
        put(l.down_bias.expect("biases"), &gated(self.get(&name("mlp.2.bias"), &[d])?, 1, of(5)));
        Ok(())
    }
}
