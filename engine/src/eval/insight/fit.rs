//! Fits the switch and says what it is worth: scores out of fold, AUROC beside baselines, and what a switch at d would have
//! cost and given beside always fast, always slow, and a lot with the same share.

use std::collections::BTreeMap;

use serde::Serialize;

use super::logistic::{FitError, Logistic};
use super::split::{Leak, Range, Scored, apart, auroc, bootstrap, folds};
use super::{Header, Problem};
use crate::decode::{Feature, Switch};

/// Penalties tried, by log loss inside the training side.
const LAMBDAS: [f64; 5] = [3.0, 30.0, 300.0, 3e3, 3e4];
/// Folds of that choice.
const INNER: usize = 3;

/// What d is the chance of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// the slow policy is better, by more than a margin
    Gains { margin: f64 },
    /// the fast policy's quality is below this
    Wrong { below: f64 },
}

impl Target {
    pub fn label(self, p: &Problem) -> bool {
        match self {
            Target::Gains { margin } => p.slow.quality > p.fast.quality + margin,
            Target::Wrong { below } => p.fast.quality < below,
        }
    }
}

/// Problems that nothing can be learned from.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InsightError {
    #[error(transparent)]
    Fit(#[from] FitError),
    #[error(transparent)]
    Leak(#[from] Leak),
    #[error("problem {problem} has no {feature:?} to decide by")]
    Missing { problem: usize, feature: Feature },
    #[error("{documents} documents do not fill {folds} folds")]
    Folds { documents: usize, folds: usize },
}

/// Values of each problem in the order of `features`.
///
/// # Errors
/// A problem without one of them.
pub fn values(problems: &[Problem], features: &[Feature]) -> Result<Vec<Vec<f32>>, InsightError> {
    let of = |(problem, p): (usize, &Problem)| {
        let mut x = Vec::new();
        for feature in features {
            let name = match feature {
                Feature::Known => "known",
                Feature::Near => "near",
                Feature::Open => "open",
                Feature::Entropy => {
                    x.push(p.entropy as f32);
                    continue;
                }
            };
            let e = p.embeddings.get(name).ok_or(InsightError::Missing { problem, feature: *feature })?;
            x.extend(e);
        }
        Ok(x)
    };
    problems.iter().enumerate().map(of).collect()
}

/// Problems as the fits see them.
pub struct Set<'a> {
    pub ids: Vec<&'a str>,
    pub labels: Vec<bool>,
    pub folds: Vec<usize>,
    /// number of each problem's document, and of documents
    pub document: Vec<usize>,
    pub documents: usize,
    k: usize,
    seed: u64,
}

