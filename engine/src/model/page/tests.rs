use super::*;
use crate::decode::Attention;
use crate::model::checkpoint::parse_config;
use crate::model::shards::{Shards, weight_map};

fn model(kind: &str) -> LoadedModel {
    let json = format!(
        r#"{{"model_type":"{kind}","vocab_size":300,"hidden_size":64,"num_attention_heads":2,"num_key_value_heads":1,
        "intermediate_size":80,"num_hidden_layers":2,"max_position_embeddings":32}}"#
    );
    let (config, mut serving) = parse_config(&json).unwrap();
    serving.attention = Attention::Bidirectional;
    let params = Layout::new(&config).init(&config, 3);
    LoadedModel { config, serving, params }
}

fn written(m: &LoadedModel, dtype: PageDtype, piece: usize) -> (Index, Vec<(String, Vec<u8>)>) {
    let mut files = vec![];
    let write = |name: &str, bytes: &[u8]| {
        files.push((name.to_string(), bytes.to_vec()));
        Ok::<(), CheckpointError>(())
    };
    let index = pieces_of(m, dtype, piece, write).unwrap();
    (index, files)
}

#[test]
fn pieces_come_back_by_loader_and_by_index() {
    for kind in ["llama", "qwen3", "gemma3_text"] {
        let m = model(kind);
        let config = config_json(&m.config, m.serving, false);
        assert!(has_index(&config) && !has_index(&checkpoint::config_json(&m.config, m.serving)));
        for (dtype, most) in [(PageDtype::Int8, 5e-4), (PageDtype::Q4_0, 1.2e-2)] {
            let (index, files) = written(&m, dtype, 7000);
            assert!(files.len() > 3 && files.iter().all(|f| f.1.len() < 7000 + 4096), "{kind}");
            assert!(index.weight_map.keys().any(|k| k.contains(".rows")), "the embedding is cut");
            let json = serde_json::to_vec(&index).unwrap();
            let read = Index::parse(&json).unwrap();
            assert_eq!(read, index);
            assert_eq!(read.total(), Some(files.iter().map(|f| f.1.len() as u64).sum()));
            assert_eq!(read.total(), Some(index.metadata.total_size));
            for (p, (_, bytes)) in read.metadata.pieces.iter().zip(&files) {
                assert_eq!(p.sha256, Some(hex::encode(Sha256::digest(bytes))));
            }
            assert!(bytes(&m.config, dtype) <= read.total().unwrap());
            let mut loader = Loader::new(&config, read.total()).unwrap();
            files.iter().for_each(|(_, bytes)| loader.add(bytes).unwrap());
            let loaded = loader.finish().unwrap();
            assert_eq!((&loaded.config, loaded.serving), (&m.config, m.serving));
            let worst = loaded.params.iter().zip(&m.params).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst > 0.0 && worst <= most, "{kind} {dtype:?}: {worst}");
            // the same numbers for whoever reads the folder by its index
            let contents: Vec<(String, &[u8])> =
                files.iter().map(|(n, b)| (n.clone(), b.as_slice())).collect();
            let (shards, faults) = Shards::many(&weight_map(&json).unwrap(), &contents).unwrap();
            assert_eq!(faults, []);
            assert_eq!(checkpoint::read_params(&m.config, &shards).unwrap(), loaded.params);
        }
    }
}

#[test]
fn blocks_spare_the_embedding_and_odd_rows() {
    let m = model("llama");
    let (index, files) = written(&m, PageDtype::Q4_0, PIECE);
    assert_eq!(files.len(), 1);
    let file = checkpoint::tensors(&files[0].1).unwrap();
    let dtype = |name: &str| file.tensor(name).unwrap().dtype();
    assert_eq!(dtype("model.embed_tokens.weight"), Dtype::I8);
    assert_eq!(dtype("model.layers.0.self_attn.q_proj.weight"), Dtype::U8);
    // rows of 80 are two and a half blocks
    assert_eq!(dtype("model.layers.0.mlp.down_proj.weight"), Dtype::I8);
    assert_eq!(dtype("model.norm.weight"), Dtype::F32);
    assert_eq!(index.metadata.pieces.len(), 1);
}

