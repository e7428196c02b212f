//! `hilda bench`: how fast a device multiplies, trains and decodes; every figure beside the device's own measured
//! matrix-product peak (the larger median of five products before, between and after the timed steps, same process) and
//! by how much the products differed.

mod batched;
mod memory;
mod ops;
mod peak;
mod products;

use hilda_engine::config::{ModelConfig, ModelSpec, RunConfig};
use hilda_engine::data::Packed;
use hilda_engine::decode::{CacheOp, ForwardRequest, Want};
use hilda_engine::model::source::Source;
use hilda_engine::model::{Arithmetic, Layout, Serving, Session, Trunk, Weights};
use hilda_engine::train::{
    self,
    memory::{keep, plan_rows},
    step::Learner,
};
use hilda_kernels::{Base, Cpu, Train, par};

use self::peak::{Peak, median, seconds};
use super::CliError;
use super::arithmetic::Numbers;
use crate::device::{self, Device, Needs};

#[derive(clap::Args)]
pub struct Args {
    /// gemm, ops, train or decode
    #[arg(default_value = "train")]
    pub what: String,
    /// 2m, 9m, 14m or 135m (SmolLM2's shape)
    #[arg(long, default_value = "9m")]
    pub preset: String,
    /// ar, mdlm or block
    #[arg(long, default_value = "ar")]
    pub objective: String,
    /// timed repetitions; the median counts
    #[arg(long, default_value_t = 5)]
    pub repeat: usize,
    /// rows of a training batch
    #[arg(long, default_value_t = 8)]
    pub rows: usize,
    /// train: rows of one forward [default: as hilda train chooses]
    #[arg(long, value_name = "N")]
    pub micro: Option<usize>,
    /// train: compute the layers once more in the backward pass instead of keeping their activations
    #[arg(long)]
    pub recompute: bool,
    /// positions of a decoding step
    #[arg(long, default_value_t = 128)]
    pub positions: usize,
    /// decode: model folder, GGUF file or pulled model's name, instead of a preset with weights that nobody trained
    #[arg(long, value_name = "DIR", conflicts_with = "preset")]
    pub model: Option<std::path::PathBuf>,
    /// decode: products in these numbers, beside f32
    #[command(flatten)]
    pub numbers: Numbers,
    /// auto, cpu or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: String,
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    #[arg(long)]
    pub json: bool,
}

fn merge(mut a: serde_json::Value, b: serde_json::Value) -> serde_json::Value {
    if let (Some(a), serde_json::Value::Object(b)) = (a.as_object_mut(), b) {
        a.extend(b);
    }
    a
}

fn model(preset: &str, context: usize) -> Result<ModelConfig, CliError> {
    let spec = ModelSpec { context: Some(context.max(256)), ..Default::default() };
    let (vocab, spec) = match preset {
        "135m" => {
            let (width, layers, heads, kv_heads, mlp) = (Some(576), Some(30), Some(9), Some(3), Some(1536));
            (49152, ModelSpec { width, layers, heads, kv_heads, mlp, ..spec })
        }
        "14m" => (8192, ModelSpec { size: Some(preset.into()), ..spec }),
        _ => (4096, ModelSpec { size: Some(preset.into()), ..spec }),
    };
    Ok(spec.resolve(vocab, 1, 0, vec![1, 2])?)
}

pub fn run(args: Args) -> Result<(), CliError> {
    super::train::use_threads(args.threads)?;
    if !(1..=1000).contains(&args.repeat) || !(1..=4096).contains(&args.rows) {
        return Err(CliError::BadInput("--repeat and --rows start at 1".into()));
    }
    if !(1..=1 << 16).contains(&args.positions) {
        return Err(CliError::BadInput(format!("--positions {}: 1 to 65536", args.positions)));
    }
    if !["gemm", "ops", "train", "decode"].contains(&args.what.as_str()) {
        return Err(CliError::BadInput(format!("bench {}: gemm, ops, train or decode", args.what)));
    }
    let numbers = args.numbers.arithmetic();
    if numbers != Arithmetic::F32 && args.what != "decode" {
        let what = &args.what;
        return Err(CliError::BadInput(format!(
            "bench {what} --arithmetic {numbers}: decode alone, for the rest is f32"
        )));
    }
    // presets are small, a named model may be anything
    let needs = match &args.model {
        Some(named) if args.what == "decode" => {
            let place = crate::library::place(&super::data_dir(), named);
            let config = Source::open(&place).and_then(|s| s.config());
            let (config, _) = config.map_err(|e| CliError::BadInput(e.to_string()))?;
            Needs::forward(&Trunk::new(config), args.positions)
        }
        _ => Needs::default(),
    };
    let device = device::ready(&args.device, needs)?;
    let out = merge(what(&args, &device), measured(&args, &device)?);
    if args.json {
        println!("{out}");
    } else {
        for (k, v) in out.as_object().into_iter().flatten() {
            println!("{k:<18} {v}");
        }
    }
    Ok(())
}

