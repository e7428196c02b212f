//! Attention: softmax(q k^T * scale) v over grouped heads, the mask given as a rule.

pub mod rule;
