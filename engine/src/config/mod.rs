//! `RunConfig`: the only input of a run. TOML in, one struct, validated before any work, hashable, diffable.
//!
//! The hash is over the recipe with its defaults filled in, so two spellings of the same run have the same hash.
//! Folders never enter it, only the names of corpora and files.

pub mod ablation;
pub mod claims;
pub mod lora;
pub mod model;
pub mod phase;
pub mod run;

pub use ablation::{Ablation, Arm, Budget, Measure, Origin};
pub use claims::{Claims, Standing};
pub use lora::LoraSpec;
pub use model::{Arch, Family, Mlp, ModelConfig, ModelSpec, Sliding};
pub use phase::{
    BlockSizes, EditSpec, EmaPolicy, FULL_RANGE, HybridSpec, LrSpec, Noise, Objective, OptimiserPolicy,
    Phase, Weighting,
};
pub use run::{
    BatchSpec, CheckpointSpec, ConfigError, DataSpec, EvalSpec, MemorySpec, OptimiserSpec, PackingSpec,
    RunConfig, SampleSpec,
};
