//! The WebGPU back end: the browser's GPU, or Vulkan natively, from the same shaders.
//!
//! Operations only record. [`Web::submit`] encodes what was recorded into one command buffer; [`Web::read`]
//! does so too, adds the copy it needs and waits: one submission per denoising step. Writes go to the queue at
//! once, which is in order as long as nothing recorded still needs the buffer; if something does, it is
//! submitted first. Shaders need neither subgroups nor f16 nor f64 and stay inside WebGPU's default limits;
//! int8 weights stay int8 on the device ([`Form::Rows8`](super::Form)).
//!
//! No operation of [`Backend`](super::Backend) returns an error, so the first failure (shapes, validation, memory,
//! a lost device) is kept and comes out of the next `submit` or `read`.

mod buffer;
mod device;
mod error;
mod head;
mod ops;
mod record;
mod shader;
#[cfg(test)]
mod tests;

pub use buffer::{WebBuf, WebIds, WebMask};
pub use device::{AdapterInfo, Web};
pub use error::WebError;
