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
use hilda_engine::data::FREQUENCIES;
use hilda_engine::model::{page, shards::INDEX};
use serde_json::{Value, json};

use super::{AppState, Problem, assets::mime};
use crate::{
    library,
    models::{self, ModelCard, ModelError},
    page_store::fingerprint,
};

/// Whole int8 files made last, by checkpoint folder: converting takes longer than sending.
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
    state.blocking(|s| Ok(Json(models::cards(&s.data, &s.inspected)))).await
}

/// A file of the newest checkpoint of a run, in the page's format.
pub async fn file(
    State(state): State<AppState>,
    Path((id, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let known = known(&headers);
    state
        .blocking(move |s| {
            let run = s.data.run(&id)?;
            let place = run
                .newest_checkpoint()
                .ok_or_else(|| Problem::not_found(format!("run {id} has no checkpoint yet")))?;
            if name == "model.safetensors" {
                let etag = etag(&place, &name);
                return match known.contains(&etag) {
                    true => Ok(answer(etag, "no-cache", &name, None)),
                    false => Ok(answer(etag, "no-cache", &name, Some(s.converted.get(&place)?.to_vec()))),
                };
            }
            page_file(s, &id, place, &name, &known)
        })
        .await
}

/// A file of a pulled model, in the page's format.
pub async fn pulled(
    State(state): State<AppState>,
    Path((org, model, name)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let known = known(&headers);
    state
        .blocking(move |s| {
            let id = format!("{org}/{model}");
            let place = models::place(&s.data, &id)?.ok_or(ModelError::Unknown(id.clone()))?;
            page_file(s, &id, place, &name, &known)
        })
        .await
}

/// Entity tags that the caller has.
fn known(headers: &HeaderMap) -> Vec<String> {
    let all = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).unwrap_or("");
    all.split(',').map(|k| k.trim().trim_start_matches("W/").to_string()).collect()
}

/// Another one when the model's files were replaced.
fn etag(place: &std::path::Path, name: &str) -> String {
    format!("\"{}-{name}\"", fingerprint(place))
}

fn answer(etag: String, cache: &'static str, name: &str, bytes: Option<Vec<u8>>) -> Response {
    let head = [(header::ETAG, etag), (header::CACHE_CONTROL, cache.to_string())];
    match bytes {
        Some(bytes) => (head, [(header::CONTENT_TYPE, mime(name))], bytes).into_response(),
        None => (StatusCode::NOT_MODIFIED, head).into_response(),
    }
}

/// `config.json` and `tokenizer.json` of any model, `frequencies.json` of one that has it; index and pieces of one that the page can hold.
fn page_file(
    s: &AppState,
    id: &str,
    place: PathBuf,
    name: &str,
    known: &[String],
) -> Result<Response, Problem> {
    let piece = name.strip_prefix("model-").and_then(|n| n.strip_suffix(".safetensors"));
    let is_piece = piece.is_some_and(|n| n.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
    if !["config.json", "tokenizer.json", FREQUENCIES, INDEX].contains(&name) && !is_piece {
        let detail = format!(
            "the files of a model are config.json, tokenizer.json, {FREQUENCIES}, {INDEX} and its pieces"
        );
        return Err(Problem::not_found(detail));
    }
    let etag = etag(&place, name);
    if known.contains(&etag) {
        return Ok(answer(etag, "no-cache", name, None));
    }
    let head = || {
        let message =
            |e: library::OpenError| ModelError::Unusable { name: id.into(), message: e.to_string() };
        library::head(&place).map_err(message)
    };
    let bytes = match name {
        "config.json" => {
            let (config, serving, tokenizer) = head()?;
            page::config_json(&config, serving, tokenizer.frequencies().is_some()).into_bytes()
        }
        FREQUENCIES => {
            let none = || {
                Problem::not_found(format!(
                    "the model {id} has no {FREQUENCIES}: hilda models frequencies {id} --data TEXT writes one"
                ))
            };
            head()?.2.frequencies().ok_or_else(none)?.json()
        }
        "tokenizer.json" => head()?.2.json().to_vec(),
        _ => {
            let path = s.pages.folder(&s.data, id, &place)?.join(name);
            let gone = |_| Problem::not_found(format!("the model {id} has no piece {name}"));
            std::fs::read(path).map_err(gone)?
        }
    };
    // the page keeps pieces itself, by their sums: once is enough
    let cache = if is_piece { "no-store" } else { "no-cache" };
    Ok(answer(etag, cache, name, Some(bytes)))
}

pub async fn list(State(state): State<AppState>) -> Result<Json<Value>, Problem> {
    state
        .blocking(|s| {
            let data: Vec<Value> = models::cards(&s.data, &s.inspected)
                .into_iter()
                .map(|c| json!({ "id": c.id, "object": "model", "created": c.created as u64, "owned_by": "hilda" }))
                .collect();
            Ok(Json(json!({ "object": "list", "data": data })))
        })
        .await
}
