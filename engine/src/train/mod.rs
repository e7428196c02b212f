//! Training: batches, optimiser, schedules, checkpoints, the loop and its run folder.

pub mod checkpoint;
mod drafts;
pub mod folder;
pub mod input;
pub mod samples;
pub mod schedule;
pub mod step;
pub mod trainer;

pub use folder::{FolderError, RunFolder};
pub use input::Input;
pub use step::{Learner, planned_bytes};
pub use trainer::{Hooks, Outcome, TrainError, check, model_config, train};
