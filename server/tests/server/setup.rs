//! Data folders, recipes and server processes for the tests.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use hilda_engine::{
    config::ModelSpec,
    data::{Registry, bpe},
    decode::Attention,
    model::{Layout, Serving, checkpoint},
};
use serde_json::{Value, json};

use crate::{client::call, fake_trainer};

/// A recipe of `steps` steps; `about` tells the stand-in trainer what to do.
pub fn recipe(steps: u64, about: &str) -> String {
    format!(
        "name = \"test\"\nabout = \"{about}\"\n[model]\nsize = \"tiny\"\n[data]\ncorpus = \"words\"\nvocab = 300\n\
         [data.packing]\nlength = 8\n[batch]\nrows = 2\n[[phase]]\nobjective = \"ar\"\ntokens = {}\n\
         lr = {{ peak = 1e-3 }}\n",
        steps * 16
    )
}

/// A data folder with one corpus, and the stand-in trainer's script.
pub fn data_folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("words.txt");
    fs::write(&text, "one two\n\nthree four\n\nfive six").unwrap();
    Registry::new(dir.path()).add("words", &text, &Default::default()).unwrap();
    fake_trainer::script(dir.path());
    dir
}

/// A running `hilda serve`; killed when dropped.
pub struct Server {
    pub child: Child,
    pub port: u16,
}

impl Server {
    pub fn start(data: &Path) -> Server {
        Self::start_with(data, &[])
    }
    pub fn start_with(data: &Path, args: &[&str]) -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_hilda"))
            .args(["serve", "--port", "0", "--data-dir"])
            .arg(data)
            .args(args)
            .env("HILDA_TRAINER", data.join("fake-trainer.sh"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().rsplit(':').next().and_then(|p| p.parse().ok());
        let port = port.unwrap_or_else(|| panic!("no address in {line:?}"));
        Server { child, port }
    }
    pub fn launch(&self, toml: &str) -> String {
        let a = call(self.port, "POST", "/api/runs", &json!({ "toml": toml }).to_string());
        assert_eq!(a.status, 201, "{}", a.body);
        a.json()["id"].as_str().unwrap().to_string()
    }
    pub fn run(&self, id: &str) -> Value {
        call(self.port, "GET", &format!("/api/runs/{id}"), "").json()
    }
    pub fn wait_for(&self, id: &str, what: &str, until: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let v = self.run(id);
            if until(&v) {
                return v;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "waited for {what}: {v:#}");
            std::thread::sleep(Duration::from_millis(30));
        }
    }
    pub fn wait_state(&self, id: &str, state: &str) -> Value {
        self.wait_for(id, state, |v| v["state"] == state)
    }
    pub fn wait_step(&self, id: &str, step: u64) -> Value {
        self.wait_for(id, "a step", |v| v["status"]["step"].as_u64().unwrap_or(0) >= step)
    }
    /// (step, loss) of all training rows, in order of row id.
    pub fn losses(&self, id: &str) -> Vec<(u64, f64)> {
        let v = call(self.port, "GET", &format!("/api/runs/{id}/metrics"), "").json();
        v["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| &r["metric"])
            .filter(|m| m["kind"] == "train")
            .map(|m| (m["step"].as_u64().unwrap(), m["loss"].as_f64().unwrap()))
            .collect()
    }
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Process id in a run's lock.
pub fn trainer_pid(data: &Path, id: &str) -> i32 {
    fs::read_to_string(data.join("runs").join(id).join("lock")).unwrap().trim().parse().unwrap()
}

pub fn signal(pid: i32, signal: i32) {
    // SAFETY: plain system call on a process that this test started.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "signal {signal} to {pid}");
}

/// Every step once, each with the stand-in's loss.
pub fn assert_complete(losses: &[(u64, f64)], steps: u64) {
    let mut sorted = losses.to_vec();
    sorted.sort_by_key(|l| l.0);
    assert_eq!(sorted.iter().map(|l| l.0).collect::<Vec<_>>(), (1..=steps).collect::<Vec<_>>());
    for (step, loss) in sorted {
        assert!((loss - fake_trainer::loss(step)).abs() < 1e-12, "step {step}");
    }
}

/// A run with a checkpoint of a tiny model with random weights: block-causal, blocks of 8, context 48.
pub fn add_model(data: &Path, id: &str) {
    let run = data.join("runs").join(id);
    write_model(&run.join("ckpt/step-7"));
    fs::write(run.join("run.toml"), recipe(7, "a model")).unwrap();
}

/// The same model as if it had been pulled from a hub, with a card.
pub fn add_pulled(data: &Path, name: &str) {
    let folder = data.join("models").join(name);
    write_model(&folder);
    fs::write(
        folder.join("README.md"),
        "---\nlicense: apache-2.0\n---\n# A model\n\nIt writes about cats.\n",
    )
    .unwrap();
}

fn write_model(folder: &Path) {
    let texts: Vec<String> =
        (0..40).map(|i| format!("Once upon a time there was a cat number {i}.")).collect();
    let tokenizer = bpe::train(&texts, 300).unwrap();
    let s = tokenizer.specials();
    let spec = ModelSpec { size: Some("tiny".into()), context: Some(48), ..Default::default() };
    let config = spec.resolve(tokenizer.vocab(), s.mask, s.eos, tokenizer.forbid()).unwrap();
    let serving = Serving {
        attention: Attention::BlockCausal,
        block_size: 8,
        shift: true,
        infill: true,
        edits: true,
        uniform: false,
    };
    let params = Layout::new(&config).init(&config, 5);
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("config.json"), checkpoint::config_json(&config, serving)).unwrap();
    fs::write(folder.join("tokenizer.json"), tokenizer.json()).unwrap();
    let weights = checkpoint::save(&config, &params, checkpoint::Format::F32).unwrap();
    fs::write(folder.join("model.safetensors"), weights).unwrap();
}
