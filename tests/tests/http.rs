//! The HTTP API over a real socket: `docs/api.md` is the contract.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use hilda_tests::http::{self, Events, Request};
use hilda_tests::server::{Server, free_port};
use hilda_tests::{hilda_or_skip, material, program};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(420);

/// A temporary folder with the stories registered as a corpus in `data/`.
fn folder(hilda: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    material::write_stories(folder.path());
    let added = program::run(hilda, folder.path(), &["data", "add", "stories", "train.txt"]);
    assert_eq!(added.code, 0, "{added:#?}");
    folder
}

fn recipe(name: &str, steps: u64) -> Value {
    json!({ "toml": material::recipe_of(name, "corpus = \"stories\"", steps) })
}

/// Creates a run; its id.
fn launch(server: &Server, name: &str, steps: u64) -> String {
    let created = server.post("/api/runs", &recipe(name, steps));
    assert_eq!(created.status, 201, "{}", created.text());
    let id = created.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(created.header("location"), format!("/api/runs/{id}"));
    id
}

fn state(run: &Value) -> &str {
    run["state"].as_str().unwrap_or_default()
}

fn ended(run: &Value) -> bool {
    !matches!(state(run), "queued" | "running")
}

fn step(run: &Value) -> u64 {
    run["status"]["step"].as_u64().unwrap_or(0)
}

/// Everything the index has for a run, oldest first.
fn metrics(server: &Server, id: &str) -> Vec<Value> {
    let mut rows = Vec::new();
    let mut after = 0;
    loop {
        let page = server.get(&format!("/api/runs/{id}/metrics?after={after}&limit=1000")).json();
        let new = page["rows"].as_array().expect("rows").clone();
        if new.is_empty() {
            return rows;
        }
        after = page["last"].as_i64().expect("last");
        rows.extend(new);
    }
}

#[test]
fn health_system_and_description() {
    let hilda = hilda_or_skip!("health_system_and_description");
    let folder = folder(&hilda);
    let server = Server::start(&hilda, &folder.path().join("data"));
    assert_eq!(server.get("/healthz").json()["ok"], true);
    assert_eq!(server.get("/api/system").json()["loopback"], true);
    let openapi = server.get("/api/openapi.json").json();
    assert!(openapi["openapi"].as_str().is_some_and(|version| version.starts_with("3.")), "{openapi}");
    let paths = openapi["paths"].as_object().expect("paths");
    for path in ["/healthz", "/api/runs", "/api/runs/{id}/events", "/api/r/{slug}", "/v1/completions"] {
        assert!(paths.contains_key(path), "{path} is not described");
    }
    assert_eq!(server.get("/api/corpora").json()[0]["name"], "stories");
    let recipes = server.get("/api/recipes").json();
    assert!(recipes.as_array().is_some_and(|list| !list.is_empty()), "{recipes}");
}

#[test]
fn pages_and_assets_have_the_right_headers() {
    let hilda = hilda_or_skip!("pages_and_assets_have_the_right_headers");
    let folder = folder(&hilda);
    let server = Server::start(&hilda, &folder.path().join("data"));
    for path in ["/", "/runs", "/launch", "/r/whatever"] {
        let page = server.get(path);
        assert_eq!(page.status, 200, "{path}");
        assert!(page.header("content-type").starts_with("text/html"), "{path}");
        assert_eq!(page.header("cross-origin-opener-policy"), "same-origin");
        assert_eq!(page.header("cross-origin-embedder-policy"), "require-corp");
        let policy = page.header("content-security-policy");
        assert!(policy.contains("'wasm-unsafe-eval'"), "{policy}");
        assert!(!policy.contains("script-src 'self' 'unsafe-inline'"), "{policy}");
        assert_eq!(page.header("cache-control"), "no-cache");
    }
    let html = server.get("/").text();
    let Some(start) = html.find("assets/hilda-app") else {
        println!("SKIPPED pages_and_assets_have_the_right_headers: built without the page; cargo xtask page");
        return;
    };
    let path = format!("/{}", html[start..].split('"').next().unwrap());
    let plain = server.get(&path);
    assert!(plain.header("cache-control").contains("immutable"), "{:?}", plain.headers);
    let packed = server.request("GET", &path, &[("accept-encoding", "gzip, br")], &[]);
    assert_eq!(packed.header("content-encoding"), "br");
    assert!(packed.body.len() < plain.body.len());
    assert_eq!(server.get("/assets/nothing.js").status, 404);
}

