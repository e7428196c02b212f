//! The metrics of one run as they arrive, and the curves made of them.
//!
//! Rows may come twice (reconnection) and a resumed run repeats steps: the last attempt wins per step. The time axis
//! is the time spent training, summed over steps, so that pauses between attempts do not count.

use std::sync::Arc;

use hilda_engine::record::{Estimate, Metric};

use crate::chart::{Look, Point, Series};

/// One optimiser step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainRow {
    pub step: u64,
    pub attempt: u32,
    pub tokens: u64,
    pub loss: f64,
    pub grad_norm: f64,
    pub lr: f64,
    pub seconds: f64,
    pub tokens_per_s: f64,
    pub flops: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ValidRow {
    pub step: u64,
    pub attempt: u32,
    pub tokens: u64,
    pub estimate: Estimate,
}

/// Everything known of a run, ascending in step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    pub train: Vec<TrainRow>,
    pub valid: Vec<ValidRow>,
    /// (step, index, objective) of phases that began
    pub phases: Vec<(u64, usize, String)>,
    /// steps at which samples were written
    pub samples: Vec<u64>,
}

/// The quantities of a step that have a curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    Loss,
    GradNorm,
    LearningRate,
    Speed,
}

impl Quantity {
    fn of(self, row: &TrainRow) -> f64 {
        match self {
            Quantity::Loss => row.loss,
            Quantity::GradNorm => row.grad_norm,
            Quantity::LearningRate => row.lr,
            Quantity::Speed => row.tokens_per_s,
        }
    }
}

/// Inserts by key; an equal key is replaced unless `old` says to keep it.
fn place<T>(rows: &mut Vec<T>, row: T, key: impl Fn(&T) -> u64, keep: impl Fn(&T, &T) -> bool) {
    let at = match rows.last() {
        None => 0,
        Some(last) if key(last) < key(&row) => rows.len(),
        _ => rows.partition_point(|r| key(r) < key(&row)),
    };
    match rows.get(at) {
        Some(old) if key(old) == key(&row) => {
            if !keep(old, &row) {
                rows[at] = row;
            }
        }
        _ => rows.insert(at, row),
    }
}

impl Metrics {
    /// Adds one row, in any order.
    pub fn add(&mut self, metric: Metric) {
        match metric {
            Metric::Train {
                step,
                attempt,
                tokens,
                loss,
                grad_norm,
                lr,
                seconds,
                tokens_per_s,
                flops,
                ..
            } => {
                let row =
                    TrainRow { step, attempt, tokens, loss, grad_norm, lr, seconds, tokens_per_s, flops };
                place(&mut self.train, row, |r| r.step, |old, new| old.attempt > new.attempt);
            }
            Metric::Valid { step, attempt, tokens, estimate, .. } => {
                // one step may be judged by several estimators
                let same = self
                    .valid
                    .iter()
                    .position(|v| v.step == step && v.estimate.estimator == estimate.estimator);
                let row = ValidRow { step, attempt, tokens, estimate };
                match same {
                    Some(i) if self.valid[i].attempt > attempt => {}
                    Some(i) => self.valid[i] = row,
                    None => {
                        let at = self.valid.partition_point(|v| v.step <= step);
                        self.valid.insert(at, row);
                    }
                }
            }
            Metric::Phase { step, phase, objective, .. } => {
                place(&mut self.phases, (step, phase, objective), |r| r.0, |_, _| false);
            }
            Metric::Sample { step, .. } => place(&mut self.samples, step, |s| *s, |_, _| true),
            Metric::Checkpoint { .. } => {}
        }
    }

    /// A cost summed up to each step of `train`.
    fn spent(&self, cost: fn(&TrainRow) -> f64) -> Vec<f64> {
        self.train
            .iter()
            .scan(0.0, |sum, r| {
                *sum += cost(r);
                Some(*sum)
            })
            .collect()
    }
    /// Seconds of training after each step of `train`.
    fn times(&self) -> Vec<f64> {
        self.spent(|r| r.seconds)
    }

    /// Indices in `train` of the first step of every phase but the first. A phase's record carries the steps done
    /// when it began.
    fn restarts(&self) -> Vec<usize> {
        let first = |done: u64| self.train.partition_point(|r| r.step <= done);
        self.phases.iter().map(|p| first(p.0)).filter(|i| *i > 0 && *i < self.train.len()).collect()
    }

    /// The curve of a quantity of every step.
    pub fn curve(&self, quantity: Quantity, name: &str, style: usize) -> Series {
        let points = self
            .train
            .iter()
            .zip(self.times().into_iter().zip(self.spent(|r| r.flops)))
            .map(|(r, (t, c))| Point::new(r.step as f64, r.tokens as f64, t, quantity.of(r)).with_compute(c))
            .collect();
        let look = if quantity == Quantity::LearningRate { Look::Exact } else { Look::Smoothed };
        // the objective of another phase is another quantity
        let restarts = match quantity {
            Quantity::Loss => self.restarts(),
            _ => vec![],
        };
        Series { name: name.into(), style, look, range: false, restarts, points: Arc::new(points) }
    }

