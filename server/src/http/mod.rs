//! HTTP: `fn app(state) -> Router`, tested without a socket. `docs/api.md` is the contract.
//!
//! Handlers read run folders and the index in blocking tasks; nothing from a request becomes part of a path before
//! `storage::valid_id` or `valid_slug` has seen it.

mod ablations;
mod assets;
mod completions;
mod decoders;
mod events;
mod forward;
mod guard;
mod models;
mod openapi;
mod problem;
mod runs;
mod shared;
mod system;

use std::{
    collections::HashMap,
    net::SocketAddr,
    ops::Deref,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{MethodRouter, delete, get, post},
};
use tokio::sync::{Semaphore, watch};

pub use assets::{RECIPES, page_files};
pub use problem::{Problem, config_field, config_problem};
pub use runs::objective_text;
pub use system::{VERSION, corpus_cards, device, memory};

use crate::{
    jobs::Jobs,
    models::{Inspected, Loaded},
    page_store::PageStore,
    storage::{DataDir, Index, RunFolder},
};

/// Largest request body, bytes. Recipes and prompts are kilobytes.
pub const BODY_LIMIT: usize = 1 << 20;

/// How the server was started.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    pub address: SocketAddr,
    /// address that other people reach this server by, without a final slash
    pub public_url: Option<String>,
    /// needed for everything that writes or computes; `None` on a purely local server
    pub token: Option<String>,
}

impl ServeOptions {
    pub fn loopback(&self) -> bool {
        self.address.ip().is_loopback()
    }
    /// What links start with, and whether anybody but this machine can follow them.
    pub fn base_url(&self) -> (String, bool) {
        match &self.public_url {
            Some(url) => (url.trim_end_matches('/').to_string(), true),
            None => (format!("http://{}", self.address), !self.loopback()),
        }
    }
}

/// Everything a handler may use.
pub struct App {
    pub data: DataDir,
    pub index: Arc<Index>,
    pub jobs: Arc<Jobs>,
    pub options: ServeOptions,
    /// becomes true when the server ends: streams close
    pub closing: watch::Sender<bool>,
    assets: assets::Assets,
    loaded: Loaded,
    inspected: Inspected,
    pages: PageStore,
    texts: forward::Texts,
    converted: models::Converted,
    /// one forward at a time: each uses all threads
    forward: Arc<Semaphore>,
    /// texts being written and waiting
    queue: completions::Queue,
    disk: Mutex<HashMap<String, (Instant, u64)>>,
}

#[derive(Clone)]
pub struct AppState(Arc<App>);

impl Deref for AppState {
    type Target = App;
    fn deref(&self) -> &App {
        &self.0
    }
}

impl AppState {
    pub fn new(data: DataDir, index: Arc<Index>, jobs: Arc<Jobs>, options: ServeOptions) -> AppState {
        AppState(Arc::new(App {
            data,
            index,
            jobs,
            options,
            closing: watch::Sender::new(false),
            assets: assets::Assets::load(),
            loaded: Loaded::default(),
            inspected: Inspected::default(),
            pages: PageStore::default(),
            texts: forward::Texts::default(),
            converted: models::Converted::default(),
            forward: Arc::new(Semaphore::new(1)),
            queue: completions::Queue::default(),
            disk: Mutex::default(),
        }))
    }

    /// Runs work that touches files or the index away from the threads that answer requests.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&AppState) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let state = self.clone();
        tokio::task::spawn_blocking(move || work(&state)).await.unwrap_or_else(|e| {
            eprintln!("a request failed: {e}");
            let detail = "the server failed on this request; its terminal says more";
            Err(Problem::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, detail))
        })
    }

    /// Bytes of a run's folder, measured at most every ten seconds.
    fn disk_bytes(&self, run: &RunFolder) -> u64 {
        let mut cache = self.disk.lock().unwrap_or_else(|e| e.into_inner());
        match cache.get(&run.id) {
            Some((at, bytes)) if at.elapsed() < Duration::from_secs(10) => *bytes,
            _ => {
                let bytes = run.disk_bytes();
                cache.insert(run.id.clone(), (Instant::now(), bytes));
                bytes
            }
        }
    }
}

/// Every route of the API: method, path, handler. `openapi.rs` describes each; a test compares the two.
fn routes() -> Vec<(&'static str, &'static str, MethodRouter<AppState>)> {
    vec![
        ("get", "/healthz", get(system::healthz)),
        ("get", "/api/openapi.json", get(openapi::document)),
        ("get", "/api/system", get(system::system)),
        ("get", "/api/recipes", get(system::recipes)),
        ("get", "/api/corpora", get(system::corpora)),
        ("post", "/api/estimate", post(runs::estimate)),
        ("get", "/api/runs", get(runs::list)),
        ("post", "/api/runs", post(runs::create)),
        ("get", "/api/runs/{id}", get(runs::show)),
        ("delete", "/api/runs/{id}", delete(runs::remove)),
        ("get", "/api/runs/{id}/metrics", get(runs::metrics)),
        ("get", "/api/runs/{id}/events", get(events::events)),
        ("get", "/api/runs/{id}/log", get(runs::log)),
        ("get", "/api/runs/{id}/samples", get(runs::samples)),
        ("get", "/api/runs/{id}/audit", get(runs::audit)),
        ("post", "/api/runs/{id}/audit", post(runs::make_audit)),
        ("post", "/api/runs/{id}/stop", post(runs::stop)),
        ("post", "/api/runs/{id}/resume", post(runs::resume)),
        ("post", "/api/runs/{id}/share", post(shared::create)),
        ("get", "/api/runs/{id}/model/{file}", get(models::file)),
        ("post", "/api/trash/{id}/restore", post(runs::restore)),
        ("get", "/api/ablations", get(ablations::list)),
        ("get", "/api/decoders", get(decoders::list)),
        ("get", "/api/decoders/{name}", get(decoders::show)),
        ("get", "/api/shares", get(shared::list)),
        ("delete", "/api/shares/{slug}", delete(shared::revoke)),
        ("get", "/api/r/{slug}", get(shared::show)),
        ("get", "/r/{slug}/download", get(shared::download)),
        ("get", "/api/models", get(models::cards)),
        ("get", "/api/models/{org}/{name}/{file}", get(models::pulled)),
        ("post", "/api/models/forward", post(forward::forward)),
        ("get", "/v1/models", get(models::list)),
        ("post", "/v1/completions", post(completions::create)),
    ]
}

/// The whole server as a service.
pub fn app(state: AppState) -> Router {
    let mut router = Router::new();
    for (_, path, handler) in routes() {
        router = router.route(path, handler);
    }
    router
        .fallback(assets::serve)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn_with_state(state.clone(), guard::guard))
        .with_state(state)
}
