//! Server-sent events of one run.
//!
//! `metric` (id = row id, data = `Metric`), `status` (data = `Status`), `log` (data = `{from, to, text}`, bytes of
//! `log.txt`), `gone` (the run was deleted; the stream ends). One loop reads the table by row id, whether catching
//! up or live, so nothing can fall between the two. A status is sent after the rows that were written before it.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::{
    extract::{Path, State},
    http::HeaderMap,
    response::{
        Sse,
        sse::{Event, KeepAlive},
    },
};
use futures::{Stream, stream};
use serde::Deserialize;
use tokio::sync::watch;

use super::{AppState, Problem, problem::Params};
use crate::storage::ingest;

/// Rows per read, and the part of an existing log that a new reader gets.
const ROWS: usize = 1000;
const LOG_BYTES: u64 = 64 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct After {
    /// as `Last-Event-ID`, for a first connection
    after: Option<i64>,
}

pub async fn events(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Params(q): Params<After>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    state
        .blocking({
            let id = id.clone();
            move |s| Ok(s.data.run(&id)?)
        })
        .await?;
    let last = match headers.get("last-event-id") {
        Some(v) => Some(v.to_str().ok().and_then(|v| v.trim().parse().ok()).ok_or_else(|| {
            Problem::new(axum::http::StatusCode::BAD_REQUEST, "Last-Event-ID is the number of a metric row")
        })?),
        None => q.after,
    };
    let follow = Follow {
        changes: state.jobs.changes(),
        closing: state.closing.subscribe(),
        position: Position { id, after: last.unwrap_or(0), checked: false, status: None, log: 0 },
        state,
        pending: VecDeque::new(),
        ended: false,
    };
    let events = stream::unfold(follow, |mut f| async move { f.next().await.map(|e| (Ok(e), f)) });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}

#[derive(Clone)]
struct Position {
    id: String,
    after: i64,
    /// whether `after` was compared with the table once
    checked: bool,
    status: Option<String>,
    log: u64,
}

struct Follow {
    state: AppState,
    changes: watch::Receiver<u64>,
    closing: watch::Receiver<bool>,
    position: Position,
    pending: VecDeque<Event>,
    ended: bool,
}

impl Follow {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(e) = self.pending.pop_front() {
                return Some(e);
            }
            if self.ended || *self.closing.borrow() {
                return None;
            }
            // seen before reading, so that a change during the read wakes the wait below
            self.changes.borrow_and_update();
            let position = self.position.clone();
            match self.state.blocking(move |s| collect(s, position)).await {
                Ok((events, position)) => {
                    self.pending = events.into();
                    self.position = position;
                }
                Err(p) => {
                    self.pending.push_back(Event::default().event("gone").data(p.detail));
                    self.ended = true;
                }
            }
            if self.pending.is_empty() {
                tokio::select! {
                    _ = self.changes.changed() => {}
                    _ = self.closing.changed() => {}
                    _ = tokio::time::sleep(Duration::from_secs(2)) => {}
                }
            }
        }
    }
}

/// Everything new since `p`: rows, then the status if it changed, then the log.
fn collect(state: &AppState, mut p: Position) -> Result<(Vec<Event>, Position), Problem> {
    let run = state.data.run(&p.id)?;
    let status = run.status()?.map(|s| serde_json::to_string(&s).expect("plain data"));
    let news = status.is_some() && status != p.status;
    if news || !p.checked {
        // rows that were written before this status must come before it
        ingest::ingest(&state.index, &run)?;
    }
    if !p.checked {
        p.checked = true;
        if p.after > state.index.last_id(&p.id)? {
            // an id from an index that was rebuilt since: start over
            p.after = 0;
        }
    }
    let mut events = vec![];
    let rows = state.index.rows_after(&p.id, p.after, ROWS)?;
    let more = rows.len() == ROWS;
    for (id, json) in rows {
        p.after = id;
        events.push(Event::default().event("metric").id(id.to_string()).data(json));
    }
    if more {
        return Ok((events, p));
    }
    if news && let Some(s) = &status {
        events.push(Event::default().event("status").data(s));
        p.status = status;
    }
    let (from, to, text) = run.log_since(p.log, LOG_BYTES)?;
    if !text.is_empty() {
        let data = serde_json::json!({ "from": from, "to": to, "text": text }).to_string();
        events.push(Event::default().event("log").data(data));
    }
    p.log = to;
    Ok((events, p))
}
