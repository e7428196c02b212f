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
mod tests {
    use super::*;
    use crate::config::Noise;
    use crate::diffusion::hybrid::HybridWeighting;

    fn process(shift: bool, edit: Option<EditSpec>, per_block: bool) -> Corruption {
        Corruption {
            seed: 9,
            mask_id: 1,
            forbid: vec![1, 2],
            eos_id: 0,
            vocab: 40,
            t: [1e-3, 1.0],
            schedule: Schedule::Linear,
            weighting: Weighting::InvT,
            shift,
            edit,
            hybrid: None,
            scope: if per_block { Scope::Block } else { Scope::Sample },
            answers: vec![],
        }
    }
    fn row(l: u32, block: u32) -> Vec<Place> {
        (0..l).map(|p| Place { position: p, document: 0, block: p / block, stream: 1 }).collect()
    }

    #[test]
    fn only_picks_are_corrupted_and_the_first_token_survives_a_shift() {
        let c = process(
            true,
            Some(EditSpec { mix: 1.0, rate: 0.5, lambda_edit: 1.0, lambda_keep: 0.1, noise: Noise::Uniform }),
            true,
        );
        let x: Vec<u32> = (0..32).map(|i| 3 + i % 30).collect();
        for step in 0..50 {
            for plan in c.draw(step, &[&x, &x], &[row(32, 8), row(32, 8)]) {
                assert_eq!((plan.noisy[0], plan.counted), (x[0], 31));
                let mut kinds = vec![None; 32];
                plan.picks.iter().for_each(|p| kinds[p.column as usize] = Some(p.kind));
                for (i, kind) in kinds.iter().enumerate() {
                    match kind {
                        Some(Kind::Masked) => assert_eq!(plan.noisy[i], 1),
                        Some(Kind::Replaced) => assert!(plan.noisy[i] != x[i] && plan.noisy[i] > 2),
                        _ => assert_eq!(plan.noisy[i], x[i]),
                    }
                }
            }
        }
    }

    /// What stands at a token follows q_t: masks, truths and every other symbol alike, end-of-text among them; nothing that
    /// cannot be predicted is ever drawn, and every token is supervised.
    #[test]
    fn mixed_noise_is_drawn_as_declared() {
        for p_uniform in [0.3, 1.0] {
            let hybrid = HybridSpec { p_uniform, weighting: HybridWeighting::Nelbo };
            let c = Corruption { hybrid: Some(hybrid), vocab: 8, ..process(true, None, true) };
            let x: Vec<u32> = (0..32).map(|i| [3, 4, 5, 6, 7, 0][i % 6]).collect();
            let (mut counts, mut want) = ([0f64; 3], [0f64; 3]);
            let mut others = [0f64; 8];
            for step in 0..300 {
                for plan in c.draw(step, &[&x, &x], &[row(32, 8), row(32, 8)]) {
                    assert_eq!((plan.noisy[0], plan.counted, plan.picks.len()), (x[0], 31, 31));
                    for pick in &plan.picks {
                        let (i, truth) = (pick.column as usize, x[pick.column as usize]);
                        let Kind::Noisy { alpha, beta, observed } = pick.kind else { panic!("{pick:?}") };
                        assert_eq!(observed.unwrap_or(1), plan.noisy[i]);
                        // six symbols: alpha + 6 beta is what the mask leaves
                        let seen = [plan.noisy[i] == 1, plan.noisy[i] == truth];
                        let class = seen.iter().position(|s| *s).unwrap_or(2);
                        counts[class] += 1.0;
                        if class == 2 {
                            others[plan.noisy[i] as usize] += 1.0;
                        }
                        let q = [1.0 - alpha - 6.0 * beta, alpha + beta, 5.0 * beta];
                        q.iter().zip(&mut want).for_each(|(q, w)| *w += *q as f64);
                        let t = match class {
                            0 => Some((1.0 + (1.0 - 4.0 / pick.weight as f64).max(0.0).sqrt()) / 2.0),
                            _ => None,
                        };
                        // w = 1 / (t (1 - t)) at masks, for the t that alpha and beta belong to
                        if let Some(t) = t {
                            let near = [t, 1.0 - t].map(|t| Hybrid::at(t, p_uniform, 6).alpha - alpha as f64);
                            assert!(near.iter().any(|d| d.abs() < 1e-2), "{pick:?}");
                        }
                    }
                }
            }
            for (n, w) in counts.iter().zip(want) {
                assert!((n - w).abs() < 5.0 * w.max(0.0).sqrt() + 1e-3, "{p_uniform}: {counts:?} {want:?}");
            }
            assert_eq!((others[1], others[2], counts[0] > 0.0), (0.0, 0.0, p_uniform < 1.0));
            let each: Vec<f64> = [0, 3, 4, 5, 6, 7].iter().map(|v| others[*v as usize]).collect();
            let mean = each.iter().sum::<f64>() / 6.0;
            assert!(each.iter().all(|n| (n - mean).abs() < 0.12 * mean), "{each:?}");
        }
    }

