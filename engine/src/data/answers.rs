//! Documents of a prompt and an answer: where the answer begins, so that only its tokens are corrupted, supervised and
//! scored (supervised fine-tuning; LLaDA, arXiv 2502.09992, section 2.2; `methods/block_diffusion.md`, LLaDA 2).
//!
//! An answer begins behind the first occurrence of a marker, which ends the prompt ("\nAnswer:"). Both parts are encoded
//! alone, so that no token lies across the boundary. The end-of-text token belongs to the answer: it teaches to stop.

use super::{DataError, Tokenizer};

/// Documents laid end to end, each with its end-of-text id, and for every token whether it belongs to an answer.
///
/// # Errors
/// A document without the marker, or with nothing behind it.
pub fn stream<S: AsRef<str>>(
    tokenizer: &Tokenizer,
    documents: &[S],
    marker: &str,
) -> Result<(Vec<u32>, Vec<bool>), DataError> {
    let (mut tokens, mut answers) = (vec![], vec![]);
    for (i, document) in documents.iter().enumerate() {
        let document = document.as_ref();
        let fault = |what| DataError::Answer { document: i + 1, what, marker: marker.into() };
        let at = document.find(marker).ok_or_else(|| fault("has no"))? + marker.len();
        let (prompt, answer) = document.split_at(at);
        if answer.trim().is_empty() {
            return Err(fault("has nothing behind"));
        }
        let (prompt, answer) = (tokenizer.encode(prompt)?, tokenizer.encode(answer)?);
        answers.extend(prompt.iter().map(|_| false).chain(answer.iter().map(|_| true)).chain([true]));
        tokens.extend(prompt.into_iter().chain(answer).chain([tokenizer.specials().eos]));
    }
    Ok((tokens, answers))
}
