//! `hilda bench`: how fast this machine multiplies, trains and decodes; every figure beside the machine's own
//! measured matrix-product peak (the larger median of five 2048-cubed products before, between and after the timed
//! steps, same threads, same process) and by how much the products differed.

mod ops;
mod peak;

use hilda_engine::config::{ModelConfig, ModelSpec, RunConfig};
use hilda_engine::data::Packed;
use hilda_engine::decode::{CacheOp, ForwardRequest, Want};
use hilda_engine::model::session::Weights;
use hilda_engine::model::{Layout, Serving, Session, Trunk};
use hilda_engine::train::step::{Learner, plan_rows};
use hilda_kernels::{Base, Cpu, par};

use self::peak::{Peak, bandwidth, median};
use super::CliError;

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
    /// positions of a decoding step
    #[arg(long, default_value_t = 128)]
    pub positions: usize,
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

fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM:"));
    line.and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) * 1024
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
    let bandwidth = bandwidth(5);
    let mut peak = Peak::new();
    let more = match args.what.as_str() {
        "train" => train(&args, &mut peak)?,
        "ops" => ops::run(&model(&args.preset, 256)?, args.repeat, &mut peak, bandwidth),
        "decode" => decode(&args, &mut peak)?,
        _ => {
            (0..2).for_each(|_| peak.five());
            let [ours, crate_] = peak.both();
            serde_json::json!({ "ours_gflops": ours, "gemm_crate_gflops": crate_, "peak_bytes": peak_bytes() })
        }
    };
    let machine = serde_json::json!({
        "bench": args.what, "threads": par::threads(), "gemm_gflops": peak.gflops(), "gemm_spread": peak.spread(),
        "bandwidth_gb_s": bandwidth,
    });
    let out = merge(machine, more);
    if args.json {
        println!("{out}");
    } else {
        for (k, v) in out.as_object().into_iter().flatten() {
            println!("{k:<18} {v}");
        }
    }
    Ok(())
}

fn train(args: &Args, peak: &mut Peak) -> Result<serde_json::Value, CliError> {
    let config = model(&args.preset, 256)?;
    let phase = match args.objective.as_str() {
        "ar" => "objective = \"ar\"",
        "mdlm" => "objective = \"mdlm\"",
        "block" => "objective = \"block\"\nblock_size = 8\nshift = true",
        other => return Err(CliError::BadInput(format!("--objective {other}: ar, mdlm or block"))),
    };
    let recipe = RunConfig::from_toml(&format!(
        "name = \"bench\"\n[data]\ntrain = \"none\"\n[batch]\nrows = {}\n[[phase]]\n{phase}\ntokens = 1000000000\nlr = {{ peak = 1e-4 }}",
        args.rows
    ))?;
    let length = recipe.data.packing.length;
    let ids = (0..args.rows * length).map(|i| 3 + (i * 7919 % (config.vocab - 3)) as u32).collect();
    let data = Packed { rows: ids, length, eos: 0, documents: args.rows, tokens: args.rows * length };
    let trunk = Trunk::new(config.clone());
    let params = Layout::new(&config).init(&config, 1);
    let mut learner = Learner::new(Cpu, trunk, &params, plan_rows(&recipe));
    drop(params);
    let mut flops = 0.0;
    let mut once = |step: u64| flops = learner.step(&recipe, &data, &recipe.phases[0], 1e-4, step).flops;
    once(0);
    let mut step = 0;
    let t = median(peak.around(args.repeat, || {
        step += 1;
        once(step);
    }));
    let tokens = (args.rows * length) as f64;
    let figures = serde_json::json!({
        "preset": args.preset, "objective": args.objective, "parameters": config.parameters(),
        "batch_rows": args.rows, "length": length,
        "seconds_per_step": t, "tokens_per_s": tokens / t, "flops_per_step": flops,
        "planned_bytes": learner.bytes(), "peak_bytes": peak_bytes(),
    });
    Ok(merge(figures, peak.share(flops, t)))
}

fn decode(args: &Args, peak: &mut Peak) -> Result<serde_json::Value, CliError> {
    use hilda_engine::decode::Attention;
    let n = args.positions as u32;
    let config = model(&args.preset, args.positions)?;
    let params = Layout::new(&config).init(&config, 1);
    let serving = Serving {
        attention: Attention::Bidirectional,
        block_size: 0,
        shift: false,
        infill: true,
        edits: false,
    };
    let loaded = hilda_engine::model::LoadedModel { config: config.clone(), serving, params };
    let weights = std::sync::Arc::new(Weights::new(&Cpu, &loaded));
    let mut session = Session::new(&Cpu, weights, n as usize);
    let request = ForwardRequest {
        sequence: 0,
        step: 0,
        query_positions: (0..n).collect(),
        ids: vec![config.mask_id; n as usize],
        rule: Base::Bidirectional.into(),
        block_size: 0,
        cache: CacheOp::None,
        want: Want { rows: (0..n).collect(), top_k: 8, ..Default::default() },
    };
    let mut once = || session.answer(&request).map(|_| ()).map_err(|e| CliError::Failure(e.to_string()));
    once()?;
    let mut failed = None;
    let times = peak.around(args.repeat.max(5), || failed = failed.take().or(once().err()));
    let least = times.iter().copied().fold(f64::INFINITY, f64::min);
    let t = median(times);
    if let Some(e) = failed {
        return Err(e);
    }
    let weights = config.parameters() as f64;
    let flops = 2.0 * n as f64 * weights
        + 4.0 * (n as f64).powi(2) * (config.layers * config.heads * config.head_dim) as f64;
    let figures = serde_json::json!({
        "preset": args.preset, "positions": n, "ms_per_step": t * 1e3, "ms_least": least * 1e3, "flops_per_step": flops,
        "peak_bytes": peak_bytes(),
    });
    Ok(merge(figures, peak.share(flops, t)))
}
