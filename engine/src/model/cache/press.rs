//! Presses: which positions of finished blocks are dropped (KVpress; `methods/kv_cache.md` F).
//!
//! A press scores the keys of one layer and one head of keys; the lowest go. With T positions stored and a share r to drop,
//! n = floor(T (1 - r)) stay per head, among them always the first [`SINKS`] and the last finished block. All scores are
//! functions of what the cache holds when a block is finished:
//!
//! ```text
//! random             u
//! knorm              -|k|
//! keydiff            -cos(k, mean of k' / |k'|)
//! sinks              position: the newest stay (StreamingLLM)
//! snapkv             mean over the block's queries and the group's heads of the attention, mean over 5 keys around
//! expected_attention mean over the group's heads of softmax(k mu / sqrt d + k' Sigma k / (2 d)) |v|
//! kvzap              the surrogate's ln s+
//! ```
//! with d the head's width, mu and Sigma mean and covariance of the block's queries before the rotary embedding, turned by
//! the mean rotation of the next [`AHEAD`] positions.

use super::host::Keys;

/// Positions over which the expected query's rotation is averaged.
pub const AHEAD: usize = 512;
/// Keys over which snapkv's attention is averaged.
const POOL: usize = 5;

/// Queries of one layer's heads, [rows, heads head_dim] behind the rotary embedding, and where they stand.
pub struct Queries<'a> {
    pub rows: &'a [f32],
    pub positions: &'a [u32],
    pub heads: usize,
    /// of the attention's scores
    pub scale: f32,
    /// base of the rotary embedding
    pub theta: f32,
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| *x as f64 * *y as f64).sum()
}
fn norm(a: &[f32]) -> f64 {
    dot(a, a).sqrt()
}
fn softmax(z: &mut [f64]) {
    let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    z.iter_mut().for_each(|x| *x = (*x - max).exp());
    let sum: f64 = z.iter().sum();
    z.iter_mut().for_each(|x| *x /= sum);
}

/// -|k|.
pub fn knorm(k: &Keys) -> Vec<f64> {
    k.k.chunks_exact(k.width).map(|k| -norm(k)).collect()
}

/// -cos(k, mean of the normalised keys).
pub fn keydiff(k: &Keys) -> Vec<f64> {
    let mut mean = vec![0f32; k.width];
    for row in k.k.chunks_exact(k.width) {
        let n = norm(row).max(1e-12) as f32;
        mean.iter_mut().zip(row).for_each(|(m, x)| *m += x / n);
    }
    let of = norm(&mean).max(1e-12);
    k.k.chunks_exact(k.width).map(|row| -dot(row, &mean) / (norm(row) * of).max(1e-24)).collect()
}

/// Mean attention of the queries of heads `group`, averaged over the keys around.
pub fn snapkv(k: &Keys, q: &Queries, group: std::ops::Range<usize>) -> Vec<f64> {
    let (n, d) = (k.positions.len(), k.width);
    let mut mean = vec![0f64; n];
    let rows = q.rows.chunks_exact(q.heads * d);
    let share = 1.0 / (rows.len() * group.len()) as f64;
    for row in rows {
        for h in group.clone() {
            let query = &row[h * d..][..d];
            let mut z: Vec<f64> = k.k.chunks_exact(d).map(|k| dot(query, k) * q.scale as f64).collect();
            softmax(&mut z);
            mean.iter_mut().zip(&z).for_each(|(m, p)| *m += p * share);
        }
    }
    let half = POOL / 2;
    (0..n)
        .map(|i| {
            let around = &mean[i.saturating_sub(half)..(i + half + 1).min(n)];
            // beyond the ends are zeros, as in the reference
            around.iter().sum::<f64>() / POOL as f64
        })
        .collect()
}

