//! One run folder, as `engine/src/record.rs` lays it out, plus `job.json`: what the server was asked to do with it.
//!
//! The trainer holds a lock on `lock` (and writes its process id into it) and is the only writer of `status.json`
//! while it lives; the server writes `status.json` only for runs whose lock is free.

use std::{
    fs,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use hilda_engine::{
    config::RunConfig,
    record::{SampleFile, State, Status},
};
use serde::{Deserialize, Serialize};

use super::{StorageError, folder_bytes, io_error, now, write_atomic};

/// What the server was asked to do with a run (`job.json`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Unix seconds
    pub created: f64,
    /// order in the queue, Unix seconds
    pub queued_at: f64,
    /// false once the run ended or somebody stopped it: a restarted server leaves it alone
    pub wanted: bool,
    /// the run this one was duplicated from
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
}

/// A complete checkpoint folder `ckpt/step-N`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointInfo {
    pub step: u64,
    pub bytes: u64,
}

/// A file of the run, relative to its folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileInfo {
    pub path: String,
    pub bytes: u64,
}

#[derive(Clone, Debug)]
pub struct RunFolder {
    pub id: String,
    pub path: PathBuf,
}

impl RunFolder {
    pub fn new(id: &str, path: PathBuf) -> RunFolder {
        RunFolder { id: id.into(), path }
    }

    /// Creates the folder with `run.toml` (defaults written out), `job.json` and a queued `status.json`.
    pub fn create(
        runs: &Path,
        id: &str,
        config: &RunConfig,
        parent: Option<String>,
    ) -> Result<RunFolder, StorageError> {
        let path = runs.join(id);
        // built beside and renamed: a scan never sees half a run
        let building = runs.join(format!(".new-{id}"));
        fs::create_dir_all(&building).map_err(io_error("creating", &building))?;
        let run = RunFolder::new(id, building.clone());
        write_atomic(&building.join("run.toml"), config.to_toml().as_bytes())?;
        let time = now();
        run.write_job(&Job { created: time, queued_at: time, wanted: true, parent })?;
        run.write_status(&queued_status(config, time))?;
        fs::rename(&building, &path).map_err(io_error("creating", &path))?;
        Ok(RunFolder::new(id, path))
    }

