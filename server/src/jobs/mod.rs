//! Jobs: a queue of run folders, worked off by child processes (`hilda train --run DIR`).
//!
//! States are those of `status.json`. The trainer writes it while it lives (it holds the run's lock); the server
//! writes `queued`, and the last word on a trainer that died without one. `job.json` remembers what was wanted, so:
//!
//! | found at start | done |
//! |---|---|
//! | lock held | adopted: followed, stopped and counted like an own child |
//! | wanted, not finished or failed | queued again; the trainer resumes from its last checkpoint |
//! | says running, not wanted, lock free | marked as stopped: its trainer is gone |
//!
//! Children have a process group of their own, so neither Ctrl-C on the terminal nor the death of the server
//! reaches them. Their output goes to the run's `log.txt`, never to a pipe that could break.

mod child;
mod recover;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, Weak},
    time::{Duration, Instant},
};

use hilda_engine::{
    config::RunConfig,
    record::{State, Status},
};
use tokio::sync::watch;

use self::child::{Exit, Process};
use crate::storage::{
    self, DataDir, Index, RunFolder, StorageError, ingest,
    run::queued_status,
    trash::{self, Trashed},
};

/// What cannot be done with a job now.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("run \"{id}\" is {state}: {message}")]
    State { id: String, state: &'static str, message: &'static str },
}

#[derive(Clone, Debug)]
pub struct JobOptions {
    /// program started as `PROGRAM train --run DIR`
    pub trainer: PathBuf,
    /// jobs that run at the same time
    pub slots: usize,
    /// time between the request to stop and the kill
    pub stop_grace: Duration,
}

impl JobOptions {
    /// This program, or what `HILDA_TRAINER` names.
    pub fn from_env() -> std::io::Result<JobOptions> {
        let trainer = match std::env::var_os("HILDA_TRAINER") {
            Some(p) => p.into(),
            None => std::env::current_exe()?,
        };
        Ok(JobOptions { trainer, slots: 1, stop_grace: Duration::from_secs(120) })
    }
}

struct Active {
    process: Process,
    stop_requested: Option<Instant>,
    killed: bool,
    /// end of the log when the trainer started
    log_start: u64,
    /// what was last announced: (status file time, log length)
    seen: (Option<std::time::SystemTime>, u64),
}

#[derive(Default)]
struct Inner {
    active: HashMap<String, Active>,
    /// ids in order
    queue: Vec<String>,
    shutting_down: bool,
    scanned: Option<Instant>,
    purged: Option<Instant>,
}

/// The supervisor. Its thread ends when the last handle goes.
pub struct Jobs {
    data: DataDir,
    index: Arc<Index>,
    options: JobOptions,
    inner: Mutex<Inner>,
    wake: Condvar,
    changed: watch::Sender<u64>,
}

const TICK: Duration = Duration::from_millis(200);
const SCAN: Duration = Duration::from_secs(5);
const PURGE: Duration = Duration::from_secs(3600);