#[test]
fn bad_requests_get_problem_documents_and_change_nothing() {
    let hilda = hilda_or_skip!("bad_requests_get_problem_documents_and_change_nothing");
    let folder = folder(&hilda);
    let server = Server::start(&hilda, &folder.path().join("data"));
    let good = material::recipe_of("bad", "corpus = \"stories\"", 10);
    let refused = |from: &str, to: &str, field: &str| {
        let problem = server.post("/api/runs", &json!({ "toml": good.replacen(from, to, 1) })).problem(422);
        assert_eq!(problem["field"], field, "{problem}");
    };
    refused("seed = 3", "sead = 3", "sead");
    refused("rows = 8\n[eval]", "rows = 0\n[eval]", "batch.rows");
    refused("objective = \"mdlm\"", "objective = \"mdml\"", "phase[0].objective");
    refused("corpus = \"stories\"", "corpus = \"nowhere\"", "data.corpus");
    // Paths would let a visitor of the form read any file of the machine.
    refused("corpus = \"stories\"", "train = \"/etc/passwd\"", "data.train");

    let raw = |body: &[u8], kind: &str| server.request("POST", "/api/runs", &[("content-type", kind)], body);
    raw(b"{", "application/json").problem(400);
    raw(b"{\"tomll\": 1}", "application/json").problem(400);
    raw(b"{}", "text/plain").problem(415);
    raw(&vec![b' '; 5 << 20], "application/json").problem(413);

    for path in ["/api/runs/nowhere", "/api/runs/nowhere/metrics", "/api/r/nowhere", "/api/nothing"] {
        server.get(path).problem(404);
    }
    for path in ["/api/runs/..%2f..%2fetc", "/api/runs/%2e%2e", "/api/runs/a%00b"] {
        let answer = server.get(path);
        assert!(matches!(answer.status, 400 | 404), "{path}: {}", answer.status);
    }
    for path in ["/../Cargo.toml", "/assets/../../Cargo.toml", "/models/..%2f..%2fCargo.toml"] {
        let answer = server.get(path);
        assert!(answer.status < 500 && !answer.text().contains("[workspace]"), "{path}: {}", answer.status);
    }
    server.post("/api/runs/nowhere/stop", &json!({})).problem(404);
    server.delete("/api/runs/nowhere").problem(404);
    assert_eq!(server.get("/api/runs").json(), json!([]));
}

#[test]
fn an_estimate_says_what_a_run_would_cost() {
    let hilda = hilda_or_skip!("an_estimate_says_what_a_run_would_cost");
    let folder = folder(&hilda);
    let server = Server::start(&hilda, &folder.path().join("data"));
    let estimate = server.post("/api/estimate", &recipe("estimate", 10)).json();
    assert_eq!((estimate["ok"].as_bool(), estimate["steps"].as_u64()), (Some(true), Some(10)), "{estimate}");
    assert_eq!(estimate["tokens"], 5120);
    for field in ["parameters", "memory_bytes", "seconds", "flops"] {
        assert!(estimate[field].as_f64().is_some_and(|x| x > 0.0), "{field} in {estimate}");
    }
    assert!(
        estimate["command"].as_str().is_some_and(|command| command.starts_with("hilda train")),
        "{estimate}"
    );
    let bad = server.post("/api/estimate", &json!({ "toml": "name = \"x\"\n[batch]\nrows = 0\n" })).json();
    assert_eq!(bad["ok"], false);
    assert!(bad["errors"].as_array().is_some_and(|errors| !errors.is_empty()), "{bad}");
}

/// Steps of the training events, in the order they came, and the id of the first.
fn follow(events: Events) -> (Vec<u64>, Option<String>) {
    let (mut steps, mut first) = (Vec::new(), None);
    for event in events {
        let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
        match event.event.as_str() {
            "metric" => {
                let metric = if data["metric"].is_object() { &data["metric"] } else { &data };
                if metric["kind"] == "train" {
                    steps.extend(metric["step"].as_u64());
                    first = first.or(event.id);
                }
            }
            "status" if data["state"] == "finished" => break,
            _ => {}
        }
    }
    (steps, first)
}

