//! Noise schedules and who shares a rate.
//!
//! A schedule maps u in (0, 1] to a mask rate p(u), increasing from 0 to 1; the weight of a masked token's cross-entropy
//! is w(u) = p'(u) / p(u) (MDLM, arXiv 2406.07524, eq. 10, with alpha = 1 - p). Since w du = dp / p, every schedule has
//! the expectation of the linear one: schedules differ in variance, not in the bound (`methods/mdlm.md` 2.4).
//!
//! | name | p(u) | w(u) |
//! |---|---|---|
//! | linear | u | 1/u |
//! | cosine | 1 - cos(pi u / 2) | (pi/2) sin(pi u / 2) / p |
//! | square | u^2 | 2/u |
//! | sqrt | u^(1/2) | 1/(2u) |

use std::ops::Range;

use hilda_kernels::Place;
use serde::{Deserialize, Serialize};

/// Shape of the mask rate (table above).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    #[default]
    Linear,
    Cosine,
    Square,
    Sqrt,
}

impl Schedule {
    pub const ALL: [Schedule; 4] = [Schedule::Linear, Schedule::Cosine, Schedule::Square, Schedule::Sqrt];

    /// Mask rate p(u).
    pub fn rate(self, u: f64) -> f64 {
        match self {
            Schedule::Linear => u,
            // 2 sin^2(x / 2): no cancellation near 0
            Schedule::Cosine => 2.0 * (std::f64::consts::FRAC_PI_4 * u).sin().powi(2),
            Schedule::Square => u * u,
            Schedule::Sqrt => u.sqrt(),
        }
    }

    /// p'(u) / p(u).
    pub fn weight(self, u: f64) -> f64 {
        match self {
            Schedule::Linear => 1.0 / u,
            Schedule::Cosine => {
                let h = std::f64::consts::FRAC_PI_2;
                h * (h * u).sin() / self.rate(u)
            }
            Schedule::Square => 2.0 / u,
            Schedule::Sqrt => 0.5 / u,
        }
    }

    pub fn is_linear(&self) -> bool {
        *self == Schedule::Linear
    }
}

/// Tokens that share one mask rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// a row: one sample (MDLM, LLaDA)
    Sample,
    /// a document of a packed row (SDAR)
    Document,
    /// a block (BD3-LM)
    Block,
}

impl Scope {
    /// Consecutive columns that share a rate.
    pub fn spans(self, places: &[Place]) -> Vec<Range<usize>> {
        let same = |a: &Place, b: &Place| match self {
            Scope::Sample => true,
            Scope::Document => a.document == b.document,
            Scope::Block => a.block == b.block,
        };
        let mut spans: Vec<Range<usize>> = vec![];
        for (i, p) in places.iter().enumerate() {
            match spans.last_mut() {
                Some(last) if same(&places[last.start], p) => last.end = i + 1,
                _ => spans.push(i..i + 1),
            }
        }
        spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// w is the logarithmic derivative of p, p runs from 0 to 1, and every schedule integrates a constant cross-entropy
    /// to the same bound: the integral of w p is 1.
    #[test]
    fn schedules_agree_in_expectation() {
        for s in Schedule::ALL {
            assert!(s.rate(0.0).abs() < 1e-12 && (s.rate(1.0) - 1.0).abs() < 1e-12);
            let n = 20_000;
            let (mut total, mut l3) = (0.0, 0.0);
            for i in 0..n {
                // u = v^2, because the weight of the square root grows without bound
                let v = (i as f64 + 0.5) / n as f64;
                let (u, du) = (v * v, 2.0 * v / n as f64);
                let h = 1e-3 * u;
                let d = (s.rate(u + h) - s.rate(u - h)) / (2.0 * h);
                assert!((d / s.rate(u) - s.weight(u)).abs() < 1e-3 * s.weight(u), "{s:?} at {u}");
                let p = s.rate(u);
                total += s.weight(u) * p * du;
                // two of three tokens masked: the count weight w(2) = 1/6 of L = 3
                l3 += s.weight(u) * p * p * (1.0 - p) * du;
            }
            assert!((total - 1.0).abs() < 1e-6, "{s:?}: {total}");
            assert!((l3 - 1.0 / 6.0).abs() < 1e-6, "{s:?}: {l3}");
        }
    }

    #[test]
    fn scopes_cut_rows() {
        let place = |document, block| Place { position: 0, document, block, stream: 1 };
        let row = [place(0, 0), place(0, 0), place(0, 1), place(1, 2), place(1, 2)];
        let lens = |s: Scope| s.spans(&row).into_iter().map(|r| r.len()).collect::<Vec<_>>();
        assert_eq!(lens(Scope::Sample), [5]);
        assert_eq!(lens(Scope::Document), [3, 2]);
        assert_eq!(lens(Scope::Block), [2, 1, 2]);
    }
}
