//! Downloaded model files, kept by the browser for the next visit (Cache API) until the visitor clears them.

use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{Cache, CacheStorage, Response};

/// Name of the cache.
const CACHE: &str = "hilda-models";

fn storage() -> Option<CacheStorage> {
    // both a window and a worker have it; neither has it on an insecure address
    let caches = js_sys::Reflect::get(&js_sys::global(), &"caches".into()).ok()?;
    caches.dyn_into().ok()
}

/// The cache, or `None` where the browser has none (private windows, insecure addresses).
pub async fn open() -> Option<Cache> {
    let cache = JsFuture::from(storage()?.open(CACHE)).await.ok()?;
    cache.dyn_into().ok()
}

/// Where a piece with this SHA-256 is kept, from whatever address it came.
pub fn piece_key(sha256: &str) -> String {
    format!("/.hilda/pieces/{}", sha256.to_ascii_lowercase())
}

/// What the cache holds for an address.
pub async fn find(cache: &Cache, url: &str) -> Option<Response> {
    JsFuture::from(cache.match_with_str(url)).await.ok()?.dyn_into().ok()
}

/// Keeps a file; a full disk only means that it is downloaded again next time.
pub async fn keep(cache: &Cache, url: &str, bytes: &[u8], headers: &web_sys::Headers) {
    let init = web_sys::ResponseInit::new();
    init.set_headers(headers);
    let body = js_sys::Uint8Array::from(bytes);
    if let Ok(response) = Response::new_with_opt_js_u8_array_and_init(Some(&body), &init) {
        drop(JsFuture::from(cache.put_with_str(url, &response)).await);
    }
}

/// Bytes of everything that is kept.
pub async fn kept_bytes() -> u64 {
    let Some(cache) = open().await else { return 0 };
    let Ok(keys) = JsFuture::from(cache.keys()).await else { return 0 };
    let mut bytes = 0;
    for key in js_sys::Array::from(&keys).iter() {
        let found = JsFuture::from(cache.match_with_request(key.unchecked_ref())).await.ok();
        let kept = found.and_then(|r| r.dyn_into::<Response>().ok());
        let length = kept.and_then(|r| r.headers().get("x-length").ok().flatten());
        bytes += length.and_then(|l| l.parse::<u64>().ok()).unwrap_or(0);
    }
    bytes
}

/// Forgets every downloaded model.
pub async fn clear_cache() -> bool {
    let Some(storage) = storage() else { return false };
    JsFuture::from(storage.delete(CACHE)).await.is_ok()
}