#[test]
fn a_job_runs_to_its_end_and_is_shared() {
    let hilda = hilda_or_skip!("a_job_runs_to_its_end_and_is_shared");
    let folder = folder(&hilda);
    let server = Server::start(&hilda, &folder.path().join("data"));
    let id = launch(&server, "shared", 40);
    let path = format!("/api/runs/{id}/events");
    let events = Events::open(server.port, &path, None).unwrap();
    let steps = std::thread::spawn(move || follow(events));
    let run = server.wait_for(&id, LIMIT, ended);
    assert_eq!(state(&run), "finished", "{run:#}");
    let (seen, first) = steps.join().unwrap();
    assert_eq!(seen, (1..=40).collect::<Vec<_>>(), "every step came once, in order, over the event stream");

    // A reconnecting page goes on after the last event it saw.
    let mut again = Events::open(server.port, &path, first.as_deref()).unwrap();
    let next = again.find(|event| event.event == "metric" && event.data.contains("\"train\"")).unwrap();
    assert!(next.data.contains("\"step\":2,"), "{next:?}");

    let samples = server.get(&format!("/api/runs/{id}/samples")).json();
    assert!(samples.as_array().is_some_and(|list| !list.is_empty()), "{samples}");
    assert_eq!(server.get(&format!("/api/runs/{id}/model/config.json")).status, 200);
    server.get(&format!("/api/runs/{id}/model/trainer.safetensors")).problem(404);

    let shared = server.post(&format!("/api/runs/{id}/share"), &json!({ "title": "A test" }));
    assert_eq!(shared.status, 201, "{}", shared.text());
    let shared = shared.json();
    assert_eq!(shared["reachable"], false, "a loopback address reaches nobody else: {shared}");
    let slug = shared["slug"].as_str().unwrap();
    let result = server.get(&format!("/api/r/{slug}")).json();
    assert_eq!(result["title"], "A test");
    for field in ["config", "train", "valid", "samples", "cost", "command"] {
        assert!(!result[field].is_null(), "no {field} in the shared result");
    }
    assert!(result["valid"][0]["estimate"]["estimator"].is_string(), "a likelihood names its estimator");
    let file = server.get(&format!("/r/{slug}/download"));
    assert_eq!(file.status, 200);
    assert!(file.text().contains("A test") && !file.text().contains("src=\"/"), "self-contained");
    assert!(matches!(server.delete(&format!("/api/shares/{slug}")).status, 200 | 204));
    server.get(&format!("/api/r/{slug}")).problem(404);

    // Deleting can be undone.
    let deleted = server.delete(&format!("/api/runs/{id}")).json();
    server.get(&format!("/api/runs/{id}")).problem(404);
    let undo = server.post(deleted["undo"].as_str().expect("an address"), &json!({}));
    assert_eq!(undo.status, 200, "{}", undo.text());
    assert_eq!(state(&server.get(&format!("/api/runs/{id}")).json()), "finished");
}

#[test]
fn stop_and_resume() {
    let hilda = hilda_or_skip!("stop_and_resume");
    let folder = folder(&hilda);
    let server = Server::start(&hilda, &folder.path().join("data"));
    let id = launch(&server, "stopped", 2000);
    let waiting = launch(&server, "waiting", 10);
    server.wait_for(&id, LIMIT, |run| step(run) >= 5);
    assert_eq!(server.get(&format!("/api/runs/{waiting}")).json()["queue_position"], 1);
    server.delete(&format!("/api/runs/{id}")).problem(409);
    assert_eq!(server.post(&format!("/api/runs/{id}/stop"), &json!({})).status, 202);
    let stopped = server.wait_for(&id, LIMIT, |run| state(run) == "stopped");
    let at = step(&stopped);
    assert!((5..2000).contains(&at), "{stopped:#}");
    assert_eq!(stopped["status"]["checkpoint"].as_u64(), Some(at), "a stop writes a checkpoint");
    server.wait_for(&waiting, LIMIT, |run| state(run) == "finished");
    assert_eq!(server.post(&format!("/api/runs/{id}/resume"), &json!({})).status, 202);
    server.wait_for(&id, LIMIT, |run| step(run) > at);
}

