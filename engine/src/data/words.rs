//! The rules that cut text into words, which merges never cross. Each is a regular expression of which the first
//! alternative that matches wins, or two steps one after the other; every character belongs to a word.
//!
//! - GPT-2 (Radford et al. 2019): `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
//! - digits alone (SmolLM2): every number is a word of its own; what lies between them is cut by GPT-2's rule
//! - cl100k's family (Qwen 2, 2.5 and 3 with k = 1, Llama 3 with k = 3):
//!   `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,k}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
//!
//! Written out as scanners because a regular-expression engine with look-ahead and Unicode tables would be a fifth of
//! the page. Whitespace is Unicode's White_Space.

use serde_json::Value;

use super::letters::{is_letter, is_number};

/// How a file cuts words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// not at all
    Whole,
    Gpt2,
    /// GPT-2's rule between numbers
    Digits,
    /// cl100k's family, up to so many numbers together
    Family {
        numbers: usize,
    },
}

/// The expression of the family as its files write it.
fn family(numbers: &str) -> String {
    format!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
}

impl Cut {
    /// Reads the `pre_tokenizer` of a `tokenizer.json`.
    ///
    /// Errors: in words, if it is none of the rules above.
    pub fn read(file: &Value) -> Result<Cut, String> {
        let refused = || format!("it cuts words by {file}");
        let level = |level: &Value| {
            let plain = level["type"] == "ByteLevel" && level["add_prefix_space"] == false;
            plain.then(|| level["use_regex"] != false)
        };
        if file["type"] != "Sequence" {
            return match level(file) {
                Some(true) => Ok(Cut::Gpt2),
                Some(false) => Ok(Cut::Whole),
                None => Err(refused()),
            };
        }
        let [first, last] = file["pretokenizers"].as_array().map_or(&[][..], Vec::as_slice) else {
            return Err(refused());
        };
        let isolated = first["behavior"] == "Isolated" && first["invert"] == false;
        match (first["type"].as_str(), level(last)) {
            (Some("Digits"), Some(true)) if first["individual_digits"] == true => Ok(Cut::Digits),
            (Some("Split"), Some(false)) if isolated => match first["pattern"]["Regex"].as_str() {
                Some(regex) if regex == family("") => Ok(Cut::Family { numbers: 1 }),
                Some(regex) if regex == family("{1,3}") => Ok(Cut::Family { numbers: 3 }),
                _ => Err(refused()),
            },
            _ => Err(refused()),
        }
    }

    /// The words of `text` in order; laid end to end they are `text`.
    pub fn words(self, text: &str) -> impl Iterator<Item = &str> {
        let (mut piece, mut rest) = ("", text);
        std::iter::from_fn(move || {
            if piece.is_empty() {
                (piece, rest) = rest.split_at(self.piece(rest));
            }
            let (word, later) = piece.split_at(self.first(piece));
            piece = later;
            (!word.is_empty()).then_some(word)
        })
    }

    /// Bytes of the first part that is cut by itself.
    fn piece(self, text: &str) -> usize {
        match (self, text.chars().next()) {
            (Cut::Digits, Some(c)) if is_number(c) => c.len_utf8(),
            (Cut::Digits, _) => text.find(is_number).unwrap_or(text.len()),
            _ => text.len(),
        }
    }

    /// Bytes of the first word of a part.
    fn first(self, text: &str) -> usize {
        match self {
            Cut::Whole => text.len(),
            Cut::Gpt2 | Cut::Digits => gpt2(text),
            Cut::Family { numbers } => of_family(text, numbers),
        }
    }
}

fn gpt2(text: &str) -> usize {
    const ENDINGS: [&str; 7] = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];
    if let Some(ending) = ENDINGS.iter().find(|e| text.starts_with(**e)) {
        return ending.len();
    }
    let space = usize::from(text.starts_with(' '));
    let run = |class: fn(char) -> bool| {
        let length = run(&text[space..], class);
        (length > 0).then_some(space + length)
    };
    run(is_letter).or_else(|| run(is_number)).or_else(|| run(is_other)).unwrap_or_else(|| blank(text))
}

