//! Models: cards, the files that the page loads, OpenAI's list.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{AppState, Problem, assets::mime};
use crate::models::{self, FILES, ModelCard};

/// Int8 files made last, by checkpoint folder: converting takes longer than sending.
#[derive(Default)]
pub struct Converted(Mutex<Vec<(PathBuf, Arc<Vec<u8>>)>>);

impl Converted {
    fn get(&self, folder: &std::path::Path) -> Result<Arc<Vec<u8>>, Problem> {
        let mut kept = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((_, bytes)) = kept.iter().find(|(k, _)| k == folder) {
            return Ok(bytes.clone());
        }
        let bytes = Arc::new(models::page_file(folder, "model.safetensors")?);
        kept.insert(0, (folder.into(), bytes.clone()));
        kept.truncate(2);
        Ok(bytes)
    }
}

pub async fn cards(State(state): State<AppState>) -> Result<Json<Vec<ModelCard>>, Problem> {
    state.blocking(|s| Ok(Json(models::cards(&s.data)))).await
}

/// A file of the newest checkpoint. Its ETag is the checkpoint, which never changes.
pub async fn file(
    State(state): State<AppState>,
    Path((id, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Some(name) = FILES.into_iter().find(|f| *f == name) else {
        return Err(Problem::not_found(format!("the files of a model are {}", FILES.join(", "))));
    };
    let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).unwrap_or("").to_string();
    state
        .blocking(move |s| {
            let run = s.data.run(&id)?;
            let folder = run
                .newest_checkpoint()
                .ok_or_else(|| Problem::not_found(format!("run {id} has no checkpoint yet")))?;
            let step = folder.file_name().unwrap_or_default().to_string_lossy();
            let etag = format!("\"{id}-{step}-{name}\"");
            let head = [(header::ETAG, etag.clone()), (header::CACHE_CONTROL, "no-cache".to_string())];
            if known.split(',').any(|k| k.trim().trim_start_matches("W/") == etag) {
                return Ok((StatusCode::NOT_MODIFIED, head).into_response());
            }
            let bytes = match name {
                "model.safetensors" => s.converted.get(&folder)?.to_vec(),
                _ => models::page_file(&folder, name)?,
            };
            Ok((head, [(header::CONTENT_TYPE, mime(name))], bytes).into_response())
        })
        .await
}

pub async fn list(State(state): State<AppState>) -> Result<Json<Value>, Problem> {
    state
        .blocking(|s| {
            let data: Vec<Value> = models::cards(&s.data)
                .into_iter()
                .map(|c| json!({ "id": c.id, "object": "model", "created": c.created as u64, "owned_by": "hilda" }))
                .collect();
            Ok(Json(json!({ "object": "list", "data": data })))
        })
        .await
}