#[test]
fn a_kill_of_server_and_trainer_loses_nothing_committed() {
    let hilda = hilda_or_skip!("a_kill_of_server_and_trainer_loses_nothing_committed");
    if !cfg!(target_os = "linux") {
        println!(
            "SKIPPED a_kill_of_server_and_trainer_loses_nothing_committed: finds the trainer through /proc"
        );
        return;
    }
    let folder = folder(&hilda);
    let data = folder.path().join("data");
    let server = Server::start(&hilda, &data);
    let id = launch(&server, "killed", 300);
    server.wait_for(&id, LIMIT, |run| run["status"]["checkpoint"].as_u64().unwrap_or(0) >= 20);
    let before = metrics(&server, &id);
    assert!(!before.is_empty());
    server.kill();
    let file = data.join("runs").join(&id).join("metrics.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    let committed = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    assert!(!text.contains("\"step\":300,"), "the run was over before the kill");

    let server = Server::start(&hilda, &data);
    let run = server.wait_for(&id, LIMIT, ended);
    assert_eq!((state(&run), step(&run)), ("finished", 300), "{run:#}");
    assert_eq!(run["status"]["attempt"], 2, "it was resumed, not begun again");
    assert!(std::fs::read_to_string(&file).unwrap().starts_with(committed), "a committed line was lost");
    let after = metrics(&server, &id);
    let key = |row: &Value| format!("{} {}", row["metric"]["kind"], row["metric"]["step"]);
    let kept: BTreeSet<String> = after.iter().map(key).collect();
    for row in &before {
        assert!(kept.contains(&key(row)), "the index lost {row}");
    }
    let train = after.iter().filter(|row| row["metric"]["kind"] == "train");
    let steps: BTreeSet<u64> = train.filter_map(|row| row["metric"]["step"].as_u64()).collect();
    assert_eq!(steps.into_iter().collect::<Vec<_>>(), (1..=300).collect::<Vec<_>>());
}

#[test]
fn a_trainer_that_outlives_its_server_is_adopted() {
    let hilda = hilda_or_skip!("a_trainer_that_outlives_its_server_is_adopted");
    let folder = folder(&hilda);
    let data = folder.path().join("data");
    let server = Server::start(&hilda, &data);
    let id = launch(&server, "adopted", 300);
    server.wait_for(&id, LIMIT, |run| step(run) >= 3);
    server.kill_alone();
    let server = Server::start(&hilda, &data);
    let run = server.wait_for(&id, LIMIT, ended);
    assert_eq!((state(&run), run["status"]["attempt"].as_u64()), ("finished", Some(1)), "{run:#}");
    assert_eq!(metrics(&server, &id).iter().filter(|row| row["metric"]["kind"] == "train").count(), 300);
}

#[test]
fn one_server_a_folder_and_one_a_port() {
    let hilda = hilda_or_skip!("one_server_a_folder_and_one_a_port");
    let folder = folder(&hilda);
    let server = Server::start(&hilda, &folder.path().join("data"));
    let second = program::run(&hilda, folder.path(), &["serve", "--port", "0"]);
    assert_ne!(second.code, 0);
    assert!(second.err.contains("already served"), "{second:#?}");
    let port = server.port.to_string();
    let second = program::run(&hilda, folder.path(), &["serve", "--port", &port, "--data-dir", "other"]);
    assert_ne!(second.code, 0);
    assert!(second.err.contains(&port) && second.err.contains("in use"), "{second:#?}");
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn a_public_server_needs_the_token_for_writing() {
    let hilda = hilda_or_skip!("a_public_server_needs_the_token_for_writing");
    let folder = folder(&hilda);
    let data = folder.path().join("data");
    // A public address is what makes the token necessary; the socket itself stays on loopback.
    let port = free_port();
    let mut command = Command::new(&hilda);
    command.args(["serve", "--public-url", "https://hilda.example", "--port", &port.to_string()]);
    command.arg("--data-dir").arg(&data).stdout(Stdio::null()).stderr(Stdio::null());
    let _server = Server::adopt(command.spawn().unwrap(), port, &data);
    let send = |method: &str, headers: &[(&str, &str)], body: &str| {
        http::request(port, &Request { method, path: "/api/runs", headers, body: body.as_bytes() }).unwrap()
    };
    let kind = ("content-type", "application/json");
    let body = recipe("token", 10).to_string();
    assert_eq!(send("GET", &[], "").status, 200, "reading is free");
    send("POST", &[kind], &body).problem(401);
    send("POST", &[kind, ("authorization", "Bearer wrong")], &body).problem(401);
    let token = std::fs::read_to_string(data.join("token")).unwrap();
    let right = format!("Bearer {}", token.trim());
    let created = send("POST", &[kind, ("authorization", &right)], &body);
    assert_eq!(created.status, 201, "{}", created.text());
}

/// Resident bytes of a process.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).expect("a number") * 1024
}

