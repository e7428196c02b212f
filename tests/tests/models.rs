//! Models from outside: an autoregressive one is trained, exported, checked, converted and decoded.

use std::fs;
use std::path::Path;

use hilda_tests::program::{self, Ended};
use hilda_tests::{hilda_or_skip, material};
use serde_json::{Value, json};

/// A folder with stories and an autoregressive model in `ar/`.
fn trained(hilda: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    material::write_stories(folder.path());
    let recipe = material::recipe("ar").replace("\"mdlm\"", "\"ar\"");
    fs::write(folder.path().join("ar.toml"), recipe).expect("ar.toml");
    done(&program::run(hilda, folder.path(), &["train", "ar.toml", "--run", "ar"]));
    folder
}

fn done(ended: &Ended) {
    assert_eq!(ended.code, 0, "{ended:#?}");
}

/// A conversion of the model that `from` names; `phase` is the inside of its `[[phase]]`.
fn conversion(name: &str, extra: &str, phase: &str) -> String {
    format!(
        "name = \"{name}\"\nseed = 3\ndevice = \"cpu\"\n[data]\ntrain = \"train.txt\"\nvalid = \"valid.txt\"\n\
         [data.packing]\nlength = 64\n[batch]\nrows = 8\n[eval]\nevery = 0\nk = 2\nrows = 16\n[sample]\nlength = 0\n{extra}\n\
         [[phase]]\n{phase}\ntokens = 20480\nlr = {{ peak = 3e-3, warmup = 2 }}\n"
    )
}

