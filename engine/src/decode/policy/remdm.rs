//! ReMDM (arXiv 2503.00307): the ancestral sampler with a chance to mask again what is written, so that errors can be put
//! right. Times t fall from 1 to 1e-5 on a grid, alpha_t = 1 - t, s the next time. In each cell of the grid
//!
//! - a written position is masked with probability sigma,
//! - a masked one is written with u = (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t), its token drawn from its conditional.
//!
//! Marginals do not depend on sigma up to sigma_max = min(1, (1 - alpha_s) / alpha_t) (theorem 3.1); sigma = 0 is MDLM.
//! What the variants (section 4) choose:
//!
//! - `cap`: min(eta, sigma_max); `rescale`: eta sigma_max; `forward_backward`: (alpha_s - alpha_t) / alpha_t, at most
//!   sigma_max;
//! - `conf`: sigma_max times the softmax of -psi over the block's written positions, psi the probability a token was written
//!   with; masked positions have weight 0;
//! - `loop`: MDLM until t_on, up to alpha_on of the text; then sigma = eta at constant alpha_on; MDLM from t_off on.
//!
//! Prompt and fixed positions never change. No coin depends on the network: one u ~ U(0, 1) for each position and cell,
//! keyed by both. So cells in which nothing falls need no forward and are skipped, which is exact for networks without a
//! time input. What is still masked behind the last cell takes its most probable token (noise removal).

use std::ops::Range;

use hilda_kernels::rng::{Rng, Stream};
use serde::{Deserialize, Serialize};

use crate::decode::Status;

/// How sigma is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    #[default]
    Cap,
    Rescale,
    Conf,
    Loop,
    ForwardBackward,
}

/// The grid and the choice of sigma.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Remdm {
    pub variant: Variant,
    /// cells a block
    pub cells: u32,
    pub eta: f64,
    /// of `loop`
    pub t_on: f64,
    pub t_off: f64,
    pub alpha_on: f64,
}

/// Last time of the grid.
const END: f64 = 1e-5;
/// Lane of the coins: 0 and 1 are scores and the noise of orders.
const LANE: u32 = 2;

/// Shares of written positions at the beginning and the end of a cell, and the chance to be masked again in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    pub alpha_t: f64,
    pub alpha_s: f64,
    pub sigma: f64,
}

impl Rates {
    /// The largest chance with the right marginals.
    pub fn sigma_max(&self) -> f64 {
        if self.alpha_t == 0.0 { 1.0 } else { ((1.0 - self.alpha_s) / self.alpha_t).min(1.0) }
    }
    /// Chance of a masked position to be written.
    pub fn unmask(&self) -> f64 {
        ((self.alpha_s - (1.0 - self.sigma) * self.alpha_t) / (1.0 - self.alpha_t)).clamp(0.0, 1.0)
    }
}

/// A block as the coins see it.
#[derive(Clone, Debug)]
pub struct Moment<'a> {
    /// of all positions
    pub statuses: &'a [Status],
    pub block: Range<u32>,
    pub seed: u64,
    pub sequence: u32,
}

impl Remdm {
    /// Rates of a cell; of `conf`, sigma is that of a position of weight 1.
    pub fn rates(&self, cell: u32) -> Rates {
        let dt = (1.0 - END) / self.cells as f64;
        let t = 1.0 - cell as f64 * dt;
        let s = t - dt;
        let plain = Rates { alpha_t: 1.0 - t, alpha_s: 1.0 - s, sigma: 0.0 };
        let max = plain.sigma_max();
        let with = |sigma: f64| Rates { sigma, ..plain };
        match self.variant {
            Variant::Cap => with(self.eta.min(max)),
            Variant::Rescale => with(self.eta * max),
            Variant::Conf => with(max),
            Variant::ForwardBackward if plain.alpha_t == 0.0 => with(1.0),
            Variant::ForwardBackward => with(((plain.alpha_s - plain.alpha_t) / plain.alpha_t).min(max)),
            Variant::Loop => {
                let on = self.alpha_on;
                let (alpha, sigma): (&dyn Fn(f64) -> f64, f64) = if t > self.t_on {
                    (&|t| (1.0 - t) * on / (1.0 - self.t_on), 0.0)
                } else if t > self.t_off {
                    (&|_| on, self.eta)
                } else {
                    (&|t| 1.0 - t * (1.0 - on) / self.t_off, 0.0)
                };
                let rates = Rates { alpha_t: alpha(t).min(1.0), alpha_s: alpha(s).min(1.0), sigma: 0.0 };
                Rates { sigma: sigma.min(rates.sigma_max()), ..rates }
            }
        }
    }

