//! KLASS (arXiv 2511.05664, NeurIPS 2025, section 4): a row is ready once its distribution has settled and is sure:
//! KL(p_now || p_before) < eps in each of the last n forwards and p_max > tau. All ready rows are written; if none is, the
//! best ones by the quota of fixed steps.
//!
//! History begins with the block: the first forward of a block has nothing to compare with, so that nothing is ready
//! before its (n + 1)-th. With `carry` it goes over to later blocks, as in the official code, wherever forwards compute their
//! rows: with the whole text in sight and no cache, or a cache that computes what follows. Then a block's n-th forward is the
//! first in which a row may be ready. That asks for the logits of every masked position of the text. Both comparisons are
//! strict.

use super::{
    Fired, View,
    parts::{Chosen, Ranked},
    quota,
};

/// Parameters of the test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stable {
    pub tau: f32,
    /// nats
    pub epsilon: f32,
    /// forwards
    pub history: u32,
    /// fixed steps where none is ready; 0 = one token
    pub steps: u32,
    /// history goes over to later blocks
    pub carry: bool,
}

pub(super) fn stable(ranked: &Ranked, s: Stable, view: &View) -> Chosen {
    let n = s.history as usize;
    // by how much the row passes the nearest test
    let lead = |i: usize| {
        let row = ranked.rows[i].0;
        let settled = match row.kl.len().checked_sub(n) {
            Some(from) if view.block_step as usize + 1 >= n => {
                row.kl[from..].iter().map(|kl| s.epsilon - kl).fold(f32::INFINITY, f32::min)
            }
            _ => f32::NEG_INFINITY,
        };
        settled.min(row.p_max() - s.tau)
    };
    let rows: Vec<(usize, f32)> =
        (0..ranked.len()).map(|i| (i, lead(i))).filter(|(_, lead)| *lead > 0.0).collect();
    let ready = rows.len() as u32;
    let fired = Fired::Klass { tau: s.tau, epsilon: s.epsilon, ready };
    if ready > 0 {
        return Chosen { rows, fired };
    }
    // that no row passed is part of the decision
    let nearest = (0..ranked.len()).map(|i| -lead(i)).fold(f32::INFINITY, f32::min);
    let best = quota::quota(ranked, s.steps, view);
    Chosen { rows: best.rows.into_iter().map(|(i, gap)| (i, gap.min(nearest))).collect(), fired }
}
