//! Fetching a file in the worker, with progress. A file kept from an earlier visit is used if the site still serves the
//! same one (same entity tag, date or length), or cannot be reached. A piece of a model is kept under its SHA-256 and
//! checked against it whenever it is used, so the site need not be asked.

use hilda_engine::model::page::Piece;
use js_sys::{Function, Promise, Reflect, Uint8Array};
use sha2::{Digest, Sha256};
use wasm_bindgen::JsCast;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{Headers, ReadableStreamDefaultReader, Request, RequestInit, Response};

use super::store;
use crate::dom::message;

/// A file and how it came.
pub struct Fetched {
    pub bytes: Vec<u8>,
    pub cached: bool,
}

/// Why a file could not be had.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FetchError {
    #[error("{url} cannot be reached ({why})")]
    Offline { url: String, why: String },
    #[error("{url}: the server answered {status}")]
    Status { url: String, status: u16 },
    #[error(
        "{url} is not the file that its index describes: it was damaged on the way, or replaced meanwhile"
    )]
    Sum { url: String },
    #[error(
        "{name} is missing; a model is a folder with config.json, tokenizer.json and model.safetensors, or its pieces with \
         their index"
    )]
    NotGiven { name: String },
}

/// The file at `url`; `progress(loaded, total)` is called for every chunk that arrives.
pub async fn fetch(url: &str, progress: impl Fn(u64, Option<u64>)) -> Result<Fetched, FetchError> {
    let cache = store::open().await;
    if let Some(cache) = &cache
        && let Some(kept) = store::find(cache, url).await
    {
        let current = match send("HEAD", url).await {
            Ok(now) if now.ok() => same(&kept.headers(), &now.headers()),
            Ok(_) => false,
            Err(_) => true,
        };
        if current && let Ok(bytes) = read_all(&kept).await {
            progress(bytes.len() as u64, Some(bytes.len() as u64));
            return Ok(Fetched { bytes, cached: true });
        }
    }
    let response = send("GET", url).await?;
    if !response.ok() {
        return Err(FetchError::Status { url: url.into(), status: response.status() });
    }
    let bytes = read(&response, url, None, progress).await?;
    if let (Some(cache), Ok(headers)) = (&cache, Headers::new()) {
        for name in ["etag", "last-modified", "content-type"] {
            if let Ok(Some(value)) = response.headers().get(name) {
                drop(headers.set(name, &value));
            }
        }
        drop(headers.set("x-length", &bytes.len().to_string()));
        store::keep(cache, url, &bytes, &headers).await;
    }
    Ok(Fetched { bytes, cached: false })
}

/// A piece of a model; `progress(loaded)` is called for every chunk that arrives. One without a sum is a file like any
/// other.
///
/// Errors: as [`fetch`]; bytes that do not have the sum.
pub async fn fetch_piece(url: &str, piece: &Piece, progress: impl Fn(u64)) -> Result<Fetched, FetchError> {
    let Some(want) = &piece.sha256 else { return fetch(url, |loaded, _| progress(loaded)).await };
    let cache = store::open().await;
    let key = store::piece_key(want);
    if let Some(cache) = &cache
        && let Some(kept) = store::find(cache, &key).await
        && let Ok(bytes) = read_all(&kept).await
        && sha256(&bytes).await.eq_ignore_ascii_case(want)
    {
        progress(bytes.len() as u64);
        return Ok(Fetched { bytes, cached: true });
    }
    let response = send("GET", url).await?;
    if !response.ok() {
        return Err(FetchError::Status { url: url.into(), status: response.status() });
    }
    let bytes = read(&response, url, piece.bytes, |loaded, _| progress(loaded)).await?;
    if !sha256(&bytes).await.eq_ignore_ascii_case(want) {
        return Err(FetchError::Sum { url: url.into() });
    }
    if let (Some(cache), Ok(headers)) = (&cache, Headers::new()) {
        drop(headers.set("x-length", &bytes.len().to_string()));
        store::keep(cache, &key, &bytes, &headers).await;
    }
    Ok(Fetched { bytes, cached: false })
}

