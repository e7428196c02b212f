//! BPE read from `tokenizer.json`, byte-level or by characters (Gemma), the same on the server and in the page.
//!
//! Contract: `decode(encode(text)) == text` (unless the file asks for a normaliser), and `encode` never returns a
//! special id, so that nobody can type the mask or the end of a document. Loading proves the second part for each
//! special token and refuses a tokenizer that breaks it; every encoding is checked again.
//!
//! Files of our own kind are encoded by [`super::merges`]. What that refuses (other rules for words, normalisers) the
//! server reads with the tokenizers library, which the page does without: it was a quarter of the page.

use std::collections::HashMap;
#[cfg(feature = "train")]
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::merges::{self, Encoder, Seen, Vocabulary};
use super::{DataError, Frequencies, byte_level};
use crate::model::cache::Surrogate;

/// Names under which public tokenizers keep the three roles, ours first.
const EOS: [&str; 6] = ["<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "</s>", "<eos>", "[EOS]"];
pub(super) const MASK: [&str; 5] = ["<|mask|>", "[MASK]", "<mask>", "<|mdm_mask|>", "<MASK>"];
const PAD: [&str; 4] = ["<|pad|>", "<pad>", "[PAD]", "<|padding|>"];

/// Ids with a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Specials {
    /// ends a document
    pub eos: u32,
    /// stands for a token not yet known
    pub mask: u32,
    /// fills the tail of a batch, if the vocabulary has one
    pub pad: Option<u32>,
    /// every special id, ascending
    pub all: Vec<u32>,
}

/// What makes ids of text.
enum Rule {
    /// files of our own kind: in the page and on the server by the same code
    Own(Box<Encoder>),
    /// anything else: by the library, which the page is too small for
    #[cfg(feature = "train")]
    Library(Box<tokenizers::Tokenizer>),
}

/// A loaded vocabulary.
pub struct Tokenizer {
    rule: Rule,
    json: Vec<u8>,
    hash: String,
    specials: Specials,
    /// bytes of each id; specials hold their own name
    bytes: Vec<Vec<u8>>,
    /// of its tokens in a corpus, where the model's folder has them
    frequencies: Option<Frequencies>,
    /// the model's regression for the press kvzap, which travels with what else lies beside the weights
    surrogate: Option<Arc<Surrogate>>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab", &self.vocab())
            .field("specials", &self.specials)
            .field("hash", &self.hash)
            .finish()
    }
}

