//! What decoders cost and what their texts are worth (`methods/evaluation.md` 2.1, 2.2, 2.7): one point a decoder and
//! temperature, with the judge's nats per token, the unigram entropy, and the forwards.
//!
//! Low entropy makes any text likely, so decoders are compared at matched entropy: the reference decoder's points over
//! temperatures give a curve g(H) by linear interpolation, and a decoder's excess is its own nats minus g at its
//! entropy. Outside the curve there is no claim.

use serde::Serialize;

use super::judge::{Score, TextJudge};
use super::text::surface::entropy;
use crate::data::{DataError, Tokenizer};
use crate::decode::trajectory::Divergence;
use crate::decode::{PolicySpec, Stop, Trajectory};
use crate::diffusion::likelihood::ratio;
use crate::model::generate::text;

/// One text of one decoder.
#[derive(Clone, Debug)]
pub struct Sample {
    pub text: String,
    pub trajectory: Trajectory,
    /// of what follows the prompt
    pub score: Score,
    /// nats, of the first `window` tokens after the prompt; none for a shorter text
    pub entropy: Option<f64>,
}

/// Scores what follows the prompt in a decoded text.
///
/// # Errors
/// Text that the judge's tokenizer refuses.
pub fn judged(
    trajectory: Trajectory,
    tokenizer: &Tokenizer,
    judge: &TextJudge,
    prompt: &str,
    window: usize,
) -> Result<Sample, DataError> {
    let whole = text(tokenizer, &trajectory.footer.ids);
    let score = judge.score(&whole)?.after(judge.score(prompt)?);
    let start = trajectory.header.config.prompt.len();
    let written = &trajectory.footer.ids[start..start + trajectory.footer.tokens as usize];
    Ok(Sample { text: whole, score, entropy: written.get(..window).map(entropy), trajectory })
}

/// A decoder at one temperature, over several texts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    pub policy: PolicySpec,
    pub temperature: f32,
    pub texts: usize,
    /// nats per token of the judge, standard error over texts
    pub nll: f64,
    pub nll_stderr: f64,
    /// nats, mean over the texts that are long enough
    pub entropy: f64,
    pub entropy_stderr: f64,
    /// texts too short for an entropy
    pub short: usize,
    /// texts that came to an end by themselves
    pub finished: usize,
    pub tokens: u64,
    /// without the prompt's
    pub forwards: u64,
    pub tokens_per_forward: f64,
    /// positions computed
    pub positions: u64,
    pub edits: u64,
    pub forced: u64,
    /// most bytes of keys and values at once, mean over texts
    pub cache_bytes: f64,
    /// keys that a press dropped, summed over layers, heads and texts
    pub evicted: u64,
    /// from an exact cache, where the policy has it checked
    #[serde(skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
    /// share of problems that were solved and its standard error, where the texts are answers that can be checked; told by
    /// who knows the answers
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<(f64, f64)>,
    /// of decoding alone; told by who measured
    pub seconds: f64,
    /// nats above the reference decoder at this entropy; none outside its curve
    pub excess: Option<f64>,
}

impl Point {
    /// Sums up texts of one decoder; `seconds` of decoding.
    pub fn new(policy: PolicySpec, temperature: f32, samples: &[Sample], seconds: f64) -> Point {
        let pair = |s: &Sample| (-s.score.log_p, s.score.tokens as f64);
        let (nll, nll_stderr) = ratio(&samples.iter().map(pair).collect::<Vec<_>>());
        let entropies: Vec<(f64, f64)> = samples.iter().filter_map(|s| s.entropy).map(|h| (h, 1.0)).collect();
        let (entropy, entropy_stderr) = ratio(&entropies);
        let sum = |f: fn(&Sample) -> u64| samples.iter().map(f).sum::<u64>();
        let tokens = sum(|s| s.trajectory.footer.tokens.into());
        let forwards =
            sum(|s| (s.trajectory.footer.ledger.forwards - s.trajectory.footer.ledger.prefill).into());
        Point {
            policy,
            temperature,
            texts: samples.len(),
            nll,
            nll_stderr,
            entropy,
            entropy_stderr,
            short: samples.len() - entropies.len(),
            finished: samples.iter().filter(|s| s.trajectory.footer.stop == Some(Stop::EarlyStop)).count(),
            tokens,
            forwards,
            tokens_per_forward: tokens as f64 / forwards.max(1) as f64,
            positions: sum(|s| s.trajectory.footer.ledger.positions),
            edits: sum(|s| s.trajectory.footer.ledger.edits.into()),
            forced: sum(|s| s.trajectory.footer.ledger.forced.into()),
            cache_bytes: sum(|s| s.trajectory.footer.ledger.cache_bytes) as f64 / samples.len().max(1) as f64,
            evicted: sum(|s| s.trajectory.footer.ledger.evicted),
            divergence: samples
                .iter()
                .filter_map(|s| s.trajectory.footer.divergence)
                .reduce(Divergence::join),
            accuracy: None,
            seconds,
            excess: None,
        }
    }
}

