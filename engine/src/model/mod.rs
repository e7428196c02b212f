//! The backbone on any device: parameter layout, forward and backward, checkpoints, decoding sessions.

mod arithmetic;
mod backward;
mod batch;
pub mod cache;
pub mod checkpoint;
pub mod embedding;
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
mod plan;
mod prepare;
pub mod quant;
mod repack;
mod sequence;
pub mod session;
pub mod shards;
#[cfg(feature = "train")]
pub mod source;
pub mod together;
pub mod trunk;
mod weights;

pub use arithmetic::{Arithmetic, ArithmeticError};
pub use batch::{Batch, Pending};
pub use cache::Cache;
pub use checkpoint::{CheckpointError, LoadedModel, Serving};
pub use generate::{Request, decode_config, run};
pub use layout::Layout;
pub use plan::{Keep, Plan};
pub use sequence::{Sequence, SessionError};
pub use session::Session;
pub use trunk::{Masks, Segment, Shape, Trunk};
pub use weights::{Parameters, Weights};
