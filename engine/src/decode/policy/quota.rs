//! Quota (LLaDA, arXiv 2502.09992, appendix B.3): S steps a block, m0 rows masked at its start,
//! k_s = floor(m0 / S) + [s < m0 mod S], S := min(S, m0). The best k_s rows by score are written.

use super::{
    Fired, View,
    parts::{Chosen, Ranked},
};

pub(super) fn quota(ranked: &Ranked, steps: u32, view: &View) -> Chosen {
    let (m0, s) = (view.masked_at_start, view.block_step);
    let steps = if steps == 0 { m0 } else { steps.min(m0) }.max(1);
    let masked = ranked.len() as u32;
    let k = if s + 1 >= steps { masked } else { m0 / steps + (s < m0 % steps) as u32 };
    Chosen::best(ranked, k as usize, Fired::Quota { k: k.min(masked), masked })
}
