//! A run as it happens: all metric rows so far, then server-sent events that continue after the last row. The
//! browser reconnects by itself with `Last-Event-ID`; where the server refused, this module tries again, more and
//! more slowly, from the last row seen.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use hilda_engine::record::{Metric, Status};
use leptos::prelude::*;
use serde::Deserialize;

use super::data::MetricRows;
use super::metrics::Metrics;
use crate::api::{self, Connection, Events, Problem, ServerEvent};
use crate::dom;

/// Rows asked for at a time.
const PAGE: usize = 5000;
/// Events are shown together this often, milliseconds; one more for each of so many points, so that long curves do
/// not keep the page busy.
const FLUSH: i32 = 200;
const POINTS_PER_MS: usize = 50;
/// Longest wait between attempts to connect, milliseconds.
const MAX_WAIT: i32 = 30_000;
/// The end of the log that is kept, bytes.
const LOG_BYTES: usize = 200_000;

/// Signals that follow one run.
#[derive(Clone, Copy)]
pub struct Live {
    pub metrics: RwSignal<Metrics>,
    pub status: RwSignal<Option<Status>>,
    pub log: RwSignal<LogTail>,
    pub connection: RwSignal<Connection>,
    /// the rows that existed when the page opened are here
    pub loaded: RwSignal<bool>,
    pub problem: RwSignal<Option<Problem>>,
    /// the run was deleted
    pub gone: RwSignal<bool>,
}

/// A piece of `log.txt`: bytes `from..to`.
#[derive(Clone, Debug, Deserialize)]
pub struct LogPiece {
    pub from: u64,
    pub to: u64,
    pub text: String,
}

/// The end of a log, put together from pieces that may overlap after a reconnection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogTail {
    pub text: String,
    to: u64,
}

impl LogTail {
    pub fn add(&mut self, piece: LogPiece) {
        if piece.to <= self.to {
            return;
        }
        let known = self.to.saturating_sub(piece.from) as usize;
        match piece.text.get(known..) {
            Some(new) if piece.from <= self.to => self.text.push_str(new),
            // a gap, or an overlap that cuts a character: what arrived is the truth
            _ => self.text = piece.text,
        }
        self.to = piece.to;
        if self.text.len() > LOG_BYTES {
            let cut = self.text.len() - LOG_BYTES;
            let cut = self.text.char_indices().map(|c| c.0).find(|i| *i >= cut).unwrap_or(0);
            let line = self.text[cut..].find('\n').map_or(cut, |n| cut + n + 1);
            self.text.drain(..line);
        }
    }
}

/// Follows run `id` until the current owner goes away.
pub fn follow(id: String) -> Live {
    let live = Live {
        metrics: RwSignal::new(Metrics::default()),
        status: RwSignal::new(None),
        log: RwSignal::new(LogTail::default()),
        connection: RwSignal::new(Connection::Reconnecting),
        loaded: RwSignal::new(false),
        problem: RwSignal::new(None),
        gone: RwSignal::new(false),
    };
    let stream = StoredValue::new_local(None::<Events>);
    leptos::task::spawn_local(async move {
        let last = Rc::new(Cell::new(0i64));
        let mut wait = 1000;
        // rows first: the charts appear whole, not point by point
        loop {
            match api::get::<MetricRows>(&format!("/api/runs/{id}/metrics?after={}&limit={PAGE}", last.get()))
                .await
            {
                Ok(page) => {
                    let full = page.rows.len() >= PAGE;
                    last.set(page.last);
                    let rows: Vec<Metric> = page.rows.into_iter().filter_map(|r| r.read()).collect();
                    if live.metrics.try_update(|m| rows.into_iter().for_each(|r| m.add(r))).is_none() {
                        return;
                    }
                    live.problem.try_set(None);
                    if !full {
                        break;
                    }
                }
                Err(problem) => {
                    let missing = problem.is_missing();
                    // a signal that is gone hands the value back: the page was left
                    if live.problem.try_set(Some(problem)).is_some() || missing {
                        return;
                    }
                    dom::sleep(wait).await;
                    wait = (wait * 2).min(MAX_WAIT);
                }
            }
        }
        if live.loaded.try_set(true).is_some() {
            return;
        }
        let pending = Rc::new(RefCell::new(Vec::<ServerEvent>::new()));
        let closed = Rc::new(Cell::new(true));
        let mut wait = 0;
        loop {
            if closed.get() {
                if wait > 0 {
                    dom::sleep(wait).await;
                }
                wait = (wait * 2).clamp(1000, MAX_WAIT);
                closed.set(false);
                let opened = open(&id, last.get(), pending.clone(), closed.clone(), live);
                match opened {
                    Ok(events) => {
                        if stream.try_set_value(Some(events)).is_some() {
                            return;
                        }
                    }
                    Err(_) => closed.set(true),
                }
            }
            let points = live.metrics.try_with_untracked(|m| m.train.len()).unwrap_or_default();
            dom::sleep(FLUSH + (points / POINTS_PER_MS).min(5000) as i32).await;
            let events: Vec<_> = pending.borrow_mut().drain(..).collect();
            if !events.is_empty() {
                wait = 0;
            }
            if live.gone.try_get_untracked() != Some(false) {
                return;
            }
            deliver(events, &last, live);
        }
    });
    live
}

