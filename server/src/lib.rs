//! The `hilda` binary as a library: command line, HTTP API, jobs and storage.
//!
//! Truth lives in plain run folders; SQLite is an index that can be deleted and is rebuilt from them. Jobs are
//! child processes, so that a crash of either side loses nothing that was committed. Handlers are a `fn app(state)
//! -> Router`, tested without a socket.

pub mod ablation;
pub mod agreement;
pub mod audit;
pub mod cli;
pub mod decoder_results;
pub mod device;
pub mod estimate;
pub mod http;
pub mod hub;
pub mod jobs;
pub mod library;
pub mod models;
pub mod page_store;
pub mod pull;
pub mod share;
pub mod storage;
pub mod writer;
