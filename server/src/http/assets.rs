//! The page: embedded from `dist/` at build time, or read from the folder `HILDA_DIST` names at start.
//!
//! `/assets/*` carry a hash in their names and are immutable; everything else is checked by ETag each time. A `.br`
//! or `.gz` twin is sent to those who accept it. Any other path without a file ending is a page of the application
//! and gets `index.html`.

use std::{
    borrow::Cow,
    collections::HashMap,
    path::{Path, PathBuf},
};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use super::{AppState, Problem, guard::content_security_policy};
use crate::{
    share::html::escape,
    storage::shares::{self, Share},
};

mod embedded {
    include!(concat!(env!("OUT_DIR"), "/embedded.rs"));
}
pub use embedded::RECIPES;

const NO_PAGE: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>HILDA</title>\
<body style=\"font:16px/1.5 serif;max-width:40em;margin:4em auto;padding:0 1em\"><h1>HILDA is running</h1>\
<p>The page is not part of this build. Build it with <code>cargo xtask page</code> and start the server again, or \
use <code>cargo xtask serve</code>, which does both. The API answers already: \
<a href=\"/api/openapi.json\">/api/openapi.json</a>.</p></body></html>";

struct File {
    bytes: Cow<'static, [u8]>,
    etag: String,
}

pub struct Assets {
    files: HashMap<String, File>,
    csp: String,
    built: bool,
}

/// Files of a folder as (path with forward slashes, bytes); links are left out.
fn read_folder(base: &Path) -> Vec<(String, Vec<u8>)> {
    let (mut todo, mut out) = (vec![PathBuf::from(base)], vec![]);
    while let Some(at) = todo.pop() {
        for e in std::fs::read_dir(&at).into_iter().flatten().flatten() {
            match e.file_type() {
                Ok(t) if t.is_dir() => todo.push(e.path()),
                Ok(t) if t.is_file() => {
                    if let (Ok(rel), Ok(bytes)) = (e.path().strip_prefix(base), std::fs::read(e.path())) {
                        out.push((rel.to_string_lossy().replace('\\', "/"), bytes));
                    }
                }
                _ => {}
            }
        }
    }
    out
}

/// All files of the page, by path in `dist/`; empty if it was not built.
pub fn page_files() -> Vec<(String, Cow<'static, [u8]>)> {
    match std::env::var_os("HILDA_DIST") {
        Some(dir) => read_folder(Path::new(&dir)).into_iter().map(|(p, b)| (p, Cow::Owned(b))).collect(),
        None => embedded::PAGE.iter().map(|(p, b)| (p.to_string(), Cow::Borrowed(*b))).collect(),
    }
}