/// What is measured, where.
fn what(args: &Args, device: &Device) -> serde_json::Value {
    let mut out =
        serde_json::json!({ "bench": args.what, "device": device.name(), "threads": par::threads() });
    #[cfg(feature = "cuda")]
    if let Device::Cuda(cuda) = device {
        let promised = cuda.device().promised();
        out["data_sheet_gflops"] = promised.map(|p| p.0).into();
        out["data_sheet_gb_s"] = promised.map(|p| p.1).into();
    }
    out
}

/// The figures, and the peaks they stand beside.
fn measured(args: &Args, device: &Device) -> Result<serde_json::Value, CliError> {
    match device {
        Device::Cpu => {
            let ways = vec![("ours", Cpu)];
            Measure { args, memory: None, ways, bandwidth: peak::triad(5) }.all(Peak::cpu())
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => {
            let mut ways = vec![("ours", cuda.own_products())];
            if cuda.device().has_cublas() {
                ways.push(("cublas", cuda.clone()));
            }
            let (bandwidth, peak) = (peak::copy(cuda, args.repeat), Peak::of(&ways));
            let out = Measure { args, memory: device.memory(), ways, bandwidth }.all(peak);
            match cuda.first_failure() {
                Some(e) => Err(CliError::Failure(e.to_string())),
                None => out,
            }
        }
    }
}

/// A device's ways to compute products, the last of which is what training and decoding use.
struct Measure<'a, B: Train + Clone> {
    args: &'a Args,
    /// bytes of the device's own memory to plan with
    memory: Option<usize>,
    ways: Vec<(&'static str, B)>,
    bandwidth: f64,
}

impl<B: Train + Clone + Sync> Measure<'_, B>
where
    Session<B>: Send,
{
    fn all(&self, mut peak: Peak) -> Result<serde_json::Value, CliError> {
        let (args, b) = (self.args, &self.ways.last().expect("a device has one way at least").1);
        let more = match args.what.as_str() {
            "train" => train(args, b, self.memory, &mut peak)?,
            "ops" => ops::run(b, &model(&args.preset, 256)?, args.repeat, &mut peak, self.bandwidth),
            "decode" => decode(args, b, &mut peak)?,
            _ => {
                (0..2).for_each(|_| peak.five());
                let products = products::run(&self.ways, &model(&args.preset, 256)?, args.repeat);
                let ways = serde_json::Value::Object(peak.by_name());
                merge(ways, serde_json::json!({ "products": products, "peak_bytes": memory::peak() }))
            }
        };
        let machine = serde_json::json!({
            "gemm_gflops": peak.gflops(), "gemm_spread": peak.spread(), "bandwidth_gb_s": self.bandwidth,
        });
        Ok(merge(machine, more))
    }
}

fn train<B: Train + Clone>(
    args: &Args,
    b: &B,
    memory: Option<usize>,
    peak: &mut Peak,
) -> Result<serde_json::Value, CliError> {
    let config = model(&args.preset, 256)?;
    let phase = match args.objective.as_str() {
        "ar" => "objective = \"ar\"",
        "mdlm" => "objective = \"mdlm\"",
        "block" => "objective = \"block\"\nblock_size = 8\nshift = true",
        other => return Err(CliError::BadInput(format!("--objective {other}: ar, mdlm or block"))),
    };
    let micro = args.micro.map_or(String::new(), |m| format!("micro = {m}\n"));
    let mut recipe = RunConfig::from_toml(&format!(
        "name = \"bench\"\n[data]\ntrain = \"none\"\n[batch]\nrows = {}\n{micro}[memory]\nrecompute = {}\n[[phase]]\n{phase}\ntokens = 1000000000\nlr = {{ peak = 1e-4 }}",
        args.rows, args.recompute
    ))?;
    let length = recipe.data.packing.length;
    let ids = (0..args.rows * length).map(|i| 3 + (i * 7919 % (config.vocab - 3)) as u32).collect();
    let data = Packed {
        rows: ids,
        length,
        eos: 0,
        documents: args.rows,
        tokens: args.rows * length,
        answers: vec![],
    };
    let trunk = Trunk::new(config.clone());
    recipe.batch.chosen = Some(train::memory::micro_for(&recipe, &trunk, memory));
    // (held, most) before anything of the step is there
    let most = memory::peak();
    let resident = memory::restart();
    let before = (b.allocated().unwrap_or(resident), most);
    let params = Layout::new(&config).init(&config, 1);
    let planned = train::planned_bytes(&recipe, &trunk);
    let mut learner = Learner::adapted(b.clone(), trunk, &params, plan_rows(&recipe), keep(&recipe), None);
    drop(params);
    let mut flops = 0.0;
    let mut once = |step: u64| flops = learner.step(&recipe, &data, &recipe.phases[0], 1e-4, step).flops;
    once(0);
    // before the products that the peak is measured with
    let allocated = b.allocated().unwrap_or_else(memory::peak) - before.0;
    let mut step = 0;
    let t = median(peak.around(args.repeat, || {
        step += 1;
        once(step);
    }));
    let tokens = (args.rows * length) as f64;
    let figures = serde_json::json!({
        "preset": args.preset, "objective": args.objective, "parameters": config.parameters(),
        "batch_rows": args.rows, "micro": train::memory::micro_rows(&recipe), "length": length,
        "seconds_per_step": t, "tokens_per_s": tokens / t, "flops_per_step": flops,
        "recompute": args.recompute, "planned_bytes": planned,
        "allocated_bytes": allocated, "peak_bytes": before.1.max(memory::peak()),
    });
    Ok(merge(figures, peak.share(flops, t)))
}

/// Steps in a row of one arithmetic where two are compared.
const TURN: usize = 5;

fn decode<B: Train + Sync>(args: &Args, b: &B, peak: &mut Peak) -> Result<serde_json::Value, CliError>
where
    Session<B>: Send,
{
    use hilda_engine::decode::Attention;
    let n = args.positions as u32;
    let loaded = match &args.model {
        Some(named) => super::sample::open_model(named)?.0,
        None => {
            let config = model(&args.preset, args.positions)?;
            let params = Layout::new(&config).init(&config, 1);
            let serving = Serving {
                attention: Attention::Bidirectional,
                block_size: 0,
                shift: false,
                infill: true,
                edits: false,
                uniform: false,
            };
            hilda_engine::model::LoadedModel { config, serving, params }
        }
    };
    let config = loaded.config.clone();
    if args.positions > config.context {
        let (asked, context) = (args.positions, config.context);
        return Err(CliError::BadInput(format!("--positions {asked}: the model reads {context}")));
    }
    let numbers = args.numbers.arithmetic();
    let weights = std::sync::Arc::new(args.numbers.weights(b, &loaded)?);
    let beside = (numbers != Arithmetic::F32).then(|| std::sync::Arc::new(Weights::new(b, &loaded)));
    drop(loaded);
    let first = u32::from(weights.shift);
    let session = |weights: &std::sync::Arc<Weights<B>>| Session::new(b, weights.clone(), n as usize);
    let (mut session, mut beside) = (session(&weights), beside.as_ref().map(session));
    let request = ForwardRequest {
        sequence: 0,
        step: 0,
        query_positions: (0..n).collect(),
        ids: vec![config.mask_id; n as usize],
        rule: Base::Bidirectional.into(),
        block_size: 0,
        cache: CacheOp::None,
        compression: Default::default(),
        want: Want { rows: (first..n).collect(), top_k: 8, ..Default::default() },
    };
    let step = |session: &mut Session<B>| {
        session.answer_on(b, &request).map(|_| ()).map_err(|e| CliError::Failure(e.to_string()))
    };
    let mut failed = step(&mut session).err();
    let mut times = vec![];
    let mut plain = vec![];
    if let Some(other) = &mut beside {
        // in turn, several steps each, the first of which finds the other's weights in the caches
        let mut some = |session: &mut Session<B>, times: &mut Vec<f64>| {
            for i in 0..=TURN {
                let t = seconds(|| failed = failed.take().or(step(session).err()));
                times.extend((i > 0).then_some(t));
            }
        };
        peak.around(args.repeat.max(5).div_ceil(TURN), || {
            some(other, &mut plain);
            some(&mut session, &mut times);
        });
    } else {
        times = peak.around(args.repeat.max(5), || failed = failed.take().or(step(&mut session).err()));
    }
    if let Some(e) = failed {
        return Err(e);
    }
    let least = |times: &[f64]| times.iter().copied().fold(f64::INFINITY, f64::min);
    let (least, plain_least, t) = (least(&times), least(&plain), median(times));
    let flops = 2.0 * n as f64 * config.parameters() as f64
        + 4.0 * (n as f64).powi(2) * (config.layers * config.heads * config.head_dim) as f64;
    // integers are multiplied faster than the float32 products of the peak: a share of it says nothing
    let share = if numbers == Arithmetic::F32 { peak.share(flops, t) } else { serde_json::json!({}) };
    let batched = batched::run(b, &weights, args.positions, args.repeat, peak)?;
    let beside = beside.map(|_| {
        let plain = median(plain);
        serde_json::json!({ "ms_per_step": plain * 1e3, "ms_least": plain_least * 1e3, "gain": plain / t })
    });
    let name = args.model.as_ref().map_or(args.preset.clone(), |m| m.display().to_string());
    let figures = serde_json::json!({
        "model": name, "positions": n, "batched": batched, "ms_per_step": t * 1e3, "ms_least": least * 1e3, "flops_per_step": flops,
        "arithmetic": numbers, "weights_bytes": weights.bytes(), "f32": beside, "peak_bytes": memory::peak(),
    });
    Ok(merge(figures, share))
}
