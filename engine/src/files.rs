//! Files that are whole or absent.
//!
//! A file is written beside its place under a hidden name that no other writer uses (`.NAME.PROCESS-COUNT.partial`),
//! synced, renamed, and its folder is synced: after a power cut there is the old file or the new one. A process that is
//! killed meanwhile leaves the hidden name behind; whoever knows that nobody writes there removes it
//! ([`leftovers`]).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Suffix of the hidden name of a file or folder that is being written.
pub const PARTIAL: &str = ".partial";

/// A hidden name beside `path` that no other writer uses, in this process or another.
pub fn partial(path: &Path) -> PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    path.with_file_name(format!(".{name}.{process}-{count}{PARTIAL}"))
}

/// Writes a file, or replaces it.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = partial(path);
    let write = || {
        let mut file = File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        sync_folder(path)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&partial);
    })
}

/// Makes a rename to `path` last. Systems that cannot open a folder (Windows) do so by themselves.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// What an interrupted writer left.
#[derive(Clone, Debug, PartialEq)]
pub struct Leftover {
    pub path: PathBuf,
    /// name of the file or folder it was to become
    pub name: String,
    pub process: u32,
}

impl Leftover {
    /// Does the writer still run? Where processes are not listed under `/proc`, nobody else is thought to.
    pub fn alive(&self) -> bool {
        self.process == std::process::id() || Path::new("/proc").join(self.process.to_string()).exists()
    }
    pub fn remove(&self) {
        let _ = if self.path.is_dir() { fs::remove_dir_all(&self.path) } else { fs::remove_file(&self.path) };
    }
}

/// Entries of `folder` whose hidden name came from [`partial`], with `suffix` in place of `.partial`.
pub fn leftovers(folder: &Path, suffix: &str) -> Vec<Leftover> {
    let parse = |path: PathBuf| {
        let hidden = path.file_name()?.to_str()?.strip_prefix('.')?.strip_suffix(suffix)?;
        let (name, writer) = hidden.rsplit_once('.')?;
        let (process, count) = writer.split_once('-')?;
        count.parse::<u64>().ok()?;
        Some(Leftover { name: name.into(), process: process.parse().ok()?, path })
    };
    fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|e| parse(e.path())).collect()
}

/// Removes the leftovers of `folder` whose writer is gone.
pub fn sweep(folder: &Path) {
    leftovers(folder, PARTIAL).iter().filter(|l| !l.alive()).for_each(Leftover::remove);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_old_or_new_and_nothing_stays_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        replace(&path, b"1").unwrap();
        replace(&path, b"22").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"22");
        assert!(replace(&folder.path().join("no/such"), b"").is_err());
        fs::create_dir(folder.path().join("taken")).unwrap();
        assert!(replace(&folder.path().join("taken"), b"").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn only_what_a_dead_writer_left_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let mine = partial(&folder.path().join("mine.json"));
        // above the largest process id of any system
        let dead = folder.path().join(format!(".status.json.{}-3.partial", u32::MAX));
        for path in [&mine, &dead, &folder.path().join(".hidden"), &folder.path().join(".a.b-c.partial")] {
            fs::write(path, "x").unwrap();
        }
        let found = leftovers(folder.path(), PARTIAL);
        let find = |name: &str| found.iter().find(|l| l.name == name).unwrap();
        assert_eq!((found.len(), find("status.json").process), (2, u32::MAX));
        assert_eq!((find("mine.json").path.clone(), find("mine.json").alive()), (mine.clone(), true));
        sweep(folder.path());
        assert!(mine.exists() && (!dead.exists() || !cfg!(target_os = "linux")));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
