//! Audits, likelihoods and ablations from outside.

use std::fs;

use hilda_tests::{hilda_or_skip, material, program};
use serde_json::Value;

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    material::write_stories(folder.path());
    fs::write(folder.path().join("tiny.toml"), material::recipe("tiny")).expect("tiny.toml");
    folder
}

#[test]
fn an_audit_passes_what_is_proved_and_fails_what_is_not() {
    let hilda = hilda_or_skip!("an_audit_passes_what_is_proved_and_fails_what_is_not");
    let folder = folder();
    let run = |args: &[&str]| program::run(&hilda, folder.path(), args);
    let passed = run(&["audit", "tiny.toml", "--json"]);
    assert_eq!(passed.code, 0, "{passed:#?}");
    let report = passed.json();
    assert_eq!(report["passed"], true);
    let parts: Vec<&str> =
        report["findings"].as_array().unwrap().iter().map(|f| f["part"].as_str().unwrap()).collect();
    for part in ["corruption", "objective", "estimator", "sampler"] {
        assert!(parts.contains(&part), "{parts:?}");
    }
    // the default policy goes by confidence: claiming that the bound is its own is too much
    let text = material::recipe("tiny").replacen("[[phase]]", "[claims]\nsampler = \"bound\"\n[[phase]]", 1);
    fs::write(folder.path().join("claims.toml"), text).unwrap();
    let failed = run(&["audit", "claims.toml"]);
    failed.refused(1, &["audit failed"]);
    assert!(failed.out.contains("FAIL sampler"), "{}", failed.out);
    run(&["audit"]).refused(2, &["--run"]);
    run(&["audit", "nowhere.toml"]).refused(2, &["nowhere.toml"]);
    run(&["audit", "--model", "nowhere"]).refused(2, &["--data"]);
}

#[test]
fn likelihoods_have_names_errors_and_remedies() {
    let hilda = hilda_or_skip!("likelihoods_have_names_errors_and_remedies");
    let folder = folder();
    let run = |args: &[&str]| program::run(&hilda, folder.path(), args);
    assert_eq!(run(&["train", "tiny.toml", "--run", "run"]).code, 0);
    let eval = |more: &[&str]| {
        let mut args = vec!["eval", "likelihood", "--model", "run", "--data", "valid.txt", "--limit", "6"];
        args.extend(more);
        run(&args)
    };
    let many = eval(&[
        "--length",
        "8",
        "--estimator",
        "nelbo_t,nelbo_n,nelbo_exact,nll_l2r,nll_duel",
        "--k",
        "64",
        "--replicates",
        "4",
        "--json",
    ]);
    assert_eq!(many.code, 0, "{many:#?}");
    let lines: Vec<Value> = many.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let names: Vec<&str> = lines.iter().map(|l| l["estimator"].as_str().unwrap()).collect();
    assert_eq!(names, ["nelbo_t(64)", "nelbo_n(64)", "nelbo_exact", "nll_l2r", "nll_duel(p_max)"]);
    let value = |i: usize| lines[i]["nelbo"].as_f64().unwrap();
    for i in [0, 1] {
        let error = lines[i]["stderr_draws"].as_f64().unwrap();
        assert!((value(i) - value(2)).abs() < 6.0 * error + 2e-3 * value(2), "{lines:?}");
    }
    eval(&["--estimator", "ar"]).refused(2, &["nll_l2r"]);
    eval(&["--estimator", "nelbo_hybrid"]).refused(2, &["edit = {"]);
    eval(&["--estimator", "nelbo_exact"]).refused(2, &["nelbo_n"]);
    eval(&["--estimator", "nll_duel", "--rule", "random"]).refused(2, &["nelbo_n"]);
    eval(&["--estimator", "best"]).refused(2, &["nelbo_hybrid_loo"]);
    let trained = run(&["audit", "--model", "run", "--data", "valid.txt", "--rows", "8", "--json"]);
    assert_eq!(trained.code, 0, "{trained:#?}");
    assert!(trained.json()["findings"].as_array().unwrap().len() >= 4);
    // the run keeps its own audit
    assert_eq!(run(&["audit", "--run", "run"]).code, 0);
    assert!(folder.path().join("run/audit.json").is_file());
}