fn of_family(text: &str, numbers: usize) -> usize {
    let mut chars = text.chars();
    let (Some(first), second) = (chars.next(), chars.next()) else { return 0 };
    if first == '\''
        && let Some(length) = ending(&text[1..])
    {
        return 1 + length;
    }
    if is_letter(first) {
        return run(text, is_letter);
    }
    if is_number(first) {
        return text.chars().take(numbers).take_while(|c| is_number(*c)).map(char::len_utf8).sum();
    }
    if !matches!(first, '\r' | '\n') && second.is_some_and(is_letter) {
        return first.len_utf8() + run(&text[first.len_utf8()..], is_letter);
    }
    let space = usize::from(first == ' ');
    let others = run(&text[space..], is_other);
    if others > 0 {
        let end = space + others;
        return end + run(&text[end..], |c| matches!(c, '\r' | '\n'));
    }
    // whitespace up to the last line break of its run
    match text[..run(text, char::is_whitespace)].rfind(['\r', '\n']) {
        Some(last) => last + 1,
        None => blank(text),
    }
}

/// Bytes of an ending after its apostrophe, in capitals or not. A long s is an s in another case.
fn ending(text: &str) -> Option<usize> {
    let mut chars = text.chars();
    let small = |c: char| if c == 'ſ' { 's' } else { c.to_ascii_lowercase() };
    let first = chars.next()?;
    match (small(first), chars.next().map(small)) {
        ('s' | 't' | 'm' | 'd', _) => Some(first.len_utf8()),
        ('r' | 'v', Some('e')) | ('l', Some('l')) => Some(2),
        _ => None,
    }
}

fn is_other(c: char) -> bool {
    !c.is_whitespace() && !is_letter(c) && !is_number(c)
}

/// Bytes at the start of `text` whose characters are of a class.
fn run(text: &str, class: impl Fn(char) -> bool) -> usize {
    text.find(|c| !class(c)).unwrap_or(text.len())
}

