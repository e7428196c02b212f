//! The tokenizer of a GGUF file, as a `tokenizer.json`, and back.
//!
//! `tokenizer.ggml.*`: `model` ("gpt2" is byte-level BPE, the only kind read here), `pre` (how text is cut into words,
//! by name), `tokens` in the order of their ids, `merges` ("a b"), `token_type` (1 ordinary, 3 control, 4 user-defined,
//! 5 unused). Unused ids fill the embedding where it has more rows than the vocabulary; they are no tokens.

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value as Meta;
use serde_json::{Map, Value, json};

use super::CheckpointError;

const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// How words are cut, by llama.cpp's name: digits one by one before GPT-2's rule, or a rule of its own, and whether
/// words that are tokens are taken whole.
enum Cut {
    Gpt2,
    DigitsThenGpt2,
    Pattern { rule: &'static str, whole: bool },
}

const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Names that are read; the first of a kind is the one that is written.
const CUTS: [(&str, Cut); 6] = [
    ("gpt-2", Cut::Gpt2),
    ("default", Cut::Gpt2),
    ("smollm", Cut::DigitsThenGpt2),
    ("qwen2", Cut::Pattern { rule: QWEN2, whole: false }),
    ("llama-bpe", Cut::Pattern { rule: LLAMA3, whole: true }),
    ("llama3", Cut::Pattern { rule: LLAMA3, whole: true }),
];

fn bad(what: impl std::fmt::Display) -> CheckpointError {
    CheckpointError::Format(format!("gguf tokenizer: {what}"))
}

impl Cut {
    fn json(&self) -> Value {
        let level = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
        let both = |first: Value, level: Value| json!({"type": "Sequence", "pretokenizers": [first, level]});
        match self {
            Cut::Gpt2 => level(true),
            Cut::DigitsThenGpt2 => both(json!({"type": "Digits", "individual_digits": true}), level(true)),
            Cut::Pattern { rule, .. } => both(
                json!({"type": "Split", "pattern": {"Regex": rule}, "behavior": "Isolated", "invert": false}),
                level(false),
            ),
        }
    }
}

/// `tokenizer.json` from a file's metadata; `None` where the file has no tokenizer.
///
/// Errors: another kind of tokenizer, an unknown way to cut words, lists of unequal length.
pub fn read(meta: &HashMap<String, Meta>) -> Result<Option<Vec<u8>>, CheckpointError> {
    let get = |key: &str| meta.get(&format!("tokenizer.ggml.{key}"));
    let Some(tokens) = get("tokens") else { return Ok(None) };
    let text = |v: &Meta| v.to_string().cloned().map_err(bad);
    let kind = get("model").map(text).transpose()?.unwrap_or_default();
    if kind != "gpt2" {
        return Err(bad(format!("it is of the kind \"{kind}\"; only byte-level BPE (\"gpt2\") is read")));
    }
    let pre = get("pre").map(text).transpose()?.unwrap_or_else(|| "default".into());
    let known = CUTS.map(|c| c.0).join(", ");
    let cut = &CUTS
        .iter()
        .find(|(name, _)| *name == pre)
        .ok_or_else(|| bad(format!("cuts words by \"{pre}\", which is not known here ({known})")))?
        .1;
    let strings = |v: &Meta| v.to_vec().map_err(bad)?.iter().map(text).collect::<Result<Vec<String>, _>>();
    let (tokens, merges) = (strings(tokens)?, get("merges").map(strings).transpose()?.unwrap_or_default());
    let types: Vec<i32> = match get("token_type") {
        None => vec![NORMAL; tokens.len()],
        Some(v) => {
            let one = |v: &Meta| v.to_i32().or_else(|_| v.to_u32().map(|x| x as i32)).map_err(bad);
            v.to_vec().map_err(bad)?.iter().map(one).collect::<Result<_, _>>()?
        }
    };
    if types.len() != tokens.len() {
        return Err(bad(format!("{} tokens with {} types", tokens.len(), types.len())));
    }
    let (mut vocab, mut added) = (Map::new(), vec![]);
    for (id, (token, kind)) in tokens.into_iter().zip(types).enumerate() {
        if kind == UNUSED {
            continue;
        }
        if kind == CONTROL || kind == USER_DEFINED {
            added.push(json!({"id": id, "content": token, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": kind == CONTROL}));
        }
        if vocab.insert(token.clone(), id.into()).is_some() {
            return Err(bad(format!("the token {token:?} occurs twice")));
        }
    }
    let merges: Option<Vec<Value>> =
        merges.iter().map(|m| m.split_once(' ').map(|(a, b)| json!([a, b]))).collect();
    let merges = merges.ok_or_else(|| bad("a merge is not a pair"))?;
    let level =
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let whole = matches!(cut, Cut::Pattern { whole: true, .. });
    let file = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": cut.json(), "post_processor": null, "decoder": level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": whole,
            "vocab": vocab, "merges": merges}});
    Ok(Some(serde_json::to_vec(&file).expect("plain data")))
}

/// The name of the way in which a `tokenizer.json` cuts words.
fn cut_name(file: &Value) -> Result<&'static str, CheckpointError> {
    let given = &file["pre_tokenizer"];
    let parts: Vec<&Value> = match given["pretokenizers"].as_array() {
        Some(list) => list.iter().collect(),
        None => vec![given],
    };
    let regex = parts.last().is_some_and(|p| p["type"] == "ByteLevel" && p["use_regex"] != false);
    let name = match parts.as_slice() {
        [one] if one["type"] == "ByteLevel" && regex => Some("gpt-2"),
        [digits, _] if digits["type"] == "Digits" && digits["individual_digits"] == true && regex => {
            Some("smollm")
        }
        [split, _] if split["type"] == "Split" && !regex => {
            let rule = split["pattern"]["Regex"].as_str().unwrap_or("");
            let same = |c: &&(&'static str, Cut)| matches!(c.1, Cut::Pattern { rule: r, .. } if r == rule);
            CUTS.iter().find(same).map(|c| c.0)
        }
        _ => None,
    };
    name.ok_or_else(|| bad(format!("GGUF has no name for words cut by {given}")))
}

/// Metadata of a `tokenizer.json`; ids up to `rows` that have no token become unused ones.
///
/// Errors: a tokenizer that GGUF has no name for.
pub fn write(json: &[u8], rows: usize) -> Result<Vec<(String, Meta)>, CheckpointError> {
    let file: Value = serde_json::from_slice(json).map_err(bad)?;
    let mut tokens: Vec<Option<(String, i32)>> = vec![None; rows];
    let mut put = |name: &str, id: Option<u64>, kind: i32| {
        let place = id.and_then(|id| tokens.get_mut(id as usize));
        let place =
            place.ok_or_else(|| bad(format!("the token {name:?} has no row in an embedding of {rows}")))?;
        *place = Some((name.into(), kind));
        Ok(())
    };
    for (name, id) in file["model"]["vocab"].as_object().ok_or_else(|| bad("no vocabulary"))? {
        put(name, id.as_u64(), NORMAL)?;
    }
    for token in file["added_tokens"].as_array().into_iter().flatten() {
        let kind = if token["special"] == true { CONTROL } else { USER_DEFINED };
        put(token["content"].as_str().unwrap_or(""), token["id"].as_u64(), kind)?;
    }
    let fill = |(id, t): (usize, Option<(String, i32)>)| t.unwrap_or((format!("[PAD{id}]"), UNUSED));
    let (names, kinds): (Vec<String>, Vec<i32>) = tokens.into_iter().enumerate().map(fill).unzip();
    let merge = |m: &Value| match m {
        Value::String(s) => Some(s.clone()),
        Value::Array(p) if p.len() == 2 => Some(format!("{} {}", p[0].as_str()?, p[1].as_str()?)),
        _ => None,
    };
    let merges: Option<Vec<String>> =
        file["model"]["merges"].as_array().into_iter().flatten().map(merge).collect();
    let strings = |v: Vec<String>| Meta::Array(v.into_iter().map(Meta::String).collect());
    let key = |k: &str| format!("tokenizer.ggml.{k}");
    Ok(vec![
        (key("model"), Meta::String("gpt2".into())),
        (key("pre"), Meta::String(cut_name(&file)?.into())),
        (key("tokens"), strings(names)),
        (key("token_type"), Meta::Array(kinds.into_iter().map(Meta::I32).collect())),
        (key("merges"), strings(merges.ok_or_else(|| bad("a merge is not a pair"))?)),
        (key("add_bos_token"), Meta::Bool(false)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Tokenizer, bpe};

    const TEXT: &str = "the cat sat on the mat, it's 1234 times; they'll go  home\n\nÜber 7";

    #[test]
    fn every_way_to_cut_words_round_trips() {
        let ours = bpe::train(&[TEXT.repeat(30)], 300).unwrap();
        for (name, cut) in CUTS.iter().filter(|c| !["default", "llama3"].contains(&c.0)) {
            let mut file: Value = serde_json::from_slice(ours.json()).unwrap();
            file["pre_tokenizer"] = cut.json();
            file["model"]["ignore_merges"] = matches!(cut, Cut::Pattern { whole: true, .. }).into();
            let json = serde_json::to_vec(&file).unwrap();
            let meta: HashMap<String, Meta> = write(&json, 310).unwrap().into_iter().collect();
            assert_eq!(meta["tokenizer.ggml.pre"].to_string().unwrap(), name);
            assert_eq!(meta["tokenizer.ggml.tokens"].to_vec().unwrap().len(), 310);
            let back = Tokenizer::from_bytes(&read(&meta).unwrap().unwrap()).unwrap();
            let there = Tokenizer::from_bytes(&json).unwrap();
            assert_eq!(back.encode(TEXT).unwrap(), there.encode(TEXT).unwrap(), "{name}");
            assert_eq!((back.vocab(), back.specials()), (there.vocab(), there.specials()));
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let ours = bpe::train(&[TEXT.repeat(30)], 300).unwrap();
        let good: HashMap<String, Meta> = write(ours.json(), 300).unwrap().into_iter().collect();
        assert!(read(&HashMap::new()).unwrap().is_none());
        let refused = |key: &str, value: Meta, word: &str| {
            let mut meta = good.clone();
            meta.insert(format!("tokenizer.ggml.{key}"), value);
            let e = read(&meta).unwrap_err().to_string();
            assert!(e.contains(word), "{e}");
        };
        refused("model", Meta::String("llama".into()), "\"llama\"");
        refused("pre", Meta::String("tekken".into()), "tekken");
        refused("token_type", Meta::Array(vec![Meta::I32(1)]), "1 types");
        refused("merges", Meta::Array(vec![Meta::String("ab".into())]), "pair");
        let twice = Meta::Array(vec![Meta::String("a".into()); 300]);
        refused("tokens", twice, "twice");
        assert!(write(ours.json(), 20).unwrap_err().to_string().contains("embedding of 20"));
        let mut odd: Value = serde_json::from_slice(ours.json()).unwrap();
        odd["pre_tokenizer"] = json!({"type": "Whitespace"});
        assert!(write(&serde_json::to_vec(&odd).unwrap(), 300).is_err());
    }
}
