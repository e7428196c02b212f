//! Corruption of a global batch: which tokens are masked or replaced, and what each pick weighs.
//!
//! Absorbing mask: a token of a group (a row, a document or a block, [`Scope`]) is masked with probability p(u), weight
//! p'(u) / p(u), u in [low, high] ([`Schedule`]; linear: rate t, weight 1/t, `methods/mdlm.md` 2.1, the convention whose
//! constant-denoiser value is unbiased).
//! Rates are stratified over all groups of the global batch: u_g = (pi(g) + U_g) / G with pi a seeded permutation,
//! because strata in row order would tie the rate to the position (`methods/block_diffusion.md` 2.3).
//!
//! Token editing (T2T; `methods/llada21_editing.md` 2.3): in a share `mix` of the groups each visible token is
//! replaced by a uniform random ordinary id with probability r ~ U(0, rate); replaced tokens and, in these groups,
//! untouched ones are supervised with their own weights.
//!
//! Mask and uniform noise ([`Hybrid`]; GIDD, `methods/llada21_editing.md`, GIDD 2.1 to 2.3): t ~ U(1e-4, 1 - 1e-4) per
//! group, every token drawn from q_t, every token supervised, with the weight of what stands there.
//!
//! A token without a row (with the logit shift: the first of a row or document) and a token of a prompt ([`Corruption::on`])
//! are neither corrupted nor counted.

use std::ops::Range;

use hilda_kernels::Place;
use hilda_kernels::rng::{Rng, Stream};

use super::hybrid::{Hybrid, Seen};
use super::schedule::{Schedule, Scope};
use crate::config::{EditSpec, HybridSpec, Weighting};
use crate::data::Row;

/// Why a token is supervised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// masked, to be predicted
    Masked,
    /// visible but wrong
    Replaced,
    /// visible and right, in a group that holds wrong ones
    Kept,
    /// under mask and uniform noise, whatever stands there
    Noisy { alpha: f32, beta: f32, observed: Option<u32> },
}

/// One supervised token of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pick {
    /// column in the row
    pub column: u32,
    pub kind: Kind,
    /// 1/t or 1 for masked tokens, 1 otherwise
    pub weight: f32,
}

/// A corrupted row.
#[derive(Clone, Debug, PartialEq)]
pub struct RowPlan {
    /// x_t, [L]
    pub noisy: Vec<u32>,
    pub picks: Vec<Pick>,
    /// tokens that could have been masked
    pub counted: usize,
}

/// Smallest distance of a time of mixed noise from 0 and 1.
pub const EDGE: f64 = 1e-4;

/// The corruption process of a phase.
#[derive(Clone, Debug)]
pub struct Corruption {
    pub seed: u64,
    pub mask_id: u32,
    /// ids never drawn as replacements (specials); ids >= vocab are never drawn
    pub forbid: Vec<u32>,
    pub eos_id: u32,
    pub vocab: usize,
    /// smallest and largest u of the schedule; for the linear one the mask rates
    pub t: [f64; 2],
    pub schedule: Schedule,
    pub weighting: Weighting,
    pub shift: bool,
    pub edit: Option<EditSpec>,
    /// in place of masks alone
    pub hybrid: Option<HybridSpec>,
    /// who shares a rate
    pub scope: Scope,
    /// the tokens of each row of the batch that may be corrupted; empty: all
    pub answers: Vec<Vec<bool>>,
}

/// The groups of a global batch and the stratum of each.
pub struct Groups {
    /// columns of each group of each row
    pub spans: Vec<Vec<Range<usize>>>,
    /// index of each row's first group
    first: Vec<u32>,
    strata: Vec<u32>,
    time_step: u32,
}

/// Can the token at `column` be predicted at all?
pub fn has_row(places: &[Place], column: usize, shift: bool) -> bool {
    !shift || (column > 0 && places[column].document == places[column - 1].document)
}

impl Corruption {
    /// The same process on the answers of `rows` alone, where they have prompts.
    pub fn on(mut self, rows: &[Row]) -> Corruption {
        if rows.iter().any(|r| r.answers.is_some()) {
            self.answers = rows.iter().map(|r| (0..r.tokens.len()).map(|c| r.counts(c)).collect()).collect();
        }
        self
    }

