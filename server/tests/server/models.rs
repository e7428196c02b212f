//! Models: cards, the files that the page loads, completions, publishing.

use std::{fs, process::Command};

use hilda_engine::{
    decode::{Decoder, ForwardRequest, StepKind, Trajectory, wire::RemoteForward},
    model::{
        checkpoint,
        page::{Index, Loader},
        session::Pending,
        shards::INDEX,
    },
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    setup::{add_model, add_pulled, data_folder},
    site::{Site, assert_problem},
};

const ID: &str = "with-model";

fn site() -> Site {
    let s = Site::local();
    add_model(s.data.path(), ID);
    s
}

#[tokio::test(flavor = "multi_thread")]
async fn cards_and_files_of_a_checkpoint() {
    let s = site();
    let cards = s.get("/api/models").await.json();
    let card = cards.as_array().unwrap().iter().find(|c| c["id"] == ID).unwrap();
    assert_eq!(
        (card["run"].as_str(), card["step"].as_u64(), card["context"].as_u64()),
        (Some(ID), Some(7), Some(48))
    );
    let list = s.get("/v1/models").await.json();
    assert!(list["data"].as_array().unwrap().iter().any(|m| m["id"] == ID));
    let config = s.get(&format!("/api/runs/{ID}/model/config.json")).await;
    assert_eq!(config.headers["content-type"], "application/json");
    let etag = config.headers["etag"].to_str().unwrap().to_string();
    let again =
        s.send("GET", &format!("/api/runs/{ID}/model/config.json"), &[("if-none-match", &etag)], "").await;
    assert_eq!(again.status, 304);
    // int8 rows that the engine reads back, close to the weights they came from
    let bytes = s.bytes(&format!("/api/runs/{ID}/model/model.safetensors")).await;
    let small = checkpoint::load(&config.body, &bytes).unwrap();
    let whole = fs::read(s.data.path().join(format!("runs/{ID}/ckpt/step-7/model.safetensors"))).unwrap();
    assert!(bytes.len() * 3 < whole.len(), "{} of {}", bytes.len(), whole.len());
    assert!(bytes.len().abs_diff(card["bytes"].as_u64().unwrap() as usize) < 8192);
    let whole = checkpoint::load(&config.body, &whole).unwrap();
    let far = whole.params.iter().zip(&small.params).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    let largest = whole.params.iter().fold(0f32, |m, x| m.max(x.abs()));
    assert!(far <= largest / 127.0, "{far} of {largest}");
    for name in ["trainer.safetensors", "README.md", "..%2f..%2frun.toml", ".."] {
        assert_eq!(s.get(&format!("/api/runs/{ID}/model/{name}")).await.status, 404, "{name}");
    }
    fs::write(s.data.path().join(format!("runs/{ID}/ckpt/step-7/model.safetensors")), [0xff; 64]).unwrap();
    let damaged = Site::local();
    add_model(damaged.data.path(), ID);
    fs::write(damaged.data.path().join(format!("runs/{ID}/ckpt/step-7/model.safetensors")), [0xff; 64])
        .unwrap();
    assert_problem(&damaged.get(&format!("/api/runs/{ID}/model/model.safetensors")).await, 500);
    assert_problem(&damaged.post("/v1/completions", json!({ "model": ID, "prompt": "Once" })).await, 500);
}

const PULLED: &str = "org/cats-1";