#[test]
fn texts_stand_beside_real_ones_and_checkpoints_average() {
    let hilda = hilda_or_skip!("texts_stand_beside_real_ones_and_checkpoints_average");
    let folder = folder();
    let run = |args: &[&str]| program::run(&hilda, folder.path(), args);
    assert_eq!(run(&["train", "tiny.toml", "--run", "run"]).code, 0);
    let ar = material::recipe("judge").replacen("objective = \"mdlm\"", "objective = \"ar\"", 1);
    fs::write(folder.path().join("judge.toml"), ar).unwrap();
    assert_eq!(run(&["train", "judge.toml", "--run", "judge"]).code, 0);
    let text = |policy: &str| {
        let mut args = vec![
            "eval",
            "text",
            "--model",
            "run",
            "--judge",
            "judge",
            "--data",
            "valid.txt",
            "--train",
            "train.txt",
        ];
        args.extend(["--count", "6", "--length", "32", "--n", "16", "--policy", policy, "--json"]);
        let ended = run(&args);
        assert_eq!(ended.code, 0, "{ended:#?}");
        ended.json()
    };
    let t = text("left_to_right");
    for place in [&t, &t["reference"]] {
        assert!(place["surface"]["entropy"].as_f64().is_none_or(|h| h > 0.0 && h < 16f64.ln() + 1e-9), "{t}");
        assert!(place["judge"]["perplexity"].as_f64().is_some_and(|p| p > 1.0), "{t}");
        assert!(place["stories"]["unknown_words"].as_f64().is_some(), "{t}");
    }
    assert!(t["kl_judge"]["nats"].as_f64().is_some_and(f64::is_finite), "{t}");
    assert!(t["cost"]["forwards_per_text"].as_f64().is_some_and(|f| f >= 32.0), "{t}");
    // by confidence there is no law, and it says so
    assert!(text("threshold")["kl_judge"]["absent"].as_str().is_some());
    let judged =
        ["eval", "text", "--model", "judge", "--judge", "run", "--count", "2", "--length", "8", "--n", "4"];
    run(&judged).refused(2, &["autoregressive"]);

    // the mean of one checkpoint with itself is that checkpoint
    let average = run(&["models", "average", "run", "run", "--out", "mean"]);
    assert_eq!(average.code, 0, "{average:#?}");
    let weights = |p: &str| fs::read(folder.path().join(p).join("model.safetensors")).unwrap();
    assert_eq!(weights("mean"), weights(&format!("run/ckpt/step-{}", material::STEPS)));
    run(&["models", "average", "run", "judge", "--out", "other"]).refused(2, &["stage"]);
    run(&["models", "average", "run", "run", "--out", "mean"]).refused(2, &["already"]);
    assert!(!folder.path().join("other").exists());
}

const PLAN: &str = r#"
name = "pair"
about = "Does a tiny plan run?"
seeds = [1, 2]
equal = "tokens"
baseline = "ar"
[measure]
likelihoods = ["own", "exact"]
k = 2
rows = 4
[base]
device = "cpu"
model = { size = "tiny", context = 64 }
data = { train = "train.txt", valid = "valid.txt", vocab = 320, packing = { length = 64 } }
batch = { rows = 8 }
eval = { every = 20, rows = 8 }
checkpoint = { every = 10 }
sample = { length = 0 }
[[start]]
objective = "ar"
tokens = 5120
lr = { peak = 3e-3 }
[[arm]]
name = "ar"
from = "scratch"
[[arm.phase]]
objective = "ar"
tokens = 15360
lr = { peak = 3e-3 }
[[arm]]
name = "block-4"
[[arm.phase]]
objective = "block"
block_size = 4
shift = true
tokens = 10240
lr = { peak = 3e-3 }
"#;

#[test]
fn an_ablation_runs_resumes_and_quotes_its_interval() {
    let hilda = hilda_or_skip!("an_ablation_runs_resumes_and_quotes_its_interval");
    let folder = folder();
    fs::write(folder.path().join("pair.toml"), PLAN).unwrap();
    let run = |args: &[&str]| program::run(&hilda, folder.path(), args);
    let dry = run(&["ablate", "pair.toml", "--dry-run"]);
    assert_eq!((dry.code, dry.out.lines().count()), (0, 6), "{dry:#?}");
    assert!(!folder.path().join("data/runs/pair-ar-s1").exists(), "a dry run left a run behind");
    let first = run(&["ablate", "pair.toml", "--json", "--out", "results"]);
    assert_eq!(first.code, 0, "{first:#?}");
    let result = first.json();
    assert_eq!((result["finished"].as_u64(), result["planned"].as_u64()), (Some(4), Some(4)));
    let verdicts: Vec<&str> =
        result["comparisons"].as_array().unwrap().iter().map(|c| c["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts.len(), 2, "{verdicts:?}");
    assert!(verdicts.iter().all(|v| v.contains("2 paired seeds") && v.contains("95 %")), "{verdicts:?}");
    let tokens = |arm: usize| result["arms"][arm]["runs"][0]["tokens"].as_u64().unwrap();
    assert_eq!((tokens(0), tokens(1)), (15360, 15360), "the start's tokens count");
    let estimators = &result["arms"][1]["estimators"];
    assert_eq!(
        (estimators["own"].as_str(), estimators["exact"].as_str()),
        (Some("nelbo_block(4,2)"), Some("nll_l2r(4)"))
    );
    assert!(fs::read_to_string(folder.path().join("results/pair.md")).unwrap().contains("paired seeds"));
    // ordinary runs, and none is repeated
    let metrics = folder.path().join("data/runs/pair-ar-s1/metrics.jsonl");
    let before = fs::read(&metrics).unwrap();
    let again = run(&["ablate", "pair.toml", "--json"]);
    assert_eq!((again.code, again.json()), (0, result), "{again:#?}");
    assert_eq!(fs::read(&metrics).unwrap(), before, "a finished run was trained again");
    let listed = run(&["runs", "list", "--json"]).json();
    assert_eq!(listed.as_array().unwrap().len(), 6);
    // another plan under the same name is refused
    let changed =
        PLAN.replace("peak = 3e-3 }\n[[arm]]\nname = \"ar\"", "peak = 1e-3 }\n[[arm]]\nname = \"ar\"");
    fs::write(folder.path().join("pair.toml"), changed).unwrap();
    run(&["ablate", "pair.toml"]).refused(2, &["pair-start-s1", "lr.peak"]);
    fs::write(folder.path().join("bad.toml"), PLAN.replace("tokens = 15360", "tokens = 5120")).unwrap();
    run(&["ablate", "bad.toml"]).refused(2, &["arm \"block-4\"", "equal"]);
}
