//! BPE: a word starts as its smallest pieces, and as long as two neighbours are a listed merge, those of the
//! lowest rank become one, the leftmost first (Sennrich et al. 2016, arXiv 1508.07909). There are two kinds:
//!
//! - byte-level, of vocabularies of ours and of SmolLM2, Qwen and Llama 3: the pieces are bytes, words are cut by one of the
//!   rules of [`super::words`], NFC or no normaliser;
//! - by characters, of Gemma: the whole text is one word with "\u{2581}" for spaces; the pieces are characters, and the bytes
//!   of one that has no token ("byte fallback").
//!
//! Both without dropout, prefix or suffix, with added tokens that stand for exactly their names ([`super::added`]). Ids
//! equal the tokenizers library's on any text; tests compare the two. A byte without a token (SmolLM2 has none for some that occur
//! in no text) is left out, as the library leaves it out. A file that asks for more is refused with the reason.
//!
//! NFC is that of Unicode 9, as the library has it: a later one would give some new characters other ids.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use serde_json::Value;
use unicode_normalization_alignments::UnicodeNormalization;

use super::{
    added::{Added, Part},
    byte_level,
    words::Cut,
};

/// The tokens of a file.
pub struct Vocabulary {
    pub ids: HashMap<String, u32>,
    /// tokens that are names and not text, and whether they are special
    pub added: HashMap<u32, bool>,
}

/// Words seen before and their ids. Texts that are encoded together share one.
pub type Seen<'t> = HashMap<&'t str, Vec<u32>>;

/// What stands for a space in vocabularies by characters.
pub const SPACE: char = '\u{2581}';

/// The smallest pieces of a text.
enum Pieces {
    Bytes {
        cut: Cut,
        /// text is brought into normalisation form C
        nfc: bool,
        /// words that are taken as they are, where the file says so
        whole: HashMap<Vec<u8>, u32>,
    },
    Characters(HashMap<char, u32>),
}

/// The rule that makes ids of text.
pub struct Encoder {
    pieces: Pieces,
    bytes: [Option<u32>; 256],
    /// a pair's rank and what it becomes
    merges: HashMap<(u32, u32), (u32, u32)>,
    added: Added,
}

/// Whether a file's pieces are characters: spaces become [`SPACE`] and bytes "<0xNN>" stand in for what has no token.
pub fn by_characters(file: &Value) -> bool {
    let replaces = |v: &Value, from: &str, to: &str| {
        v["type"] == "Replace" && v["pattern"]["String"] == from && v["content"] == to
    };
    let space = SPACE.to_string();
    let steps = file["decoder"]["decoders"].as_array().map_or(&[][..], Vec::as_slice);
    let decodes = match steps {
        [a, b, c] => replaces(a, &space, " ") && b["type"] == "ByteFallback" && c["type"] == "Fuse",
        _ => false,
    };
    file["model"]["byte_fallback"] == true
        && replaces(&file["normalizer"], " ", &space)
        && file["decoder"]["type"] == "Sequence"
        && decodes
}

/// The byte that a token of [`by_characters`] vocabularies stands for: "<0x0A>".
pub fn fallback_byte(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let upper = hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase());
    u8::from_str_radix(hex, 16).ok().filter(|_| upper)
}

impl Encoder {
    /// Reads a `tokenizer.json`.
    ///
    /// Errors: what the file asks for beyond the module's contract, or what is wrong with it.
    pub fn read(file: &Value) -> Result<(Encoder, Vocabulary), String> {
        let model = &file["model"];
        let characters = by_characters(file);
        let mut options = vec!["dropout", "continuing_subword_prefix", "end_of_word_suffix"];
        if !characters {
            options.extend(["unk_token", "byte_fallback"]);
        }
        for option in options {
            if !matches!(&model[option], Value::Null | Value::Bool(false)) {
                return Err(format!("its model has the option {option}"));
            }
        }
        let (vocabulary, added) = vocabulary(file)?;
        let ids = &vocabulary.ids;
        let id = |token: &str| ids.get(token).copied().ok_or(format!("{token:?} is not in its vocabulary"));
        let letters = byte_level::alphabet();
        let bytes = match characters {
            true => std::array::from_fn(|b| ids.get(&format!("<0x{b:02X}>")).copied()),
            false => letters.map(|letter| ids.get(letter.encode_utf8(&mut [0; 4])).copied()),
        };
        if characters && bytes.iter().any(Option::is_none) || bytes.iter().all(Option::is_none) {
            return Err("its vocabulary lacks bytes".into());
        }
        let mut merges = HashMap::new();
        for (rank, merge) in model["merges"].as_array().into_iter().flatten().enumerate() {
            let (a, b) = pair(merge).ok_or(format!("merge {rank} is not a pair"))?;
            merges.insert((id(a)?, id(b)?), (rank as u32, id(&format!("{a}{b}"))?));
        }
        if characters {
            // after the normaliser there is no space left to cut at
            let cut = &file["pre_tokenizer"];
            let idle = cut["type"] == "Split" && cut["pattern"]["String"] == " ";
            if !(cut.is_null() || idle) {
                return Err(format!("it cuts words by {}", cut["type"]));
            }
            if model["ignore_merges"] == true {
                return Err("it takes whole texts from its vocabulary".into());
            }
            let single = |token: &str| token.chars().next().filter(|c| c.len_utf8() == token.len());
            let own = model["vocab"].as_object().into_iter().flatten();
            let pieces = own.filter_map(|(token, _)| Some((single(token)?, *ids.get(token)?))).collect();
            return Ok((Encoder { pieces: Pieces::Characters(pieces), bytes, merges, added }, vocabulary));
        }
        let nfc = match &file["normalizer"] {
            Value::Null => false,
            normalizer if normalizer["type"] == "NFC" => true,
            normalizer => return Err(format!("it has the normaliser {}", normalizer["type"])),
        };
        let cut = Cut::read(&file["pre_tokenizer"])?;
        let mut whole = HashMap::new();
        if model["ignore_merges"] == true {
            let byte: HashMap<char, u8> = letters.into_iter().zip(0..=255).collect();
            for token in model["vocab"].as_object().into_iter().flatten().map(|(token, _)| token) {
                if let Some(word) = token.chars().map(|c| byte.get(&c).copied()).collect() {
                    whole.insert(word, id(token)?);
                }
            }
        }
        Ok((Encoder { pieces: Pieces::Bytes { cut, nfc, whole }, bytes, merges, added }, vocabulary))
    }