    /// Only answers are corrupted, under every kind of noise, and their weights are those of a row of answers alone.
    #[test]
    fn prompts_stay_as_they_are() {
        let edit =
            EditSpec { mix: 1.0, rate: 0.9, lambda_edit: 1.0, lambda_keep: 1.0, noise: Noise::Uniform };
        let hybrid = HybridSpec { p_uniform: 0.3, weighting: HybridWeighting::Nelbo };
        let x: Vec<u32> = (0..32).map(|i| 3 + i % 30).collect();
        let answer: Vec<bool> = (0..32).map(|i| i >= 13).collect();
        let row_of =
            |answers| Row { tokens: &x, documents: vec![0; 32], positions: (0..32).collect(), answers };
        let plain = process(true, None, true);
        for c in [
            plain.clone(),
            process(true, Some(edit), true),
            Corruption { hybrid: Some(hybrid), ..plain.clone() },
        ] {
            let c = c.on(&[row_of(Some(&answer)), row_of(Some(&answer))]);
            let (tokens, places) = ([&x[..], &x[..]], [row(32, 8), row(32, 8)]);
            for step in 0..50 {
                let plans = c.draw(step, &tokens, &places);
                let inverse = if c.edit.is_none() && c.hybrid.is_none() {
                    c.complement(step, &tokens, &places, &plans)
                } else {
                    vec![]
                };
                for plan in plans.iter().chain(&inverse) {
                    assert_eq!(plan.counted, 19);
                    assert_eq!(plan.noisy[..13], x[..13]);
                    assert!(plan.picks.iter().all(|p| p.column >= 13));
                }
            }
        }
        assert_eq!(plain.clone().on(&[row_of(None)]).answers.len(), 0);
    }

    #[test]
    fn complementary_plans_cover_every_token_exactly_once() {
        let x: Vec<u32> = (0..32).map(|i| 3 + i % 30).collect();
        for (shift, block) in [(true, 8), (false, 32)] {
            let c = process(shift, None, block == 8);
            let (tokens, places) = (vec![&x[..]; 3], vec![row(32, block); 3]);
            for step in 0..40 {
                let plans = c.draw(step, &tokens, &places);
                let inverse = c.complement(step, &tokens, &places, &plans);
                for (a, b) in plans.iter().zip(&inverse) {
                    let mut columns: Vec<u32> = a.picks.iter().chain(&b.picks).map(|p| p.column).collect();
                    columns.sort_unstable();
                    assert_eq!(columns, (u32::from(shift)..32).collect::<Vec<_>>());
                    assert_eq!((a.counted, b.counted), (columns.len(), columns.len()));
                    let masked = |plan: &RowPlan, i: usize| plan.noisy[i] == 1;
                    assert!((usize::from(shift)..32).all(|i| masked(a, i) != masked(b, i)));
                    // 1/t and 1/(1 - t) of one rate
                    for (p, q) in a.picks.iter().flat_map(|p| b.picks.iter().map(move |q| (p, q))) {
                        if p.column / block == q.column / block {
                            let t = 1.0 / p.weight as f64;
                            assert!((q.weight as f64 * (1.0 - t).max(1e-3) - 1.0).abs() < 1e-3);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn rates_are_stratified_and_do_not_follow_the_position() {
        let c = process(false, None, true);
        let x = vec![5u32; 64];
        let places: Vec<_> = (0..16).map(|_| row(64, 8)).collect();
        let (mut first, mut last, mut all) = (0.0, 0.0, 0.0);
        let n = 200;
        for step in 0..n {
            for plan in c.draw(step, &vec![&x[..]; 16], &places) {
                let share = |a: usize, b: usize| plan.noisy[a..b].iter().filter(|t| **t == 1).count() as f64;
                first += share(0, 8);
                last += share(56, 64);
                all += share(0, 64);
            }
        }
        let count = 16.0 * n as f64;
        assert!((first / count / 8.0 - 0.5).abs() < 0.01 && (last / count / 8.0 - 0.5).abs() < 0.01);
        assert!((all / count / 64.0 - 0.5).abs() < 0.003);
    }

    /// `methods/mdlm.md` 5.2: the weighted sum of a uniform denoiser is L ln(V - 1) in expectation.
    #[test]
    fn uniform_denoiser_is_unbiased() {
        let c = process(false, None, false);
        let x = vec![5u32; 16];
        let (mut s, n) = (0.0, 4000);
        for step in 0..n {
            for plan in c.draw(step, &vec![&x[..]; 8], &vec![row(16, 16); 8]) {
                s += plan.picks.iter().map(|p| p.weight as f64).sum::<f64>() / 16.0 / 8.0;
            }
        }
        assert!((s / n as f64 - 1.0).abs() < 0.02, "{}", s / n as f64);
    }
}
