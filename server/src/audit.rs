//! The audit of a run's recipe, kept beside the run (`audit.json`): what a recipe proves does not change.

use std::path::Path;

use hilda_engine::config::{ConfigError, RunConfig};
use hilda_engine::eval::audit::{Report, recipe};
use hilda_engine::files;

const FILE: &str = "audit.json";

/// An audit that could not be made or kept.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{file}: {source}")]
    Io { file: String, source: std::io::Error },
}

/// Audits `config` by enumeration (about a second) and keeps the report in the run's folder.
pub fn audit(folder: &Path, config: &RunConfig) -> Result<Report, AuditError> {
    let report = recipe(config)?;
    let bytes = serde_json::to_vec_pretty(&report).expect("plain data");
    let path = folder.join(FILE);
    files::replace(&path, &bytes)
        .map_err(|source| AuditError::Io { file: path.display().to_string(), source })?;
    Ok(report)
}

/// The report that was kept, as JSON.
pub fn kept(folder: &Path) -> Option<serde_json::Value> {
    serde_json::from_slice(&std::fs::read(folder.join(FILE)).ok()?).ok()
}
