//! `hilda runs publish RUN --out DIR`: a folder that any host serves without special headers.
//!
//! ```text
//! DIR/index.html            list of the published results, plain HTML; with --with-page the page itself
//! DIR/results.html          the list, with --with-page
//! DIR/results.json          the same for programs; a second publish into the folder adds to it
//! DIR/r/SLUG/index.html     the result, self-contained
//! DIR/r/SLUG/result.json    SharedResult
//! DIR/r/SLUG/run.toml       the recipe
//! DIR/r/SLUG/model/         config.json, tokenizer.json, model.safetensors, with --with-model
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{SharedResult, html};
use crate::{
    http::page_files,
    storage::{RunFolder, StorageError, date_text, io_error, write_atomic},
};

/// One line of `results.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub slug: String,
    pub title: String,
    pub run: String,
    /// Unix seconds
    pub created: f64,
}

/// Writes the result; returns its folder.
pub fn publish(
    out: &Path,
    result: &SharedResult,
    run: &RunFolder,
    with_model: bool,
    with_page: bool,
) -> Result<PathBuf, StorageError> {
    let list = out.join("results.json");
    let mut entries: Vec<Entry> = match fs::read(&list) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| StorageError::Format {
            path: list.display().to_string(),
            what: "a list of published results",
            message: e.to_string(),
        })?,
        Err(_) => {
            let taken = fs::read_dir(out).is_ok_and(|mut d| d.next().is_some());
            if taken {
                let message =
                    format!("{} holds other files; name an empty or a published folder", out.display());
                return Err(StorageError::Conflict(message));
            }
            vec![]
        }
    };
    if with_page {
        write_page(out)?;
    }
    let folder = out.join("r").join(&result.slug);
    fs::create_dir_all(&folder).map_err(io_error("creating", &folder))?;
    write_atomic(&folder.join("index.html"), html::page(result).as_bytes())?;
    write_atomic(&folder.join("result.json"), &serde_json::to_vec(result).expect("plain data"))?;
    write_atomic(&folder.join("run.toml"), result.toml.as_bytes())?;
    if with_model {
        let from = run
            .newest_checkpoint()
            .ok_or_else(|| StorageError::Conflict(format!("run {} has no checkpoint yet", run.id)))?;
        let to = folder.join("model");
        fs::create_dir_all(&to).map_err(io_error("creating", &to))?;
        for name in crate::models::FILES {
            let bytes = crate::models::page_file(&from, name)?;
            write_atomic(&to.join(name), &bytes)?;
        }
        crate::models::take_frequencies(&from, &to)?;
    }
    entries.retain(|e| e.slug != result.slug);
    entries.insert(
        0,
        Entry {
            slug: result.slug.clone(),
            title: result.title.clone(),
            run: result.run.id.clone(),
            created: result.created,
        },
    );
    write_atomic(&list, &serde_json::to_vec_pretty(&entries).expect("plain data"))?;
    // a page that was put there once stays the first thing people see
    let name = if out.join("assets").is_dir() { "results.html" } else { "index.html" };
    write_atomic(&out.join(name), index(&entries).as_bytes())?;
    Ok(folder)
}

/// The page as it was built, without its compressed twins (static hosts compress by themselves). A server's page lies at
/// the root of its host; this one lies wherever its `index.html` does.
pub fn write_page(out: &Path) -> Result<(), StorageError> {
    let files = page_files();
    if !files.iter().any(|(p, _)| p == "index.html") {
        let message = "this build has no page to publish; `cargo xtask page` builds it".to_string();
        return Err(StorageError::Conflict(message));
    }
    for (path, bytes) in files.iter().filter(|(p, _)| !p.ends_with(".br") && !p.ends_with(".gz")) {
        let to = out.join(path);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).map_err(io_error("creating", folder))?;
        }
        match path.as_str() {
            "index.html" => {
                let html =
                    String::from_utf8_lossy(bytes).replacen("<base href=\"/\"", "<base href=\"./\"", 1);
                write_atomic(&to, html.as_bytes())?;
            }
            _ => write_atomic(&to, bytes)?,
        }
    }
    Ok(())
}

fn index(entries: &[Entry]) -> String {
    let items: String = entries
        .iter()
        .map(|e| {
            format!(
                "<li><a href=\"r/{}/index.html\">{}</a><br><span class=\"soft\">{}, {}</span></li>",
                html::escape(&e.slug),
                html::escape(&e.title),
                html::escape(&e.run),
                date_text(e.created)
            )
        })
        .collect();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width,initial-scale=1\"><title>HILDA results</title><style>{}</style></head><body>\
         <main><h1>Results</h1><ul>{items}</ul></main></body></html>\n",
        include_str!("style.css")
    )
}
