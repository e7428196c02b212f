//! A model from the hub: which files, at which commit, checked, and whole or absent.
//!
//! Files arrive in `models/ORG/.NAME.download/`, each beside its place until it is whole; an interrupted pull goes on
//! there. What arrived is held against the sizes and SHA-256 sums that the hub lists, and only then the folder gets its
//! name. `hub.json` in it says what it is. Weights that could run code (pickles) are never fetched.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::hub::{self, HubError, HubFile, Kind};
use crate::library;
use crate::storage::write_atomic;

/// What a pulled folder says about itself.
pub const MANIFEST: &str = "hub.json";

/// Files beside the weights that a model consists of.
const BESIDE: [&str; 9] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "README.md",
    "LICENSE",
    "model.safetensors.index.json",
];

/// One file of a repository.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listed {
    pub path: String,
    pub size: Option<u64>,
    pub sha256: Option<String>,
}

/// Where a folder came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub repository: String,
    pub revision: String,
    /// the commit that the revision was
    pub commit: String,
    pub files: Vec<Listed>,
}

/// What to fetch.
pub struct Request<'a> {
    pub base: &'a str,
    pub repository: &'a str,
    pub revision: &'a str,
    /// one GGUF file instead of the folder
    pub file: Option<&'a str>,
    /// replace what is there from another commit
    pub replace: bool,
}

