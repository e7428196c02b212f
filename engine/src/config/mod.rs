//! `RunConfig`: the only input of a run. TOML in, one struct, validated before any work, hashable, diffable.
//!
//! The hash is over the resolved form (sizes derived from the dial, defaults filled in), so two recipes that mean
//! the same run have the same hash. Paths never enter it: data sets are named by the hash of their tokens.

pub mod model;
pub mod phase;
pub mod run;

pub use model::{ModelConfig, ModelSpec};
pub use phase::{BlockSizes, EditSpec, EmaPolicy, LrSpec, Objective, OptimiserPolicy, Phase, Weighting};
pub use run::{
    BatchSpec, CheckpointSpec, ConfigError, DataSpec, EvalSpec, OptimiserSpec, PackingSpec, RunConfig,
    SampleSpec,
};
