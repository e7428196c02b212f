//! Byte-level BPE on bytes: a word starts as its bytes, and as long as two neighbours are a listed merge, those of the
//! lowest rank become one, the leftmost first (Sennrich et al. 2016, arXiv 1508.07909).
//!
//! This is the part of `tokenizer.json` that vocabularies of ours use: model BPE without dropout, prefix, suffix or
//! unknown token, all 256 bytes present, GPT-2's words or none, no normaliser, every added token special. Ids equal the
//! tokenizers library's on any text; tests compare the two. A file that asks for more is refused with the reason.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use serde_json::Value;

use super::{byte_level, words::words};

/// The tokens of a file.
pub struct Vocabulary {
    pub ids: HashMap<String, u32>,
    /// tokens that are names and not text, and whether they are special
    pub added: HashMap<u32, bool>,
}

/// Words seen before and their ids. Texts that are encoded together share one.
pub type Seen<'t> = HashMap<&'t str, Vec<u32>>;

/// The rule that makes ids of text.
pub struct Encoder {
    bytes: [u32; 256],
    /// a pair's rank and what it becomes
    merges: HashMap<(u32, u32), (u32, u32)>,
    /// words that are taken as they are, where the file says so
    whole: HashMap<Vec<u8>, u32>,
    cut: bool,
}

impl Encoder {
    /// Reads a `tokenizer.json`.
    ///
    /// Errors: what the file asks for beyond the module's contract, or what is wrong with it.
    pub fn read(file: &Value) -> Result<(Encoder, Vocabulary), String> {
        let model = &file["model"];
        for option in
            ["dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"]
        {
            if !matches!(&model[option], Value::Null | Value::Bool(false)) {
                return Err(format!("its model has the option {option}"));
            }
        }
        if !file["normalizer"].is_null() {
            return Err(format!("it has the normaliser {}", file["normalizer"]["type"]));
        }
        let level = &file["pre_tokenizer"];
        if level["type"] != "ByteLevel" || level["add_prefix_space"] != false {
            return Err(format!("it cuts words by {level}"));
        }
        let vocabulary = vocabulary(file)?;
        let ids = &vocabulary.ids;
        let id = |token: &str| ids.get(token).copied().ok_or(format!("{token:?} is not in its vocabulary"));
        let letters = byte_level::alphabet();
        let mut bytes = [0; 256];
        for (place, letter) in bytes.iter_mut().zip(letters) {
            *place = id(letter.encode_utf8(&mut [0; 4]))?;
        }
        let mut merges = HashMap::new();
        for (rank, merge) in model["merges"].as_array().into_iter().flatten().enumerate() {
            let (a, b) = pair(merge).ok_or(format!("merge {rank} is not a pair"))?;
            merges.insert((id(a)?, id(b)?), (rank as u32, id(&format!("{a}{b}"))?));
        }
        let mut whole = HashMap::new();
        if model["ignore_merges"] == true {
            let byte: HashMap<char, u8> = letters.into_iter().zip(0..=255).collect();
            for token in model["vocab"].as_object().into_iter().flatten().map(|(token, _)| token) {
                if let Some(word) = token.chars().map(|c| byte.get(&c).copied()).collect() {
                    whole.insert(word, id(token)?);
                }
            }
        }
        let cut = level["use_regex"] != false;
        Ok((Encoder { bytes, merges, whole, cut }, vocabulary))
    }

