//! Measuring models: against others, against texts whose right tokens are known, before a judge, and against what they
//! claim.

pub mod audit;
pub mod caches;
pub mod decoders;
pub mod edits;
pub mod insight;
pub mod judge;
pub mod parity;
pub mod repair;
pub mod statistics;
pub mod text;
