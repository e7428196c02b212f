//! SQLite index over the run folders: metric rows with growing ids, nothing that is not also in a folder.
//!
//! One writer (the supervisor's thread, behind a lock), one reader connection, WAL. Row ids are never reused
//! (AUTOINCREMENT), so they serve as event ids: a client that has seen id n needs exactly the rows above n. A row
//! that a later attempt repeats is deleted and inserted again under a new id.

use std::{
    path::Path,
    sync::{Mutex, MutexGuard},
};

use hilda_engine::record::Metric;
use rusqlite::{Connection, OptionalExtension, params};

use super::{StorageError, now};

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY,
    offset INTEGER NOT NULL,
    bad_lines INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS metrics (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run TEXT NOT NULL,
    key TEXT NOT NULL,
    step INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    value REAL,
    tokens INTEGER,
    seconds REAL,
    flops REAL,
    json TEXT NOT NULL,
    UNIQUE (run, key, step)
);
CREATE INDEX IF NOT EXISTS metrics_by_run ON metrics (run, id);
";
const VERSION: i64 = 1;

/// One training step as curves need it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainPoint {
    pub step: u64,
    pub loss: f64,
    pub tokens: u64,
    pub seconds: f64,
}

pub struct Index {
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
    ingesting: Mutex<()>,
}

/// A lock that a panicking thread left behind guards a connection that SQLite itself keeps consistent.
fn lock(m: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    m.lock().unwrap_or_else(|e| e.into_inner())
}

impl Index {
    /// Opens or creates. A file that is not a usable index of this version is set aside and a new one begun:
    /// everything in it is read again from the run folders.
    pub fn open(path: &Path) -> Result<Index, StorageError> {
        match Self::open_once(path) {
            Ok(i) => Ok(i),
            Err(e) if path.exists() => {
                let aside = path.with_extension(format!("sqlite.broken-{}", now() as u64));
                eprintln!("index {}: {e}; set aside as {}, rebuilding", path.display(), aside.display());
                std::fs::rename(path, &aside).map_err(super::io_error("setting aside", path))?;
                for suffix in ["-wal", "-shm"] {
                    let mut p = path.as_os_str().to_owned();
                    p.push(suffix);
                    let _ = std::fs::remove_file(p);
                }
                Ok(Self::open_once(path)?)
            }
            Err(e) => Err(e.into()),
        }
    }
    fn open_once(path: &Path) -> Result<Index, rusqlite::Error> {
        let open = || -> Result<Connection, rusqlite::Error> {
            let c = Connection::open(path)?;
            c.busy_timeout(std::time::Duration::from_secs(10))?;
            c.pragma_update(None, "journal_mode", "WAL")?;
            c.pragma_update(None, "synchronous", "NORMAL")?;
            Ok(c)
        };
        let writer = open()?;
        let version: i64 = writer.query_row("PRAGMA user_version", [], |r| r.get(0))?;
        if version > VERSION {
            return Err(rusqlite::Error::InvalidParameterName(format!("index version {version} is newer")));
        }
        writer.execute_batch(SCHEMA)?;
        writer.pragma_update(None, "user_version", VERSION)?;
        let reader = open()?;
        reader.pragma_update(None, "query_only", true)?;
        Ok(Index { writer: Mutex::new(writer), reader: Mutex::new(reader), ingesting: Mutex::default() })
    }

    /// Held from reading the offset to committing the new one, so that no line enters twice.
    pub(super) fn ingesting(&self) -> MutexGuard<'_, ()> {
        self.ingesting.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Byte of `metrics.jsonl` up to which rows are in the index.
    pub fn offset(&self, run: &str) -> Result<u64, StorageError> {
        let c = lock(&self.reader);
        let o: Option<i64> =
            c.query_row("SELECT offset FROM runs WHERE id = ?1", [run], |r| r.get(0)).optional()?;
        Ok(o.unwrap_or(0) as u64)
    }

    /// Whether a run's file holds more than the index has read.
    pub fn behind(&self, run: &super::RunFolder) -> Result<bool, StorageError> {
        let len = std::fs::metadata(run.path.join("metrics.jsonl")).map_or(0, |m| m.len());
        Ok(len != self.offset(&run.id)?)
    }

