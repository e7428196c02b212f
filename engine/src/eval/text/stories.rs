//! Checks of short stories that need no judge (`methods/evaluation.md` 2.5): closeness to the reference counts, not the
//! maximum. A text without an end is judged like one with it, and counted.

use std::collections::HashSet;

use serde::Serialize;

use super::surface::words;

/// Shares over texts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stories {
    /// words outside the reference's list; absent without one
    pub unknown_words: Option<f64>,
    /// texts with an even number of straight quotes
    pub quotes_closed: f64,
    /// texts with dialogue
    pub dialogue: f64,
    /// texts whose last character is . ! ? or a quote
    pub ends_well: f64,
    /// texts that start with "Once upon a time"
    pub once_upon: f64,
    pub empty: f64,
    /// UTF-8 bytes, mean
    pub bytes: f64,
    /// distinct names a text, mean
    pub names: f64,
}

/// Words that are capitalised inside a sentence.
fn names(text: &str) -> HashSet<&str> {
    const NOT: [&str; 6] = ["I", "Mom", "Mommy", "Dad", "Daddy", "I'm"];
    let mut found = HashSet::new();
    let mut before = '.';
    for word in text.split_whitespace() {
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
        let inside = before.is_lowercase() || before == ',';
        if inside && word.starts_with(char::is_uppercase) && !NOT.contains(&bare) {
            found.insert(bare.strip_suffix("'s").unwrap_or(bare));
        }
        before = word.chars().last().unwrap_or('.');
    }
    found
}

/// The words of a reference.
pub fn vocabulary(texts: &[String]) -> HashSet<String> {
    texts.iter().flat_map(|t| words(t)).collect()
}

/// Figures of texts; `known` are the words of the training text.
pub fn stories(texts: &[String], known: Option<&HashSet<String>>) -> Stories {
    let n = texts.len().max(1) as f64;
    let share = |f: &dyn Fn(&str) -> bool| texts.iter().filter(|t| f(t.trim())).count() as f64 / n;
    let mean = |f: &dyn Fn(&str) -> f64| texts.iter().map(|t| f(t.trim())).sum::<f64>() / n;
    let quotes = |t: &str| t.matches('"').count();
    Stories {
        unknown_words: known.map(|k| {
            let all: Vec<String> = texts.iter().flat_map(|t| words(t)).collect();
            all.iter().filter(|w| !k.contains(*w)).count() as f64 / all.len().max(1) as f64
        }),
        quotes_closed: share(&|t| quotes(t) % 2 == 0),
        dialogue: share(&|t| quotes(t) > 0),
        ends_well: share(&|t| t.ends_with(['.', '!', '?', '"'])),
        once_upon: share(&|t| t.starts_with("Once upon a time")),
        empty: share(&str::is_empty),
        bytes: mean(&|t| t.len() as f64),
        names: mean(&|t| names(t).len() as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_is_read() {
        let texts = [
            "Once upon a time there was a girl named Lily. Mom said, \"Come, Ben!\" and Lily's dog ran."
                .to_string(),
            "The cat \"sat".to_string(),
        ];
        let known = vocabulary(&texts[..1]);
        let s = stories(&texts, Some(&known));
        assert_eq!(
            (s.quotes_closed, s.dialogue, s.ends_well, s.once_upon, s.empty),
            (0.5, 1.0, 0.5, 0.5, 0.0)
        );
        assert_eq!(names(&texts[0]), HashSet::from(["Lily", "Ben"]));
        assert!((s.names - 1.0).abs() < 1e-12);
        // the, cat, sat of 21 words
        assert!((s.unknown_words.unwrap() - 3.0 / 21.0).abs() < 1e-12, "{s:?}");
    }
}
