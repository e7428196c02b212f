//! How often each token occurs in a corpus: `frequencies.json` beside a model's tokenizer, `{"tokens": N, "counts": [..]}`,
//! one count a token id. f(v) = count(v) / N; a token that the corpus does not hold counts as seen once.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{DataError, Tokenizer};

/// Name of the file.
pub const FREQUENCIES: &str = "frequencies.json";

#[derive(Serialize, Deserialize)]
struct File {
    tokens: u64,
    counts: Vec<u64>,
}

/// ln f of every token of a vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub struct Frequencies {
    ln: Arc<[f32]>,
}

impl Frequencies {
    /// From counts by token id.
    ///
    /// # Errors
    /// All of them 0.
    pub fn of(counts: &[u64]) -> Result<Frequencies, DataError> {
        let tokens = counts.iter().fold(0u64, |n, c| n.saturating_add(*c));
        if tokens == 0 {
            return Err(DataError::Tokenizer(format!("{FREQUENCIES}: no token was counted")));
        }
        let ln = counts.iter().map(|c| ((*c).max(1) as f64 / tokens as f64).ln() as f32).collect();
        Ok(Frequencies { ln })
    }

    /// Reads the file.
    ///
    /// # Errors
    /// Not such a file, or one whose sum is not its counts'.
    pub fn read(json: &[u8]) -> Result<Frequencies, DataError> {
        let bad = |m: String| DataError::Tokenizer(format!("{FREQUENCIES}: {m}"));
        let file: File = serde_json::from_slice(json).map_err(|e| bad(e.to_string()))?;
        let sum = file.counts.iter().fold(0u64, |n, c| n.saturating_add(*c));
        if sum != file.tokens {
            return Err(bad(format!("its counts sum to {sum}, not to {}", file.tokens)));
        }
        Frequencies::of(&file.counts)
    }

    /// The file for these counts.
    pub fn json(counts: &[u64]) -> Vec<u8> {
        let file = File { tokens: counts.iter().sum(), counts: counts.to_vec() };
        serde_json::to_vec(&file).expect("plain data")
    }

    /// Size of the vocabulary.
    pub fn len(&self) -> usize {
        self.ln.len()
    }
    pub fn is_empty(&self) -> bool {
        self.ln.is_empty()
    }
    /// ln f of a token; of an id without a count that of a token seen once in as many.
    pub fn ln(&self, id: u32) -> f32 {
        self.ln.get(id as usize).copied().unwrap_or_else(|| self.ln.iter().copied().fold(0.0, f32::min))
    }
}

/// Counts of a tokenizer's ids in documents, each ended by its end of text.
///
/// # Errors
/// Text that the tokenizer cannot write.
pub fn count(tokenizer: &Tokenizer, documents: &[String]) -> Result<Vec<u64>, DataError> {
    let mut counts = vec![0; tokenizer.vocab()];
    for document in documents {
        for id in tokenizer.encode(document)? {
            counts[id as usize] += 1;
        }
        counts[tokenizer.specials().eos as usize] += 1;
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_comes_back() {
        let f = Frequencies::read(&Frequencies::json(&[6, 0, 2])).unwrap();
        assert_eq!(f, Frequencies::of(&[6, 0, 2]).unwrap());
        assert_eq!(f.len(), 3);
        for (id, p) in [(0, 0.75f32), (1, 0.125), (2, 0.25), (9, 0.125)] {
            assert!((f.ln(id) - p.ln()).abs() < 1e-6);
        }
        for bad in ["", "[]", r#"{"tokens": 3, "counts": [1, 1]}"#, r#"{"tokens": 0, "counts": []}"#] {
            let e = Frequencies::read(bad.as_bytes()).unwrap_err().to_string();
            assert!(e.contains(FREQUENCIES), "{e}");
        }
    }
}
