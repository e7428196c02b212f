//! Measuring models: against others, against texts whose right tokens are known, and before a judge.

pub mod decoders;
pub mod edits;
pub mod judge;
pub mod parity;
pub mod repair;
