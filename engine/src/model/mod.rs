//! The backbone on any device: parameter layout, forward and backward, checkpoints, decoding sessions.

mod backward;
pub mod checkpoint;
pub mod family;
pub mod generate;
#[cfg(feature = "gguf")]
pub mod gguf;
pub mod layout;
pub mod session;
pub mod trunk;

pub use checkpoint::{CheckpointError, LoadedModel, Serving};
pub use generate::{Request, decode_config, run};
pub use layout::Layout;
pub use session::{Session, SessionError};
pub use trunk::{Cache, Masks, Plan, Shape, Trunk};
