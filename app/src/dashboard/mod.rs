//! Pages about training: the table of runs, one run, launching, comparing, models.

mod compare;
mod launch;
mod models;
mod run;
mod runs;

pub use compare::Compare;
pub use launch::Launch;
pub use models::Models;
pub use run::Run;
pub use runs::Runs;