    /// Appends the ids of `text` to `ids`.
    pub fn encode<'t>(&self, text: &'t str, seen: &mut Seen<'t>, ids: &mut Vec<u32>) {
        for part in self.added.parts(text) {
            let text = match part {
                Part::Token(id) => {
                    ids.push(id);
                    continue;
                }
                Part::Text(text) => text,
            };
            match &self.pieces {
                Pieces::Characters(pieces) => ids.extend(self.merge(self.characters(text, pieces))),
                Pieces::Bytes { nfc: true, .. } if !text.is_ascii() => {
                    let normal: String = text.nfc().map(|(c, _)| c).collect();
                    match normal == text {
                        true => self.words(text, seen, ids),
                        false => self.words(&normal, &mut Seen::new(), ids),
                    }
                }
                Pieces::Bytes { .. } => self.words(text, seen, ids),
            }
        }
    }

    fn words<'t>(&self, text: &'t str, seen: &mut Seen<'t>, ids: &mut Vec<u32>) {
        let Pieces::Bytes { cut, whole, .. } = &self.pieces else { return };
        for word in cut.words(text) {
            ids.extend_from_slice(seen.entry(word).or_insert_with(|| match whole.get(word.as_bytes()) {
                Some(id) => vec![*id],
                None => self.merge(word.bytes().filter_map(|b| self.bytes[b as usize]).collect()),
            }));
        }
    }

    /// A character's token, else those of its bytes.
    fn characters(&self, text: &str, pieces: &HashMap<char, u32>) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len());
        for c in text.chars().map(|c| if c == ' ' { SPACE } else { c }) {
            match pieces.get(&c) {
                Some(id) => ids.push(*id),
                None => {
                    ids.extend(c.encode_utf8(&mut [0; 4]).bytes().filter_map(|b| self.bytes[b as usize]));
                }
            }
        }
        ids
    }

    /// Neighbours become one by the list of merges.
    fn merge(&self, mut ids: Vec<u32>) -> Vec<u32> {
        /// no id: a piece that went into the one before it
        const GONE: u32 = u32::MAX;
        let end = ids.len();
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
fn vocabulary(file: &Value) -> Result<(Vocabulary, Added), String> {
    let own = file["model"]["vocab"].as_object().ok_or("its model has no vocabulary")?;
    let number = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    let mut ids = HashMap::with_capacity(own.len());
    for (token, id) in own {
        ids.insert(token.clone(), number(id).ok_or(format!("the id of {token:?} is {id}"))?);
    }
    let (mut added, mut names) = (HashMap::new(), Added::default());
    // the library numbers what the model lacks upwards from here, whatever the file says
    let mut free = own.len() as u32;
    for token in file["added_tokens"].as_array().into_iter().flatten() {
        let name = token["content"].as_str().ok_or("an added token has no name")?;
        let id = *ids.entry(name.into()).or_insert(free);
        free += u32::from(id == free);
        if number(&token["id"]) != Some(id) {
            return Err(format!("its added token {name:?} has the id {}, not {id}", token["id"]));
        }
        names.add(token, id)?;
        added.insert(id, token["special"] == true);
    }
    Ok((Vocabulary { ids, added }, names))
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
            f["added_tokens"].as_array_mut().unwrap().push(
                serde_json::json!({"id": id, "content": "<|later|>", "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": true}),
            )
        });
    }

    /// A file as families write theirs, with the vocabulary of `plain`: Qwen 3's with names that are text, SmolLM2's.
    fn published(plain: &Value) -> [Value; 2] {
        let level = |regex: bool| serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
        let both = |first: Value, regex| serde_json::json!({"type": "Sequence", "pretokenizers": [first, level(regex)]});
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
            ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "\n\n"]
                .map(String::from)
                .into();
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
        assert!(
            refused(|f| f["pre_tokenizer"] = serde_json::json!({"type": "Metaspace"})).contains("Metaspace")
        );
        assert!(refused(|f| f["model"]["ignore_merges"] = true.into()).contains("whole texts"));
        assert!(
            refused(|f| drop(f["model"]["vocab"].as_object_mut().unwrap().remove("<0x41>")))
                .contains("bytes")
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
        let all: Vec<char> = ('\0'..=char::MAX).collect();
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
}