/// A text of the demo model, streamed to its end: (events, tokens that the events wrote, tokens by the summary, the text).
fn streamed(port: u16, seed: u64) -> (usize, u64, u64, String) {
    let ask = json!({ "prompt": "Once upon a time", "max_tokens": 8, "seed": seed, "temperature": 0.7, "stream": true });
    let (mut events, mut written, mut last, mut text) = (0, 0, Value::Null, String::new());
    for event in Events::post(port, "/v1/completions", &ask).expect("a stream") {
        if event.data == "[DONE]" {
            let commits = last["usage"]["completion_tokens"].as_u64().expect("a summary before the end");
            return (events, written, commits, text);
        }
        events += 1;
        last = serde_json::from_str(&event.data).expect("JSON");
        text.push_str(last["choices"][0]["text"].as_str().expect("text"));
        let edits = last["diffusion"]["edits"].as_array();
        written += edits.map_or(0, |e| e.iter().filter(|e| e["kind"] == "commit").count() as u64);
    }
    panic!("the stream of seed {seed} ended after {events} events without [DONE]: {last}");
}

#[test]
fn two_hundred_streams_lose_nothing_and_leave_nothing() {
    let hilda = hilda_or_skip!("two_hundred_streams_lose_nothing_and_leave_nothing");
    let folder = folder(&hilda);
    let server = Server::start(&hilda, &folder.path().join("data"));
    let models = server.get("/v1/models").json();
    if !models["data"].as_array().is_some_and(|m| m.iter().any(|m| m["id"] == "hilda-tiny")) {
        println!("SKIPPED two_hundred_streams_lose_nothing_and_leave_nothing: built without the demo model");
        return;
    }
    let port = server.port;
    let crowd = |n: u64| {
        let texts: Vec<_> = (0..n).map(|seed| std::thread::spawn(move || streamed(port, seed))).collect();
        let ended = texts.into_iter().map(|text| {
            let (events, written, tokens, text) = text.join().expect("a whole stream");
            assert!(events >= 2 && written >= tokens && tokens > 0, "{events} events, {written} of {tokens}");
            text
        });
        ended.collect::<Vec<String>>()
    };
    // the model is loaded and the allocator has seen a crowd
    crowd(40);
    let before = resident(server.pid());
    let begun = std::time::Instant::now();
    let texts = crowd(200);
    println!("200 streams in {:.1} s", begun.elapsed().as_secs_f64());
    // clients that leave in mid-text end it: the next one is served at once
    for seed in 0..8 {
        let ask =
            json!({ "prompt": "Once", "max_tokens": 200, "seed": seed, "temperature": 0.7, "stream": true });
        let mut left = Events::post(port, "/v1/completions", &ask).expect("a stream");
        assert!(left.next().is_some());
    }
    let alone = std::time::Instant::now();
    assert_eq!(streamed(port, 7).3, texts[7], "a text depends on who else was there");
    println!("a text after eight that were left: {:.2} s", alone.elapsed().as_secs_f64());
    std::thread::sleep(Duration::from_secs(1));
    let after = resident(server.pid());
    println!("resident: {} MB before, {} MB after", before >> 20, after >> 20);
    assert!(after < before + (48 << 20), "{} MB more", (after.saturating_sub(before)) >> 20);
}
