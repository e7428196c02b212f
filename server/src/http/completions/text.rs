//! What the outside sees of a decoding: the text as it stands, and the part of it that no step will change any more.

use std::sync::Arc;

use hilda_engine::decode::Decoder;

use crate::models::Ready;

/// What the outside sees of one decoding.
pub(super) struct Text {
    pub model: Arc<Ready>,
    pub stops: Vec<String>,
}

impl Text {
    /// Text of the generated part up to the end of text; masks as U+2591.
    pub fn shown(&self, d: &Decoder) -> String {
        let config = d.config();
        let mut bytes = Vec::new();
        for pos in config.prompt.len() as u32..config.length {
            if d.state().is_masked(pos) {
                bytes.extend("\u{2591}".as_bytes());
            } else if Some(d.state().id(pos)) == config.eos_id {
                break;
            } else {
                bytes.extend(self.model.tokenizer.bytes(d.state().id(pos)));
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
    /// Bytes of the leading blocks that no step will touch again; everything once decoding has ended.
    fn settled(&self, d: &Decoder) -> Vec<u8> {
        let config = d.config();
        let end = if d.stop().is_some() { config.length } else { d.settled() };
        let mut bytes = Vec::new();
        for pos in config.prompt.len() as u32..end {
            if d.state().is_masked(pos) || Some(d.state().id(pos)) == config.eos_id {
                break;
            }
            bytes.extend(self.model.tokenizer.bytes(d.state().id(pos)));
        }
        bytes
    }
    /// Bytes at the end that may be the beginning of a stop string.
    fn held_back(&self, text: &str) -> usize {
        let begins =
            |s: &String| s.char_indices().map(|(i, _)| i).skip(1).filter(|n| text.ends_with(&s[..*n])).max();
        self.stops.iter().filter_map(begins).max().unwrap_or(0)
    }
    /// The text cut at the earliest stop string, and whether there was one.
    pub fn cut<'a>(&self, text: &'a str) -> (&'a str, bool) {
        match self.stops.iter().filter_map(|s| text.find(s)).min() {
            Some(at) => (&text[..at], true),
            None => (text, false),
        }
    }
}

/// Bytes as text. Half a character at the end waits for its rest, unless this is the last of them; so the text of
/// more bytes always begins with the text of fewer.
fn settled_text(bytes: &[u8], last: bool) -> String {
    let mut out = String::new();
    let mut read = 0;
    for chunk in bytes.utf8_chunks() {
        out += chunk.valid();
        let bad = chunk.invalid();
        read += chunk.valid().len() + bad.len();
        let at_end = read == bytes.len();
        let half = at_end && std::str::from_utf8(bad).is_err_and(|e| e.error_len().is_none());
        if !bad.is_empty() && (last || !half) {
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }
    out
}

/// The text that may be told so far, and where it is cut off.
#[derive(Default)]
pub(super) struct Told {
    sent: usize,
    /// a stop string ended the text
    pub cut: bool,
}

impl Told {
    /// What is new of the text that no step can change any more.
    pub fn next(&mut self, text: &Text, d: &Decoder) -> String {
        let last = d.stop().is_some();
        let settled = settled_text(&text.settled(d), last);
        let (kept, stopped) = text.cut(&settled);
        self.cut = stopped;
        let end = if stopped || last { kept.len() } else { kept.len() - text.held_back(kept) };
        let new = kept[self.sent.min(end)..end].to_string();
        self.sent = self.sent.max(end);
        new
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_of_fewer_bytes_begins_the_text_of_more(bytes in prop::collection::vec(any::<u8>(), 0..40), cut in 0usize..40) {
            let cut = cut.min(bytes.len());
            let whole = settled_text(&bytes, true);
            prop_assert_eq!(&whole, &String::from_utf8_lossy(&bytes));
            prop_assert!(whole.starts_with(&settled_text(&bytes[..cut], false)));
        }
    }
}
