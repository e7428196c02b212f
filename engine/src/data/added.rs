//! Added tokens that are text: names like `<think>` that a vocabulary holds as one token, taken out of a text before
//! anything else happens to it. Names that are special are found too, so that they hide what they hide in the tokenizers
//! library, but stay text: nobody can type them.

use serde_json::Value;

/// The names that are looked for.
#[derive(Debug, Default)]
pub struct Added {
    /// name, and its id if it is text; longest first
    names: Vec<(String, Option<u32>)>,
}

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'t> {
    Text(&'t str),
    Token(u32),
}

impl Added {
    /// Adds the `added_tokens` entry that has the id `id`.
    ///
    /// Errors: options that would let the name take spaces with it, depend on its surroundings, or be normalised.
    pub fn add(&mut self, token: &Value, id: u32) -> Result<(), String> {
        let name = token["content"].as_str().filter(|n| !n.is_empty()).ok_or("an added token has no name")?;
        let special = token["special"] == true;
        let option = ["single_word", "lstrip", "rstrip", "normalized"].iter().find(|o| token[**o] == true);
        match option {
            Some(option) if !special => {
                return Err(format!("its added token {name:?} has the option {option}"));
            }
            // looked for in another pass, in which it stays text as well
            Some(&"normalized") => return Ok(()),
            _ => {}
        }
        self.names.push((name.into(), (!special).then_some(id)));
        self.names.sort_by_key(|n| std::cmp::Reverse(n.0.len()));
        Ok(())
    }

    /// The parts of `text` in order, none of them empty. At each place the longest name counts.
    pub fn parts<'t>(&self, text: &'t str) -> impl Iterator<Item = Part<'t>> {
        let (mut rest, mut found) = (text, None);
        std::iter::from_fn(move || {
            if let Some(id) = found.take() {
                return Some(Part::Token(id));
            }
            let (length, end, id) = self.next(rest);
            let part = &rest[..length];
            rest = &rest[end..];
            match (part.is_empty(), id) {
                (true, None) => None,
                (true, Some(id)) => Some(Part::Token(id)),
                (false, id) => {
                    found = id;
                    Some(Part::Text(part))
                }
            }
        })
    }

    /// Bytes of text before the next token, bytes with it, its id.
    fn next(&self, text: &str) -> (usize, usize, Option<u32>) {
        let whole = (text.len(), text.len(), None);
        if self.names.iter().all(|n| n.1.is_none()) {
            return whole;
        }
        let mut at = 0;
        while let Some(c) = text[at..].chars().next() {
            match self.names.iter().find(|n| text[at..].starts_with(&n.0)) {
                Some((name, Some(id))) => return (at, at + name.len(), Some(*id)),
                Some((name, None)) => at += name.len(),
                None => at += c.len_utf8(),
            }
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_longest_name_counts_and_specials_stay_text() {
        let mut added = Added::default();
        for (name, id, special) in
            [("<a>", 1, false), ("<a><b>", 2, false), ("<s>", 3, true), ("s><a", 4, false)]
        {
            added.add(&json!({"content": name, "special": special}), id).unwrap();
        }
        let parts = |text: &'static str| added.parts(text).collect::<Vec<_>>();
        use Part::{Text, Token};
        assert_eq!(parts("x<a>y<a><b><a>"), [Text("x"), Token(1), Text("y"), Token(2), Token(1)]);
        // the special name is found first and hides the fourth
        assert_eq!(parts("é<s><a>"), [Text("é<s>"), Token(1)]);
        assert_eq!(parts("<s"), [Text("<s")]);
        assert!(parts("").is_empty());
    }

    #[test]
    fn options_that_reach_further_are_refused() {
        for option in ["single_word", "lstrip", "rstrip", "normalized"] {
            let why = Added::default().add(&json!({"content": "<x>", option: true}), 1).unwrap_err();
            assert!(why.contains(option), "{why}");
        }
        assert!(Added::default().add(&json!({"content": "", "special": false}), 1).is_err());
    }
}
