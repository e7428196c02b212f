//! What can be wrong with data, with the file and the line that a person has to look at.

use std::path::PathBuf;

/// Any failure on the way from a file to packed rows.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{name}: line {line} is not UTF-8")]
    NotUtf8 { name: String, line: usize },
    #[error("{name}: line {line} is not a JSON object: {message}")]
    Json { name: String, line: usize, message: String },
    #[error("{name}: line {line} has no text field \"{field}\"")]
    MissingField { name: String, line: usize, field: String },
    #[error("{name} holds no documents")]
    Empty { name: String },
    /// a document of a prompt and an answer
    #[error("document {document} {what} {marker:?}, behind which data.answer_after expects its answer")]
    Answer { document: usize, what: &'static str, marker: String },
    #[error("{0}")]
    Tokenizer(String),
    #[error("tokenizer has no {role} token; looked for {tried}")]
    MissingSpecial { role: &'static str, tried: String },
    /// the model that a run starts from
    #[error("model.from: {0}")]
    Model(String),
    #[error("typed text reaches the special token \"{token}\" (id {id}); this tokenizer cannot be used")]
    SpecialInText { token: String, id: u32 },
    #[error("{split}: {documents} documents with {tokens} tokens do not fill one row of {length}")]
    TooShort { split: &'static str, documents: usize, tokens: usize, length: usize },
    #[error(
        "corpus name \"{0}\" is not 1 to 64 of a-z, 0-9, '-', '_' and '.', starting with a letter or digit"
    )]
    Name(String),
    #[error("there is no corpus \"{0}\"")]
    UnknownCorpus(String),
    #[error("corpus \"{0}\" already exists")]
    Exists(String),
    #[error("corpus \"{name}\" is damaged: {message}")]
    Damaged { name: String, message: String },
    #[error("valid_share {0} is outside [0, 0.5]")]
    Share(f64),
    #[error("a vocabulary of {vocab} is outside {least}..=65536 (256 bytes and three specials come first)")]
    Vocabulary { vocab: usize, least: usize },
    #[error("row length {length} is outside 2..65536")]
    RowLength { length: usize },
}

impl DataError {
    /// Attaches the path that an operating-system error lacks.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> DataError {
        let path = path.into();
        move |source| DataError::Io { path, source }
    }
}