impl<'a> Set<'a> {
    /// # Errors
    /// Fewer documents than folds.
    pub fn new(
        problems: &'a [Problem],
        target: Target,
        k: usize,
        seed: u64,
    ) -> Result<Set<'a>, InsightError> {
        let ids: Vec<&str> = problems.iter().map(|p| p.id.as_str()).collect();
        let mut numbers = BTreeMap::new();
        let document: Vec<usize> = ids
            .iter()
            .map(|id| {
                let next = numbers.len();
                *numbers.entry(*id).or_insert(next)
            })
            .collect();
        let documents = numbers.len();
        if k < 2 || documents < 4 * k {
            return Err(InsightError::Folds { documents, folds: k });
        }
        let labels = problems.iter().map(|p| target.label(p)).collect();
        Ok(Set { folds: folds(&ids, k, seed), ids, labels, document, documents, k, seed })
    }

    fn fit(&self, rows: &[Vec<f32>], on: &[usize], lambda: f64) -> Result<Logistic, InsightError> {
        let x: Vec<&[f32]> = on.iter().map(|i| rows[*i].as_slice()).collect();
        let y: Vec<bool> = on.iter().map(|i| self.labels[*i]).collect();
        Ok(Logistic::fit(&x, &y, lambda)?)
    }

    /// The penalty with the least log loss in folds of the problems `on`; the strongest where none of them can tell, because
    /// what is left to fit on has one label.
    fn penalty(&self, rows: &[Vec<f32>], on: &[usize]) -> Result<f64, InsightError> {
        let ids: Vec<&str> = on.iter().map(|i| self.ids[*i]).collect();
        let inner = folds(&ids, INNER, self.seed + 1);
        let side = |f: usize| -> (Vec<usize>, Vec<usize>) {
            let (test, train): (Vec<_>, Vec<_>) = on.iter().zip(&inner).partition(|(_, g)| **g == f);
            let of = |s: Vec<(&usize, &usize)>| s.into_iter().map(|(i, _)| *i).collect();
            (of(train), of(test))
        };
        let both = |train: &[usize]| train.iter().any(|i| self.labels[*i] != self.labels[train[0]]);
        let sides: Vec<(Vec<usize>, Vec<usize>)> =
            (0..INNER).map(side).filter(|(train, _)| both(train)).collect();
        if sides.is_empty() {
            return Ok(LAMBDAS.iter().copied().fold(0.0, f64::max));
        }
        let mut best = (f64::INFINITY, LAMBDAS[0]);
        for lambda in LAMBDAS {
            let mut loss = 0.0;
            for (train, test) in &sides {
                let fit = self.fit(rows, train, lambda)?;
                for i in test.iter().copied() {
                    let p = fit.p(&rows[i]).clamp(1e-12, 1.0 - 1e-12);
                    loss -= if self.labels[i] { p.ln() } else { (1.0 - p).ln() };
                }
            }
            if loss < best.0 {
                best = (loss, lambda);
            }
        }
        Ok(best.1)
    }

    /// Chance of the label for every problem, from fits (penalty included) that saw no problem of its fold.
    ///
    /// # Errors
    /// A training side with one label.
    pub fn out_of_fold(&self, rows: &[Vec<f32>]) -> Result<Vec<f64>, InsightError> {
        let fold = |f: usize| -> Result<Vec<(usize, f64)>, InsightError> {
            let (test, train): (Vec<usize>, Vec<usize>) = (0..rows.len()).partition(|i| self.folds[*i] == f);
            let of = |side: &[usize]| side.iter().map(|i| self.ids[*i]).collect::<Vec<_>>();
            apart(of(&train), of(&test))?;
            let fit = self.fit(rows, &train, self.penalty(rows, &train)?)?;
            Ok(test.into_iter().map(|i| (i, fit.p(&rows[i]))).collect())
        };
        let mut p = vec![0.0; rows.len()];
        for told in hilda_kernels::par::map(self.k, fold) {
            told?.into_iter().for_each(|(i, chance)| p[i] = chance);
        }
        Ok(p)
    }

    /// AUROC of scores, none where they are all of one label.
    pub fn auroc(&self, scores: &[f64], labels: &[bool]) -> Option<Range> {
        let of = |i: usize| Scored {
            document: self.document[i],
            fold: self.folds[i],
            score: scores[i],
            label: labels[i],
        };
        let all: Vec<Scored> = (0..scores.len()).filter(|i| !scores[*i].is_nan()).map(of).collect();
        auroc(&all, self.documents, self.seed)
    }

    /// The switch fitted on everything, for use.
    ///
    /// # Errors
    /// As [`Set::out_of_fold`].
    pub fn switch(
        &self,
        rows: &[Vec<f32>],
        features: &[Feature],
        header: &Header,
        note: String,
    ) -> Result<Switch, InsightError> {
        let all: Vec<usize> = (0..rows.len()).collect();
        let fit = self.fit(rows, &all, self.penalty(rows, &all)?)?;
        let f = |v: &[f64]| v.iter().map(|x| *x as f32).collect();
        Ok(Switch {
            fast: header.fast,
            slow: header.slow,
            features: features.to_vec(),
            mean: f(&fit.mean),
            scale: f(&fit.scale),
            weights: f(&fit.weights),
            bias: fit.bias as f32,
            note,
        })
    }
}

/// A way to choose, over all problems.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub name: String,
    /// share of problems that the slow policy writes
    pub slow: f64,
    pub quality: Range,
    /// a problem
    pub forwards: f64,
    /// quality above a lot that gives the slow policy the same share
    pub over_lot: Option<Range>,
}

