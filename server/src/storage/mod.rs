//! The data folder: `runs/ID/`, `trash/ID/`, `shares/SLUG.json`, `corpora/`, `models/ORG/NAME/`, `page/` (models as the page
//! loads them, made again when they are missing), `hilda.sqlite` (an index, rebuilt from
//! the run folders when it is missing), `server.lock` (held by the one server of this folder).
//!
//! Every name that comes from a person passes [`valid_id`] or [`valid_slug`] before it becomes part of a path.

pub mod index;
pub mod ingest;
pub mod run;
pub mod shares;
pub mod trash;

use std::{
    fs, io,
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

pub use index::Index;
pub use run::{Job, RunFolder};

/// What can go wrong on disk, with the name of the thing it happened to.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("{what} {path}: {source}")]
    Io { what: &'static str, path: String, source: io::Error },
    #[error("{path} does not read as {what}: {message}")]
    Format { path: String, what: &'static str, message: String },
    #[error(
        "the data folder {path} is already served by {holder}; stop that server or choose another --data-dir"
    )]
    Served { path: String, holder: String },
    #[error("no run \"{0}\"")]
    NoRun(String),
    #[error(
        "\"{0}\" is not a run id: 1 to 100 letters, digits, '-', '_' or '.', starting with a letter or digit"
    )]
    BadId(String),
    #[error("index: {0}")]
    Index(#[from] rusqlite::Error),
    #[error("{0}")]
    Conflict(String),
}

pub(crate) fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let path = path.display().to_string();
    move |source| StorageError::Io { what, path, source }
}

/// True for names that are safe as one path component and look like a run's.
pub fn valid_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= 100
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && id.as_bytes()[0].is_ascii_alphanumeric()
        && !id.contains("..")
}

/// True for what [`random_slug`] makes: 26 letters and digits.
pub fn valid_slug(slug: &str) -> bool {
    slug.len() == SLUG_LEN && slug.bytes().all(|b| SLUG_ALPHABET.contains(&b))
}

/// 32 symbols that cannot be mistaken for each other.
const SLUG_ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
const SLUG_LEN: usize = 26;

fn random_symbols(n: usize) -> String {
    let mut bytes = vec![0u8; n];
    getrandom::fill(&mut bytes).expect("the operating system's randomness");
    bytes.iter().map(|b| SLUG_ALPHABET[(b & 31) as usize] as char).collect()
}

/// An unguessable name: 26 symbols of 5 bits each, 130 bits.
pub fn random_slug() -> String {
    random_symbols(SLUG_LEN)
}

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map(|d| d.as_secs_f64()).unwrap_or(0.0)
}

/// Year, month, day, hour, minute, second (UTC) of a Unix time (proleptic Gregorian, by era of 400 years).
pub fn civil(unix: f64) -> (i64, u32, u32, u32, u32, u32) {
    let s = unix.floor() as i64;
    let (days, rest) = (s.div_euclid(86400), s.rem_euclid(86400));
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = (doy - (153 * mp + 2) / 5 + 1) as u32;
    let month = if mp < 10 { mp + 3 } else { mp - 9 } as u32;
    let year = yoe + era * 400 + i64::from(month <= 2);
    (year, month, day, (rest / 3600) as u32, (rest / 60 % 60) as u32, (rest % 60) as u32)
}

/// "2026-11-24 13:05 UTC"
pub fn date_text(unix: f64) -> String {
    let (y, m, d, h, min, _) = civil(unix);
    format!("{y:04}-{m:02}-{d:02} {h:02}:{min:02} UTC")
}

/// A run id from the recipe's name: `name-YYYYMMDD-HHMM-xxxx` (UTC, 20 random bits).
pub fn new_run_id(name: &str) -> String {
    let (y, m, d, h, min, _) = civil(now());
    let name: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-_".contains(c) { c.to_ascii_lowercase() } else { '-' })
        .take(60)
        .collect();
    let name = name.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    let name = if name.is_empty() { "run" } else { name };
    format!("{name}-{y:04}{m:02}{d:02}-{h:02}{min:02}-{}", random_symbols(4))
}

/// [`hilda_engine::files::replace`]
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    hilda_engine::files::replace(path, bytes).map_err(io_error("writing", path))
}

/// Bytes of everything under a folder; links are not followed.
pub fn folder_bytes(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .map(|e| match e.file_type() {
            Ok(t) if t.is_dir() => folder_bytes(&e.path()),
            Ok(t) if t.is_file() => e.metadata().map(|m| m.len()).unwrap_or(0),
            _ => 0,
        })
        .sum()
}

/// (total, free) bytes of the file system that holds `path`; the nearest existing parent counts.
pub fn disk_space(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::ffi::OsStrExt;
    let existing = path.ancestors().find(|p| p.exists())?;
    let c = std::ffi::CString::new(existing.as_os_str().as_bytes()).ok()?;
    let mut s: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `c` is NUL-terminated and `s` is a valid, writable statvfs.
    if unsafe { libc::statvfs(c.as_ptr(), &mut s) } != 0 {
        return None;
    }
    #[allow(clippy::unnecessary_cast)]
    Some((s.f_blocks as u64 * s.f_frsize as u64, s.f_bavail as u64 * s.f_frsize as u64))
}

