//! Forwards on the server, for models that are too large for the page. The decoder stays here: what is asked for and what
//! the answer means is the same as on any other device (docs/api.md, `POST /api/models/forward`).

use hilda_engine::decode::wire::{HELD, RemoteForward};
use hilda_engine::decode::{ForwardRequest, RowStats};
use hilda_engine::model::session::Pending;
use js_sys::Uint8Array;
use serde::Deserialize;
use wasm_bindgen::JsCast;
use wasm_bindgen_futures::JsFuture;

use super::fetch;
use crate::dom::message;

/// A forward that the server did not answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RemoteError {
    /// it keeps no longer what was computed of this text
    #[error("the server has forgotten the text")]
    Forgotten,
    #[error("the server cannot be reached ({0})")]
    Offline(String),
    #[error("the server wants its token: open Runs once and enter it there")]
    Token,
    #[error("the server answered: {0}")]
    Refused(String),
}

/// The part of a problem document that is shown.
#[derive(Deserialize)]
struct Problem {
    detail: String,
}

/// One text on the server.
pub struct Remote {
    /// address of the site, without a final slash
    site: String,
    model: String,
    token: Option<String>,
    session: String,
    /// positions whose keys and values the server keeps
    cached: u32,
}

impl Remote {
    pub fn new(site: String, model: String, token: Option<String>) -> Remote {
        let part = || (js_sys::Math::random() * 4294967296.0) as u32;
        let session = format!("{:08x}{:08x}", part(), part());
        Remote { site, model, token, session, cached: 0 }
    }

    /// Another text begins, or the same one from its ids.
    pub fn forget(&mut self) {
        self.cached = 0;
    }

    pub async fn answer(&mut self, request: &ForwardRequest) -> Result<RowStats, RemoteError> {
        let body = RemoteForward {
            model: self.model.clone(),
            session: self.session.clone(),
            cached: self.cached,
            request: request.clone(),
        };
        let json = serde_json::to_string(&body).map_err(|e| RemoteError::Refused(e.to_string()))?;
        let url = format!("{}/api/models/forward", self.site);
        let offline = |e| RemoteError::Offline(message(&e));
        let response = fetch::post(&url, &json, self.token.as_deref()).await.map_err(offline)?;
        if !response.ok() {
            return Err(match response.status() {
                409 => RemoteError::Forgotten,
                401 => RemoteError::Token,
                status => {
                    let text = JsFuture::from(response.text().map_err(offline)?).await.map_err(offline)?;
                    let text = text.as_string().unwrap_or_default();
                    let problem = serde_json::from_str::<Problem>(&text);
                    RemoteError::Refused(problem.map_or(format!("status {status}"), |p| p.detail))
                }
            });
        }
        let held = response.headers().get(HELD).ok().flatten();
        let held = held.and_then(|held| serde_json::from_str(&held).ok());
        let buffer = JsFuture::from(response.array_buffer().map_err(offline)?).await.map_err(offline)?;
        let bytes = Uint8Array::new(buffer.unchecked_ref()).to_vec();
        let values: Vec<f32> =
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let pending = Pending::within(request, values.len());
        if values.len() != pending.len() {
            let got = format!("{} numbers in place of {}", values.len(), pending.len());
            return Err(RemoteError::Refused(got));
        }
        self.cached = request.cached_after(self.cached);
        Ok(RowStats { held, ..pending.decode(&values) })
    }
}