/// Always fast, always slow, the slow policy exactly where it is better, and the switch at each d.
pub fn frontier(problems: &[Problem], set: &Set, d: &[f64], at: &[f64]) -> Vec<Row> {
    let row = |name: String, slow: &[bool], lot: bool| {
        let quality = |i: usize| if slow[i] { problems[i].slow.quality } else { problems[i].fast.quality };
        let mean = |weight: &[f64], of: &dyn Fn(usize) -> f64| {
            let w = |i: usize| weight[set.document[i]];
            let total: f64 = (0..slow.len()).map(w).sum();
            (0..slow.len()).map(|i| w(i) * of(i)).sum::<f64>() / total
        };
        let range = bootstrap(set.documents, 0, |w| Some(mean(w, &quality)));
        let over = |weight: &[f64]| {
            let share = mean(weight, &|i| f64::from(u8::from(slow[i])));
            let by_lot =
                |i: usize| share * problems[i].slow.quality + (1.0 - share) * problems[i].fast.quality;
            Some(mean(weight, &quality) - mean(weight, &by_lot))
        };
        let n = slow.len() as f64;
        let forwards = (0..slow.len()).map(|i| {
            let p = &problems[i];
            f64::from(if slow[i] { p.slow.forwards } else { p.fast.forwards })
        });
        Row {
            name,
            slow: slow.iter().filter(|s| **s).count() as f64 / n,
            quality: range.expect("a mean"),
            forwards: forwards.sum::<f64>() / n,
            over_lot: lot.then(|| bootstrap(set.documents, 0, over).expect("a mean")),
        }
    };
    let better: Vec<bool> = problems.iter().map(|p| p.slow.quality > p.fast.quality).collect();
    let mut rows = vec![
        row("always fast".into(), &vec![false; d.len()], false),
        row("always slow".into(), &vec![true; d.len()], false),
        row("slow where it is better (hindsight)".into(), &better, true),
    ];
    for at in at {
        let slow: Vec<bool> = d.iter().map(|d| d > at).collect();
        rows.push(row(format!("d > {at}"), &slow, true));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;
    use hilda_kernels::rng::{Rng, Stream};

    /// 120 documents of two problems each; a problem's label is the sign of its first value plus noise.
    fn problems() -> Vec<Problem> {
        let rng = Rng::new(3, Stream::Test, 0);
        let of = |i: u32| {
            let x: Vec<f32> = (0..6).map(|j| rng.normal(0, i, j) as f32).collect();
            let hard = f64::from(x[0]) + 0.5 * rng.normal(1, i, 0) > 0.3;
            let outcome =
                |quality, forwards| Outcome { quality, forwards, positions: 0, signs: BTreeMap::new() };
            Problem {
                id: format!("{}", i / 2),
                known: 10 + i % 3,
                open: 4,
                entropy: rng.uniform(2, i, 0),
                fast: outcome(if hard { 0.0 } else { 1.0 }, 1),
                slow: outcome(1.0, 4),
                embeddings: BTreeMap::from([("near".into(), x)]),
            }
        };
        (0..240).map(of).collect()
    }

    #[test]
    fn a_sign_is_found_and_chance_is_not() {
        let all = problems();
        let set = Set::new(&all, Target::Gains { margin: 0.0 }, 5, 1).unwrap();
        let rows = values(&all, &[Feature::Near]).unwrap();
        let p = set.out_of_fold(&rows).unwrap();
        let real = set.auroc(&p, &set.labels).unwrap();
        assert!(real.low > 0.8, "{real:?}");
        let rng = Rng::new(4, Stream::Test, 9);
        let noise: Vec<Vec<f32>> =
            (0..240).map(|i| (0..6).map(|j| rng.normal(0, i, j) as f32).collect()).collect();
        let chance = set.auroc(&set.out_of_fold(&noise).unwrap(), &set.labels).unwrap();
        assert!(chance.low <= 0.5 && 0.5 <= chance.high, "{chance:?}");
        let d: Vec<f64> = p.iter().map(|p| 100.0 * p).collect();
        let rows = frontier(&all, &set, &d, &[50.0, 100.0]);
        assert_eq!((rows[0].forwards, rows[1].forwards, rows[1].quality.value), (1.0, 4.0, 1.0));
        assert!(rows[3].over_lot.unwrap().low > 0.0 && rows[3].quality.value > rows[0].quality.value);
        assert_eq!((rows[4].slow, rows[4].quality), (0.0, rows[0].quality));
        let header = Header {
            model: "m".into(),
            task: "infill".into(),
            fast: crate::decode::Method::Threshold { tau: 0.0, score: crate::decode::policy::Score::TopProb },
            slow: crate::decode::Method::Threshold { tau: 1.0, score: crate::decode::policy::Score::TopProb },
            note: String::new(),
        };
        let x = values(&all, &[Feature::Near, Feature::Entropy]).unwrap();
        let switch = set.switch(&x, &[Feature::Near, Feature::Entropy], &header, "n".into()).unwrap();
        assert_eq!(Switch::read(&switch.json(), 6).unwrap(), switch);
        assert!(Switch::read(&switch.json(), 8).is_err());
        let (easy, hard) = (
            &x[set.labels.iter().position(|l| !l).unwrap()],
            &x[set.labels.iter().position(|l| *l).unwrap()],
        );
        assert!((0.0..=100.0).contains(&switch.d(easy)) && (0.0..=100.0).contains(&switch.d(hard)));
    }

    #[test]
    fn what_is_missing_is_named() {
        let all = problems();
        assert_eq!(
            values(&all, &[Feature::Open]),
            Err(InsightError::Missing { problem: 0, feature: Feature::Open })
        );
        let few = Set::new(&all[..20], Target::Wrong { below: 1.0 }, 5, 0);
        assert_eq!(few.err(), Some(InsightError::Folds { documents: 10, folds: 5 }));
        let one = Set::new(&all, Target::Wrong { below: 0.0 }, 5, 0).unwrap();
        let rows = values(&all, &[Feature::Near]).unwrap();
        assert!(matches!(one.out_of_fold(&rows), Err(InsightError::Fit(FitError::OneLabel { .. }))));
    }
}
