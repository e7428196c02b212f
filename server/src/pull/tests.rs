//! Pulling from a hub of our own on this machine.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use super::*;

/// What the stand-in does wrong.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// the first answer for the weights breaks off
    Cut,
    /// the weights are other bytes of the same length
    Wrong,
    /// everything answers with this status
    Status(u16),
}

struct Hub {
    base: String,
    /// requests so far: path and first byte asked for
    asked: Arc<Mutex<Vec<(String, u64)>>>,
}

const WEIGHTS: &[u8] = b"these are the weights, many more bytes than a real model would ever want to have";

fn files() -> Vec<(&'static str, &'static [u8])> {
    vec![
        ("config.json", br#"{"model_type":"llama"}"#),
        ("tokenizer.json", b"{}"),
        ("README.md", b"# card"),
        ("model.safetensors", WEIGHTS),
        ("pytorch_model.bin", b"a pickle"),
        ("m.Q8_0.gguf", b"GGUF and so on"),
        ("../evil.json", b"x"),
    ]
}

fn listing(commit: &str) -> String {
    let of = |(name, bytes): (&str, &[u8])| {
        let mut v = serde_json::json!({"rfilename": name, "size": bytes.len()});
        if name.ends_with(".safetensors") || name.ends_with(".gguf") {
            v["lfs"] = serde_json::json!({"sha256": hex::encode(Sha256::digest(bytes)), "size": bytes.len()});
        }
        v
    };
    let siblings: Vec<Value> = files().into_iter().map(of).collect();
    serde_json::json!({"sha": commit, "siblings": siblings}).to_string()
}

fn hub(fault: Fault, commit: &'static str) -> Hub {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(vec![]));
    let seen = asked.clone();
    std::thread::spawn(move || {
        let mut cut = fault == Fault::Cut;
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let Some(first) = lines.next() else { continue };
            let path = first.split(' ').nth(1).unwrap_or("").to_string();
            let mut from = 0u64;
            for line in lines.by_ref().take_while(|l| !l.is_empty()) {
                if let Some(r) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
                    from = r.trim_end_matches('-').parse().unwrap();
                }
            }
            seen.lock().unwrap().push((path.clone(), from));
            let resolved = format!("/org/name/resolve/{commit}/");
            let (status, body): (u16, Vec<u8>) = match fault {
                Fault::Status(s) => (s, vec![]),
                _ if path.starts_with("/api/models/org/name/revision/main") => {
                    (200, listing(commit).into_bytes())
                }
                _ => match files().into_iter().find(|f| path == format!("{resolved}{}", f.0)) {
                    Some((name, _)) if fault == Fault::Wrong && name == "model.safetensors" => {
                        (200, vec![b'!'; WEIGHTS.len()])
                    }
                    Some((_, bytes)) => (200, bytes.to_vec()),
                    None => (404, vec![]),
                },
            };
            let status = if status == 200 && from > 0 { 206 } else { status };
            let body = &body[(from as usize).min(body.len())..];
            let head =
                format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let whole = !(cut && path.ends_with("model.safetensors"));
            cut &= whole;
            let sent = if whole { body } else { &body[..20] };
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(sent));
        }
    });
    Hub { base, asked }
}

fn get(
    data: &Path,
    base: &str,
    repository: &str,
    file: Option<&str>,
    replace: bool,
) -> Result<(PathBuf, Manifest), HubError> {
    pull(data, &Request { base, repository, revision: "main", file, replace }, |_, _, _| {})
}

