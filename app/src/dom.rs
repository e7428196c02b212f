//! Small pieces of the browser that several pages need.

use wasm_bindgen::JsCast;
use wasm_bindgen::prelude::*;

pub fn window() -> web_sys::Window {
    web_sys::window().expect("the interface runs in a window")
}

pub fn document() -> web_sys::Document {
    window().document().expect("a window shows a document")
}

/// Removes the element with this id, if there is one.
pub fn remove(id: &str) {
    if let Some(element) = document().get_element_by_id(id) {
        element.remove();
    }
}

/// Path under which the page is served, without the last slash ("" at the root of a host): published folders may sit
/// anywhere.
pub fn base_path() -> String {
    let base = document().base_uri().ok().flatten().and_then(|uri| web_sys::Url::new(&uri).ok());
    base.map(|url| url.pathname().trim_end_matches('/').to_string()).unwrap_or_default()
}

/// An absolute path of this site ("/api/runs") as it must be fetched below [`base_path`].
pub fn site(path: &str) -> String {
    if path.starts_with('/') { format!("{}{path}", base_path()) } else { path.to_string() }
}

/// Reads the browser's local storage; `None` too where storage is switched off.
pub fn stored(key: &str) -> Option<String> {
    window().local_storage().ok().flatten()?.get_item(key).ok().flatten()
}

/// Writes or (with `None`) forgets a value. Where storage is switched off nothing is kept.
pub fn store(key: &str, value: Option<&str>) {
    let Ok(Some(storage)) = window().local_storage() else { return };
    match value {
        Some(value) => drop(storage.set_item(key, value)),
        None => drop(storage.remove_item(key)),
    }
}

/// Milliseconds since the page was opened.
pub fn now() -> f64 {
    window().performance().map(|p| p.now()).unwrap_or_default()
}

/// Resolves after `ms` milliseconds.
pub async fn sleep(ms: i32) {
    let promise = js_sys::Promise::new(&mut |resolve, _| {
        drop(window().set_timeout_with_callback_and_timeout_and_arguments_0(&resolve, ms));
    });
    drop(wasm_bindgen_futures::JsFuture::from(promise).await);
}

/// Offers `bytes` to the visitor as a file.
pub fn download(name: &str, mime: &str, bytes: &[u8]) -> Result<(), JsValue> {
    let parts = js_sys::Array::of1(&js_sys::Uint8Array::from(bytes));
    let options = web_sys::BlobPropertyBag::new();
    options.set_type(mime);
    let blob = web_sys::Blob::new_with_u8_array_sequence_and_options(&parts, &options)?;
    let url = web_sys::Url::create_object_url_with_blob(&blob)?;
    let link: web_sys::HtmlAnchorElement = document().create_element("a")?.unchecked_into();
    link.set_href(&url);
    link.set_download(name);
    link.click();
    web_sys::Url::revoke_object_url(&url)
}

/// Properties of the theme ("--ink") as colours ("rgb(28, 27, 25)"); empty where one is unknown.
pub fn colours(names: &[&str]) -> Vec<String> {
    // a property says "light-dark(...)"; what that comes to is known once something is set in it
    let probe =
        document().create_element("span").ok().and_then(|e| e.dyn_into::<web_sys::HtmlElement>().ok());
    if let (Some(probe), Some(body)) = (&probe, document().body()) {
        drop(body.append_child(probe));
    }
    let read = |name: &&str| {
        let probe = probe.as_ref()?;
        probe.style().set_property("color", &format!("var({name})")).ok()?;
        window().get_computed_style(probe).ok()??.get_property_value("color").ok()
    };
    let colours = names.iter().map(|name| read(name).unwrap_or_default()).collect();
    if let Some(probe) = probe {
        probe.remove();
    }
    colours
}

/// Copies text; false where the browser refuses.
pub async fn copy(text: &str) -> bool {
    let clipboard = window().navigator().clipboard();
    wasm_bindgen_futures::JsFuture::from(clipboard.write_text(text)).await.is_ok()
}

/// What a JavaScript exception says.
pub fn message(error: &JsValue) -> String {
    match error.dyn_ref::<js_sys::Error>() {
        Some(error) => String::from(error.message()),
        None => error.as_string().unwrap_or_else(|| format!("{error:?}")),
    }
}

/// A seed that nobody chose. The only randomness that does not follow from a seed: it makes one.
pub fn fresh_seed() -> u64 {
    (js_sys::Math::random() * 1e6) as u64
}
