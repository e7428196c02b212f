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
mod tests;