/// Mean and covariance [d], [d, d] of one head's queries before the rotary embedding.
fn statistics(q: &Queries, h: usize, d: usize) -> (Vec<f64>, Vec<f64>) {
    let mut rows: Vec<Vec<f64>> = q
        .rows
        .chunks_exact(q.heads * d)
        .map(|row| row[h * d..][..d].iter().map(|x| *x as f64).collect())
        .collect();
    for (row, p) in rows.iter_mut().zip(q.positions) {
        for i in 0..d / 2 {
            let (sin, cos) = angle(*p as f64, i, d, q.theta).sin_cos();
            let (a, b) = (row[i], row[i + d / 2]);
            (row[i], row[i + d / 2]) = (a * cos + b * sin, b * cos - a * sin);
        }
    }
    let n = rows.len() as f64;
    let mu: Vec<f64> = (0..d).map(|i| rows.iter().map(|r| r[i]).sum::<f64>() / n).collect();
    let mut sigma = vec![0f64; d * d];
    for row in &rows {
        for i in 0..d {
            let x = (row[i] - mu[i]) / n;
            for j in 0..d {
                sigma[i * d + j] += x * (row[j] - mu[j]);
            }
        }
    }
    (mu, sigma)
}

fn angle(position: f64, i: usize, d: usize, theta: f32) -> f64 {
    position * (theta as f64).powf(-2.0 * i as f64 / d as f64)
}

/// x [d, cols] -> R x, R the mean rotation of positions `from .. from + AHEAD`.
fn turn(x: &mut [f64], cols: usize, from: u32, d: usize, theta: f32) {
    for i in 0..d / 2 {
        // the mean of n unit vectors at equal angles points to the middle one
        let (n, half) = (AHEAD as f64, angle(0.5, i, d, theta));
        let (sin, cos) = angle(from as f64 + (n - 1.0) / 2.0, i, d, theta).sin_cos();
        let length = if half.sin() == 0.0 { 1.0 } else { (n * half).sin() / (n * half.sin()) };
        let (sin, cos) = (sin * length, cos * length);
        for c in 0..cols {
            let (a, b) = (x[i * cols + c], x[(i + d / 2) * cols + c]);
            (x[i * cols + c], x[(i + d / 2) * cols + c]) = (a * cos - b * sin, b * cos + a * sin);
        }
    }
}

fn transpose(x: &[f64], d: usize) -> Vec<f64> {
    (0..d * d).map(|i| x[i % d * d + i / d]).collect()
}

/// softmax over the keys of scale k mu + scale^2 k' sigma k / 2.
pub fn expected(k: &Keys, mu: &[f64], sigma: &[f64], scale: f32) -> Vec<f64> {
    let (d, scale) = (k.width, scale as f64);
    let mut z: Vec<f64> =
        k.k.chunks_exact(d)
            .map(|k| {
                let k: Vec<f64> = k.iter().map(|x| *x as f64).collect();
                let along: f64 = k.iter().zip(mu).map(|(x, m)| x * m).sum();
                let spread: f64 = sigma
                    .chunks_exact(d)
                    .zip(&k)
                    .map(|(row, x)| x * row.iter().zip(&k).map(|(s, y)| s * y).sum::<f64>())
                    .sum();
                scale * along + scale * scale * spread / 2.0
            })
            .collect();
    softmax(&mut z);
    z
}

/// Attention that queries like these would pay from positions after `end`, times |v|.
pub fn expected_attention(k: &Keys, q: &Queries, group: std::ops::Range<usize>, end: u32) -> Vec<f64> {
    let d = k.width;
    let mut mean = vec![0f64; k.positions.len()];
    for h in group.clone() {
        let (mut mu, mut sigma) = statistics(q, h, d);
        turn(&mut mu, 1, end, d, q.theta);
        // R S R' = R (R S')', S symmetric
        turn(&mut sigma, d, end, d, q.theta);
        sigma = transpose(&sigma, d);
        turn(&mut sigma, d, end, d, q.theta);
        let p = expected(k, &mu, &sigma, q.scale);
        mean.iter_mut().zip(&p).for_each(|(m, p)| *m += p / group.len() as f64);
    }
    mean.iter().zip(k.v.chunks_exact(d)).map(|(m, v)| m * norm(v)).collect()
}

/// Indices that stay, ascending: the protected ones and of the others the best, so that `most` stay in all where the
/// protected leave as many. Equal scores: the lower position stays.
pub fn best(scores: &[f64], protected: impl Fn(usize) -> bool, most: usize) -> Vec<usize> {
    let (mut kept, mut open): (Vec<usize>, Vec<usize>) = (0..scores.len()).partition(|i| protected(*i));
    open.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    open.truncate(most.saturating_sub(kept.len()));
    kept.extend(open);
    kept.sort_unstable();
    kept
}

#[cfg(test)]
mod tests;
