//! Attention: out = softmax(scale q k^T) v over grouped heads, the mask given as a rule.
//!
//! Queries are tiled by 64 rows. A rule is compiled once per forward ([`Tiles`]): key tiles it empties are skipped,
//! tiles it fills need no test, the rest carry one bit per pair. A query tile works on the concatenation of its
//! live keys, so memory is 64 x live keys per thread: linear in length. Backward recomputes the probabilities
//! from the saved log-sum-exp (Dao et al., arXiv 2205.14135): with P = exp(S - lse), D = rowsum(dO o O),
//! dV = P^T dO, dS = P o (dO V^T - D) scale, dQ = dS K, dK = dS^T Q.

mod cpu;
pub mod reference;
pub mod rule;
mod tiles;

pub use cpu::{attention, attention_backward};
pub use tiles::Tiles;

#[cfg(test)]
pub(crate) mod tests;
