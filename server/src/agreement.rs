//! Does another device compute what the CPU computes? One optimiser step of every objective and of the trunk's variants, from the
//! same weights and the same draws: the losses, the gradients and the weights after it are compared (`hilda doctor
//! --compute`; the tests run it on a GPU where there is one).

use hilda_engine::config::{Arch, Family, Mlp, ModelConfig, ModelSpec, RunConfig, Sliding};
use hilda_engine::data::Packed;
use hilda_engine::model::Trunk;
use hilda_engine::train::memory::{keep, plan_rows};
use hilda_engine::train::step::Learner;
use hilda_kernels::{Cpu, Train};
use serde::Serialize;

use crate::device::{Device, Work};

/// Largest difference that counts as rounding: of the gradient and of a step's change, relative to their lengths, and of the
/// loss, relative to itself. Float32 sums over some thousand terms in another order differ by about 1e-6; one wrong
/// tile or index by far more than this.
pub const TOLERANCE: f64 = 2e-4;

/// One comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    pub what: String,
    pub loss: f64,
    pub loss_on_cpu: f64,
    /// |g - g_cpu| / |g_cpu|
    pub gradient: f64,
    /// the same of what the step changed in the weights
    pub update: f64,
}

impl Compared {
    pub fn agrees(&self) -> bool {
        let loss = ((self.loss - self.loss_on_cpu) / self.loss_on_cpu).abs();
        // not written as a negation of "too far": what is not a number does not agree
        loss <= TOLERANCE && self.gradient <= TOLERANCE && self.update <= 5.0 * TOLERANCE
    }
}

const VOCAB: usize = 515;
const LENGTH: usize = 96;
const ROWS: usize = 6;

/// (name, phase, rest of the recipe)
const OBJECTIVES: [(&str, &str, &str); 8] = [
    ("autoregressive", "objective = \"ar\"", ""),
    ("masked", "objective = \"mdlm\"", ""),
    ("masked, shifted", "objective = \"mdlm\"\nshift = true", ""),
    ("blocks of 8", "objective = \"block\"\nblock_size = 8\nshift = true", ""),
    (
        "blocks of 8 with editing rows",
        "objective = \"block\"\nblock_size = 8\nshift = true\nedit = { mix = 0.5, rate = 0.2, lambda_edit = 0.3, lambda_keep = 0.1 }",
        "",
    ),
    ("mask and uniform noise", "objective = \"mdlm\"\nhybrid = { p_uniform = 0.2 }", ""),
    ("confidence", "objective = \"mdlm\"\nconfidence = 0.5", ""),
    ("recomputed layers", "objective = \"mdlm\"", "[memory]\nrecompute = true\n"),
];

/// What the trunk can be beside HILDA's own backbone.
fn shapes() -> Vec<(&'static str, Arch)> {
    let base = Arch { qkv_bias: true, ..Arch::default() };
    vec![
        ("biases (Qwen 2)", Arch { family: Family::Qwen2, ..base.clone() }),
        (
            "head norms (Qwen 3)",
            Arch { family: Family::Qwen3, qkv_bias: false, qk_norm: true, tied: false, ..base },
        ),
        (
            "windows, norms behind layers (Gemma 3)",
            Arch {
                family: Family::Gemma3,
                mlp: Mlp::GeGlu,
                qk_norm: true,
                sandwich: true,
                embed_scale: 11.0,
                sliding: Some(Sliding { window: 24, rope_theta: 1e4, layers: vec![true, false] }),
                ..Arch::default()
            },
        ),
        (
            "layer norm, GELU, biases (DiT)",
            Arch {
                family: Family::Dit,
                layer_norm: true,
                mlp: Mlp::Gelu,
                linear_bias: true,
                qkv_bias: true,
                tied: false,
                head_bias: true,
                ..Arch::default()
            },
        ),
    ]
}

fn recipe(phase: &str, more: &str) -> RunConfig {
    let text = format!(
        "name = \"agreement\"\nseed = 5\n[data]\ntrain = \"none\"\npacking = {{ length = {LENGTH} }}\n[batch]\nrows = {ROWS}\n\
         micro = 3\n{more}[[phase]]\n{phase}\ntokens = 100000\nlr = {{ peak = 1e-3 }}"
    );
    RunConfig::from_toml(&text).expect("a valid recipe")
}

/// Heads of 36 values unless said otherwise, 210 in the feed-forward part, 515 tokens: edges of tiles are part of it.
fn model(arch: Arch) -> ModelConfig {
    let spec = ModelSpec {
        width: Some(144),
        layers: Some(2),
        heads: Some(4),
        kv_heads: Some(2),
        mlp: Some(210),
        context: Some(LENGTH),
        ..Default::default()
    };
    let plain = spec.resolve(VOCAB, 1, 0, vec![1, 2]).expect("a valid shape");
    ModelConfig { arch, ..plain }
}