impl Jobs {
    /// Adopts and queues what the run folders say, then starts supervising.
    pub fn start(data: DataDir, index: Arc<Index>, options: JobOptions) -> Result<Arc<Jobs>, StorageError> {
        let jobs = Arc::new(Jobs {
            data,
            index,
            options,
            inner: Mutex::default(),
            wake: Condvar::new(),
            changed: watch::Sender::new(0),
        });
        jobs.recover()?;
        let weak = Arc::downgrade(&jobs);
        std::thread::Builder::new().name("jobs".into()).spawn(move || supervise(weak)).map_err(|source| {
            StorageError::Io { what: "starting", path: "the supervisor's thread".into(), source }
        })?;
        Ok(jobs)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A counter that grows whenever a run's metrics, status or log may have changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
    fn announce(&self) {
        self.changed.send_modify(|n| *n += 1);
        self.wake.notify_all();
    }

    /// Place in the queue, from 1.
    pub fn queue_position(&self, id: &str) -> Option<usize> {
        self.lock().queue.iter().position(|q| q == id).map(|i| i + 1)
    }
    /// Ids that are training now.
    pub fn running(&self) -> Vec<String> {
        self.lock().active.keys().cloned().collect()
    }

    /// Creates a run folder and queues it.
    pub fn enqueue(&self, config: &RunConfig, parent: Option<String>) -> Result<RunFolder, JobError> {
        let id = storage::new_run_id(&config.name);
        let run = RunFolder::create(&self.data.runs(), &id, config, parent)?;
        self.lock().queue.push(id);
        self.announce();
        Ok(run)
    }

    /// A trainer that has written its last status is given the moment it needs to exit, so that what a reader of
    /// the status sees ("stopped") can be acted upon at once ("resume").
    fn let_exit(&self, run: &RunFolder) -> Result<(), StorageError> {
        let over = |s: Status| matches!(s.state, State::Stopped | State::Finished | State::Failed);
        for _ in 0..150 {
            if !self.lock().active.contains_key(&run.id) || !run.status()?.is_some_and(over) {
                break;
            }
            if !self.reap() {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    /// Asks the trainer to write a checkpoint and end; takes a queued run out of the queue.
    pub fn stop(&self, id: &str) -> Result<RunFolder, JobError> {
        let run = self.data.run(id)?;
        self.let_exit(&run)?;
        let mut inner = self.lock();
        if let Some(active) = inner.active.get_mut(id) {
            let mut job = run.job()?;
            job.wanted = false;
            run.write_job(&job)?;
            active.stop_requested.get_or_insert_with(Instant::now);
            active.process.terminate();
        } else if let Some(i) = inner.queue.iter().position(|q| q == id) {
            inner.queue.remove(i);
            self.settle(&run, State::Stopped, None, false)?;
        } else {
            let state = state_name(run.status()?.map(|s| s.state));
            return Err(JobError::State { id: id.into(), state, message: "nothing to stop" });
        }
        drop(inner);
        self.announce();
        Ok(run)
    }

    /// Queues a stopped or failed run; does nothing to one that is queued already.
    pub fn resume(&self, id: &str) -> Result<RunFolder, JobError> {
        let run = self.data.run(id)?;
        self.let_exit(&run)?;
        let refuse = |state, message| Err(JobError::State { id: id.into(), state, message });
        let mut inner = self.lock();
        if let Some(active) = inner.active.get(id) {
            return match active.stop_requested {
                Some(_) => refuse("stopping", "wait until its checkpoint is written"),
                None => refuse("running", "nothing to resume"),
            };
        }
        if inner.queue.iter().any(|q| q == id) {
            return Ok(run);
        }
        let status = run.status()?;
        if status.as_ref().is_some_and(|s| s.state == State::Finished) {
            return refuse("finished", "start a new run with more tokens instead");
        }
        self.queue_again(&mut inner, &run, status)?;
        drop(inner);
        self.announce();
        Ok(run)
    }

    /// Moves a run to the trash.
    pub fn delete(&self, id: &str) -> Result<Trashed, JobError> {
        let run = self.data.run(id)?;
        self.let_exit(&run)?;
        let mut inner = self.lock();
        if inner.active.contains_key(id) || run.lock_held() {
            return Err(JobError::State { id: id.into(), state: "running", message: "stop it first" });
        }
        if inner.queue.iter().any(|q| q == id) {
            inner.queue.retain(|q| q != id);
            self.settle(&run, State::Stopped, None, false)?;
        }
        let entry = trash::discard(&self.data, &run)?;
        drop(inner);
        self.index.forget(id)?;
        self.announce();
        Ok(entry)
    }

    /// Brings a run back from the trash, as it was, not running.
    pub fn restore(&self, id: &str) -> Result<RunFolder, JobError> {
        let run = trash::restore(&self.data, id)?;
        ingest::ingest(&self.index, &run)?;
        self.announce();
        Ok(run)
    }

    /// Sends SIGTERM to every trainer and waits until all have written their checkpoints (or `limit` passed).
    /// The runs stay wanted: the next server resumes them. Returns the ids still alive.
    pub fn shutdown(&self, limit: Duration) -> Vec<String> {
        let deadline = Instant::now() + limit;
        {
            let mut inner = self.lock();
            inner.shutting_down = true;
            // what somebody started from the command line is theirs to stop
            inner.active.retain(|id, a| match a.process {
                Process::Own(_) => true,
                Process::Adopted(_) => self.data.run(id).and_then(|r| r.job()).is_ok_and(|j| j.wanted),
            });
            for a in inner.active.values_mut() {
                a.process.terminate();
            }
        }
        self.wake.notify_all();
        while Instant::now() < deadline && !self.lock().active.is_empty() {
            std::thread::sleep(Duration::from_millis(20));
        }
        self.running()
    }

    /// One round: who ended, what is new, who is next.
    fn tick(&self) {
        let mut changed = self.reap();
        changed |= self.read_news();
        changed |= self.scan();
        changed |= self.start_next();
        if changed {
            self.changed.send_modify(|n| *n += 1);
        }
    }

    fn reap(&self) -> bool {
        let mut inner = self.lock();
        let mut ended = vec![];
        for (id, a) in &mut inner.active {
            if let Some(exit) = a.process.poll() {
                ended.push((id.clone(), exit));
                continue;
            }
            if let Some(since) = a.stop_requested
                && since.elapsed() > self.options.stop_grace
                && !a.killed
            {
                a.killed = true;
                a.process.kill();
            }
        }
        let changed = !ended.is_empty();
        for (id, exit) in ended {
            let Some(active) = inner.active.remove(&id) else { continue };
            let Ok(run) = self.data.run(&id) else { continue };
            if let Err(e) = self.last_word(&run, &active, &exit, inner.shutting_down) {
                eprintln!("run {id}: {e}");
            }
        }
        changed
    }

    /// Settles what a run is after its trainer ended.
    fn last_word(
        &self,
        run: &RunFolder,
        active: &Active,
        exit: &Exit,
        shutting_down: bool,
    ) -> Result<(), StorageError> {
        ingest::ingest(&self.index, run)?;
        let state = run.status()?.map_or(State::Queued, |s| s.state);
        let last_lines = || {
            let (_, _, text) = run.log_since(active.log_start, 8192).unwrap_or_default();
            let lines: Vec<_> = text.lines().filter(|l| !l.trim().is_empty()).collect();
            lines[lines.len().saturating_sub(12)..].join("\n")
        };
        match state {
            State::Finished => self.settle(run, State::Finished, None, false),
            State::Failed => {
                let said = run.status()?.and_then(|s| s.error);
                let error = said.unwrap_or_else(last_lines);
                self.settle(run, State::Failed, Some(error), false)
            }
            State::Stopped => self.settle(run, State::Stopped, None, shutting_down && run.job()?.wanted),
            State::Running | State::Queued if active.stop_requested.is_some() => {
                let error = active.killed.then(|| "did not end in time and was killed".to_string());
                self.settle(run, State::Stopped, error, false)
            }
            State::Running | State::Queued if shutting_down && run.job()?.wanted => {
                self.settle(run, State::Queued, None, true)
            }
            State::Running | State::Queued => {
                let lines = last_lines();
                let mut error = format!("the trainer {exit}");
                if !lines.is_empty() {
                    error += &format!(":\n{lines}");
                }
                self.settle(run, State::Failed, Some(error), false)
            }
        }
    }

    /// Writes what a run without a trainer is. Leaves it alone if a trainer took the lock meanwhile.
    fn settle(
        &self,
        run: &RunFolder,
        state: State,
        error: Option<String>,
        wanted: bool,
    ) -> Result<(), StorageError> {
        let Some(_held) = run.take_lock()? else { return Ok(()) };
        let mut status = match run.status()? {
            Some(s) => s,
            None => queued_status(&run.config()?, storage::now()),
        };
        if status.state != state || status.error != error {
            status.state = state;
            status.error = error;
            status.eta = None;
            status.updated = storage::now();
            run.write_status(&status)?;
        }
        let mut job = run.job()?;
        if job.wanted != wanted {
            job.wanted = wanted;
            run.write_job(&job)?;
        }
        Ok(())
    }

    fn queue_again(
        &self,
        inner: &mut Inner,
        run: &RunFolder,
        status: Option<Status>,
    ) -> Result<(), StorageError> {
        let mut job = run.job()?;
        job.wanted = true;
        job.queued_at = storage::now();
        run.write_job(&job)?;
        let mut status = match status {
            Some(s) => s,
            None => queued_status(&run.config()?, job.queued_at),
        };
        status.state = State::Queued;
        status.error = None;
        status.eta = None;
        status.updated = job.queued_at;
        run.write_status(&status)?;
        inner.queue.push(run.id.clone());
        Ok(())
    }

    /// Metrics, status and log of active runs.
    fn read_news(&self) -> bool {
        let mut changed = false;
        for id in self.running() {
            let Ok(run) = self.data.run(&id) else { continue };
            match ingest::ingest(&self.index, &run) {
                Ok(n) => changed |= n > 0,
                Err(e) => eprintln!("run {id}: {e}"),
            }
            let time = |name: &str| std::fs::metadata(run.path.join(name)).ok();
            let seen =
                (time("status.json").and_then(|m| m.modified().ok()), time("log.txt").map_or(0, |m| m.len()));
            if let Some(a) = self.lock().active.get_mut(&id)
                && a.seen != seen
            {
                a.seen = seen;
                changed = true;
            }
        }
        changed
    }

    fn start_next(&self) -> bool {
        let mut inner = self.lock();
        let mut changed = false;
        while !inner.shutting_down && inner.active.len() < self.options.slots && !inner.queue.is_empty() {
            let id = inner.queue.remove(0);
            changed = true;
            let Ok(run) = self.data.run(&id) else { continue };
            let log_start = std::fs::metadata(run.path.join("log.txt")).map_or(0, |m| m.len());
            match child::spawn(&self.options.trainer, &self.data, &run) {
                Ok(process) => {
                    inner.active.insert(id, Active::new(process, log_start));
                }
                Err(e) => {
                    let error = format!("could not start {}: {e}", self.options.trainer.display());
                    if let Err(e) = self.settle(&run, State::Failed, Some(error), false) {
                        eprintln!("run {id}: {e}");
                    }
                }
            }
        }
        changed
    }
}

impl Active {
    fn new(process: Process, log_start: u64) -> Active {
        Active { process, stop_requested: None, killed: false, log_start, seen: (None, 0) }
    }
}

fn supervise(jobs: Weak<Jobs>) {
    loop {
        let Some(jobs) = jobs.upgrade() else { return };
        jobs.tick();
        let inner = jobs.lock();
        if inner.shutting_down && inner.active.is_empty() {
            return;
        }
        let _ = jobs.wake.wait_timeout(inner, TICK);
    }
}

/// "running" and so on; "new" before the first status.
pub fn state_name(state: Option<State>) -> &'static str {
    match state {
        None => "new",
        Some(State::Queued) => "queued",
        Some(State::Running) => "running",
        Some(State::Stopped) => "stopped",
        Some(State::Finished) => "finished",
        Some(State::Failed) => "failed",
    }
}
