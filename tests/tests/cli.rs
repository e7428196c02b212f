//! The command line from outside: what it refuses and how, what it prints for programs, training to the end.

use std::fs;
use std::path::{Path, PathBuf};

use hilda_tests::material::{self, STEPS};
use hilda_tests::{hilda_or_skip, program};
use serde_json::Value;

/// A folder with stories and a recipe named `tiny.toml`.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    material::write_stories(folder.path());
    fs::write(folder.path().join("tiny.toml"), material::recipe("tiny")).expect("tiny.toml");
    folder
}

/// Trains `tiny.toml` into `run/`; the newest checkpoint's folder.
fn train(hilda: &Path, folder: &Path) -> PathBuf {
    let ended = program::run(hilda, folder, &["train", "tiny.toml", "--run", "run"]);
    assert_eq!(ended.code, 0, "{ended:#?}");
    folder.join("run/ckpt").join(format!("step-{STEPS}"))
}

/// (step, loss) of the training lines of a run, in the order of the file.
fn losses(run: &Path) -> Vec<(u64, f64)> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).expect("metrics.jsonl");
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a metric line"))
        .filter(|metric| metric["kind"] == "train")
        .map(|metric| (metric["step"].as_u64().unwrap(), metric["loss"].as_f64().unwrap()))
        .collect()
}

#[test]
fn unknown_words_are_bad_input() {
    let hilda = hilda_or_skip!("unknown_words_are_bad_input");
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| program::run(&hilda, folder.path(), args);
    assert_eq!(run(&["--help"]).code, 0);
    assert_eq!(run(&["--version"]).code, 0);
    run(&[]).refused(2, &["Usage"]);
    run(&["trian"]).refused(2, &["trian"]);
    run(&["serve", "--port", "70000"]).refused(2, &["--port"]);
    assert!(fs::read_dir(folder.path()).unwrap().next().is_none(), "a refused command left files behind");
}

#[test]
fn bad_recipes_are_refused_by_field_before_any_work() {
    let hilda = hilda_or_skip!("bad_recipes_are_refused_by_field_before_any_work");
    let folder = folder();
    let good = material::recipe("tiny");
    let refused = |from: &str, to: &str, words: &[&str]| {
        assert!(good.contains(from), "the recipe has no {from:?}");
        fs::write(folder.path().join("bad.toml"), good.replacen(from, to, 1)).unwrap();
        program::run(&hilda, folder.path(), &["train", "bad.toml", "--run", "bad"]).refused(2, words);
        assert!(!folder.path().join("bad").exists(), "{to:?} left a run behind");
    };
    refused("rows = 8\n[eval]", "rowz = 8\n[eval]", &["rowz"]);
    refused("seed = 3", "sead = 3", &["sead"]);
    refused("rows = 8\n[eval]", "rows = 0\n[eval]", &["batch.rows"]);
    refused("size = \"tiny\"", "size = \"huge\"", &["model.size", "huge"]);
    refused("size = \"tiny\"", "size = \"tiny\"\nheads = 7", &["heads"]);
    refused("objective = \"mdlm\"", "objective = \"mdml\"", &["mdml"]);
    refused("peak = 3e-3", "peak = -1.0", &["lr.peak"]);
    refused("context = 64", "context = 32", &["model.context"]);
    refused("device = \"cpu\"", "device = \"tpu\"", &["device", "tpu"]);
    refused("train = \"train.txt\"", "train = \"nowhere.txt\"", &["nowhere.txt"]);
    refused("train = \"train.txt\"\nvalid = \"valid.txt\"", "corpus = \"nowhere\"", &["nowhere"]);
    refused("[model]", "[model", &["bad.toml"]);
    refused("size = \"tiny\"", "from = \"nowhere\"", &["model.from", "nowhere"]);
    fs::create_dir(folder.path().join("other")).unwrap();
    refused("size = \"tiny\"", "from = \"other\"", &["other/config.json"]);
    refused("[data]", "[data]\ntokenizer = \"train.txt\"", &["train.txt"]);
    refused("length = 64", "length = 64\ndocuments = false", &["data.packing.restart_positions"]);
    program::run(&hilda, folder.path(), &["train", "bad.toml"]).refused(2, &["restart_positions"]);
    assert!(!folder.path().join("data/runs").exists(), "a refused recipe left a run behind");
}

#[test]
fn missing_files_are_named() {
    let hilda = hilda_or_skip!("missing_files_are_named");
    let folder = folder();
    let run = |args: &[&str]| program::run(&hilda, folder.path(), args);
    run(&["train", "nowhere.toml"]).refused(2, &["nowhere.toml"]);
    run(&["train", "--run", "nowhere"]).refused(2, &["nowhere"]);
    run(&["sample", "--model", "nowhere", "--prompt", "x"]).refused(2, &["nowhere"]);
    run(&["eval", "nelbo", "--model", "nowhere", "--data", "valid.txt"]).refused(2, &["nowhere"]);
    run(&["runs", "show", "nowhere"]).refused(2, &["nowhere"]);
    run(&["runs", "show", "../../etc/passwd"]).refused(2, &["run id"]);
    run(&["data", "add", "s", "nowhere.txt"]).refused(2, &["nowhere.txt"]);
    run(&["data", "add", "../s", "train.txt"]).refused(2, &["../s"]);
}

