//! Mask and uniform noise together, or uniform noise alone (GIDD, arXiv 2503.04482; `methods/llada21_editing.md`, GIDD 2.1, 2.2, 2.5), the one
//! process whose NELBO is proper for a model that also sees wrong visible tokens. Per token, with N symbols that are not
//! the mask, t in (0, 1) and p_u the share of uniform noise at t = 1/2:
//!
//! ```text
//! c = B sqrt(t (1 - t)), B = 2 p_u / (1 - p_u), C = 1 + c          alpha = (1 - t) / C
//! q(mask) = t / C      q(x) = (1 - t + c / N) / C      q(other) = c / (N C) each
//! NELBO = sum_i E_t E_z w(z_i) [ KL(q(.|x_i) || q(.|x_theta,i)) + r - ln r - 1 ],  r = q(z_i | x_i) / q(z_i | x_theta,i)
//! ```
//!
//! q(.|x_theta) = alpha x_theta + beta pi, x_theta the network's distribution without the mask at *every* position, the
//! visible ones included. p_u = 0 is MDLM's bound; p_u = 1 is uniform-state diffusion (UDLM,
//! `methods/scaling_beyond_masked.md` 2.2, whose loss is the same one in another order): alpha = 1 - t, no mask, and
//! w = 1 / ((1 - t) N q(z_i)), the general rule w = (mu' - (alpha' / alpha) mu)_z / q(z) with mu = beta pi. The optimal x_theta at a visible position leaves the token that stands
//! there out; cross-entropy at visible positions teaches the posterior that includes it. [`leave_one_out`] divides it out.

use serde::{Deserialize, Serialize};

/// Weights of the training loss. Likelihoods always use the exact ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HybridWeighting {
    /// the bound's own, which grow like 1 / (t (1 - t)) at both ends
    Nelbo,
    /// those, at most 2
    Clip,
    /// twice their ratio to a mask's at the same time, at most 2: 2 at masks, 1 at wrong symbols, nearly 0 at right ones
    /// (GIDD, section 4.3)
    #[default]
    Dynamic,
}

/// What stands at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Mask,
    /// the true token
    Truth,
    /// another symbol
    Other,
}

/// The process at one time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hybrid {
    pub t: f64,
    /// N
    pub symbols: f64,
    pub c: f64,
    /// dc / dt
    pub dc: f64,
    pub alpha: f64,
    pub q_mask: f64,
    pub q_truth: f64,
    /// of each other symbol
    pub q_other: f64,
}

impl Hybrid {
    /// `p_uniform` in [0, 1], t in (0, 1).
    pub fn at(t: f64, p_uniform: f64, symbols: usize) -> Hybrid {
        let n = symbols as f64;
        if p_uniform >= 1.0 {
            let (c, dc) = (f64::INFINITY, f64::NAN);
            return Hybrid {
                t,
                symbols: n,
                c,
                dc,
                alpha: 1.0 - t,
                q_mask: 0.0,
                q_truth: 1.0 - t + t / n,
                q_other: t / n,
            };
        }
        let c = 2.0 * p_uniform / (1.0 - p_uniform) * (t * (1.0 - t)).sqrt();
        let total = 1.0 + c;
        Hybrid {
            t,
            symbols: n,
            c,
            dc: 0.5 * (1.0 - 2.0 * t) / (t * (1.0 - t)) * c,
            alpha: (1.0 - t) / total,
            q_mask: t / total,
            q_truth: (1.0 - t + c / n) / total,
            q_other: c / (n * total),
        }
    }

    /// w of what stands there.
    pub fn weight(&self, seen: Seen) -> f64 {
        let s = 1.0 - self.t;
        if self.c.is_infinite() {
            let q = if seen == Seen::Truth { self.q_truth } else { self.q_other };
            return 1.0 / (s * self.symbols * q);
        }
        match seen {
            Seen::Mask => 1.0 / (self.t * s),
            Seen::Other => (self.c + s * self.dc) / (s * self.c),
            Seen::Truth => (self.c + s * self.dc) / (self.symbols * s * (s + self.c / self.symbols)),
        }
    }

    /// The weight that a training loss gives what stands there.
    pub fn training_weight(&self, seen: Seen, weighting: HybridWeighting) -> f64 {
        let w = self.weight(seen);
        match weighting {
            HybridWeighting::Nelbo => w,
            HybridWeighting::Clip => w.min(2.0),
            HybridWeighting::Dynamic if self.c.is_infinite() => w.min(2.0),
            HybridWeighting::Dynamic => (2.0 * w / self.weight(Seen::Mask)).min(2.0),
        }
    }