fn content(repository: &str, message: impl Into<String>) -> HubError {
    HubError::Content { repository: repository.into(), message: message.into() }
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> HubError {
    let path = path.display().to_string();
    move |source| HubError::Io { path, source }
}

/// Fetches a model and gives its folder. `progress(file, received, total)` is called now and then.
///
/// Errors: no network, no such repository, one that is gated, one without safetensors, a file that did not arrive whole
/// or with another sum. Whatever is wrong, no folder of the model's name appears.
pub fn pull(
    data: &Path,
    r: &Request,
    mut progress: impl FnMut(&str, u64, u64),
) -> Result<(PathBuf, Manifest), HubError> {
    let to = library::folder(data, r.repository)
        .ok_or_else(|| content(r.repository, "is not a name of the form ORG/NAME"))?;
    if !plain(r.revision) || r.revision.contains('/') {
        return Err(content(r.repository, format!("\"{}\" is no revision", r.revision)));
    }
    let info = hub::model_info(r.base, r.repository, r.revision)?;
    let manifest = choose(r, &info)?;
    if let Some(there) = read_manifest(&to) {
        if there.commit == manifest.commit && there.files == manifest.files {
            return Ok((to, there));
        }
        if !r.replace {
            let message = format!(
                "is here already, from commit {}; --replace fetches {} instead",
                there.commit, manifest.commit
            );
            return Err(content(r.repository, message));
        }
    }
    let name = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let staging = to.with_file_name(format!(".{name}.download"));
    if read_manifest(&staging).is_some_and(|m| m != manifest) {
        fs::remove_dir_all(&staging).map_err(io(&staging))?;
    }
    fs::create_dir_all(&staging).map_err(io(&staging))?;
    let json = serde_json::to_vec_pretty(&manifest).expect("plain data");
    write_atomic(&staging.join(MANIFEST), &json).map_err(|e| content(r.repository, e.to_string()))?;
    for file in &manifest.files {
        let at = staging.join(&file.path);
        let from = HubFile {
            kind: Kind::Model,
            base: r.base.into(),
            repository: r.repository.into(),
            revision: manifest.commit.clone(),
            file: file.path.clone(),
        };
        hub::download(&from, &at, |have, total| {
            progress(&file.path, have, total.max(file.size.unwrap_or(0)))
        })?;
        if let Err(message) = check(&at, file) {
            // what is wrong is not gone on with
            let _ = fs::remove_file(&at);
            return Err(content(
                r.repository,
                format!("{}: {message}; it was removed, run the same command again", file.path),
            ));
        }
    }
    // the old folder steps aside first: at no moment is there a mixture
    if to.exists() {
        let aside = hilda_engine::files::partial(&to);
        fs::rename(&to, &aside).map_err(io(&to))?;
        fs::rename(&staging, &to).map_err(io(&to))?;
        fs::remove_dir_all(&aside).map_err(io(&aside))?;
    } else {
        fs::rename(&staging, &to).map_err(io(&to))?;
    }
    hilda_engine::files::sync_folder(&to).map_err(io(&to))?;
    Ok((to, manifest))
}

/// The manifest of a folder that was pulled whole.
pub fn read_manifest(folder: &Path) -> Option<Manifest> {
    serde_json::from_slice(&fs::read(folder.join(MANIFEST)).ok()?).ok()
}

/// Is this a file's or a revision's name and no way out of a folder or an address?
fn plain(name: &str) -> bool {
    let ok = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    !name.is_empty() && name.len() <= 200 && !name.starts_with('.') && name.chars().all(ok)
}

/// Files of the repository that make up the model.
fn choose(r: &Request, info: &Value) -> Result<Manifest, HubError> {
    let bad = |m: String| content(r.repository, m);
    let commit =
        info["sha"].as_str().filter(|s| plain(s)).ok_or_else(|| bad("its listing names no commit".into()))?;
    let all: Vec<Listed> = info["siblings"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|s| {
            let sum = s["lfs"]["sha256"].as_str().map(str::to_ascii_lowercase);
            let path = s["rfilename"].as_str()?.to_string();
            Some(Listed { path, size: s["size"].as_u64(), sha256: sum })
        })
        .filter(|f| plain(&f.path))
        .collect();
    let gguf = || {
        let names: Vec<&str> = all.iter().map(|f| f.path.as_str()).filter(|p| p.ends_with(".gguf")).collect();
        if names.is_empty() { String::new() } else { format!("; --file takes one of {}", names.join(", ")) }
    };
    let files: Vec<Listed> = match r.file {
        Some(name) => {
            let of_kind = |f: &&Listed| f.path == name && name.ends_with(".gguf");
            let found = all
                .iter()
                .find(of_kind)
                .ok_or_else(|| bad(format!("has no GGUF file \"{name}\"{}", gguf())))?;
            let card = all.iter().filter(|f| f.path == "README.md" || f.path == "LICENSE");
            std::iter::once(found).chain(card).cloned().collect()
        }
        None => {
            let weights = |f: &Listed| {
                f.path == "model.safetensors"
                    || (f.path.starts_with("model-") && f.path.ends_with(".safetensors"))
            };
            if !all.iter().any(weights) {
                return Err(bad(format!(
                    "has no model.safetensors; other formats of weights are not fetched{}",
                    gguf()
                )));
            }
            if !all.iter().any(|f| f.path == "config.json") {
                return Err(bad("has no config.json".into()));
            }
            all.iter().filter(|f| weights(f) || BESIDE.contains(&f.path.as_str())).cloned().collect()
        }
    };
    let (repository, revision) = (r.repository.into(), r.revision.into());
    Ok(Manifest { repository, revision, commit: commit.into(), files })
}

/// Holds a file against its size and sum.
fn check(path: &Path, want: &Listed) -> Result<(), String> {
    let mut file = fs::File::open(path).map_err(|e| e.to_string())?;
    let got = file.metadata().map_err(|e| e.to_string())?.len();
    if let Some(size) = want.size.filter(|s| *s != got) {
        return Err(format!("{got} bytes arrived, the hub lists {size}"));
    }
    let Some(sum) = &want.sha256 else { return Ok(()) };
    let (mut hash, mut buffer) = (Sha256::new(), vec![0u8; 1 << 20]);
    loop {
        match file.read(&mut buffer).map_err(|e| e.to_string())? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    let got = hex::encode(hash.finalize());
    if got == *sum { Ok(()) } else { Err(format!("its SHA-256 is {got}, the hub lists {sum}")) }
}

#[cfg(test)]
mod tests;