    /// Appends the ids of `text` to `ids`.
    pub fn encode<'t>(&self, text: &'t str, seen: &mut Seen<'t>, ids: &mut Vec<u32>) {
        let mut add = |word: &'t str| {
            ids.extend_from_slice(seen.entry(word).or_insert_with(|| self.word(word.as_bytes())))
        };
        match self.cut {
            true => words(text).for_each(add),
            false => add(text),
        }
    }

    fn word(&self, word: &[u8]) -> Vec<u32> {
        if let Some(id) = self.whole.get(word) {
            return vec![*id];
        }
        /// no id: a piece that went into the one before it
        const GONE: u32 = u32::MAX;
        let end = word.len();
        let mut ids: Vec<u32> = word.iter().map(|b| self.bytes[*b as usize]).collect();
        let mut next: Vec<usize> = (1..=end).collect();
        let mut before: Vec<usize> = (0..end).map(|i| i.wrapping_sub(1)).collect();
        let listed = |ids: &[u32], at: usize, then: usize| {
            let (rank, id) = self.merges.get(&(*ids.get(at)?, *ids.get(then)?))?;
            Some(Reverse((*rank, at, *id)))
        };
        let mut queue: BinaryHeap<_> = (0..end).filter_map(|i| listed(&ids, i, i + 1)).collect();
        while let Some(merge) = queue.pop() {
            let Reverse((_, at, id)) = merge;
            let then = next[at];
            // an entry is stale once one of its pieces has become part of another
            if listed(&ids, at, then) != Some(merge) {
                continue;
            }
            ids[at] = id;
            ids[then] = GONE;
            next[at] = next[then];
            if let Some(back) = before.get_mut(next[at]) {
                *back = at;
            }
            queue.extend(listed(&ids, before[at], at));
            queue.extend(listed(&ids, at, next[at]));
        }
        ids.retain(|id| *id != GONE);
        ids
    }
}

/// Both halves of a merge: `["a", "b"]`, in older files `"a b"`.
fn pair(merge: &Value) -> Option<(&str, &str)> {
    match merge {
        Value::String(text) => text.split_once(' '),
        Value::Array(halves) if halves.len() == 2 => Some((halves[0].as_str()?, halves[1].as_str()?)),
        _ => None,
    }
}

/// Tokens of the model and those added to it.
fn vocabulary(file: &Value) -> Result<Vocabulary, String> {
    let own = file["model"]["vocab"].as_object().ok_or("its model has no vocabulary")?;
    let number = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    let mut ids = HashMap::with_capacity(own.len());
    for (token, id) in own {
        ids.insert(token.clone(), number(id).ok_or(format!("the id of {token:?} is {id}"))?);
    }
    let mut added = HashMap::new();
    // the library numbers what the model lacks upwards from here, whatever the file says
    let mut free = own.len() as u32;
    for token in file["added_tokens"].as_array().into_iter().flatten() {
        let name = token["content"].as_str().ok_or("an added token has no name")?;
        if token["special"] != true {
            return Err(format!("its added token {name:?} is not special"));
        }
        let id = *ids.entry(name.into()).or_insert(free);
        free += u32::from(id == free);
        if number(&token["id"]) != Some(id) {
            return Err(format!("its added token {name:?} has the id {}, not {id}", token["id"]));
        }
        added.insert(id, true);
    }
    Ok(Vocabulary { ids, added })
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use super::*;
    use crate::data::{Format, bpe, document::read_documents, shared::shared, tokenizer::library};
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
        change(|f| {
            let id = f["model"]["vocab"].as_object().unwrap().len();
            f["added_tokens"].as_array_mut().unwrap().push(
                serde_json::json!({"id": id, "content": "<|later|>", "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": true}),
            )
        });
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
            refused(|f| f["normalizer"] = serde_json::json!({"type": "NFC"})),
            refused(|f| f["pre_tokenizer"] = serde_json::json!({"type": "Split"})),
            refused(|f| f["added_tokens"][1]["special"] = false.into()),
            refused(|f| drop(f["model"]["vocab"].as_object_mut().unwrap().remove("a"))),
            refused(|f| f["model"]["merges"] = serde_json::json!([["a", "zz"]])),
            refused(|f| f["model"]["merges"] = serde_json::json!([7])),
        ];
        let words = ["dropout", "NFC", "Split", "<|mask|>", "\"a\"", "\"zz\"", "merge 0"];
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
        ) {
            let file = file(bpe::train(&[&learn, LEARN[0], LEARN[2]], 330).unwrap().json());
            compare(&file, &[text, plain]);
        }
    }
}