/// A step's loss, its gradient before clipping, and the weights after it.
struct Step<'a> {
    config: &'a RunConfig,
    trunk: &'a Trunk,
    params: &'a [f32],
    data: &'a Packed,
}

impl Work for Step<'_> {
    type Out = (f64, Vec<f32>, Vec<f32>);

    fn on<B: Train + Clone>(self, b: B) -> Self::Out {
        let config = self.config;
        let mut learner =
            Learner::adapted(b, self.trunk.clone(), self.params, plan_rows(config), keep(config), None);
        let report = learner.step(config, self.data, &config.phases[0], 1e-3, 3);
        (report.loss, learner.gradient(), learner.backend.read(&learner.params))
    }
}

/// |a - b| / |b|
fn apart(a: &[f32], b: &[f32]) -> f64 {
    let square = |d: &mut dyn Iterator<Item = f64>| d.map(|x| x * x).sum::<f64>().sqrt();
    let difference = square(&mut a.iter().zip(b).map(|(a, b)| (*a - *b) as f64));
    difference / square(&mut b.iter().map(|b| *b as f64))
}

/// Every objective on HILDA's backbone, the masked one on every variant of the trunk and with large heads, on `device` and on the CPU.
pub fn compare(device: &Device) -> Vec<Compared> {
    let objectives =
        OBJECTIVES.iter().map(|(what, phase, more)| (*what, recipe(phase, more), model(Arch::default())));
    let masked = || recipe(OBJECTIVES[1].1, "");
    let variants = shapes().into_iter().map(|(what, arch)| (what, masked(), model(arch)));
    // as Gemma 3's smallest has them; other attention kernels than for heads of up to 128
    let large = ModelConfig { head_dim: 256, ..model(Arch::default()) };
    let variants = variants.chain([("heads of 256 values", masked(), large)]);
    objectives.chain(variants).map(|(what, config, model)| one(device, what, &config, model)).collect()
}

fn one(device: &Device, what: &str, config: &RunConfig, model: ModelConfig) -> Compared {
    let trunk = Trunk::new(model);
    // larger than a fresh model's, so that attention and gates are far from their linear range
    let mut params = trunk.layout.init(&trunk.config, config.seed);
    params.iter_mut().filter(|p| **p != 1.0).for_each(|p| *p *= 4.0);
    let rows =
        (0..ROWS * LENGTH).map(|i| if i % 37 == 36 { 0 } else { 3 + (i * i / 5 % (VOCAB - 3)) as u32 });
    let rows: Vec<u32> = rows.collect();
    let data = Packed { tokens: rows.len(), rows, length: LENGTH, eos: 0, documents: 1, answers: vec![] };
    let step = || Step { config, trunk: &trunk, params: &params, data: &data };
    let (loss, gradient, after) = device.run(step());
    let (loss_on_cpu, on_cpu, after_on_cpu) = step().on(Cpu);
    let change = |after: &[f32]| -> Vec<f32> { after.iter().zip(&params).map(|(a, p)| a - p).collect() };
    Compared {
        what: what.into(),
        loss,
        loss_on_cpu,
        gradient: apart(&gradient, &on_cpu),
        update: apart(&change(&after), &change(&after_on_cpu)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{self, Needs};

    #[test]
    fn the_cpu_agrees_with_itself_and_every_case_trains() {
        for c in compare(&Device::Cpu) {
            assert!(c.agrees() && c.gradient == 0.0 && c.update == 0.0, "{c:?}");
            assert!(c.loss > 1.0 && c.loss.is_finite(), "{c:?}");
        }
    }

    #[test]
    fn what_is_not_a_number_does_not_agree() {
        let same = Compared { what: "x".into(), loss: 2.0, loss_on_cpu: 2.0, gradient: 0.0, update: 0.0 };
        assert!(same.agrees());
        assert!(!Compared { gradient: f64::NAN, ..same.clone() }.agrees());
        assert!(!Compared { loss: f64::NAN, ..same.clone() }.agrees());
        assert!(!Compared { gradient: 1e-3, ..same.clone() }.agrees());
        assert!(!Compared { loss: 2.01, ..same }.agrees());
    }

    #[test]
    fn a_gpu_computes_what_the_cpu_computes() {
        match device::open("cuda:0", Needs::default()) {
            Err(why) => println!("SKIPPED a_gpu_computes_what_the_cpu_computes: {why}"),
            Ok((device, _)) => {
                for c in compare(&device) {
                    println!("{c:?}");
                    assert!(c.agrees(), "{c:?}");
                }
            }
        }
    }
}