/// The data folder.
#[derive(Clone, Debug)]
pub struct DataDir {
    root: PathBuf,
}

impl DataDir {
    /// Creates what is missing.
    pub fn open(root: &Path) -> Result<DataDir, StorageError> {
        for sub in ["runs", "trash", "shares", "corpora"] {
            let p = root.join(sub);
            fs::create_dir_all(&p).map_err(io_error("creating", &p))?;
        }
        let root = root.canonicalize().map_err(io_error("opening", root))?;
        Ok(DataDir { root })
    }
    pub fn root(&self) -> &Path {
        &self.root
    }
    pub fn runs(&self) -> PathBuf {
        self.root.join("runs")
    }
    pub fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }
    pub fn shares(&self) -> PathBuf {
        self.root.join("shares")
    }
    pub fn corpora(&self) -> PathBuf {
        self.root.join("corpora")
    }
    /// The folder of an existing run.
    pub fn run(&self, id: &str) -> Result<RunFolder, StorageError> {
        if !valid_id(id) {
            return Err(StorageError::BadId(id.chars().take(120).collect()));
        }
        let path = self.runs().join(id);
        if !path.join("run.toml").is_file() {
            return Err(StorageError::NoRun(id.into()));
        }
        Ok(RunFolder::new(id, path))
    }
    /// Ids of all runs, in no particular order.
    pub fn run_ids(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.runs()) else { return vec![] };
        entries
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .filter(|id| valid_id(id) && self.runs().join(id).join("run.toml").is_file())
            .collect()
    }
    /// Takes the folder for one server. The lock goes with the returned file.
    pub fn lock_for_server(&self, address: &str) -> Result<fs::File, StorageError> {
        let path = self.root.join("server.lock");
        let mut f = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(io_error("opening", &path))?;
        if f.try_lock().is_err() {
            let mut holder = String::new();
            let _ = f.read_to_string(&mut holder);
            let holder = holder.trim();
            let holder = if holder.is_empty() { "another server" } else { holder };
            return Err(StorageError::Served {
                path: self.root.display().to_string(),
                holder: holder.to_string(),
            });
        }
        let text = format!("process {} on {address}\n", std::process::id());
        (|| {
            f.set_len(0)?;
            f.rewind()?;
            f.write_all(text.as_bytes())
        })()
        .map_err(io_error("writing", &path))?;
        Ok(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_cannot_leave_the_folder() {
        for bad in
            ["", ".", "..", "a/b", "../x", "a..b", "-a", ".a", "a\\b", "a\0b", "é", "a b", &"a".repeat(101)]
        {
            assert!(!valid_id(bad), "{bad:?}");
        }
        for good in ["a", "demo-20261124-1305-ab2k", "A.b_c-1"] {
            assert!(valid_id(good), "{good}");
        }
    }

    proptest! {
        #[test]
        fn ids_made_here_are_valid(name in ".{0,90}") {
            prop_assert!(valid_id(&new_run_id(&name)), "{}", new_run_id(&name));
        }
        #[test]
        fn a_valid_id_is_one_path_component(id in "[a-zA-Z0-9._/\\\\-]{0,12}") {
            if valid_id(&id) {
                prop_assert_eq!(Path::new("/x").join(&id).components().count(), 3);
                prop_assert!(Path::new("/x").join(&id).parent() == Some(Path::new("/x")));
            }
        }
        #[test]
        fn days_advance_by_one(day in -100_000i64..100_000) {
            let (y, m, d, ..) = civil(day as f64 * 86400.0);
            let (y2, m2, d2, ..) = civil((day + 1) as f64 * 86400.0);
            prop_assert!((y2, m2, d2) > (y, m, d));
            prop_assert!((1..=12).contains(&m) && (1..=31).contains(&d));
        }
    }

    #[test]
    fn known_dates() {
        assert_eq!(civil(0.0), (1970, 1, 1, 0, 0, 0));
        assert_eq!(civil(951_782_400.0), (2000, 2, 29, 0, 0, 0));
        assert_eq!(date_text(1_795_525_500.0), "2026-11-24 13:05 UTC");
    }

    #[test]
    fn slugs_are_unguessable_and_distinct() {
        let a: std::collections::HashSet<_> = (0..200).map(|_| random_slug()).collect();
        assert_eq!(a.len(), 200);
        assert!(a.iter().all(|s| valid_slug(s)));
        const { assert!(SLUG_LEN * 5 >= 128) }
    }

    #[test]
    fn one_server_per_folder() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let held = data.lock_for_server("http://127.0.0.1:1").unwrap();
        let e = data.lock_for_server("http://127.0.0.1:2").unwrap_err().to_string();
        assert!(e.contains("127.0.0.1:1") && e.contains("--data-dir"), "{e}");
        drop(held);
        data.lock_for_server("x").unwrap();
    }
}
