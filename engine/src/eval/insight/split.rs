//! Splits by document, and how well a score tells labels apart.
//!
//! A document's fold is a hash of its id and a seed, so that all problems of a document are in one fold. Every score that is
//! reported comes from a fit that saw no problem of its fold ([`apart`] refuses anything else).
//!
//! AUROC = P(score of a labelled problem > of another), ties 1/2, over pairs inside one fold: scores of two folds come from
//! two fits, and a constant fitted in each fold would otherwise rank below chance. Intervals: percentile bootstrap over
//! documents (`methods/evaluation.md` 1.4: the document is the unit).

use std::collections::{BTreeMap, BTreeSet};

use hilda_kernels::rng::{Rng, Stream};

/// A document on both sides of a split.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("document {id} is on both sides of the split")]
pub struct Leak {
    pub id: String,
}

/// The fold of each id.
pub fn folds<S: AsRef<str>>(ids: &[S], k: usize, seed: u64) -> Vec<usize> {
    let fnv = |id: &str| {
        id.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
    };
    ids.iter()
        .map(|id| Rng::new(seed ^ fnv(id.as_ref()), Stream::Order, 0).below(0, 0, 0, k as u64) as usize)
        .collect()
}

/// # Errors
/// [`Leak`] if an id is in both.
pub fn apart<'a>(
    train: impl IntoIterator<Item = &'a str>,
    test: impl IntoIterator<Item = &'a str>,
) -> Result<(), Leak> {
    let seen: BTreeSet<&str> = train.into_iter().collect();
    match test.into_iter().find(|id| seen.contains(id)) {
        Some(id) => Err(Leak { id: id.into() }),
        None => Ok(()),
    }
}

/// A scored problem.
#[derive(Clone, Copy, Debug)]
pub struct Scored {
    pub document: usize,
    pub fold: usize,
    pub score: f64,
    pub label: bool,
}

/// See the module comment; `weight` of each document. None where no fold holds both labels.
fn weighted_auroc(all: &[Scored], weight: &[f64]) -> Option<f64> {
    let mut by_fold: BTreeMap<usize, Vec<&Scored>> = BTreeMap::new();
    all.iter().for_each(|s| by_fold.entry(s.fold).or_default().push(s));
    let (mut won, mut pairs) = (0.0, 0.0);
    for problems in by_fold.values_mut() {
        problems.sort_by(|a, b| a.score.total_cmp(&b.score));
        let total: f64 = problems.iter().filter(|s| !s.label).map(|s| weight[s.document]).sum();
        let (mut below, mut at) = (0.0, 0);
        while at < problems.len() {
            let tie = problems[at..].iter().take_while(|s| s.score == problems[at].score).count();
            let sum = |label: bool| -> f64 {
                let same = problems[at..at + tie].iter().filter(|s| s.label == label);
                same.map(|s| weight[s.document]).sum()
            };
            let (with, without) = (sum(true), sum(false));
            won += with * (below + without / 2.0);
            pairs += with * total;
            below += without;
            at += tie;
        }
    }
    (pairs > 0.0).then(|| won / pairs)
}

/// A value with its 95 % interval over documents.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Range {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// Draws of the bootstrap.
pub const DRAWS: u32 = 1000;

/// A statistic of weighted documents with its percentile interval; none where it is undefined for the documents as they
/// are. Draws for which it is undefined are left out.
pub fn bootstrap(documents: usize, seed: u64, statistic: impl Fn(&[f64]) -> Option<f64>) -> Option<Range> {
    let value = statistic(&vec![1.0; documents])?;
    let rng = Rng::new(seed, Stream::Order, 1);
    let mut all: Vec<f64> = (0..DRAWS)
        .filter_map(|draw| {
            let mut weight = vec![0.0; documents];
            (0..documents)
                .for_each(|i| weight[rng.below(draw, i as u32, 0, documents as u64) as usize] += 1.0);
            statistic(&weight)
        })
        .collect();
    all.sort_by(f64::total_cmp);
    let at = |q: f64| {
        all.get((q * (all.len().saturating_sub(1)) as f64).round() as usize).copied().unwrap_or(value)
    };
    Some(Range { value, low: at(0.025), high: at(0.975) })
}

/// AUROC with its interval.
pub fn auroc(all: &[Scored], documents: usize, seed: u64) -> Option<Range> {
    bootstrap(documents, seed, |weight| weighted_auroc(all, weight))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(all: &[(usize, f64, bool)]) -> Vec<Scored> {
        all.iter()
            .map(|(fold, score, label)| Scored { document: 0, fold: *fold, score: *score, label: *label })
            .collect()
    }

    #[test]
    fn auroc_by_hand() {
        let of = |all: &[(usize, f64, bool)]| weighted_auroc(&scored(all), &[1.0]);
        assert_eq!(of(&[(0, 1.0, false), (0, 2.0, true)]), Some(1.0));
        assert_eq!(of(&[(0, 1.0, true), (0, 2.0, false)]), Some(0.0));
        assert_eq!(of(&[(0, 1.0, true), (0, 1.0, false)]), Some(0.5));
        // pairs: 3 > 2 and 3 > 1, 1 = 1 and 1 < 2
        assert_eq!(of(&[(0, 3.0, true), (0, 1.0, true), (0, 1.0, false), (0, 2.0, false)]), Some(2.5 / 4.0));
        assert_eq!(of(&[(0, 3.0, true), (0, 1.0, true)]), None);
        // pairs across folds do not count
        assert_eq!(of(&[(0, 3.0, true), (0, 1.0, false), (1, 9.0, false), (1, 9.5, true)]), Some(1.0));
        assert_eq!(of(&[(0, 3.0, true), (1, 9.0, false)]), None);
    }

    #[test]
    fn documents_stay_together_and_a_leak_is_caught() {
        let ids: Vec<String> = (0..60).map(|i| format!("story {}", i / 3)).collect();
        let folds = folds(&ids, 5, 7);
        for (a, fa) in ids.iter().zip(&folds) {
            assert!(ids.iter().zip(&folds).all(|(b, fb)| a != b || fa == fb));
        }
        assert_eq!(folds.iter().collect::<BTreeSet<_>>().len(), 5);
        let side =
            |test: bool| ids.iter().zip(&folds).filter(move |f| (*f.1 == 0) == test).map(|f| f.0.as_str());
        assert_eq!(apart(side(false), side(true)), Ok(()));
        // the same documents once more among the others
        let leaked = side(true).next().unwrap();
        let e = apart(side(false).chain([leaked]), side(true)).unwrap_err();
        assert_eq!(e.id, leaked);
    }

    /// Pure chance: the interval holds 0.5, and over many sets about 95 of 100 do.
    #[test]
    fn chance_is_one_half() {
        let rng = Rng::new(1, Stream::Test, 0);
        let mut held = 0;
        for set in 0..40u32 {
            let all: Vec<Scored> = (0..200u32)
                .map(|i| Scored {
                    document: (i / 2) as usize,
                    fold: (i / 2 % 5) as usize,
                    score: rng.uniform(set, i, 0),
                    label: rng.uniform(set, i, 1) < 0.3,
                })
                .collect();
            let r = auroc(&all, 100, u64::from(set)).unwrap();
            assert!((r.value - 0.5).abs() < 0.2, "{r:?}");
            held += u32::from(r.low <= 0.5 && 0.5 <= r.high);
        }
        assert!(held >= 34, "{held} of 40");
    }
}
