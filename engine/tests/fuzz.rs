//! Every reader of files that strangers write, on damaged files: no panic, no memory beyond a bound.
//!
//! A real file is mutated by a generator that follows from a seed. Without further settings each test tries the same few
//! hundred seeds; `cargo xtask fuzz SECONDS` goes on for a time. A failure names its seed and writes the input beside
//! the test's other files; `HILDA_FUZZ_SEED=N` repeats that one seed.

mod memory;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hilda_engine::config::ModelSpec;
use hilda_engine::data::{Tokenizer, bpe, mask};
use hilda_engine::model::checkpoint::{self, CheckpointError, Format, parse_config};
use hilda_engine::model::page::{self, Fit, Index, Loader, PageDtype};
use hilda_engine::model::shards::{Shards, weight_map};
use hilda_engine::model::{Keep, Layout, LoadedModel, Trunk};

/// Seeds that are tried where no time is given.
const TRIES: u64 = 300;
/// Memory that reading a damaged file of some kilobytes may take.
const MOST: usize = 96 << 20;

/// splitmix64: a seed gives one file, on every machine.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// below `n`; 0 where that is empty
    fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.next() % n as u64) as usize }
    }
    fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

const NUMBERS: [u64; 12] =
    [0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff_ffff, 0xffff_ffff, 1 << 33, 1 << 62, u64::MAX / 2, u64::MAX];
const WORDS: [&str; 16] = [
    "0",
    "-1",
    "1e999",
    "0.5",
    "18446744073709551615",
    "99999999999999999999",
    "1000000",
    "null",
    "true",
    "[]",
    "{}",
    "\"\"",
    "\"\\u0000\"",
    "[[[[[]]]]]",
    "\"\\ud800\"",
    "{\"type\":\"BPE\"}",
];

/// Damages a file in one to four places, most of them near its start, where headers are.
fn mutate(dice: &mut Dice, file: &[u8], other: &[u8]) -> Vec<u8> {
    let mut out = file.to_vec();
    for _ in 0..1 + dice.below(4) {
        let near = if dice.below(3) > 0 { out.len().min(4096) } else { out.len() };
        let at = dice.below(near);
        let length = (1 + dice.below(64)).min(out.len() - at);
        match dice.below(10) {
            0 if !out.is_empty() => out[at] ^= 1 << dice.below(8),
            1 if !out.is_empty() => out[at] = *dice.of(&[0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'[']),
            2 | 3 => {
                let number = dice.of(&NUMBERS).to_le_bytes();
                let width = *dice.of(&[4, 8]);
                let end = (at + width).min(out.len());
                out[at..end].copy_from_slice(&number[..end - at]);
            }
            4 => drop(out.drain(at..at + length)),
            5 => {
                let again = out[at..at + length].to_vec();
                out.splice(at..at, again);
            }
            6 => out.truncate(at),
            7 => {
                let from = dice.below(other.len());
                let part = &other[from..(from + length).min(other.len())];
                let end = (at + part.len()).min(out.len());
                out.splice(at..end, part.iter().copied());
            }
            _ => word(dice, &mut out, at),
        }
    }
    out
}

/// Puts another value in the place of a number or a text of JSON.
fn word(dice: &mut Dice, out: &mut Vec<u8>, at: usize) {
    let Some(from) = out[at..].iter().position(|b| *b == b':' || *b == b',').map(|i| at + i + 1) else {
        return;
    };
    let ends = |b: &u8| [b',', b'}', b']'].contains(b);
    let Some(length) = out[from..].iter().position(ends) else { return };
    out.splice(from..from + length, dice.of(&WORDS).bytes());
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs `read` on mutations of `files`.
fn fuzz(name: &str, files: &[Vec<u8>], read: impl Fn(&[u8])) {
    // the whole files are read without trouble
    files.iter().for_each(|f| read(f));
    let only = setting("HILDA_FUZZ_SEED");
    let time = setting("HILDA_FUZZ_SECONDS").map(Duration::from_secs);
    let first = only.or(setting("HILDA_FUZZ_START")).unwrap_or(0);
    let (began, mut tried) = (Instant::now(), 0);
    loop {
        let seed = first + tried;
        let mut dice = Dice(seed);
        let (file, other) = (dice.of(files).clone(), dice.of(files).clone());
        let input = mutate(&mut dice, &file, &other);
        let beside = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}-{seed}.bin"));
        let ended =
            memory::bounded(MOST, &input, &beside, || catch_unwind(AssertUnwindSafe(|| read(&input))));
        if ended.is_err() {
            std::fs::write(&beside, &input).expect("the input is written");
            panic!("{name}: seed {seed} ends in a panic; the input is {}", beside.display());
        }
        tried += 1;
        let more = match (only, time) {
            (Some(_), _) => false,
            (None, Some(time)) => began.elapsed() < time,
            (None, None) => tried < TRIES,
        };
        if !more {
            break;
        }
    }
    println!("{name}: {tried} damaged files from seed {first} on");
}

