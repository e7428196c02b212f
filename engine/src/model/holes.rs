//! A prompt with holes: "Lily found a ____ in the park" asks for four tokens between two given pieces of text; or a
//! prompt and a suffix with one hole between them.

use crate::data::{DataError, Tokenizer};

/// A prompt taken apart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Holes {
    /// text before the first hole
    pub prompt: String,
    /// (position counted from the end of that text, token) of text after a hole
    pub fixed: Vec<(u32, u32)>,
    /// positions taken by holes and the text after them
    pub length: u32,
}

/// A part of a prompt.
#[derive(Clone, Debug, PartialEq)]
enum Part<'a> {
    Text(&'a str),
    Hole(u32),
}

/// Runs of two or more underscores are holes of as many tokens; one underscore is text.
fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("__") {
        let (before, after) = rest.split_at(at);
        let hole = after.len() - after.trim_start_matches('_').len();
        if !before.is_empty() {
            parts.push(Part::Text(before));
        }
        parts.push(Part::Hole(hole as u32));
        rest = &after[hole..];
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest));
    }
    parts
}

/// One hole of `tokens` between `prompt` and `suffix`.
///
/// # Errors
/// Text that the tokenizer cannot write.
pub fn between(prompt: &str, tokens: u32, suffix: &str, tokenizer: &Tokenizer) -> Result<Holes, DataError> {
    let after = tokenizer.encode(suffix)?;
    let fixed: Vec<(u32, u32)> = (tokens..).zip(after).collect();
    let length = tokens + fixed.len() as u32;
    Ok(Holes { prompt: prompt.to_string(), fixed, length })
}

/// Encodes each piece of text after a hole by itself. Spaces before a hole belong to the words that will fill it,
/// because tokens carry their space in front.
///
/// # Errors
/// Text that the tokenizer cannot write.
pub fn holes(text: &str, tokenizer: &Tokenizer) -> Result<Holes, DataError> {
    let mut holes = Holes::default();
    let parts = parts(text);
    for (i, part) in parts.iter().enumerate() {
        match part {
            Part::Hole(n) => holes.length += n,
            Part::Text(text) => {
                let before_hole = matches!(parts.get(i + 1), Some(Part::Hole(_)));
                let text = if before_hole { text.trim_end_matches(' ') } else { text };
                if i == 0 {
                    holes.prompt = text.to_string();
                    continue;
                }
                for id in tokenizer.encode(text)? {
                    holes.fixed.push((holes.length, id));
                    holes.length += 1;
                }
            }
        }
    }
    Ok(holes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn underscores_are_holes() {
        assert_eq!(
            parts("a ____ in the park, __."),
            [Part::Text("a "), Part::Hole(4), Part::Text(" in the park, "), Part::Hole(2), Part::Text(".")]
        );
        assert_eq!(parts("snake_case"), [Part::Text("snake_case")]);
        assert_eq!(parts("___"), [Part::Hole(3)]);
        assert_eq!(parts(""), []);
    }
}
