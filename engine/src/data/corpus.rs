//! Registered corpora: `DATA_DIR/corpora/NAME/{corpus.json, train.jsonl, valid.jsonl}`, one `{"text": ...}` a line,
//! so that no separator can occur inside a document.
//!
//! Exact duplicates are kept once. The split is by hash: a document is for validation when the first 64 bits of its
//! SHA-256, as a fraction, lie below `valid_share`; it does not move when documents are added. Training documents
//! that also occur in a given validation file are left out of training. A corpus appears under its name only when it
//! is complete.

use std::collections::HashSet;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::document::{guess_format, read_documents, stream_documents};
use super::partial::{Partial, Writing, clean};
use super::{DataError, Format};

/// What can be said when a corpus is added.
#[derive(Clone, Debug, Default)]
pub struct AddOptions {
    /// guessed from name and content when absent
    pub format: Option<Format>,
    /// a file with the validation documents, in the same format; without it a share of the documents is set aside
    pub valid: Option<PathBuf>,
    /// share of documents set aside, in [0, 0.5]; 0.02 when absent. Has no effect with `valid`
    pub valid_share: Option<f64>,
    /// use at most this many training documents
    pub limit: Option<usize>,
    /// one sentence and the licence, for people
    pub about: String,
    /// replace a corpus of the same name
    pub replace: bool,
    /// Unix seconds, written on the card
    pub time: Option<f64>,
}

/// Numbers of one split. Lengths are UTF-8 bytes of trimmed documents.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SplitCard {
    pub documents: u64,
    pub bytes: u64,
    pub mean_bytes: f64,
    pub median_bytes: u64,
    pub longest_bytes: u64,
    /// SHA-256 over the SHA-256 of each document in order
    pub hash: String,
}

/// `corpus.json`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CorpusCard {
    pub name: String,
    #[serde(default)]
    pub about: String,
    /// file name it came from
    pub source: String,
    /// how the source was read
    pub format: Format,
    /// both splits
    pub documents: u64,
    pub bytes: u64,
    pub train: SplitCard,
    pub valid: SplitCard,
    /// documents left out because the same text came before (or is in the validation file)
    pub duplicates: u64,
    #[serde(default)]
    pub created: Option<f64>,
    /// training tokens (with end-of-text) under each tokenizer it was used with, by the tokenizer's hash
    #[serde(default)]
    pub train_tokens: std::collections::BTreeMap<String, u64>,
}

/// One of the two splits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    Train,
    Valid,
}

/// The folder of corpora.
#[derive(Clone, Debug)]
pub struct Registry {
    folder: PathBuf,
}

/// A registered corpus.
#[derive(Clone, Debug)]
pub struct Corpus {
    pub card: CorpusCard,
    folder: PathBuf,
}

/// Is it a name that can be a folder and an address: 1 to 64 of a-z, 0-9, '-', '_', '.', first a letter or digit?
pub fn valid_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let first = name.bytes().next().is_some_and(good);
    first && name.len() <= 64 && name.bytes().all(|b| good(b) || b"-_.".contains(&b))
}

/// Does the hash of this document set it aside for validation?
fn held_out(digest: &[u8; 32], share: f64) -> bool {
    let first = u64::from_be_bytes(digest[..8].try_into().expect("eight bytes"));
    ((first >> 11) as f64) < share * (1u64 << 53) as f64
}

/// Splits documents in memory as [`Registry::add`] would: (train, valid). If the share leaves either side empty, the
/// document with the lowest hash moves over, so that two or more documents always give both.
pub fn split(documents: Vec<String>, share: f64) -> (Vec<String>, Vec<String>) {
    let digest = |d: &String| -> [u8; 32] { Sha256::digest(d).into() };
    let (mut valid, mut train): (Vec<_>, Vec<_>) =
        documents.into_iter().partition(|d| held_out(&digest(d), share));
    let fill = |from: &mut Vec<String>, to: &mut Vec<String>| {
        if share > 0.0 && to.is_empty() && from.len() > 1 {
            let lowest = (0..from.len()).min_by_key(|i| digest(&from[*i])).expect("two or more");
            to.push(from.remove(lowest));
        }
    };
    fill(&mut train, &mut valid);
    fill(&mut valid, &mut train);
    (train, valid)
}

impl Registry {
    /// `data_dir` need not exist yet.
    pub fn new(data_dir: impl AsRef<Path>) -> Self {
        Registry { folder: data_dir.as_ref().join("corpora") }
    }

    /// Where tokenised corpora are kept.
    pub fn cache(&self) -> PathBuf {
        self.folder.join(".cache")
    }

