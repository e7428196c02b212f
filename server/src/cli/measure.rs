//! The likelihood of a text under a model by the model's own estimator: what other commands put into cards.

use std::path::Path;
use std::time::Instant;

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

use super::progress::Progress;
use super::{CliError, duration_text};

/// `ar`, `nelbo_block` or `nelbo_t` over at most `limit` rows (0 = all) of `length` tokens laid end to end, `k` draws each,
/// seed 0.
///
/// # Errors
/// A text that does not read, a number of draws outside 1..4096, a row that the model's block does not divide.
pub fn own_likelihood(
    model: &LoadedModel,
    tokenizer: &Tokenizer,
    text: &Path,
    length: usize,
    k: usize,
    limit: usize,
) -> Result<Estimate, CliError> {
    let bad = CliError::BadInput;
    let data = |e: DataError| CliError::BadInput(e.to_string());
    if !(1..=4096).contains(&k) {
        return Err(bad(format!("--k {k} is outside 1..4096")));
    }
    let serving = model.serving;
    let estimator = match (serving.attention, serving.block_size) {
        (Attention::Causal, _) => Estimator::Ar,
        (Attention::Bidirectional, _) => Estimator::NelboT { k },
        (Attention::BlockCausal, block) if block > 0 && length % block == 0 => {
            Estimator::NelboBlock { block, k }
        }
        (_, block) => return Err(bad(format!("rows of {length} tokens are not whole blocks of {block}"))),
    };
    let format = guess_format(text).map_err(data)?;
    let packed =
        pack_texts(tokenizer, &read_documents(text, &format).map_err(data)?, length).map_err(data)?;
    let packing = PackingSpec { length, documents: false, restart_positions: false, restart_blocks: false };
    let e = Evaluation {
        estimator,
        seed: 0,
        shift: serving.shift,
        packing,
        rows: limit,
        bytes_per_token: Some(bytes_per_token(tokenizer, &packed)),
    };
    let trunk = Trunk::new(model.config.clone());
    let mut plan = trunk.plan(&Cpu, plan_rows(estimator, length), false);
    let mut bar = Progress::new("row");
    let began = Instant::now();
    let estimate = evaluate(&Cpu, &trunk, &model.params, &mut plan, &packed, &e, |done, of| {
        let left = began.elapsed().as_secs_f64() / done.max(1) as f64 * (of - done) as f64;
        bar.update(done as u64, of as u64, &format!("{} left", duration_text(left)));
        true
    });
    bar.finish();
    Ok(estimate?)
}
