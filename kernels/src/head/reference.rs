//! Plain loops in f64, and the float64 oracle of the token race.

use super::LossRow;
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

/// As [`super::loss`]: (log_p, entropy, d_hidden, d_table).
pub fn loss(
    hidden: &[f32],
    table: &[f32],
    rows: &[LossRow],
    forbid: &[u32],
    width: usize,
) -> (Vec<f32>, Vec<f32>, Vec<f32>, Vec<f32>) {
    let (mut lps, mut ents) = (vec![], vec![]);
    let mut dh = vec![0f64; rows.len() * width];
    let mut dt = vec![0f64; table.len()];
    for (r, row) in rows.iter().enumerate() {
        let h = &hidden[r * width..][..width];
        let lp = log_softmax(&logits(h, table, forbid, width));
        let ent = entropy(&lp);
        lps.push(lp[row.target as usize] as f32);
        ents.push(ent as f32);
        for (v, l) in lp.iter().enumerate() {
            let mut dz = 0.0;
            if *l > f64::NEG_INFINITY {
                dz = -row.d_log_p as f64 * l.exp() - row.d_entropy as f64 * l.exp() * (l + ent);
            }
            if v == row.target as usize && *l > f64::NEG_INFINITY {
                dz += row.d_log_p as f64;
            }
            for d in 0..width {
                dh[r * width + d] += dz * table[v * width + d] as f64;
                dt[v * width + d] += dz * h[d] as f64;
            }
        }
    }
    let round = |x: Vec<f64>| x.into_iter().map(|x| x as f32).collect();
    (lps, ents, round(dh), round(dt))
}