/// A file of the page's demo model.
fn shipped(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../public/models/hilda-tiny").join(name);
    std::fs::read(path).expect("the demo model")
}

fn model() -> (LoadedModel, Tokenizer) {
    let tokenizer = bpe::train(&["it saw a cat, and 12 dogs, on a mat".repeat(20)], 270).unwrap();
    let s = tokenizer.specials();
    let spec = ModelSpec { size: Some("tiny".into()), width: Some(32), mlp: Some(64), ..Default::default() };
    let config = spec.resolve(tokenizer.vocab(), s.mask, s.eos, tokenizer.forbid()).unwrap();
    let (_, serving) = parse_config(std::str::from_utf8(&shipped("config.json")).unwrap()).unwrap();
    let params = Layout::new(&config).init(&config, 3);
    (LoadedModel { config, serving, params }, tokenizer)
}

/// Pieces of the model and their index.
fn pieces(m: &LoadedModel, dtype: PageDtype) -> (Index, Vec<(String, Vec<u8>)>) {
    let mut files = vec![];
    let write = |name: &str, bytes: &[u8]| {
        files.push((name.to_string(), bytes.to_vec()));
        Ok::<(), CheckpointError>(())
    };
    let index = page::pieces(m, dtype, write).unwrap();
    (index, files)
}

#[test]
fn fuzz_safetensors() {
    let (m, _) = model();
    let config = checkpoint::config_json(&m.config, m.serving);
    let mut files: Vec<Vec<u8>> = [Format::F32, Format::F16, Format::Int8]
        .map(|f| checkpoint::save(&m.config, &m.params, f).unwrap())
        .into();
    files.push(pieces(&m, PageDtype::Q4_0).1.remove(0).1);
    fuzz("safetensors", &files, |bytes| {
        let whole = checkpoint::load(&config, bytes);
        let mut loader = Loader::new(&config, None).unwrap();
        let by_piece = loader.add(bytes).and_then(|()| loader.finish());
        // two readers of one file agree on what it holds
        if let (Ok(a), Ok(b)) = (&whole, &by_piece) {
            assert_eq!(a.params, b.params);
        }
        assert!(whole.is_err() || whole.is_ok_and(|m| m.params.iter().all(|x| x.is_finite())));
    });
}

#[test]
fn fuzz_index() {
    let (m, _) = model();
    let (index, contents) = pieces(&m, PageDtype::Int8);
    let contents: Vec<(String, &[u8])> = contents.iter().map(|(n, b)| (n.clone(), b.as_slice())).collect();
    let plain = serde_json::json!({ "weight_map": index.weight_map });
    let files = [serde_json::to_vec_pretty(&index).unwrap(), serde_json::to_vec(&plain).unwrap()];
    fuzz("index", &files, |json| {
        if let Ok(index) = Index::parse(json) {
            assert!(index.metadata.pieces.iter().all(|p| !p.file.contains(['/', '\\'])));
            let _ = (index.total(), index.digest());
        }
        if let Ok(map) = weight_map(json)
            && let Ok((shards, _)) = Shards::many(&map, &contents)
        {
            let _ = checkpoint::read_params(&m.config, &shards);
        }
    });
}

