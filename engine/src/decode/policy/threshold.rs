//! Confidence tests (Fast-dLLM, arXiv 2505.22618, section 3.3).
//!
//! **Threshold**: every row whose confidence in its candidate is above tau, strictly; if there is none, the best by score.
//! **Factor**: with c_1 >= c_2 >= ... the largest n such that (k + 1)(1 - c_k) < f for every 2 <= k <= n, n >= 1:
//! with f = 1 the n tokens are the mode of their joint distribution (theorem 1 there).

use super::{
    Fired,
    parts::{Chosen, Ranked},
};

pub(super) fn above(ranked: &Ranked, tau: f32) -> Chosen {
    let rows: Vec<(usize, f32)> = ranked
        .rows
        .iter()
        .enumerate()
        .filter(|(_, (r, _))| r.confidence > tau)
        .map(|(i, (r, _))| (i, r.confidence - tau))
        .collect();
    let fired = Fired::Threshold { tau, above: rows.len() as u32 };
    if !rows.is_empty() {
        return Chosen { rows, fired };
    }
    // that no row passed is part of the decision
    let nearest = ranked.rows.iter().map(|(r, _)| tau - r.confidence).fold(f32::INFINITY, f32::min);
    Chosen { rows: vec![(0, ranked.gap(0, 1).min(nearest))], fired }
}

pub(super) fn factor(ranked: &Ranked, f: f32) -> Chosen {
    let mut by_p: Vec<usize> = (0..ranked.len()).collect();
    by_p.sort_by(|a, b| {
        let (a, b) = (ranked.rows[*a].0, ranked.rows[*b].0);
        b.confidence.total_cmp(&a.confidence).then(a.pos.cmp(&b.pos))
    });
    let test = |k: usize| f - (k as f32 + 1.0) * (1.0 - ranked.rows[by_p[k - 1]].0.confidence);
    let mut n = 1;
    while n < by_p.len() && test(n + 1) > 0.0 {
        n += 1;
    }
    let fired = Fired::Factor { f, n: n as u32 };
    let next = by_p.get(n).map(|i| ranked.rows[*i].0.confidence);
    let rows = by_p[..n]
        .iter()
        .enumerate()
        .map(|(rank, i)| {
            let gap = next.map_or(f32::INFINITY, |p| ranked.rows[*i].0.confidence - p);
            (*i, (2..=rank + 1).map(test).fold(gap, f32::min))
        })
        .collect();
    Chosen { rows, fired }
}