    /// The state of a token from one uniform; `Other` means any of the N - 1 other symbols with equal chances.
    pub fn draw(&self, u: f64) -> Seen {
        match u {
            u if u < self.q_mask => Seen::Mask,
            u if u < self.q_mask + (self.symbols - 1.0) * self.q_other => Seen::Other,
            _ => Seen::Truth,
        }
    }

    /// KL + r - ln r - 1 of one position, unweighted. `log_p` is ln x_theta over the vocabulary (minus infinity outside
    /// the symbols), `truth` the token's id, `z` the id that stands there (ignored at a mask).
    pub fn divergence(&self, log_p: &[f32], truth: usize, seen: Seen, z: usize) -> f64 {
        let q = |v: usize| self.alpha * (log_p[v] as f64).exp() + self.q_other;
        let mut kl = self.q_truth * (self.q_truth.ln() - q(truth).ln());
        if self.q_other > 0.0 {
            // sum over the others of ln(1 + alpha x_theta / q_other), by products: a logarithm each would cost the most
            let a = self.alpha / self.q_other;
            let (mut sum, mut product) = (0.0, 1.0f64);
            for (i, l) in log_p.iter().enumerate() {
                product *= 1.0 + a * (*l as f64).exp();
                if i % 32 == 31 {
                    sum += product.ln();
                    product = 1.0;
                }
            }
            sum += product.ln() - (q(truth) / self.q_other).ln();
            kl -= self.q_other * sum;
        }
        let r = match seen {
            Seen::Mask => return kl,
            Seen::Truth => self.q_truth / q(truth),
            Seen::Other => self.q_other / q(z),
        };
        kl + r - r.ln() - 1.0
    }

