//! Entropy bound (EB-Sampler, arXiv 2505.24857, section 4): rows in score order, the largest prefix U with
//! sum_U H - max_U H <= gamma, at least one; all of U are drawn independently. The left side bounds the
//! multi-information of U, so gamma bounds what independence costs, in nats. H is the entropy at temperature 1,
//! an upper bound of the drawn distribution's for temperatures below 1.
//!
//! The left side never falls as the prefix grows, so the first failure ends the search.

use super::{
    Fired,
    parts::{Chosen, Ranked},
};

pub(super) fn bound(ranked: &Ranked, gamma: f32) -> Chosen {
    let (mut sum, mut max, mut n, mut value) = (0.0f64, 0.0f64, 0, 0.0);
    let mut slack = Vec::with_capacity(ranked.len());
    for (row, _) in &ranked.rows {
        let h = row.head.entropy.max(0.0) as f64;
        let (s, m) = (sum + h, max.max(h));
        if n > 0 && s - m > gamma as f64 {
            break;
        }
        slack.push(if n == 0 { f32::INFINITY } else { (gamma as f64 - (s - m)) as f32 });
        (sum, max, n, value) = (s, m, n + 1, s - m);
    }
    let rows = (0..n).map(|i| (i, slack[i].min(ranked.gap(i, n)))).collect();
    Chosen { rows, fired: Fired::EntropyBound { gamma, n: n as u32, sum: value as f32 } }
}
