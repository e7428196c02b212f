//! The backbone on any device: parameter layout, forward and backward, checkpoints, decoding sessions.

mod backward;
pub mod cache;
pub mod checkpoint;
#[cfg(all(feature = "gguf", feature = "train"))]
pub mod export;
pub mod family;
pub mod generate;
#[cfg(feature = "gguf")]
pub mod gguf;
#[cfg(feature = "gguf")]
mod gguf_header;
#[cfg(feature = "gguf")]
pub mod gguf_tokenizer;
pub mod holes;
#[cfg(feature = "train")]
pub mod inspect;
pub mod layout;
pub mod lora;
pub mod page;
mod prepare;
pub mod quant;
pub mod session;
pub mod shards;
#[cfg(feature = "train")]
pub mod source;
pub mod trunk;

pub use cache::Cache;
pub use checkpoint::{CheckpointError, LoadedModel, Serving};
pub use generate::{Request, decode_config, run};
pub use layout::Layout;
pub use session::{Session, SessionError};
pub use trunk::{Keep, Masks, Plan, Shape, Trunk};
