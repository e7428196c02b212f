//! Fetching a file in the worker, with progress. A file kept from an earlier visit is used if the site still serves the
//! same one (same entity tag, date or length), or cannot be reached.

use js_sys::{Reflect, Uint8Array};
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
    let bytes = read(&response, url, progress).await?;
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
    progress: impl Fn(u64, Option<u64>),
) -> Result<Vec<u8>, FetchError> {
    let broken = |e: JsValue| FetchError::Offline { url: url.into(), why: message(&e) };
    // with a content encoding the length is that of the compressed bytes, not of what is read
    let encoded = response.headers().get("content-encoding").ok().flatten().is_some();
    let length = response.headers().get("content-length").ok().flatten().and_then(|l| l.parse().ok());
    let total = if encoded { None } else { length };
    let Some(body) = response.body() else { return read_all(response).await.map_err(broken) };
    let reader: ReadableStreamDefaultReader = body.get_reader().unchecked_into();
    let mut bytes = Vec::with_capacity(total.unwrap_or(0) as usize);
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