    pub fn toml(&self) -> Result<String, StorageError> {
        let p = self.path.join("run.toml");
        fs::read_to_string(&p).map_err(io_error("reading", &p))
    }
    pub fn config(&self) -> Result<RunConfig, StorageError> {
        RunConfig::from_toml(&self.toml()?).map_err(|e| StorageError::Format {
            path: self.path.join("run.toml").display().to_string(),
            what: "a recipe",
            message: e.to_string(),
        })
    }
    /// `None` before anybody wrote one. The writer renames, so a half-written file is never seen.
    pub fn status(&self) -> Result<Option<Status>, StorageError> {
        read_json(&self.path.join("status.json"), "a run's status")
    }
    pub fn write_status(&self, status: &Status) -> Result<(), StorageError> {
        let text = serde_json::to_vec_pretty(status).expect("plain data");
        write_atomic(&self.path.join("status.json"), &text)
    }
    /// Without `job.json` (a run started from the command line): a job nobody asked the server for.
    pub fn job(&self) -> Result<Job, StorageError> {
        let found = read_json(&self.path.join("job.json"), "a job")?;
        Ok(found.unwrap_or_else(|| {
            let created = fs::metadata(self.path.join("run.toml"))
                .and_then(|m| m.modified())
                .ok()
                .and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok())
                .map_or(0.0, |d| d.as_secs_f64());
            Job { created, queued_at: created, wanted: false, parent: None }
        }))
    }
    pub fn write_job(&self, job: &Job) -> Result<(), StorageError> {
        write_atomic(&self.path.join("job.json"), &serde_json::to_vec_pretty(job).expect("plain data"))
    }

    /// True while a trainer lives on this run. Takes the lock for an instant, so trainers retry once or twice.
    pub fn lock_held(&self) -> bool {
        match fs::File::open(self.path.join("lock")) {
            Ok(f) => f.try_lock().is_err(),
            Err(_) => false,
        }
    }
    /// Process id written into the lock by its holder.
    pub fn lock_pid(&self) -> Option<i32> {
        let text = fs::read_to_string(self.path.join("lock")).ok()?;
        text.split_whitespace().next()?.parse().ok().filter(|p| *p > 1)
    }
    /// Takes the lock as a trainer would; `None` if another process keeps holding it for about a second.
    pub fn take_lock(&self) -> Result<Option<fs::File>, StorageError> {
        let path = self.path.join("lock");
        let mut f = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(io_error("opening", &path))?;
        for _ in 0..20 {
            if f.try_lock().is_ok() {
                let text = format!("{}\n", std::process::id());
                f.set_len(0)
                    .and_then(|()| f.write_all(text.as_bytes()))
                    .map_err(io_error("writing", &path))?;
                return Ok(Some(f));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(None)
    }

    /// Complete checkpoints, oldest first.
    pub fn checkpoints(&self) -> Vec<CheckpointInfo> {
        let Ok(entries) = fs::read_dir(self.path.join("ckpt")) else { return vec![] };
        let mut found: Vec<_> = entries
            .flatten()
            .filter_map(|e| {
                let step = e.file_name().to_str()?.strip_prefix("step-")?.parse().ok()?;
                let whole =
                    e.path().join("config.json").is_file() && e.path().join("model.safetensors").is_file();
                whole.then(|| CheckpointInfo { step, bytes: folder_bytes(&e.path()) })
            })
            .collect();
        found.sort_by_key(|c| c.step);
        found
    }
    /// Folder of the newest complete checkpoint.
    pub fn newest_checkpoint(&self) -> Option<PathBuf> {
        self.checkpoints().last().map(|c| self.path.join("ckpt").join(format!("step-{}", c.step)))
    }
    /// Sample files in order of step; files that do not parse are left out.
    pub fn samples(&self) -> Vec<SampleFile> {
        let Ok(entries) = fs::read_dir(self.path.join("samples")) else { return vec![] };
        let mut found: Vec<SampleFile> = entries
            .flatten()
            .filter(|e| e.path().extension().is_some_and(|x| x == "json"))
            .filter_map(|e| serde_json::from_slice(&fs::read(e.path()).ok()?).ok())
            .collect();
        found.sort_by_key(|s| s.step);
        found
    }
    /// All files, by path; hidden ones (being written) left out.
    pub fn files(&self) -> Vec<FileInfo> {
        fn walk(base: &Path, at: &Path, out: &mut Vec<FileInfo>) {
            let Ok(entries) = fs::read_dir(at) else { return };
            for e in entries.flatten() {
                let hidden = e.file_name().to_str().is_none_or(|n| n.starts_with('.'));
                match e.file_type() {
                    Ok(t) if t.is_dir() && !hidden => walk(base, &e.path(), out),
                    Ok(t) if t.is_file() && !hidden => out.push(FileInfo {
                        path: e.path().strip_prefix(base).unwrap_or(&e.path()).display().to_string(),
                        bytes: e.metadata().map(|m| m.len()).unwrap_or(0),
                    }),
                    _ => {}
                }
            }
        }
        let mut out = vec![];
        walk(&self.path, &self.path, &mut out);
        out.sort_by(|a, b| a.path.cmp(&b.path));
        out
    }
    pub fn disk_bytes(&self) -> u64 {
        folder_bytes(&self.path)
    }

    /// Bytes `[from, to)` of the log with `from` moved to the start of a line: the part after `after`, but at most
    /// the last `limit` bytes. Returns (from, to, text).
    pub fn log_since(&self, after: u64, limit: u64) -> Result<(u64, u64, String), StorageError> {
        let path = self.path.join("log.txt");
        let mut f = match fs::File::open(&path) {
            Ok(f) => f,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok((0, 0, String::new())),
            Err(e) => return Err(io_error("reading", &path)(e)),
        };
        let read = (|| {
            let len = f.metadata()?.len();
            // a log that shrank is a new log
            let after = if after > len { 0 } else { after };
            let cut = len.saturating_sub(limit);
            let from = after.max(cut);
            f.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            f.take(len - from).read_to_end(&mut bytes)?;
            Ok((after, from, bytes))
        })();
        let (after, mut from, bytes) = read.map_err(io_error("reading", &path))?;
        let to = from + bytes.len() as u64;
        let mut bytes = &bytes[..];
        if from > after
            && let Some(i) = bytes.iter().position(|b| *b == b'\n')
        {
            bytes = &bytes[i + 1..];
            from += i as u64 + 1;
        }
        Ok((from, to, String::from_utf8_lossy(bytes).into_owned()))
    }
    /// The last `lines` lines of the log.
    pub fn log_tail(&self, lines: usize) -> Result<String, StorageError> {
        let (_, _, text) = self.log_since(0, (lines as u64).saturating_mul(400).clamp(4096, 4 << 20))?;
        let all: Vec<_> = text.lines().collect();
        Ok(all[all.len().saturating_sub(lines)..].join("\n"))
    }
    /// Adds a line, as the trainer does.
    pub fn append_log(&self, line: &str) {
        let opened = fs::OpenOptions::new().create(true).append(true).open(self.path.join("log.txt"));
        if let Ok(mut f) = opened {
            let _ = f.write_all(format!("{line}\n").as_bytes());
        }
    }
}

/// The status of a run that has not started.
pub fn queued_status(config: &RunConfig, time: f64) -> Status {
    let per_step = (config.batch.rows * config.data.packing.length) as u64;
    Status {
        state: State::Queued,
        step: 0,
        total_steps: config.total_steps(),
        tokens: 0,
        total_tokens: config.total_steps() * per_step,
        phase: 0,
        attempt: 0,
        started: time,
        updated: time,
        seconds: 0.0,
        eta: None,
        device: config.device.clone(),
        parameters: 0,
        micro: config.batch.micro,
        config_hash: config.hash(),
        error: None,
        headline: None,
        checkpoint: None,
    }
}

fn read_json<T: serde::de::DeserializeOwned>(
    path: &Path,
    what: &'static str,
) -> Result<Option<T>, StorageError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| StorageError::Format {
            path: path.display().to_string(),
            what,
            message: e.to_string(),
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_error("reading", path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, RunFolder) {
        let dir = tempfile::tempdir().unwrap();
        let run = RunFolder::new("r", dir.path().to_path_buf());
        (dir, run)
    }

    #[test]
    fn log_since_neither_loses_nor_repeats_bytes() {
        let (_dir, run) = folder();
        assert_eq!(run.log_since(0, 100).unwrap(), (0, 0, String::new()));
        run.append_log("one");
        let (from, to, text) = run.log_since(0, 100).unwrap();
        assert_eq!((from, to, text.as_str()), (0, 4, "one\n"));
        run.append_log("two");
        assert_eq!(run.log_since(to, 100).unwrap(), (4, 8, "two\n".into()));
        assert_eq!(run.log_since(8, 100).unwrap(), (8, 8, String::new()));
        // cut in the middle of "one": the half line goes
        assert_eq!(run.log_since(0, 6).unwrap(), (4, 8, "two\n".into()));
        // shrank
        assert_eq!(run.log_since(900, 100).unwrap(), (0, 8, "one\ntwo\n".into()));
        assert_eq!(run.log_tail(1).unwrap(), "two");
    }

    #[test]
    fn incomplete_checkpoints_are_not_offered() {
        let (dir, run) = folder();
        for (step, whole) in [(5, true), (10, true), (20, false)] {
            let p = dir.path().join(format!("ckpt/step-{step}"));
            fs::create_dir_all(&p).unwrap();
            fs::write(p.join("config.json"), "{}").unwrap();
            if whole {
                fs::write(p.join("model.safetensors"), "12345").unwrap();
            }
        }
        fs::create_dir_all(dir.path().join("ckpt/.step-30")).unwrap();
        assert_eq!(
            run.checkpoints().iter().map(|c| (c.step, c.bytes)).collect::<Vec<_>>(),
            [(5, 7), (10, 7)]
        );
        assert!(run.newest_checkpoint().unwrap().ends_with("ckpt/step-10"));
    }

    #[test]
    fn lock_is_seen_and_names_its_holder() {
        let (_dir, run) = folder();
        assert!(!run.lock_held());
        let held = run.take_lock().unwrap().unwrap();
        assert!(run.lock_held());
        assert_eq!(run.lock_pid(), Some(std::process::id() as i32));
        drop(held);
        assert!(!run.lock_held());
    }

    #[test]
    fn damaged_status_is_an_error_with_its_path() {
        let (dir, run) = folder();
        assert_eq!(run.status().unwrap(), None);
        fs::write(dir.path().join("status.json"), "{").unwrap();
        assert!(run.status().unwrap_err().to_string().contains("status.json"));
    }
}