    /// May the token at `column` of row `r` be corrupted? It needs a row to be predicted from, and is no prompt.
    pub fn open(&self, r: usize, places: &[Place], column: usize) -> bool {
        has_row(places, column, self.shift) && self.answers.get(r).is_none_or(|a| a[column])
    }

    /// Corrupts the rows of step `step`. `tokens` and `places` (noisy stream) are one entry a row.
    pub fn draw(&self, step: u32, tokens: &[&[u32]], places: &[Vec<Place>]) -> Vec<RowPlan> {
        self.draw_strata(step, tokens, places, None)
    }

    /// As [`Corruption::draw`]; with `ring = Some((j, k))` every group's rates over the k draws j = 0..k are
    /// stratified too: u_g(j) = frac(u_g + j / k), with u_g the stratum of draw 0.
    pub fn draw_strata(
        &self,
        step: u32,
        tokens: &[&[u32]],
        places: &[Vec<Place>],
        ring: Option<(usize, usize)>,
    ) -> Vec<RowPlan> {
        let groups = self.groups(if ring.is_some() { 0 } else { step }, places);
        (0..tokens.len()).map(|r| self.draw_row(step, r, tokens[r], &places[r], &groups, ring)).collect()
    }

    /// The groups of a batch and their strata, drawn in step `time_step`.
    pub fn groups(&self, time_step: u32, places: &[Vec<Place>]) -> Groups {
        let spans: Vec<Vec<Range<usize>>> = places.iter().map(|p| self.scope.spans(p)).collect();
        let mut count = 0;
        let first = spans
            .iter()
            .map(|s| {
                count += s.len() as u32;
                count - s.len() as u32
            })
            .collect();
        let strata = Rng::new(self.seed, Stream::Time, 1).permutation(time_step, count as usize);
        Groups { spans, first, strata, time_step }
    }

    /// u of group `g` of row `r`: stratified over the batch, and over the draws of a ring.
    pub fn uniform(&self, groups: &Groups, r: usize, g: usize, ring: Option<(usize, usize)>) -> f64 {
        let at = groups.first[r] + g as u32;
        let time = Rng::new(self.seed, Stream::Time, 0);
        let u = (groups.strata[at as usize] as f64 + time.uniform(groups.time_step, at, 0))
            / groups.strata.len() as f64;
        ring.map_or(u, |(j, k)| (u + j as f64 / k as f64).fract())
    }

    /// One row of [`Corruption::draw_strata`].
    pub fn draw_row(
        &self,
        step: u32,
        r: usize,
        x: &[u32],
        places: &[Place],
        groups: &Groups,
        ring: Option<(usize, usize)>,
    ) -> RowPlan {
        let choice = Rng::new(self.seed, Stream::Choice, 1);
        let mut plan = RowPlan { noisy: x.to_vec(), picks: vec![], counted: 0 };
        for (g, span) in groups.spans[r].iter().enumerate() {
            if let Some(h) = &self.hybrid {
                let t = EDGE + (1.0 - 2.0 * EDGE) * self.uniform(groups, r, g, ring);
                self.mix(step, r, x, places, span.clone(), h, t, &mut plan);
                continue;
            }
            let u = self.t[0] + (self.t[1] - self.t[0]) * self.uniform(groups, r, g, ring);
            let group = groups.first[r] + g as u32;
            let replace = self.edit.filter(|e| choice.uniform(step, group, 0) < e.mix);
            let rate = replace.map(|e| e.rate * choice.uniform(step, group, 1));
            self.corrupt(step, r, x, places, span.clone(), u, rate, &mut plan);
        }
        plan
    }

    /// The inverse of plans drawn in step `step`: what was visible is masked, what was masked is visible, with the weight
    /// of the rate 1 - p. Rates below the smallest that is drawn count as that one, so that a weight is never larger
    /// than those of the plans themselves.
    pub fn complement(
        &self,
        step: u32,
        tokens: &[&[u32]],
        places: &[Vec<Place>],
        plans: &[RowPlan],
    ) -> Vec<RowPlan> {
        let groups = self.groups(step, places);
        let mut out = Vec::with_capacity(plans.len());
        for (r, plan) in plans.iter().enumerate() {
            let (x, at) = (tokens[r], &places[r]);
            let mut hidden = vec![false; x.len()];
            plan.picks.iter().for_each(|pick| hidden[pick.column as usize] = true);
            let mut inverse = RowPlan { noisy: x.to_vec(), picks: vec![], counted: plan.counted };
            for (g, span) in groups.spans[r].iter().enumerate() {
                let u = self.t[0] + (self.t[1] - self.t[0]) * self.uniform(&groups, r, g, None);
                let p = self.schedule.rate(u);
                let rate = (1.0 - p).max(self.schedule.rate(self.t[0]));
                let weight = match self.weighting {
                    // p'(u) / (1 - p): the masked rate 1 - p has the density of p
                    Weighting::InvT => (self.schedule.weight(u) * p / rate) as f32,
                    Weighting::Uniform => 1.0,
                };
                for column in span.clone().filter(|c| !hidden[*c] && self.open(r, at, *c)) {
                    inverse.noisy[column] = self.mask_id;
                    inverse.picks.push(Pick { column: column as u32, kind: Kind::Masked, weight });
                }
            }
            out.push(inverse);
        }
        out
    }

