//! Results of `hilda decode-bench`.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde_json::Value;

use super::{AppState, Problem};
use crate::decoder_results::{self, Entry};

/// `GET /api/decoders`
pub async fn list(State(state): State<AppState>) -> Result<Json<Vec<Entry>>, Problem> {
    state.blocking(|s| Ok(decoder_results::list(&s.data))).await.map(Json)
}

/// `GET /api/decoders/{name}`
pub async fn show(State(state): State<AppState>, Path(name): Path<String>) -> Result<Json<Value>, Problem> {
    let found = state.blocking({
        let name = name.clone();
        move |s| Ok(decoder_results::load(&s.data, &name))
    });
    found.await?.map(Json).ok_or_else(|| {
        Problem::new(StatusCode::NOT_FOUND, format!("there is no comparison of decoders called {name:.80}"))
    })
}