#[tokio::test(flavor = "multi_thread")]
async fn a_pulled_model_has_a_card_and_comes_in_pieces() {
    let s = site();
    add_pulled(s.data.path(), PULLED);
    let card_of =
        |cards: &Value| cards.as_array().unwrap().iter().find(|c| c["id"] == PULLED).cloned().unwrap();
    let card = card_of(&s.get("/api/models").await.json());
    assert_eq!((card["licence"].as_str(), card["run"].as_str()), (Some("apache-2.0"), None));
    assert_eq!(card["card"], "# A model\n\nIt writes about cats.");
    assert_eq!((card["family"].as_str(), &card["problems"]), (Some("llama"), &json!([])));
    assert_eq!((&card["formats"], &card["page"]["fits"]), (&json!(["F32"]), &json!(true)));
    assert_eq!((&card["memory"]["decode"], &card["memory"]["train"]), (&json!(true), &json!(true)));
    assert!(card["disk_bytes"].as_u64() > card["page"]["bytes"].as_u64());
    let base = card["base"].as_str().unwrap();
    assert_eq!(base, "/api/models/org/cats-1/");

    let config = s.get(&format!("{base}config.json")).await;
    assert!(config.body.contains(INDEX), "{}", config.body);
    let index = Index::parse(&s.bytes(&format!("{base}{INDEX}")).await).unwrap();
    let mut loader = Loader::new(&config.body, index.total()).unwrap();
    for piece in &index.metadata.pieces {
        let bytes = s.bytes(&format!("{base}{}", piece.file)).await;
        assert_eq!(piece.sha256, Some(hex::encode(Sha256::digest(&bytes))));
        loader.add(&bytes).unwrap();
    }
    let loaded = loader.finish().unwrap();
    let whole = fs::read(s.data.path().join("models").join(PULLED).join("model.safetensors")).unwrap();
    let whole = checkpoint::load(&config.body, &whole).unwrap();
    let far = whole.params.iter().zip(&loaded.params).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(far > 0.0 && far < 1e-3, "{far}");
    // a run comes in pieces too
    let run = format!("/api/runs/{ID}/model/");
    Index::parse(&s.bytes(&format!("{run}{INDEX}")).await).unwrap();

    let tag = s.get(&format!("{base}{INDEX}")).await.headers["etag"].to_str().unwrap().to_string();
    let again = s.send("GET", &format!("{base}{INDEX}"), &[("if-none-match", &tag)], "").await;
    assert_eq!(again.status, 304);
    for name in ["README.md", "model-9.safetensors", "..", "%2e%2e%2fhub.json", "model-..%2fx.safetensors"] {
        assert_eq!(s.get(&format!("{base}{name}")).await.status, 404, "{name}");
    }
    assert_eq!(s.get("/api/models/org/none/config.json").await.status, 404);

    // it also writes here, under its name
    let ask = json!({ "model": PULLED, "prompt": "Once", "max_tokens": 8 });
    assert_eq!(s.post("/v1/completions", ask).await.status, 200);

    // what is wrong with it is on its card
    let damaged = Site::local();
    add_pulled(damaged.data.path(), PULLED);
    let weights = damaged.data.path().join("models").join(PULLED).join("model.safetensors");
    fs::write(&weights, [0xff; 64]).unwrap();
    let card = card_of(&damaged.get("/api/models").await.json());
    assert!(card["problems"][0].as_str().unwrap().contains("model.safetensors"), "{card}");
    assert_problem(&damaged.get(&format!("{base}{INDEX}")).await, 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decoding_elsewhere_is_computed_here() {
    let s = site();
    let ask = json!({
        "model": ID, "prompt": "Once upon", "max_tokens": 24, "seed": 3, "temperature": 1.0,
        "diffusion": { "policy": { "kind": "threshold", "tau": 0.3 }, "trajectory": true },
    });
    let whole = s.post("/v1/completions", ask).await.json();
    let record: Trajectory = serde_json::from_value(whole["diffusion"]["trajectory"].clone()).unwrap();

    let mut decoder = Decoder::new(record.header.config.clone()).unwrap();
    let (mut cached, mut forwards) = (0u32, 0);
    let forward = |cached: u32, request: &ForwardRequest| {
        let (model, session) = (ID.to_string(), "one".to_string());
        serde_json::to_string(&RemoteForward { model, session, cached, request: request.clone() }).unwrap()
    };
    let json = [("content-type", "application/json")];
    while let Some(request) = decoder.next() {
        // the server forgets: the text is begun again from its ids, and ends the same
        if forwards == 3 {
            let r = s.send("POST", "/api/models/forward", &json, forward(cached + 1, &request)).await;
            assert_problem(&r, 409);
            decoder.forget_cache();
            (cached, forwards) = (0, 4);
            continue;
        }
        let bytes = s.post_bytes("/api/models/forward", &forward(cached, &request)).await;
        let values: Vec<f32> =
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let pending = Pending::within(&request, values.len());
        assert_eq!(values.len(), pending.len());
        cached = request.cached_after(cached);
        decoder.apply(pending.decode(&values)).unwrap();
        forwards += 1;
    }
    assert!(forwards > 4 && cached > 0, "{forwards} {cached}");
    assert_eq!(decoder.trajectory().footer.ids, record.footer.ids);

    let mut decoder = Decoder::new(record.header.config.clone()).unwrap();
    let request = decoder.next().unwrap();
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut body: Value = serde_json::from_str(&forward(0, &request)).unwrap();
        change(&mut body);
        body
    };
    for (body, status) in [
        (refused(&|b| b["model"] = "nobody".into()), 404),
        (refused(&|b| b["session"] = "".into()), 422),
        (refused(&|b| b["cached"] = 7.into()), 409),
        (refused(&|b| b["request"]["ids"][0] = 1_000_000.into()), 422),
        (refused(&|b| b["request"]["query_positions"][0] = 4_000_000.into()), 422),
        (refused(&|b| b["request"]["want"]["top_k"] = 4096.into()), 422),
        (refused(&|b| b["request"]["want"]["temperature"] = (-1).into()), 422),
        (refused(&|b| b["request"]["want"]["rows"] = json!(vec![1; 500])), 422),
        (refused(&|b| b["request"]["cache"] = json!({ "truncate": { "keep": 9 } })), 422),
        (refused(&|b| b["request"]["rule"]["attention"] = "diagonal".into()), 400),
        (refused(&|b| b["request"] = json!({})), 400),
    ] {
        assert_problem(&s.post("/api/models/forward", body).await, status);
    }
}

fn events(body: &str) -> Vec<Value> {
    let data: Vec<&str> = body.lines().filter_map(|l| l.strip_prefix("data: ")).collect();
    assert_eq!(data.last(), Some(&"[DONE]"));
    data[..data.len() - 1].iter().map(|d| serde_json::from_str(d).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_whole_and_step_by_step() {
    let s = site();
    let ask = json!({
        "model": ID, "prompt": "Once upon", "max_tokens": 24, "seed": 3, "temperature": 1.0,
        "diffusion": { "policy": { "kind": "threshold", "tau": 0.3 }, "trajectory": true },
    });
    let r = s.post("/v1/completions", ask.clone()).await;
    assert_eq!(r.status, 200, "{}", r.body);
    let whole = r.json();
    assert_eq!((whole["object"].as_str(), whole["model"].as_str()), (Some("text_completion"), Some(ID)));
    let text = whole["choices"][0]["text"].as_str().unwrap();
    assert!(!text.is_empty() && !text.contains('\u{2591}'), "{text:?}");
    assert!(whole["usage"]["completion_tokens"].as_u64().unwrap() <= 24);
    let record: Trajectory = serde_json::from_value(whole["diffusion"]["trajectory"].clone()).unwrap();
    record.replay().unwrap();
    assert_eq!(record.footer.ledger.forwards as u64, whole["diffusion"]["forwards"].as_u64().unwrap());
    // the same again, streamed: the pieces add up to the same text
    let mut ask = ask;
    ask["stream"] = true.into();
    let r = s.post("/v1/completions", ask).await;
    assert_eq!(r.headers["content-type"], "text/event-stream");
    let all = events(&r.body);
    let streamed: String = all.iter().map(|e| e["choices"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(streamed, text);
    let denoise = record.steps.iter().filter(|s| s.kind == StepKind::Denoise).count();
    assert_eq!(all.len(), denoise + 1);
    let steps: Vec<&Value> = all[..denoise].iter().map(|e| &e["diffusion"]).collect();
    let masked: Vec<u64> = steps.iter().map(|d| d["counts"]["masked"].as_u64().unwrap()).collect();
    assert!(masked.windows(2).all(|w| w[0] >= w[1]) && masked[0] > 0, "{masked:?}");
    let kept: Vec<&str> = steps.iter().filter_map(|d| d["text"].as_str()).collect();
    assert!(
        kept.len() >= 2 && kept[0].contains('\u{2591}') && !kept[kept.len() - 1].contains('\u{2591}'),
        "{kept:?}"
    );
    assert_eq!(steps.iter().filter(|d| d["finished"] == true).count(), 1);
    assert!(steps.iter().all(|d| d["entropy"].as_f64().is_some_and(|h| h >= 0.0)));
    // the edits alone lead to the text
    let start = record.header.config.prompt.len();
    let mut ids = vec![record.header.config.mask_id; record.footer.ids.len() - start];
    for edit in steps.iter().flat_map(|d| d["edits"].as_array().unwrap()) {
        let (at, from, to) = (edit["position"].as_u64().unwrap() as usize, &edit["from"], &edit["to"]);
        assert_eq!(*from, ids[at - start], "{edit}");
        ids[at - start] = to.as_u64().unwrap() as u32;
        assert!(edit["confidence"].as_f64().is_some_and(|p| p > 0.0 && p <= 1.0), "{edit}");
    }
    assert_eq!(ids, record.footer.ids[start..]);
    assert!(all.last().unwrap()["choices"][0]["finish_reason"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn several_texts_are_those_that_would_be_written_alone() {
    let s = site();
    let mut ask = json!({ "model": ID, "prompt": ["Once upon", "a cat"], "n": 2, "max_tokens": 12, "seed": 5, "temperature": 1.0 });
    let all = s.post("/v1/completions", ask.clone()).await.json();
    let choices = all["choices"].as_array().unwrap();
    let text = |c: &Value| c["text"].as_str().unwrap().to_string();
    assert_eq!(choices.iter().map(|c| c["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(all["diffusion"]["texts"].as_array().unwrap().len(), 4);
    let mut tokens = 0;
    for (i, c) in choices.iter().enumerate() {
        let alone = json!({ "model": ID, "prompt": ask["prompt"][i / 2], "max_tokens": 12, "seed": 5 + i % 2, "temperature": 1.0 });
        let alone = s.post("/v1/completions", alone).await.json();
        assert_eq!(text(&alone["choices"][0]), text(c), "{i}");
        tokens += alone["usage"]["total_tokens"].as_u64().unwrap();
    }
    assert_eq!(all["usage"]["total_tokens"], tokens);
    ask["stream"] = true.into();
    let events = events(&s.post("/v1/completions", ask).await.body);
    for (i, c) in choices.iter().enumerate() {
        let of = events.iter().map(|e| &e["choices"][0]).filter(|c| c["index"] == i);
        assert_eq!(of.map(text).collect::<String>(), text(c), "{i}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_strings_cut_in_both_forms() {
    let s = site();
    let mut ask = json!({ "model": ID, "prompt": "Once", "max_tokens": 32, "seed": 1, "temperature": 1.0 });
    let whole = s.post("/v1/completions", ask.clone()).await.json();
    let whole = whole["choices"][0]["text"].as_str().unwrap().to_string();
    let stop: String = whole.chars().skip(5).take(2).collect();
    let want = &whole[..whole.find(&stop).unwrap()];
    ask["stop"] = json!([stop]);
    let cut = s.post("/v1/completions", ask.clone()).await.json();
    assert_eq!(cut["choices"][0]["text"], want);
    assert_eq!(cut["choices"][0]["finish_reason"], "stop");
    ask["stream"] = true.into();
    let all = events(&s.post("/v1/completions", ask).await.body);
    let streamed: String = all.iter().map(|e| e["choices"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(streamed, want);
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_completions_name_the_field() {
    let s = site();
    for (change, status, field) in [
        (json!({ "model": "nobody" }), 404, "model"),
        (json!({ "model": "../../etc" }), 404, "model"),
        (json!({ "prompt": "a cat ".repeat(60) }), 422, "max_tokens"),
        (json!({ "max_tokens": 4000 }), 422, "max_tokens"),
        (json!({ "max_tokens": 0 }), 422, "max_tokens"),
        (json!({ "prompt": [] }), 422, "prompt"),
        (json!({ "prompt": vec!["a"; 17] }), 422, "prompt"),
        (json!({ "n": 0 }), 422, "n"),
        (json!({ "prompt": ["a", "b"], "n": 9 }), 422, "n"),
        (json!({ "suffix": "the end. ".repeat(60) }), 422, "max_tokens"),
        (json!({ "suffix": "the end.", "diffusion": { "holes": true } }), 422, "suffix"),
        (json!({ "temperature": -1.0 }), 422, "temperature"),
        (json!({ "diffusion": { "policy": { "kind": "threshold", "tau": 7.0 } } }), 422, "diffusion.policy"),
        (json!({ "diffusion": { "policy": { "kind": "klass", "top_p": 0.0 } } }), 422, "diffusion.policy"),
        (json!({ "diffusion": { "policy": { "kind": "order_token_search" } } }), 422, "diffusion.policy"),
        (
            json!({ "diffusion": { "policy": { "kind": "threshold", "cache": "dual" } } }),
            422,
            "diffusion.policy",
        ),
        // a template longer than the context
        (
            json!({ "prompt": format!("Once {} cat", "_".repeat(60)), "diffusion": { "holes": true } }),
            422,
            "prompt",
        ),
        // what this model's folder, or another parameter, does not allow
        (json!({ "diffusion": { "policy": "pc-sampler" } }), 422, "diffusion.policy"),
        (json!({ "stream": true, "diffusion": { "policy": "pc-sampler" } }), 422, "diffusion.policy"),
        (json!({ "diffusion": { "policy": "fast-dllm-dual" } }), 422, "diffusion.policy"),
        (
            json!({ "diffusion": { "policy": { "kind": "edit", "window": 2, "guidance": 1.0 } } }),
            422,
            "diffusion.policy",
        ),
        (json!({ "diffusion": { "policy": { "kind": "best_of", "credit": 0.7 } } }), 422, "diffusion.policy"),
        (
            json!({ "diffusion": { "policy": { "kind": "remdm_quota", "remasked": 0 } } }),
            422,
            "diffusion.policy",
        ),
        (json!({ "temperature": 1.5, "diffusion": { "policy": "eb-sampler" } }), 422, "temperature"),
    ] {
        let mut ask = json!({ "model": ID, "prompt": "Once", "max_tokens": 8 });
        for (k, v) in change.as_object().unwrap() {
            ask[k] = v.clone();
        }
        let r = s.post("/v1/completions", ask).await;
        assert_eq!(assert_problem(&r, status)["field"], field, "{change}");
    }
    let r = s.post("/v1/completions", json!({ "model": ID })).await;
    assert_eq!(assert_problem(&r, 400)["field"], "prompt");
    let r = s.post("/v1/completions", json!({ "model": ID, "prompt": "a", "diffusion": { "tau": 1 } })).await;
    assert_problem(&r, 400);
    for (policy, word) in
        [(json!("winoo"), "wino"), (json!({ "kind": "winoo" }), "winoo"), (json!(3), "policy")]
    {
        let ask = json!({ "model": ID, "prompt": "a", "diffusion": { "policy": policy } });
        let r = s.post("/v1/completions", ask).await;
        let detail = assert_problem(&r, 400)["detail"].to_string();
        assert!(detail.contains(word), "{detail}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn text_after_a_hole_stays_as_it_was_given() {
    let s = site();
    let ask = |more: Value| {
        let mut ask =
            json!({ "model": ID, "seed": 2, "temperature": 0.7, "diffusion": { "trajectory": true } });
        for (k, v) in more.as_object().unwrap() {
            match k.as_str() {
                "holes" => ask["diffusion"]["holes"] = v.clone(),
                _ => ask[k] = v.clone(),
            }
        }
        ask
    };
    for (more, written) in [
        (json!({ "prompt": "Once upon", "suffix": " the end", "max_tokens": 6 }), 6),
        (json!({ "prompt": "Once ____ a __ the end", "holes": true }), 6),
    ] {
        let r = s.post("/v1/completions", ask(more.clone())).await;
        assert_eq!(r.status, 200, "{more}: {}", r.body);
        let answer = r.json();
        let record: Trajectory = serde_json::from_value(answer["diffusion"]["trajectory"].clone()).unwrap();
        let config = &record.header.config;
        assert!(!config.fixed.is_empty() && record.header.unseen_fixed.is_empty(), "{config:?}");
        assert!(config.fixed.iter().all(|(pos, id)| record.footer.ids[*pos as usize] == *id));
        assert_eq!(config.length as usize - config.prompt.len() - config.fixed.len(), written);
    }
    // without the switch, underscores are text
    let r = s.post("/v1/completions", ask(json!({ "prompt": "a __ b", "max_tokens": 4 }))).await;
    let record: Trajectory = serde_json::from_value(r.json()["diffusion"]["trajectory"].clone()).unwrap();
    assert!(record.header.config.fixed.is_empty());
}

/// A paper's preset by its name; a threshold that never fires writes all the same and says so; what a model was not trained for
/// is done and remarked, and one that knows no masks is refused by name.
#[tokio::test(flavor = "multi_thread")]
async fn presets_remarks_and_thresholds_that_never_fire() {
    let s = site();
    let ask = |policy: Value| json!({ "model": ID, "prompt": "Once", "max_tokens": 12, "diffusion": { "policy": policy } });
    let answer = s.post("/v1/completions", ask(json!("wino"))).await.json();
    assert_eq!(answer["diffusion"]["policy"]["kind"], "wino", "{answer}");
    let answer = s.post("/v1/completions", ask(json!({ "kind": "threshold", "tau": 1.0 }))).await.json();
    let d = &answer["diffusion"];
    assert_eq!(d["ledger"]["forced"], d["ledger"]["denoise"], "{answer}");
    assert!(d["ledger"]["denoise"].as_u64().unwrap() > 3);
    let answer = s.post("/v1/completions", ask(json!("quality"))).await.json();
    assert!(answer["diffusion"]["remark"].is_null(), "it was trained to edit: {answer}");

    let config = s.data.path().join(format!("runs/{ID}/ckpt/step-7/config.json"));
    let text = fs::read_to_string(&config).unwrap();
    let with = |from: &str, to: &str| {
        let other = Site::local();
        add_model(other.data.path(), ID);
        assert!(text.contains(from), "{text}");
        let config = other.data.path().join(format!("runs/{ID}/ckpt/step-7/config.json"));
        fs::write(config, text.replace(from, to)).unwrap();
        other
    };
    let masks_alone = with("\"edits\": true", "\"edits\": false");
    for stream in [false, true] {
        let mut ask = ask(json!("quality"));
        ask["stream"] = stream.into();
        let answer = masks_alone.post("/v1/completions", ask).await;
        assert_eq!(answer.status, 200);
        assert!(answer.body.contains("not trained to edit"), "{}", answer.body);
    }
    let uniform = with("\"edits\": true", "\"edits\": true, \"uniform\": true");
    let r = uniform.post("/v1/completions", ask(json!("threshold"))).await;
    let problem = assert_problem(&r, 422);
    assert_eq!(problem["field"], "model");
    assert!(problem["detail"].as_str().unwrap().contains("never saw a mask"), "{problem}");
}

/// Token frequencies travel with a model: its configuration names them, and what is no such file is said by name.
#[tokio::test(flavor = "multi_thread")]
async fn frequencies_travel_with_a_model() {
    use hilda_engine::data::{FREQUENCIES, Frequencies};
    let s = site();
    let base = format!("/api/runs/{ID}/model/");
    let config = s.get(&format!("{base}config.json")).await.body;
    assert!(!hilda_engine::model::page::has_frequencies(&config));
    let none = assert_problem(&s.get(&format!("{base}{FREQUENCIES}")).await, 404);
    assert!(none["detail"].as_str().unwrap().contains("hilda models frequencies"), "{none}");

    let known = Site::local();
    add_model(known.data.path(), ID);
    let folder = known.data.path().join(format!("runs/{ID}/ckpt/step-7"));
    let counted = Frequencies::of(&[3, 0, 5, 7]).unwrap();
    fs::write(folder.join(FREQUENCIES), counted.json()).unwrap();
    let config = known.get(&format!("{base}config.json")).await.body;
    assert!(hilda_engine::model::page::has_frequencies(&config), "{config}");
    let bytes = known.bytes(&format!("{base}{FREQUENCIES}")).await;
    assert_eq!(Frequencies::read(&bytes, 4).unwrap(), counted);
    let ask =
        json!({ "model": ID, "prompt": "Once", "max_tokens": 8, "diffusion": { "policy": "pc-sampler" } });
    assert_eq!(known.post("/v1/completions", ask).await.status, 200);

    let damaged = Site::local();
    add_model(damaged.data.path(), ID);
    let folder = damaged.data.path().join(format!("runs/{ID}/ckpt/step-7"));
    fs::write(folder.join(FREQUENCIES), r#"{"tokens": 9, "counts": [1]}"#).unwrap();
    let problem = assert_problem(&damaged.get(&format!("{base}{FREQUENCIES}")).await, 500);
    assert!(problem["detail"].as_str().unwrap().contains(FREQUENCIES), "{problem}");
}

/// Whatever the table lists can be asked for, and its cost comes back; what the model's files do not serve is refused.
#[tokio::test(flavor = "multi_thread")]
async fn every_policy_writes_over_http() {
    use hilda_engine::decode::PolicySpec;
    let s = site();
    let of_blocks = PolicySpec::parameters().iter().filter(|i| i.kind != "order_token_search");
    for info in of_blocks {
        let ask = json!({
            "model": ID, "prompt": "Once", "max_tokens": 12, "temperature": 0.7,
            "diffusion": { "policy": { "kind": info.kind, "top_p": 0.9, "eos": "last" }, "trajectory": true },
        });
        let answer = s.post("/v1/completions", ask).await;
        if info.kind == "switch" {
            // this model's folder has none
            let problem = assert_problem(&answer, 422);
            assert!(problem["detail"].as_str().unwrap().contains("switch.json"), "{problem}");
            assert_eq!(problem["field"], "diffusion.policy");
            continue;
        }
        let answer = answer.json();
        let d = &answer["diffusion"];
        assert_eq!(d["policy"]["kind"], info.kind, "{answer}");
        assert!(d["ledger"]["forwards"].as_u64().unwrap() > 0);
        let t: Trajectory = serde_json::from_value(d["trajectory"].clone()).unwrap();
        t.replay().unwrap();
    }
}

#[test]
fn a_result_is_published_as_a_folder() {
    let data = data_folder();
    add_model(data.path(), ID);
    let out = data.path().join("site");
    let counted = hilda_engine::data::Frequencies::of(&[3, 0, 5]).unwrap();
    let frequencies = format!("runs/{ID}/ckpt/step-7/{}", hilda_engine::data::FREQUENCIES);
    fs::write(data.path().join(frequencies), counted.json()).unwrap();
    let publish = |extra: &[&str]| {
        let ended = Command::new(env!("CARGO_BIN_EXE_hilda"))
            .args(["runs", "publish", ID, "--json", "--out"])
            .arg(&out)
            .args(extra)
            .arg("--data-dir")
            .arg(data.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&ended.stdout).into_owned();
        (ended.status.code(), text, String::from_utf8_lossy(&ended.stderr).into_owned())
    };
    let (code, text, err) = publish(&["--with-model"]);
    assert_eq!(code, Some(0), "{err}");
    let slug = serde_json::from_str::<Value>(&text).unwrap()["slug"].as_str().unwrap().to_string();
    let folder = out.join("r").join(&slug);
    let html = fs::read_to_string(folder.join("index.html")).unwrap();
    assert!(html.starts_with("<!doctype html>") && html.contains("<h1>test</h1>"));
    assert!(fs::read_to_string(out.join("index.html")).unwrap().contains(&format!("r/{slug}/index.html")));
    let result: Value = serde_json::from_slice(&fs::read(folder.join("result.json")).unwrap()).unwrap();
    assert_eq!(result["slug"], slug.as_str());
    let config = fs::read_to_string(folder.join("model/config.json")).unwrap();
    checkpoint::load(&config, &fs::read(folder.join("model/model.safetensors")).unwrap()).unwrap();
    assert!(hilda_engine::model::page::has_frequencies(&config), "{config}");
    assert_eq!(fs::read(folder.join("model/frequencies.json")).unwrap(), counted.json());
    assert!(folder.join("run.toml").is_file());
    // again: the same address; another title: another one
    assert!(publish(&[]).1.contains(&slug));
    assert!(!publish(&["--title", "Second"]).1.contains(&slug));
    let list: Value = serde_json::from_slice(&fs::read(out.join("results.json")).unwrap()).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 2);
    // the page may lie below any path
    let dist = data.path().join("dist");
    fs::create_dir_all(dist.join("assets")).unwrap();
    fs::write(dist.join("index.html"), "<!doctype html><head><base href=\"/\" /></head>").unwrap();
    fs::write(dist.join("assets/a.js"), "1").unwrap();
    let below = data.path().join("below");
    let ended = Command::new(env!("CARGO_BIN_EXE_hilda"))
        .args(["runs", "publish", ID, "--with-page", "--out"])
        .arg(&below)
        .arg("--data-dir")
        .arg(data.path())
        .env("HILDA_DIST", &dist)
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(fs::read_to_string(below.join("index.html")).unwrap().contains("<base href=\"./\""));
    assert!(below.join("assets/a.js").is_file() && below.join("results.html").is_file());
    // never into a folder that holds something else
    fs::write(data.path().join("mine.txt"), "x").unwrap();
    let ended = Command::new(env!("CARGO_BIN_EXE_hilda"))
        .args(["runs", "publish", ID, "--out"])
        .arg(data.path())
        .arg("--data-dir")
        .arg(data.path())
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(2));
    assert!(!data.path().join("index.html").exists());
}