    /// Positions whose coin falls in `cell`: masked ones are to be written, written ones to be masked.
    pub fn falls(&self, cell: u32, m: &Moment) -> Vec<u32> {
        let rates = self.rates(cell);
        let rng = Rng::new(m.seed, Stream::Order, m.sequence);
        let psi = |p: u32| match m.statuses[p as usize] {
            Status::Committed { psi, .. } => Some(psi as f64),
            _ => None,
        };
        // -psi lies in [-1, 0]: no maximum has to be taken out
        let weights: f64 = m.block.clone().filter_map(psi).map(|psi| (-psi).exp()).sum();
        let chance = |p: u32| match (m.statuses[p as usize], self.variant) {
            (Status::Masked, Variant::Conf) => Rates { sigma: 0.0, ..rates }.unmask(),
            (Status::Masked, _) => rates.unmask(),
            (Status::Committed { psi, .. }, Variant::Conf) => rates.sigma * (-(psi as f64)).exp() / weights,
            (Status::Committed { .. }, _) => rates.sigma,
            _ => 0.0,
        };
        m.block.clone().filter(|p| rng.uniform(cell, *p, LANE) < chance(*p)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Variant; 5] =
        [Variant::Cap, Variant::Rescale, Variant::Conf, Variant::Loop, Variant::ForwardBackward];

    fn remdm(variant: Variant, cells: u32, eta: f64) -> Remdm {
        Remdm { variant, cells, eta, t_on: 0.55, t_off: 0.05, alpha_on: 0.9 }
    }

    /// Both transitions are distributions, and with a certain denoiser the share of masks behind a cell is 1 - alpha_s.
    #[test]
    fn transitions_are_distributions_with_the_right_marginals() {
        for variant in ALL {
            for (cells, eta) in [(1, 0.3), (7, 0.04), (128, 0.02), (128, 1.0)] {
                for cell in 0..cells {
                    let r = remdm(variant, cells, eta).rates(cell);
                    let exact = (r.alpha_s - (1.0 - r.sigma) * r.alpha_t) / (1.0 - r.alpha_t);
                    assert!((-1e-12..=1.0 + 1e-12).contains(&exact), "{variant:?} {cell}: {exact}");
                    assert!((0.0..=r.sigma_max()).contains(&r.sigma), "{variant:?} {cell}: {r:?}");
                    let masked = r.alpha_t * r.sigma + (1.0 - r.alpha_t) * (1.0 - r.unmask());
                    assert!((masked - (1.0 - r.alpha_s)).abs() < 1e-12, "{variant:?} {cell}");
                    // at the largest sigma below 1 every mask falls
                    let max = Rates { sigma: r.sigma_max(), ..r };
                    if max.sigma < 1.0 {
                        assert!((max.unmask() - 1.0).abs() < 1e-12);
                    }
                }
            }
        }
    }

    /// Neighbouring cells meet, but where `loop` changes its phase, and there by less than a cell.
    #[test]
    fn cells_join() {
        for variant in ALL {
            let r = remdm(variant, 100, 0.02);
            for cell in 1..100 {
                let gap = (r.rates(cell - 1).alpha_s - r.rates(cell).alpha_t).abs();
                assert!(
                    gap < if variant == Variant::Loop { 0.03 } else { 1e-12 },
                    "{variant:?} {cell}: {gap}"
                );
            }
            assert_eq!(r.rates(0).alpha_t, 0.0);
            assert!(r.rates(99).alpha_s > 0.9999);
        }
    }

    /// At eta = 0 cap and rescale are MDLM, coin for coin.
    #[test]
    fn without_eta_it_is_mdlm() {
        for cell in 0..50 {
            let (a, b) =
                (remdm(Variant::Cap, 50, 0.0).rates(cell), remdm(Variant::Rescale, 50, 0.0).rates(cell));
            assert_eq!((a, a.sigma), (b, 0.0));
            assert!((a.unmask() - (a.alpha_s - a.alpha_t) / (1.0 - a.alpha_t)).abs() < 1e-15);
        }
    }

    /// The least sure token is masked most often; the chances of all written ones add up to sigma_max.
    #[test]
    fn conf_prefers_the_unsure() {
        let statuses = [0.9f32, 0.2].map(|psi| Status::Committed { step: 0, psi });
        let r = remdm(Variant::Conf, 200, 0.0);
        let (mut counts, mut sum) = ([0.0, 0.0], 0.0);
        for sequence in 0..200 {
            for cell in 0..200 {
                let m = Moment { statuses: &statuses, block: 0..2, seed: 1, sequence };
                r.falls(cell, &m).iter().for_each(|p| counts[*p as usize] += 1.0);
                sum += r.rates(cell).sigma;
            }
        }
        let share = (-0.2f64).exp() / ((-0.2f64).exp() + (-0.9f64).exp());
        assert!((counts[1] / (counts[0] + counts[1]) - share).abs() < 0.02, "{counts:?}");
        assert!(((counts[0] + counts[1]) / sum - 1.0).abs() < 0.02);
    }
}
