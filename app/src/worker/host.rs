//! The worker's side.

/// Serves messages until the page closes.
pub fn start() {}
