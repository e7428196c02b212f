//! The asset graph: which file mentions which, and under which hashed name each one ends.
//!
//! A file of `public/` that another file mentions (`"/style.css"`, `'./worker.js'`, `url(icon.svg)`) moves to
//! `assets/NAME-HASH.EXT`, where HASH is taken over its final bytes, and every mention is rewritten. Because a file's
//! bytes hold the names of the files it mentions, files are finished in dependency order; a cycle is an error.
//! Files nobody mentions keep their place, so that `/models/...` or `/robots.txt` stay where people expect them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use sha2::{Digest, Sha256};

/// Path in `dist/` (forward slashes, no leading one) to content.
pub type Files = BTreeMap<String, Vec<u8>>;

/// First 12 hex digits of the SHA-256 of `bytes`: 48 bits, enough to tell versions of one file apart.
pub fn short_hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// `worker.js` and its content to `assets/worker-HASH.js`.
pub fn hashed_name(path: &str, bytes: &[u8]) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let (stem, extension) = file.rsplit_once('.').unwrap_or((file, "bin"));
    format!("assets/{stem}-{}.{extension}", short_hash(bytes))
}

fn extension(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(_, extension)| extension)
}

/// Files whose text may mention others.
fn is_text(path: &str) -> bool {
    matches!(extension(path), "html" | "js" | "mjs" | "css")
}

/// Files that may move under `assets/`. Model files are addressed by name and never move.
fn may_move(path: &str) -> bool {
    !path.starts_with("models/")
        && matches!(
            extension(path),
            "js" | "mjs" | "css" | "wasm" | "svg" | "png" | "ico" | "webp" | "jpg" | "woff2"
        )
}

/// A mention of `target` in a text: byte range of the path, and whether it was written from the root (`/x`).
struct Mention {
    start: usize,
    end: usize,
    absolute: bool,
}

/// Every place where `text` names `target` between quotes, parentheses or `?`/`#` suffixes.
fn mentions(text: &str, target: &str) -> Vec<Mention> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(offset) = text[from..].find(target) {
        let name = from + offset;
        from = name + target.len();
        let closed = bytes.get(from).is_some_and(|b| matches!(b, b'"' | b'\'' | b'`' | b')' | b'?' | b'#'));
        let (start, absolute) = match &text[..name] {
            before if before.ends_with("./") && !before.ends_with("../") => (name - 2, false),
            before if before.ends_with('/') => (name - 1, true),
            _ => (name, false),
        };
        let opened = start > 0 && matches!(bytes[start - 1], b'"' | b'\'' | b'`' | b'(');
        if closed && opened {
            found.push(Mention { start, end: from, absolute });
        }
    }
    found
}

/// How a file at `from` writes the address of the file at `to`.
fn address(from: &str, to: &str, absolute: bool) -> String {
    if absolute {
        return format!("/{to}");
    }
    match (from.starts_with("assets/"), to.strip_prefix("assets/")) {
        (true, Some(name)) => format!("./{name}"),
        (true, None) => format!("../{to}"),
        (false, _) => format!("./{to}"),
    }
}

/// Rewrites every mention in `text`, which will live at `place`, to the final names in `renamed`.
fn rewrite(text: &str, place: &str, renamed: &BTreeMap<String, String>) -> String {
    let mut out = text.to_owned();
    for (old, new) in renamed {
        for mention in mentions(&out, old).into_iter().rev() {
            out.replace_range(mention.start..mention.end, &address(place, new, mention.absolute));
        }
    }
    out
}

