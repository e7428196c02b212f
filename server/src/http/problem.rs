//! Errors as problem documents (RFC 9457): `type`, `title`, `status`, `detail`, and `field` where one is at fault.

use axum::{
    extract::{FromRequest, FromRequestParts, Query, Request, rejection::BytesRejection},
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use hilda_engine::config::ConfigError;
use serde::{Serialize, de::DeserializeOwned};

use crate::{jobs::JobError, storage::StorageError};

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Problem {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub title: String,
    pub status: u16,
    pub detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// seconds after which it may be tried again, as the header `Retry-After`
    #[serde(skip)]
    pub retry_after: Option<u32>,
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Problem {
        Problem {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error").into(),
            status: status.as_u16(),
            detail: detail.into(),
            field: None,
            retry_after: None,
        }
    }
    pub fn field(field: impl Into<String>, detail: impl Into<String>) -> Problem {
        let mut p = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
        p.field = Some(field.into());
        p
    }
    pub fn not_found(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_string(&self).expect("plain data");
        let mut response =
            (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl From<StorageError> for Problem {
    fn from(e: StorageError) -> Problem {
        let status = match &e {
            StorageError::NoRun(_) => StatusCode::NOT_FOUND,
            StorageError::BadId(_) => StatusCode::BAD_REQUEST,
            StorageError::Conflict(_) => StatusCode::CONFLICT,
            StorageError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                StatusCode::INSUFFICIENT_STORAGE
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Problem::new(status, e.to_string())
    }
}

impl From<JobError> for Problem {
    fn from(e: JobError) -> Problem {
        match e {
            JobError::Storage(e) => e.into(),
            e @ JobError::State { .. } => Problem::new(StatusCode::CONFLICT, e.to_string()),
        }
    }
}

/// A recipe's error, with the dotted name of the field at fault. `toml` is the text it was read from.
pub fn config_problem(e: &ConfigError, toml: &str) -> Problem {
    match e {
        ConfigError::Field { field, message } => Problem::field(field.clone(), message.clone()),
        ConfigError::Parse(message) => match parse_error_field(message, toml) {
            Some(field) => Problem::field(field, message.clone()),
            None => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, message.clone()),
        },
    }
}

/// Field and message of a recipe's error; the field is empty where none is known.
pub fn config_field(e: &ConfigError) -> (String, String) {
    match e {
        ConfigError::Field { field, message } => (field.clone(), message.clone()),
        ConfigError::Parse(message) => (String::new(), message.clone()),
    }
}

/// The dotted field that a TOML error points at, from its line number and the tables opened before that line.
fn parse_error_field(message: &str, toml: &str) -> Option<String> {
    let quoted = |before: &str| {
        let rest = &message[message.find(before)? + before.len()..];
        rest.split('`').next().map(str::to_string)
    };
    let line: usize =
        message.split("at line ").nth(1)?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    let mut table = String::new();
    let mut counts = std::collections::HashMap::<String, usize>::new();
    for l in toml.lines().take(line) {
        let l = l.trim();
        if let Some(name) = l.strip_prefix("[[").and_then(|l| l.split("]]").next()) {
            let n = counts.entry(name.trim().into()).or_default();
            table = format!("{}[{n}]", name.trim());
            *n += 1;
        } else if let Some(name) = l.strip_prefix('[').and_then(|l| l.split(']').next()) {
            table = name.trim().into();
        }
    }
    let join = |key: &str| if table.is_empty() { key.to_string() } else { format!("{table}.{key}") };
    if let Some(key) = quoted("missing field `") {
        return Some(join(&key));
    }
    let own =
        toml.lines().nth(line - 1)?.split_once('=').map(|(k, _)| k.trim().trim_matches('"').to_string());
    match (quoted("unknown field `"), own) {
        (Some(bad), Some(own)) if bad != own => Some(join(&format!("{own}.{bad}"))),
        (Some(bad), _) => Some(join(&bad)),
        (None, Some(own)) if !own.starts_with('[') => Some(join(&own)),
        _ => None,
    }
}

/// A JSON body. Anything else is refused with a problem that says what was wrong and where.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;
    async fn from_request(req: Request, state: &S) -> Result<Self, Problem> {
        let kind = req.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
        let kind = kind.split(';').next().unwrap_or("").trim().to_string();
        let bytes = axum::body::Bytes::from_request(req, state).await.map_err(|e: BytesRejection| {
            let status = e.status();
            match status {
                StatusCode::PAYLOAD_TOO_LARGE => {
                    Problem::new(status, format!("a body may have at most {} bytes", super::BODY_LIMIT))
                }
                _ => Problem::new(status, e.body_text()),
            }
        })?;
        // no body at all is an empty object
        let nothing = bytes.is_empty() && kind.is_empty();
        let bytes = if nothing { "{}".into() } else { bytes };
        if kind != "application/json" && !nothing {
            let detail = "send JSON with the header content-type: application/json";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
        serde_json::from_slice(&bytes).map(Json).map_err(|e| {
            let mut p = Problem::new(StatusCode::BAD_REQUEST, format!("the body does not read: {e}"));
            let text = e.to_string();
            p.field = ["unknown field `", "missing field `"]
                .iter()
                .find_map(|b| Some(text.split_once(b)?.1.split('`').next()?.to_string()));
            p
        })
    }
}

/// Query parameters.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(q)| Params(q))
            .map_err(|e| Problem::new(StatusCode::BAD_REQUEST, format!("query: {}", e.body_text())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hilda_engine::config::RunConfig;

    #[test]
    fn toml_errors_name_the_dotted_field() {
        let good = "name = \"t\"\n[data]\ncorpus = \"c\"\n[batch]\nrows = 4\n[[phase]]\nobjective = \"ar\"\n\
                    tokens = 4096\nlr = { peak = 1e-3 }\n[[phase]]\nobjective = \"mdlm\"\ntokens = 4096\n\
                    lr = { peak = 1e-3 }\n";
        assert!(RunConfig::from_toml(good).is_ok());
        for (from, to, field) in [
            ("rows = 4", "rowz = 4", "batch.rowz"),
            ("rows = 4", "rows = \"four\"", "batch.rows"),
            ("corpus", "corpse", "data.corpse"),
            ("objective = \"mdlm\"", "objective = \"mdml\"", "phase[1].objective"),
            ("name = \"t\"", "nam = \"t\"", "nam"),
            ("[[phase]]\nobjective = \"mdlm\"", "[[phase]]\nobjective = \"mdlm\"\nblok = 3", "phase[1].blok"),
            ("peak = 1e-3 }", "peek = 1e-3 }", "phase[0].lr.peek"),
            ("rows = 4", "rows = 0", "batch.rows"),
        ] {
            let text = good.replacen(from, to, 1);
            let p = config_problem(&RunConfig::from_toml(&text).unwrap_err(), &text);
            assert_eq!(p.field.as_deref(), Some(field), "{}", p.detail);
            assert_eq!(p.status, 422);
        }
    }
}
