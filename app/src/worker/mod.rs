//! Models run in a Web Worker, so that the interface is never blocked. The two sides exchange JSON texts of the types
//! below; files that a visitor dropped travel beside the text as they are.
//!
//! Interface to worker: [`Ask`]. Worker to interface: [`Tell`]. The worker says [`Tell::Hello`] once it listens; each
//! [`Ask::Decode`] carries a job number, and every answer about it repeats the number, so that answers to an abandoned
//! job can be told apart.

pub mod client;
mod device;
mod fetch;
pub mod host;
mod load;
mod remote;
mod store;

use hilda_engine::decode::{DecodeConfig, PolicySpec, StepRecord, Trajectory};
use hilda_engine::model::Serving;
use serde::{Deserialize, Serialize};

pub use store::{clear_cache, kept_bytes};

/// The model that comes with the page.
pub const DEMO: &str = "hilda-tiny";

/// Which device a visitor wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// WebGPU if there is a hardware adapter, else WebAssembly; the server for what is too large for the page
    #[default]
    Auto,
    Webgpu,
    Wasm,
    /// WebAssembly with products of int8 weights in integers
    WasmInt8,
    /// the machine that serves this page
    Server,
}

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "from")]
pub enum Source {
    /// a folder on this site: `{base}config.json` and so on; `base` ends with a slash
    Url { base: String, name: String },
    /// files that the visitor dropped
    Files { name: String },
}

impl Source {
    pub fn name(&self) -> &str {
        let (Source::Url { name, .. } | Source::Files { name }) = self;
        name
    }

    /// The site's address and what its server calls the model; `None` for files, and for folders that only the page knows.
    pub fn on_server(&self) -> Option<(String, String)> {
        let Source::Url { base, .. } = self else { return None };
        let of = |(site, id): (&str, &str)| (site.to_string(), id.trim_end_matches('/').to_string());
        if let Some((site, id)) = base.split_once("/api/runs/") {
            return Some(of((site, id.strip_suffix("/model/")?)));
        }
        let pulled = base.split_once("/api/models/").map(of);
        pulled.or_else(|| base.split_once("/models/").map(of).filter(|(_, id)| id == DEMO))
    }
}

/// What to write.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// runs of two or more underscores are holes of as many tokens
    pub prompt: String,
    /// tokens after the prompt
    pub length: u32,
    /// every position sees the whole text, instead of its block and what comes before
    pub whole: bool,
    pub policy: PolicySpec,
    pub temperature: f32,
    pub seed: u64,
}

/// What a visitor does to a finished or stopped text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Fix { pos: u32, token: u32 },
    Unfix { pos: u32 },
    Reopen { positions: Vec<u32> },
}

/// Interface to worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "ask")]
pub enum Ask {
    Load {
        source: Source,
        backend: Backend,
        /// what a server on more than this machine wants before it computes
        token: Option<String>,
    },
    Decode {
        job: u32,
        request: Request,
    },
    /// goes on after the changes, with the same job
    Change {
        job: u32,
        changes: Vec<Change>,
    },
    Stop,
}

/// A model that is ready.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    pub name: String,
    pub parameters: u64,
    /// longest text here, tokens
    pub context: u32,
    pub vocab: u32,
    pub eos_id: u32,
    pub serving: Serving,
    /// it says how often each token occurs in a corpus, as the score pc needs
    pub frequencies: bool,
    /// "WebGPU (Apple M2)", "WASM SIMD, one thread"
    pub device: String,
    /// why it is not WebGPU, if that was to be expected
    pub device_note: Option<String>,
    /// forwards are computed by the server
    pub on_server: bool,
    /// SHA-256 of model.safetensors or of the sums of its pieces, hexadecimal; empty on the server
    pub model_hash: String,
    pub tokenizer_hash: String,
    /// text of every token
    pub pieces: Vec<String>,
    /// bytes of all files
    pub bytes: u64,
    /// nothing had to be downloaded
    pub cached: bool,
}

/// What a finished or stopped job cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// seconds of forwards, waiting for the device included
    pub seconds: f64,
    pub forwards: u32,
    /// tokens written
    pub tokens: u32,
}

/// Worker to interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "tell")]
pub enum Tell {
    Hello,
    /// `total` is absent where the site does not say it
    Progress {
        what: String,
        loaded: u64,
        total: Option<u64>,
    },
    Ready(Box<ModelInfo>),
    /// the model could not be loaded
    NoModel {
        message: String,
    },
    /// a job began
    Begin {
        job: u32,
        config: Box<DecodeConfig>,
    },
    Step {
        job: u32,
        record: Box<StepRecord>,
        timing: Timing,
    },
    /// a job ended: complete, or stopped by the visitor
    Done {
        job: u32,
        stopped: bool,
        timing: Timing,
        trajectory: Box<Trajectory>,
    },
    /// the device failed in the middle of a text and another one goes on with it; `note` says why
    Moved {
        device: String,
        note: String,
    },
    /// a job could not go on
    Failed {
        job: u32,
        message: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_knows_models_by_their_addresses() {
        let of = |base: &str| Source::Url { base: base.into(), name: String::new() }.on_server();
        let some = |site: &str, id: &str| Some((site.to_string(), id.to_string()));
        assert_eq!(of("/api/runs/r-1/model/"), some("", "r-1"));
        assert_eq!(of("https://a.org/x/api/models/org/name/"), some("https://a.org/x", "org/name"));
        assert_eq!(of("/models/hilda-tiny/"), some("", "hilda-tiny"));
        assert_eq!(of("/models/other/"), None);
        assert_eq!(of("/r/abc/model/"), None);
        assert_eq!(Source::Files { name: "x".into() }.on_server(), None);
    }
}
