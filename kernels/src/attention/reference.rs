//! The full matrix, f64.

use super::rule::{MaskRule, Place};
use crate::backend::AttentionShape;

/// Probabilities [batch, heads, q_len, k_len] and log-sum-exp [batch * q_len, heads].
pub fn probabilities(
    q: &[f32],
    kv: &[f32],
    rule: MaskRule,
    queries: &[Place],
    keys: &[Place],
    s: AttentionShape,
) -> (Vec<f64>, Vec<f64>) {
    let mut p = vec![0f64; s.batch * s.heads * s.q_len * s.k_len];
    let mut lse = vec![f64::NEG_INFINITY; s.batch * s.q_len * s.heads];
    for b in 0..s.batch {
        for h in 0..s.heads {
            let kh = h / (s.heads / s.kv_heads);
            for i in 0..s.q_len {
                let row = &mut p[((b * s.heads + h) * s.q_len + i) * s.k_len..][..s.k_len];
                for (j, z) in row.iter_mut().enumerate() {
                    *z = f64::NEG_INFINITY;
                    if rule.allowed(queries[b * s.q_len + i], keys[b * s.k_len + j]) {
                        let qa = (b * s.q_len + i) * s.q_stride + s.q_col + h * s.head_dim;
                        let ka = (b * s.k_len + j) * s.kv_stride + s.k_col + kh * s.head_dim;
                        let dot: f64 = (0..s.head_dim).map(|d| q[qa + d] as f64 * kv[ka + d] as f64).sum();
                        *z = dot * s.scale as f64;
                    }
                }
                let m = row.iter().fold(f64::NEG_INFINITY, |m, z| m.max(*z));
                if m == f64::NEG_INFINITY {
                    row.fill(0.0);
                    continue;
                }
                let l = m + row.iter().map(|z| (z - m).exp()).sum::<f64>().ln();
                lse[(b * s.q_len + i) * s.heads + h] = l;
                row.iter_mut().for_each(|z| *z = (*z - l).exp());
            }
        }
    }
    (p, lse)
}

/// out [batch * q_len, heads * head_dim]
pub fn attention(
    q: &[f32],
    kv: &[f32],
    rule: MaskRule,
    queries: &[Place],
    keys: &[Place],
    s: AttentionShape,
) -> Vec<f32> {
    let (p, _) = probabilities(q, kv, rule, queries, keys, s);
    let mut out = vec![0f32; s.batch * s.q_len * s.heads * s.head_dim];
    for b in 0..s.batch {
        for h in 0..s.heads {
            let kh = h / (s.heads / s.kv_heads);
            for i in 0..s.q_len {
                for d in 0..s.head_dim {
                    let sum: f64 = (0..s.k_len)
                        .map(|j| {
                            let va = (b * s.k_len + j) * s.kv_stride + s.v_col + kh * s.head_dim + d;
                            p[((b * s.heads + h) * s.q_len + i) * s.k_len + j] * kv[va] as f64
                        })
                        .sum();
                    out[((b * s.q_len + i) * s.heads + h) * s.head_dim + d] = sum as f32;
                }
            }
        }
    }
    out
}

/// Gradients with respect to `q` and `kv` (laid out as they are, unused columns zero) of sum(out * d_out).
pub fn attention_backward(
    d_out: &[f32],
    q: &[f32],
    kv: &[f32],
    rule: MaskRule,
    queries: &[Place],
    keys: &[Place],
    s: AttentionShape,
) -> (Vec<f32>, Vec<f32>) {
    let (p, _) = probabilities(q, kv, rule, queries, keys, s);
    let (mut dq, mut dkv) = (vec![0f64; q.len()], vec![0f64; kv.len()]);
    for b in 0..s.batch {
        for h in 0..s.heads {
            let kh = h / (s.heads / s.kv_heads);
            for i in 0..s.q_len {
                let row = &p[((b * s.heads + h) * s.q_len + i) * s.k_len..][..s.k_len];
                let qa = (b * s.q_len + i) * s.q_stride + s.q_col + h * s.head_dim;
                let d_out = &d_out[((b * s.q_len + i) * s.heads + h) * s.head_dim..][..s.head_dim];
                let at = |j: usize, col: usize| (b * s.k_len + j) * s.kv_stride + col + kh * s.head_dim;
                let dp: Vec<f64> = (0..s.k_len)
                    .map(|j| (0..s.head_dim).map(|d| d_out[d] as f64 * kv[at(j, s.v_col) + d] as f64).sum())
                    .collect();
                let mean: f64 = row.iter().zip(&dp).map(|(p, d)| p * d).sum();
                for j in 0..s.k_len {
                    let ds = row[j] * (dp[j] - mean) * s.scale as f64;
                    for d in 0..s.head_dim {
                        dq[qa + d] += ds * kv[at(j, s.k_col) + d] as f64;
                        dkv[at(j, s.k_col) + d] += ds * q[qa + d] as f64;
                        dkv[at(j, s.v_col) + d] += row[j] * d_out[d] as f64;
                    }
                }
            }
        }
    }
    let round = |x: Vec<f64>| x.into_iter().map(|x| x as f32).collect();
    (round(dq), round(dkv))
}