    /// Turns the posterior p(x_i | z), which includes what stands at i, into p(x_i | z without z_i), in place:
    /// divided by q(z_i | v) and normalised. At a mask nothing changes.
    pub fn leave_one_out(&self, log_p: &mut [f32], seen: Seen, z: usize) {
        if seen == Seen::Mask || self.q_other <= 0.0 {
            return;
        }
        // every v but z is divided by q_other: relative to that, z by q_truth / q_other
        log_p[z] -= (self.q_truth / self.q_other).ln() as f32;
        let max = log_p.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let lse = max as f64 + log_p.iter().map(|l| ((*l - max) as f64).exp()).sum::<f64>().ln();
        log_p.iter_mut().for_each(|l| *l = (*l as f64 - lse) as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64, tolerance: f64) {
        assert!((a - b).abs() < tolerance, "{a} {b}");
    }
    const X: [f64; 3] = [0.2, 0.5, 0.3];
    fn log_p() -> Vec<f32> {
        X.iter().map(|p| p.ln() as f32).collect()
    }

    /// The scalars of `methods/llada21_editing.md`, GIDD section 5 (N = 3, t = .3, x = 1).
    #[test]
    fn golden_scalars() {
        let h = Hybrid::at(0.3, 0.1, 3);
        close(h.c, 0.101835015, 1e-8);
        close(h.dc, 0.096985729, 1e-8);
        close(h.alpha, 0.635303825, 1e-8);
        close(h.q_mask, 0.272273068, 1e-8);
        close(h.q_other, 0.030807702, 1e-8);
        close(h.q_truth, 0.666111527, 1e-8);
        close(h.q_mask + h.q_truth + 2.0 * h.q_other, 1.0, 1e-12);
        let term = |h: &Hybrid, seen, z| h.weight(seen) * h.divergence(&log_p(), 1, seen, z);
        close(h.divergence(&log_p(), 1, Seen::Mask, 9), 0.320498131, 1e-6);
        close(h.weight(Seen::Mask), 4.761904762, 1e-8);
        close(term(&h, Seen::Mask, 9), 1.526181574, 1e-5);
        close(h.weight(Seen::Truth), 0.110119205, 1e-8);
        close(term(&h, Seen::Truth, 1), 0.064326381, 1e-6);
        close(h.weight(Seen::Other), 2.380952381, 1e-8);
        close(term(&h, Seen::Other, 0), 2.737246461, 1e-5);
        let h = Hybrid::at(0.3, 0.5, 3);
        close(h.alpha, 0.365246267, 1e-8);
        close(h.divergence(&log_p(), 1, Seen::Mask, 9), 0.080933725, 1e-6);
        close(term(&h, Seen::Mask, 9), 0.385398688, 1e-6);
        close(term(&h, Seen::Truth, 1), 0.135302329, 1e-6);
        close(h.weight(Seen::Truth), 0.723410559, 1e-8);
        close(term(&h, Seen::Other, 0), 0.342680748, 1e-6);
        // without uniform noise: MDLM
        let h = Hybrid::at(0.3, 0.0, 3);
        close(term(&h, Seen::Mask, 9), 2.310490602, 1e-5);
        close(h.weight(Seen::Truth), 0.0, 1e-12);
        let mut loo: Vec<f32> = [0.05f64, 0.9, 0.05].map(|p| p.ln() as f32).to_vec();
        Hybrid::at(0.3, 0.1, 3).leave_one_out(&mut loo, Seen::Other, 1);
        for (l, want) in loo.iter().zip([0.353045, 0.293910, 0.353045]) {
            close((*l as f64).exp(), want, 1e-6);
        }
    }

    /// The weights of uniform noise alone against the closed form of UDLM's integrand and against the limit of the mixture;
    /// the general rule by numerical derivatives.
    #[test]
    fn uniform_noise_alone_is_the_limit_and_matches_udlm() {
        let x: [f64; 3] = [0.2, 0.5, 0.3];
        for t in [0.1, 0.4, 0.8] {
            let h = Hybrid::at(t, 1.0, 3);
            close(h.q_truth + 2.0 * h.q_other, 1.0, 1e-12);
            let bar = |p: f64| 3.0 * h.alpha * p + t;
            for (seen, z) in [(Seen::Truth, 1usize), (Seen::Other, 0)] {
                let ours = h.weight(seen) * h.divergence(&log_p(), 1, seen, z);
                // alpha' = -1: loss = (alpha' / (K alpha)) { K / xbar_i - K / xbar_theta_i - sum_j ... }
                let one = |j: usize| bar(f64::from(u8::from(j == 1)));
                let sum: f64 =
                    (0..3).map(|j| one(j) / one(z) * (bar(x[z]) * one(j) / (bar(x[j]) * one(z))).ln()).sum();
                let theirs = -(3.0 / one(z) - 3.0 / bar(x[z]) - sum) / (3.0 * h.alpha);
                close(ours, theirs, 1e-5 * theirs.abs().max(1.0));
                // mu = beta pi, by differences: w = (mu' - (alpha' / alpha) mu)_z / q(z)
                for p in [0.1, 0.6, 1.0] {
                    let h = Hybrid::at(t, p, 3);
                    let e = 1e-6;
                    let (a, b) = (Hybrid::at(t - e, p, 3), Hybrid::at(t + e, p, 3));
                    let d_mu = (b.q_other - a.q_other) / (2.0 * e);
                    let d_alpha = (b.alpha - a.alpha) / (2.0 * e);
                    let q = if seen == Seen::Truth { h.q_truth } else { h.q_other };
                    let w = (d_mu - d_alpha / h.alpha * h.q_other) / q;
                    close(h.weight(seen) / w, 1.0, 1e-4);
                }
            }
        }
    }

    #[test]
    fn training_weights_are_bounded_and_ordered() {
        for t in [1e-4, 0.2, 0.5, 0.9, 1.0 - 1e-4] {
            let h = Hybrid::at(t, 0.2, 50);
            let w = |seen, kind| h.training_weight(seen, kind);
            for seen in [Seen::Mask, Seen::Truth, Seen::Other] {
                close(w(seen, HybridWeighting::Nelbo), h.weight(seen), 1e-12);
                for kind in [HybridWeighting::Clip, HybridWeighting::Dynamic] {
                    assert!((0.0..=2.0).contains(&w(seen, kind)), "{t} {seen:?} {kind:?}");
                }
            }
            close(w(Seen::Mask, HybridWeighting::Dynamic), 2.0, 1e-12);
            close(w(Seen::Other, HybridWeighting::Dynamic), 1.0, 1e-9);
            // (B / N) e^(-lambda / 2) with lambda = ln((1 - t) / t), up to terms of 1 / N
            let b = 2.0 * 0.2 / 0.8;
            let paper = b / 50.0 * (t / (1.0 - t)).sqrt();
            let ours = 2.0 * h.weight(Seen::Truth) / h.weight(Seen::Mask);
            close(ours / paper, (1.0 - t) / (1.0 - t + h.c / 50.0), 1e-9);
        }
    }

    #[test]
    fn the_truth_costs_nothing() {
        let sure = [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY];
        for p in [0.0, 0.1, 0.5] {
            let h = Hybrid::at(0.4, p, 3);
            for (seen, z) in [(Seen::Mask, 0), (Seen::Truth, 1), (Seen::Other, 2)] {
                if seen != Seen::Other || p > 0.0 {
                    close(h.divergence(&sure, 1, seen, z), 0.0, 1e-9);
                }
            }
        }
    }
}
