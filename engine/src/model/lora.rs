//! LoRA adapters on any linear layer of any family, merged into the weights for every step and kept apart on disk.
//!
//! W = W0 + s B A with A [rank, in], B [out, rank], s = alpha / rank. The trunk runs on the merged W and knows nothing of
//! this; from its full gradient dW follow
//! ```text
//! dA = s B^T dW        dB = s dW A^T
//! ```
//! exactly, by two thin products a layer. That costs little beside the forward pass, works on every back end
//! and for fused projections, and leaves merged weights at every moment; the price is dW itself, which a step keeps for
//! the whole model. What is saved are the moments: 12 instead of 16 bytes a parameter.
//!
//! On disk: PEFT's layout, `adapter_config.json` and `adapter_model.safetensors` with
//! `base_model.model.<module>.lora_A.weight` [rank, in] and `.lora_B.weight` [out, rank].

use hilda_kernels::rng::{Rng, Stream};
use hilda_kernels::{At, Train};
use safetensors::Dtype;
use serde_json::{Value, json};

use super::checkpoint::{self, CheckpointError};
use super::family::Part;
use super::layout::Layout;
use crate::config::{LoraSpec, ModelConfig};

/// The two files of an adapter.
pub const CONFIG: &str = "adapter_config.json";
pub const WEIGHTS: &str = "adapter_model.safetensors";

/// One adapted layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// the layer's name without ".weight"
    pub module: String,
    /// W in the flat parameters, [out, in]
    pub at: At,
    pub out: usize,
    pub input: usize,
    /// where A begins in the adapter's own numbers; B follows it
    pub start: usize,
}

/// An adapter on the host.
#[derive(Clone, Debug)]
pub struct Adapter {
    pub spec: LoraSpec,
    pub sites: Vec<Site>,
    /// A and B of every site
    pub theta: Vec<f32>,
}

fn part(target: &str) -> Part {
    match target {
        "q" => Part::Q,
        "k" => Part::K,
        "v" => Part::V,
        "o" => Part::Out,
        "gate" => Part::Gate,
        "up" => Part::Up,
        _ => Part::Down,
    }
}

/// The adapted layers of a model, in the order of its layout, and how many numbers they have together.
pub fn sites(c: &ModelConfig, layout: &Layout, spec: &LoraSpec) -> (Vec<Site>, usize) {
    let parts: Vec<Part> = spec.targets.iter().map(|t| part(t)).collect();
    let (mut out, mut start) = (vec![], 0);
    for t in layout.named(c).into_iter().filter(|t| parts.contains(&t.part)) {
        let module = t.name.strip_suffix(".weight").unwrap_or(&t.name).to_string();
        let site = Site { module, at: t.at, out: t.shape[0], input: t.shape[1], start };
        start += spec.rank * (site.out + site.input);
        out.push(site);
    }
    (out, start)
}

impl Adapter {
    /// A uniform in ±1 / sqrt(in), B zero: the model starts as its base.
    pub fn new(c: &ModelConfig, layout: &Layout, spec: &LoraSpec, seed: u64) -> Adapter {
        let (sites, len) = sites(c, layout, spec);
        let mut theta = vec![0f32; len];
        for (i, s) in sites.iter().enumerate() {
            let rng = Rng::new(seed, Stream::Init, 1 << 16 | i as u32);
            let bound = 1.0 / (s.input as f64).sqrt();
            for (j, x) in theta[s.start..][..spec.rank * s.input].iter_mut().enumerate() {
                *x = (bound * (2.0 * rng.uniform(0, j as u32, 0) - 1.0)) as f32;
            }
        }
        Adapter { spec: spec.clone(), sites, theta }
    }

    fn a(&self, s: &Site) -> &[f32] {
        &self.theta[s.start..][..self.spec.rank * s.input]
    }
    fn b(&self, s: &Site) -> &[f32] {
        &self.theta[s.start + self.spec.rank * s.input..][..self.spec.rank * s.out]
    }
    /// s B^T, [rank, out]
    fn scaled(&self, s: &Site) -> Vec<f32> {
        let (b, r, scale) = (self.b(s), self.spec.rank, self.spec.scale() as f32);
        (0..r).flat_map(|i| (0..s.out).map(move |j| scale * b[j * r + i])).collect()
    }

    /// params = base, then W += s B A at every site.
    pub fn merge<B: Train>(&self, b: &B, base: &B::Buf, params: &mut B::Buf, total: usize) {
        b.copy(base, 0, params, 0, total);
        let r = self.spec.rank;
        for s in &self.sites {
            let (mut left, mut right) = (b.buf(r * s.out), b.buf(r * s.input));
            b.write(&mut left, 0, &self.scaled(s));
            b.write(&mut right, 0, self.a(s));
            b.linear_backward_weight(&left, &right, params, s.at, r, s.out, s.input);
        }
    }

