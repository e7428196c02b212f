//! The loss of noise that mixes the true token with uniform symbols: it touches the whole vocabulary of a row.
//!
//! With p = softmax of the row over the N symbols that are not forbidden, y the target, and what stands at the position
//! drawn from q(v | y) = alpha [v = y] + beta:
//!
//! ```text
//! q(v | p) = alpha p_v + beta
//! D = KL(q(. | y) || q(. | p)) + (r - ln r - 1 where the symbol s is observed),   r = q(s | y) / q(s | p)
//! dD / dz_j = p_j (g_j - sum_v p_v g_v),   g_v = -q(v | y) alpha / q(v | p) + [v = s] alpha (1 - r) / q(s | p)
//! ```
//!
//! Weighted, D is the NELBO of mask and uniform noise (GIDD, arXiv 2503.04482, section 3; s unobserved at a mask) and, at
//! alpha + N beta = 1, of uniform-state diffusion (UDLM; `methods/scaling_beyond_masked.md` 2.2: the same terms in
//! another order). beta > 0; at beta = 0 it is -alpha ln p_y, for which a coefficient of ln p suffices.
//!
//! KL is (alpha + beta) ln((alpha + beta) / q(y | p)) - beta sum over v != y of ln(1 + a p_v), a = alpha / beta: products of
//! sixteen factors in f64, one logarithm for each.

use crate::{simd, simd::LANES, simd::exp};

/// One row's noise, and how much its divergence weighs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mixture {
    /// what is kept of the token
    pub alpha: f32,
    /// noise on each symbol, > 0
    pub beta: f32,
    /// the symbol that stands there; None at a mask
    pub observed: Option<u32>,
    /// dL / dD, after all normalisation
    pub weight: f32,
}

/// Factors of a product before its logarithm is taken: with a below 1e10 they stay far inside f64.
const FACTORS: usize = 16;

simd! {
    /// (sum of ln(1 + a p), sum of p beta / (alpha p + beta)) over a row of logits
    fn sums(z: &[f32], lse: f32, alpha: f32, beta: f32) -> (f64, f32) {
        let a = alpha as f64 / beta as f64;
        let (mut product, mut share, mut log) = ([1f64; LANES], [0f32; LANES], 0f64);
        let chunks = z.chunks_exact(LANES);
        let rest = chunks.remainder();
        for (n, c) in chunks.enumerate() {
            for i in 0..LANES {
                let p = exp(c[i] - lse);
                product[i] *= 1.0 + a * p as f64;
                share[i] += p * beta / (alpha * p + beta);
            }
            if n % FACTORS == FACTORS - 1 {
                for x in &mut product {
                    log += x.ln();
                    *x = 1.0;
                }
            }
        }
        let mut sum = simd::sum(&share);
        for x in product {
            log += x.ln();
        }
        for z in rest {
            let p = exp(*z - lse);
            log += (1.0 + a * p as f64).ln();
            sum += p * beta / (alpha * p + beta);
        }
        (log, sum)
    }
    /// z -> -p (c + e (ln p + h)) + w p (-alpha beta / (alpha p + beta) - s)
    fn gradient_row(z: &mut [f32], lse: f32, h: f32, c: f32, e: f32, alpha: f32, beta: f32, w: f32, s: f32) {
        let ab = alpha * beta;
        for x in z.iter_mut() {
            let l = if *x - lse > -100.0 { *x - lse } else { -100.0 };
            let p = exp(l);
            *x = -p * (c + e * (l + h)) - w * p * (ab / (alpha * p + beta) + s);
        }
    }
}

/// D of a row of logits with log-sum-exp `lse` and entropy `h`. With `slope` = (dL / d ln p, dL / dH) the logits become
/// dL / dz, but for the target's share of d ln p.
pub fn divergence(
    z: &mut [f32],
    lse: f32,
    h: f32,
    target: u32,
    m: &Mixture,
    slope: Option<(f32, f32)>,
) -> f32 {
    let (alpha, beta) = (m.alpha as f64, m.beta as f64);
    let p = |z: f32| ((z - lse) as f64).exp();
    let (log, share) = sums(z, lse, m.alpha, m.beta);
    let py = p(z[target as usize]);
    let qy = alpha * py + beta;
    let others = (log - (qy / beta).ln()).max(0.0);
    let mut d = (alpha + beta) * ((alpha + beta) / qy).ln() - beta * others;
    // g of the target and of the observed symbol, beyond what every symbol has
    let (at_target, mut at_observed) = (-alpha * alpha / qy, 0.0);
    let mut mean = -alpha * share as f64 + py * at_target;
    if let Some(s) = m.observed {
        let ps = p(z[s as usize]);
        let qs = alpha * ps + beta;
        let r = (if s == target { alpha + beta } else { beta }) / qs;
        // neither r near 1 nor r near 0 may lose its digits
        d += (r - 1.0) - if r > 0.5 { (r - 1.0).ln_1p() } else { r.ln() };
        at_observed = alpha * (1.0 - r) / qs;
        mean += ps * at_observed;
    }
    if let Some((c, e)) = slope {
        let w = m.weight as f64;
        let ps = m.observed.map(|s| p(z[s as usize]));
        gradient_row(z, lse, h, c, e, m.alpha, m.beta, m.weight, mean as f32);
        z[target as usize] += (w * py * at_target) as f32;
        if let (Some(s), Some(ps)) = (m.observed, ps) {
            z[s as usize] += (w * ps * at_observed) as f32;
        }
    }
    d as f32
}
