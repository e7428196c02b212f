//! The NELBO of mask and uniform noise ([`Hybrid`]) for models that edit: raw, and after the leave-one-out conversion.
//!
//! Read three numbers side by side (`methods/llada21_editing.md`, GIDD 2.5): the mask-only NELBO (A, the headline,
//! comparable with models that do not edit), the raw hybrid NELBO (B, valid and loose where the network was taught the
//! posterior that includes the visible token) and the converted one (C). B - C is what double counting costs, C - A what
//! editing costs or gains. C is the model's bound for any p_u; networks here read no time, which is a handicap for both.
//!
//! t = sin^2(pi u / 2) per group, u stratified over groups and draws, with the Jacobian (pi / 2) sin(pi u): the raw
//! weights grow like 1 / (t (1 - t)) at both ends, and so do the draws.

use hilda_kernels::rng::{Rng, Stream};

use super::denoiser::{Denoiser, State};
use super::groups::Layout;
use crate::diffusion::corruption::{Corruption, Groups};
use crate::diffusion::hybrid::{Hybrid, Seen};

/// Draws of mask and uniform noise.
pub struct HybridDraws<'a> {
    layout: &'a Layout<'a>,
    symbols: Vec<u32>,
    process: Corruption,
    groups: Groups,
    p_uniform: f64,
    k: usize,
}

/// One draw: a state that asks every scored column, with the process and what stands at each.
pub struct HybridDraw {
    pub state: State,
    /// process, Jacobian, what stands there
    pub at: Vec<(Hybrid, f64, Seen)>,
}

impl<'a> HybridDraws<'a> {
    pub fn new(layout: &'a Layout<'a>, seed: u64, k: usize, p_uniform: f64) -> Self {
        let process = layout.process(seed, [0.0, 1.0]);
        let groups = process.groups(0, &layout.places);
        HybridDraws { layout, symbols: layout.alphabet.symbols(), process, groups, p_uniform, k }
    }

    /// Draw `j` of row `r`.
    pub fn draw(&self, r: usize, j: usize) -> HybridDraw {
        let tokens = self.layout.rows[r].tokens;
        let mut out = HybridDraw {
            state: State { row: r, noisy: tokens.to_vec(), asked: vec![], time: f64::NAN },
            at: vec![],
        };
        let rng = Rng::new(self.process.seed, Stream::Eval, 1);
        for (g, span) in self.groups.spans[r].iter().enumerate() {
            let u = self.process.uniform(&self.groups, r, g, Some((j, self.k)));
            let t = (std::f64::consts::FRAC_PI_2 * u).sin().powi(2).clamp(1e-9, 1.0 - 1e-9);
            let jacobian = std::f64::consts::FRAC_PI_2 * (std::f64::consts::PI * u).sin();
            let process = Hybrid::at(t, self.p_uniform, self.symbols.len());
            out.state.time = t;
            for c in span.clone().filter(|c| self.layout.scored(r, *c)) {
                let position = (r * tokens.len() + c) as u32;
                let seen = process.draw(rng.uniform(j as u32, position, 0));
                match seen {
                    Seen::Mask => out.state.noisy[c] = self.layout.alphabet.mask_id,
                    Seen::Truth => {}
                    Seen::Other => {
                        // one of the N - 1 others: the last symbol stands in for the truth
                        let n = self.symbols.len() as u64 - 1;
                        let i = rng.below(j as u32, position, 2, n) as usize;
                        let id = self.symbols[i];
                        out.state.noisy[c] = if id == tokens[c] { self.symbols[n as usize] } else { id };
                    }
                }
                out.state.asked.push(c as u32);
                out.at.push((process, jacobian, seen));
            }
        }
        out
    }

    /// Nats of each draw.
    pub fn nats<D: Denoiser>(&self, d: &mut D, draws: Vec<HybridDraw>, loo: bool) -> Vec<f64> {
        let (states, at): (Vec<_>, Vec<_>) = draws.into_iter().map(|d| (d.state, d.at)).unzip();
        let terms = d.distributions(&states, &|s, i, log_p| {
            let (process, jacobian, seen) = &at[s][i];
            let column = states[s].asked[i] as usize;
            let truth = self.layout.rows[states[s].row].tokens[column] as usize;
            let z = states[s].noisy[column] as usize;
            let term = match loo && *seen != Seen::Mask {
                false => process.divergence(log_p, truth, *seen, z),
                true => {
                    let mut converted = log_p.to_vec();
                    process.leave_one_out(&mut converted, *seen, z);
                    process.divergence(&converted, truth, *seen, z)
                }
            };
            jacobian * process.weight(*seen) * term
        });
        terms.iter().map(|t| t.iter().sum()).collect()
    }
}
