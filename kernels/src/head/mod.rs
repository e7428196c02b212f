//! The language-model head: from hidden rows to what decoding and training need, without storing logits.
//!
//! logits z[v] = <hidden, table[v]>, forbidden ids at minus infinity. A row of statistics is
//! [`STATS`]` + 2 * top_k` floats; integers are bit-cast. Probabilities follow as exp(z - lse).

mod cpu;
mod distill;
mod loss;
mod mixture;
mod race;
pub mod reference;
mod row;
mod table;

pub use cpu::statistics;
pub use distill::{Teacher, distill};
pub use loss::{LossRow, Losses, loss};
pub use mixture::Mixture;
pub use row::{Filter, of_logits};
pub use table::Table;

/// Most tokens a head can rank per row.
pub const MAX_TOP_K: usize = 16;
/// Fixed fields of a statistics row.
pub const STATS: usize = 12;

/// Offsets inside a statistics row.
pub mod field {
    /// log-sum-exp of z at temperature 1
    pub const LSE: usize = 0;
    /// largest logit and its id (bits)
    pub const MAX: usize = 1;
    pub const ARGMAX: usize = 2;
    /// second largest logit
    pub const SECOND: usize = 3;
    /// entropy of softmax(z), nats
    pub const ENTROPY: usize = 4;
    /// logit of the row's current token (minus infinity if forbidden)
    pub const CURRENT: usize = 5;
    /// candidate token (bits) and its logit
    pub const CANDIDATE: usize = 6;
    pub const CANDIDATE_LOGIT: usize = 7;
    /// log-sum-exp of z / temperature (equal to LSE when greedy)
    pub const LSE_T: usize = 8;
    /// by how much the candidate won: difference of the two best race keys ln E - z/T, or MAX - SECOND if greedy
    pub const MARGIN: usize = 9;
    /// then: top_k ids (bits), top_k logits, most probable first
    pub const TOP: usize = super::STATS;
}

/// One decoded statistics row.
#[derive(Clone, Debug, PartialEq)]
pub struct RowHead {
    pub lse: f32,
    pub max: f32,
    pub argmax: u32,
    pub second: f32,
    pub entropy: f32,
    pub current: f32,
    pub candidate: u32,
    pub candidate_logit: f32,
    pub lse_t: f32,
    pub margin: f32,
    /// (id, probability at temperature 1)
    pub top: Vec<(u32, f32)>,
}

impl RowHead {
    /// Reads one row of `STATS + 2 * top_k` floats.
    pub fn decode(row: &[f32], top_k: usize) -> RowHead {
        let lse = row[field::LSE];
        let top = (0..top_k)
            .map(|i| (row[field::TOP + i].to_bits(), (row[field::TOP + top_k + i] - lse).exp()))
            .filter(|(_, p)| *p > 0.0)
            .collect();
        RowHead {
            lse,
            max: row[field::MAX],
            argmax: row[field::ARGMAX].to_bits(),
            second: row[field::SECOND],
            entropy: row[field::ENTROPY],
            current: row[field::CURRENT],
            candidate: row[field::CANDIDATE].to_bits(),
            candidate_logit: row[field::CANDIDATE_LOGIT],
            lse_t: row[field::LSE_T],
            margin: row[field::MARGIN],
            top,
        }
    }
    /// Probability of the most probable token.
    pub fn p_max(&self) -> f32 {
        (self.max - self.lse).exp()
    }
    /// Probability of the second most probable token.
    pub fn p_second(&self) -> f32 {
        (self.second - self.lse).exp()
    }
    /// Probability, at temperature 1, of the row's current token.
    pub fn p_current(&self) -> f32 {
        (self.current - self.lse).exp()
    }
    /// Probability of the candidate at temperature 1.
    pub fn p_candidate(&self) -> f32 {
        (self.candidate_logit - self.lse).exp()
    }
    /// Probability of the candidate under the law it was drawn from.
    pub fn q_candidate(&self, temperature: f32) -> f32 {
        if temperature == 0.0 { 1.0 } else { (self.candidate_logit / temperature - self.lse_t).exp() }
    }
}

#[cfg(test)]
pub(crate) mod tests;