#[test]
fn json_where_a_program_would_read_it() {
    let hilda = hilda_or_skip!("json_where_a_program_would_read_it");
    let folder = folder();
    let run = |args: &[&str]| program::run(&hilda, folder.path(), args);
    assert_eq!(run(&["runs", "list", "--json"]).json(), serde_json::json!([]));
    let doctor = run(&["doctor", "--json"]);
    assert_eq!(doctor.code, 0, "{doctor:#?}");
    assert!(doctor.json().is_object());
    let added = run(&["data", "add", "stories", "train.txt"]);
    assert_eq!(added.code, 0, "{added:#?}");
    let corpora = run(&["data", "list", "--json"]).json();
    let stories = &corpora.as_array().expect("a list")[0];
    assert_eq!(stories["name"], "stories");
    assert!(stories["bytes"].as_u64().unwrap() > 10_000, "{stories}");
}

#[test]
fn training_learns_and_its_model_samples_and_is_measured() {
    let hilda = hilda_or_skip!("training_learns_and_its_model_samples_and_is_measured");
    let folder = folder();
    let checkpoint = train(&hilda, folder.path());
    let run = folder.path().join("run");
    let losses = losses(&run);
    let steps: Vec<u64> = losses.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, (1..=STEPS).collect::<Vec<_>>());
    let mean = |part: &[(u64, f64)]| part.iter().map(|(_, loss)| loss).sum::<f64>() / part.len() as f64;
    assert!(mean(&losses[losses.len() - 8..]) < mean(&losses[..8]) - 0.3, "no learning: {losses:?}");
    let status: Value = serde_json::from_slice(&fs::read(run.join("status.json")).unwrap()).unwrap();
    assert_eq!((status["state"].as_str(), status["step"].as_u64()), (Some("finished"), Some(STEPS)));
    let headline = &status["headline"];
    assert!(headline["estimator"].as_str().is_some_and(|name| name.starts_with("nelbo_t(")), "{headline}");
    for file in ["config.json", "model.safetensors", "tokenizer.json", "trainer.safetensors", "README.md"] {
        assert!(checkpoint.join(file).is_file(), "no {file}");
    }

    let model = checkpoint.to_str().unwrap();
    let sample = |seed: &str| {
        let mut args = vec!["sample", "--model", model, "--prompt", "Once upon a time", "--length", "24"];
        args.extend(["--temperature", "1", "--seed", seed, "--json"]);
        let ended = program::run(&hilda, folder.path(), &args);
        assert_eq!(ended.code, 0, "{ended:#?}");
        ended.json()
    };
    let (one, again, other) = (sample("1"), sample("1"), sample("2"));
    assert!(one["text"].as_str().is_some_and(|text| !text.is_empty()), "{one}");
    assert_eq!(one["text"], again["text"], "the same seed gives the same text");
    assert_ne!(one["text"], other["text"], "another seed gives another text");

    let eval = ["eval", "nelbo", "--model", model, "--data", "valid.txt", "--k", "4", "--json"];
    let nelbo = program::run(&hilda, folder.path(), &eval);
    assert_eq!(nelbo.code, 0, "{nelbo:#?}");
    assert_eq!(nelbo.out.trim().lines().count(), 1, "one line: {}", nelbo.out);
    let nelbo = nelbo.json();
    assert_eq!(nelbo["estimator"], "nelbo_t(4)");
    assert_eq!(nelbo["k"], 4);
    // the same in integers: weights rounded to int8, which moves a likelihood by little
    let integers =
        program::run(&hilda, folder.path(), &[&eval[..], &["--arithmetic", "int8"]].concat()).json();
    assert_eq!((&nelbo["arithmetic"], &integers["arithmetic"]), (&"f32".into(), &"int8".into()));
    let value = |of: &Value| of["nelbo"].as_f64().unwrap();
    assert!((value(&nelbo) - value(&integers)).abs() < 0.02, "{nelbo} {integers}");
    for (args, said) in [
        (vec!["bench", "train", "--arithmetic", "int8"], "decode alone"),
        (vec!["bench", "decode", "--arithmetic", "int4"], "f32 or int8"),
        ([&eval[..], &["--arithmetic", "int8", "--device", "cuda:0"]].concat(), "runs on the CPU"),
    ] {
        let refused = program::run(&hilda, folder.path(), &args);
        assert_eq!(refused.code, 2, "{refused:#?}");
        assert!(refused.err.contains(said), "{refused:#?}");
    }
    // 320 tokens without any knowledge cost ln 320 = 5.77 nats each.
    let value = nelbo["nelbo"].as_f64().unwrap();
    assert!(value > 0.0 && value < 5.77, "{nelbo}");
    for field in ["stderr", "bits_per_byte", "tokens"] {
        assert!(nelbo[field].as_f64().is_some_and(|x| x > 0.0), "{field} in {nelbo}");
    }
}

