//! A text as a link: everything needed to show the same words elsewhere without computing them.
//!
//! The part of the address after `#w=` is base64url of deflate of JSON ([`Link`]): the recorded actions with
//! configuration, seed and hashes of model and tokenizer, and the text of every token that occurs. Statistics rows are
//! left out; probabilities are rounded to three decimals. What is after `#` never reaches a server.

use std::collections::BTreeMap;

use hilda_engine::base64url;
use hilda_engine::decode::{ActionKind, Trajectory};
use js_sys::{Function, Reflect, Uint8Array};
use serde::{Deserialize, Serialize};
use wasm_bindgen::JsCast;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{Blob, ReadableStream, ReadableStreamDefaultReader};

use super::player::Pieces;
use super::settings::Settings;
use crate::dom::message;

// web-sys has these only behind its flag for unstable interfaces; every browser with WebGPU has them
#[wasm_bindgen]
extern "C" {
    type CompressionStream;
    #[wasm_bindgen(constructor, catch)]
    fn new(format: &str) -> Result<CompressionStream, JsValue>;

    type DecompressionStream;
    #[wasm_bindgen(constructor, catch)]
    fn new(format: &str) -> Result<DecompressionStream, JsValue>;
}

/// Deflate without a wrapper, as the two streams above call it.
const FORMAT: &str = "deflate-raw";
const KEY: &str = "#w=";
/// Nobody's text is longer; a hostile link would be.
const MOST_BYTES: usize = 4 << 20;

/// What a link holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    pub prompt: String,
    pub settings: Settings,
    /// text of every token that occurs
    pub pieces: BTreeMap<u32, String>,
    pub trajectory: Trajectory,
    /// the text that it is compared with
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<Recorded>,
}

/// One text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    pub settings: Settings,
    /// text of every token that occurs
    pub pieces: BTreeMap<u32, String>,
    pub trajectory: Trajectory,
}

/// Why a link shows nothing.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LinkError {
    #[error("the link is damaged ({0})")]
    Damaged(String),
    #[error("the text in the link does not hold together: {0}")]
    Replay(String),
}

impl Recorded {
    /// What a link keeps of a text.
    pub fn new(settings: Settings, trajectory: &Trajectory, pieces: &Pieces) -> Recorded {
        let mut trajectory = trajectory.clone();
        let round = |p: f32| (p * 1000.0).round() / 1000.0;
        let mut used = BTreeMap::new();
        let header = &trajectory.header.config;
        let given = header.prompt.iter().copied().chain(header.fixed.iter().map(|f| f.1));
        let mut ids: Vec<u32> = given.chain(trajectory.footer.ids.iter().copied()).collect();
        for step in &mut trajectory.steps {
            step.rows.clear();
            for action in &mut step.actions {
                (action.p, action.logq, action.margin) =
                    (round(action.p), round(action.logq), round(action.margin));
                ids.push(action.old);
                if !matches!(action.kind, ActionKind::Remask | ActionKind::Reopen) {
                    ids.push(action.new);
                }
            }
        }
        for id in ids {
            used.entry(id).or_insert_with(|| pieces.raw(id).to_string());
        }
        Recorded { settings, pieces: used, trajectory }
    }
}

impl Link {
    /// A link to a text, or to two that are compared.
    pub fn new(prompt: String, first: Recorded, beside: Option<Recorded>) -> Link {
        let Recorded { settings, pieces, trajectory } = first;
        Link { prompt, settings, pieces, trajectory, beside }
    }

    /// Prompt, text, and the text beside it.
    pub fn texts(self) -> (String, Recorded, Option<Recorded>) {
        let Link { prompt, settings, pieces, trajectory, beside } = self;
        (prompt, Recorded { settings, pieces, trajectory }, beside)
    }

    /// The fragment of the address, `#` included.
    pub async fn write(&self) -> Result<String, LinkError> {
        let json = serde_json::to_vec(self).map_err(|e| LinkError::Damaged(e.to_string()))?;
        let stream = CompressionStream::new(FORMAT).map_err(damaged)?;
        Ok(format!("{KEY}{}", base64url::encode(&through(&json, stream.as_ref()).await?)))
    }

    /// Whether a fragment is meant to hold a text.
    pub fn is_one(fragment: &str) -> bool {
        fragment.starts_with(KEY)
    }

    /// Reads a fragment; `None` if it holds no text.
    pub async fn read(fragment: &str) -> Option<Result<Link, LinkError>> {
        let text = fragment.strip_prefix(KEY)?;
        Some(Link::parse(text).await)
    }

    async fn parse(text: &str) -> Result<Link, LinkError> {
        let bytes = base64url::decode(text).ok_or(LinkError::Damaged("not base64url".into()))?;
        let stream = DecompressionStream::new(FORMAT).map_err(damaged)?;
        let json = through(&bytes, stream.as_ref()).await?;
        let link: Link = serde_json::from_slice(&json).map_err(|e| LinkError::Damaged(e.to_string()))?;
        // what does not replay is not shown
        let beside = link.beside.as_ref().map(|b| &b.trajectory);
        for trajectory in std::iter::once(&link.trajectory).chain(beside) {
            trajectory.replay().map_err(|e| LinkError::Replay(e.to_string()))?;
        }
        Ok(link)
    }
}

fn damaged(error: JsValue) -> LinkError {
    LinkError::Damaged(message(&error))
}

/// Sends bytes through one of the browser's compression streams.
async fn through(bytes: &[u8], transform: &JsValue) -> Result<Vec<u8>, LinkError> {
    let parts = js_sys::Array::of1(&Uint8Array::from(bytes));
    let blob = Blob::new_with_u8_array_sequence(&parts).map_err(damaged)?;
    let stream = blob.stream();
    let pipe: Function = Reflect::get(&stream, &"pipeThrough".into()).map_err(damaged)?.unchecked_into();
    let piped: ReadableStream = pipe.call1(&stream, transform).map_err(damaged)?.unchecked_into();
    let reader: ReadableStreamDefaultReader = piped.get_reader().unchecked_into();
    let mut out = Vec::new();
    loop {
        let chunk = JsFuture::from(reader.read()).await.map_err(damaged)?;
        if Reflect::get(&chunk, &"done".into()).map_err(damaged)?.is_truthy() {
            return Ok(out);
        }
        let value: Uint8Array = Reflect::get(&chunk, &"value".into()).map_err(damaged)?.unchecked_into();
        out.extend(value.to_vec());
        if out.len() > MOST_BYTES {
            return Err(LinkError::Damaged("it is longer than any text".into()));
        }
    }
}
