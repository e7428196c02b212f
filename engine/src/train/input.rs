//! What a run reads: tokenizer, packed training and validation rows, how many bytes a token stands for, and the shape
//! of the model it goes on from.

use std::path::Path;

use super::checkpoint;
use crate::config::{ModelConfig, RunConfig};
use crate::data::corpus::Registry;
use crate::data::{DataError, Packed, Tokenizer, load};
use crate::model::source::{Source, SourceError};

/// Loaded data.
pub struct Input {
    pub tokenizer: Tokenizer,
    pub train: Packed,
    pub valid: Packed,
    /// UTF-8 bytes per token of the validation rows, end-of-text counted as a token of no bytes
    pub bytes_per_token: f64,
    /// shape of the model that `model.from` names, or of the run's own newest checkpoint
    pub shape: Option<ModelConfig>,
}

/// Reads what the recipe names. Relative paths start at `base`, the run's folder; a resumed run keeps the tokenizer
/// beside its checkpoints. A run that goes on from a model takes that model's tokenizer unless the recipe names one.
pub fn read(
    config: &RunConfig,
    base: &Path,
    registry: &Registry,
    tokenizer: Option<Tokenizer>,
) -> Result<Input, DataError> {
    let failed = |e: SourceError| DataError::Model(e.to_string());
    let (mut shape, mut tokenizer) = (None, tokenizer);
    if let Some(from) = &config.model.from {
        let kept = checkpoint::list(base).last().map(|step| checkpoint::folder(base, *step));
        let source = Source::open(kept.as_deref().unwrap_or(&base.join(from))).map_err(failed)?;
        shape = Some(source.config().map_err(failed)?.0);
        if tokenizer.is_none() && config.data.tokenizer.is_none() {
            tokenizer = source.tokenizer().map_err(failed)?;
        }
    }
    let l = load::load(&config.data, base, registry, tokenizer)?;
    let bytes_per_token = bytes_per_token(&l.tokenizer, &l.valid);
    Ok(Input { tokenizer: l.tokenizer, train: l.train, valid: l.valid, bytes_per_token, shape })
}

/// Mean UTF-8 bytes of the rows' tokens, of answers where there are any.
pub fn bytes_per_token(tokenizer: &Tokenizer, rows: &Packed) -> f64 {
    if rows.answers.is_empty() {
        return tokenizer.text_bytes(&rows.rows) as f64 / rows.rows.len().max(1) as f64;
    }
    let scored: Vec<u32> =
        rows.rows.iter().zip(&rows.answers).filter(|(_, a)| **a).map(|(t, _)| *t).collect();
    tokenizer.text_bytes(&scored) as f64 / scored.len().max(1) as f64
}
