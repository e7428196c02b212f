//! Fixed steps that look again (ReMDM for LLaDA: arXiv 2503.00307; its code `guanghanwang/ReMDM-LLaDA`; `methods/decoding.md`
//! 2.6 R2). A block is written by quota until `from` of its masks are written (7/8 there). Then come `steps` forwards before
//! each of which the `count` written tokens with the lowest psi, the probability each was written with, are masked again,
//! and in each of which as many of the best masked positions are written, whichever they are. Then the quota goes on where it
//! was. Without extra steps it is the quota.
//!
//! What is masked needs no forward: it is decided, and recorded, with the forward before. Prompt and fixed tokens have no psi
//! and stay. A block of m0 masks takes min(S, m0) + `steps` forwards, since every extra one writes as much as was masked for
//! it. At temperature 0 a token that comes back with the lowest psi is the next one to go, so that extra steps may go round in
//! a circle; the paper draws at temperature 1.

use super::{
    Fired, View,
    parts::{Chosen, Ranked},
    quota,
};
use crate::decode::{Status, state::CERTAIN};
use std::ops::Range;

/// The extra steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Revisit {
    /// share of the block's masks that is written before
    pub from: f32,
    pub steps: u32,
    /// tokens masked before each and written in each
    pub count: u32,
}

/// A block between two of its forwards.
#[derive(Clone, Debug)]
pub struct Between<'a> {
    /// of all positions
    pub statuses: &'a [Status],
    pub block: Range<u32>,
    /// masked positions of the block when it was opened
    pub masked_at_start: u32,
    /// denoising forwards of the block so far
    pub steps: u32,
}

impl Revisit {
    /// Denoising forwards of a block of `m0` masks in `quota` steps before the first extra one, and the masks that they leave.
    fn before(&self, m0: u32, quota: u32) -> (u32, u32) {
        let steps = quota::steps(quota, m0);
        let enough = (self.from as f64 * m0 as f64).ceil() as u32;
        let mut written = 0;
        for s in 0..steps {
            written += quota::share(m0, steps, s);
            if written >= enough {
                return (s + 1, m0 - written);
            }
        }
        (steps, 0)
    }

    /// The extra steps' place in a block's forwards.
    fn range(&self, m0: u32, quota: u32) -> Range<u32> {
        let first = self.before(m0, quota).0;
        first..first + self.steps
    }

    /// Which rows are written in this forward.
    pub(super) fn chosen(&self, ranked: &Ranked, quota: u32, view: &View) -> Chosen {
        let extra = self.range(view.masked_at_start, quota);
        let step = view.block_step;
        if extra.contains(&step) {
            // what the quota has yet to write stays for it
            let left = self.before(view.masked_at_start, quota).1;
            let k = (ranked.len() as u32).saturating_sub(left).clamp(1, self.count);
            let fired = Fired::Revisit { step: step - extra.start, of: self.steps, k };
            return Chosen::best(ranked, k as usize, fired);
        }
        let gone = if step < extra.start { step } else { step - self.steps };
        quota::quota_at(ranked, quota, gone, view)
    }

    /// What is masked before the next forward, with the margin of each choice.
    pub(super) fn masked(&self, quota: u32, b: &Between) -> Vec<(u32, f32)> {
        if !self.range(b.masked_at_start, quota).contains(&b.steps) {
            return Vec::new();
        }
        let psi = |p: u32| match b.statuses[p as usize] {
            Status::Committed { psi, .. } => Some((psi, p)),
            _ => None,
        };
        let mut written: Vec<(f32, u32)> = b.block.clone().filter_map(psi).collect();
        written.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let n = (self.count as usize).min(written.len());
        let next = written.get(n).map(|w| w.0);
        written[..n].iter().map(|(psi, p)| (*p, next.map_or(CERTAIN, |next| next - psi))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block of 8 in 8, 4, 3 and 1 steps has 7 of them written after 7, 4, 3 and 1.
    #[test]
    fn seven_eighths_of_a_block() {
        let revisit = Revisit { from: 0.875, steps: 5, count: 1 };
        for (quota, first) in [(0, 7), (8, 7), (4, 4), (3, 3), (1, 1), (99, 7)] {
            assert_eq!(revisit.range(8, quota), first..first + 5, "{quota}");
        }
        assert_eq!(revisit.range(32, 32), 28..33);
        assert_eq!(Revisit { from: 0.0, ..revisit }.range(8, 8), 1..6);
    }

    /// The lowest psi, ties to the lower position; the prompt and fixed tokens have none.
    #[test]
    fn the_least_sure_are_masked() {
        let c = |psi| Status::Committed { step: 0, psi };
        let statuses = [Status::Prompt, c(0.5), Status::Fixed, c(0.2), Status::Masked, c(0.2), c(0.9)];
        let b = Between { statuses: &statuses, block: 0..7, masked_at_start: 4, steps: 4 };
        let masked = |count, steps| {
            let found = Revisit { from: 1.0, steps, count }.masked(0, &b);
            found.iter().map(|f| f.0).collect::<Vec<u32>>()
        };
        assert_eq!((masked(1, 1), masked(2, 1), masked(9, 1)), (vec![3], vec![3, 5], vec![3, 5, 1, 6]));
        assert!(masked(1, 0).is_empty());
    }
}
