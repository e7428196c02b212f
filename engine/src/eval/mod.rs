//! Measuring models: against others, and against texts whose right tokens are known.

pub mod parity;
pub mod repair;
