//! Runs: listing, launching, showing, stopping, resuming, deleting.

use std::collections::HashMap;

use axum::{
    Extension,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use hilda_engine::{
    config::{Objective, RunConfig},
    record::{SampleFile, State as RunState, Status},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    AppState, Problem,
    guard::Trusted,
    problem::{Json, Params, config_problem},
};
use crate::{
    audit,
    estimate::{Estimate, check_launchable},
    jobs::{self, state_name},
    storage::{
        RunFolder, StorageError, ingest,
        run::{CheckpointInfo, FileInfo},
        shares,
    },
};

/// A run in a table.
#[derive(Clone, Debug, Serialize)]
pub struct RunSummary {
    pub id: String,
    pub name: String,
    pub state: RunState,
    pub status: Option<Status>,
    /// objectives of the phases in order, repetitions left out: "ar, block"
    pub objective: String,
    pub recipe_hash: String,
    /// Unix seconds
    pub created: f64,
    pub disk_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_position: Option<usize>,
    /// newest share of this run
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slug: Option<String>,
    /// up to 60 recent losses
    pub spark: Vec<f64>,
}

/// A run on its own page.
#[derive(Clone, Debug, Serialize)]
pub struct RunDetail {
    #[serde(flatten)]
    pub summary: RunSummary,
    pub config: RunConfig,
    pub toml: String,
    pub parent: Option<String>,
    /// (field, parent's value, own value)
    pub diff: Vec<(String, String, String)>,
    pub files: Vec<FileInfo>,
    pub checkpoints: Vec<CheckpointInfo>,
    /// lines of `metrics.jsonl` that could not be read
    pub unreadable_metrics: u64,
}

pub fn objective_text(config: &RunConfig) -> String {
    let mut names: Vec<&str> = config
        .phases
        .iter()
        .map(|p| match p.objective {
            Objective::Ar => "ar",
            Objective::Mdlm => "mdlm",
            Objective::Block => "block",
        })
        .collect();
    names.dedup();
    names.join(", ")
}

fn summary_of(
    state: &AppState,
    run: &RunFolder,
    config: &RunConfig,
    slug: Option<String>,
) -> Result<RunSummary, StorageError> {
    let status = run.status()?;
    // rows that were written before this status must not be missing beside it
    if state.index.behind(run)? {
        ingest::ingest(&state.index, run)?;
    }
    let spark = state.index.recent_points(&run.id, 60)?;
    Ok(RunSummary {
        name: config.name.clone(),
        state: status.as_ref().map_or(RunState::Queued, |s| s.state),
        objective: objective_text(config),
        recipe_hash: config.hash(),
        created: run.job()?.created,
        disk_bytes: state.disk_bytes(run),
        queue_position: state.jobs.queue_position(&run.id),
        slug,
        spark: spark.iter().map(|p| p.loss).filter(|l| l.is_finite()).collect(),
        id: run.id.clone(),
        status,
    })
}

/// The newest slug of each run.
fn slugs(state: &AppState) -> HashMap<String, String> {
    shares::list(&state.data).into_iter().rev().map(|s| (s.run, s.slug)).collect()
}

pub fn summary(state: &AppState, run: &RunFolder) -> Result<RunSummary, Problem> {
    let slug = slugs(state).remove(&run.id);
    Ok(summary_of(state, run, &run.config()?, slug)?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    #[serde(default)]
    query: String,
    #[serde(default)]
    state: String,
}

/// Newest first. `query` looks into id, name and prose; `state` is one or several states with commas.
pub async fn list(
    State(state): State<AppState>,
    Extension(Trusted(trusted)): Extension<Trusted>,
    Params(q): Params<ListQuery>,
) -> Result<axum::Json<Vec<RunSummary>>, Problem> {
    let wanted: Vec<String> =
        q.state.split(',').map(|s| s.trim().to_string()).filter(|s| !s.is_empty()).collect();
    const STATES: [&str; 5] = ["queued", "running", "stopped", "finished", "failed"];
    if let Some(bad) = wanted.iter().find(|w| !STATES.contains(&w.as_str())) {
        let detail = format!("state \"{bad}\" is not one of {}", STATES.join(", "));
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    }
    let query = q.query.to_lowercase();
    let all = state
        .blocking(move |s| {
            let mut slugs = slugs(s);
            let mut all = vec![];
            for id in s.data.run_ids() {
                // a damaged run shows its error on its own page and must not hide the others
                let Ok(run) = s.data.run(&id) else { continue };
                let Ok(config) = run.config() else { continue };
                let text = format!("{id} {} {}", config.name, config.about).to_lowercase();
                if !text.contains(&query) {
                    continue;
                }
                let slug = slugs.remove(&id).filter(|_| trusted);
                if let Ok(one) = summary_of(s, &run, &config, slug)
                    && (wanted.is_empty() || wanted.iter().any(|w| w == state_name(Some(one.state))))
                {
                    all.push(one);
                }
            }
            all.sort_by(|a, b| b.created.total_cmp(&a.created).then_with(|| b.id.cmp(&a.id)));
            Ok(all)
        })
        .await?;
    Ok(axum::Json(all))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    toml: String,
    /// the run this one was duplicated from
    #[serde(default)]
    parent: Option<String>,
}

pub async fn create(State(state): State<AppState>, Json(body): Json<Launch>) -> Result<Response, Problem> {
    let made = state
        .blocking(move |s| {
            let config = RunConfig::from_toml(&body.toml).map_err(|e| config_problem(&e, &body.toml))?;
            let config = check_launchable(&s.data, config).map_err(|(f, m)| Problem::field(f, m))?;
            if let Some(p) = &body.parent {
                s.data.run(p).map_err(|e| Problem::field("parent", e.to_string()))?;
            }
            let run = s.jobs.enqueue(&config, body.parent)?;
            summary(s, &run)
        })
        .await?;
    let location = format!("/api/runs/{}", made.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], axum::Json(made)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EstimateBody {
    toml: String,
}

pub async fn estimate(
    State(state): State<AppState>,
    Json(body): Json<EstimateBody>,
) -> Result<axum::Json<Estimate>, Problem> {
    state
        .blocking(move |s| Ok(crate::estimate::estimate(&s.data, &s.index, &body.toml)))
        .await
        .map(axum::Json)
}

pub async fn show(
    State(state): State<AppState>,
    Extension(Trusted(trusted)): Extension<Trusted>,
    Path(id): Path<String>,
) -> Result<axum::Json<RunDetail>, Problem> {
    state
        .blocking(move |s| {
            let run = s.data.run(&id)?;
            let config = run.config()?;
            let parent = run.job()?.parent;
            let diff = match parent.as_deref().and_then(|p| s.data.run(p).ok()?.config().ok()) {
                Some(p) => p.diff(&config),
                None => vec![],
            };
            let mut summary = summary(s, &run)?;
            summary.slug = summary.slug.filter(|_| trusted);
            Ok(RunDetail {
                summary,
                toml: run.toml()?,
                parent,
                diff,
                files: run.files(),
                checkpoints: run.checkpoints(),
                unreadable_metrics: s.index.bad_lines(&run.id)?,
                config,
            })
        })
        .await
        .map(axum::Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowsQuery {
    #[serde(default)]
    after: i64,
    limit: Option<usize>,
}

/// `{rows: [{id, metric}], last}`; `last` is what to ask for next.
pub async fn metrics(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Params(q): Params<RowsQuery>,
) -> Result<Response, Problem> {
    let limit = q.limit.unwrap_or(5000).clamp(1, 20_000);
    let text = state
        .blocking(move |s| {
            let run = s.data.run(&id)?;
            ingest::ingest(&s.index, &run)?;
            let rows = s.index.rows_after(&run.id, q.after, limit)?;
            let last = rows.last().map_or(q.after, |r| r.0);
            let rows: Vec<_> =
                rows.iter().map(|(id, json)| format!("{{\"id\":{id},\"metric\":{json}}}")).collect();
            Ok(format!("{{\"rows\":[{}],\"last\":{last}}}", rows.join(",")))
        })
        .await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TailQuery {
    tail: Option<usize>,
}

/// The audit that was made of a run's recipe, else null.
pub async fn audit(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<axum::Json<Value>, Problem> {
    let report = state
        .blocking(move |s| {
            let run = s.data.run(&id)?;
            Ok(audit::kept(&run.path))
        })
        .await?;
    Ok(axum::Json(report.unwrap_or(Value::Null)))
}

/// Audits a run's recipe, or gives the audit that was made before.
pub async fn make_audit(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<axum::Json<Value>, Problem> {
    let report = state
        .blocking(move |s| {
            let run = s.data.run(&id)?;
            if let Some(report) = audit::kept(&run.path) {
                return Ok(report);
            }
            let report = audit::audit(&run.path, &run.config()?)
                .map_err(|e| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
            Ok(serde_json::to_value(report).expect("plain data"))
        })
        .await?;
    Ok(axum::Json(report))
}

pub async fn log(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Params(q): Params<TailQuery>,
) -> Result<String, Problem> {
    let lines = q.tail.unwrap_or(500).clamp(1, 10_000);
    state.blocking(move |s| Ok(s.data.run(&id)?.log_tail(lines)?)).await
}

pub async fn samples(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<axum::Json<Vec<SampleFile>>, Problem> {
    state.blocking(move |s| Ok(s.data.run(&id)?.samples())).await.map(axum::Json)
}

type Accepted = (StatusCode, axum::Json<RunSummary>);

async fn act(
    state: AppState,
    id: String,
    action: impl FnOnce(&jobs::Jobs, &str) -> Result<RunFolder, jobs::JobError> + Send + 'static,
) -> Result<RunSummary, Problem> {
    state
        .blocking(move |s| {
            let run = action(&s.jobs, &id)?;
            summary(s, &run)
        })
        .await
}

pub async fn stop(State(state): State<AppState>, Path(id): Path<String>) -> Result<Accepted, Problem> {
    Ok((StatusCode::ACCEPTED, axum::Json(act(state, id, |j, id| j.stop(id)).await?)))
}

pub async fn resume(State(state): State<AppState>, Path(id): Path<String>) -> Result<Accepted, Problem> {
    Ok((StatusCode::ACCEPTED, axum::Json(act(state, id, |j, id| j.resume(id)).await?)))
}

pub async fn restore(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<axum::Json<RunSummary>, Problem> {
    act(state, id, |j, id| j.restore(id)).await.map(axum::Json)
}

#[derive(Serialize)]
pub struct Undo {
    undo: String,
    /// Unix seconds
    until: f64,
}

pub async fn remove(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<axum::Json<Undo>, Problem> {
    state
        .blocking(move |s| {
            let entry = s.jobs.delete(&id)?;
            Ok(Undo { undo: format!("/api/trash/{id}/restore"), until: entry.until })
        })
        .await
        .map(axum::Json)
}
