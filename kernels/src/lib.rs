//! HILDA's numeric core: numbers in, numbers out. It knows no models.
//!
//! One folder an operation: `mod.rs` is the contract and the dispatch, `reference.rs` the plain loop everyone
//! can read (f64 accumulators), `cpu.rs` the fast path, `kernel.wgsl` the WebGPU kernel, `tests.rs` the proof.
//! Matrices are row-major f32. Shapes: B batch, L length, V vocabulary, D width, H heads, K kv heads.

pub mod adam;
pub mod attention;
pub mod backend;
pub mod bias;
pub mod embed;
pub mod gelu;
pub mod gemm;
pub mod glu;
pub mod head;
pub mod norm;
pub mod par;
pub mod quant;
pub mod reduce;
pub mod rng;
pub mod rope;
pub mod simd;
#[cfg(not(target_arch = "wasm32"))]
mod team;
pub mod tolerance;

#[cfg(test)]
mod fixtures;

pub use attention::rule::{Base, MaskRule, Place};
pub use backend::cpu::Cpu;
pub use backend::{At, AttentionShape, Backend, Form, HeadJob, RopeShape, TeacherRows, Train};
pub use glu::Gate;
pub use norm::{NormKind, NormShape};