#[test]
fn a_killed_run_resumes_to_the_same_numbers() {
    let hilda = hilda_or_skip!("a_killed_run_resumes_to_the_same_numbers");
    let folder = folder();
    train(&hilda, folder.path());
    let whole = losses(&folder.path().join("run"));

    // The second run is killed as soon as it has written past its second checkpoint.
    let mut command = std::process::Command::new(&hilda);
    command.args(["train", "tiny.toml", "--run", "cut"]).current_dir(folder.path());
    command.env("HILDA_DATA", folder.path().join("data")).stderr(std::process::Stdio::null());
    let mut child = command.spawn().unwrap();
    let cut = folder.path().join("cut");
    let reached = |step: u64| {
        let text = fs::read_to_string(cut.join("metrics.jsonl")).unwrap_or_default();
        text.lines().any(|line| line.contains(&format!("\"step\":{step},")))
    };
    while !reached(23) && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let before = fs::read_to_string(cut.join("metrics.jsonl")).unwrap();

    let resumed = program::run(&hilda, folder.path(), &["train", "--run", "cut"]);
    assert_eq!(resumed.code, 0, "{resumed:#?}");
    let after = fs::read_to_string(cut.join("metrics.jsonl")).unwrap();
    let committed = &before[..before.rfind('\n').map_or(0, |end| end + 1)];
    assert!(after.starts_with(committed), "a committed metric line was lost or changed");
    // The last attempt wins per step, and it took the steps of the run that nobody killed.
    let last: std::collections::BTreeMap<u64, f64> = losses(&cut).into_iter().collect();
    assert_eq!(last.into_iter().collect::<Vec<_>>(), whole);
}

#[test]
fn damaged_checkpoints_are_refused() {
    let hilda = hilda_or_skip!("damaged_checkpoints_are_refused");
    let folder = folder();
    let checkpoint = train(&hilda, folder.path());
    let copy = folder.path().join("copy");
    let damaged = |file: &str, bytes: &[u8], words: &[&str]| {
        fs::create_dir_all(&copy).unwrap();
        for name in ["config.json", "model.safetensors", "tokenizer.json"] {
            fs::copy(checkpoint.join(name), copy.join(name)).unwrap();
        }
        fs::write(copy.join(file), bytes).unwrap();
        let args = ["sample", "--model", "copy", "--prompt", "Once"];
        let ended = program::run(&hilda, folder.path(), &args);
        ended.refused(2, words);
        // the folder once, and the file
        ended.refused(2, &[&format!("copy/{file}: ")]);
        assert_eq!(ended.err.matches("copy").count(), 1, "{ended:#?}");
    };
    let weights = fs::read(checkpoint.join("model.safetensors")).unwrap();
    damaged("model.safetensors", &weights[..weights.len() / 2], &["does not read as safetensors"]);
    damaged("model.safetensors", &[], &["safetensors"]);
    // A header length that reaches far beyond the file.
    damaged("model.safetensors", &[0xff; 64], &["does not read as safetensors"]);
    damaged("config.json", b"{}", &["model_type"]);
    damaged("tokenizer.json", b"not json", &["expected"]);
    // Weights of another shape, named in the message.
    let config = fs::read_to_string(checkpoint.join("config.json")).unwrap();
    let wider = config.replace("\"intermediate_size\": 128", "\"intermediate_size\": 256");
    fs::create_dir_all(folder.path().join("wide")).unwrap();
    for name in ["model.safetensors", "tokenizer.json"] {
        fs::copy(checkpoint.join(name), folder.path().join("wide").join(name)).unwrap();
    }
    fs::write(folder.path().join("wide/config.json"), wider).unwrap();
    program::run(&hilda, folder.path(), &["sample", "--model", "wide", "--prompt", "Once"])
        .refused(2, &["wide/model.safetensors: tensor ", "has shape"]);
    // A tokenizer of another size than the checkpoint's vocabulary.
    let smaller = material::recipe("tiny").replace("vocab = 320", "vocab = 300");
    fs::write(folder.path().join("other.toml"), smaller).unwrap();
    let other = program::run(&hilda, folder.path(), &["train", "other.toml", "--run", "other"]);
    assert_eq!(other.code, 0, "{other:#?}");
    let tokenizer = folder.path().join(format!("other/ckpt/step-{STEPS}/tokenizer.json"));
    damaged("tokenizer.json", &fs::read(tokenizer).unwrap(), &["tokenizer"]);
}

#[test]
fn a_prompt_longer_than_the_context_is_refused() {
    let hilda = hilda_or_skip!("a_prompt_longer_than_the_context_is_refused");
    let folder = folder();
    let checkpoint = train(&hilda, folder.path());
    let prompt = "one day ".repeat(400);
    let args = ["sample", "--model", checkpoint.to_str().unwrap(), "--prompt", &prompt];
    program::run(&hilda, folder.path(), &args).refused(2, &["context", "64"]);
}
