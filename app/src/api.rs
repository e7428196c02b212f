//! The server's API (docs/api.md): JSON in and out, problem documents (RFC 9457) as errors, server-sent events.

use std::rc::Rc;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use wasm_bindgen::JsCast;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{Request, RequestInit, Response};

use crate::dom;

/// Where the visitor's token is kept (needed only when the server listens on more than 127.0.0.1).
pub const TOKEN_KEY: &str = "hilda-token";

/// Why a call failed, ready to be shown. `status` 0 = the server could not be reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{title}: {detail}")]
pub struct Problem {
    pub title: String,
    #[serde(default)]
    pub status: u16,
    #[serde(default)]
    pub detail: String,
    /// the field of the request that is at fault
    #[serde(default)]
    pub field: Option<String>,
}

impl Problem {
    pub fn offline(detail: String) -> Problem {
        Problem { title: "The server cannot be reached".into(), status: 0, detail, field: None }
    }
    pub fn is_offline(&self) -> bool {
        self.status == 0
    }
    pub fn is_missing(&self) -> bool {
        self.status == 404
    }
    /// The server wants the token it printed when it started.
    pub fn needs_token(&self) -> bool {
        self.status == 401
    }
}

/// GET, answer as JSON.
pub async fn get<T: DeserializeOwned>(path: &str) -> Result<T, Problem> {
    parse(path, call("GET", path, None).await?).await
}

/// POST with a JSON body, answer as JSON.
pub async fn post<T: DeserializeOwned>(path: &str, value: &impl Serialize) -> Result<T, Problem> {
    let json = serde_json::to_string(value).map_err(|e| Problem {
        title: "The request could not be written".into(),
        status: 400,
        detail: e.to_string(),
        field: None,
    })?;
    parse(path, call("POST", path, Some(json)).await?).await
}

/// POST without a body, answer as JSON.
pub async fn post_empty<T: DeserializeOwned>(path: &str) -> Result<T, Problem> {
    parse(path, call("POST", path, None).await?).await
}

/// DELETE, answer as JSON.
pub async fn delete<T: DeserializeOwned>(path: &str) -> Result<T, Problem> {
    parse(path, call("DELETE", path, None).await?).await
}

async fn call(method: &str, path: &str, json: Option<String>) -> Result<Response, Problem> {
    let offline = |e: JsValue| Problem::offline(dom::message(&e));
    let init = RequestInit::new();
    init.set_method(method);
    if let Some(json) = &json {
        init.set_body(&JsValue::from_str(json));
    }
    let request = Request::new_with_str_and_init(&dom::site(path), &init).map_err(offline)?;
    if json.is_some() {
        request.headers().set("Content-Type", "application/json").map_err(offline)?;
    }
    if let Some(token) = dom::stored(TOKEN_KEY) {
        request.headers().set("Authorization", &format!("Bearer {token}")).map_err(offline)?;
    }
    let answer = JsFuture::from(dom::window().fetch_with_request(&request)).await.map_err(offline)?;
    let response: Response = answer.unchecked_into();
    if response.ok() {
        return Ok(response);
    }
    let status = response.status();
    let title = format!("The server answered {status}");
    let text = body(response).await.unwrap_or_default();
    let mut problem = serde_json::from_str::<Problem>(&text).unwrap_or(Problem {
        title,
        status,
        detail: text.chars().take(300).collect(),
        field: None,
    });
    problem.status = status;
    Err(problem)
}

async fn body(response: Response) -> Result<String, Problem> {
    let promise = response.text().map_err(|e| Problem::offline(dom::message(&e)))?;
    let text = JsFuture::from(promise).await.map_err(|e| Problem::offline(dom::message(&e)))?;
    Ok(text.as_string().unwrap_or_default())
}

async fn parse<T: DeserializeOwned>(path: &str, response: Response) -> Result<T, Problem> {
    let status = response.status();
    serde_json::from_str(&body(response).await?).map_err(|e| Problem {
        title: "The server's answer could not be read".into(),
        status,
        detail: format!("{path}: {e}"),
        field: None,
    })
}

/// One server-sent event.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerEvent {
    pub name: String,
    /// the server's id, from which a reconnecting page continues
    pub id: String,
    pub data: String,
}

/// Whether events are arriving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    Open,
    /// the browser tries again by itself and continues after the last id
    Reconnecting,
    /// the server refused; nothing is tried again
    Closed,
}

/// An open event stream; closed when dropped. The browser reconnects by itself and sends `Last-Event-ID`.
pub struct Events {
    source: web_sys::EventSource,
    // the browser calls these for as long as the source is open
    _message: Closure<dyn FnMut(web_sys::MessageEvent)>,
    _open: Closure<dyn FnMut()>,
    _error: Closure<dyn FnMut()>,
}

impl Events {
    /// Listens to the events called `names` at `path`.
    pub fn open(
        path: &str,
        names: &[&str],
        on_event: impl Fn(ServerEvent) + 'static,
        on_connection: impl Fn(Connection) + 'static,
    ) -> Result<Events, Problem> {
        let source =
            web_sys::EventSource::new(&dom::site(path)).map_err(|e| Problem::offline(dom::message(&e)))?;
        let message =
            Closure::<dyn FnMut(web_sys::MessageEvent)>::new(move |event: web_sys::MessageEvent| {
                on_event(ServerEvent {
                    name: event.type_(),
                    id: event.last_event_id(),
                    data: event.data().as_string().unwrap_or_default(),
                });
            });
        for name in names {
            source
                .add_event_listener_with_callback(name, message.as_ref().unchecked_ref())
                .map_err(|e| Problem::offline(dom::message(&e)))?;
        }
        let on_connection = Rc::new(on_connection);
        let open = {
            let on_connection = on_connection.clone();
            Closure::<dyn FnMut()>::new(move || on_connection(Connection::Open))
        };
        let error = {
            let source = source.clone();
            Closure::<dyn FnMut()>::new(move || {
                let closed = source.ready_state() == web_sys::EventSource::CLOSED;
                on_connection(if closed { Connection::Closed } else { Connection::Reconnecting });
            })
        };
        source.set_onopen(Some(open.as_ref().unchecked_ref()));
        source.set_onerror(Some(error.as_ref().unchecked_ref()));
        Ok(Events { source, _message: message, _open: open, _error: error })
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.source.set_onopen(None);
        self.source.set_onerror(None);
        self.source.close();
    }
}
