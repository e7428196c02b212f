//! Corpora being written, and what writers that were killed left in the folder of corpora.
//!
//! Everyone who writes there holds `.lock` shared; who gets it alone knows that nobody writes, so every hidden name is
//! a leftover: a half-written corpus or cache is removed, a corpus that was moved aside to be replaced is put back.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::DataError;
use crate::files::{PARTIAL, leftovers, partial, sync_folder};

/// Suffix of a corpus that was moved aside.
const OLD: &str = ".old";

/// Held while something is written under the folder of corpora.
pub struct Writing {
    _lock: Option<File>,
}

fn lock_file(folder: &Path) -> std::io::Result<File> {
    File::options().create(true).truncate(false).write(true).open(folder.join(".lock"))
}

impl Writing {
    /// Cleans up if nobody else writes. A file system without locks is no obstacle to writing.
    pub fn begin(folder: &Path) -> Result<Writing, DataError> {
        fs::create_dir_all(folder).map_err(DataError::io(folder))?;
        clean(folder);
        let lock = lock_file(folder).ok().filter(|l| l.lock_shared().is_ok());
        Ok(Writing { _lock: lock })
    }
}

/// Removes what killed writers left, unless somebody writes at this moment.
pub fn clean(folder: &Path) {
    if !folder.is_dir() {
        return;
    }
    let Ok(lock) = lock_file(folder) else { return };
    if lock.try_lock().is_err() {
        return;
    }
    for old in leftovers(folder, OLD) {
        let target = folder.join(&old.name);
        if target.exists() || fs::rename(&old.path, &target).is_err() {
            old.remove();
        }
    }
    let inside = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    for place in inside.filter(|p| p.is_dir()).chain([folder.to_path_buf()]) {
        leftovers(&place, PARTIAL).iter().for_each(|l| l.remove());
    }
}

/// A folder that disappears unless it is published.
pub struct Partial(pub PathBuf);

impl Partial {
    pub fn new(folder: &Path, name: &str) -> Result<Self, DataError> {
        let partial = partial(&folder.join(name));
        let _ = fs::remove_dir_all(&partial);
        fs::create_dir(&partial).map_err(DataError::io(&partial))?;
        Ok(Partial(partial))
    }

    /// Takes the name; a corpus that had it is moved aside first and put back if that fails.
    pub fn publish(self, target: &Path) -> Result<(), DataError> {
        let old = self.0.with_extension(&OLD[1..]);
        let replaced = target.exists();
        if replaced {
            fs::rename(target, &old).map_err(DataError::io(target))?;
        }
        if let Err(e) = fs::rename(&self.0, target) {
            if replaced {
                let _ = fs::rename(&old, target);
            }
            return Err(DataError::io(target)(e));
        }
        sync_folder(target).map_err(DataError::io(target))?;
        if replaced {
            fs::remove_dir_all(&old).map_err(DataError::io(&old))?;
        }
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_go_once_nobody_writes_and_a_corpus_moved_aside_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        let make = |name: &str| {
            fs::create_dir_all(folder.join(name)).unwrap();
            fs::write(folder.join(name).join("corpus.json"), name).unwrap();
        };
        // killed while writing; between the two renames of a replacement; after them
        [".new.7-0.partial", ".lost.8-1.old", ".lost.8-1.partial", ".kept.9-2.old", "kept", ".cache"]
            .into_iter()
            .for_each(make);
        for file in [".cache/.a.tokens.7-3.partial", "kept/.corpus.json.7-4.partial"] {
            fs::write(folder.join(file), "x").unwrap();
        }
        let writer = lock_file(folder).unwrap();
        writer.lock_shared().unwrap();
        clean(folder);
        assert!(folder.join(".new.7-0.partial").exists(), "somebody writes");
        drop(writer);
        let held = Writing::begin(folder).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, [".cache", ".lock", "kept", "lost"]);
        assert_eq!(fs::read(folder.join("lost/corpus.json")).unwrap(), b".lost.8-1.old");
        assert_eq!(fs::read(folder.join("kept/corpus.json")).unwrap(), b"kept");
        assert_eq!(fs::read_dir(folder.join("kept")).unwrap().count(), 1);
        assert_eq!(fs::read_dir(folder.join(".cache")).unwrap().count(), 1);
        // two writers do not wait for each other
        let second = Writing::begin(folder).unwrap();
        drop((held, second));
    }
}
