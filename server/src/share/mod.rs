//! A shared result: everything that a reader needs to judge and repeat a run, in one value.
//!
//! It is read from the run whenever somebody looks, so a link made while training shows how far training is.

pub mod decoders;
pub mod html;
mod paths;
pub mod publish;
pub mod recording;
mod svg;

use std::collections::BTreeSet;

use hilda_engine::{
    config::RunConfig,
    data::Tokenizer,
    decode::Trajectory,
    record::{Estimate, Metric, SampleFile, Status},
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    http::VERSION,
    storage::{Index, RunFolder, StorageError, index::TrainPoint, ingest, run::queued_status, shares::Share},
};

/// Points of the loss curve that are sent at most.
pub const CURVE_POINTS: usize = 1000;

#[derive(Clone, Debug, Serialize)]
pub struct RunName {
    pub id: String,
    pub name: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct ValidPoint {
    pub step: u64,
    /// clean data tokens seen
    pub tokens: u64,
    pub estimate: Estimate,
}

#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// training only
    pub seconds: f64,
    pub tokens: u64,
    /// model FLOPs, forward and backward
    pub flops: f64,
    pub device: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct SharedResult {
    pub slug: String,
    pub title: String,
    pub note: String,
    pub created: f64,
    pub run: RunName,
    pub config: RunConfig,
    pub toml: String,
    pub config_hash: String,
    pub status: Status,
    /// [step, loss, tokens, seconds since the start of training], thinned
    pub train: Vec<(u64, f64, u64, f64)>,
    pub valid: Vec<ValidPoint>,
    pub samples: Vec<SampleFile>,
    pub trajectory: Option<Trajectory>,
    /// text of each token id that the trajectory mentions
    pub tokenizer_pieces: serde_json::Map<String, Value>,
    pub cost: Cost,
    pub command: String,
    pub version: String,
}

/// Keeps at most `limit` points: of each stretch the mean loss, at its last step. The last point stays exact.
fn thin(points: &[TrainPoint], limit: usize) -> Vec<(u64, f64, u64, f64)> {
    let mut seconds = 0.0;
    let with_time: Vec<_> = points
        .iter()
        .map(|p| {
            seconds += p.seconds;
            (p.step, p.loss, p.tokens, seconds)
        })
        .collect();
    let stretch = with_time.len().div_ceil(limit).max(1);
    with_time
        .chunks(stretch)
        .filter_map(|c| {
            let last = c.last()?;
            let finite: Vec<f64> = c.iter().map(|p| p.1).filter(|l| l.is_finite()).collect();
            if finite.is_empty() {
                return None;
            }
            Some((last.0, finite.iter().sum::<f64>() / finite.len() as f64, last.2, last.3))
        })
        .collect()
}

/// Reads the result of a run as its share shows it.
pub fn build(index: &Index, run: &RunFolder, share: &Share) -> Result<SharedResult, StorageError> {
    ingest::ingest(index, run)?;
    // a share is read by anyone: no folders of this machine
    let own = run.config()?;
    let config = own.published();
    let mut status = match run.status()? {
        Some(s) => s,
        None => queued_status(&config, share.created),
    };
    status.error = status.error.map(|error| paths::without_folders(&error, &folders(run, &own)));
    let points = index.train_points(&run.id)?;
    let (seconds, flops) = index.cost(&run.id)?;
    let valid = index
        .validations(&run.id)?
        .into_iter()
        .filter_map(|m| match m {
            Metric::Valid { step, tokens, estimate, .. } => Some(ValidPoint { step, tokens, estimate }),
            _ => None,
        })
        .collect();
    let mut samples = run.samples();
    // the newest record is shown; the others stay in the run
    let trajectory = samples.iter().rev().flat_map(|f| &f.samples).find_map(|s| s.trajectory.clone());
    for s in samples.iter_mut().flat_map(|f| &mut f.samples) {
        s.trajectory = None;
    }
    let tokenizer_pieces = match &trajectory {
        Some(t) => pieces(run, t),
        None => Default::default(),
    };
    Ok(SharedResult {
        slug: share.slug.clone(),
        title: share.title.clone(),
        note: share.note.clone(),
        created: share.created,
        run: RunName { id: run.id.clone(), name: config.name.clone() },
        toml: config.to_toml(),
        config_hash: config.hash(),
        train: thin(&points, CURVE_POINTS),
        valid,
        samples,
        trajectory,
        tokenizer_pieces,
        cost: Cost { seconds, tokens: status.tokens, flops, device: status.device.clone() },
        command: format!("hilda train {}.toml", config.name),
        version: VERSION.into(),
        config,
        status,
    })
}

/// Paths that an error of this run may name.
fn folders(run: &RunFolder, config: &RunConfig) -> Vec<String> {
    let d = &config.data;
    let files = [&d.train, &d.valid, &d.tokenizer, &config.model.from].into_iter().flatten().cloned();
    let here = [Some(run.path.clone()), std::fs::canonicalize(&run.path).ok(), std::env::current_dir().ok()];
    let home = std::env::var_os("HOME").map(std::path::PathBuf::from);
    let shown = here.into_iter().chain([home]).flatten().map(|p| p.display().to_string());
    files.chain(shown).collect()
}

/// Texts of the token ids that a record mentions, from the newest checkpoint's tokenizer.
fn pieces(run: &RunFolder, trajectory: &Trajectory) -> serde_json::Map<String, Value> {
    let path = run.newest_checkpoint().map(|p| p.join("tokenizer.json"));
    let Some(tokenizer) = path.and_then(|p| Tokenizer::from_file(p).ok()) else { return Default::default() };
    let config = &trajectory.header.config;
    let mut ids: BTreeSet<u32> = config.prompt.iter().copied().collect();
    ids.extend(config.fixed.iter().map(|f| f.1));
    ids.extend(&trajectory.footer.ids);
    for step in &trajectory.steps {
        ids.extend(step.actions.iter().flat_map(|a| [a.old, a.new]));
        ids.extend(step.rows.iter().flat_map(|r| r.top.iter().map(|t| t.0).chain([r.candidate, r.current])));
    }
    ids.into_iter().map(|id| (id.to_string(), Value::String(tokenizer.piece(id)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_the_end_and_the_mean() {
        let points: Vec<_> = (1..=2500)
            .map(|step| TrainPoint { step, loss: 1.0 + (step % 2) as f64, tokens: step * 8, seconds: 0.5 })
            .collect();
        let t = thin(&points, 1000);
        assert!(t.len() <= 1000 && t.len() > 800);
        assert_eq!((t.last().unwrap().0, t.last().unwrap().2, t.last().unwrap().3), (2500, 20000, 1250.0));
        let mean = t.iter().map(|p| p.1).sum::<f64>() / t.len() as f64;
        assert!((mean - 1.5).abs() < 0.01);
        assert_eq!(thin(&points[..10], 1000).len(), 10);
        assert!(thin(&[], 1000).is_empty());
    }
}
