//! Attention: out = softmax(scale q k^T) v over grouped heads, the mask given as a rule.
//!
//! Queries are tiled by 64 rows. A rule is compiled once per forward ([`Tiles`]): key tiles it empties are skipped,
//! tiles it fills need no test, the rest carry one bit per pair. Scores exist for one tile of 64 x 64 pairs a thread, with
//! an online softmax. Backward recomputes the probabilities from the saved log-sum-exp (Dao et al., arXiv 2205.14135):
//! with P = exp(S - lse), D = rowsum(dO o O), dV = P^T dO, dS = P o (dO V^T - D) scale, dQ = dS K, dK = dS^T Q.

mod backward;
mod cpu;
pub mod reference;
pub mod rule;
mod softmax;
mod tiles;

pub use backward::attention_backward;
pub use cpu::attention;
pub use tiles::Tiles;

#[cfg(test)]
pub(crate) mod tests;