    /// Every validation with what training had cost by then: (point, estimate).
    pub fn judged(&self) -> Vec<(Point, &Estimate)> {
        let (times, compute) = (self.times(), self.spent(|r| r.flops));
        let at = |sums: &[f64], step: u64| {
            let n = self.train.partition_point(|r| r.step <= step);
            if n == 0 { 0.0 } else { sums[n - 1] }
        };
        self.valid
            .iter()
            .map(|v| {
                let point = Point::new(v.step as f64, v.tokens as f64, at(&times, v.step), v.estimate.value)
                    .with_error(v.estimate.stderr.max(0.0))
                    .with_compute(at(&compute, v.step));
                (point, &v.estimate)
            })
            .collect()
    }

    /// One marked curve per estimator, in order of first use; `prefix` goes before the estimator's name.
    pub fn validation(&self, prefix: &str, style: usize) -> Vec<Series> {
        let judged = self.judged();
        let mut names: Vec<&str> = Vec::new();
        for (_, estimate) in &judged {
            if !names.contains(&estimate.estimator.as_str()) {
                names.push(&estimate.estimator);
            }
        }
        names
            .iter()
            .enumerate()
            .map(|(i, name)| {
                let points = judged.iter().filter(|j| j.1.estimator == *name).map(|j| j.0).collect();
                Series {
                    name: format!("{prefix}{name}"),
                    style: style + i,
                    look: Look::Marked,
                    range: false,
                    restarts: vec![],
                    points: Arc::new(points),
                }
            })
            .collect()
    }

    /// Model FLOPs spent, over the steps that count.
    pub fn flops(&self) -> f64 {
        self.train.iter().map(|r| r.flops).sum()
    }
    /// Seconds spent training, over the steps that count.
    pub fn seconds(&self) -> f64 {
        self.train.iter().map(|r| r.seconds).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn train(step: u64, attempt: u32, loss: f64) -> Metric {
        Metric::Train {
            step,
            attempt,
            tokens: step * 100,
            phase: 0,
            loss,
            grad_norm: 1.0,
            lr: 1e-3,
            seconds: 2.0,
            tokens_per_s: 50.0,
            flops: 1e9,
            time: 0.0,
        }
    }
    fn valid(step: u64, attempt: u32, estimator: &str, value: f64) -> Metric {
        let estimate = Estimate {
            estimator: estimator.into(),
            value,
            stderr: 0.1,
            tokens: 1000,
            rows: 10,
            k: 1,
            seed: 0,
            bits_per_byte: None,
        };
        Metric::Valid { step, attempt, tokens: step * 100, phase: 0, time: 0.0, estimate }
    }

    #[test]
    fn the_last_attempt_wins_in_any_order() {
        let mut m = Metrics::default();
        for row in [train(3, 1, 3.0), train(1, 1, 9.0), train(2, 2, 5.5), train(2, 1, 6.0), train(2, 2, 5.5)]
        {
            m.add(row);
        }
        let losses: Vec<_> = m.train.iter().map(|r| (r.step, r.loss)).collect();
        assert_eq!(losses, [(1, 9.0), (2, 5.5), (3, 3.0)]);
        assert_eq!((m.seconds(), m.flops()), (6.0, 3e9));
    }

    #[test]
    fn smoothing_begins_anew_with_a_phase() {
        let mut m = Metrics::default();
        (1..=6).for_each(|s| m.add(train(s, 1, 1.0)));
        for (step, phase) in [(0, 0), (4, 1)] {
            m.add(Metric::Phase { step, attempt: 1, time: 0.0, phase, objective: "ar".into() });
        }
        assert_eq!(m.curve(Quantity::Loss, "loss", 0).restarts, [4]);
        assert!(m.curve(Quantity::GradNorm, "norm", 0).restarts.is_empty());
    }

    #[test]
    fn estimators_never_share_a_curve() {
        let mut m = Metrics::default();
        (1..=4).for_each(|s| m.add(train(s, 1, 1.0)));
        for row in [
            valid(4, 1, "nelbo_block(8,8)", 4.0),
            valid(2, 1, "ar", 3.0),
            valid(4, 1, "ar", 2.5),
            valid(2, 2, "ar", 2.9),
        ] {
            m.add(row);
        }
        let curves = m.validation("", 0);
        let names: Vec<_> = curves.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["ar", "nelbo_block(8,8)"]);
        assert_eq!(curves[0].points[0].y, 2.9);
        assert_eq!((curves[0].points[1].time, curves[0].points[1].high), (8.0, 2.6));
        assert_eq!(curves[0].points[1].compute, 4e9);
    }

    #[test]
    fn a_long_run_is_added_quickly() {
        let mut m = Metrics::default();
        (0..100_000).for_each(|s| m.add(train(s, 1, 1.0)));
        (0..100_000).for_each(|s| m.add(train(s, 2, 2.0)));
        assert_eq!(m.train.len(), 100_000);
        assert!(m.train.iter().all(|r| r.loss == 2.0));
        assert_eq!(m.curve(Quantity::Loss, "loss", 0).points[99_999].time, 200_000.0);
    }
}
