//! Intervals for a few paired seeds (`methods/evaluation.md` 4.2): with d_s = a_s - b_s, mean ± t_{.975, n-1} sd / sqrt(n).
//! A bootstrap over 3 to 5 seeds covers 71 to 82 % where it says 95, so none is used.

use serde::{Deserialize, Serialize};

/// 97.5 % points of Student's t for 1 to 30 degrees of freedom.
const T975: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/// t_{.975} for `degrees` >= 1.
pub fn t975(degrees: usize) -> f64 {
    let n = degrees as f64;
    // beyond the table: the first term of the Cornish-Fisher expansion around 1.96
    T975.get(degrees - 1).copied().unwrap_or(1.95996 + (1.95996f64.powi(3) + 1.95996) / (4.0 * n))
}

/// Mean of a few values with its 95 % interval; no interval for one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    pub values: Vec<f64>,
    pub mean: f64,
    pub sd: Option<f64>,
    pub low: Option<f64>,
    pub high: Option<f64>,
}

impl Interval {
    /// Of at least one value.
    pub fn of(values: &[f64]) -> Interval {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let mut out = Interval { values: values.to_vec(), mean, sd: None, low: None, high: None };
        if values.len() > 1 {
            let square: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
            let sd = (square / (n - 1.0)).sqrt();
            let half = t975(values.len() - 1) * sd / n.sqrt();
            (out.sd, out.low, out.high) = (Some(sd), Some(mean - half), Some(mean + half));
        }
        out
    }

    /// Of the differences of paired values.
    pub fn paired(a: &[f64], b: &[f64]) -> Interval {
        Interval::of(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>())
    }

    /// Does the interval leave zero out? False without an interval.
    pub fn excludes_zero(&self) -> bool {
        matches!((self.low, self.high), (Some(l), Some(h)) if l > 0.0 || h < 0.0)
    }

    /// "3.2970 (3.2800 to 3.3140)"
    pub fn text(&self) -> String {
        match (self.low, self.high) {
            (Some(l), Some(h)) => format!("{:.4} ({l:.4} to {h:.4})", self.mean),
            _ => format!("{:.4}", self.mean),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `methods/evaluation.md` 6.16.
    #[test]
    fn three_differences() {
        let i = Interval::paired(&[1.01, 2.02, 3.03], &[1.0, 2.0, 3.0]);
        assert!((i.mean - 0.02).abs() < 1e-12);
        assert!((i.high.unwrap() - 0.02 - 0.0248).abs() < 1e-4 && !i.excludes_zero());
        assert!(Interval::paired(&[1.02, 2.02, 3.021], &[1.0, 2.0, 3.0]).excludes_zero());
        let one = Interval::of(&[3.0]);
        assert_eq!((one.mean, one.low), (3.0, None));
        assert!(!one.excludes_zero());
        assert!((t975(40) - 2.021).abs() < 2e-3 && t975(2) == 4.303);
    }
}
