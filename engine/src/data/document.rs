//! Documents inside a text: where one ends, and how a JSON line becomes one.
//!
//! A document is trimmed of white space at both ends; one that is empty after that does not exist. The reference
//! curves are packed this way, and only this way gives their counts (585,204 tokens with stories trimmed, 590,643
//! untrimmed).

use serde::{Deserialize, Serialize};

use super::DataError;

/// How a file holds its documents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Format {
    /// plain text; `separator` stands between documents (or after each)
    Text { separator: String },
    /// plain text; one or more blank lines stand between documents
    Paragraphs,
    /// one JSON object a line; the named string fields, in this order, joined by a line break, are the document
    Jsonl { fields: Vec<String> },
}

impl Default for Format {
    fn default() -> Self {
        Format::Text { separator: "<|endoftext|>".into() }
    }
}

impl Format {
    /// JSON lines for `.jsonl` and `.ndjson`, else text with `<|endoftext|>` if the text has it, else paragraphs.
    pub fn guess(name: &str, text: &str) -> Format {
        let name = name.to_ascii_lowercase();
        if name.ends_with(".jsonl") || name.ends_with(".ndjson") {
            let first = text.lines().next().and_then(|l| serde_json::from_str::<serde_json::Value>(l).ok());
            let has = |f: &str| first.as_ref().is_some_and(|v| v[f].is_string());
            let fields =
                if has("question") && has("answer") { vec!["question", "answer"] } else { vec!["text"] };
            return Format::Jsonl { fields: fields.into_iter().map(String::from).collect() };
        }
        match text.contains("<|endoftext|>") {
            true => Format::default(),
            false => Format::Paragraphs,
        }
    }
}

/// Cuts a text into documents line by line, so that a file need not fit in memory.
pub struct Splitter {
    name: String,
    format: Format,
    line: usize,
    pending: String,
}

impl Splitter {
    /// `name` is what errors call the text.
    pub fn new(name: &str, format: &Format) -> Self {
        Splitter { name: name.into(), format: format.clone(), line: 0, pending: String::new() }
    }

    /// Takes the next line with its line break and calls `out` with each document that it completes, trimmed.
    ///
    /// Errors: bytes that are no UTF-8, a JSON line that is no object or lacks a field, by line number from 1.
    pub fn line(&mut self, bytes: &[u8], mut out: impl FnMut(&str)) -> Result<(), DataError> {
        self.line += 1;
        let mut text = std::str::from_utf8(bytes)
            .map_err(|_| DataError::NotUtf8 { name: self.name.clone(), line: self.line })?;
        if self.line == 1 {
            text = text.strip_prefix('\u{feff}').unwrap_or(text);
        }
        match &self.format {
            Format::Text { separator } if separator.is_empty() => self.pending.push_str(text),
            Format::Text { separator } => {
                // a separator may begin on an earlier line
                let mut from = self.pending.len().saturating_sub(separator.len());
                while !self.pending.is_char_boundary(from) {
                    from -= 1;
                }
                self.pending.push_str(text);
                while let Some(at) = self.pending[from..].find(separator.as_str()) {
                    emit(&self.pending[..from + at], &mut out);
                    self.pending.drain(..from + at + separator.len());
                    from = 0;
                }
            }
            Format::Paragraphs if text.trim().is_empty() => {
                emit(&self.pending, &mut out);
                self.pending.clear();
            }
            Format::Paragraphs => self.pending.push_str(text),
            Format::Jsonl { fields } => {
                if !text.trim().is_empty() {
                    emit(&json_line(&self.name, self.line, text, fields)?, &mut out);
                }
            }
        }
        Ok(())
    }

    /// The document that the end of the text completes.
    pub fn finish(self, mut out: impl FnMut(&str)) {
        emit(&self.pending, &mut out);
    }
}

fn emit(document: &str, out: &mut impl FnMut(&str)) {
    let document = document.trim();
    if !document.is_empty() {
        out(document);
    }
}

/// The documents of one text in memory. `name` is what errors call it.
///
/// Errors: as [`Splitter::line`].
pub fn documents(name: &str, text: &[u8], format: &Format) -> Result<Vec<String>, DataError> {
    let mut out = Vec::new();
    let mut splitter = Splitter::new(name, format);
    for line in text.split_inclusive(|b| *b == b'\n') {
        splitter.line(line, |d| out.push(d.to_string()))?;
    }
    splitter.finish(|d| out.push(d.to_string()));
    Ok(out)
}

/// One JSON line as a document.
fn json_line(name: &str, line: usize, text: &str, fields: &[String]) -> Result<String, DataError> {
    let object = json_object(name, line, text)?;
    let get = |field: &String| {
        let text = object.get(field).and_then(|v| v.as_str());
        text.ok_or_else(|| DataError::MissingField { name: name.into(), line, field: field.clone() })
    };
    Ok(fields.iter().map(get).collect::<Result<Vec<_>, _>>()?.join("\n"))
}