/// Bytes of the whitespace at the start of `text`, without the last character if something follows it: that one goes
/// with the next word, unless it is all there is.
fn blank(text: &str) -> usize {
    let length = run(text, char::is_whitespace);
    let last = text[..length].chars().next_back().map_or(0, char::len_utf8);
    if length == text.len() || length == last { length } else { length - last }
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use std::sync::LazyLock;

    use super::super::letters::characters;
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, PreTokenizerWrapper};

    /// The rules as files write them.
    fn files() -> [(Value, Cut); 5] {
        let level = |regex| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
        let split = |numbers| json!({"type": "Split", "pattern": {"Regex": family(numbers)}, "behavior": "Isolated", "invert": false});
        let digits = json!({"type": "Digits", "individual_digits": true});
        let both = |first: Value, regex| json!({"type": "Sequence", "pretokenizers": [first, level(regex)]});
        [
            (level(true), Cut::Gpt2),
            (level(false), Cut::Whole),
            (both(digits, true), Cut::Digits),
            (both(split(""), false), Cut::Family { numbers: 1 }),
            (both(split("{1,3}"), false), Cut::Family { numbers: 3 }),
        ]
    }

    /// The library's reading of a file.
    fn library(file: &Value) -> PreTokenizerWrapper {
        serde_json::from_value(file.clone()).unwrap()
    }

    /// What the tokenizers library makes of `text`.
    fn theirs<'t>(rule: &PreTokenizerWrapper, text: &'t str) -> Vec<&'t str> {
        let mut cut = PreTokenizedString::from(text);
        rule.pre_tokenize(&mut cut).unwrap();
        let splits = cut.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits.into_iter().map(|(_, (start, end), _)| &text[start..end]).filter(|w| !w.is_empty()).collect()
    }

    /// Whether the library, for numbers alone, asks tables that this character is the same in: it asks the compiler's,
    /// which may be newer than ours.
    fn settled(c: char) -> bool {
        c.is_numeric() == is_number(c)
    }

    #[test]
    fn known_cuts() {
        let text = "I'll go,  THEY'VE  \n12a";
        let cut = |cut: Cut| cut.words(text).collect::<Vec<_>>();
        assert_eq!(cut(Cut::Gpt2), ["I", "'ll", " go", ",", " ", " THEY", "'", "VE", "  ", "\n", "12", "a"]);
        assert_eq!(
            cut(Cut::Digits),
            ["I", "'ll", " go", ",", " ", " THEY", "'", "VE", "  \n", "1", "2", "a"]
        );
        assert_eq!(
            cut(Cut::Family { numbers: 1 }),
            ["I", "'ll", " go", ",", " ", " THEY", "'VE", "  \n", "1", "2", "a"]
        );
        assert_eq!(cut(Cut::Family { numbers: 3 })[8..], ["12", "a"]);
        assert_eq!(cut(Cut::Whole), [text]);
        assert_eq!(Cut::Gpt2.words("a  ").collect::<Vec<_>>(), ["a", "  "]);
        for (_, cut) in files() {
            assert!(cut.words("").next().is_none());
        }
    }

    #[test]
    fn rules_are_known_by_their_files() {
        for (file, cut) in files() {
            assert_eq!(Cut::read(&file), Ok(cut));
        }
        let [(level, _), _, (digits, _), (split, _), _] = files();
        let wrong = |file: &Value, change: fn(&mut Value)| {
            let mut file = file.clone();
            change(&mut file);
            assert!(Cut::read(&file).unwrap_err().contains("it cuts words by"), "{file}");
        };
        wrong(&level, |f| f["add_prefix_space"] = true.into());
        wrong(&digits, |f| f["pretokenizers"][0]["individual_digits"] = false.into());
        wrong(&digits, |f| f["pretokenizers"][1]["use_regex"] = false.into());
        wrong(&split, |f| f["pretokenizers"][0]["behavior"] = "Removed".into());
        wrong(&split, |f| f["pretokenizers"][0]["invert"] = true.into());
        wrong(&split, |f| f["pretokenizers"][0]["pattern"]["Regex"] = "a+".into());
        wrong(&split, |f| f["pretokenizers"][1]["use_regex"] = true.into());
        wrong(&split, |f| drop(f["pretokenizers"].as_array_mut().unwrap().pop()));
        wrong(&split, |f| *f = json!({"type": "Whitespace"}));
        wrong(&split, |f| *f = Value::Null);
    }

    #[test]
    fn every_character_is_cut_as_the_library_cuts_it() {
        let all = characters();
        let newer: Vec<&char> = all.iter().filter(|c| !settled(**c)).collect();
        println!("{} numbers of later versions of Unicode are left out of one rule", newer.len());
        assert!(newer.len() < 200 && newer.iter().all(|c| c.is_numeric()), "{newer:?}");
        let check = |file: &Value, cut: Cut| {
            let rule = library(file);
            for some in all.chunks(1024) {
                let some = some.iter().filter(|c| cut != Cut::Digits || settled(**c));
                // each one after and before a letter, a number, a sign and whitespace
                let text: String = some.map(|c| format!("a{c}1{c}-{c} {c}\t{c}a'{c}\n")).collect();
                assert_eq!(cut.words(&text).collect::<Vec<_>>(), theirs(&rule, &text), "{cut:?}");
            }
            for c in &all {
                let text = c.to_string();
                assert_eq!(cut.words(&text).collect::<Vec<_>>(), [text.as_str()], "{cut:?}");
            }
        };
        std::thread::scope(|threads| {
            for (file, cut) in files().into_iter().filter(|f| f.1 != Cut::Whole) {
                let check = &check;
                threads.spawn(move || check(&file, cut));
            }
        });
    }

    /// The library's reading of every rule: its regular expressions take longer to build than to ask.
    static RULES: LazyLock<Vec<(PreTokenizerWrapper, Cut)>> =
        LazyLock::new(|| files().iter().map(|(file, cut)| (library(file), *cut)).collect());

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn every_text_is_cut_as_the_library_cuts_it(
            text in any::<String>(),
            plain in "([a-dA-DéЖ]{1,3}|[0-9²Ⅳ٣]{1,4}|'(s|t|re|ve|m|ll|d|x|S|RE|Ve|lL|ſ)|[ ]{1,3}|[\n\r\t\u{a0}\u{2003}\u{85}]|[-.,!'_]{1,2}|\r\n){0,24}",
        ) {
            for (rule, cut) in RULES.iter() {
                for text in [&text, &plain].into_iter().filter(|t| t.chars().all(settled)) {
                    let ours: Vec<&str> = cut.words(text).collect();
                    prop_assert_eq!(ours.concat(), text.as_str());
                    prop_assert_eq!(ours, theirs(rule, text), "{:?}", cut);
                }
            }
        }
    }
}