#[test]
fn an_autoregressive_model_becomes_a_diffusion_model_and_goes_out_again() {
    let hilda = hilda_or_skip!("an_autoregressive_model_becomes_a_diffusion_model_and_goes_out_again");
    let folder = trained(&hilda);
    let run = |args: &[&str]| program::run(&hilda, folder.path(), args);
    done(&run(&["models", "export", "ar", "--to", "gguf", "--out", "ar.gguf"]));
    done(&run(&["models", "export", "ar", "--to", "hf", "--out", "out/ar"]));
    done(&run(&["models", "check", "ar.gguf"]));
    done(&run(&["models", "check", "out/ar"]));

    let nelbo = |model: &str| {
        let args = ["eval", "nelbo", "--model", model, "--data", "valid.txt", "--estimator", "nelbo_block"];
        let more = ["--block", "32", "--k", "2", "--limit", "16", "--packing", "documents", "--json"];
        let ended = run(&[&args[..], &more].concat());
        done(&ended);
        ended.json()["nelbo"].as_f64().unwrap()
    };
    let before = nelbo("ar");
    fs::write(
        folder.path().join("c.toml"),
        conversion("c", "", "objective = \"block\"\nblock_size = 32\nshift = true"),
    )
    .unwrap();
    done(&run(&["convert", "--from", "ar.gguf", "--recipe", "c.toml", "--run", "block"]));
    let after = nelbo("block");
    assert!(after < before - 0.1, "conversion did not help: {before} -> {after}");

    // it knows what it is, and so does everybody who gets it
    let shown = run(&["models", "show", "block", "--json"]).json();
    assert_eq!(
        (&shown["serving"]["block_size"], &shown["serving"]["shift"]),
        (&32.into(), &true.into()),
        "{shown}"
    );
    // the autoregressive model judges what the other one writes and edits
    let judged = |policy: &str, judge: &str| {
        let args = [
            "eval",
            "edits",
            "--model",
            "block",
            "--judge",
            judge,
            "--data",
            "valid.txt",
            "--policy",
            policy,
        ];
        let more = ["--prompt", "4", "--length", "24", "--limit", "4", "--temperature", "1", "--json"];
        run(&[&args[..], &more].concat())
    };
    let ended = judged(r#"{"kind": "edit", "tau_mask": 0.1, "tau_edit": 0}"#, "ar");
    done(&ended);
    let report = ended.json();
    assert!(report["edits"].as_u64().unwrap() > 0 && report["texts"] == 4, "{report}");
    assert!((0.0..=1.0).contains(&report["improved"].as_f64().unwrap()), "{report}");
    assert!(report["with"]["judge_nll"].as_f64().unwrap() > 0.0, "{report}");
    judged("threshold", "ar").refused(2, &["edits nothing"]);
    judged("edit", "block").refused(2, &["autoregressive"]);
    let bench = |more: &[&str]| {
        let args =
            ["decode-bench", "--model", "block", "--judge", "ar", "--data", "valid.txt", "--prompt", "4"];
        let sizes = ["--length", "24", "--window", "16", "--limit", "3", "--json"];
        run(&[&args[..], &sizes, more].concat())
    };
    let ended = bench(&[
        "--policy",
        "threshold",
        "--policy",
        "edit",
        "--temperature",
        "1",
        "--temperature",
        "0.5",
        "--out",
        "bench",
    ]);
    done(&ended);
    let points = ended.json()["points"].as_array().unwrap().clone();
    // the reference and two policies, at two temperatures each
    assert_eq!(points.len(), 6, "{points:?}");
    assert!(
        points[..2]
            .iter()
            .all(|p| p["policy"]["kind"] == "ancestral" && p["excess"].as_f64().unwrap().abs() < 1e-9)
    );
    assert!(
        points.iter().all(|p| p["nll"].as_f64().unwrap() > 0.0 && p["forwards"].as_u64().unwrap() > 0),
        "{points:?}"
    );
    let of = |name: &str| fs::read_to_string(folder.path().join("bench").join(name)).unwrap();
    assert_eq!(of("results.csv").lines().count(), 7);
    assert!(of("index.html").contains("<svg") && !of("index.html").contains("NaN"));
    let result: serde_json::Value = serde_json::from_str(&of("results.json")).unwrap();
    for p in result["points"].as_array().unwrap() {
        let [kept] = p["kept"].as_array().unwrap().as_slice() else { panic!("{p}") };
        assert_eq!(kept["settings"]["policy"], p["policy"], "{p}");
        assert!(kept["trajectory"]["steps"].as_array().unwrap().iter().all(|s| s.get("r").is_none()), "{p}");
        assert!(!kept["pieces"].as_object().unwrap().is_empty() && p["parameters"].is_string(), "{p}");
    }
    fs::write(
        folder.path().join("grid.json"),
        r#"{"policies": [{"kind": "threshold", "tau": [0.3, 0.9]}], "temperatures": [1]}"#,
    )
    .unwrap();
    let grid =
        ["--grid", "grid.json", "--keep", "0", "--out", "grid", "--playground", "https://example.org/"];
    let ended = bench(&grid);
    done(&ended);
    assert_eq!(ended.json()["points"].as_array().unwrap().len(), 3, "the reference and two thresholds");
    let page = fs::read_to_string(folder.path().join("grid/index.html")).unwrap();
    assert!(page.contains("No recording") && !page.contains("#w="));
    bench(&["--grid", "nowhere.json"]).refused(2, &["nowhere.json"]);
    bench(&["--name", "../x"]).refused(2, &["--name"]);
    bench(&["--out", "bench"]).refused(2, &["there already"]);
    bench(&["--policy", "edit", "--window", "30"]).refused(2, &["--window"]);

    done(&run(&["models", "export", "block", "--to", "gguf", "--out", "block.gguf", "--json"]));
    let text = |model: &str| {
        let ended = run(&[
            "sample",
            "--model",
            model,
            "--length",
            "24",
            "--seed",
            "1",
            "--temperature",
            "1",
            "--json",
        ]);
        done(&ended);
        ended.json()["text"].as_str().unwrap().to_string()
    };
    assert_eq!(text("block.gguf"), text("block"));
    // a score that needs word counts says so until they are there; what the decoding lab adds runs from outside
    let sample = |policy: &str, more: &[&str]| {
        let args = ["sample", "--model", "block", "--length", "24", "--json", "--policy", policy];
        run(&[&args[..], more].concat())
    };
    let pc = r#"{"kind": "top_prob", "score": "pc"}"#;
    sample(pc, &[]).refused(2, &["frequencies.json", "hilda models frequencies"]);
    done(&run(&["models", "frequencies", "block", "--data", "train.txt"]));
    run(&["models", "frequencies", "block.gguf", "--data", "train.txt"]).refused(2, &["block.gguf"]);
    run(&["models", "frequencies", "block", "--data", "none.txt"]).refused(2, &["none.txt"]);
    done(&sample(pc, &[]));
    // and they go along into a page folder and a model folder
    for to in ["page", "hf"] {
        let out = format!("counted-{to}");
        done(&run(&["models", "export", "block", "--to", to, "--out", &out]));
        let counted = fs::read(folder.path().join(&out).join("frequencies.json")).unwrap();
        assert!(counted.starts_with(b"{\"tokens\":"));
        let config = fs::read_to_string(folder.path().join(&out).join("config.json")).unwrap();
        assert_eq!(config.contains("\"frequencies\": \"frequencies.json\""), to == "page", "{config}");
        done(&run(&["sample", "--model", &out, "--length", "8", "--policy", "pc-sampler"]));
    }
    done(&sample("hierarchical", &[]));
    // by the names of papers; what does not fit is refused by name, and what the model was not trained for is said
    for preset in
        ["wino", "creditdecoding", "remdm-llada", "klass", "llada2.1-sglang", "diffusion-in-diffusion"]
    {
        done(&sample(preset, &[]));
    }
    let read = sample(r#"{"kind": "draft_refine", "choose": "left_out", "gamma": 0.5}"#, &[]);
    done(&read);
    assert_eq!(read.json()["cost"]["ledger"]["judge"], 1, "{}", read.out);
    let never = sample(r#"{"kind": "threshold", "tau": 1.0}"#, &[]);
    done(&never);
    let ledger = never.json()["cost"]["ledger"].clone();
    assert_eq!(ledger["forced"], ledger["denoise"], "{ledger}");
    sample("winoo", &[]).refused(2, &["winoo", "remdm-loop"]);
    sample(r#"{"kind": "remdm_quota", "from": 2.0}"#, &[]).refused(2, &["from", "share"]);
    sample(r#"{"kind": "edit", "window": 2, "guidance": 1.0}"#, &[]).refused(2, &["window = 1"]);
    sample(r#"{"kind": "best_of", "credit": 1.0}"#, &[]).refused(2, &["credit 0"]);
    let unread = sample("quality", &[]);
    done(&unread);
    assert!(unread.err.contains("not trained to edit"), "{}", unread.err);
    // problems with answers: who solves how many; what is too long for the context is left out
    let problem = |question: &str, answer: u32| json!({"question": question, "answer": format!("so it is\n#### {answer}")});
    let problems =
        [problem("two and two", 4), problem(&"and more ".repeat(400), 5), problem("Lily has a cat", 1)];
    let text: String = problems.iter().map(|p| format!("{p}\n")).collect();
    fs::write(folder.path().join("problems.jsonl"), text).unwrap();
    let solve = |data: &str, length: &str| {
        let args = ["decode-bench", "--model", "block", "--judge", "ar", "--data", data, "--task", "gsm8k"];
        let sizes =
            ["--length", length, "--window", "8", "--policy", "threshold", "--temperature", "0.8", "--json"];
        run(&[&args[..], &sizes].concat())
    };
    let solved = solve("problems.jsonl", "16");
    done(&solved);
    assert_eq!(solved.json()["texts"], 2, "{}", solved.err);
    assert!(solved.err.contains("1 problems are longer"), "{}", solved.err);
    assert!(solved.json()["points"].as_array().unwrap().iter().all(|p| p["accuracy"][0].is_number()));
    solve("valid.txt", "16").refused(2, &["valid.txt"]);
    solve("problems.jsonl", "4000").refused(2, &["no problem fits"]);
    // a switch is learned from both of its policies' texts, and until then refused
    sample("switch", &[]).refused(2, &["switch.json", "hilda switch fit"]);
    let measure = |more: &[&str]| {
        let args = ["switch", "measure", "--model", "block", "--data", "train.txt", "--out", "s.jsonl"];
        let sizes =
            ["--task", "stories", "--prompt", "4", "--length", "16", "--limit", "60", "--temperature", "1"];
        run(&[&args[..], &sizes, more].concat())
    };
    measure(&[]).refused(2, &["--judge"]);
    done(&measure(&["--judge", "ar"]));
    let measured = || fs::read_to_string(folder.path().join("s.jsonl")).unwrap();
    let written = measured().lines().count();
    assert!(written > 40, "{written}");
    // nothing is written twice, and nothing else is mixed in
    done(&measure(&["--judge", "ar"]));
    assert_eq!(measured().lines().count(), written);
    measure(&["--judge", "ar", "--seed", "1"]).refused(2, &["s.jsonl", "another way"]);
    let quality =
        |line: &str| serde_json::from_str::<Value>(line).unwrap()["fast"]["quality"].as_f64().unwrap();
    let mut qualities: Vec<f64> = measured().lines().skip(1).map(quality).collect();
    qualities.sort_by(f64::total_cmp);
    let median = qualities[qualities.len() / 2].to_string();
    let fit = |more: &[&str]| {
        let args = ["switch", "fit", "--from", "s.jsonl", "--folds", "2", "--target", "wrong", "--json"];
        run(&[&args[..], &["--below", &median], more].concat())
    };
    fit(&["--features", "near,open"]).refused(2, &["--features"]);
    fit(&["--model", "block.gguf"]).refused(2, &["block.gguf"]);
    let ended = fit(&["--model", "block", "--at", "0,50,100"]);
    done(&ended);
    let report = ended.json();
    let constant = &report["decides"][0];
    assert_eq!(
        (&constant["name"], &constant["auroc"]["value"]),
        (&"constant".into(), &0.5.into()),
        "{report}"
    );
    let ends = [&report["frontier"][3], &report["frontier"][5]];
    assert!(ends[0]["slow"] == 1.0 && ends[1]["slow"] == 0.0, "{report}");
    let chosen = sample(r#"{"kind": "switch", "at": 100}"#, &[]);
    done(&chosen);
    let fast = sample(r#"{"kind": "threshold", "tau": 0}"#, &[]);
    assert_eq!(chosen.json()["text"], fast.json()["text"]);
    let steps = chosen.json()["trajectory"]["steps"].as_array().unwrap().clone();
    let told: Vec<&Value> = steps.iter().map(|s| &s["t"]["switch"]).filter(|s| s.is_object()).collect();
    assert!(told.len() == 1 && told[0]["slow"] == false && told[0]["d"].is_number(), "{told:?}");
    let cost = |ended: &Ended| {
        done(ended);
        ended.json()["cost"].clone()
    };
    let wino = cost(&sample(r#"{"kind": "wino", "tau_wide": 0.05}"#, &[]));
    assert!(wino["ledger"]["shadow"].as_u64().unwrap() > 0, "{wino}");
    let delayed = r#"{"kind": "threshold", "cache": "delayed", "cache_check": true}"#;
    let cached = cost(&sample(delayed, &["--whole"]));
    assert!(cached["divergence"]["rows"].as_u64().unwrap() > 0, "{cached}");
    assert!(cached["cache_bytes"].as_u64().unwrap() > 0, "{cached}");
    // finished blocks rounded and pressed: what that costs is said, and what it needs
    let pressed = |caching: &str| {
        let policy =
            format!(r#"{{"kind": "left_to_right", "cache_block": 8, "cache_check": true, {caching}}}"#);
        run(&["sample", "--model", "ar", "--length", "40", "--json", "--policy", &policy])
    };
    let exact = cost(&pressed(r#""cache_storage": "offloaded""#));
    assert_eq!((&exact["cache"], &exact["divergence"]), (&"exact".into(), &Value::Null), "{exact}");
    let q4 = cost(&pressed(r#""cache_storage": "q4", "cache_press": "keydiff""#));
    assert!(q4["cache_bytes"].as_u64() < exact["cache_bytes"].as_u64(), "{q4} {exact}");
    assert!(q4["cache"].as_str().unwrap().starts_with("approximate"), "{q4}");
    let kvzap = r#""cache_press": "kvzap""#;
    pressed(kvzap).refused(2, &["kvzap.json", "hilda models kvzap"]);
    done(&run(&["models", "kvzap", "ar", "--data", "train.txt", "--context", "16"]));
    let zapped = cost(&pressed(kvzap));
    assert!(zapped["ledger"]["evicted"].as_u64().unwrap() > 0, "{zapped}");
    run(&["models", "kvzap", "ar", "--data", "train.txt", "--context", "4000"]).refused(2, &["4000"]);
    sample(r#"{"kind": "threshold", "cache_storage": "q8"}"#, &["--whole"])
        .refused(2, &["no block is ever finished"]);
    sample(r#"{"kind": "wino", "cache": "dual"}"#, &["--whole"])
        .refused(2, &["wino", "the block's own keys"]);
    run(&["models", "export", "block", "--to", "gguf", "--out", "block.gguf"]).refused(2, &["there already"]);
    run(&["models", "export", "block", "--to", "hf", "--out", "q", "--dtype", "q8_0"]).refused(2, &["q8_0"]);
    // a conversion is a run: it is there already, and it resumes
    run(&["convert", "--from", "ar.gguf", "--recipe", "c.toml", "--run", "block"])
        .refused(2, &["holds a run already"]);
    done(&run(&["train", "--run", "block"]));
}

#[test]
fn a_model_goes_to_the_page_and_says_what_that_costs() {
    let hilda = hilda_or_skip!("a_model_goes_to_the_page_and_says_what_that_costs");
    let folder = trained(&hilda);
    let run = |args: &[&str]| program::run(&hilda, folder.path(), args);
    let export = |dtype: &str, out: &str| {
        let args = ["models", "export", "ar", "--to", "page", "--dtype", dtype, "--out", out];
        let ended = run(&[&args[..], &["--measure", "valid.txt", "--rows", "16", "--json"]].concat());
        done(&ended);
        ended.json()["quantisation"].clone()
    };
    let (int8, q4_0) = (export("int8", "int8"), export("q4_0", "q4_0"));
    let relative = |v: &Value| v["relative"].as_f64().unwrap();
    assert!(relative(&int8).abs() < 0.005, "{int8}");
    assert!(relative(&q4_0).abs() < 0.2 && relative(&q4_0) != relative(&int8), "{q4_0}");
    // what was measured is what the folder gives
    let args = ["eval", "nelbo", "--model", "q4_0", "--data", "valid.txt", "--limit", "16", "--json"];
    let again = run(&args).json()["nelbo"].as_f64().unwrap();
    assert_eq!(again, q4_0["quantised"]["value"].as_f64().unwrap());
    let card = fs::read_to_string(folder.path().join("q4_0/README.md")).unwrap();
    assert!(card.contains("against float32") && card.contains("Q4_0"), "{card}");
    done(&run(&["models", "check", "q4_0"]));
    let shown = run(&["models", "show", "int8", "--json"]).json();
    assert_eq!((&shown["page"]["fits"], &shown["formats"]["I8"][0]), (&true.into(), &15.into()), "{shown}");
    // a piece that is damaged is named
    let piece = folder.path().join("int8/model-00001-of-00001.safetensors");
    let whole = fs::read(&piece).unwrap();
    fs::write(&piece, &whole[..whole.len() / 2]).unwrap();
    run(&["models", "check", "int8"]).refused(2, &["problems"]);
    run(&["sample", "--model", "int8"]).refused(2, &["model-00001-of-00001.safetensors"]);
    for (to, dtype, word) in
        [("page", "f16", "int8 or q4_0"), ("hf", "q4_0", "f32 or f16"), ("gguf", "int8", "q8_0")]
    {
        run(&["models", "export", "ar", "--to", to, "--dtype", dtype, "--out", "x"]).refused(2, &[word]);
    }
    run(&["models", "export", "ar", "--to", "hf", "--out", "x", "--measure", "valid.txt"])
        .refused(2, &["--to page"]);
    run(&["models", "export", "ar", "--to", "page", "--out", "x", "--measure", "no.txt"])
        .refused(2, &["no.txt"]);
    assert!(!folder.path().join("x").exists());
}

#[test]
fn every_arm_of_a_conversion_runs() {
    let hilda = hilda_or_skip!("every_arm_of_a_conversion_runs");
    let folder = trained(&hilda);
    let run = |args: &[&str]| program::run(&hilda, folder.path(), args);
    let arms = [
        ("annealed", "", "objective = \"mdlm\"\nshift = true\nanneal = 20"),
        ("noshift", "", "objective = \"mdlm\""),
        ("views", "", "objective = \"block\"\nblock_size = 8\nshift = true\ncomplementary = true"),
        ("wholeviews", "", "objective = \"mdlm\"\nshift = true\ncomplementary = true"),
        ("lora", "[lora]\nrank = 4", "objective = \"block\"\nblock_size = 8\nshift = true"),
    ];
    for (name, extra, phase) in arms {
        fs::write(folder.path().join("c.toml"), conversion(name, extra, phase)).unwrap();
        let ended = run(&["convert", "--from", "ar", "--recipe", "c.toml", "--run", name, "--json"]);
        done(&ended);
        let status = ended.json();
        assert_eq!(
            (status["state"].as_str(), status["step"].as_u64()),
            (Some("finished"), Some(40)),
            "{name}"
        );
        // 320 tokens without any knowledge cost ln 320 = 5.77 nats each
        assert!(status["headline"]["value"].as_f64().unwrap() < 5.0, "{name}: {status}");
        done(&run(&["models", "check", name]));
    }
    // adapters are merged in the checkpoint and kept apart beside it
    let adapter = folder.path().join("lora/ckpt/step-40/adapter");
    let config: Value =
        serde_json::from_slice(&fs::read(adapter.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!((config["peft_type"].as_str(), config["r"].as_u64()), (Some("LORA"), Some(4)));
    let with = adapter.to_str().unwrap();
    done(&run(&["models", "export", "ar", "--adapter", with, "--to", "hf", "--out", "merged"]));
    let weights = |at: &str| fs::read(folder.path().join(at).join("model.safetensors")).unwrap();
    assert!(weights("merged") == weights("lora/ckpt/step-40"), "base and adapter are not the merged model");
}

#[test]
fn damage_is_named_and_ends_with_code_2() {
    let hilda = hilda_or_skip!("damage_is_named_and_ends_with_code_2");
    let folder = trained(&hilda);
    let run = |args: &[&str]| program::run(&hilda, folder.path(), args);
    done(&run(&["models", "export", "ar", "--to", "hf", "--out", "m"]));
    let listed = run(&["models", "list", ".", "--json"]).json();
    assert!(
        listed.as_array().unwrap().iter().any(|m| m["name"] == "m" && m["problems"] == serde_json::json!([]))
    );
    let config = folder.path().join("m/config.json");
    let good = fs::read_to_string(&config).unwrap();
    fs::write(&config, good.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3")).unwrap();
    let ended = run(&["models", "check", "m", "--json"]);
    ended.refused(2, &["9 problems"]);
    let report = ended.json();
    assert_eq!(
        (&report["ok"], &report["problems"][0]["kind"]),
        (&false.into(), &"missing".into()),
        "{report}"
    );
    fs::write(folder.path().join("c.toml"), conversion("c", "", "objective = \"mdlm\"")).unwrap();
    run(&["convert", "--from", "m", "--recipe", "c.toml", "--run", "x"]).refused(2, &["model.layers.2"]);
    // the shipped recipes have longer rows than this model knows
    run(&["convert", "--from", "ar", "--data", "train.txt", "--run", "x"])
        .refused(2, &["model.context", "64"]);
    fs::write(&config, good.replace("\"llama\"", "\"mamba\"")).unwrap();
    run(&["models", "check", "m"]).refused(2, &["1 problems"]);
    run(&["convert", "--from", "m", "--data", "train.txt"]).refused(2, &["mamba", "gemma3_text"]);
    run(&["convert", "--from", "org/name"]).refused(2, &["hilda pull org/name"]);
    run(&["convert", "--from", "ar", "--recipe", "convert-nothing"]).refused(2, &["convert-block"]);
    run(&["models", "show", "org/name"]).refused(2, &["hilda pull org/name"]);
    run(&["pull", "../x"]).refused(2, &["ORG/NAME"]);
    assert!(!folder.path().join("x").exists() && !folder.path().join("data/models").exists());
}
