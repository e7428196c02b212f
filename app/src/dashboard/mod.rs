//! Pages about training: the table of runs, one run, launching, comparing, models.

mod ablation;
mod audit;
mod compare;
mod config_view;
mod curves;
pub mod data;
mod decoder_plot;
mod decoders;
pub mod define;
mod files;
mod frontier;
mod launch;
mod launch_estimate;
mod launch_fields;
mod live;
mod log_view;
mod metrics;
mod models;
mod recipe_text;
pub mod replay;
mod run;
mod runs;
pub mod samples;
mod seeds;
pub mod ui;
mod verdict;

pub use compare::Compare;
pub use launch::Launch;
pub use models::{ModelCard, Models};
pub use run::Run;
pub use runs::Runs;
