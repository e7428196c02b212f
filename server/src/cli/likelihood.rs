//! `hilda eval likelihood` (also `nelbo`): the likelihood of text under a model by one or several estimators, each with
//! its name, draws, seed, standard error over rows and, with `--replicates`, of the draws alone.

use std::path::PathBuf;

use hilda_engine::config::PackingSpec;
use hilda_engine::data::Packed;
use hilda_engine::data::answers;
use hilda_engine::data::document::{guess_format, read_documents};
use hilda_engine::data::pack::{pack_answers, pack_texts};
use hilda_engine::decode::Attention;
use hilda_engine::diffusion::likelihood::{
    Estimator, Evaluation, LikelihoodError, Rule, evaluate, plan_rows,
};
use hilda_engine::model::{Arithmetic, Serving, Trunk};
use hilda_engine::record::Estimate;
use hilda_engine::train::input::bytes_per_token;
use hilda_kernels::{Cpu, Train};

use super::CliError;
use super::arithmetic::Numbers;
use super::progress::Progress;
use super::sample::open_model;
use crate::device::{self, Device, Needs, Work};

#[derive(clap::Args)]
pub struct Args {
    /// model folder, GGUF file, pulled model's name, or a run folder for its newest checkpoint
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// text or JSONL file
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// one or several, with commas: ar, nelbo_t, nelbo_block, nelbo_n, nelbo_exact, nll_l2r, nll_duel, nll_iw, nelbo_hybrid,
    /// nelbo_hybrid_loo; `editing` is mask-only, raw and converted side by side [default: the model's own]
    #[arg(long, value_delimiter = ',')]
    pub estimator: Vec<String>,
    /// block size; 0 = whole rows [default: the model's serving block]; reads a causal model as a block model
    #[arg(long)]
    pub block: Option<usize>,
    /// draws per row
    #[arg(long, default_value_t = 8)]
    pub k: usize,
    /// positions of nll_duel: leftmost, p_max, margin, entropy, or threshold
    #[arg(long, default_value = "p_max")]
    pub rule: String,
    /// tokens a step of p_max, margin and entropy
    #[arg(long, default_value_t = 1)]
    pub per_step: usize,
    /// of the threshold rule
    #[arg(long, default_value_t = 0.9)]
    pub tau: f64,
    /// share of uniform noise of nelbo_hybrid at t = 1/2; 1 is uniform noise alone
    #[arg(long, default_value_t = 0.1)]
    pub p_uniform: f64,
    /// repeat the whole design under as many seeds: the mean, and the error of the draws
    #[arg(long, default_value_t = 1)]
    pub replicates: u64,
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// documents (attention, positions and blocks restart at each) or stream (plain concatenation)
    #[arg(long, default_value = "stream")]
    pub packing: String,
    /// row length [default: the model's context]
    #[arg(long)]
    pub length: Option<usize>,
    /// score only what follows this text in each document, an answer behind its prompt
    #[arg(long, value_name = "TEXT")]
    pub answer_after: Option<String>,
    /// at most this many rows
    #[arg(long, default_value_t = 0)]
    pub limit: usize,
    #[command(flatten)]
    pub numbers: Numbers,
    /// auto, cpu or cuda:N; int8 arithmetic runs on the CPU
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// one line of JSON per estimator
    #[arg(long)]
    pub json: bool,
}