#[test]
fn a_model_arrives_whole_and_is_not_fetched_twice() {
    let (hub, data) = (hub(Fault::None, "c0ffee"), tempfile::tempdir().unwrap());
    let (folder, manifest) = get(data.path(), &hub.base, "org/name", None, false).unwrap();
    let mut names: Vec<String> =
        fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["README.md", "config.json", "hub.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), WEIGHTS);
    assert_eq!((manifest.commit.as_str(), read_manifest(&folder)), ("c0ffee", Some(manifest.clone())));
    assert_eq!(library::installed(data.path()), ["org/name"]);
    let before = hub.asked.lock().unwrap().len();
    get(data.path(), &hub.base, "org/name", None, false).unwrap();
    assert_eq!(hub.asked.lock().unwrap().len(), before + 1, "only the listing is asked for again");
    // one GGUF file is another model of the same name
    let e = get(data.path(), &hub.base, "org/name", Some("m.Q8_0.gguf"), false).unwrap_err().to_string();
    assert!(e.contains("--replace"), "{e}");
    let (folder, _) = get(data.path(), &hub.base, "org/name", Some("m.Q8_0.gguf"), true).unwrap();
    assert!(folder.join("m.Q8_0.gguf").exists() && !folder.join("model.safetensors").exists());
    assert_eq!(fs::read_dir(data.path().join("models/org")).unwrap().count(), 1);
}

#[test]
fn a_broken_pull_leaves_no_model_and_goes_on_where_it_stopped() {
    let (hub, data) = (hub(Fault::Cut, "c0ffee"), tempfile::tempdir().unwrap());
    let e = get(data.path(), &hub.base, "org/name", None, false).unwrap_err();
    assert!(matches!(e, HubError::Short { got: 20, .. }), "{e}");
    assert!(library::installed(data.path()).is_empty());
    let (folder, _) = get(data.path(), &hub.base, "org/name", None, false).unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), WEIGHTS);
    let asked = hub.asked.lock().unwrap();
    assert!(asked.iter().any(|(p, from)| p.ends_with("model.safetensors") && *from == 20), "{asked:?}");
    assert_eq!(asked.iter().filter(|(p, _)| p.ends_with("config.json")).count(), 1);
}

#[test]
fn half_a_file_of_another_commit_is_not_gone_on_with() {
    let data = tempfile::tempdir().unwrap();
    assert!(get(data.path(), &hub(Fault::Cut, "old").base, "org/name", None, false).is_err());
    let new = hub(Fault::None, "new");
    get(data.path(), &new.base, "org/name", None, false).unwrap();
    assert!(new.asked.lock().unwrap().iter().all(|(_, from)| *from == 0));
}

#[test]
fn other_bytes_than_the_hub_lists_are_not_taken() {
    let (hub, data) = (hub(Fault::Wrong, "c0ffee"), tempfile::tempdir().unwrap());
    let e = get(data.path(), &hub.base, "org/name", None, false).unwrap_err().to_string();
    assert!(e.contains("model.safetensors: its SHA-256 is"), "{e}");
    assert!(library::installed(data.path()).is_empty());
}

#[test]
fn refusals_say_what_to_do() {
    let data = tempfile::tempdir().unwrap();
    let said = |fault: Fault, repository: &str, file: Option<&str>| {
        get(data.path(), &hub(fault, "c").base, repository, file, false).unwrap_err().to_string()
    };
    let gated = said(Fault::Status(401), "org/name", None);
    assert!(gated.contains("gated") && gated.contains("HF_TOKEN"), "{gated}");
    assert!(said(Fault::None, "org/other", None).contains("no such repository"));
    assert!(said(Fault::Status(503), "org/name", None).contains("503"));
    let file = said(Fault::None, "org/name", Some("pytorch_model.bin"));
    assert!(file.contains("m.Q8_0.gguf"), "{file}");
    for bad in ["../x", "name", "a/b/c", "org/name/../../x"] {
        assert!(said(Fault::None, bad, None).contains("ORG/NAME"), "{bad}");
    }
    // nobody listens there
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let e = get(data.path(), &format!("http://{closed}"), "org/name", None, false).unwrap_err().to_string();
    assert!(e.contains("offline") && e.contains("folder or GGUF file"), "{e}");
    assert!(!data.path().join("models").exists(), "a refusal leaves nothing behind");
}
