//! Handlers without a socket: answers, bad input, who may talk to the server.

use std::{fs, time::Duration};

use hilda_server::http::ServeOptions;
use serde_json::{Value, json};

use crate::{
    setup::recipe,
    site::{Site, assert_problem},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_machine_describes_itself() {
    let s = Site::local();
    let v = s.get("/healthz").await.json();
    assert!(v["ok"] == true && v["data_dir_free_bytes"].as_u64().unwrap() > 0);
    let v = s.get("/api/system").await.json();
    assert!(v["loopback"] == true && v["token_required"] == false && v["threads"].as_u64().unwrap() > 0);
    assert_eq!(s.get("/api/openapi.json").await.json()["openapi"], "3.1.0");
    assert_eq!(s.get("/api/corpora").await.json()[0]["name"], "words");
    assert!(s.get("/api/recipes").await.json().is_array());
    assert_eq!(s.get("/api/runs").await.json(), json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn launching_validates_before_anything_exists() {
    let s = Site::local();
    let good = recipe(5, "");
    for (from, to, field) in [
        ("rows = 2", "rowz = 2", "batch.rowz"),
        ("rows = 2", "rows = 0", "batch.rows"),
        ("corpus = \"words\"", "corpus = \"other\"", "data.corpus"),
        ("corpus = \"words\"", "corpus = \"../runs\"", "data.corpus"),
        ("corpus = \"words\"", "train = \"/etc/passwd\"", "data.train"),
        ("corpus = \"words\"", "corpus = \"words\"\ntokenizer = \"/etc/passwd\"", "data.tokenizer"),
        ("size = \"tiny\"", "from = \"../../x\"", "model.from"),
        ("size = \"tiny\"", "width = 63", "model.heads"),
        ("name = \"test\"", "name = \"../../x\"", "name"),
        ("peak = 1e-3", "peak = -1.0", "phase[0].lr.peak"),
    ] {
        let r = s.post("/api/runs", json!({ "toml": good.replace(from, to) })).await;
        assert_eq!(assert_problem(&r, 422)["field"], field, "{to}");
        let e = s.post("/api/estimate", json!({ "toml": good.replace(from, to) })).await.json();
        assert_eq!((e["ok"].as_bool(), e["errors"][0]["field"].as_str()), (Some(false), Some(field)), "{to}");
    }
    let r = s.post("/api/runs", json!({ "toml": good, "parent": "nobody" })).await;
    assert_eq!(assert_problem(&r, 422)["field"], "parent");
    assert_eq!(s.get("/api/runs").await.json(), json!([]));
    assert_eq!(std::fs::read_dir(s.data.path().join("runs")).unwrap().count(), 0);
    let e = s.post("/api/estimate", json!({ "toml": good })).await.json();
    assert_eq!(
        (e["ok"].as_bool(), e["steps"].as_u64(), e["tokens"].as_u64()),
        (Some(true), Some(5), Some(80))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_audited_once_and_the_report_is_kept() {
    let s = Site::local();
    let r = s.post("/api/runs", json!({ "toml": recipe(5, "") })).await;
    let id = r.json()["id"].as_str().unwrap().to_string();
    let path = format!("/api/runs/{id}/audit");
    assert!(s.get(&path).await.json().is_null());
    let made = s.post(&path, json!({})).await;
    assert_eq!(made.status, 200, "{}", made.body);
    let report = made.json();
    assert!(report["passed"] == true && !report["findings"].as_array().unwrap().is_empty(), "{report}");
    assert_eq!(s.get(&path).await.json(), report);
    assert!(s.data.path().join("runs").join(&id).join("audit.json").is_file());
    assert_problem(&s.post("/api/runs/nobody/audit", json!({})).await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_do_not_read() {
    let s = Site::local();
    let json_kind = [("content-type", "application/json")];
    assert_problem(&s.send("POST", "/api/runs", &json_kind, "{").await, 400);
    let r = s.send("POST", "/api/runs", &json_kind, "{\"tom\":1}").await;
    assert_eq!(assert_problem(&r, 400)["field"], "tom");
    assert_problem(&s.send("POST", "/api/runs", &[("content-type", "text/plain")], "{}").await, 415);
    assert_problem(&s.send("POST", "/api/runs", &[], "{}").await, 415);
    let huge = format!("{{\"toml\":\"{}\"}}", "x".repeat(2 << 20));
    assert_problem(&s.send("POST", "/api/runs", &json_kind, huge).await, 413);
    assert_problem(&s.get("/api/runs?state=sleeping").await, 400);
    assert_problem(&s.get("/api/runs?colour=red").await, 400);
    assert_problem(&s.send("PUT", "/api/runs", &[], "").await, 405);
    assert_problem(&s.get("/api/nothing").await, 404);
    assert_problem(&s.get("/v1/nothing").await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_from_people_never_become_paths() {
    let s = Site::local();
    std::fs::write(s.data.path().join("secret.json"), "{\"secret\":1}").unwrap();
    let id = s.launch(&recipe(3, "")).await;
    s.wait(&id, "finished").await;
    for bad in ["..%2f..%2fsecret", "%2e%2e", "..%5c..", "a%00b", "a%2fb", ".hidden", "-x", "x%20y"] {
        for path in [
            format!("/api/runs/{bad}"),
            format!("/api/runs/{bad}/metrics"),
            format!("/api/runs/{bad}/events"),
            format!("/api/runs/{bad}/log"),
            format!("/api/runs/{bad}/samples"),
        ] {
            let r = s.get(&path).await;
            assert!(matches!(r.status.as_u16(), 400 | 404), "{path}: {}", r.status);
            assert!(!r.body.contains("secret\":1"));
        }
        for (method, path) in [
            ("POST", format!("/api/runs/{bad}/stop")),
            ("POST", format!("/api/runs/{bad}/resume")),
            ("DELETE", format!("/api/runs/{bad}")),
            ("POST", format!("/api/trash/{bad}/restore")),
        ] {
            let r = s.send(method, &path, &[], "").await;
            assert!(matches!(r.status.as_u16(), 400 | 404), "{method} {path}: {}", r.status);
        }
        assert!(matches!(s.get(&format!("/api/r/{bad}")).await.status.as_u16(), 400 | 404));
    }
    assert_problem(&s.get("/api/runs/unknown").await, 404);
    assert_problem(&s.get("/api/r/aaaaaaaaaaaaaaaaaaaaaaaaaa").await, 404);
    assert_problem(&s.send("DELETE", "/api/shares/aaaaaaaaaaaaaaaaaaaaaaaaaa", &[], "").await, 404);
    assert!(s.data.path().join("secret.json").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn other_sites_are_refused_on_loopback() {
    let s = Site::local();
    for host in ["evil.example", "evil.example:8642", "127.0.0.1.nip.io", ""] {
        assert_problem(&s.send("GET", "/api/runs", &[("host", host)], "").await, 421);
    }
    for host in ["localhost", "127.0.0.1:8642", "[::1]:8642"] {
        assert_eq!(s.send("GET", "/api/runs", &[("host", host)], "").await.status, 200, "{host}");
    }
    let kind = ("content-type", "application/json");
    let body = json!({ "toml": recipe(3, "") }).to_string();
    for origin in ["https://evil.example", "null", "http://localhost:9999"] {
        let r = s.send("POST", "/api/runs", &[kind, ("origin", origin)], body.clone()).await;
        assert_problem(&r, 403);
    }
    let r = s.send("POST", "/api/runs", &[kind, ("sec-fetch-site", "cross-site")], body.clone()).await;
    assert_problem(&r, 403);
    assert_eq!(s.get("/api/runs").await.json(), json!([]));
    let r = s.send("POST", "/api/runs", &[kind, ("origin", "http://localhost:8642")], body).await;
    assert_eq!(r.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn elsewhere_a_token_guards_what_writes_or_computes() {
    let token = "correct-horse-battery-staple";
    let outside =
        ServeOptions { address: ([0, 0, 0, 0], 8642).into(), public_url: None, token: Some(token.into()) };
    let proxied = ServeOptions {
        address: ([127, 0, 0, 1], 8642).into(),
        public_url: Some("https://hilda.example".into()),
        token: Some(token.into()),
    };
    for (options, host) in [(outside, "10.0.0.7:8642"), (proxied, "hilda.example")] {
        let s = Site::new(options);
        let kind = ("content-type", "application/json");
        let body = json!({ "toml": recipe(3, "") }).to_string();
        assert_eq!(s.send("GET", "/api/runs", &[("host", host)], "").await.status, 200);
        for wrong in ["", "Bearer wrong", "Bearer correct-horse-battery-stapl", token] {
            let headers = [kind, ("host", host), ("authorization", wrong)];
            let r = s.send("POST", "/api/runs", &headers, body.clone()).await;
            assert_problem(&r, 401);
            assert_eq!(r.headers["www-authenticate"], "Bearer");
            assert_problem(&s.send("POST", "/api/estimate", &headers, body.clone()).await, 401);
        }
        let right = format!("Bearer {token}");
        let headers = [kind, ("host", host), ("authorization", right.as_str())];
        let r = s.send("POST", "/api/runs", &headers, body).await;
        assert_eq!(r.status, 201, "{}", r.body);
        // links are for those who have them
        let id = r.json()["id"].as_str().unwrap().to_string();
        s.send("POST", &format!("/api/runs/{id}/share"), &headers, "{}").await;
        let plain = [("host", host)];
        assert_problem(&s.send("GET", "/api/shares", &plain, "").await, 401);
        assert_eq!(s.send("GET", "/api/shares", &headers, "").await.status, 200);
        for path in ["/api/runs".to_string(), format!("/api/runs/{id}")] {
            assert!(!s.send("GET", &path, &plain, "").await.body.contains("\"slug\""));
            assert!(s.send("GET", &path, &headers, "").await.body.contains("\"slug\""));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_carry_their_headers() {
    let s = Site::local();
    for path in ["/", "/runs", "/r/anything", "/api/runs", "/api/nothing"] {
        let r = s.get(path).await;
        assert_eq!(r.headers["cross-origin-opener-policy"], "same-origin", "{path}");
        assert_eq!(r.headers["cross-origin-embedder-policy"], "require-corp", "{path}");
        assert_eq!(r.headers["x-content-type-options"], "nosniff", "{path}");
        assert!(r.headers.contains_key("content-security-policy"), "{path}");
    }
    let csp = s.get("/").await.headers["content-security-policy"].to_str().unwrap().to_string();
    assert!(csp.contains("'wasm-unsafe-eval'") && csp.contains("worker-src 'self' blob:"), "{csp}");
    assert_eq!(s.get("/api/runs").await.headers["cache-control"], "no-store");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_is_shared_read_and_revoked() {
    let s = Site::local();
    let id = s.launch(&recipe(30, "")).await;
    s.wait(&id, "finished").await;
    let r = s.post(&format!("/api/runs/{id}/share"), json!({ "title": "A <title>", "note": "why" })).await;
    assert_eq!(r.status, 201, "{}", r.body);
    let share = r.json();
    assert_eq!(share["reachable"], false);
    assert!(share["message"].as_str().unwrap().contains("only on this machine"));
    let slug = share["slug"].as_str().unwrap();
    assert!(slug.len() >= 26 && share["url"].as_str().unwrap().ends_with(slug));
    let result = s.get(&format!("/api/r/{slug}")).await.json();
    assert_eq!((result["title"].as_str(), result["note"].as_str()), (Some("A <title>"), Some("why")));
    assert_eq!(result["train"].as_array().unwrap().len(), 30);
    assert_eq!(result["train"][29][3], 15.0);
    assert_eq!(result["valid"][0]["estimate"]["estimator"], "ar");
    assert_eq!(
        (result["cost"]["flops"].as_f64(), result["cost"]["seconds"].as_f64()),
        (Some(3e10), Some(15.0))
    );
    assert!(result["toml"].as_str().unwrap().contains("corpus = \"words\""));
    assert_eq!(s.get("/api/runs").await.json()[0]["slug"], slug);
    assert_eq!(s.get("/api/shares").await.json()[0]["run"], id.as_str());
    let page = s.get(&format!("/r/{slug}")).await;
    assert!(page.body.contains("og:title\" content=\"A &lt;title&gt;\""));
    assert!(page.headers["content-security-policy"].to_str().unwrap().contains("wasm-unsafe-eval"));
    let file = s.get(&format!("/r/{slug}/download")).await;
    assert_eq!(file.status, 200);
    assert!(file.headers["content-disposition"].to_str().unwrap().starts_with("attachment"));
    let html = file.body;
    assert!(
        html.contains("<h1>A &lt;title&gt;</h1>") && html.contains("Once</span> &lt;b&gt;upon&lt;/b&gt;")
    );
    for part in ["<svg", "ar</td>", "hilda train test.toml", "corpus = &quot;words&quot;", "3.000e10"] {
        assert!(html.contains(part), "no {part}");
    }
    for fetched in ["src=", "href=", "url(", "@import", "http://", "https://"] {
        assert!(!html.contains(fetched), "the file fetches something: {fetched}");
    }
    // where files lie on this machine is nobody's business
    let recipe = s.data.path().join("runs").join(&id).join("run.toml");
    let toml = fs::read_to_string(&recipe).unwrap();
    fs::write(&recipe, toml.replace("corpus = \"words\"", "train = \"/srv/somebody/words.txt\"")).unwrap();
    for address in [format!("/api/r/{slug}"), format!("/r/{slug}/download")] {
        let body = s.get(&address).await.body;
        assert!(body.contains("words.txt") && !body.contains("somebody"), "{address}");
    }
    fs::write(&recipe, toml).unwrap();
    assert_eq!(
        s.send("POST", &format!("/api/runs/{id}/share"), &[], "").await.status,
        201,
        "no body, no title"
    );
    let long = "x".repeat(300);
    let r = s.post(&format!("/api/runs/{id}/share"), json!({ "title": long })).await;
    assert_eq!(assert_problem(&r, 422)["field"], "title");
    // deleting the run says so to whoever follows the link; bringing it back repairs the link
    assert_eq!(s.send("DELETE", &format!("/api/runs/{id}"), &[], "").await.status, 200);
    assert_problem(&s.get(&format!("/api/r/{slug}")).await, 410);
    assert_eq!(s.send("POST", &format!("/api/trash/{id}/restore"), &[], "").await.status, 200);
    assert_eq!(s.get(&format!("/api/r/{slug}")).await.status, 200);
    assert_eq!(s.send("DELETE", &format!("/api/shares/{slug}"), &[], "").await.status, 204);
    assert_problem(&s.get(&format!("/api/r/{slug}")).await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_know_their_parent_and_lists_can_be_searched() {
    let s = Site::local();
    let parent = s.launch(&recipe(3, "first")).await;
    s.wait(&parent, "finished").await;
    let toml = recipe(3, "second").replace("peak = 1e-3", "peak = 2e-3");
    let child = s.post("/api/runs", json!({ "toml": toml, "parent": parent })).await.json();
    let child = child["id"].as_str().unwrap();
    let v = s.wait(child, "finished").await;
    assert_eq!(v["parent"], parent.as_str());
    assert!(
        v["diff"].as_array().unwrap().contains(&json!(["phase[0].lr.peak", "0.001", "0.002"])),
        "{}",
        v["diff"]
    );
    let ids = |v: Value| -> Vec<String> {
        v.as_array().unwrap().iter().map(|r| r["id"].as_str().unwrap().into()).collect()
    };
    assert_eq!(ids(s.get("/api/runs").await.json()), [child, &parent], "newest first");
    assert_eq!(ids(s.get("/api/runs?query=SECOND").await.json()), [child]);
    assert_eq!(ids(s.get("/api/runs?state=failed,running").await.json()), [""; 0]);
    assert_eq!(ids(s.get("/api/runs?state=finished").await.json()).len(), 2);
    let rows = s.get(&format!("/api/runs/{child}/metrics?limit=2")).await.json();
    assert_eq!(rows["rows"].as_array().unwrap().len(), 2);
    let rest = s.get(&format!("/api/runs/{child}/metrics?after={}", rows["last"])).await.json();
    assert!(rest["rows"][0]["id"].as_i64() > rows["last"].as_i64());
    assert!(s.get(&format!("/api/runs/{child}/log?tail=1")).await.body.contains("attempt 1"));
    assert_eq!(s.get(&format!("/api/runs/{child}/samples")).await.json()[0]["samples"][0]["prompt"], "Once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_that_does_not_listen_is_killed() {
    let s = Site::local();
    let id = s.launch(&recipe(100_000, "deaf ms=20")).await;
    s.wait(&id, "running").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(s.send("POST", &format!("/api/runs/{id}/stop"), &[], "").await.status, 202);
    let v = s.wait(&id, "stopped").await;
    assert!(v["status"]["error"].as_str().unwrap().contains("killed"), "{v:#}");
}