/// The estimators a command names, for a model.
fn estimators(a: &Args, serving: Serving) -> Result<Vec<Estimator>, CliError> {
    let bad = |m: String| CliError::BadInput(m);
    let (block, k, p_uniform) = (a.block.unwrap_or(serving.block_size), a.k, a.p_uniform);
    let whole = serving.attention == Attention::Bidirectional;
    let block_or_whole = if whole && a.block.is_none() { 0 } else { block };
    let rule = match a.rule.as_str() {
        "leftmost" => Rule::Leftmost,
        "p_max" => Rule::PMax { k: a.per_step },
        "margin" => Rule::Margin { k: a.per_step },
        "entropy" => Rule::Entropy { k: a.per_step },
        "threshold" => Rule::Threshold { tau: a.tau },
        "random" | "ancestral" => {
            return Err(bad(
                "--rule random: a random order has no chain; its bound is nelbo_n or nelbo_block_n".into(),
            ));
        }
        "edit" => {
            return Err(bad(
                "--rule edit: no likelihood is known for texts that were edited; use --estimator editing, the bounds of \
                 the processes the model was trained on".into(),
            ));
        }
        other => {
            return Err(bad(format!("--rule {other}: leftmost, p_max, margin, entropy or threshold")));
        }
    };
    let mask_only = |block| match block {
        0 => Estimator::NelboT { k },
        block => Estimator::NelboBlock { block, k },
    };
    let hybrid = |loo| Estimator::Hybrid { p_uniform, loo, block: block_or_whole, k };
    let own = match serving.attention {
        Attention::Causal => Estimator::Ar,
        Attention::BlockCausal => Estimator::NelboBlock { block, k },
        Attention::Bidirectional => Estimator::NelboT { k },
    };
    if a.estimator.is_empty() {
        return Ok(vec![own]);
    }
    let mut out = vec![];
    for name in &a.estimator {
        out.extend(match name.as_str() {
            "ar" => vec![Estimator::Ar],
            "nelbo_t" => vec![Estimator::NelboT { k }],
            "nelbo_block" => vec![Estimator::NelboBlock { block, k }],
            "nelbo_n" => vec![Estimator::NelboN { block: block_or_whole, k }],
            "nelbo_exact" => vec![Estimator::NelboExact { block: block_or_whole }],
            "nll_l2r" => vec![Estimator::LeftToRight { block: block_or_whole }],
            "nll_duel" => vec![Estimator::Duel { rule, block: block_or_whole }],
            "nll_iw" => vec![Estimator::Weighted { block: block_or_whole, k }],
            "nelbo_hybrid" => vec![hybrid(false)],
            "nelbo_hybrid_loo" => vec![hybrid(true)],
            "editing" => vec![mask_only(block_or_whole), hybrid(false), hybrid(true)],
            other => {
                return Err(bad(format!(
                    "--estimator {other}: ar, nelbo_t, nelbo_block, nelbo_n, nelbo_exact, nll_l2r, nll_duel, nll_iw, \
                     nelbo_hybrid, nelbo_hybrid_loo or editing"
                )));
            }
        });
    }
    Ok(out)
}

impl From<LikelihoodError> for CliError {
    fn from(e: LikelihoodError) -> Self {
        match e {
            LikelihoodError::Stopped | LikelihoodError::Device { .. } => CliError::Failure(e.to_string()),
            e => CliError::BadInput(e.to_string()),
        }
    }
}

pub fn run(a: Args) -> Result<(), CliError> {
    let bad = |m: String| CliError::BadInput(m);
    if !(1..=4096).contains(&a.k) {
        return Err(bad(format!("--k {} is outside 1..4096", a.k)));
    }
    if !(1..=64).contains(&a.replicates) {
        return Err(bad(format!("--replicates {} is outside 1..64", a.replicates)));
    }
    if !(0.0..=0.9).contains(&a.p_uniform) && a.p_uniform != 1.0 {
        return Err(bad(format!("--p-uniform {}: 0 to 0.9, or 1 for uniform noise alone", a.p_uniform)));
    }
    if a.per_step == 0 {
        return Err(bad("--per-step is at least 1".into()));
    }
    let whole = match a.packing.as_str() {
        "documents" => true,
        "stream" => false,
        other => return Err(bad(format!("--packing {other}: documents or stream"))),
    };
    let data = |e: hilda_engine::data::DataError| CliError::BadInput(e.to_string());
    let format = guess_format(&a.data).map_err(data)?;
    let documents = read_documents(&a.data, &format).map_err(data)?;
    let (model, tokenizer) = open_model(&a.model)?;
    let length = a.length.unwrap_or(model.config.context);
    if length > model.config.context {
        return Err(bad(format!(
            "--length {length} is longer than the model's context {}",
            model.config.context
        )));
    }
    // with a block of its choice a causal model is read as the block model it may become
    let mut serving = model.serving;
    if let (Attention::Causal, Some(block)) = (serving.attention, a.block) {
        (serving.attention, serving.block_size) = (Attention::BlockCausal, block);
    }
    let estimators = estimators(&a, serving)?;
    for e in &estimators {
        if let Some(block) = e.block().or(matches!(e, Estimator::NelboBlock { .. }).then_some(0))
            && (block == 0 || length % block != 0)
        {
            return Err(bad(format!("--block {block} must divide the row length {length}")));
        }
        e.check(serving)?;
    }
    let packed = match &a.answer_after {
        None => pack_texts(&tokenizer, &documents, length),
        Some(marker) if marker.is_empty() => return Err(bad("--answer-after is not empty".into())),
        Some(marker) => answers::stream(&tokenizer, &documents, marker)
            .and_then(|(tokens, answers)| pack_answers(tokens, &answers, length, tokenizer.specials().eos)),
    }
    .map_err(data)?;
    let packing = PackingSpec { length, documents: whole, restart_positions: whole, restart_blocks: whole };
    let integers = (a.numbers.arithmetic() == Arithmetic::Int8).then(|| a.numbers.weights(&Cpu, &model));
    let integers = integers.transpose()?;
    let trunk = integers.as_ref().map_or_else(|| Trunk::new(model.config.clone()), |w| w.trunk.clone());
    let params = integers.as_ref().map_or(&model.params, |w| &w.params);
    let rows = estimators.iter().map(|e| plan_rows(*e, length)).max().unwrap_or(0);
    let device = match (&integers, a.device.as_str()) {
        (Some(_), "auto" | "cpu") => Device::Cpu,
        (Some(_), named) => {
            return Err(bad(format!(
                "--device {named}: --arithmetic {} runs on the CPU",
                a.numbers.arithmetic()
            )));
        }
        (None, named) => device::ready(named, Needs::forward(&trunk, rows))?,
    };
    let bytes_per_token = Some(bytes_per_token(&tokenizer, &packed));
    let evaluation = |estimator, seed| Evaluation {
        estimator,
        seed,
        shift: model.serving.shift,
        packing,
        rows: a.limit,
        bytes_per_token,
    };
    for estimator in estimators {
        let replicates = if estimator.drawn() { a.replicates } else { 1 };
        let wanted = (a.seed..a.seed + replicates).map(|seed| evaluation(estimator, seed)).collect();
        let work = Estimates { trunk: &trunk, params, text: &packed, wanted, show: true, stop: &|| false };
        let (mut r, draws) = joined(&device.run(work)?);
        r.seed = a.seed;
        print(&a, &r, draws, length, replicates);
    }
    Ok(())
}

