//! Results of `hilda decode-bench` that the dashboard shows: `decoders/NAME/` in the data folder, with `results.json`,
//! `results.csv` and `index.html`.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::storage::{DataDir, valid_id};

/// A result longer than this is not read: `hilda decode-bench` keeps 16 MiB of recordings at most.
const MOST_BYTES: u64 = 64 << 20;

/// One result in the list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    pub name: String,
    pub model: String,
    pub judge: String,
    /// prompts of each point
    pub texts: u64,
    pub points: usize,
}

/// What the list reads of a result.
#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    model: String,
    #[serde(default)]
    judge: String,
    #[serde(default)]
    texts: u64,
    points: Vec<serde::de::IgnoredAny>,
}

/// Where the result called `name` lies; `None` if it is no name.
pub fn folder(data: &DataDir, name: &str) -> Option<PathBuf> {
    valid_id(name).then(|| data.root().join("decoders").join(name))
}

fn read(data: &DataDir, name: &str) -> Option<Vec<u8>> {
    let path = folder(data, name)?.join("results.json");
    let fits = fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() <= MOST_BYTES);
    fits.then(|| fs::read(path).ok()).flatten()
}

/// All results by name; folders that do not read are left out.
pub fn list(data: &DataDir) -> Vec<Entry> {
    let entries = fs::read_dir(data.root().join("decoders")).into_iter().flatten().flatten();
    let mut all: Vec<Entry> = entries
        .filter_map(|e| {
            let name = e.file_name().into_string().ok()?;
            let head: Head = serde_json::from_slice(&read(data, &name)?).ok()?;
            let Head { model, judge, texts, points } = head;
            Some(Entry { name, model, judge, texts, points: points.len() })
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// A whole result.
pub fn load(data: &DataDir, name: &str) -> Option<Value> {
    serde_json::from_slice(&read(data, name)?).ok()
}
