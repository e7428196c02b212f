//! `hilda bench`: how fast this machine multiplies, trains and decodes; every figure beside the machine's own
//! measured matrix-product peak (the larger median of five 2048-cubed products before, between and after the timed
//! steps, same threads, same process) and by how much the products differed.

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

/// The machine's matrix-product peak, measured around the work that is compared with it: machines shared with others
/// are now faster, now slower, and a peak from a slow moment would make any work look good.
struct Peak {
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
    /// GFLOP/s of each product, in groups: before the work, between its steps, after it
    groups: Vec<Vec<f64>>,
}

impl Peak {
    const N: usize = 2048;

    /// Warms up: until two products in a row take the same time within 5 %, at most eight.
    fn new() -> Peak {
        let fill = |m: usize| (0..Self::N * Self::N).map(|i| (i % m) as f32 * 1e-2).collect();
        let mut peak = Peak { a: fill(101), b: fill(97), c: vec![0f32; Self::N * Self::N], groups: vec![] };
        let mut last = peak.product();
        for _ in 0..7 {
            let now = peak.product();
            if (now / last - 1.0).abs() < 0.05 {
                break;
            }
            last = now;
        }
        peak
    }
    /// GFLOP/s of one product of 2048-cubed f32 matrices.
    fn product(&mut self) -> f64 {
        let n = Self::N;
        let (a, b) = (Mat::rows(&self.a, n), Mat::rows(&self.b, n));
        let t = seconds(|| gemm(Threads::Pool, n, n, n, 1.0, a, b, &mut self.c, n, false));
        2.0 * (n as f64).powi(3) / t / 1e9
    }
    /// A group of five products.
    fn five(&mut self) {
        let group = (0..5).map(|_| self.product()).collect();
        self.groups.push(group);
    }
    /// Measures five, then runs `once` `repeat` times with a product after each, then five again. Seconds of each run.
    fn around(&mut self, repeat: usize, mut once: impl FnMut()) -> Vec<f64> {
        self.five();
        let (mut times, mut between) = (vec![], vec![]);
        for i in 0..repeat {
            times.push(seconds(&mut once));
            if i < 10 {
                between.push(self.product());
            }
        }
        self.groups.push(between);
        self.five();
        times
    }
    /// The largest of the groups' medians; a group of less than five has none.
    fn gflops(&self) -> f64 {
        self.groups.iter().filter(|g| g.len() >= 5).map(|g| median(g.clone())).fold(0.0, f64::max)
    }
    /// Largest minus smallest product over the peak.
    fn spread(&self) -> f64 {
        let all = || self.groups.iter().flatten().copied();
        (all().fold(0.0, f64::max) - all().fold(f64::INFINITY, f64::min)) / self.gflops()
    }
    /// Share of the peak that work of `flops` in `t` seconds reached, as JSON: nothing where it came out above 1, because
    /// then the machine was slower while its peak was measured than while it worked.
    fn share(&self, flops: f64, t: f64) -> serde_json::Value {
        let share = flops / t / 1e9 / self.gflops();
        if share <= 1.0 {
            return serde_json::json!({ "gemm_share": share });
        }
        let note =
            format!("came out as {share:.2}: the machine's speed changed during the measurement; repeat it");
        serde_json::json!({ "gemm_share": null, "gemm_share_note": note })
    }
}

fn merge(mut a: serde_json::Value, b: serde_json::Value) -> serde_json::Value {
    if let (Some(a), serde_json::Value::Object(b)) = (a.as_object_mut(), b) {
        a.extend(b);
    }
    a
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
    if !["gemm", "train", "decode"].contains(&args.what.as_str()) {
        return Err(CliError::BadInput(format!("bench {}: gemm, train or decode", args.what)));
    }
    let bandwidth = bandwidth(5);
    let mut peak = Peak::new();
    let more = match args.what.as_str() {
        "train" => train(&args, &mut peak)?,
        "decode" => decode(&args, &mut peak)?,
        _ => {
            (0..2).for_each(|_| peak.five());
            serde_json::json!({})
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
    let mut failed = None;
    let t = median(peak.around(args.repeat.max(5), || failed = failed.take().or(once().err())));
    if let Some(e) = failed {
        return Err(e);
    }
    let weights = config.parameters() as f64;
    let flops = 2.0 * n as f64 * weights + 4.0 * (n * n) as f64 * (config.layers * config.width) as f64;
    let figures = serde_json::json!({
        "preset": args.preset, "positions": n, "ms_per_step": t * 1e3, "flops_per_step": flops,
        "peak_bytes": peak_bytes(),
    });
    Ok(merge(figures, peak.share(flops, t)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_above_one_is_not_reported() {
        let groups = vec![vec![100.0; 5], vec![400.0; 2], vec![90.0, 200.0, 200.0, 200.0, 210.0]];
        let peak = Peak { a: vec![], b: vec![], c: vec![], groups };
        assert_eq!((peak.gflops(), peak.spread()), (200.0, 310.0 / 200.0));
        assert_eq!(peak.share(100e9, 1.0)["gemm_share"], 0.5);
        let odd = peak.share(300e9, 1.0);
        assert!(
            odd["gemm_share"].is_null() && odd["gemm_share_note"].as_str().unwrap().contains("1.50"),
            "{odd}"
        );
    }
}
