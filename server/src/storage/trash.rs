//! Deleted runs wait in `trash/ID/` for seven days, beside `trash/ID.json` with the time of deletion.

use std::fs;

use serde::{Deserialize, Serialize};

use super::{DataDir, RunFolder, StorageError, io_error, now, valid_id, write_atomic};

/// Seconds that a deleted run can still be brought back.
pub const KEEP_SECONDS: f64 = 7.0 * 86400.0;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trashed {
    /// Unix seconds
    pub deleted: f64,
    /// removed for good after this, Unix seconds
    pub until: f64,
}

/// Moves a run to the trash. Nobody may be training it.
pub fn discard(data: &DataDir, run: &RunFolder) -> Result<Trashed, StorageError> {
    let time = now();
    let entry = Trashed { deleted: time, until: time + KEEP_SECONDS };
    let to = data.trash().join(&run.id);
    let note = data.trash().join(format!("{}.json", run.id));
    write_atomic(&note, &serde_json::to_vec(&entry).expect("plain data"))?;
    fs::rename(&run.path, &to).map_err(io_error("moving to the trash", &run.path))?;
    Ok(entry)
}

/// Brings a run back.
pub fn restore(data: &DataDir, id: &str) -> Result<RunFolder, StorageError> {
    if !valid_id(id) {
        return Err(StorageError::BadId(id.chars().take(120).collect()));
    }
    let from = data.trash().join(id);
    if !from.is_dir() {
        return Err(StorageError::NoRun(id.into()));
    }
    let to = data.runs().join(id);
    if to.exists() {
        return Err(StorageError::Conflict(format!("a run \"{id}\" exists already")));
    }
    fs::rename(&from, &to).map_err(io_error("restoring", &from))?;
    let _ = fs::remove_file(data.trash().join(format!("{id}.json")));
    Ok(RunFolder::new(id, to))
}

/// Removes what has been in the trash for more than seven days. A folder whose note is missing counts from now.
pub fn purge(data: &DataDir, time: f64) -> Result<Vec<String>, StorageError> {
    let dir = data.trash();
    let mut gone = vec![];
    for e in fs::read_dir(&dir).map_err(io_error("reading", &dir))?.flatten() {
        let Ok(id) = e.file_name().into_string() else { continue };
        if !valid_id(&id) || !e.path().is_dir() {
            continue;
        }
        let note = dir.join(format!("{id}.json"));
        let until =
            fs::read(&note).ok().and_then(|b| serde_json::from_slice::<Trashed>(&b).ok()).map(|t| t.until);
        match until {
            Some(u) if u <= time => {
                fs::remove_dir_all(e.path()).map_err(io_error("emptying the trash", &e.path()))?;
                let _ = fs::remove_file(note);
                gone.push(id);
            }
            Some(_) => {}
            None => {
                let entry = Trashed { deleted: time, until: time + KEEP_SECONDS };
                write_atomic(&note, &serde_json::to_vec(&entry).expect("plain data"))?;
            }
        }
    }
    Ok(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deleted_runs_come_back_or_go_after_a_week() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let make = |id: &str| {
            fs::create_dir_all(data.runs().join(id)).unwrap();
            fs::write(data.runs().join(id).join("run.toml"), "x").unwrap();
            data.run(id).unwrap()
        };
        let t = discard(&data, &make("a")).unwrap();
        assert!(data.run("a").is_err());
        assert!(purge(&data, t.until - 1.0).unwrap().is_empty());
        assert_eq!(fs::read_to_string(restore(&data, "a").unwrap().path.join("run.toml")).unwrap(), "x");
        assert!(matches!(restore(&data, "a"), Err(StorageError::NoRun(_))));
        let t = discard(&data, &data.run("a").unwrap()).unwrap();
        make("a");
        assert!(matches!(restore(&data, "a"), Err(StorageError::Conflict(_))));
        assert_eq!(purge(&data, t.until + 1.0).unwrap(), ["a"]);
        assert_eq!(fs::read_dir(data.trash()).unwrap().count(), 0);
        assert!(data.run("a").is_ok(), "the new run of the same name stays");
        assert!(matches!(restore(&data, "../runs/a"), Err(StorageError::BadId(_))));
    }
}
