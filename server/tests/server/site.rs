//! The server without a socket: requests go straight into the router.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode},
};
use hilda_server::{
    http::{AppState, ServeOptions, app},
    jobs::{JobOptions, Jobs},
    storage::{DataDir, Index},
};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::setup::data_folder;

pub struct Site {
    pub app: Router,
    pub data: tempfile::TempDir,
}

pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

impl Site {
    pub fn new(options: ServeOptions) -> Site {
        let folder = data_folder();
        let data = DataDir::open(folder.path()).unwrap();
        let index = Arc::new(Index::open(&folder.path().join("hilda.sqlite")).unwrap());
        let jobs = Jobs::start(
            data.clone(),
            index.clone(),
            JobOptions {
                trainer: folder.path().join("fake-trainer.sh"),
                slots: 1,
                stop_grace: Duration::from_millis(400),
            },
        )
        .unwrap();
        Site { app: app(AppState::new(data, index, jobs, options)), data: folder }
    }
    pub fn local() -> Site {
        Site::new(ServeOptions { address: ([127, 0, 0, 1], 8642).into(), public_url: None, token: None })
    }
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Reply {
        let mut r = Request::builder().method(method).uri(path);
        if !headers.iter().any(|h| h.0 == "host") {
            r = r.header("host", "localhost:8642");
        }
        for (n, v) in headers {
            r = r.header(*n, *v);
        }
        let answer = self.app.clone().oneshot(r.body(body.into()).unwrap()).await.unwrap();
        let (parts, body) = answer.into_parts();
        let body = to_bytes(body, 64 << 20).await.unwrap();
        Reply {
            status: parts.status,
            headers: parts.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        }
    }
    /// The body of a file.
    pub async fn bytes(&self, path: &str) -> Vec<u8> {
        let r = Request::builder().uri(path).header("host", "localhost").body(Body::empty()).unwrap();
        let answer = self.app.clone().oneshot(r).await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        to_bytes(answer.into_body(), 64 << 20).await.unwrap().to_vec()
    }
    /// The body of an answer to JSON.
    pub async fn post_bytes(&self, path: &str, json: &str) -> Vec<u8> {
        let r = Request::builder().method("POST").uri(path).header("host", "localhost");
        let r = r.header("content-type", "application/json").body(Body::from(json.to_string())).unwrap();
        let answer = self.app.clone().oneshot(r).await.unwrap();
        let (status, body) =
            (answer.status(), to_bytes(answer.into_body(), 64 << 20).await.unwrap().to_vec());
        assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&body));
        body
    }
    pub async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], "").await
    }
    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.send("POST", path, &[("content-type", "application/json")], body.to_string()).await
    }
    pub async fn wait(&self, id: &str, state: &str) -> Value {
        for _ in 0..600 {
            let v = self.get(&format!("/api/runs/{id}")).await.json();
            if v["state"] == state {
                return v;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{id} never became {state}");
    }
    pub async fn launch(&self, toml: &str) -> String {
        let r = self.post("/api/runs", json!({ "toml": toml })).await;
        assert_eq!(r.status, 201, "{}", r.body);
        r.json()["id"].as_str().unwrap().to_string()
    }
}

pub fn assert_problem(r: &Reply, status: u16) -> Value {
    assert_eq!(r.status.as_u16(), status, "{}", r.body);
    assert_eq!(r.headers["content-type"], "application/problem+json", "{}", r.body);
    let v = r.json();
    assert_eq!(v["status"], status);
    assert!(!v["detail"].as_str().unwrap().is_empty() && !v["title"].as_str().unwrap().is_empty());
    v
}
