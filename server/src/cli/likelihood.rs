//! The likelihood of a text under a model, for `hilda eval nelbo` and for what quantisation costs.

use std::path::Path;

use hilda_engine::config::PackingSpec;
use hilda_engine::data::document::{guess_format, read_documents};
use hilda_engine::data::pack::pack_texts;
use hilda_engine::data::{DataError, Tokenizer};
use hilda_engine::decode::Attention;
use hilda_engine::diffusion::likelihood::{Estimator, Evaluation, evaluate, plan_rows};
use hilda_engine::model::{LoadedModel, Trunk};
use hilda_engine::record::Estimate;
use hilda_engine::train::input::bytes_per_token;
use hilda_kernels::Cpu;

use super::CliError;
use super::progress::Progress;

/// What to measure; the names are those of the options of `hilda eval nelbo`.
#[derive(Clone, Debug)]
pub struct Measure {
    /// `None`: the model's own
    pub estimator: Option<String>,
    pub block: Option<usize>,
    pub k: usize,
    pub seed: u64,
    /// attention, positions and blocks restart at each document
    pub documents: bool,
    /// `None`: the model's context
    pub length: Option<usize>,
    /// rows at most; 0 = all
    pub limit: usize,
}

/// Errors: a text that does not read, an estimator or a row length that does not fit the model.
pub fn likelihood(
    model: &LoadedModel,
    tokenizer: &Tokenizer,
    text: &Path,
    m: &Measure,
) -> Result<(Estimate, usize), CliError> {
    let bad = CliError::BadInput;
    let data = |e: DataError| CliError::BadInput(e.to_string());
    if !(1..=4096).contains(&m.k) {
        return Err(bad(format!("--k {} is outside 1..4096", m.k)));
    }
    let format = guess_format(text).map_err(data)?;
    let documents = read_documents(text, &format).map_err(data)?;
    let (context, serving) = (model.config.context, model.serving);
    let length = m.length.unwrap_or(context);
    if length > context {
        return Err(bad(format!("--length {length} is longer than the model's context {context}")));
    }
    let block = m.block.unwrap_or(serving.block_size);
    let own = match serving.attention {
        Attention::Causal => "ar",
        Attention::BlockCausal => "nelbo_block",
        Attention::Bidirectional => "nelbo_t",
    };
    let estimator = match m.estimator.as_deref().unwrap_or(own) {
        "ar" => Estimator::Ar,
        "nelbo_t" => Estimator::NelboT { k: m.k },
        "nelbo_block" if block > 0 && length % block == 0 => Estimator::NelboBlock { block, k: m.k },
        "nelbo_block" => return Err(bad(format!("--block {block} must divide the row length {length}"))),
        other => return Err(bad(format!("--estimator {other}: ar, nelbo_t or nelbo_block"))),
    };
    let packed = pack_texts(tokenizer, &documents, length).map_err(data)?;
    let whole = m.documents;
    let packing = PackingSpec { length, documents: whole, restart_positions: whole, restart_blocks: whole };
    let e = Evaluation {
        estimator,
        seed: m.seed,
        shift: serving.shift,
        packing,
        rows: m.limit,
        bytes_per_token: Some(bytes_per_token(tokenizer, &packed)),
    };
    let trunk = Trunk::new(model.config.clone());
    let mut plan = trunk.plan(&Cpu, plan_rows(estimator, length), false);
    let mut bar = Progress::new("forward");
    let began = std::time::Instant::now();
    let estimate = evaluate(&Cpu, &trunk, &model.params, &mut plan, &packed, &e, |done, of| {
        let left = began.elapsed().as_secs_f64() / done as f64 * (of - done) as f64;
        bar.update(done as u64, of as u64, &format!("{} left", super::duration_text(left)));
        true
    });
    bar.finish();
    Ok((estimate.ok_or_else(|| CliError::Failure("stopped".into()))?, length))
}
