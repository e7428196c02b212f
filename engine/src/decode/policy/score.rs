//! Order of the masked rows: higher = earlier, ties to the lower position (`methods/decoding.md` 2.4).

use hilda_kernels::rng::{Rng, Stream};
use serde::{Deserialize, Serialize};

use super::{Row, View};
use crate::decode::Status;

/// Position score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// u ~ U(0, 1), keyed by step and position: the unbiased order
    Random,
    /// confidence in the candidate (LLaDA)
    TopProb,
    /// p_max - p_2 (Dream)
    Margin,
    /// -H, nats
    Entropy,
    /// confidence times the density of what is known around the row (d2Cache, arXiv 2509.23094)
    CertaintyPrior,
    /// exp(-lambda (i - s_G)) min(-p ln f, alpha), p the confidence in the candidate, f its frequency in the corpus, s_G the
    /// first position behind the prompt (PC-Sampler, arXiv 2508.13021): against writing both ends of a text and its most
    /// frequent tokens first
    Pc,
    /// -position
    Leftmost,
}

/// Width of the density's kernel, positions (d2Cache's default).
pub const SIGMA: f64 = 10.0;

/// Weight of the position in PC-Sampler, and the bound on its content term (its code's defaults).
pub const LAMBDA: f64 = 0.25;
pub const ALPHA: f64 = 10.0;

/// PC-Sampler's score at `offset` positions behind the prompt; `ln` is ln f of the candidate.
fn pc(offset: u32, p: f64, ln: f64) -> f64 {
    (-LAMBDA * offset as f64).exp() * (-p * ln).min(ALPHA)
}

impl Score {
    /// Every name a recipe may use.
    pub const NAMES: [&str; 6] = ["random", "top_prob", "margin", "entropy", "certainty_prior", "pc"];

    /// Score of one masked row of the active block.
    pub fn of(self, row: &Row, view: &View) -> f64 {
        match self {
            Score::Random => Rng::new(view.seed, Stream::Order, view.sequence).uniform(view.step, row.pos, 0),
            Score::TopProb => row.confidence as f64,
            Score::Margin => (row.head.p_max() - row.head.p_second()) as f64,
            Score::Entropy => -(row.head.entropy as f64),
            Score::CertaintyPrior => row.confidence as f64 * density(view.statuses, row.pos),
            Score::Pc => {
                // refused before the first forward where there are none
                let ln = view.frequencies.map_or(0.0, |f| f.ln(row.head.candidate));
                pc(row.pos.saturating_sub(view.start), row.confidence as f64, ln as f64)
            }
            Score::Leftmost => -(row.pos as f64),
        }
    }
    /// Does no model output enter? Then every back end orders alike and gaps carry no risk.
    pub fn exact(self) -> bool {
        matches!(self, Score::Random | Score::Leftmost)
    }
}

/// Share of the positions around `pos` that are known, under a Gaussian of width [`SIGMA`]; the text's ends do not
/// count against it.
pub fn density(statuses: &[Status], pos: u32) -> f64 {
    let reach = 6 * SIGMA as usize;
    let at = pos as usize;
    let (first, last) = (at.saturating_sub(reach), (at + reach + 1).min(statuses.len()));
    let (mut known, mut all) = (0.0, 0.0);
    for (j, status) in statuses.iter().enumerate().take(last).skip(first).filter(|(j, _)| *j != at) {
        let d = (j as f64 - at as f64) / SIGMA;
        let w = (-0.5 * d * d).exp();
        all += w;
        if *status != Status::Masked {
            known += w;
        }
    }
    if all > 0.0 { known / all } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pc_by_hand() {
        let e = std::f64::consts::E;
        // sure of a token of frequency e^-4, at the first and the fifth position
        assert!((pc(0, 0.5, -4.0) - 2.0).abs() < 1e-12);
        assert!((pc(4, 0.5, -4.0) - 2.0 / e).abs() < 1e-12);
        // bounded for the rarest, nothing for a token that is always there
        assert_eq!(pc(0, 1.0, -12.0), 10.0);
        assert_eq!(pc(0, 1.0, 0.0), 0.0);
    }

    #[test]
    fn density_is_a_share() {
        let (k, m) = (Status::Prompt, Status::Masked);
        assert_eq!(density(&[k, m, k], 1), 1.0);
        assert_eq!(density(&[m, m, m], 1), 0.0);
        assert_eq!(density(&[k, m, m], 1), 0.5);
        assert_eq!(density(&[m], 0), 1.0);
        // nearer counts more
        let mut text = vec![m; 40];
        text[10] = k;
        assert!(density(&text, 11) > density(&text, 20));
    }
}
