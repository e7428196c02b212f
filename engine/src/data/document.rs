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

/// The documents of one text. `name` is what errors call it.
///
/// Errors: a JSON line that is no object or lacks a field, by line number from 1.
pub fn documents(name: &str, text: &str, format: &Format) -> Result<Vec<String>, DataError> {
    let mut out = Vec::new();
    let mut push = |document: &str| {
        let document = document.trim();
        if !document.is_empty() {
            out.push(document.to_string());
        }
    };
    match format {
        Format::Text { separator } if separator.is_empty() => push(text),
        Format::Text { separator } => text.split(separator.as_str()).for_each(push),
        Format::Paragraphs => {
            let mut paragraph = String::new();
            for line in text.lines() {
                if line.trim().is_empty() {
                    push(&std::mem::take(&mut paragraph));
                } else {
                    paragraph.push_str(line);
                    paragraph.push('\n');
                }
            }
            push(&paragraph);
        }
        Format::Jsonl { fields } => {
            for (i, line) in text.lines().enumerate() {
                if !line.trim().is_empty() {
                    push(&json_line(name, i + 1, line, fields)?);
                }
            }
        }
    }
    Ok(out)
}

/// One JSON line as a document.
pub fn json_line(name: &str, line: usize, text: &str, fields: &[String]) -> Result<String, DataError> {
    let json = |message: String| DataError::Json { name: name.into(), line, message };
    let value: serde_json::Value = serde_json::from_str(text).map_err(|e| json(e.to_string()))?;
    if !value.is_object() {
        return Err(json("another kind of value".into()));
    }
    let get = |field: &String| {
        let text = value.get(field).and_then(|v| v.as_str());
        text.ok_or_else(|| DataError::MissingField { name: name.into(), line, field: field.clone() })
    };
    Ok(fields.iter().map(get).collect::<Result<Vec<_>, _>>()?.join("\n"))
}

/// Bytes as text; the error names the line of the first byte that is no UTF-8.
pub fn utf8(name: &str, bytes: Vec<u8>) -> Result<String, DataError> {
    String::from_utf8(bytes).map_err(|e| {
        let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|b| **b == b'\n').count();
        DataError::NotUtf8 { name: name.into(), line }
    })
}

/// Reads the documents of one file.
#[cfg(feature = "train")]
pub fn read_documents(path: &std::path::Path, format: &Format) -> Result<Vec<String>, DataError> {
    let name = path.display().to_string();
    let text = utf8(&name, std::fs::read(path).map_err(DataError::io(path))?)?;
    documents(&name, &text, format)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jsonl(text: &str, fields: &[&str]) -> Result<Vec<String>, DataError> {
        let fields = fields.iter().map(|f| f.to_string()).collect();
        documents("f.jsonl", text, &Format::Jsonl { fields })
    }

    #[test]
    fn separators_paragraphs_and_lines() {
        let text = " one \n\ntwo\n<|endoftext|>\n\n<|endoftext|>three\n<|endoftext|>\n";
        assert_eq!(documents("f", text, &Format::default()).unwrap(), ["one \n\ntwo", "three"]);
        let text = "a\nb\r\n \n\n\nc";
        assert_eq!(documents("f", text, &Format::Paragraphs).unwrap(), ["a\nb", "c"]);
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
        assert_eq!(utf8("f", b"a\nb\n\xff".to_vec()).unwrap_err().to_string(), "f: line 3 is not UTF-8");
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