    /// Weight of a masked token at u.
    pub fn weight(&self, u: f64) -> f64 {
        match self.weighting {
            Weighting::InvT => self.schedule.weight(u),
            Weighting::Uniform => 1.0,
        }
    }

    fn corrupt(
        &self,
        step: u32,
        row: usize,
        x: &[u32],
        places: &[Place],
        span: Range<usize>,
        u: f64,
        rate: Option<f64>,
        plan: &mut RowPlan,
    ) {
        let mask = Rng::new(self.seed, Stream::Mask, 0);
        let replace = Rng::new(self.seed, Stream::Replace, 0);
        let (t, weight) = (self.schedule.rate(u), self.weight(u) as f32);
        for column in span {
            if !self.open(row, places, column) {
                continue;
            }
            plan.counted += 1;
            let position = (row * x.len() + column) as u32;
            let pick = |kind, weight| Pick { column: column as u32, kind, weight };
            if mask.uniform(step, position, 0) < t {
                plan.noisy[column] = self.mask_id;
                plan.picks.push(pick(Kind::Masked, weight));
            } else if let Some(rate) = rate {
                if replace.uniform(step, position, 0) < rate {
                    plan.noisy[column] =
                        self.other_id(&replace, step, position, |id| id != x[column] && id != self.eos_id);
                    plan.picks.push(pick(Kind::Replaced, 1.0));
                } else {
                    plan.picks.push(pick(Kind::Kept, 1.0));
                }
            }
        }
    }

    /// Draws a span of a row under mask and uniform noise at time t.
    fn mix(
        &self,
        step: u32,
        row: usize,
        x: &[u32],
        places: &[Place],
        span: Range<usize>,
        spec: &HybridSpec,
        t: f64,
        plan: &mut RowPlan,
    ) {
        let mask = Rng::new(self.seed, Stream::Mask, 0);
        let replace = Rng::new(self.seed, Stream::Replace, 0);
        let process = Hybrid::at(t, spec.p_uniform, self.symbols());
        for column in span.filter(|c| self.open(row, places, *c)) {
            plan.counted += 1;
            let position = (row * x.len() + column) as u32;
            let seen = process.draw(mask.uniform(step, position, 0));
            plan.noisy[column] = match seen {
                Seen::Mask => self.mask_id,
                Seen::Truth => x[column],
                Seen::Other => self.other_id(&replace, step, position, |id| id != x[column]),
            };
            let observed = (seen != Seen::Mask).then_some(plan.noisy[column]);
            let kind = Kind::Noisy { alpha: process.alpha as f32, beta: process.q_other as f32, observed };
            let weight = process.training_weight(seen, spec.weighting) as f32;
            plan.picks.push(Pick { column: column as u32, kind, weight });
        }
    }

    /// N: ids that can be predicted.
    fn symbols(&self) -> usize {
        let gone = |v: &u32| *v == self.mask_id || self.forbid.contains(v);
        self.vocab - (0..self.vocab as u32).filter(gone).count()
    }

    /// A uniform id among those that can be predicted and are `good`.
    fn other_id(&self, rng: &Rng, step: u32, position: u32, good: impl Fn(u32) -> bool) -> u32 {
        for lane in 1.. {
            let id = rng.below(step, position, lane, self.vocab as u64) as u32;
            if good(id) && id != self.mask_id && !self.forbid.contains(&id) {
                return id;
            }
        }
        unreachable!("a vocabulary has ordinary ids")
    }
}

#[cfg(test)]
mod tests;