/// Share of right ones and its standard error over problems.
pub fn accuracy(right: &[bool]) -> (f64, f64) {
    let n = right.len().max(1) as f64;
    let share = right.iter().filter(|r| **r).count() as f64 / n;
    (share, (share * (1.0 - share) / n).sqrt())
}

/// Linear interpolation of (entropy, nats) points in any order; none outside them or for not-a-number.
pub fn at_entropy(curve: &[(f64, f64)], entropy: f64) -> Option<f64> {
    let mut curve: Vec<(f64, f64)> =
        curve.iter().copied().filter(|p| p.0.is_finite() && p.1.is_finite()).collect();
    curve.sort_by(|a, b| a.0.total_cmp(&b.0));
    let exact = curve.iter().find(|p| p.0 == entropy).map(|p| p.1);
    exact.or_else(|| {
        let pair = curve.windows(2).find(|w| w[0].0 <= entropy && entropy <= w[1].0)?;
        let share = (entropy - pair[0].0) / (pair[1].0 - pair[0].0);
        Some(pair[0].1 + share * (pair[1].1 - pair[0].1))
    })
}

/// Fills in every point's excess over the points of `reference`.
pub fn compare(points: &mut [Point], reference: &PolicySpec) {
    let curve: Vec<(f64, f64)> =
        points.iter().filter(|p| p.policy == *reference).map(|p| (p.entropy, p.nll)).collect();
    for p in points {
        p.excess = at_entropy(&curve, p.entropy).map(|g| p.nll - g);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_two_points_a_line_and_outside_nothing() {
        let curve = [(3.0, 4.0), (1.0, 2.0), (f64::NAN, 1.0), (2.0, 2.5)];
        assert_eq!(at_entropy(&curve, 1.5), Some(2.25));
        assert_eq!(at_entropy(&curve, 2.0), Some(2.5));
        assert_eq!(at_entropy(&curve, 3.0), Some(4.0));
        assert_eq!(at_entropy(&curve, 0.9), None);
        assert_eq!(at_entropy(&curve, f64::NAN), None);
        assert_eq!(at_entropy(&[], 1.0), None);
    }

    #[test]
    fn the_reference_has_no_excess_over_itself() {
        let point = |policy, entropy, nll| Point {
            policy,
            temperature: 1.0,
            texts: 1,
            nll,
            nll_stderr: 0.0,
            entropy,
            entropy_stderr: 0.0,
            short: 0,
            finished: 0,
            tokens: 1,
            forwards: 1,
            tokens_per_forward: 1.0,
            positions: 1,
            edits: 0,
            forced: 0,
            cache_bytes: 0.0,
            evicted: 0,
            divergence: None,
            accuracy: None,
            seconds: 1.0,
            excess: None,
        };
        let (a, b) = (PolicySpec::default(), PolicySpec::quality());
        let mut points = vec![point(a, 1.0, 2.0), point(b, 1.5, 3.0), point(a, 2.0, 4.0), point(b, 9.0, 1.0)];
        compare(&mut points, &a);
        let excess: Vec<Option<f64>> = points.iter().map(|p| p.excess).collect();
        assert_eq!(excess, [Some(0.0), Some(0.0), Some(0.0), None]);
    }
}