#[test]
fn fuzz_config() {
    let sizes = r#""vocab_size":270,"hidden_size":32,"num_attention_heads":2,"num_key_value_heads":1,
        "intermediate_size":64,"num_hidden_layers":2,"max_position_embeddings":32"#;
    let kinds = ["llama", "qwen2", "qwen3", "Dream", "gemma3_text"];
    let mut files: Vec<Vec<u8>> =
        kinds.map(|kind| format!(r#"{{"model_type":"{kind}",{sizes}}}"#).into_bytes()).into();
    files.push(
        br#"{"model_type":"llada","d_model":16,"n_heads":2,"n_kv_heads":2,"n_layers":2,"vocab_size":48,
        "embedding_size":50,"mlp_hidden_size":24,"max_sequence_length":32,"mask_token_id":7,"block_type":"llama",
        "include_bias":false,"weight_tying":false}"#
            .to_vec(),
    );
    files.push(
        br#"{"model_type":"mdlm","vocab_size":50,"hidden_dim":16,"n_heads":2,"n_blocks":2,"model_length":32}"#.to_vec(),
    );
    files.push(shipped("config.json"));
    let (m, _) = model();
    let weights = checkpoint::save(&m.config, &m.params, Format::Int8).unwrap();
    fuzz("config", &files, |json| {
        let Ok(text) = std::str::from_utf8(json) else { return };
        let Ok((config, serving)) = parse_config(text) else { return };
        // what is read is written and read again the same
        let again = parse_config(&checkpoint::config_json(&config, serving));
        assert_eq!(again.expect("it was just written").1, serving);
        let _ =
            (Fit::new(&config), config.parameters(), Trunk::new(config).plan_bytes(256, Keep::Activations));
        let _ = checkpoint::load(text, &weights);
        let _ = Loader::new(text, Some(weights.len() as u64));
    });
}

#[test]
fn fuzz_tokenizer() {
    let (_, small) = model();
    let mut split: serde_json::Value = serde_json::from_slice(small.json()).unwrap();
    split["pre_tokenizer"] = serde_json::json!({"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": true},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]});
    split["normalizer"] = serde_json::json!({"type": "NFC"});
    let files = [small.json().to_vec(), serde_json::to_vec(&split).unwrap(), shipped("tokenizer.json")];
    const TEXT: &str = "It saw 12 cats, u\u{308}ber\u{a0}all\n\n  <|mask|> \u{1f600} end";
    fuzz("tokenizer", &files, |json| {
        let _ = mask::with_mask(json, 300, Some(7));
        if let Ok(t) = Tokenizer::from_bytes(json) {
            if let Ok(ids) = t.encode(TEXT) {
                assert!(ids.iter().all(|id| t.specials().all.binary_search(id).is_err()));
                let _ = t.decode(&ids);
            }
            let _ = (t.pieces(), t.forbid());
        }
    });
}

#[cfg(feature = "gguf")]
#[test]
fn fuzz_gguf() {
    use hilda_engine::model::gguf::{self, GgufFormat};
    use hilda_engine::model::gguf_tokenizer;
    use std::io::Cursor;

    let (m, t) = model();
    let file = |m: &LoadedModel, format, tokenizer: Option<&[u8]>| {
        let mut out = Cursor::new(vec![]);
        gguf::save(&mut out, m, format, tokenizer).unwrap();
        out.into_inner()
    };
    let gemma = checkpoint::config_json(&m.config, m.serving).replace("\"llama\"", "\"gemma3_text\"");
    let (config, serving) = parse_config(&gemma.replacen('{', "{\"sliding_window\":8,", 1)).unwrap();
    let params = Layout::new(&config).init(&config, 3);
    let gemma = LoadedModel { config, serving, params };
    let files = [
        file(&m, GgufFormat::F32, None),
        file(&m, GgufFormat::Q8_0, Some(t.json())),
        file(&gemma, GgufFormat::F16, Some(t.json())),
    ];
    fuzz("gguf", &files, |bytes| {
        let mut reader = Cursor::new(bytes);
        let _ = gguf::load(&mut reader);
        if let Ok(content) = gguf::content(&mut reader) {
            let _ = gguf::read_config(&content);
            if let Ok(Some(json)) = gguf_tokenizer::read(&content.metadata) {
                let _ = Tokenizer::from_bytes(&json);
            }
        }
    });
}
