//! The sampler that is exact for an exact denoiser: a random order, and each token drawn from its conditional.
//!
//! **First hitting** (arXiv 2409.02908, section 4; `methods/mdlm.md` 2.8): pick k of the masked rows uniformly,
//! draw their tokens, repeat. k = 1 has the law of the continuous-time sampler with one forward a token.
//!
//! **Time grid** (MDLM, arXiv 2406.07524, equation 7): t_j = 1 - j / N; from t_j to t_{j+1} every masked row is
//! unmasked independently with probability 1 - t_{j+1} / t_j, the last step takes all. That is the same as giving
//! each position one u ~ U(0, 1) and unmasking it in the cell that contains u, which is how it is done here: no
//! coin depends on the network, so cells in which nothing happens need no forward and are skipped.

use serde::{Deserialize, Serialize};

use super::{
    Fired,
    parts::{Chosen, Ranked},
};
use crate::decode::state::CERTAIN;

/// Which of the two samplers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AncestralForm {
    #[default]
    FirstHitting,
    TimeGrid,
}

/// Random key of the unmasking times: no forward has this index.
pub(super) const TIME_STEP: u32 = u32::MAX;

/// Rows of the earliest occupied cell; `u(pos)` is the unmasking time of a position.
pub(super) fn time_grid(ranked: &Ranked, cells: u32, u: impl Fn(u32) -> f64) -> Chosen {
    let cell = |pos: u32| (((1.0 - u(pos)) * cells as f64) as u32).min(cells - 1);
    let at: Vec<u32> = ranked.rows.iter().map(|(r, _)| cell(r.pos)).collect();
    let first = at.iter().copied().min().unwrap_or(0);
    let rows = (0..at.len()).filter(|i| at[*i] == first).map(|i| (i, CERTAIN)).collect();
    Chosen { rows, fired: Fired::TimeGrid { cell: first, cells } }
}
