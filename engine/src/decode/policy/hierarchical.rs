//! Hierarchical (dInfer; `methods/decoding.md` 2.5 H): tokens that are written together depend on each other the less the
//! further they are apart. So in every maximal run of masked rows the best one is written if its confidence is above
//! `low`, and every row above tau anyway; if no row is above `low`, the best one alone. Each forward splits the runs.
//!
//! low >= tau is threshold decoding.

use super::{
    Fired,
    parts::{Chosen, Ranked},
};

pub(super) fn spread(ranked: &Ranked, tau: f32, low: f32) -> Chosen {
    // ranks by position
    let mut places: Vec<(u32, usize)> =
        ranked.rows.iter().enumerate().map(|(i, (r, _))| (r.pos, i)).collect();
    places.sort_unstable();
    let confidence = |i: usize| ranked.rows[i].0.confidence;
    // by how much a row passes either test; minus infinity if neither
    let mut lead = vec![f32::NEG_INFINITY; ranked.len()];
    let mut above = 0;
    for (i, lead) in lead.iter_mut().enumerate().filter(|(i, _)| confidence(*i) > tau) {
        *lead = confidence(i) - tau;
        above += 1;
    }
    let mut runs = 0;
    for run in places.chunk_by(|a, b| a.0 + 1 == b.0) {
        let mut ranks: Vec<usize> = run.iter().map(|r| r.1).collect();
        ranks.sort_unstable();
        let best = ranks[0];
        if confidence(best) > low {
            runs += 1;
            let next = ranks.get(1).map_or(f32::INFINITY, |next| ranked.between(best, *next));
            lead[best] = lead[best].max((confidence(best) - low).min(next));
        }
    }
    let fired = Fired::Hierarchical { tau, low, above, runs };
    let rows: Vec<(usize, f32)> =
        lead.into_iter().enumerate().filter(|(_, lead)| *lead > f32::NEG_INFINITY).collect();
    if !rows.is_empty() {
        return Chosen { rows, fired };
    }
    // that no row passed is part of the decision
    let least = low.min(tau);
    let nearest = (0..ranked.len()).map(|i| least - confidence(i)).fold(f32::INFINITY, f32::min);
    Chosen { rows: vec![(0, ranked.gap(0, 1).min(nearest))], fired }
}