    /// Reads a file, drops duplicates, splits, and registers the result.
    ///
    /// Errors: bad name or share, the name is taken, missing file, not UTF-8, JSON without the field (with line), no
    /// documents, disk full. On an error nothing is left behind and a corpus to be replaced stays.
    pub fn add(&self, name: &str, path: &Path, options: &AddOptions) -> Result<Corpus, DataError> {
        if !valid_name(name) {
            return Err(DataError::Name(name.into()));
        }
        let share = options.valid_share.unwrap_or(0.02);
        if !(0.0..=0.5).contains(&share) {
            return Err(DataError::Share(share));
        }
        let target = self.folder.join(name);
        if target.exists() && !options.replace {
            return Err(DataError::Exists(name.into()));
        }
        let format = match &options.format {
            Some(f) => f.clone(),
            None => guess_format(path)?,
        };
        let _writing = self.writing()?;
        let partial = Partial::new(&self.folder, name)?;
        let mut train = SplitWriter::create(&partial.0.join("train.jsonl"))?;
        let mut valid = SplitWriter::create(&partial.0.join("valid.jsonl"))?;
        let (mut seen, mut duplicates) = (HashSet::new(), 0);
        let mut unseen = |digest: &[u8; 32]| {
            let new = seen.insert(<[u8; 16]>::try_from(&digest[..16]).expect("sixteen bytes"));
            duplicates += u64::from(!new);
            new
        };
        if let Some(file) = &options.valid {
            stream_documents(file, &format, |d| {
                let digest = Sha256::digest(d).into();
                if unseen(&digest) {
                    valid.push(d, &digest);
                }
            })?;
        }
        let limit = options.limit.unwrap_or(usize::MAX) as u64;
        stream_documents(path, &format, |d| {
            let digest = Sha256::digest(d).into();
            if train.card.documents < limit && unseen(&digest) {
                let aside = options.valid.is_none() && held_out(&digest, share);
                if aside { &mut valid } else { &mut train }.push(d, &digest);
            }
        })?;
        let (train, valid) = (train.finish()?, valid.finish()?);
        if train.documents == 0 {
            return Err(DataError::Empty { name: path.display().to_string() });
        }
        let card = CorpusCard {
            name: name.into(),
            about: options.about.clone(),
            source: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            format,
            documents: train.documents + valid.documents,
            bytes: train.bytes + valid.bytes,
            train,
            valid,
            duplicates,
            created: options.time,
            train_tokens: Default::default(),
        };
        write_card(&partial.0, &card)?;
        partial.publish(&target)?;
        Ok(Corpus { card, folder: target })
    }

    /// Announces that this process writes below the folder, so that nobody takes that for a leftover. First removes
    /// what killed writers left.
    pub(super) fn writing(&self) -> Result<Writing, DataError> {
        Writing::begin(&self.folder)
    }

    /// Removes what killed writers left.
    pub fn clean(&self) {
        clean(&self.folder);
    }

    /// Every corpus by name, and beside them what is wrong with folders that are none.
    pub fn list(&self) -> Result<(Vec<CorpusCard>, Vec<DataError>), DataError> {
        let entries = match std::fs::read_dir(&self.folder) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok((Vec::new(), Vec::new())),
            r => r.map_err(DataError::io(&self.folder))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(DataError::io(&self.folder))?.file_name().to_string_lossy().into_owned();
            if valid_name(&name) {
                names.push(name);
            }
        }
        names.sort();
        let (mut cards, mut broken) = (Vec::new(), Vec::new());
        for name in names {
            match self.get(&name) {
                Ok(corpus) => cards.push(corpus.card),
                Err(e) => broken.push(e),
            }
        }
        Ok((cards, broken))
    }

    /// One corpus.
    pub fn get(&self, name: &str) -> Result<Corpus, DataError> {
        if !valid_name(name) {
            return Err(DataError::Name(name.into()));
        }
        let folder = self.folder.join(name);
        if !folder.is_dir() {
            return Err(DataError::UnknownCorpus(name.into()));
        }
        let file = folder.join("corpus.json");
        let damaged = |message: String| DataError::Damaged { name: name.into(), message };
        let bytes = std::fs::read(&file).map_err(|e| damaged(format!("corpus.json: {e}")))?;
        let card = serde_json::from_slice(&bytes).map_err(|e| damaged(format!("corpus.json: {e}")))?;
        Ok(Corpus { card, folder })
    }
}

impl Corpus {
    /// The documents of a split, in the order of the source.
    pub fn documents(&self, split: Split) -> Result<Vec<String>, DataError> {
        let (file, card) = match split {
            Split::Train => ("train.jsonl", &self.card.train),
            Split::Valid => ("valid.jsonl", &self.card.valid),
        };
        let path = self.folder.join(file);
        let documents = read_documents(&path, &Format::Jsonl { fields: vec!["text".into()] })?;
        if documents.len() as u64 != card.documents {
            let message =
                format!("{file} has {} documents, the card says {}", documents.len(), card.documents);
            return Err(DataError::Damaged { name: self.card.name.clone(), message });
        }
        Ok(documents)
    }

