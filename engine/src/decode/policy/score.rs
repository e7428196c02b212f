//! Order of the masked rows: higher = earlier, ties to the lower position (`methods/decoding.md` 2.4).

use hilda_kernels::rng::{Rng, Stream};
use serde::{Deserialize, Serialize};

use super::{Row, View};

/// Position score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// u ~ U(0, 1), keyed by step and position: the unbiased order
    Random,
    /// p(candidate) at temperature 1, whatever temperature it was drawn at (LLaDA)
    TopProb,
    /// p_max - p_2 (Dream)
    Margin,
    /// -H, nats
    Entropy,
    /// -position
    Leftmost,
}

impl Score {
    /// Every name a recipe may use.
    pub const NAMES: [&str; 4] = ["random", "top_prob", "margin", "entropy"];

    /// Score of one masked row of the active block.
    pub fn of(self, row: &Row, view: &View) -> f64 {
        match self {
            Score::Random => Rng::new(view.seed, Stream::Order, view.sequence).uniform(view.step, row.pos, 0),
            Score::TopProb => row.p() as f64,
            Score::Margin => (row.head.p_max() - row.head.p_second()) as f64,
            Score::Entropy => -(row.head.entropy as f64),
            Score::Leftmost => -(row.pos as f64),
        }
    }
    /// Does no model output enter? Then every back end orders alike and gaps carry no risk.
    pub fn exact(self) -> bool {
        matches!(self, Score::Random | Score::Leftmost)
    }
}
