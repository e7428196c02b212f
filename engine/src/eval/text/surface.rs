//! Entropy of tokens and repetition of words (`methods/evaluation.md` 2.2, 2.3).
//!
//! H = -sum_v (c_v / n) ln(c_v / n) over the first n tokens of a sample; the plug-in value depends on n, so n is fixed,
//! shorter samples are left out and counted, and different n are never compared. Word figures are over lower-cased words,
//! cut to the same number of words for every system that is compared.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

/// Figures of a set of texts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Surface {
    pub texts: usize,
    /// tokens per sample of the entropies
    pub n: usize,
    /// samples shorter than that
    pub shorter: usize,
    /// nats: mean, 10 % quantile, and of all tokens together; absent where no sample is long enough
    pub entropy: Option<f64>,
    pub entropy_tenth: Option<f64>,
    pub entropy_pooled: Option<f64>,
    /// words the following are over
    pub words: usize,
    /// distinct / all n-grams over all texts, n = 1, 2, 4
    pub distinct: [f64; 3],
    /// 1 - distinct / all 4-grams inside a text, mean
    pub repetition: f64,
    /// share of texts in which an n-gram of at most eight words comes four times in a row
    pub loops: f64,
    /// share of neighbouring words that are equal
    pub stutter: f64,
}

/// Nats of the empirical distribution.
pub fn entropy(tokens: &[u32]) -> f64 {
    let mut counts: HashMap<u32, f64> = HashMap::new();
    tokens.iter().for_each(|t| *counts.entry(*t).or_default() += 1.0);
    let n = tokens.len() as f64;
    // summed in a fixed order
    let mut counts: Vec<f64> = counts.into_values().collect();
    counts.sort_by(f64::total_cmp);
    counts.iter().map(|c| -c / n * (c / n).ln()).sum()
}

/// Lower-cased words: letters and apostrophes.
pub fn words(text: &str) -> Vec<String> {
    let word = |c: char| c.is_alphanumeric() || c == '\'';
    text.split(|c| !word(c)).filter(|w| !w.is_empty()).map(str::to_lowercase).collect()
}

/// Figures of texts and their tokens; `n` tokens per entropy, at most `most` words.
pub fn surface(texts: &[(String, Vec<u32>)], n: usize, most: usize) -> Surface {
    let long: Vec<&[u32]> = texts.iter().filter(|t| t.1.len() >= n).map(|t| &t.1[..n]).collect();
    let mut each: Vec<f64> = long.iter().map(|t| entropy(t)).collect();
    each.sort_by(f64::total_cmp);
    let pooled: Vec<u32> = long.concat();
    let some = |v: f64| (!each.is_empty()).then_some(v);

    let mut left = most;
    let words: Vec<Vec<String>> = texts
        .iter()
        .map(|t| {
            let mut w = words(&t.0);
            w.truncate(left);
            left -= w.len();
            w
        })
        .collect();
    let total: usize = words.iter().map(Vec::len).sum();
    let distinct = [1, 2, 4].map(|k| {
        let all: Vec<&[String]> = words.iter().flat_map(|w| w.windows(k)).collect();
        share(all.iter().collect::<HashSet<_>>().len(), all.len())
    });
    let used: Vec<&Vec<String>> = words.iter().filter(|w| w.len() >= 4).collect();
    let repeated = |w: &Vec<String>| {
        let all: Vec<&[String]> = w.windows(4).collect();
        1.0 - share(all.iter().collect::<HashSet<_>>().len(), all.len())
    };
    let pairs: usize = words.iter().map(|w| w.len().saturating_sub(1)).sum();
    let same: usize = words.iter().map(|w| w.windows(2).filter(|p| p[0] == p[1]).count()).sum();
    Surface {
        texts: texts.len(),
        n,
        shorter: texts.len() - long.len(),
        entropy: some(each.iter().sum::<f64>() / each.len().max(1) as f64),
        entropy_tenth: some(each.get(each.len() / 10).copied().unwrap_or(f64::NAN)),
        entropy_pooled: some(entropy(&pooled)),
        words: total,
        distinct,
        repetition: used.iter().map(|w| repeated(w)).sum::<f64>() / used.len().max(1) as f64,
        loops: share(words.iter().filter(|w| looping(w)).count(), words.len()),
        stutter: share(same, pairs),
    }
}

fn share(a: usize, b: usize) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}

/// Does an n-gram of at most eight words come four times in a row?
pub fn looping(words: &[String]) -> bool {
    (1..=8usize).any(|n| {
        let mut run = 0;
        (n..words.len()).any(|i| {
            run = if words[i] == words[i - n] { run + 1 } else { 0 };
            run >= 3 * n
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `methods/evaluation.md` 6.8.
    #[test]
    fn entropies_of_known_samples() {
        assert_eq!(entropy(&[7; 64]), 0.0);
        let permutation: Vec<u32> = (0..64).collect();
        assert!((entropy(&permutation) - 64f64.ln()).abs() < 1e-12);
        let half: Vec<u32> = (0..64).map(|i| i % 2).collect();
        assert!((entropy(&half) - 2f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn repetition_is_seen() {
        let text = |s: &str| (s.to_string(), vec![1, 2, 3, 4]);
        let s = surface(&[text("a b c d e f g h"), text("one one one one one")], 4, 1000);
        assert_eq!((s.texts, s.shorter, s.words), (2, 0, 13));
        assert!((s.entropy.unwrap() - 4f64.ln()).abs() < 1e-12);
        assert_eq!(s.loops, 0.5);
        assert!((s.stutter - 4.0 / 11.0).abs() < 1e-12 && (s.repetition - 0.25).abs() < 1e-12);
        assert!((s.distinct[0] - 9.0 / 13.0).abs() < 1e-12);
        let w = |s: &str| words(s);
        assert!(looping(&w("x a b a b a b a b y")) && !looping(&w("a b a b a b c")));
        assert_eq!(words("Tom's dog, \"Rex\"!"), ["tom's", "dog", "rex"]);
        // shorter than n, and the limit of words
        let s = surface(&[text("a b c d e f g h")], 5, 3);
        assert_eq!((s.shorter, s.entropy, s.words), (1, None, 3));
    }
}