    /// Writes on the card how many training tokens a tokenizer makes of it.
    pub fn note_tokens(&mut self, tokenizer_hash: &str, tokens: u64) -> Result<(), DataError> {
        if self.card.train_tokens.insert(tokenizer_hash.into(), tokens) == Some(tokens) {
            return Ok(());
        }
        write_card(&self.folder, &self.card)
    }
}

fn write_card(folder: &Path, card: &CorpusCard) -> Result<(), DataError> {
    let json = serde_json::to_vec_pretty(card).expect("plain data");
    let path = folder.join("corpus.json");
    crate::files::replace(&path, &json).map_err(DataError::io(&path))
}

/// Writes JSON lines and counts; the first write error is kept for `finish`.
struct SplitWriter {
    path: PathBuf,
    file: BufWriter<std::fs::File>,
    card: SplitCard,
    lengths: Vec<u64>,
    hash: Sha256,
    failed: Option<std::io::Error>,
}

impl SplitWriter {
    fn create(path: &Path) -> Result<Self, DataError> {
        let file = BufWriter::new(std::fs::File::create(path).map_err(DataError::io(path))?);
        let (card, lengths, hash) = (SplitCard::default(), Vec::new(), Sha256::new());
        Ok(SplitWriter { path: path.into(), file, card, lengths, hash, failed: None })
    }

    fn push(&mut self, document: &str, digest: &[u8; 32]) {
        let line = serde_json::json!({ "text": document });
        if self.failed.is_none() {
            self.failed = writeln!(self.file, "{line}").err();
        }
        self.card.documents += 1;
        self.lengths.push(document.len() as u64);
        self.hash.update(digest);
    }