/// One JSON line.
pub fn json_object(
    name: &str,
    line: usize,
    text: &str,
) -> Result<serde_json::Map<String, serde_json::Value>, DataError> {
    let json = |message: String| DataError::Json { name: name.into(), line, message };
    match serde_json::from_str(text).map_err(|e| json(e.to_string()))? {
        serde_json::Value::Object(object) => Ok(object),
        _ => Err(json("another kind of value".into())),
    }
}

/// Streams the documents of one file to `out`.
///
/// Errors: missing or unreadable file, and as [`Splitter::line`].
#[cfg(feature = "train")]
pub fn stream_documents(
    path: &std::path::Path,
    format: &Format,
    mut out: impl FnMut(&str),
) -> Result<(), DataError> {
    use std::io::BufRead;
    let mut file = std::io::BufReader::new(std::fs::File::open(path).map_err(DataError::io(path))?);
    let mut splitter = Splitter::new(&path.display().to_string(), format);
    let mut line = Vec::new();
    while file.read_until(b'\n', &mut line).map_err(DataError::io(path))? > 0 {
        splitter.line(&line, &mut out)?;
        line.clear();
    }
    splitter.finish(out);
    Ok(())
}

/// The documents of one file.
#[cfg(feature = "train")]
pub fn read_documents(path: &std::path::Path, format: &Format) -> Result<Vec<String>, DataError> {
    let mut out = Vec::new();
    stream_documents(path, format, |d| out.push(d.to_string()))?;
    Ok(out)
}

/// [`Format::guess`] from the first 64 KiB of a file.
#[cfg(feature = "train")]
pub fn guess_format(path: &std::path::Path) -> Result<Format, DataError> {
    use std::io::Read;
    let mut head = Vec::new();
    let file = std::fs::File::open(path).map_err(DataError::io(path))?;
    file.take(1 << 16).read_to_end(&mut head).map_err(DataError::io(path))?;
    Ok(Format::guess(&path.to_string_lossy(), &String::from_utf8_lossy(&head)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jsonl(text: &str, fields: &[&str]) -> Result<Vec<String>, DataError> {
        let fields = fields.iter().map(|f| f.to_string()).collect();
        documents("f.jsonl", text.as_bytes(), &Format::Jsonl { fields })
    }

    #[test]
    fn separators_paragraphs_and_lines() {
        let text = " one \n\ntwo\n<|endoftext|>\n\n<|endoftext|>three\n<|endoftext|>\n";
        assert_eq!(documents("f", text.as_bytes(), &Format::default()).unwrap(), ["one \n\ntwo", "three"]);
        let text = "a\nb\r\n \n\n\nc";
        assert_eq!(documents("f", text.as_bytes(), &Format::Paragraphs).unwrap(), ["a\nb", "c"]);
        let text = "{\"q\": \"x\", \"a\": \"y\"}\n\n{\"a\": \"2\", \"q\": \"1\"}";
        assert_eq!(jsonl(text, &["q", "a"]).unwrap(), ["x\ny", "1\n2"]);
    }

    #[test]
    fn errors_name_the_line() {
        let message = |r: Result<Vec<String>, DataError>| r.unwrap_err().to_string();
        assert_eq!(
            message(jsonl("{\"a\": \"1\"}\n\n{\"b\": 1}", &["a"])),
            "f.jsonl: line 3 has no text field \"a\""
        );
        assert!(
            message(jsonl("{\"a\": \"1\"}\n{", &["a"])).starts_with("f.jsonl: line 2 is not a JSON object")
        );
        assert!(message(jsonl("[]", &["a"])).contains("line 1"));
        let bytes = documents("f", b"a\nb\n\xff", &Format::default());
        assert_eq!(message(bytes), "f: line 3 is not UTF-8");
    }

    #[test]
    fn a_separator_may_span_lines_and_a_byte_order_mark_goes() {
        let format = Format::Text { separator: "\n--é\n".into() };
        let text = "\u{feff}a\n--é\nb\n--é\n--é\nc";
        assert_eq!(documents("f", text.as_bytes(), &format).unwrap(), ["a", "b", "--é\nc"]);
    }

    proptest::proptest! {
        #[test]
        fn streaming_equals_splitting(text in "[ab\\-é\n]{0,60}", separator in "[\\-é\n]{1,3}") {
            let want: Vec<_> = text.split(separator.as_str()).map(str::trim).filter(|d| !d.is_empty()).collect();
            let got = documents("f", text.as_bytes(), &Format::Text { separator: separator.clone() }).unwrap();
            proptest::prop_assert_eq!(got, want);
        }
    }

    #[test]
    fn guesses() {
        let qa = Format::Jsonl { fields: vec!["question".into(), "answer".into()] };
        assert_eq!(Format::guess("x.JSONL", "{\"question\": \"\", \"answer\": \"\"}"), qa);
        assert_eq!(Format::guess("x.jsonl", "{"), Format::Jsonl { fields: vec!["text".into()] });
        assert_eq!(Format::guess("x.txt", "a<|endoftext|>b"), Format::default());
        assert_eq!(Format::guess("x.txt", "a\n\nb"), Format::Paragraphs);
    }
}
