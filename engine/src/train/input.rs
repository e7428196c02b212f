//! What a run reads: tokenizer, packed training and validation rows, and how many bytes a token stands for.

use std::path::Path;

use crate::config::RunConfig;
use crate::data::corpus::Registry;
use crate::data::{DataError, Packed, Tokenizer, load};

/// Loaded data.
pub struct Input {
    pub tokenizer: Tokenizer,
    pub train: Packed,
    pub valid: Packed,
    /// UTF-8 bytes per token of the validation rows, end-of-text counted as a token of no bytes
    pub bytes_per_token: f64,
}

/// Reads what the recipe names. Relative paths start at `base`; a resumed run keeps the tokenizer beside its
/// checkpoints.
pub fn read(
    config: &RunConfig,
    base: &Path,
    registry: &Registry,
    tokenizer: Option<Tokenizer>,
) -> Result<Input, DataError> {
    let l = load::load(&config.data, base, registry, tokenizer)?;
    let bytes_per_token = bytes_per_token(&l.tokenizer, &l.valid);
    Ok(Input { tokenizer: l.tokenizer, train: l.train, valid: l.valid, bytes_per_token })
}

/// Mean UTF-8 bytes of the rows' tokens.
pub fn bytes_per_token(tokenizer: &Tokenizer, rows: &Packed) -> f64 {
    tokenizer.text_bytes(&rows.rows) as f64 / rows.rows.len().max(1) as f64
}