#[test]
fn what_does_not_come_or_comes_twice_is_named() {
    let m = model("llama");
    let config = config_json(&m.config, m.serving, false);
    let (index, files) = written(&m, PageDtype::Int8, 7000);
    let mut loader = Loader::new(&config, index.total()).unwrap();
    loader.add(&files[0].1).unwrap();
    let e = loader.add(&files[0].1).unwrap_err().to_string();
    assert!(e.contains("have come"), "{e}");
    let mut loader = Loader::new(&config, None).unwrap();
    let e = loader.add(&files[1].1).unwrap_err().to_string();
    assert!(e.contains("0 of 300 have come"), "{e}");
    let mut loader = Loader::new(&config, None).unwrap();
    files[..files.len() - 1].iter().for_each(|f| loader.add(&f.1).unwrap());
    assert!(matches!(loader.finish(), Err(CheckpointError::Missing { .. })));
    assert!(Loader::new(&config, Some(100)).is_err_and(|e| e.to_string().contains("cannot hold")));
}

#[test]
fn an_index_holds_together_or_is_refused() {
    let (index, _) = written(&model("llama"), PageDtype::Int8, 7000);
    let refused = |change: &dyn Fn(&mut Index), word: &str| {
        let mut other = index.clone();
        change(&mut other);
        let e = Index::parse(&serde_json::to_vec(&other).unwrap()).unwrap_err().to_string();
        assert!(e.contains(word), "{e}");
    };
    refused(&|i| i.metadata.pieces[0].sha256 = Some("12".into()), "no SHA-256");
    refused(&|i| drop(i.metadata.pieces.remove(0)), "not among");
    refused(&|i| i.metadata.pieces.push(i.metadata.pieces[0].clone()), "not the files");
    let plain = br#"{"weight_map":{"a":"x.safetensors","b":"x.safetensors"}}"#;
    let plain = Index::parse(plain).unwrap();
    assert_eq!((plain.metadata.pieces.len(), plain.total(), plain.digest()), (1, None, None));
    assert_eq!(index.digest().unwrap().len(), 64);
}

#[test]
fn what_is_too_large_says_so_in_numbers() {
    let small = Fit::new(&model("llama").config);
    assert!(small.fits && small.dtype == PageDtype::Int8);
    let sized = |layers: usize| ModelConfig {
        layers,
        width: 1024,
        heads: 16,
        head_dim: 64,
        kv_heads: 16,
        mlp: 4096,
        ..model("llama").config
    };
    let middle = Fit::new(&sized(16));
    assert!(middle.fits && middle.dtype == PageDtype::Q4_0, "{middle}");
    let large = Fit::new(&sized(60));
    assert!(
        !large.fits && large.to_string().contains("where the page opens up to 200 MB and 2147 MB"),
        "{large}"
    );
}

/// A folder says whether it has frequencies; a configuration that names another file, or none at all, does not.
#[test]
fn a_folder_says_that_it_has_frequencies() {
    let m = model("llama");
    let config = |f| config_json(&m.config, m.serving, f);
    assert!(has_frequencies(&config(true)) && has_index(&config(true)) && !has_frequencies(&config(false)));
    assert_eq!(parse_config(&config(true)).unwrap(), parse_config(&config(false)).unwrap());
    assert!(!has_frequencies(&config(true).replace(FREQUENCIES, "../frequencies.json")));
    assert!(!has_frequencies("no object") && naming_frequencies("[]").is_err());
    let said = naming_frequencies(&checkpoint::config_json(&m.config, m.serving)).unwrap();
    assert!(has_frequencies(&said) && !has_index(&said));
    assert_eq!(parse_config(&said).unwrap(), (m.config.clone(), m.serving));
}
