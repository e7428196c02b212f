//! Results of ablations: runs by arm and seed, intervals, verdicts.

use axum::{Json, extract::State};

use super::{AppState, Problem};
use crate::ablation::{self, AblationResult};

/// `GET /api/ablations`
pub async fn list(State(state): State<AppState>) -> Result<Json<Vec<AblationResult>>, Problem> {
    state.blocking(|s| Ok(ablation::list(&s.data))).await.map(Json)
}
