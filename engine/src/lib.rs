//! HILDA's engine: diffusion, models, training, decoding. No HTTP, no database, no clock.
//!
//! Builds for wasm32 with `default-features = false`: configuration, decoding, trajectories and the forward pass
//! run in the page from the same source as on the server.

pub mod base64url;
pub mod config;
pub mod data;
pub mod decode;
pub mod diffusion;
#[cfg(feature = "train")]
pub mod eval;
#[cfg(feature = "train")]
pub mod files;
pub mod model;
pub mod record;
#[cfg(feature = "train")]
pub mod train;