impl Assets {
    pub fn load() -> Assets {
        Self::from_files(page_files())
    }
    fn from_files(files: Vec<(String, Cow<'static, [u8]>)>) -> Assets {
        let mut files: HashMap<_, _> = files
            .into_iter()
            .map(|(path, bytes)| {
                let etag = format!("\"{}\"", hex::encode(&Sha256::digest(&bytes)[..12]));
                (path, File { bytes, etag })
            })
            .collect();
        let built = files.contains_key("index.html");
        if !built {
            let bytes = Cow::Borrowed(NO_PAGE.as_bytes());
            files.insert("index.html".into(), File { bytes, etag: "\"no-page\"".into() });
        }
        let html = String::from_utf8_lossy(&files["index.html"].bytes).into_owned();
        let hashes: String =
            inline_scripts(&html).map(|s| format!(" 'sha256-{}'", base64(&Sha256::digest(s)))).collect();
        Assets { files, csp: content_security_policy(&hashes), built }
    }
    /// Whether the page is part of this build.
    pub fn built(&self) -> bool {
        self.built
    }

    /// `index.html` with the result's title, so that a link to it shows what it is where people paste it.
    fn shared_page(&self, share: &Share) -> Response {
        let html = String::from_utf8_lossy(&self.files["index.html"].bytes);
        let (title, note) = (escape(&share.title), escape(share.note.lines().next().unwrap_or("")));
        let head = format!(
            "<title>{title} · HILDA</title><meta name=\"description\" content=\"{note}\">\
             <meta property=\"og:title\" content=\"{title}\"><meta property=\"og:description\" content=\"{note}\">\
             <meta property=\"og:type\" content=\"article\"><meta name=\"robots\" content=\"noindex\">"
        );
        let page = match (html.find("<title>"), html.find("</title>")) {
            (Some(from), Some(to)) if from < to => {
                format!("{}{head}{}", &html[..from], &html[to + "</title>".len()..])
            }
            _ => html.into_owned(),
        };
        let headers = [
            (header::CONTENT_TYPE, "text/html; charset=utf-8".to_string()),
            (header::CACHE_CONTROL, "no-cache".to_string()),
            (header::CONTENT_SECURITY_POLICY, self.csp.clone()),
        ];
        (headers, page).into_response()
    }

    fn get(&self, path: &str, method: &Method, headers: &HeaderMap) -> Response {
        let name = path.trim_start_matches('/');
        let last = name.rsplit('/').next().unwrap_or("");
        let (name, file) = match self.files.get(name) {
            Some(f) if !name.is_empty() => (name, f),
            _ if last.contains('.') || name.starts_with("assets/") || name.starts_with("models/") => {
                return Problem::not_found(format!("there is no file {path}")).into_response();
            }
            _ => ("index.html", &self.files["index.html"]),
        };
        let accept = headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or("");
        let twin = [("br", ".br"), ("gzip", ".gz")].into_iter().find_map(|(encoding, ending)| {
            let accepted = accept.split(',').any(|p| {
                let mut parts = p.split(';').map(str::trim);
                parts.next() == Some(encoding) && !parts.any(|q| matches!(q, "q=0" | "q=0.0"))
            });
            Some((encoding, accepted.then(|| self.files.get(&format!("{name}{ending}")))??))
        });
        let (bytes, etag) = match twin {
            Some((encoding, f)) => (&f.bytes, format!("{}-{encoding}\"", file.etag.trim_end_matches('"'))),
            None => (&file.bytes, file.etag.clone()),
        };
        let cache = match name.starts_with("assets/") {
            true => "public, max-age=31536000, immutable",
            false => "no-cache",
        };
        let mut r = Response::builder()
            .header(header::CONTENT_TYPE, mime(name))
            .header(header::CACHE_CONTROL, cache)
            .header(header::VARY, "accept-encoding")
            .header(header::ETAG, &etag)
            .header(header::CONTENT_SECURITY_POLICY, &self.csp);
        let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).unwrap_or("");
        if known.split(',').any(|k| k.trim().trim_start_matches("W/") == etag) {
            return r.status(StatusCode::NOT_MODIFIED).body(Body::empty()).unwrap_or_default();
        }
        if let Some((encoding, _)) = twin {
            r = r.header(header::CONTENT_ENCODING, encoding);
        }
        let body = match (method, bytes) {
            (&Method::HEAD, b) => {
                r = r.header(header::CONTENT_LENGTH, b.len());
                Body::empty()
            }
            (_, Cow::Borrowed(b)) => Body::from(*b),
            (_, Cow::Owned(b)) => Body::from(b.clone()),
        };
        r.body(body).unwrap_or_default()
    }
}

/// Contents of `<script>` elements without `src`.
fn inline_scripts(html: &str) -> impl Iterator<Item = &str> {
    html.split("<script").skip(1).filter_map(|s| {
        let (attributes, rest) = s.split_once('>')?;
        (!attributes.contains("src=")).then(|| rest.split("</script").next()).flatten()
    })
}

fn base64(bytes: &[u8]) -> String {
    const A: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for c in bytes.chunks(3) {
        let n = u32::from(c[0]) << 16
            | u32::from(*c.get(1).unwrap_or(&0)) << 8
            | u32::from(*c.get(2).unwrap_or(&0));
        for i in 0..4 {
            out.push(if i <= c.len() { A[(n >> (18 - 6 * i)) as usize & 63] as char } else { '=' });
        }
    }
    out
}

