//! The record of one decoding: header + actions rebuild every intermediate text without the model.

use serde::{Deserialize, Serialize};

/// Placeholder until the decoder lands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trajectory {
    pub version: u32,
}
