//! Sharing a result: create, list, revoke, read.

use axum::{
    Json,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use super::{AppState, Problem, problem};
use crate::{
    share::{self, SharedResult},
    storage::{shares, shares::Share},
};

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareBody {
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    note: Option<String>,
}

#[derive(Serialize)]
pub struct Shared {
    slug: String,
    url: String,
    /// whether somebody on another machine can follow the link
    reachable: bool,
    message: String,
}

/// Makes a new link; each call makes another one.
pub async fn create(
    State(state): State<AppState>,
    Path(id): Path<String>,
    problem::Json(body): problem::Json<ShareBody>,
) -> Result<Response, Problem> {
    let limit = |field: &str, text: &Option<String>, most: usize| match text {
        Some(t) if t.chars().count() > most => {
            Err(Problem::field(field, format!("at most {most} characters, not {}", t.chars().count())))
        }
        _ => Ok(()),
    };
    limit("title", &body.title, 200)?;
    limit("note", &body.note, 4000)?;
    let made = state
        .blocking(move |s| {
            let run = s.data.run(&id)?;
            let title = body.title.map(|t| t.trim().to_string()).filter(|t| !t.is_empty());
            let title = match title {
                Some(t) => t,
                None => run.config()?.name,
            };
            let share = shares::create(&s.data, &id, &title, body.note.as_deref().unwrap_or("").trim())?;
            let (base, reachable) = s.options.base_url();
            let url = format!("{base}/r/{}", share.slug);
            let message = if reachable {
                "Whoever has this link can read the result.".to_string()
            } else {
                format!(
                    "This link works only on this machine. To show the result to others, send the file \
                     {base}/r/{slug}/download, or write a static folder with `hilda runs publish {id} --out DIR`, \
                     or start the server with --public-url.",
                    slug = share.slug
                )
            };
            Ok(Shared { url, slug: share.slug, reachable, message })
        })
        .await?;
    let location = format!("/api/r/{}", made.slug);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(made)).into_response())
}

#[derive(Serialize)]
pub struct ShareEntry {
    #[serde(flatten)]
    share: Share,
    url: String,
}

pub async fn list(State(state): State<AppState>) -> Result<Json<Vec<ShareEntry>>, Problem> {
    state
        .blocking(|s| {
            let (base, _) = s.options.base_url();
            let all = shares::list(&s.data).into_iter();
            Ok(Json(all.map(|share| ShareEntry { url: format!("{base}/r/{}", share.slug), share }).collect()))
        })
        .await
}

pub async fn revoke(State(state): State<AppState>, Path(slug): Path<String>) -> Result<StatusCode, Problem> {
    state
        .blocking(move |s| match shares::revoke(&s.data, &slug)? {
            true => Ok(StatusCode::NO_CONTENT),
            false => Err(no_share()),
        })
        .await
}

fn no_share() -> Problem {
    Problem::not_found("there is no such shared result; its link may have been revoked")
}

fn result(state: &AppState, slug: &str) -> Result<SharedResult, Problem> {
    let share = shares::get(&state.data, slug).ok_or_else(no_share)?;
    let run = state
        .data
        .run(&share.run)
        .map_err(|_| Problem::new(StatusCode::GONE, "the run behind this link was deleted"))?;
    Ok(share::build(&state.index, &run, &share)?)
}

pub async fn show(
    State(state): State<AppState>,
    Path(slug): Path<String>,
) -> Result<Json<SharedResult>, Problem> {
    state.blocking(move |s| result(s, &slug)).await.map(Json)
}

/// The result as one file that opens anywhere.
pub async fn download(State(state): State<AppState>, Path(slug): Path<String>) -> Result<Response, Problem> {
    let (name, html) = state
        .blocking(move |s| {
            let r = result(s, &slug)?;
            Ok((r.run.name.clone(), share::html::page(&r)))
        })
        .await?;
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".to_string()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"hilda-{name}.html\"")),
        (header::CACHE_CONTROL, "no-cache".to_string()),
    ];
    Ok((headers, html).into_response())
}