impl Tokenizer {
    /// Reads the bytes of a `tokenizer.json`.
    ///
    /// Errors: not such a file, of another kind, no end-of-text or mask token, or a special token that text can reach.
    pub fn from_bytes(json: &[u8]) -> Result<Self, DataError> {
        let bad = |m: String| DataError::Tokenizer(format!("tokenizer.json: {m}"));
        let mut value: serde_json::Value = serde_json::from_slice(json).map_err(|e| bad(e.to_string()))?;
        let characters = merges::by_characters(&value);
        if value["model"]["type"] != "BPE" || value["decoder"]["type"] != "ByteLevel" && !characters {
            return Err(bad(format!(
                "only BPE, byte-level or by characters with bytes to fall back on, is supported; this is {} with decoder {}",
                value["model"]["type"], value["decoder"]["type"]
            )));
        }
        // a role token that its file calls ordinary would be matched in text
        let named = |t: &str| EOS.contains(&t) || MASK.contains(&t) || PAD.contains(&t);
        for token in value["added_tokens"].as_array_mut().into_iter().flatten() {
            if token["content"].as_str().is_some_and(named) {
                token["special"] = true.into();
            }
        }
        let (rule, vocabulary) = match Encoder::read(&value) {
            Ok((encoder, vocabulary)) => (Rule::Own(Box::new(encoder)), vocabulary),
            #[cfg(feature = "train")]
            Err(_) => {
                let (inner, vocabulary) = library(value).map_err(bad)?;
                (Rule::Library(Box::new(inner)), vocabulary)
            }
            #[cfg(not(feature = "train"))]
            Err(why) => return Err(bad(format!("{why}, which works on a server but not in a page"))),
        };
        let Vocabulary { ids: vocab, added } = vocabulary;
        let size = vocab.values().max().map_or(0, |m| *m as usize + 1);
        if size > 1_000_000 {
            return Err(bad(format!("largest id {} is implausible", size - 1)));
        }
        let mut bytes = vec![Vec::new(); size];
        let table: HashMap<char, u8> = (0..=255u8).map(|b| (byte_level::byte_to_char(b), b)).collect();
        for (token, id) in &vocab {
            bytes[*id as usize] = match added.contains_key(id) {
                true => token.as_bytes().to_vec(),
                false if characters => match merges::fallback_byte(token) {
                    Some(byte) => vec![byte],
                    None => token.replace(merges::SPACE, " ").into_bytes(),
                },
                false => token
                    .chars()
                    .map(|c| table.get(&c).copied())
                    .collect::<Option<_>>()
                    .unwrap_or_else(|| token.as_bytes().to_vec()),
            };
        }
        let find = |names: &[&str]| names.iter().find_map(|n| vocab.get(*n).copied());
        let need = |role, names: &[&str]| {
            find(names).ok_or(DataError::MissingSpecial { role, tried: names.join(", ") })
        };
        let (eos, mask, pad) = (need("end-of-text", &EOS)?, need("mask", &MASK)?, find(&PAD));
        let mut all: Vec<u32> = added.iter().filter(|(_, special)| **special).map(|(id, _)| *id).collect();
        all.extend([Some(eos), Some(mask), pad].into_iter().flatten());
        all.sort_unstable();
        all.dedup();
        let hash = hex::encode(Sha256::digest(json));
        let specials = Specials { eos, mask, pad, all };
        let tokenizer = Tokenizer {
            rule,
            json: json.to_vec(),
            hash,
            specials,
            bytes,
            frequencies: None,
            surrogate: None,
        };
        for id in &tokenizer.specials.all {
            let name = String::from_utf8_lossy(&tokenizer.bytes[*id as usize]).into_owned();
            tokenizer.encode(&name)?;
        }
        Ok(tokenizer)
    }

    /// With the frequencies of its tokens in a corpus.
    pub fn with_frequencies(self, frequencies: Frequencies) -> Self {
        Tokenizer { frequencies: Some(frequencies), ..self }
    }
    /// With the regression of the press kvzap.
    pub fn with_surrogate(self, surrogate: Surrogate) -> Self {
        Tokenizer { surrogate: Some(Arc::new(surrogate)), ..self }
    }
    pub fn surrogate(&self) -> Option<&Arc<Surrogate>> {
        self.surrogate.as_ref()
    }
    pub fn frequencies(&self) -> Option<&Frequencies> {
        self.frequencies.as_ref()
    }

    /// Reads a `tokenizer.json`.
    #[cfg(feature = "train")]
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, DataError> {
        let path = path.as_ref();
        let json = std::fs::read(path).map_err(DataError::io(path))?;
        Self::from_bytes(&json).map_err(|e| match e {
            DataError::Tokenizer(m) => {
                let m = m.strip_prefix("tokenizer.json: ").unwrap_or(&m);
                DataError::Tokenizer(format!("{}: {m}", path.display()))
            }
            e => DataError::Tokenizer(format!("{}: {e}", path.display())),
        })
    }

