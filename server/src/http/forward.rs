//! `POST /api/models/forward`: one forward of a decoding that the page drives, for models that are too large for it.
//!
//! The page's decoder says which positions it needs and decides what the answer means; this machine only computes.
//! Keys and values of finished positions stay here under the name that the page chose. Whoever comes back after they
//! were dropped (four texts are kept, and none over a restart) learns so by a 409 and begins its text again from its ids.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use axum::{
    extract::State,
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use hilda_engine::{
    decode::{
        CacheOp,
        policy::Press,
        wire::{self, RemoteForward},
    },
    model::{Session, SessionError, page},
};
use hilda_kernels::Cpu;

use super::{AppState, Problem, problem};
use crate::models;

/// Texts whose keys and values are kept.
const KEEP: usize = 4;

struct Kept {
    /// the caller's name and the model's place: another checkpoint is another text
    key: (String, PathBuf),
    session: Session<Cpu>,
}

/// Texts at work, the last one first.
#[derive(Default)]
pub struct Texts(Mutex<Vec<Kept>>);

impl Texts {
    fn take(&self, key: &(String, PathBuf)) -> Option<Session<Cpu>> {
        let mut all = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let at = all.iter().position(|k| k.key == *key)?;
        Some(all.remove(at).session)
    }
    fn keep(&self, key: (String, PathBuf), session: Session<Cpu>) {
        let mut all = self.0.lock().unwrap_or_else(|e| e.into_inner());
        all.insert(0, Kept { key, session });
        all.truncate(KEEP);
    }
}

impl From<SessionError> for Problem {
    fn from(e: SessionError) -> Problem {
        Problem::field("request", e.to_string())
    }
}

/// Statistics of the wanted rows, f32 little endian.
pub async fn forward(
    State(state): State<AppState>,
    problem::Json(mut body): problem::Json<RemoteForward>,
) -> Result<Response, Problem> {
    if body.session.is_empty() || body.session.len() > 64 {
        return Err(Problem::field("session", "a name of 1 to 64 characters"));
    }
    let r = &body.request;
    if !(0.0..=10.0).contains(&r.want.temperature) {
        return Err(Problem::field(
            "request",
            format!("temperature {} is outside 0..10", r.want.temperature),
        ));
    }
    // each forward uses all threads
    let busy = |_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the server is closing");
    let permit = state.forward.clone().acquire_owned().await.map_err(busy)?;
    state
        .blocking(move |s| {
            let _permit = permit;
            let model = s.loaded.get(&s.data, &body.model)?;
            let place = models::place(&s.data, &body.model)?.unwrap_or_else(|| models::DEMO.into());
            let key = (body.session, place);
            let kept = s.texts.take(&key).filter(|kept| Arc::ptr_eq(kept.weights(), &model.weights));
            let context = page::context(&model.weights.trunk.config);
            let mut session = kept.unwrap_or_else(|| Session::new(&Cpu, model.weights.clone(), context));
            if body.cached == 0 {
                session.forget();
            }
            if body.request.compression.press == Press::Kvzap {
                body.request.compression.surrogate = model.tokenizer.surrogate().cloned();
            }
            let has = session.cached();
            if (body.cached as usize) != has {
                let detail = format!("{has} positions of this text are kept here, not {}", body.cached);
                return Err(Problem::new(StatusCode::CONFLICT, detail));
            }
            if let CacheOp::Truncate { keep } = body.request.cache
                && keep as usize > has
            {
                return Err(Problem::field("request", format!("{keep} of {has} kept positions")));
            }
            let pending = session.forward(&Cpu, &body.request)?;
            let bytes: Vec<u8> =
                session.stats[..pending.len()].iter().flat_map(|x| x.to_le_bytes()).collect();
            let held = serde_json::to_string(&session.held()).expect("plain data");
            s.texts.keep(key, session);
            let binary = "application/octet-stream".to_string();
            let kept = HeaderName::from_static(wire::HELD);
            Ok(([(header::CONTENT_TYPE, binary), (kept, held)], bytes).into_response())
        })
        .await
}