fn open(
    id: &str,
    after: i64,
    pending: Rc<RefCell<Vec<ServerEvent>>>,
    closed: Rc<Cell<bool>>,
    live: Live,
) -> Result<Events, Problem> {
    Events::open(
        &format!("/api/runs/{id}/events?after={after}"),
        &["metric", "status", "log", "gone"],
        move |event| pending.borrow_mut().push(event),
        move |connection| {
            if connection == Connection::Closed {
                closed.set(true);
            }
            // told "closed" the reader would give up; this module does not
            let shown =
                if connection == Connection::Open { Connection::Open } else { Connection::Reconnecting };
            live.connection.try_set(shown);
        },
    )
}

/// Events that cannot be read (a newer server's) are skipped.
fn deliver(events: Vec<ServerEvent>, last: &Cell<i64>, live: Live) {
    let mut rows = Vec::new();
    let mut status = None;
    let mut pieces = Vec::new();
    for event in events {
        match event.name.as_str() {
            "metric" => {
                if let Ok(id) = event.id.parse() {
                    last.set(id);
                }
                rows.extend(serde_json::from_str::<Metric>(&event.data).ok());
            }
            "status" => status = serde_json::from_str::<Status>(&event.data).ok().or(status),
            "log" => pieces.extend(serde_json::from_str::<LogPiece>(&event.data).ok()),
            "gone" => {
                live.gone.try_set(true);
            }
            _ => {}
        }
    }
    if !rows.is_empty() {
        live.metrics.try_update(|m| rows.into_iter().for_each(|r| m.add(r)));
    }
    if let Some(status) = status
        && live.status.try_with_untracked(|old| old.as_ref() != Some(&status)) == Some(true)
    {
        live.status.try_set(Some(status));
    }
    if !pieces.is_empty() {
        live.log.try_update(|l| pieces.into_iter().for_each(|p| l.add(p)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(from: u64, text: &str) -> LogPiece {
        LogPiece { from, to: from + text.len() as u64, text: text.into() }
    }

    #[test]
    fn pieces_join_without_repeats_or_gaps() {
        let mut log = LogTail::default();
        log.add(piece(0, "one\n"));
        log.add(piece(4, "two\n"));
        log.add(piece(0, "one\n"));
        log.add(piece(4, "two\nthree\n"));
        assert_eq!(log.text, "one\ntwo\nthree\n");
        log.add(piece(100, "late\n"));
        assert_eq!(log.text, "late\n");
    }

    #[test]
    fn an_overlap_inside_a_character_does_not_panic() {
        let mut log = LogTail { text: "a".into(), to: 1 };
        log.add(piece(0, "é!"));
        assert_eq!(log.text, "é!");
    }

    #[test]
    fn long_logs_lose_their_beginning_at_a_line() {
        let mut log = LogTail::default();
        let line = "0123456789 äöü\n";
        let many = line.repeat(20_000);
        log.add(piece(0, &many));
        assert!(log.text.len() <= LOG_BYTES && log.text.starts_with('0') && log.text.ends_with(line));
    }
}