    /// Ids of a text; no special id is ever among them, and none is added at the ends.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        self.encode_with(text, &mut Seen::new())
    }

    /// Ids of many texts, in their order, over all threads.
    ///
    /// Errors: as [`Tokenizer::encode`].
    #[cfg(feature = "train")]
    pub fn encode_all<S: AsRef<str>>(&self, texts: &[S]) -> Result<Vec<Vec<u32>>, DataError> {
        /// texts that share a memory of words
        const TOGETHER: usize = 128;
        let texts: Vec<&str> = texts.iter().map(|t| t.as_ref()).collect();
        let chunks: Vec<&[&str]> = texts.chunks(TOGETHER).collect();
        let encoded = hilda_kernels::par::map(chunks.len(), |i| {
            let mut seen = Seen::new();
            chunks[i].iter().map(|t| self.encode_with(t, &mut seen)).collect::<Result<Vec<_>, _>>()
        });
        Ok(encoded.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    fn encode_with<'t>(&self, text: &'t str, seen: &mut Seen<'t>) -> Result<Vec<u32>, DataError> {
        match &self.rule {
            Rule::Own(encoder) => {
                let mut ids = Vec::new();
                encoder.encode(text, seen, &mut ids);
                self.checked(ids)
            }
            #[cfg(feature = "train")]
            Rule::Library(inner) => {
                let encoding =
                    inner.encode_fast(text, false).map_err(|e| DataError::Tokenizer(e.to_string()))?;
                self.checked(encoding.get_ids().to_vec())
            }
        }
    }

    fn checked(&self, ids: Vec<u32>) -> Result<Vec<u32>, DataError> {
        match ids.iter().find(|id| self.specials.all.binary_search(id).is_ok()) {
            Some(id) => Err(DataError::SpecialInText { token: self.piece(*id), id: *id }),
            None => Ok(ids),
        }
    }

    /// Text of ids. Special ids and ids outside the vocabulary are left out; bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let visible = ids.iter().filter(|id| self.specials.all.binary_search(id).is_err());
        let bytes: Vec<u8> = visible.flat_map(|id| self.bytes(*id)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Bytes of one id (a special's name, nothing outside the vocabulary): text that streams token by token is put
    /// together from bytes, because a character may span tokens.
    pub fn bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id as usize).map_or(&[], Vec::as_slice)
    }

    /// UTF-8 bytes of the text that ids stand for, the denominator of bits per byte: a special id has none.
    pub fn text_bytes(&self, ids: &[u32]) -> u64 {
        let visible = ids.iter().filter(|id| self.specials.all.binary_search(id).is_err());
        visible.map(|id| self.bytes(*id).len() as u64).sum()
    }

    /// One id as people see it; incomplete characters show as U+FFFD.
    pub fn piece(&self, id: u32) -> String {
        String::from_utf8_lossy(self.bytes(id)).into_owned()
    }

    /// Every piece in id order, `[V]`.
    pub fn pieces(&self) -> Vec<String> {
        (0..self.vocab() as u32).map(|id| self.piece(id)).collect()
    }

    /// V, one more than the largest id.
    pub fn vocab(&self) -> usize {
        self.bytes.len()
    }

    pub fn specials(&self) -> &Specials {
        &self.specials
    }

    /// Ids that no softmax over tokens may choose, ascending: every special id but the end of text, and ids without
    /// a token.
    pub fn forbid(&self) -> Vec<u32> {
        let special = |id: &u32| self.specials.all.binary_search(id).is_ok();
        let unused = |id: &u32| self.bytes(*id).is_empty();
        let ids = 0..self.vocab() as u32;
        ids.filter(|id| (special(id) || unused(id)) && *id != self.specials.eos).collect()
    }

    /// The file as it was read, to be written beside a checkpoint.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// SHA-256 of the file, lower-case hexadecimal.
    pub fn hash(&self) -> &str {
        &self.hash
    }
}

