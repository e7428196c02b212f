//! Plain loops in f64, and the float64 oracle of the token race.

use super::{LossRow, Losses};
use crate::rng::{Rng, Stream};

/// Logits of one row, forbidden ids at minus infinity.
pub fn logits(hidden: &[f32], table: &[f32], forbid: &[u32], width: usize) -> Vec<f64> {
    let mut z: Vec<f64> = table
        .chunks_exact(width)
        .map(|t| t.iter().zip(hidden).map(|(a, b)| *a as f64 * *b as f64).sum())
        .collect();
    forbid.iter().for_each(|id| z[*id as usize] = f64::NEG_INFINITY);
    z
}

/// ln softmax
pub fn log_softmax(z: &[f64]) -> Vec<f64> {
    let m = z.iter().fold(f64::NEG_INFINITY, |m, x| m.max(*x));
    let lse = m + z.iter().map(|x| (x - m).exp()).sum::<f64>().ln();
    z.iter().map(|x| x - lse).collect()
}

/// Entropy in nats of log-probabilities.
pub fn entropy(lp: &[f64]) -> f64 {
    lp.iter().filter(|l| **l > f64::NEG_INFINITY).map(|l| -l.exp() * l).sum()
}

/// argmin over v of ln E_v - z_v / T with the keyed exponentials, and the gap to the runner-up.
pub fn race(z: &[f64], temperature: f64, seed: u64, key: [u32; 3]) -> (u32, f64) {
    let rng = Rng::new(seed, Stream::Token, key[2]);
    let mut best = (f64::INFINITY, 0, f64::INFINITY);
    for (v, x) in z.iter().enumerate().filter(|(_, x)| **x > f64::NEG_INFINITY) {
        let (hi, lo) = rng.bits(key[1], key[0], v as u32);
        let u = (hi as f64 + (lo as f64 + 0.5) / 4294967296.0) / 4294967296.0;
        let r = (-(-u).ln_1p()).ln() - x / temperature;
        if r < best.0 {
            best = (r, v as u32, best.0);
        } else if r < best.2 {
            best.2 = r;
        }
    }
    (best.1, best.2 - best.0)
}

/// D of [`super::mixture`] and dD / dz_v from log-probabilities, term by term.
pub fn divergence(lp: &[f64], target: usize, m: &super::Mixture) -> (f64, Vec<f64>) {
    let (alpha, beta) = (m.alpha as f64, m.beta as f64);
    // the target counts even where it is forbidden and has no chance
    let live = |v: &usize| lp[*v] > f64::NEG_INFINITY || *v == target;
    let truth = |v: usize| beta + if v == target { alpha } else { 0.0 };
    let q = |v: usize| alpha * lp[v].exp() + beta;
    let mut d: f64 = (0..lp.len()).filter(live).map(|v| truth(v) * (truth(v) / q(v)).ln()).sum();
    let mut g: Vec<f64> = (0..lp.len()).map(|v| -truth(v) * alpha / q(v)).collect();
    if let Some(s) = m.observed.map(|s| s as usize) {
        let r = truth(s) / q(s);
        d += r - r.ln() - 1.0;
        g[s] += alpha * (1.0 - r) / q(s);
    }
    let mean: f64 = (0..lp.len()).filter(live).map(|v| lp[v].exp() * g[v]).sum();
    (d, lp.iter().zip(g).map(|(l, g)| l.exp() * (g - mean)).collect())
}

/// As [`super::loss`]: (what the head says, d_hidden, d_table).
pub fn loss(
    hidden: &[f32],
    table: &[f32],
    rows: &[LossRow],
    forbid: &[u32],
    width: usize,
) -> (Losses, Vec<f32>, Vec<f32>) {
    let mut out = Losses::default();
    let mut dh = vec![0f64; rows.len() * width];
    let mut dt = vec![0f64; table.len()];
    for (r, row) in rows.iter().enumerate() {
        let h = &hidden[r * width..][..width];
        let lp = log_softmax(&logits(h, table, forbid, width));
        let ent = entropy(&lp);
        out.log_p.push(lp[row.target as usize] as f32);
        out.entropy.push(ent as f32);
        let mixed = row.mixture.map(|m| (m.weight as f64, divergence(&lp, row.target as usize, &m)));
        out.divergence.push(mixed.as_ref().map_or(0.0, |m| m.1.0 as f32));
        for (v, l) in lp.iter().enumerate() {
            let mut dz = 0.0;
            if *l > f64::NEG_INFINITY {
                dz = -row.d_log_p as f64 * l.exp() - row.d_entropy as f64 * l.exp() * (l + ent);
            }
            if v == row.target as usize && *l > f64::NEG_INFINITY {
                dz += row.d_log_p as f64;
            }
            if let Some((weight, (_, slope))) = &mixed {
                dz += weight * slope[v];
            }
            for d in 0..width {
                dh[r * width + d] += dz * table[v * width + d] as f64;
                dt[v * width + d] += dz * h[d] as f64;
            }
        }
    }
    let round = |x: Vec<f64>| x.into_iter().map(|x| x as f32).collect();
    (out, round(dh), round(dt))
}

/// As [`super::distill`]: (D, d_hidden, d_table).
pub fn distill(
    hidden: &[f32],
    table: &[f32],
    width: usize,
    teacher: super::Teacher,
    slopes: &[f32],
    forbid: &[u32],
    temperature: f32,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let (mut out, mut dh, mut dt) = (vec![], vec![0f64; slopes.len() * width], vec![0f64; table.len()]);
    let soft = |h: &[f32], t: &[f32], w: usize| {
        let z = logits(h, t, forbid, w);
        log_softmax(&z.iter().map(|z| z / temperature as f64).collect::<Vec<_>>())
    };
    for (r, c) in slopes.iter().enumerate() {
        let h = &hidden[r * width..][..width];
        let lp = soft(h, table, width);
        let lq = soft(&teacher.hidden[r * teacher.width..][..teacher.width], teacher.table, teacher.width);
        let live = (0..lp.len()).filter(|v| lp[*v] > f64::NEG_INFINITY);
        out.push(live.map(|v| lq[v].exp() * (lq[v] - lp[v])).sum::<f64>() as f32);
        for v in 0..lp.len() {
            let dz = *c as f64 * (lp[v].exp() - lq[v].exp()) / temperature as f64;
            for d in 0..width {
                dh[r * width + d] += dz * table[v * width + d] as f64;
                dt[v * width + d] += dz * h[d] as f64;
            }
        }
    }
    let round = |x: Vec<f64>| x.into_iter().map(|x| x as f32).collect();
    (out, round(dh), round(dt))
}
