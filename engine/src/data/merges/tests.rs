use super::*;
use crate::data::{
    Format, bpe, document::read_documents, letters::characters, shared::shared, tokenizer::library,
};
use proptest::prelude::*;

fn file(json: &[u8]) -> Value {
    serde_json::from_slice(json).unwrap()
}

/// Ids of each text by this encoder; asserts that the library's are equal.
fn compare<S: AsRef<str>>(file: &Value, texts: &[S]) -> Vec<Vec<u32>> {
    let (ours, vocabulary) = Encoder::read(file).unwrap();
    let (theirs, known) = library(file.clone()).unwrap();
    assert_eq!(vocabulary.ids, known.ids);
    assert_eq!(vocabulary.added, known.added);
    let mut seen = Seen::new();
    let mut all = Vec::new();
    for text in texts.iter().map(AsRef::as_ref) {
        let mut ids = Vec::new();
        ours.encode(text, &mut seen, &mut ids);
        let want = theirs.encode_fast(text, false).unwrap();
        assert_eq!(ids, want.get_ids(), "{text:?}");
        all.push(ids);
    }
    all
}

const LEARN: [&str; 4] = [
    "the cat sat on the mat, aaaa aaa",
    "the hat the cat ate",
    "Žluťoučký kůň, žluťoučký pes",
    "12 1212 了了",
];

#[test]
fn held_out_stories_have_the_ids_of_the_library() {
    let name = "held_out_stories_have_the_ids_of_the_library";
    let shared = |f: &str| shared(name, &format!("data/tinystories/{f}"));
    let (Some(json), Some(text)) = (shared("tokenizer-4096.json"), shared("valid.txt")) else {
        return;
    };
    let documents = read_documents(&text, &Format::default()).unwrap();
    let ids = compare(&file(&std::fs::read(json).unwrap()), &documents);
    println!("{} documents, {} tokens", documents.len(), ids.iter().map(Vec::len).sum::<usize>());
}

#[test]
fn the_demo_model_has_the_ids_of_the_library() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let json = std::fs::read(format!("{root}/public/models/hilda-tiny/tokenizer.json")).unwrap();
    let read = |f: &str| std::fs::read_to_string(format!("{root}/{f}")).unwrap();
    let texts = ["README.md", "ARCHITECTURE.md", "engine/src/data/merges.rs", "LICENSE-MIT"].map(read);
    compare(&file(&json), &texts);
}

