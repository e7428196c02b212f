//! Monte Carlo forms of the mask NELBO (`methods/evaluation.md` 1.1). With S(m) = sum over the masked of -ln p:
//!
//! - rate form, `nelbo_t` and `nelbo_block`: t ~ U(0, 1) per group, each token masked with probability t, S(m) / t;
//! - count form, `nelbo_n`: n ~ U{1..L} per group, n of its L tokens masked, (L / n) S(m): the same expectation without
//!   the binomial variance.
//!
//! Both are unbiased for sum over n of (1/n) E_{|m| = n} S(m) (the rate form up to rates below 1e-3, which are not drawn).
//! Rates and counts of the K draws of a group lie on a ring: u_g(j) = frac(u_g + j / K), n = floor(L u) + 1 (rounding
//! half to even would not be uniform, section 1.4).

use hilda_kernels::rng::{Rng, Stream};

use super::denoiser::State;
use super::groups::Layout;
use crate::diffusion::corruption::{Corruption, Groups};

/// Smallest mask rate that the rate form draws.
pub const LOWEST: f64 = 1e-3;

/// Draws of every row of a layout.
pub struct Draws<'a> {
    layout: &'a Layout<'a>,
    process: Corruption,
    groups: Groups,
    k: usize,
    counts: bool,
    ring: bool,
}

impl<'a> Draws<'a> {
    /// K draws a row; `counts` chooses the form, `ring` stratifies the draws of a group (off: independent draws).
    pub fn new(layout: &'a Layout<'a>, seed: u64, k: usize, counts: bool, ring: bool) -> Self {
        let process = layout.process(seed, [LOWEST, 1.0]);
        let groups = process.groups(0, &layout.places);
        Draws { layout, process, groups, k, counts, ring }
    }

    /// Draw `j` of row `r`: the state and the weight of each asked column.
    pub fn draw(&self, r: usize, j: usize) -> (State, Vec<f64>) {
        let (tokens, places) = (self.layout.rows[r].tokens, &self.layout.places[r]);
        let fresh;
        let (groups, ring) = match self.ring {
            true => (&self.groups, Some((j, self.k))),
            false => {
                fresh = self.process.groups(j as u32, &self.layout.places);
                (&fresh, None)
            }
        };
        if !self.counts {
            let plan = self.process.draw_row(j as u32, r, tokens, places, groups, ring);
            let weights = plan.picks.iter().map(|p| p.weight as f64).collect();
            let asked = plan.picks.iter().map(|p| p.column).collect();
            return (State { row: r, noisy: plan.noisy, asked, time: f64::NAN }, weights);
        }
        let order = Rng::new(self.process.seed, Stream::Eval, 0);
        let mut state = State { row: r, noisy: tokens.to_vec(), asked: vec![], time: f64::NAN };
        let mut weights = vec![];
        for (g, span) in groups.spans[r].iter().enumerate() {
            let mut columns: Vec<usize> = span.clone().filter(|c| self.layout.scored(r, *c)).collect();
            let size = columns.len();
            if size == 0 {
                continue;
            }
            let u = self.process.uniform(groups, r, g, ring);
            let n = ((size as f64 * u) as usize).min(size - 1) + 1;
            let key = |c: usize| order.uniform(j as u32, (r * tokens.len() + c) as u32, 0);
            columns.sort_by(|a, b| key(*a).total_cmp(&key(*b)));
            columns.truncate(n);
            columns.sort_unstable();
            for c in columns {
                state.noisy[c] = self.layout.alphabet.mask_id;
                state.asked.push(c as u32);
                weights.push(size as f64 / n as f64);
            }
        }
        (state, weights)
    }
}
