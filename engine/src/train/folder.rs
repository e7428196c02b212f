//! A run folder: every file is either whole or absent.
//!
//! `run.toml, status.json, lock (its holder's process id), metrics.jsonl, log.txt, samples/, ckpt/step-N/`. Files that are replaced are
//! written beside and renamed; `metrics.jsonl` only grows (a torn last line is cut when training resumes).

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::config::{ConfigError, RunConfig};
use crate::files;
use crate::record::{Metric, Status};

/// A run folder that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}")]
    Config { path: PathBuf, source: ConfigError },
    #[error("{path} is in use by another trainer")]
    Locked { path: PathBuf },
    #[error("{path}: {message}")]
    Content { path: PathBuf, message: String },
}

/// An open, locked run folder.
pub struct RunFolder {
    pub path: PathBuf,
    metrics: File,
    log: File,
    /// held while this lives
    _lock: File,
}

pub(crate) fn io<T>(path: &Path, r: std::io::Result<T>) -> Result<T, FolderError> {
    r.map_err(|source| FolderError::Io { path: path.into(), source })
}

impl RunFolder {
    /// Makes a new folder (or accepts one that holds no run) with this recipe.
    pub fn create(path: &Path, config: &RunConfig) -> Result<(), FolderError> {
        io(path, fs::create_dir_all(path.join("ckpt")))?;
        io(path, fs::create_dir_all(path.join("samples")))?;
        let recipe = path.join("run.toml");
        if recipe.exists() {
            return Err(FolderError::Content {
                path: recipe,
                message: "a run is here already; resume it with --run alone".into(),
            });
        }
        io(&recipe, files::replace(&recipe, config.to_toml().as_bytes()))
    }

    /// The recipe of a run.
    pub fn config(path: &Path) -> Result<RunConfig, FolderError> {
        let recipe = path.join("run.toml");
        let text = io(&recipe, fs::read_to_string(&recipe))?;
        RunConfig::from_toml(&text).map_err(|source| FolderError::Config { path: recipe, source })
    }

    /// The last status, if there is one.
    pub fn status(path: &Path) -> Result<Option<Status>, FolderError> {
        let file = path.join("status.json");
        match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|e| FolderError::Content { path: file, message: e.to_string() }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(FolderError::Io { path: file, source }),
        }
    }

    /// Opens for training: takes the lock, cuts a torn last line of the metrics.
    pub fn open(path: &Path) -> Result<RunFolder, FolderError> {
        let lock_path = path.join("lock");
        let lock =
            io(&lock_path, OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path))?;
        take(&lock, path)?;
        // who holds it: a server that finds this trainer alive sends its signals there
        io(&lock_path, lock.set_len(0).and_then(|()| writeln!(&lock, "{}", std::process::id())))?;
        io(path, fs::create_dir_all(path.join("ckpt")))?;
        io(path, fs::create_dir_all(path.join("samples")))?;
        [path.to_path_buf(), path.join("samples")].iter().for_each(|p| files::sweep(p));
        let open = |name: &str| {
            let p = path.join(name);
            io(&p, OpenOptions::new().create(true).read(true).append(true).open(&p))
        };
        let (mut metrics, log) = (open("metrics.jsonl")?, open("log.txt")?);
        io(path, cut_torn_line(&mut metrics))?;
        Ok(RunFolder { path: path.into(), metrics, log, _lock: lock })
    }

    pub fn write_status(&self, status: &Status) -> Result<(), FolderError> {
        let path = self.path.join("status.json");
        io(&path, files::replace(&path, &serde_json::to_vec_pretty(status).expect("plain data")))
    }

    /// Appends one line, in one write.
    pub fn metric(&mut self, metric: &Metric) -> Result<(), FolderError> {
        let mut line = serde_json::to_vec(metric).expect("plain data");
        line.push(b'\n');
        io(&self.path.join("metrics.jsonl"), self.metrics.write_all(&line))
    }

    pub fn log(&mut self, line: &str) -> Result<(), FolderError> {
        io(&self.path.join("log.txt"), writeln!(self.log, "{line}"))
    }
}

/// Takes the lock. A server looks whether it is held by taking it for an instant, so this tries for a second.
fn take(lock: &File, path: &Path) -> Result<(), FolderError> {
    for _ in 0..20 {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(std::time::Duration::from_millis(50)),
            Err(fs::TryLockError::Error(source)) => {
                return Err(FolderError::Io { path: path.join("lock"), source });
            }
        }
    }
    Err(FolderError::Locked { path: path.into() })
}

fn cut_torn_line(f: &mut File) -> std::io::Result<()> {
    let len = f.metadata()?.len();
    let from = len.saturating_sub(1 << 16);
    f.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    f.read_to_end(&mut tail)?;
    if !tail.is_empty() && tail.last() != Some(&b'\n') {
        let keep = tail.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        f.set_len(from + keep as u64)?;
    }
    Ok(())
}