/// Likelihoods of one text under one model.
pub struct Estimates<'a> {
    pub trunk: &'a Trunk,
    pub params: &'a [f32],
    pub text: &'a Packed,
    pub wanted: Vec<Evaluation>,
    /// with a bar
    pub show: bool,
    /// asked between batches
    pub stop: &'a dyn Fn() -> bool,
}

impl Work for Estimates<'_> {
    type Out = Result<Vec<Estimate>, LikelihoodError>;

    fn on<B: Train + Clone>(self, b: B) -> Self::Out {
        let mut params = b.buf(self.trunk.layout.total);
        b.write(&mut params, 0, self.params);
        let each = self.wanted.iter().map(|e| {
            let mut plan = self.trunk.plan(&b, plan_rows(e.estimator, e.packing.length), false);
            let mut bar = Progress::new("row");
            let began = std::time::Instant::now();
            let estimate = evaluate(&b, self.trunk, &params, &mut plan, self.text, e, |done, of| {
                let left = began.elapsed().as_secs_f64() / done.max(1) as f64 * (of - done) as f64;
                if self.show {
                    bar.update(done as u64, of as u64, &format!("{} left", super::duration_text(left)));
                }
                !(self.stop)()
            });
            bar.finish();
            estimate
        });
        each.collect()
    }
}

/// Mean over replicates, and the standard error that the draws alone leave.
fn joined(runs: &[Estimate]) -> (Estimate, Option<f64>) {
    let n = runs.len() as f64;
    let mean = |f: fn(&Estimate) -> f64| runs.iter().map(f).sum::<f64>() / n;
    let mut r = runs[0].clone();
    r.value = mean(|e| e.value);
    r.stderr = mean(|e| e.stderr);
    r.bits_per_byte = r.bits_per_byte.map(|_| mean(|e| e.bits_per_byte.unwrap_or(f64::NAN)));
    let square: f64 = runs.iter().map(|e| (e.value - r.value).powi(2)).sum();
    (r, (runs.len() > 1).then(|| (square / (n - 1.0) / n).sqrt()))
}

fn print(a: &Args, r: &Estimate, draws: Option<f64>, length: usize, replicates: u64) {
    if a.json {
        let line = serde_json::json!({
            "nelbo": r.value, "estimator": r.estimator, "k": r.k, "stderr": r.stderr,
            "bits_per_byte": r.bits_per_byte, "tokens": r.tokens, "rows": r.rows, "seed": r.seed,
            "arithmetic": a.numbers.arithmetic(), "packing": a.packing, "length": length, "replicates": replicates, "stderr_draws": draws,
        });
        println!("{line}");
        return;
    }
    let draws = draws.map_or(String::new(), |s| format!(", draws alone ± {s:.4}"));
    println!(
        "{} = {:.4} ± {:.4} nats per token, {:.4} bits per byte ({} tokens in {} rows, seed {}{draws})",
        r.estimator,
        r.value,
        r.stderr,
        r.bits_per_byte.unwrap_or(f64::NAN),
        r.tokens,
        r.rows,
        r.seed
    );
}