/// SHA-256 in hexadecimal: by the browser where it offers that, which takes a tenth of the time.
pub async fn sha256(bytes: &[u8]) -> String {
    match by_browser(bytes).await {
        Some(digest) => hex::encode(digest),
        None => hex::encode(Sha256::digest(bytes)),
    }
}

/// `None` on addresses without encryption other than this machine's own.
async fn by_browser(bytes: &[u8]) -> Option<Vec<u8>> {
    let crypto = Reflect::get(&js_sys::global(), &"crypto".into()).ok()?;
    let subtle = Reflect::get(&crypto, &"subtle".into()).ok().filter(|s| s.is_object())?;
    let digest: Function = Reflect::get(&subtle, &"digest".into()).ok()?.dyn_into().ok()?;
    let promise: Promise =
        digest.call2(&subtle, &"SHA-256".into(), &Uint8Array::from(bytes)).ok()?.dyn_into().ok()?;
    Some(Uint8Array::new(&JsFuture::from(promise).await.ok()?).to_vec())
}

/// Sends JSON.
pub async fn post(url: &str, json: &str, token: Option<&str>) -> Result<Response, JsValue> {
    let init = RequestInit::new();
    init.set_method("POST");
    init.set_body(&JsValue::from_str(json));
    let request = Request::new_with_str_and_init(url, &init)?;
    request.headers().set("Content-Type", "application/json")?;
    if let Some(token) = token {
        request.headers().set("Authorization", &format!("Bearer {token}"))?;
    }
    let scope: web_sys::WorkerGlobalScope = js_sys::global().unchecked_into();
    Ok(JsFuture::from(scope.fetch_with_request(&request)).await?.unchecked_into())
}

/// Whether a kept file is what the site serves now.
fn same(kept: &Headers, now: &Headers) -> bool {
    let header = |h: &Headers, name| h.get(name).ok().flatten();
    for name in ["etag", "last-modified"] {
        if let (Some(a), Some(b)) = (header(kept, name), header(now, name)) {
            return a == b;
        }
    }
    match header(now, "content-length") {
        Some(length) => header(kept, "x-length").is_some_and(|kept| kept == length),
        None => false,
    }
}

async fn send(method: &str, url: &str) -> Result<Response, FetchError> {
    let offline = |e: JsValue| FetchError::Offline { url: url.into(), why: message(&e) };
    let init = RequestInit::new();
    init.set_method(method);
    let request = Request::new_with_str_and_init(url, &init).map_err(offline)?;
    let scope: web_sys::WorkerGlobalScope = js_sys::global().unchecked_into();
    let response = JsFuture::from(scope.fetch_with_request(&request)).await.map_err(offline)?;
    Ok(response.unchecked_into())
}

async fn read_all(response: &Response) -> Result<Vec<u8>, JsValue> {
    let buffer = JsFuture::from(response.array_buffer()?).await?;
    Ok(Uint8Array::new(&buffer).to_vec())
}

async fn read(
    response: &Response,
    url: &str,
    known: Option<u64>,
    progress: impl Fn(u64, Option<u64>),
) -> Result<Vec<u8>, FetchError> {
    let broken = |e: JsValue| FetchError::Offline { url: url.into(), why: message(&e) };
    // with a content encoding the length is that of the compressed bytes, not of what is read
    let encoded = response.headers().get("content-encoding").ok().flatten().is_some();
    let length = response.headers().get("content-length").ok().flatten().and_then(|l| l.parse().ok());
    let total = if encoded { known } else { length.or(known) };
    let Some(body) = response.body() else { return read_all(response).await.map_err(broken) };
    let reader: ReadableStreamDefaultReader = body.get_reader().unchecked_into();
    // what a site says is no reason to take all memory
    let mut bytes = Vec::with_capacity(total.unwrap_or(0).min(1 << 28) as usize);
    loop {
        let chunk = JsFuture::from(reader.read()).await.map_err(broken)?;
        if Reflect::get(&chunk, &"done".into()).map_err(broken)?.is_truthy() {
            return Ok(bytes);
        }
        let value: Uint8Array = Reflect::get(&chunk, &"value".into()).map_err(broken)?.unchecked_into();
        let start = bytes.len();
        bytes.resize(start + value.length() as usize, 0);
        value.copy_to(&mut bytes[start..]);
        progress(bytes.len() as u64, total);
    }
}
