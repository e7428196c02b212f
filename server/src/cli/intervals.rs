//! `hilda eval intervals`: which range of mask rates gives a block model's loss the least variance, for `t` of a recipe's
//! next phase (BD3-LM's search).

use std::path::PathBuf;

use hilda_engine::config::PackingSpec;
use hilda_engine::data::Row;
use hilda_engine::data::document::{guess_format, read_documents};
use hilda_engine::data::pack::pack_texts;
use hilda_engine::decode::Attention;
use hilda_engine::diffusion::intervals::search;
use hilda_engine::diffusion::likelihood::{Alphabet, Estimator, Net, groups::Layout, plan_rows};
use hilda_engine::model::Trunk;
use hilda_kernels::Cpu;

use super::CliError;
use super::progress::Progress;
use super::sample::open_model;

#[derive(clap::Args)]
pub struct Args {
    /// model folder, GGUF file, pulled model's name, or a run folder for its newest checkpoint
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// text or JSONL file
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// block size; 0 = whole rows [default: the model's serving block]
    #[arg(long)]
    pub block: Option<usize>,
    /// rows of a batch, over which a variance is taken
    #[arg(long, default_value_t = 16)]
    pub batch: usize,
    /// at most this many batches
    #[arg(long, default_value_t = 8)]
    pub batches: usize,
    /// row length [default: the model's context]
    #[arg(long)]
    pub length: Option<usize>,
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// every candidate as one JSON array
    #[arg(long)]
    pub json: bool,
}

pub fn run(a: Args) -> Result<(), CliError> {
    let bad = CliError::BadInput;
    let data = |e: hilda_engine::data::DataError| CliError::BadInput(e.to_string());
    if !(1..=4096).contains(&a.batch) || !(1..=100).contains(&a.batches) {
        return Err(bad("--batch is 1 to 4096 and --batches 1 to 100".into()));
    }
    let format = guess_format(&a.data).map_err(data)?;
    let documents = read_documents(&a.data, &format).map_err(data)?;
    let (model, tokenizer) = open_model(&a.model)?;
    let block = a.block.unwrap_or(match model.serving.attention {
        Attention::Causal => {
            return Err(bad("the model is causal and masks nothing; name the --block it may become".into()));
        }
        _ => model.serving.block_size,
    });
    let length = a.length.unwrap_or(model.config.context);
    if length > model.config.context || (block > 0 && length % block != 0) {
        let context = model.config.context;
        return Err(bad(format!("--length {length}: at most {context} tokens, in whole blocks of {block}")));
    }
    let packed = pack_texts(&tokenizer, &documents, length).map_err(data)?;
    let n = packed.len().min(a.batch * a.batches);
    let rows: Vec<Row> = (0..n).map(|i| packed.row(i)).collect();
    let packing = PackingSpec { length, documents: false, restart_positions: false, restart_blocks: false };
    let (trunk, shift) = (Trunk::new(model.config.clone()), model.serving.shift);
    let (estimator, block) = (Estimator::NelboN { block, k: 1 }, (block > 0).then_some(block));
    let mut plan = trunk.plan(&Cpu, plan_rows(estimator, length), false);
    let layout = Layout::new(&rows, &packing, block, shift, Alphabet::of(&trunk.config));
    let mut net = Net {
        backend: &Cpu,
        trunk: &trunk,
        params: &model.params,
        plan: &mut plan,
        rows: &rows,
        packing,
        block,
        shift,
    };
    let mut bar = Progress::new("batch");
    let found = search(&mut net, &layout, a.seed, a.batch, &mut |done, of| {
        bar.update(done as u64, of as u64, "");
        true
    })?;
    bar.finish();
    if a.json {
        let line = |i: &hilda_engine::diffusion::intervals::Interval| serde_json::json!({ "t": i.t, "variance": i.variance, "stderr": i.stderr, "loss": i.loss });
        println!("{}", serde_json::Value::from(found.iter().map(line).collect::<Vec<_>>()));
        return Ok(());
    }
    for i in &found {
        let [low, high] = i.t;
        println!("t = [{low}, {high}]  variance {:.4} ± {:.4}, loss {:.4}", i.variance, i.stderr, i.loss);
    }
    Ok(())
}