#[test]
fn options_within_reach_mean_what_they_mean_to_the_library() {
    let plain = file(bpe::train(&LEARN, 300).unwrap().json());
    let texts = ["the cat", " the\u{0}é", "<|mask|>cat", "", "aaaaaaaaaaaaaaaaa", "  \n "];
    let change = |change: fn(&mut Value)| {
        let mut file = plain.clone();
        change(&mut file);
        compare(&file, &texts)
    };
    let same = change(|_| {});
    change(|f| f["pre_tokenizer"]["use_regex"] = false.into());
    assert_eq!(
        same,
        change(|f| {
            for merge in f["model"]["merges"].as_array_mut().unwrap() {
                *merge = format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()).into();
            }
        })
    );
    change(|f| f["model"]["ignore_merges"] = true.into());
    // bytes without a token: 0, and c3, which begins \u{e9}
    change(|f| {
        let vocab = f["model"]["vocab"].as_object_mut().unwrap();
        vocab.retain(|token, _| token != "\u{100}" && !token.contains('\u{c3}'));
        let kept = vocab.clone();
        let known = |m: &Value| {
            let (a, b) = pair(m).unwrap();
            [a.to_string(), b.to_string(), format!("{a}{b}")].iter().all(|t| kept.contains_key(t))
        };
        f["model"]["merges"].as_array_mut().unwrap().retain(known);
    });
    change(|f| {
        let id = f["model"]["vocab"].as_object().unwrap().len();
        f["added_tokens"]
            .as_array_mut()
            .unwrap()
            .push(serde_json::json!({"id": id, "content": "<|later|>", "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true}))
    });
}

/// A file as families write theirs, with the vocabulary of `plain`: Qwen 3's with names that are text, SmolLM2's.
fn published(plain: &Value) -> [Value; 2] {
    let level = |regex: bool| serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let both =
        |first: Value, regex| serde_json::json!({"type": "Sequence", "pretokenizers": [first, level(regex)]});
    let regex = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let split = serde_json::json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let mut qwen = plain.clone();
    qwen["normalizer"] = serde_json::json!({"type": "NFC"});
    qwen["pre_tokenizer"] = both(split, false);
    let first = qwen["model"]["vocab"].as_object().unwrap().len();
    for (i, (name, special)) in
        [("<|im_start|>", true), ("<think>", false), ("</think>", false), ("<think>\u{301}", false)]
            .iter()
            .enumerate()
    {
        qwen["added_tokens"].as_array_mut().unwrap().push(serde_json::json!({"id": first + i, "content": name,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": special}));
    }
    let mut smol = plain.clone();
    smol["pre_tokenizer"] = both(serde_json::json!({"type": "Digits", "individual_digits": true}), true);
    [qwen, smol]
}

#[test]
fn published_files_have_the_ids_of_the_library() {
    let plain = file(bpe::train(&LEARN, 330).unwrap().json());
    let [qwen, smol] = published(&plain);
    let texts = [
        "<think>the cat's  12</think>\r\n\n THE CAT'S 345",
        "<|im_start|><think><|mask|></think",
        "e\u{301} \u{e9} \u{2126} \u{ac01} \u{1100}\u{1161}\u{11a8} ů",
        "<think>\u{301}a",
        "\u{301}<think> \u{301}",
        "",
    ];
    let ids = compare(&qwen, &texts);
    let name = |name: &str| Encoder::read(&qwen).unwrap().1.ids[name];
    assert_eq!((ids[0][0], ids[3][0]), (name("<think>"), name("<think>\u{301}")));
    assert!(!ids[1].contains(&name("<|im_start|>")));
    assert_eq!(ids[2][..2], compare(&qwen, &["\u{e9} \u{e9}"])[0][..2], "composed before it is cut");
    compare(&smol, &texts);
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let read = |f: &str| std::fs::read_to_string(format!("{root}/{f}")).unwrap();
    for file in [&qwen, &smol] {
        compare(file, &["README.md", "engine/src/data/letters.rs", "Cargo.toml"].map(read));
    }
}

/// A file as Gemma writes its own: characters, bytes to fall back on, "\u{2581}" for spaces.
fn by_character() -> Value {
    let mut tokens: Vec<String> =
        ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "\n\n"].map(String::from).into();
    let names = tokens.len();
    tokens.extend((0..256).map(|b| format!("<0x{b:02X}>")));
    tokens.extend("\u{2581}\nthecasnom.<>k\u{e9}了".chars().map(String::from));
    let merges: Vec<(&str, &str)> = vec![
        ("t", "h"),
        ("th", "e"),
        ("\u{2581}", "the"),
        ("a", "t"),
        ("c", "at"),
        ("\u{2581}", "cat"),
        ("\u{2581}", "\u{2581}"),
        ("\u{2581}\u{2581}", "\u{2581}\u{2581}"),
        ("a", "a"),
        ("aa", "a"),
        ("s", "\u{2581}the"),
        ("m", "a"),
        ("ma", "s"),
    ];
    tokens.extend(merges.iter().map(|(a, b)| format!("{a}{b}")));
    let vocab: serde_json::Map<String, Value> =
        tokens.iter().enumerate().map(|(i, t)| (t.clone(), i.into())).collect();
    let added: Vec<Value> = (0..names)
        .map(|i| {
            serde_json::json!({"id": i, "content": tokens[i], "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": i != names - 1})
        })
        .collect();
    serde_json::json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false},
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": merges}})
}

#[test]
fn characters_have_the_ids_of_the_library() {
    let file = by_character();
    let texts = [
        "the cat  sat on the    mat, aaaa aaa",
        "  the\n\ncat\n<mask> <start_of_turn>the",
        "\u{2581}the \u{e9}t\u{e9} 了 \u{1f600}\u{0}",
        "",
        " ",
    ];
    let ids = compare(&file, &texts);
    let name = |name: &str| Encoder::read(&file).unwrap().1.ids[name];
    assert!(ids[0].contains(&name("\u{2581}cat")) && ids[1].contains(&name("\n\n")));
    assert!(!ids[1].contains(&name("<mask>")));
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let read = |f: &str| std::fs::read_to_string(format!("{root}/{f}")).unwrap();
    compare(&file, &["README.md", "engine/src/data/letters.rs", "Cargo.toml"].map(read));
    // the tokenizer gives the text back, the space's own character excepted
    let tokenizer = crate::data::Tokenizer::from_bytes(file.to_string().as_bytes()).unwrap();
    for text in texts {
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(tokenizer.decode(&ids), text.replace(SPACE, " "));
    }
    assert_eq!((tokenizer.specials().eos, tokenizer.specials().mask), (1, 4));
    assert_eq!(tokenizer.bytes(name("<0x0A>")), b"\n");
}

#[test]
fn other_ways_with_characters_are_refused_by_name() {
    let refused = |change: fn(&mut Value)| {
        let mut file = by_character();
        change(&mut file);
        Encoder::read(&file).err().unwrap()
    };
    assert!(refused(|f| f["pre_tokenizer"] = serde_json::json!({"type": "Metaspace"})).contains("Metaspace"));
    assert!(refused(|f| f["model"]["ignore_merges"] = true.into()).contains("whole texts"));
    assert!(
        refused(|f| drop(f["model"]["vocab"].as_object_mut().unwrap().remove("<0x41>"))).contains("bytes")
    );
    // without its decoder it is taken for byte-level, and refused as such
    assert!(refused(|f| f["decoder"] = Value::Null).contains("unk_token"));
}

proptest! {
    #[test]
    fn any_text_by_characters_has_the_ids_of_the_library(text in "[ thecasnm\u{e9}了\n<0xA>]{0,40}|.{0,20}") {
        compare(&by_character(), &[text]);
    }
}

/// Every character beside others, and those that NFC may change alone, with Qwen's normaliser and words.
#[test]
fn every_character_has_the_ids_of_the_library() {
    let plain = file(bpe::train(&LEARN, 330).unwrap().json());
    let all = characters();
    let [qwen, _] = published(&plain);
    let together: Vec<String> =
        all.chunks(256).map(|some| some.iter().map(|c| format!("a{c}1{c} {c}")).collect()).collect();
    compare(&qwen, &together);
    let changes = |c: &&char| {
        !c.to_string().nfc().map(|(c, _)| c).eq([**c]) || !c.to_string().nfd().map(|(c, _)| c).eq([**c])
    };
    let alone: Vec<String> = all.iter().filter(changes).map(char::to_string).collect();
    assert!(alone.len() > 12_000, "{}", alone.len());
    compare(&qwen, &alone);
}

#[test]
fn what_is_out_of_reach_is_named() {
    let plain = file(bpe::train(&LEARN, 280).unwrap().json());
    let refused = |change: fn(&mut Value)| {
        let mut file = plain.clone();
        change(&mut file);
        Encoder::read(&file).err().unwrap()
    };
    let why = [
        refused(|f| f["model"]["dropout"] = 0.1.into()),
        refused(|f| f["normalizer"] = serde_json::json!({"type": "NFKC"})),
        refused(|f| f["pre_tokenizer"] = serde_json::json!({"type": "Split"})),
        refused(|f| {
            f["added_tokens"][1]["special"] = false.into();
            f["added_tokens"][1]["lstrip"] = true.into();
        }),
        refused(|f| drop(f["model"]["vocab"].as_object_mut().unwrap().remove("a"))),
        refused(|f| f["model"]["merges"] = serde_json::json!([["a", "zz"]])),
        refused(|f| f["model"]["merges"] = serde_json::json!([7])),
    ];
    let words = ["dropout", "NFKC", "Split", "<|mask|>", "\"a\"", "\"zz\"", "merge 0"];
    for (why, word) in why.iter().zip(words) {
        assert!(why.contains(word), "{why}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_text_has_the_ids_of_the_library(
        learn in "[ab ]{0,60}",
        text in any::<String>(),
        plain in "[abc ']{0,80}",
        marks in "([aeouk]|[\u{300}-\u{345}]|[\u{1100}-\u{1112}][\u{1161}-\u{1175}]|[\u{f900}-\u{f920}]|<think>|</think>|<\\|im_start\\|>|[0-9]| |\n){0,30}",
    ) {
        let file = file(bpe::train(&[&learn, LEARN[0], LEARN[2]], 330).unwrap().json());
        let texts = [text, plain, marks];
        compare(&file, &texts);
        published(&file).iter().for_each(|file| drop(compare(file, &texts)));
    }
}
