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

/// Bytes of the largest file that is read: a million tokens with counts of seven digits.
pub const MOST_BYTES: usize = 8 << 20;

/// How often each token of a vocabulary occurs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frequencies {
    counts: Arc<[u64]>,
    tokens: u64,
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
        Ok(Frequencies { counts: counts.into(), tokens })
    }

    /// Reads the file of a model whose embedding has `vocab` rows.
    ///
    /// # Errors
    /// Not such a file, one that is larger than any, whose sum is not its counts', or that counts more tokens than there are.
    pub fn read(json: &[u8], vocab: usize) -> Result<Frequencies, DataError> {
        let bad = |m: String| DataError::Tokenizer(format!("{FREQUENCIES}: {m}"));
        if json.len() > MOST_BYTES {
            return Err(bad(format!("{} bytes, at most {MOST_BYTES} are read", json.len())));
        }
        let file: File = serde_json::from_slice(json).map_err(|e| bad(e.to_string()))?;
        if file.counts.len() > vocab {
            return Err(bad(format!("{} tokens, the embedding has {vocab} rows", file.counts.len())));
        }
        let sum = file.counts.iter().fold(0u64, |n, c| n.saturating_add(*c));
        if sum != file.tokens {
            return Err(bad(format!("its counts sum to {sum}, not to {}", file.tokens)));
        }
        Frequencies::of(&file.counts)
    }

    /// The file.
    pub fn json(&self) -> Vec<u8> {
        let file = File { tokens: self.tokens, counts: self.counts.to_vec() };
        serde_json::to_vec(&file).expect("plain data")
    }

    /// Tokens counted.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }
    /// By token id.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }
    /// ln f of a token; one that was not counted counts as seen once.
    pub fn ln(&self, id: u32) -> f32 {
        let count = self.counts.get(id as usize).copied().unwrap_or(0).max(1);
        (count as f64 / self.tokens as f64).ln() as f32
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
        let counted = Frequencies::of(&[6, 0, 2]).unwrap();
        let f = Frequencies::read(&counted.json(), 3).unwrap();
        assert_eq!(f, counted);
        assert_eq!((f.tokens(), f.counts()), (8, &[6, 0, 2][..]));
        assert!(Frequencies::read(&counted.json(), 2).unwrap_err().to_string().contains("has 2 rows"));
        let long = vec![b' '; MOST_BYTES + 1];
        assert!(Frequencies::read(&long, 3).unwrap_err().to_string().contains("at most"));
        for (id, p) in [(0, 0.75f32), (1, 0.125), (2, 0.25), (9, 0.125)] {
            assert!((f.ln(id) - p.ln()).abs() < 1e-6);
        }
        for bad in ["", "[]", r#"{"tokens": 3, "counts": [1, 1]}"#, r#"{"tokens": 0, "counts": []}"#] {
            let e = Frequencies::read(bad.as_bytes(), 3).unwrap_err().to_string();
            assert!(e.contains(FREQUENCIES), "{e}");
        }
    }

    /// The demo model's: its stories' tokens, one end of text a story, no token that is never written.
    #[test]
    fn the_demo_models() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../public/models/hilda-tiny/");
        let json = std::fs::read(format!("{folder}{FREQUENCIES}")).unwrap();
        let f = Frequencies::read(&json, 4096).unwrap();
        assert_eq!(
            (f.tokens(), f.counts().len(), f.counts()[..3].to_vec()),
            (585_204, 4096, vec![2720, 0, 0])
        );
        assert_eq!(f.json(), json, "as `hilda models frequencies` writes it");
    }
}
