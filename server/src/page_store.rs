//! Models in the page's format, made when somebody first opens them there and kept in `page/` of the data folder under
//! a name that follows from the model's place and time: int8 rows, or 4-bit blocks where those would be too large.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use hilda_engine::model::export::{ExportError, to_page};
use hilda_engine::model::page::Fit;
use sha2::{Digest, Sha256};

use crate::library;
use crate::models::ModelError;
use crate::storage::DataDir;

/// Folders that are kept.
const KEEP: usize = 6;

/// One conversion at a time.
#[derive(Default)]
pub struct PageStore(Mutex<()>);

/// A name for what lies at `place` now: another one after it was replaced.
pub fn fingerprint(place: &Path) -> String {
    let changed = std::fs::metadata(place).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let since = changed.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    hex::encode(&Sha256::digest(format!("{}\n{since}", place.display()))[..12])
}

impl PageStore {
    /// The folder with the pieces of the model at `place`.
    ///
    /// Errors: a model that is too large for the page or does not read; a disk that is full.
    pub fn folder(&self, data: &DataDir, name: &str, place: &Path) -> Result<PathBuf, ModelError> {
        let unusable = |message: String| ModelError::Unusable { name: name.into(), message };
        let store = data.root().join("page");
        let folder = store.join(fingerprint(place));
        let _one = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if folder.is_dir() {
            return Ok(folder);
        }
        let (config, ..) = library::head(place).map_err(|e| unusable(e.to_string()))?;
        let fit = Fit::new(&config);
        if !fit.fits {
            return Err(ModelError::TooLarge { name: name.into(), fit: fit.to_string() });
        }
        hilda_engine::files::sweep(&store);
        let (model, tokenizer) = library::open(place).map_err(|e| unusable(e.to_string()))?;
        to_page(&model, &tokenizer, fit.dtype, &folder, |_| Ok::<_, ExportError>(vec![]))
            .map_err(|e| unusable(e.to_string()))?;
        prune(&store, &folder);
        Ok(folder)
    }
}

/// Removes all but the folders made last.
fn prune(store: &Path, newest: &Path) {
    let made = |p: &Path| std::fs::metadata(p).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let entries = std::fs::read_dir(store).into_iter().flatten().flatten().map(|e| e.path());
    let mut folders: Vec<PathBuf> = entries.filter(|p| p.is_dir() && p != newest).collect();
    folders.sort_by_key(|p| std::cmp::Reverse(made(p)));
    for old in folders.iter().skip(KEEP - 1) {
        // whoever reads from it meanwhile has its files open, or asks again
        let _ = std::fs::remove_dir_all(old);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folders_made_last_stay() {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..KEEP + 3 {
            std::fs::create_dir(dir.path().join(i.to_string())).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(15));
        }
        prune(dir.path(), &dir.path().join("0"));
        let names = std::fs::read_dir(dir.path()).unwrap().flatten().map(|e| e.file_name());
        let mut names: Vec<String> = names.filter_map(|n| n.into_string().ok()).collect();
        names.sort();
        assert_eq!(names, ["0", "4", "5", "6", "7", "8"]);
    }

    #[test]
    fn another_time_is_another_name() {
        let dir = tempfile::tempdir().unwrap();
        let before = fingerprint(dir.path());
        assert_eq!(before, fingerprint(dir.path()));
        std::thread::sleep(std::time::Duration::from_millis(15));
        std::fs::write(dir.path().join("x"), "").unwrap();
        assert_ne!(before, fingerprint(dir.path()));
    }
}