/// The library's reading of a file, with special names taken for text.
#[cfg(feature = "train")]
pub(super) fn library(file: serde_json::Value) -> Result<(tokenizers::Tokenizer, Vocabulary), String> {
    let mut inner: tokenizers::Tokenizer = serde_json::from_value(file).map_err(|e| e.to_string())?;
    inner.set_encode_special_tokens(true);
    inner.with_truncation(None).map_err(|e| e.to_string())?;
    inner.with_padding(None);
    let added = inner.get_added_tokens_decoder().iter().map(|(id, t)| (*id, t.special)).collect();
    let vocabulary = Vocabulary { ids: inner.get_vocab(true), added };
    Ok((inner, vocabulary))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::shared::shared;
    use proptest::prelude::*;

    /// 256 bytes, three specials and the merge "he".
    fn tiny(change: impl Fn(&mut serde_json::Value)) -> Result<Tokenizer, DataError> {
        let mut vocab = serde_json::Map::new();
        let names = ["<|endoftext|>", "<|mask|>", "<|pad|>"].map(String::from).into_iter();
        let letters = byte_level::alphabet().into_iter().map(String::from);
        names.chain(letters).chain(["he".into()]).enumerate().for_each(|(i, t)| {
            vocab.insert(t, i.into());
        });
        let level = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        let added: Vec<_> = ["<|endoftext|>", "<|mask|>", "<|pad|>"]
            .iter()
            .enumerate()
            .map(|(id, t)| {
                serde_json::json!({"id": id, "content": t, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": true})
            })
            .collect();
        let mut value = serde_json::json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
            "normalizer": null, "pre_tokenizer": level, "post_processor": null, "decoder": level,
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": vocab, "merges": [["h", "e"]]}});
        change(&mut value);
        Tokenizer::from_bytes(value.to_string().as_bytes())
    }

    #[test]
    fn specials_cannot_be_typed() {
        let t = tiny(|_| {}).unwrap();
        for text in ["<|mask|>", "a<|mask|>b", "<|endoftext|><|pad|>", "<|<|mask|>"] {
            let ids = t.encode(text).unwrap();
            assert!(ids.iter().all(|id| !t.specials().all.contains(id)), "{text}: {ids:?}");
            assert_eq!(t.decode(&ids), text);
        }
        let ordinary = tiny(|v| v["added_tokens"][1]["special"] = false.into()).unwrap();
        assert!(!ordinary.encode("<|mask|>").unwrap().contains(&1));
    }

    #[test]
    fn a_special_within_reach_is_refused() {
        // words taken whole from the vocabulary, and no regex that would cut "<|mask|>" apart
        let e = tiny(|v| {
            v["model"]["ignore_merges"] = true.into();
            v["pre_tokenizer"]["use_regex"] = false.into();
        })
        .unwrap_err();
        assert!(matches!(e, DataError::SpecialInText { .. }), "{e}");
    }

    #[test]
    fn roles_and_forbidden_ids() {
        let t = tiny(|_| {}).unwrap();
        let want = Specials { eos: 0, mask: 1, pad: Some(2), all: vec![0, 1, 2] };
        assert_eq!((t.specials(), t.forbid(), t.vocab()), (&want, vec![1, 2], 260));
        assert_eq!(
            (t.piece(1).as_str(), t.piece(259).as_str(), t.piece(9999).as_str()),
            ("<|mask|>", "he", "")
        );
        assert_eq!(t.decode(&[259, 1, 0, 9999]), "he");
        let hole = tiny(|v| v["model"]["vocab"]["he"] = 300.into()).unwrap();
        assert_eq!((hole.vocab(), hole.forbid().len()), (301, 2 + 41));
    }

    #[test]
    fn errors_say_what_is_missing() {
        let no_mask = tiny(|v| {
            v["added_tokens"][1]["content"] = "<|other|>".into();
            let vocab = v["model"]["vocab"].as_object_mut().unwrap();
            let id = vocab.remove("<|mask|>").unwrap();
            vocab.insert("<|other|>".into(), id);
        });
        assert!(matches!(no_mask, Err(DataError::MissingSpecial { role: "mask", .. })));
        for bytes in [&b""[..], b"{}", b"[1]", b"{\"model\": 3}", &[0xff, 0xfe]] {
            assert!(matches!(Tokenizer::from_bytes(bytes), Err(DataError::Tokenizer(_))));
        }
        let wordpiece = tiny(|v| v["model"]["type"] = "WordPiece".into());
        assert!(wordpiece.unwrap_err().to_string().contains("WordPiece"));
    }

    proptest! {
        #[test]
        fn every_text_round_trips(text in any::<String>()) {
            let t = tiny(|_| {}).unwrap();
            let ids = t.encode(&text).unwrap();
            prop_assert_eq!(t.text_bytes(&ids), text.len() as u64);
            prop_assert_eq!(t.decode(&ids), text);
        }
    }

    #[test]
    fn the_reference_vocabulary_loads() {
        let Some(path) = shared("the_reference_vocabulary_loads", "data/tinystories/tokenizer-4096.json")
        else {
            return;
        };
        let t = Tokenizer::from_bytes(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!((t.vocab(), t.forbid()), (4096, vec![1, 2]));
        let ids = t.encode("Once upon a time, there was a farmer.").unwrap();
        assert!(ids.len() < 12, "{ids:?}");
        assert_eq!(t.decode(&ids), "Once upon a time, there was a farmer.");
        assert_eq!(t.pieces()[4093], " plates");
    }
}