    fn finish(mut self) -> Result<SplitCard, DataError> {
        let flushed = match self.failed.take() {
            Some(e) => Err(e),
            None => self.file.flush().and_then(|_| self.file.get_ref().sync_all()),
        };
        flushed.map_err(DataError::io(&self.path))?;
        self.lengths.sort_unstable();
        self.card.bytes = self.lengths.iter().sum();
        self.card.mean_bytes = self.card.bytes as f64 / self.card.documents.max(1) as f64;
        self.card.median_bytes = self.lengths.get(self.lengths.len() / 2).copied().unwrap_or(0);
        self.card.longest_bytes = self.lengths.last().copied().unwrap_or(0);
        self.card.hash = hex::encode(self.hash.finalize());
        Ok(self.card)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::shared::shared;

    fn registry() -> (tempfile::TempDir, Registry) {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::new(folder.path());
        (folder, registry)
    }

    fn file(folder: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn stories(n: usize) -> String {
        (0..n).map(|i| format!("Story {i} says <|pad|>.\n<|endoftext|>\n")).collect()
    }

    #[test]
    fn adds_lists_and_reads() {
        let (folder, registry) = registry();
        assert!(registry.list().unwrap().0.is_empty());
        let text = stories(400) + &stories(7);
        let path = file(&folder, "s.txt", text.as_bytes());
        let options = AddOptions { valid_share: Some(0.1), about: "made up".into(), ..Default::default() };
        let mut corpus = registry.add("stories", &path, &options).unwrap();
        let card = corpus.card.clone();
        assert_eq!((card.documents, card.duplicates, card.source.as_str()), (400, 7, "s.txt"));
        assert!((20..70).contains(&card.valid.documents), "{}", card.valid.documents);
        let (train, valid) =
            (corpus.documents(Split::Train).unwrap(), corpus.documents(Split::Valid).unwrap());
        assert_eq!(train.len() as u64, card.train.documents);
        assert!(train.iter().all(|d| !valid.contains(d)));
        assert_eq!(card.bytes as usize, train.iter().chain(&valid).map(|d| d.len()).sum::<usize>());
        assert_eq!(split(train.iter().chain(&valid).cloned().collect(), 0.1).1.len(), valid.len());
        corpus.note_tokens("abc", 9).unwrap();
        let listed = registry.list().unwrap();
        assert_eq!(listed.0, [corpus.card.clone()]);
        assert_eq!(listed.0[0].train_tokens["abc"], 9);
    }

    #[test]
    fn the_split_does_not_move_when_documents_are_added() {
        let all = |n| split((0..n).map(|i| format!("d{i}")).collect(), 0.2).1;
        let (few, many) = (all(100), all(200));
        assert_eq!(few[..], many[..few.len()]);
        let (train, valid) = split(vec!["a".into(), "b".into()], 1e-9);
        assert_eq!((train.len(), valid.len()), (1, 1));
        assert_eq!(split(vec!["a".into(), "b".into()], 0.0).1.len(), 0);
    }

    #[test]
    fn a_given_validation_file_never_leaks_into_training() {
        let (folder, registry) = registry();
        let path = file(&folder, "t.txt", b"a<|endoftext|>b<|endoftext|>c");
        let valid = file(&folder, "v.txt", b"b<|endoftext|>d");
        let options = AddOptions { valid: Some(valid), limit: Some(1), ..Default::default() };
        let corpus = registry.add("x", &path, &options).unwrap();
        assert_eq!(corpus.documents(Split::Train).unwrap(), ["a"]);
        assert_eq!(corpus.documents(Split::Valid).unwrap(), ["b", "d"]);
        let options = AddOptions { limit: None, replace: true, ..options };
        assert_eq!(registry.add("x", &path, &options).unwrap().documents(Split::Train).unwrap(), ["a", "c"]);
    }

    #[test]
    fn failures_leave_nothing_behind() {
        let (folder, registry) = registry();
        let good = file(&folder, "g.jsonl", b"{\"text\": \"a\"}\n");
        registry.add("kept", &good, &AddOptions { valid_share: Some(0.0), ..Default::default() }).unwrap();
        let replace = AddOptions { replace: true, ..Default::default() };
        let bytes: [(&str, &[u8], &str); 4] = [
            ("u.txt", b"one\n\ntw\xffo\n", "line 3 is not UTF-8"),
            ("f.jsonl", b"{\"text\": \"a\"}\n{\"body\": \"b\"}\n", "line 2 has no text field \"text\""),
            ("j.jsonl", b"{\"text\": \"a\"}\n\n{\"text\": \n", "line 3 is not a JSON object"),
            ("e.txt", b" \n\n", "holds no documents"),
        ];
        for (name, content, want) in bytes {
            let e = registry.add("kept", &file(&folder, name, content), &replace).unwrap_err().to_string();
            assert!(e.contains(want) && e.contains(name), "{e}");
        }
        let missing = registry.add("kept", &folder.path().join("nowhere.txt"), &replace).unwrap_err();
        assert!(missing.to_string().contains("nowhere.txt"));
        assert!(matches!(registry.add("kept", &good, &AddOptions::default()), Err(DataError::Exists(_))));
        let share = AddOptions { valid_share: Some(f64::NAN), ..replace };
        assert!(matches!(registry.add("kept", &good, &share), Err(DataError::Share(_))));
        let entries = std::fs::read_dir(folder.path().join("corpora")).unwrap().flatten();
        let entries = entries.filter(|e| e.file_name() != ".lock").count();
        assert_eq!((entries, registry.get("kept").unwrap().documents(Split::Train).unwrap().len()), (1, 1));
    }

    #[test]
    fn names_cannot_leave_the_folder() {
        let (folder, registry) = registry();
        let path = file(&folder, "a.txt", b"a");
        let long = "a".repeat(65);
        for name in ["", ".", "..", "../x", "a/b", "a\\b", ".x", "A", "ä", "a b", "a\0", long.as_str()] {
            let e = registry.add(name, &path, &AddOptions::default());
            assert!(matches!(e, Err(DataError::Name(_))), "{name:?}");
            assert!(matches!(registry.get(name), Err(DataError::Name(_))), "{name:?}");
        }
        assert!(valid_name("tiny-stories_2.1"));
        assert!(matches!(registry.get("x"), Err(DataError::UnknownCorpus(_))));
    }

    #[test]
    fn damage_is_named_and_does_not_hide_the_others() {
        let (folder, registry) = registry();
        let path = file(&folder, "a.txt", b"a\n\nb");
        let options = AddOptions { valid_share: Some(0.0), ..Default::default() };
        registry.add("good", &path, &options).unwrap();
        let bad = registry.add("bad", &path, &options).unwrap();
        std::fs::write(bad.folder.join("train.jsonl"), "{\"text\": \"a\"}\n").unwrap();
        assert!(matches!(bad.documents(Split::Train), Err(DataError::Damaged { .. })));
        std::fs::write(bad.folder.join("corpus.json"), "{").unwrap();
        let (cards, broken) = registry.list().unwrap();
        assert_eq!((cards.len(), broken.len()), (1, 1));
        assert!(broken[0].to_string().contains("\"bad\""));
    }

    #[test]
    fn tinystories_statistics() {
        let Some(path) = shared("tinystories_statistics", "data/tinystories/valid.txt") else {
            return;
        };
        let (_folder, registry) = registry();
        let options = AddOptions { valid_share: Some(0.0), ..Default::default() };
        let card = registry.add("stories", &path, &options).unwrap().card;
        assert_eq!((card.documents, card.duplicates), (443, 0));
        assert_eq!((card.train.mean_bytes.round(), card.train.median_bytes), (775.0, 698));
    }
}