/// Gives mentioned files their hashed names and rewrites every mention.
///
/// `files` holds sources under their plain names; the answer holds the same files under their final names.
/// Errors: files that mention each other in a circle.
pub fn hash_names(files: Files) -> Result<Files> {
    let texts: BTreeMap<&String, &str> = files
        .iter()
        .filter(|(path, _)| is_text(path))
        .filter_map(|(path, bytes)| Some((path, std::str::from_utf8(bytes).ok()?)))
        .collect();
    let movable: Vec<&String> = files.keys().filter(|path| may_move(path)).collect();
    let uses: BTreeMap<&String, BTreeSet<&String>> = texts
        .iter()
        .map(|(path, text)| {
            let used = movable.iter().copied().filter(|t| t != path && !mentions(text, t).is_empty());
            (*path, used.collect())
        })
        .collect();
    let moved: BTreeSet<&String> = uses.values().flatten().copied().collect();

    let mut renamed: BTreeMap<String, String> = BTreeMap::new();
    let mut done: Files = Files::new();
    let mut waiting: Vec<&String> = files.keys().collect();
    while !waiting.is_empty() {
        let ready = |path: &&String| {
            uses.get(*path).is_none_or(|used| used.iter().all(|name| renamed.contains_key(*name)))
        };
        let (now, later): (Vec<&String>, Vec<&String>) = waiting.into_iter().partition(ready);
        if now.is_empty() {
            bail!("these files mention each other in a circle: {later:?}");
        }
        for path in now {
            let moves = moved.contains(path);
            // The place matters for relative mentions only, and those depend on the folder alone.
            let place = if moves { "assets/" } else { path };
            let bytes = match texts.get(path) {
                Some(text) => rewrite(text, place, &renamed).into_bytes(),
                None => files[path].clone(),
            };
            let name = if moves { hashed_name(path, &bytes) } else { path.clone() };
            if moves {
                renamed.insert(path.clone(), name.clone());
            }
            done.insert(name, bytes);
        }
        waiting = later;
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        list.iter().map(|(path, text)| (path.to_string(), text.as_bytes().to_vec())).collect()
    }

    fn text(files: &Files, start: &str) -> (String, String) {
        let (path, bytes) = files.iter().find(|(path, _)| path.starts_with(start)).expect(start);
        (path.clone(), String::from_utf8(bytes.clone()).unwrap())
    }

    #[test]
    fn mentioned_files_move_and_every_mention_follows() {
        let out = hash_names(files(&[
            ("index.html", r#"<link href="/style.css"><script src="/boot.js"></script>"#),
            ("boot.js", "import x from './app.js'; new Worker(new URL('./worker.js', import.meta.url))"),
            ("worker.js", "import './app.js'"),
            ("app.js", "let a = 1"),
            ("style.css", "a{background:url(icon.svg)}"),
            ("icon.svg", "<svg/>"),
            ("robots.txt", "x"),
            ("models/m/config.json", "{}"),
        ]))
        .unwrap();
        let (worker, worker_text) = text(&out, "assets/worker-");
        let (app, _) = text(&out, "assets/app-");
        let (boot, boot_text) = text(&out, "assets/boot-");
        let (_, html) = text(&out, "index.html");
        let (icon, _) = text(&out, "assets/icon-");
        assert!(html.contains(&format!("src=\"/{boot}\"")), "{html}");
        assert!(boot_text.contains(&worker.replace("assets/", "./")), "{boot_text}");
        assert_eq!(worker_text, format!("import '{}'", app.replace("assets/", "./")));
        assert!(text(&out, "assets/style-").1.contains(&icon.replace("assets/", "(./")));
        assert!(out.contains_key("robots.txt") && out.contains_key("models/m/config.json"));
        assert_eq!(out.len(), 8);
    }

    #[test]
    fn a_change_in_a_leaf_changes_every_name_above_it() {
        let with = |leaf: &str| {
            hash_names(files(&[("index.html", "\"/a.js\""), ("a.js", "'./b.js'"), ("b.js", leaf)])).unwrap()
        };
        let (one, two) = (with("1"), with("2"));
        assert_ne!(text(&one, "assets/a-").0, text(&two, "assets/a-").0);
        assert_ne!(text(&one, "index.html").1, text(&two, "index.html").1);
    }

    #[test]
    fn longer_names_and_prose_are_not_mentions() {
        assert!(mentions("'./my-app.js' and app.js in prose", "app.js").is_empty());
        assert!(mentions("'../app.js'", "app.js").is_empty());
        assert_eq!(mentions("'./app.js' \"/app.js?v\" (app.js)", "app.js").len(), 3);
    }

    #[test]
    fn a_circle_is_an_error() {
        let circle = files(&[("a.js", "'./b.js'"), ("b.js", "'./a.js'")]);
        assert!(hash_names(circle).unwrap_err().to_string().contains("circle"));
    }
}
