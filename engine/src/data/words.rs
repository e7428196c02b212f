//! GPT-2's rule that cuts text into words, which merges never cross (Radford et al. 2019):
//!
//! `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
//!
//! The first alternative that matches wins; every character belongs to a word. Written out as a scanner because a
//! regular-expression engine with look-ahead and Unicode tables would be a fifth of the page. Whitespace is Unicode's
//! White_Space.

use super::letters::{is_letter, is_number};

/// The words of `text` in order; laid end to end they are `text`.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (word, later) = rest.split_at(first(rest));
        rest = later;
        (!word.is_empty()).then_some(word)
    })
}

/// Bytes of the first word.
fn first(text: &str) -> usize {
    const ENDINGS: [&str; 7] = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];
    if let Some(ending) = ENDINGS.iter().find(|e| text.starts_with(**e)) {
        return ending.len();
    }
    let space = usize::from(text.starts_with(' '));
    let run = |class: fn(char) -> bool| {
        let body = &text[space..];
        let length = body.find(|c| !class(c)).unwrap_or(body.len());
        (length > 0).then_some(space + length)
    };
    let other = |c: char| !c.is_whitespace() && !is_letter(c) && !is_number(c);
    run(is_letter).or_else(|| run(is_number)).or_else(|| run(other)).unwrap_or_else(|| blank(text))
}

/// Bytes of the whitespace at the start of `text`, without the last character if something follows it: that one goes
/// with the next word, unless it is all there is.
fn blank(text: &str) -> usize {
    let length = text.find(|c: char| !c.is_whitespace()).unwrap_or(text.len());
    let last = text[..length].chars().next_back().map_or(0, char::len_utf8);
    if length == text.len() || length == last { length } else { length - last }
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    /// What the tokenizers library makes of `text`.
    fn theirs(text: &str) -> Vec<&str> {
        let mut cut = PreTokenizedString::from(text);
        ByteLevel::new(false, true, true).pre_tokenize(&mut cut).unwrap();
        let splits = cut.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits.into_iter().map(|(_, (start, end), _)| &text[start..end]).collect()
    }

    #[test]
    fn known_cuts() {
        let cut = |text| words(text).collect::<Vec<_>>();
        assert_eq!(
            cut("I'll go,  they've  \n12a"),
            ["I", "'ll", " go", ",", " ", " they", "'ve", "  ", "\n", "12", "a"]
        );
        assert_eq!(cut("a  "), ["a", "  "]);
        assert!(cut("").is_empty());
    }

    #[test]
    fn every_character_is_cut_as_the_library_cuts_it() {
        let all: Vec<char> = ('\0'..=char::MAX).collect();
        for some in all.chunks(1024) {
            // each one after a letter, a number, a sign and whitespace
            let text: String = some.iter().map(|c| format!("a{c}1{c}-{c} {c}\t{c}a")).collect();
            assert_eq!(words(&text).collect::<Vec<_>>(), theirs(&text));
        }
    }

    proptest! {
        #[test]
        fn every_text_is_cut_as_the_library_cuts_it(
            text in any::<String>(),
            plain in "([a-d]{1,3}|[0-9]{1,2}|'(s|t|re|ve|m|ll|d|x)|[ ]{1,3}|[\n\t\u{a0}\u{2003}]|[-.,!']{1,2}){0,24}",
        ) {
            for text in [&text, &plain] {
                let cut: Vec<&str> = words(text).collect();
                prop_assert_eq!(cut.concat(), text.as_str());
                prop_assert_eq!(cut, theirs(text));
            }
        }
    }
}
