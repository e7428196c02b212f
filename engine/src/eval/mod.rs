//! Measuring models: against others, against texts whose right tokens are known, and against what they claim.

pub mod audit;
pub mod parity;
pub mod repair;
pub mod statistics;
pub mod text;
