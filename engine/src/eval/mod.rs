//! Measuring models against others.

pub mod parity;
