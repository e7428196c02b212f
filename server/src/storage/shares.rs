//! Shared results: `shares/SLUG.json`. The slug is the only key to a result, so it carries 130 random bits; the
//! result itself is read from the run whenever somebody looks.

use std::fs;

use serde::{Deserialize, Serialize};

use super::{DataDir, StorageError, io_error, now, random_slug, valid_slug, write_atomic};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    pub slug: String,
    /// id of the run
    pub run: String,
    pub title: String,
    #[serde(default)]
    pub note: String,
    /// Unix seconds
    pub created: f64,
}

pub fn create(data: &DataDir, run: &str, title: &str, note: &str) -> Result<Share, StorageError> {
    let share = Share {
        slug: random_slug(),
        run: run.into(),
        title: title.into(),
        note: note.into(),
        created: now(),
    };
    let path = data.shares().join(format!("{}.json", share.slug));
    write_atomic(&path, &serde_json::to_vec_pretty(&share).expect("plain data"))?;
    Ok(share)
}

/// `None` for slugs that were never made or were revoked, and for strings that are no slugs.
pub fn get(data: &DataDir, slug: &str) -> Option<Share> {
    if !valid_slug(slug) {
        return None;
    }
    serde_json::from_slice(&fs::read(data.shares().join(format!("{slug}.json"))).ok()?).ok()
}

/// Newest first.
pub fn list(data: &DataDir) -> Vec<Share> {
    let Ok(entries) = fs::read_dir(data.shares()) else { return vec![] };
    let mut all: Vec<Share> =
        entries.flatten().filter_map(|e| get(data, e.file_name().to_str()?.strip_suffix(".json")?)).collect();
    all.sort_by(|a, b| b.created.total_cmp(&a.created).then_with(|| a.slug.cmp(&b.slug)));
    all
}

/// Makes the link dead. False if there was none.
pub fn revoke(data: &DataDir, slug: &str) -> Result<bool, StorageError> {
    if get(data, slug).is_none() {
        return Ok(false);
    }
    let path = data.shares().join(format!("{slug}.json"));
    fs::remove_file(&path).map_err(io_error("revoking", &path))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_lives_until_it_is_revoked() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let s = create(&data, "run", "Title", "").unwrap();
        let found = get(&data, &s.slug).unwrap();
        assert_eq!((&found.slug, &found.run, &found.title), (&s.slug, &s.run, &s.title));
        assert_eq!(list(&data).iter().map(|s| &s.slug).collect::<Vec<_>>(), [&s.slug]);
        assert!(get(&data, "../server").is_none());
        assert!(get(&data, &s.slug.to_uppercase()).is_none());
        assert!(revoke(&data, &s.slug).unwrap());
        assert!(!revoke(&data, &s.slug).unwrap());
        assert!(get(&data, &s.slug).is_none());
    }
}