    /// Gradient of A and B, laid out as `theta`, from the gradient of the merged weights.
    pub fn gradient<B: Train>(&self, b: &B, grads: &B::Buf) -> Vec<f32> {
        let (r, scale) = (self.spec.rank, self.spec.scale() as f32);
        let mut out = vec![0f32; self.theta.len()];
        for s in &self.sites {
            let (mut left, mut right) = (b.buf(r * s.out), b.buf(r * s.input));
            let (mut d_left, mut d_right) = (b.buf(r * s.out), b.buf(r * s.input));
            b.write(&mut left, 0, &self.scaled(s));
            b.write(&mut right, 0, self.a(s));
            b.linear_backward_input(&left, grads, s.at, &mut d_right, r, s.out, s.input);
            b.linear(&right, grads, s.at, &mut d_left, r, s.out, s.input, false);
            let (to_a, to_b) = out[s.start..][..r * (s.input + s.out)].split_at_mut(r * s.input);
            to_a.copy_from_slice(&b.read(&d_right)[..r * s.input]);
            let d_left = b.read(&d_left);
            for (j, row) in to_b.chunks_exact_mut(r).enumerate() {
                row.iter_mut().enumerate().for_each(|(i, x)| *x = scale * d_left[i * s.out + j]);
            }
        }
        out
    }

    /// `adapter_config.json` and `adapter_model.safetensors`. `base` is the name of the model it belongs to.
    pub fn to_peft(&self, base: &str) -> Result<(Vec<u8>, Vec<u8>), CheckpointError> {
        let mut modules: Vec<&str> = self.sites.iter().filter_map(|s| s.module.rsplit('.').next()).collect();
        modules.sort_unstable();
        modules.dedup();
        let config = json!({"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base,
            "r": self.spec.rank, "lora_alpha": self.spec.alpha(), "lora_dropout": 0.0, "bias": "none",
            "fan_in_fan_out": false, "inference_mode": true, "init_lora_weights": true,
            "target_modules": modules});
        let bytes = |x: &[f32]| bytemuck::cast_slice::<f32, u8>(x).to_vec();
        let r = self.spec.rank;
        let mut tensors = vec![];
        for s in &self.sites {
            let name = |which: &str| format!("base_model.model.{}.{which}.weight", s.module);
            tensors.push((name("lora_A"), Dtype::F32, vec![r, s.input], bytes(self.a(s))));
            tensors.push((name("lora_B"), Dtype::F32, vec![s.out, r], bytes(self.b(s))));
        }
        let config = serde_json::to_vec_pretty(&config).expect("plain data");
        Ok((config, checkpoint::serialize(&tensors)?))
    }

    /// Reads an adapter for this model.
    ///
    /// Errors: another kind of adapter, modules that are no linear layer of the model, tensors missing or of another
    /// shape.
    pub fn from_peft(
        c: &ModelConfig,
        layout: &Layout,
        config: &[u8],
        weights: &[u8],
    ) -> Result<Adapter, CheckpointError> {
        let bad = |m: String| CheckpointError::Format(m).of(CONFIG);
        let v: Value = serde_json::from_slice(config).map_err(|e| bad(e.to_string()))?;
        if v["peft_type"] != "LORA"
            || v["use_dora"] == true
            || v["use_rslora"] == true
            || v["fan_in_fan_out"] == true
        {
            return Err(bad(format!("only plain LoRA is read, this is {}", v["peft_type"])));
        }
        let modules: Vec<&str> =
            v["target_modules"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let rank = v["r"].as_u64().unwrap_or(0) as usize;
        let all = LoraSpec {
            rank: rank.max(1),
            alpha: v["lora_alpha"].as_f64(),
            targets: crate::config::lora::TARGETS.map(String::from).into(),
        };
        let named = |s: &Site| s.module.rsplit('.').next().unwrap_or("").to_string();
        let every = sites(c, layout, &all).0;
        if let Some(odd) = modules.iter().find(|m| !every.iter().any(|s| named(s) == **m)) {
            return Err(bad(format!("target module \"{odd}\" is no linear layer of this model")));
        }
        let targets: Vec<String> = crate::config::lora::TARGETS
            .iter()
            .filter(|t| {
                let one = LoraSpec { targets: vec![t.to_string()], ..all.clone() };
                sites(c, layout, &one).0.first().is_some_and(|s| modules.contains(&named(s).as_str()))
            })
            .map(|t| t.to_string())
            .collect();
        let spec = LoraSpec { rank, targets, ..all };
        spec.validate().map_err(|e| bad(e.to_string()))?;
        let mut adapter = Adapter::new(c, layout, &spec, 0);
        let st = checkpoint::tensors(weights).map_err(|e| e.of(WEIGHTS))?;
        for s in adapter.sites.clone() {
            let (a, b) = adapter.theta[s.start..][..rank * (s.input + s.out)].split_at_mut(rank * s.input);
            for (which, shape, to) in [("lora_A", [rank, s.input], a), ("lora_B", [s.out, rank], b)] {
                let name = format!("base_model.model.{}.{which}.weight", s.module);
                checkpoint::read_tensor(&st, &name, &shape, to).map_err(|e| e.of(WEIGHTS))?;
            }
        }
        Ok(adapter)
    }
}
