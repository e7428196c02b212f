//! A mask token for a vocabulary that has none, without another row of the embedding (`methods/ar_conversion.md`,
//! appendix A and pitfalls).
//!
//! Contract: the result reads as a tokenizer whose mask is the chosen id, and encodes every text as before. The choice,
//! best first: a token that is called a mask already; the id that published models of the family use; a row of the
//! embedding that no token has; a special token that text models do not need (SmolLM2's `<reponame>`, a doublet of
//! `<repo_name>`, or one that calls itself reserved or unused). That token is renamed, so a person cannot type it and
//! every reader of the file agrees on what it is.

use serde_json::{Value, json};

use super::DataError;
use super::tokenizer::MASK;

/// Special tokens that a mask may replace, by name or part of it.
const DISPENSABLE: [&str; 4] = ["<reponame>", "reserved", "unused", "<extra_id_"];

/// `tokenizer.json` with a mask token, and its id. `rows` is the embedding's, `published` the id that models of the
/// family use.
///
/// Errors: no such file, or no id that could be the mask (the message lists the special tokens).
pub fn with_mask(json: &[u8], rows: usize, published: Option<u32>) -> Result<(Vec<u8>, u32), DataError> {
    let bad = |m: String| DataError::Tokenizer(format!("tokenizer.json: {m}"));
    let mut file: Value = serde_json::from_slice(json).map_err(|e| bad(e.to_string()))?;
    let tokens = tokens(&file).ok_or_else(|| bad("its model has no vocabulary".into()))?;
    if let Some((_, id, _)) = tokens.iter().find(|(name, ..)| MASK.contains(&name.as_str())) {
        return Ok((json.to_vec(), *id));
    }
    let taken = |id: u32| tokens.iter().find(|t| t.1 == id);
    let free = |id: &u32| (*id as usize) < rows && taken(*id).is_none_or(|t| t.2);
    let spare = tokens.iter().map(|t| t.1 + 1).max().filter(|id| (*id as usize) < rows);
    let special = |part: &str| tokens.iter().find(|(name, _, special)| *special && name.contains(part));
    let dispensable = DISPENSABLE.iter().find_map(|part| special(part)).map(|t| t.1);
    let id = published.filter(free).or(spare).or(dispensable).ok_or_else(|| {
        let names: Vec<&str> = tokens.iter().filter(|t| t.2).map(|t| t.0.as_str()).take(40).collect();
        bad(format!("none of its special tokens can become the mask ({})", names.join(", ")))
    })?;
    rename(&mut file, id);
    Ok((serde_json::to_vec(&file).expect("it was read as JSON"), id))
}

/// Every token: name, id, whether it is special.
fn tokens(file: &Value) -> Option<Vec<(String, u32, bool)>> {
    let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|id| *id < u32::MAX);
    let own = file["model"]["vocab"].as_object()?;
    let mut out: Vec<(String, u32, bool)> = vec![];
    for token in file["added_tokens"].as_array().into_iter().flatten() {
        out.push((token["content"].as_str()?.into(), id(&token["id"])?, token["special"] == true));
    }
    let added = out.len();
    for (name, v) in own {
        let id = id(v)?;
        if !out[..added].iter().any(|t| t.1 == id) {
            out.push((name.clone(), id, false));
        }
    }
    Some(out)
}

/// Calls the token of this id the mask, in the model's vocabulary and among the added tokens.
fn rename(file: &mut Value, id: u32) {
    let name = MASK[0];
    if let Some(vocab) = file["model"]["vocab"].as_object_mut() {
        let old = vocab.iter().find(|(_, v)| v.as_u64() == Some(id as u64)).map(|(k, _)| k.clone());
        if let Some(old) = old {
            vocab.shift_remove(&old);
        }
        // also where the token is only an added one: the library would number it by its place in the list
        vocab.insert(name.into(), id.into());
    }
    if !file["added_tokens"].is_array() {
        file["added_tokens"] = json!([]);
    }
    let added = file["added_tokens"].as_array_mut().expect("made above");
    let token = json!({"id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true});
    match added.iter_mut().find(|t| t["id"] == id) {
        Some(old) => *old = token,
        None => {
            added.push(token);
            added.sort_by_key(|t| t["id"].as_u64());
        }
    }
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use super::*;
    use crate::data::{Tokenizer, bpe};

    const TEXT: &str = "the cat sat on the mat, number 12";

    /// A vocabulary whose mask token is called something else.
    fn without_mask(name: &str) -> (Vec<u8>, Tokenizer) {
        let t = bpe::train(&[TEXT.repeat(20)], 300).unwrap();
        let text = String::from_utf8(t.json().to_vec()).unwrap().replace("<|mask|>", name);
        (text.into_bytes(), t)
    }

    fn check(json: &[u8], rows: usize, published: Option<u32>, want: u32) {
        let (_, before) = without_mask("<reponame>");
        let (file, id) = with_mask(json, rows, published).unwrap();
        let t = Tokenizer::from_bytes(&file).unwrap();
        assert_eq!((id, t.specials().mask), (want, want));
        assert_eq!(t.encode(TEXT).unwrap(), before.encode(TEXT).unwrap());
        assert!(t.forbid().contains(&id) && t.vocab() <= rows);
        // what is there already is left as it is
        assert_eq!(with_mask(&file, rows, published).unwrap(), (file, id));
    }

    #[test]
    fn the_choice_is_the_best_that_is_there() {
        let (json, t) = without_mask("<reponame>");
        let (rows, mask) = (t.vocab(), t.specials().mask);
        check(&json, rows, None, mask);
        // a row without a token comes first, the family's own id before that
        check(&json, rows + 9, None, rows as u32);
        check(&json, rows + 9, Some(rows as u32 + 5), rows as u32 + 5);
        // an id outside the embedding, or one that text uses, is no choice
        check(&json, rows, Some(rows as u32 + 5), mask);
        check(&json, rows, Some(100), mask);
        check(&without_mask("<|reserved_special_token_7|>").0, rows, None, mask);
        // its own name wins
        let own = without_mask("[MASK]").0;
        assert_eq!(with_mask(&own, rows + 9, Some(rows as u32)).unwrap(), (own, mask));
    }

    #[test]
    fn a_vocabulary_without_a_choice_is_an_error_that_lists_it() {
        let (json, t) = without_mask("<|needed|>");
        let e = with_mask(&json, t.vocab(), None).unwrap_err().to_string();
        assert!(e.contains("<|needed|>") && e.contains("<|endoftext|>"), "{e}");
        for bytes in [&b""[..], b"{}", b"[1]", br#"{"model":{"vocab":{"a":-1}}}"#] {
            assert!(with_mask(bytes, 10, None).is_err());
        }
    }
}
