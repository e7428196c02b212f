//! Training: batches, optimiser, schedules, checkpoints, the loop and its run folder.

pub mod checkpoint;
mod drafts;
pub mod folder;
pub mod input;
pub mod memory;
pub mod samples;
pub mod schedule;
pub mod step;
pub mod trainer;

pub use folder::{FolderError, RunFolder};
pub use input::Input;
pub use memory::planned_bytes;
pub use step::Learner;
pub use trainer::{Hooks, Outcome, TrainError, check, model_config, train};
