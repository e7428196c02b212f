//! The page's address, changed without telling the router: what is shown stays, only a copied address shows it again.

use wasm_bindgen::JsValue;

use crate::dom;

/// Replaces what is after `#`; false where the browser refuses.
pub fn set_fragment(fragment: &str) -> bool {
    let address = dom::window().location().href().unwrap_or_default();
    let page = address.split('#').next().unwrap_or_default();
    replace(&format!("{page}{fragment}"))
}

/// Sets or (with `None`) removes parameters of the query; the others and the fragment stay.
pub fn set_query(parameters: &[(&str, Option<String>)]) {
    let address = dom::window().location().href().unwrap_or_default();
    let Ok(url) = web_sys::Url::new(&address) else { return };
    let query = url.search_params();
    for (name, value) in parameters {
        match value {
            Some(value) => query.set(name, value),
            None => query.delete(name),
        }
    }
    if url.href() != address {
        replace(&url.href());
    }
}

fn replace(address: &str) -> bool {
    let history = dom::window().history();
    let state = history.as_ref().ok().and_then(|h| h.state().ok()).unwrap_or(JsValue::NULL);
    history.is_ok_and(|h| h.replace_state_with_url(&state, "", Some(address)).is_ok())
}