pub fn mime(name: &str) -> &'static str {
    match name.rsplit_once('.').map_or("", |(_, e)| e) {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "wasm" => "application/wasm",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "webp" => "image/webp",
        "jpg" => "image/jpeg",
        "woff2" => "font/woff2",
        "txt" | "md" | "toml" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// Everything that is not a route of the API.
pub async fn serve(State(state): State<AppState>, req: Request) -> Response {
    let path = req.uri().path();
    if path.starts_with("/api/") || path.starts_with("/v1/") || path == "/api" || path == "/v1" {
        return Problem::not_found(format!("there is nothing at {path}; see /api/openapi.json"))
            .into_response();
    }
    if !matches!(*req.method(), Method::GET | Method::HEAD) {
        let detail = format!("{} is not possible here", req.method());
        return Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail).into_response();
    }
    if let Some(slug) = path.strip_prefix("/r/") {
        let (slug, looking) = (slug.to_string(), state.clone());
        let share = looking.blocking(move |s| Ok(shares::get(&s.data, &slug))).await.ok().flatten();
        if let Some(share) = share {
            return state.assets.shared_page(&share);
        }
    }
    state.assets.get(path, req.method(), req.headers())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assets() -> Assets {
        let f = |p: &str, b: &'static str| (p.to_string(), Cow::Borrowed(b.as_bytes()));
        Assets::from_files(vec![
            f("index.html", "<script>let a=1</script><script src=\"x.js\"></script>"),
            f("assets/app-1234.js", "js"),
            f("assets/app-1234.js.br", "b"),
            f("models/m/config.json", "{}"),
        ])
    }
    fn get(a: &Assets, path: &str, headers: &[(header::HeaderName, &str)]) -> Response {
        let h = headers.iter().map(|(n, v)| (n.clone(), v.parse().unwrap())).collect();
        a.get(path, &Method::GET, &h)
    }
    fn head(r: &Response, name: header::HeaderName) -> &str {
        r.headers().get(name).map_or("", |v| v.to_str().unwrap())
    }

    #[test]
    fn caching_encoding_and_fallback() {
        let a = assets();
        let r = get(&a, "/assets/app-1234.js", &[(header::ACCEPT_ENCODING, "gzip, br;q=0.9")]);
        assert_eq!(head(&r, header::CONTENT_ENCODING), "br");
        assert!(head(&r, header::CACHE_CONTROL).contains("immutable"));
        let r = get(&a, "/assets/app-1234.js", &[(header::ACCEPT_ENCODING, "gzip, br;q=0")]);
        assert_eq!(head(&r, header::CONTENT_ENCODING), "");
        for page in ["/", "/runs", "/runs/some-id", "/r/abc"] {
            let r = get(&a, page, &[]);
            assert_eq!((r.status().as_u16(), head(&r, header::CACHE_CONTROL)), (200, "no-cache"), "{page}");
            let tag = head(&r, header::ETAG).to_string();
            assert_eq!(get(&a, page, &[(header::IF_NONE_MATCH, &tag)]).status(), 304);
        }
        for missing in ["/assets/none", "/favicon.ico", "/models/m/none", "/../Cargo.toml", "/assets/../x"] {
            assert_eq!(get(&a, missing, &[]).status(), 404, "{missing}");
        }
        assert_eq!(head(&get(&a, "/models/m/config.json", &[]), header::CONTENT_TYPE), "application/json");
    }

    #[test]
    fn inline_scripts_enter_the_policy_by_hash() {
        // sha256("let a=1") from coreutils
        assert_eq!(base64(b"any carnal pleas"), "YW55IGNhcm5hbCBwbGVhcw==");
        let a = assets();
        let want = base64(&Sha256::digest("let a=1"));
        assert!(a.csp.contains(&format!("'sha256-{want}'")) && a.csp.matches("sha256-").count() == 1);
        assert!(a.csp.contains("'wasm-unsafe-eval'") && !a.csp.contains("script-src 'self' 'unsafe-inline'"));
    }

    #[test]
    fn without_a_page_one_is_told_how_to_build_it() {
        let a = Assets::from_files(vec![]);
        assert!(!a.built() && get(&a, "/", &[]).status() == 200);
    }
}
