use super::*;
use crate::config::ModelSpec;
use crate::data::bpe;
use crate::model::checkpoint::{self, Format, MODEL};
use std::fs;

const SERVING: Serving = Serving {
    attention: crate::decode::Attention::Causal,
    block_size: 1,
    shift: true,
    infill: false,
    edits: false,
    uniform: false,
};

fn folder() -> (tempfile::TempDir, ModelConfig, Vec<f32>) {
    let dir = tempfile::tempdir().unwrap();
    let t = bpe::train(&["a cat sat on a mat".repeat(20)], 270).unwrap();
    let spec = ModelSpec { size: Some("tiny".into()), ..Default::default() };
    let s = t.specials();
    let c = spec.resolve(t.vocab(), s.mask, s.eos, t.forbid()).unwrap();
    let params = Layout::new(&c).init(&c, 1);
    fs::write(dir.path().join("config.json"), checkpoint::config_json(&c, SERVING)).unwrap();
    fs::write(dir.path().join(MODEL), checkpoint::save(&c, &params, Format::F32).unwrap()).unwrap();
    fs::write(dir.path().join("tokenizer.json"), t.json()).unwrap();
    (dir, c, params)
}

#[test]
fn a_sound_folder_has_facts_and_no_problems() {
    let (dir, c, params) = folder();
    fs::write(dir.path().join("README.md"), "---\nlanguage: en\nlicense: mit\n---\n# A card\n").unwrap();
    let f = inspect(dir.path()).unwrap();
    assert_eq!(f.problems, []);
    assert_eq!(
        (f.format, f.family, f.parameters),
        ("folder", Some(Family::Llama), Some(c.parameters() as u64))
    );
    assert_eq!((f.licence.as_deref(), f.tokenizer.unwrap().mask), (Some("mit"), ("<|mask|>".into(), 1)));
    assert_eq!((f.formats.len(), f.bytes), (1, 4 * c.parameters() as u64));
    assert!(f.decode_bytes.unwrap() > 4 * params.len() as u64);
    assert!(f.train_bytes.unwrap() > 4 * f.decode_bytes.unwrap() / 2);
    assert!(inspect(&dir.path().join("nowhere")).is_err());
    let e = inspect(&dir.path().join("README.md")).unwrap_err().to_string();
    assert!(e.contains("neither a model folder nor a GGUF file"), "{e}");
}

#[test]
fn every_kind_of_damage_is_named_with_its_tensor() {
    let (dir, c, params) = folder();
    let config = checkpoint::config_json(&c, SERVING);
    let found = |config: &str| {
        fs::write(dir.path().join("config.json"), config).unwrap();
        inspect(dir.path()).unwrap().problems.iter().map(|p| p.to_string()).collect::<Vec<_>>()
    };
    let more = found(&config.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3"));
    assert_eq!(more.len(), 9);
    assert!(
        more.contains(&"tensor model.layers.2.mlp.up_proj.weight [128, 64] is missing".into()),
        "{more:?}"
    );
    let fewer = found(&config.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1"));
    assert!(
        fewer.contains(
            &"tensor model.layers.1.input_layernorm.weight [64] is not part of such a model".into()
        )
    );
    let rows = found(&config.replace("\"vocab_size\": 270", "\"vocab_size\": 269"));
    assert!(rows.iter().any(|p| p.contains("embed_tokens") && p.contains("shape")), "{rows:?}");
    assert!(rows.iter().any(|p| p.starts_with("tokenizer: ") && p.contains("269 rows")), "{rows:?}");
    assert!(found("{}")[0].contains("model_type"));
    // another type of number, one tensor only
    let st = checkpoint::save(&c, &params, Format::F32).unwrap();
    let text = String::from_utf8_lossy(&st[8..]).into_owned();
    let norm = text.find("model.norm.weight").unwrap();
    let mut odd = st.clone();
    let at = 8 + norm + text[norm..].find("F32").unwrap();
    odd[at..at + 3].copy_from_slice(b"I32");
    fs::write(dir.path().join(MODEL), odd).unwrap();
    assert_eq!(found(&config), ["tensor model.norm.weight has type I32, which is not read here"]);
    fs::write(dir.path().join(MODEL), &st[..st.len() - 4]).unwrap();
    assert!(found(&config)[0].contains("model.safetensors: does not read as safetensors"));
    fs::remove_file(dir.path().join(MODEL)).unwrap();
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    let none = found(&config);
    assert!(none[0].contains(MODEL) && none[1].contains("there is none"), "{none:?}");
}

#[test]
fn shards_are_read_through_their_index() {
    let (dir, c, params) = folder();
    let st = checkpoint::save(&c, &params, Format::F32).unwrap();
    let all = checkpoint::tensors(&st).unwrap();
    let names: Vec<String> = all.names().into_iter().map(String::from).collect();
    let mut map = serde_json::Map::new();
    for (i, part) in names.chunks(names.len() / 2 + 1).enumerate() {
        let file = format!("model-{i}.safetensors");
        let of = |n: &String| {
            let t = all.tensor(n).unwrap();
            (n.clone(), t.dtype(), t.shape().to_vec(), t.data().to_vec())
        };
        let tensors: Vec<_> = part.iter().map(of).collect();
        fs::write(dir.path().join(&file), checkpoint::serialize(&tensors).unwrap()).unwrap();
        part.iter().for_each(|n| drop(map.insert(n.clone(), file.clone().into())));
    }
    let index = serde_json::json!({ "weight_map": map }).to_string();
    fs::remove_file(dir.path().join(MODEL)).unwrap();
    fs::write(dir.path().join("model.safetensors.index.json"), &index).unwrap();
    assert_eq!(inspect(dir.path()).unwrap().problems, []);
    assert_eq!(Source::open(dir.path()).unwrap().load().unwrap().params, params);
    fs::remove_file(dir.path().join("model-1.safetensors")).unwrap();
    let problems = inspect(dir.path()).unwrap().problems;
    assert!(
        problems.iter().any(|p| matches!(p, Problem::Index { file, .. } if file == "model-1.safetensors"))
    );
    let e = Source::open(dir.path()).unwrap().load().unwrap_err().to_string();
    assert!(
        e.contains("model.safetensors.index.json") && e.contains("model-1.safetensors is not here"),
        "{e}"
    );
    fs::write(dir.path().join("model.safetensors.index.json"), index.replace("model-1", "../x")).unwrap();
    assert!(
        inspect(dir.path())
            .unwrap()
            .problems
            .iter()
            .any(|p| p.to_string().contains("not a file of this folder"))
    );
}
