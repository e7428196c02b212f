//! `hilda bench`: how fast this machine multiplies, trains and decodes; every figure beside the machine's own
//! measured matrix-product peak (median of five 2048-cubed products, same threads, same process).

use std::time::Instant;

use hilda_engine::config::{ModelConfig, ModelSpec, RunConfig};
use hilda_engine::data::Packed;
use hilda_engine::decode::{CacheOp, ForwardRequest, Want};
use hilda_engine::model::session::Weights;
use hilda_engine::model::{Layout, Serving, Session, Trunk};
use hilda_engine::train::step::{Learner, plan_rows};
use hilda_kernels::gemm::{Mat, Threads, gemm};
use hilda_kernels::{Base, Cpu, par};

use super::CliError;

#[derive(clap::Args)]
pub struct Args {
    /// gemm, train or decode
    #[arg(default_value = "train")]
    pub what: String,
    /// 2m, 9m or 14m
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
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    #[arg(long)]
    pub json: bool,
}

fn median(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}

fn seconds(f: impl FnOnce()) -> f64 {
    let t = Instant::now();
    f();
    t.elapsed().as_secs_f64()
}

/// GFLOP/s of the machine: median of `repeat` products of 2048-cubed f32 matrices.
pub fn gemm_peak(repeat: usize) -> f64 {
    let n = 2048;
    let a: Vec<f32> = (0..n * n).map(|i| (i % 101) as f32 * 1e-2).collect();
    let b: Vec<f32> = (0..n * n).map(|i| (i % 97) as f32 * 1e-2).collect();
    let mut c = vec![0f32; n * n];
    let mut once = || gemm(Threads::Pool, n, n, n, 1.0, Mat::rows(&a, n), Mat::rows(&b, n), &mut c, n, false);
    once();
    let times = (0..repeat).map(|_| seconds(&mut once)).collect();
    2.0 * (n as f64).powi(3) / median(times) / 1e9
}

/// Copy bandwidth in GB/s over 256 MB (read and write counted).
fn bandwidth(repeat: usize) -> f64 {
    let n = 32 << 20;
    let src = vec![1f32; n];
    let mut dst = vec![0f32; n];
    let mut once = || par::chunks(&mut dst, 1 << 20, |i, d| d.copy_from_slice(&src[i << 20..][..d.len()]));
    once();
    let times = (0..repeat).map(|_| seconds(&mut once)).collect();
    8.0 * n as f64 / median(times) / 1e9
}

fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM:"));
    line.and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn model(preset: &str) -> Result<ModelConfig, CliError> {
    let vocab = if preset == "14m" { 8192 } else { 4096 };
    let spec = ModelSpec { size: Some(preset.into()), ..Default::default() };
    Ok(spec.resolve(vocab, 1, 0, vec![1, 2])?)
}

pub fn run(args: Args) -> Result<(), CliError> {
    super::train::use_threads(args.threads)?;
    if !(1..=1000).contains(&args.repeat) || !(1..=4096).contains(&args.rows) {
        return Err(CliError::BadInput("--repeat and --rows start at 1".into()));
    }
    let gflops = gemm_peak(5);
    let mut out = serde_json::json!({
        "bench": args.what, "threads": par::threads(), "gemm_gflops": gflops, "bandwidth_gb_s": bandwidth(5),
    });
    let more = match args.what.as_str() {
        "gemm" => serde_json::json!({}),
        "train" => train(&args, gflops)?,
        "decode" => decode(&args, gflops)?,
        other => return Err(CliError::BadInput(format!("bench {other}: gemm, train or decode"))),
    };
    if let (Some(o), Some(m)) = (out.as_object_mut(), more.as_object()) {
        o.extend(m.clone());
    }
    if args.json {
        println!("{out}");
    } else {
        for (k, v) in out.as_object().into_iter().flatten() {
            println!("{k:<18} {v}");
        }
    }
    Ok(())
}

fn train(args: &Args, gflops: f64) -> Result<serde_json::Value, CliError> {
    let config = model(&args.preset)?;
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
    let times = (1..=args.repeat as u64).map(|s| seconds(|| once(s))).collect();
    let t = median(times);
    let tokens = (args.rows * length) as f64;
    Ok(serde_json::json!({
        "preset": args.preset, "objective": args.objective, "parameters": config.parameters(),
        "batch_rows": args.rows, "length": length,
        "seconds_per_step": t, "tokens_per_s": tokens / t, "flops_per_step": flops,
        "gemm_share": flops / t / 1e9 / gflops, "planned_bytes": learner.bytes(), "peak_bytes": peak_bytes(),
    }))
}

fn decode(args: &Args, gflops: f64) -> Result<serde_json::Value, CliError> {
    use hilda_engine::decode::Attention;
    let config = model(&args.preset)?;
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
    let n = 128u32;
    let mut session = Session::new(&Cpu, weights, n as usize);
    let request = ForwardRequest {
        sequence: 0,
        step: 0,
        query_positions: (0..n).collect(),
        ids: vec![config.mask_id; n as usize],
        rule: Base::Bidirectional.into(),
        block_size: 0,
        cache: CacheOp::None,
        want: Want { rows: (0..n).collect(), top_k: 8, temperature: 0.0, seed: 0 },
    };
    let mut once = || session.answer(&request).map(|_| ()).map_err(|e| CliError::Failure(e.to_string()));
    once()?;
    let mut times = vec![];
    for _ in 0..args.repeat.max(5) {
        let t = Instant::now();
        once()?;
        times.push(t.elapsed().as_secs_f64());
    }
    let t = median(times);
    let weights = config.parameters() as f64;
    let flops = 2.0 * n as f64 * weights + 4.0 * (n * n) as f64 * (config.layers * config.width) as f64;
    Ok(serde_json::json!({
        "preset": args.preset, "positions": n, "ms_per_step": t * 1e3, "flops_per_step": flops,
        "gemm_share": flops / t / 1e9 / gflops, "peak_bytes": peak_bytes(),
    }))
}
