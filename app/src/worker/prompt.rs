//! A prompt with holes: "Lily found a ____ in the park" asks for four tokens between two given pieces of text.

use hilda_engine::data::{DataError, Tokenizer};

/// Token ids of a prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Encoded {
    /// tokens before the first hole
    pub prompt: Vec<u32>,
    /// (position, token) after a hole
    pub fixed: Vec<(u32, u32)>,
    /// positions taken by prompt, holes and given text
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

/// Encodes each piece of given text by itself. Spaces before a hole belong to the words that will fill it, because
/// tokens carry their space in front.
pub fn encode(text: &str, tokenizer: &Tokenizer) -> Result<Encoded, DataError> {
    let mut encoded = Encoded::default();
    let mut open = true;
    let parts = parts(text);
    for (i, part) in parts.iter().enumerate() {
        match part {
            Part::Hole(n) => {
                encoded.length += n;
                open = false;
            }
            Part::Text(text) => {
                let before_hole = matches!(parts.get(i + 1), Some(Part::Hole(_)));
                let text = if before_hole { text.trim_end_matches(' ') } else { text };
                for id in tokenizer.encode(text)? {
                    match open {
                        true => encoded.prompt.push(id),
                        false => encoded.fixed.push((encoded.length, id)),
                    }
                    encoded.length += 1;
                }
            }
        }
    }
    Ok(encoded)
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