    /// Adds metrics, each with the text it was read from, in order, and moves the offset, in one transaction. The
    /// last attempt wins per step.
    pub fn commit(
        &self,
        run: &str,
        metrics: &[(Metric, String)],
        bad_lines: usize,
        offset: u64,
    ) -> Result<(), StorageError> {
        let mut c = lock(&self.writer);
        let tx = c.transaction()?;
        {
            let mut delete = tx.prepare_cached(
                "DELETE FROM metrics WHERE run = ?1 AND key = ?2 AND step = ?3 AND attempt <= ?4",
            )?;
            let mut insert = tx.prepare_cached(
                "INSERT OR IGNORE INTO metrics (run, key, step, attempt, value, tokens, seconds, flops, json)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?;
            for (m, json) in metrics {
                let (key, attempt) = key_of(m);
                let step = m.step() as i64;
                let (value, tokens, seconds, flops) = match m {
                    Metric::Train { loss, tokens, seconds, flops, .. } => {
                        (Some(*loss), Some(*tokens as i64), Some(*seconds), Some(*flops))
                    }
                    Metric::Valid { estimate, tokens, .. } => {
                        (Some(estimate.value), Some(*tokens as i64), None, None)
                    }
                    _ => (None, None, None, None),
                };
                delete.execute(params![run, key, step, attempt])?;
                insert.execute(params![run, key, step, attempt, value, tokens, seconds, flops, json])?;
            }
            tx.execute(
                "INSERT INTO runs (id, offset, bad_lines) VALUES (?1, ?2, ?3)
                 ON CONFLICT (id) DO UPDATE SET offset = ?2, bad_lines = bad_lines + ?3",
                params![run, offset as i64, bad_lines as i64],
            )?;
        }
        tx.commit()?;
        Ok(())
    }

    /// Forgets a run (deleted, or its metrics file was replaced).
    pub fn forget(&self, run: &str) -> Result<(), StorageError> {
        let mut c = lock(&self.writer);
        let tx = c.transaction()?;
        tx.execute("DELETE FROM metrics WHERE run = ?1", [run])?;
        tx.execute("DELETE FROM runs WHERE id = ?1", [run])?;
        tx.commit()?;
        Ok(())
    }

    /// Rows of a run above an id, oldest first, as (id, JSON of the [`Metric`]).
    pub fn rows_after(
        &self,
        run: &str,
        after: i64,
        limit: usize,
    ) -> Result<Vec<(i64, String)>, StorageError> {
        let c = lock(&self.reader);
        let mut q =
            c.prepare_cached("SELECT id, json FROM metrics WHERE run = ?1 AND id > ?2 ORDER BY id LIMIT ?3")?;
        let rows = q.query_map(params![run, after, limit as i64], |r| Ok((r.get(0)?, r.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
    /// Highest row id of a run, 0 without rows.
    pub fn last_id(&self, run: &str) -> Result<i64, StorageError> {
        let c = lock(&self.reader);
        let id: Option<i64> =
            c.query_row("SELECT max(id) FROM metrics WHERE run = ?1", [run], |r| r.get(0))?;
        Ok(id.unwrap_or(0))
    }

    /// Training points in order of step.
    pub fn train_points(&self, run: &str) -> Result<Vec<TrainPoint>, StorageError> {
        self.points(
            "SELECT step, value, tokens, seconds FROM metrics WHERE run = ?1 AND key = 'train' ORDER BY step",
            run,
        )
    }
    /// The last `n` training points, in order of step.
    pub fn recent_points(&self, run: &str, n: usize) -> Result<Vec<TrainPoint>, StorageError> {
        let mut points = self.points(
            &format!(
                "SELECT step, value, tokens, seconds FROM metrics WHERE run = ?1 AND key = 'train'
                 ORDER BY step DESC LIMIT {n}"
            ),
            run,
        )?;
        points.reverse();
        Ok(points)
    }
    fn points(&self, sql: &str, run: &str) -> Result<Vec<TrainPoint>, StorageError> {
        let c = lock(&self.reader);
        let mut q = c.prepare_cached(sql)?;
        let rows = q.query_map([run], |r| {
            Ok(TrainPoint {
                step: r.get::<_, i64>(0)? as u64,
                loss: r.get::<_, Option<f64>>(1)?.unwrap_or(f64::NAN),
                tokens: r.get::<_, Option<i64>>(2)?.unwrap_or(0) as u64,
                seconds: r.get::<_, Option<f64>>(3)?.unwrap_or(0.0),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
    /// All validations in order of step.
    pub fn validations(&self, run: &str) -> Result<Vec<Metric>, StorageError> {
        let c = lock(&self.reader);
        let mut q = c.prepare_cached(
            "SELECT json FROM metrics WHERE run = ?1 AND key LIKE 'valid:%' ORDER BY step, id",
        )?;
        let rows = q.query_map([run], |r| r.get::<_, String>(0))?;
        let mut out = vec![];
        for json in rows {
            out.extend(serde_json::from_str(&json?).ok());
        }
        Ok(out)
    }
    /// Seconds and model FLOPs of all surviving training steps.
    pub fn cost(&self, run: &str) -> Result<(f64, f64), StorageError> {
        let c = lock(&self.reader);
        Ok(c.query_row(
            "SELECT coalesce(sum(seconds), 0.0), coalesce(sum(flops), 0.0) FROM metrics
             WHERE run = ?1 AND key = 'train'",
            [run],
            |r| Ok((r.get(0)?, r.get(1)?)),
        )?)
    }
    /// Lines of `metrics.jsonl` that did not parse.
    pub fn bad_lines(&self, run: &str) -> Result<u64, StorageError> {
        let c = lock(&self.reader);
        let n: Option<i64> =
            c.query_row("SELECT bad_lines FROM runs WHERE id = ?1", [run], |r| r.get(0)).optional()?;
        Ok(n.unwrap_or(0) as u64)
    }
}

/// What makes a row unique beside its step, and its attempt.
fn key_of(m: &Metric) -> (String, u32) {
    match m {
        Metric::Train { attempt, .. } => ("train".into(), *attempt),
        Metric::Valid { attempt, estimate, .. } => (format!("valid:{}", estimate.estimator), *attempt),
        Metric::Checkpoint { attempt, .. } => ("checkpoint".into(), *attempt),
        Metric::Sample { attempt, file, .. } => (format!("sample:{file}"), *attempt),
        Metric::Phase { attempt, phase, .. } => (format!("phase:{phase}"), *attempt),
    }
}
