//! What a starting server makes of the run folders, and what it notices later: runs started from the command line,
//! trainers that vanished, runs in the trash whose time is over.

use std::time::Instant;

use hilda_engine::record::State;

use super::{Active, Inner, Jobs, PURGE, Process, SCAN};
use crate::storage::{RunFolder, StorageError, ingest, now, trash};

impl Jobs {
    pub(super) fn recover(&self) -> Result<(), StorageError> {
        let mut waiting = vec![];
        let mut inner = self.lock();
        for id in self.data.run_ids() {
            let Ok(run) = self.data.run(&id) else { continue };
            // one damaged folder must not keep the server from starting
            if let Err(e) = self.recover_one(&mut inner, &run, &mut waiting) {
                eprintln!("run {id}: {e}");
            }
        }
        waiting.sort_by(|a: &(f64, RunFolder), b| a.0.total_cmp(&b.0));
        for (queued_at, run) in waiting {
            let status = run.status()?;
            self.queue_again(&mut inner, &run, status)?;
            // keeps its place among those that waited before
            let mut job = run.job()?;
            job.queued_at = queued_at;
            run.write_job(&job)?;
        }
        Ok(())
    }

    fn recover_one(
        &self,
        inner: &mut Inner,
        run: &RunFolder,
        waiting: &mut Vec<(f64, RunFolder)>,
    ) -> Result<(), StorageError> {
        ingest::ingest(&self.index, run)?;
        if run.lock_held() {
            adopt(inner, run);
            return Ok(());
        }
        let job = run.job()?;
        let state = run.status()?.map(|s| s.state);
        match state {
            Some(State::Finished | State::Failed) => {}
            _ if job.wanted => waiting.push((job.queued_at, run.clone())),
            Some(State::Running | State::Queued) => self.vanished(run)?,
            _ => {}
        }
        Ok(())
    }

    /// A run that says it is running although nobody trains it and nobody wants it to go on.
    fn vanished(&self, run: &RunFolder) -> Result<(), StorageError> {
        let error = "its trainer is gone without a word; resuming starts from the last checkpoint";
        self.settle(run, State::Stopped, Some(error.into()), false)
    }

    /// Every few seconds: runs that the command line started or left behind, and the trash.
    pub(super) fn scan(&self) -> bool {
        {
            let mut inner = self.lock();
            if inner.scanned.is_some_and(|t| t.elapsed() < SCAN) {
                return false;
            }
            inner.scanned = Some(Instant::now());
            if inner.purged.is_none_or(|t| t.elapsed() > PURGE) {
                inner.purged = Some(Instant::now());
                if let Err(e) = trash::purge(&self.data, now()) {
                    eprintln!("trash: {e}");
                }
            }
        }
        let mut changed = false;
        for id in self.data.run_ids() {
            let Ok(run) = self.data.run(&id) else { continue };
            changed |= ingest::ingest(&self.index, &run).is_ok_and(|n| n > 0);
            let mut inner = self.lock();
            if inner.active.contains_key(&id) || inner.queue.contains(&id) {
                continue;
            }
            let Ok(Some(status)) = run.status() else { continue };
            if status.state == State::Running {
                changed = true;
                if run.lock_held() {
                    adopt(&mut inner, &run);
                } else if let Err(e) = self.vanished(&run) {
                    eprintln!("run {id}: {e}");
                }
            }
        }
        changed
    }
}

fn adopt(inner: &mut Inner, run: &RunFolder) {
    let log_start = std::fs::metadata(run.path.join("log.txt")).map_or(0, |m| m.len());
    inner.active.insert(run.id.clone(), Active::new(Process::Adopted(run.clone()), log_start));
}
