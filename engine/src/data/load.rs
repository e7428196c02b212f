//! What a recipe's `[data]` means: a tokenizer, packed training rows and packed validation rows.
//!
//! Text is read only when it is not yet tokenised: a corpus is known by the hash on its card, a file by the hash of
//! its bytes, how it was read and how many documents were taken.

use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::cache::{self, Origin};
use super::corpus::{Corpus, Registry, Split, split};
use super::document::{guess_format, read_documents};
use super::pack::{Packed, pack_answers, pack_stream};
use super::{DataError, Tokenizer, answers, bpe};
use crate::config::DataSpec;

/// Vocabulary of a tokenizer trained because the recipe names none.
const VOCAB: usize = 4096;
/// Share of documents set aside when a recipe has a training file and no validation file.
const VALID_SHARE: f64 = 0.02;

/// A run's data.
#[derive(Debug)]
pub struct Loaded {
    pub tokenizer: Tokenizer,
    pub train: Packed,
    pub valid: Packed,
    /// whether the tokens came from the cache
    pub origin: [Origin; 2],
}

/// Reads, tokenises (or finds tokenised) and packs. Relative paths start at `base`, the recipe's folder; `tokenizer`
/// is the one that a resumed run keeps beside its checkpoints.
///
/// Errors: everything between the file and the rows, see [`DataError`]. A validation split that fills no row is one.
pub fn load(
    spec: &DataSpec,
    base: &Path,
    registry: &Registry,
    tokenizer: Option<Tokenizer>,
) -> Result<Loaded, DataError> {
    let source = Source::open(spec, base, registry)?;
    let tokenizer = match (tokenizer, &spec.tokenizer) {
        (Some(t), _) => t,
        (None, Some(path)) => Tokenizer::from_file(base.join(path))?,
        (None, None) => bpe::train(&source.documents(Split::Train)?, spec.vocab.unwrap_or(VOCAB))?,
    };
    if let Some(marker) = &spec.answer_after {
        let rows = |which, split| {
            let documents = source.documents(which)?;
            let (stream, answers) = answers::stream(&tokenizer, &documents, marker)?;
            let packed = pack_answers(stream, &answers, spec.packing.length, tokenizer.specials().eos);
            packed.map_err(|e| of_split(e, split))
        };
        let (train, valid) = (rows(Split::Train, "training")?, rows(Split::Valid, "validation")?);
        return Ok(Loaded { tokenizer, train, valid, origin: [Origin::Built, Origin::Built] });
    }
    let folder = registry.cache();
    let _writing = registry.writing()?;
    let tokens = |s| cache::tokens(&folder, &tokenizer, &source.hash(s), || source.documents(s));
    let ((train, first), (valid, second)) = (tokens(Split::Train)?, tokens(Split::Valid)?);
    if let Kind::Corpus(corpus) = &source.kind
        && spec.limit.is_none()
    {
        corpus.clone().note_tokens(tokenizer.hash(), train.len() as u64)?;
    }
    let eos = tokenizer.specials().eos;
    let rows = |stream, split| pack_stream(stream, spec.packing.length, eos).map_err(|e| of_split(e, split));
    let (train, valid) = (rows(train, "training")?, rows(valid, "validation")?);
    Ok(Loaded { tokenizer, train, valid, origin: [first, second] })
}

/// Names the split that was too short.
fn of_split(e: DataError, split: &'static str) -> DataError {
    match e {
        DataError::TooShort { documents, tokens, length, .. } => {
            DataError::TooShort { split, documents, tokens, length }
        }
        e => e,
    }
}

/// Where documents come from, with what identifies them.
struct Source {
    kind: Kind,
    limit: Option<usize>,
}

enum Kind {
    Corpus(Box<Corpus>),
    /// path and SHA-256 of the file's bytes
    Files {
        train: (PathBuf, String),
        valid: Option<(PathBuf, String)>,
    },
}

impl Source {
    fn open(spec: &DataSpec, base: &Path, registry: &Registry) -> Result<Self, DataError> {
        let file = |path: &String| {
            let path = base.join(path);
            file_hash(&path).map(|hash| (path, hash))
        };
        let kind = match (&spec.corpus, &spec.train) {
            (Some(name), _) => Kind::Corpus(Box::new(registry.get(name)?)),
            (None, Some(train)) => {
                Kind::Files { train: file(train)?, valid: spec.valid.as_ref().map(file).transpose()? }
            }
            (None, None) => {
                return Err(DataError::Empty { name: "a recipe without corpus or train file".into() });
            }
        };
        Ok(Source { kind, limit: spec.limit })
    }

    /// What the documents of a split depend on.
    fn hash(&self, which: Split) -> String {
        let limit = self.limit.filter(|_| which == Split::Train);
        let own = match (&self.kind, which) {
            (Kind::Corpus(c), Split::Train) => c.card.train.hash.clone(),
            (Kind::Corpus(c), Split::Valid) => c.card.valid.hash.clone(),
            (Kind::Files { train, valid: Some(_) }, Split::Train) => train.1.clone(),
            (Kind::Files { valid: Some(valid), .. }, Split::Valid) => valid.1.clone(),
            (Kind::Files { train, valid: None }, _) => format!("{} {which:?} {VALID_SHARE}", train.1),
        };
        hex::encode(Sha256::digest(format!("{own} {limit:?}")))
    }

    fn documents(&self, which: Split) -> Result<Vec<String>, DataError> {
        let read = |(path, _): &(PathBuf, String)| read_documents(path, &guess_format(path)?);
        let mut documents = match (&self.kind, which) {
            (Kind::Corpus(corpus), _) => corpus.documents(which)?,
            (Kind::Files { train, valid: Some(_) }, Split::Train) => read(train)?,
            (Kind::Files { valid: Some(valid), .. }, Split::Valid) => read(valid)?,
            (Kind::Files { train, valid: None }, _) => {
                let (train, valid) = split(read(train)?, VALID_SHARE);
                if which == Split::Train { train } else { valid }
            }
        };
        if let (Some(limit), Split::Train) = (self.limit, which) {
            documents.truncate(limit);
        }
        Ok(documents)
    }
}

/// SHA-256 of a file's name extension (it decides how the file is read) and bytes.
fn file_hash(path: &Path) -> Result<String, DataError> {
    let mut hash = Sha256::new();
    hash.update(path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase());
    let mut file = std::fs::File::open(path).map_err(DataError::io(path))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(DataError::io(path))? {
            0 => return Ok(hex::encode(hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PackingSpec;
    use crate::data::AddOptions;

    fn spec(change: impl Fn(&mut DataSpec)) -> DataSpec {
        let packing = PackingSpec { length: 8, ..Default::default() };
        let mut spec = DataSpec { vocab: Some(300), packing, ..Default::default() };
        change(&mut spec);
        spec
    }

    fn stories(folder: &Path, name: &str, from: usize) {
        let text: String = (from..from + 60).map(|i| format!("Story {i}: a cat sat.\n\n")).collect();
        std::fs::write(folder.join(name), text).unwrap();
    }

    #[test]
    fn files_load_and_come_back_from_the_cache() {
        let folder = tempfile::tempdir().unwrap();
        let (base, registry) = (folder.path(), Registry::new(folder.path()));
        stories(base, "t.txt", 0);
        stories(base, "v.txt", 100);
        let both = spec(|s| (s.train, s.valid) = (Some("t.txt".into()), Some("v.txt".into())));
        let first = load(&both, base, &registry, None).unwrap();
        assert_eq!(first.origin, [Origin::Built, Origin::Built]);
        assert_eq!((first.train.documents, first.valid.documents), (60, 60));
        let kept = Tokenizer::from_bytes(first.tokenizer.json()).unwrap();
        let again = load(&both, base, &registry, Some(kept)).unwrap();
        assert_eq!(again.origin, [Origin::Read, Origin::Read]);
        assert_eq!((again.train, again.valid), (first.train.clone(), first.valid));

        stories(base, "v.txt", 200);
        let changed = load(&both, base, &registry, Some(first.tokenizer)).unwrap();
        assert_eq!(changed.origin, [Origin::Read, Origin::Built]);

        let few = spec(|s| (s.train, s.limit) = (Some("t.txt".into()), Some(10)));
        let few = load(&few, base, &registry, Some(changed.tokenizer)).unwrap();
        assert_eq!(few.train.documents, 10);
        assert!((1..20).contains(&few.valid.documents));
    }

    #[test]
    fn a_corpus_loads_by_name_and_its_card_learns_the_tokens() {
        let folder = tempfile::tempdir().unwrap();
        let (base, registry) = (folder.path(), Registry::new(folder.path()));
        stories(base, "t.txt", 0);
        let options = AddOptions { valid_share: Some(0.3), ..Default::default() };
        registry.add("cats", &base.join("t.txt"), &options).unwrap();
        let named = spec(|s| s.corpus = Some("cats".into()));
        let loaded = load(&named, base, &registry, None).unwrap();
        assert_eq!(loaded.train.documents + loaded.valid.documents, 60);
        let card = registry.get("cats").unwrap().card;
        assert_eq!(card.train_tokens[loaded.tokenizer.hash()], loaded.train.tokens as u64);
        let bytes = loaded.tokenizer.text_bytes(&loaded.train.rows);
        assert!(bytes <= card.train.bytes && bytes + 30 > card.train.bytes, "only the last row is cut");
    }

    /// Prompts are context alone; what a document lacks is said with its number.
    #[test]
    fn answers_are_told_from_prompts() {
        let folder = tempfile::tempdir().unwrap();
        let (base, registry) = (folder.path(), Registry::new(folder.path()));
        let text: String =
            (0..90).map(|i| format!("Question: {i} and 1?\nAnswer: {} then.\n\n", i + 1)).collect();
        std::fs::write(base.join("t.txt"), &text).unwrap();
        let asked = spec(|s| (s.train, s.answer_after) = (Some("t.txt".into()), Some("Answer:".into())));
        let l = load(&asked, base, &registry, None).unwrap();
        assert_eq!(l.train.answers.len(), l.train.rows.len());
        let (mut said, mut prompts) = (String::new(), String::new());
        for i in 0..l.train.len() {
            let row = l.train.row(i);
            assert!((0..8).any(|c| row.counts(c)), "a row without an answer teaches nothing");
            let of = |yes: bool| {
                (0..8).filter(|c| row.counts(*c) == yes).map(|c| row.tokens[c]).collect::<Vec<_>>()
            };
            said += &l.tokenizer.decode(&of(true));
            prompts += &l.tokenizer.decode(&of(false));
        }
        assert!(said.contains(" then.") && !said.contains("Question"), "{said}");
        assert!(prompts.contains("Answer:") && !prompts.contains("then"), "{prompts}");
        let eos = l.tokenizer.specials().eos;
        assert!(l.train.rows.iter().zip(&l.train.answers).all(|(t, a)| *t != eos || *a), "answers end");
        let fault = |more: &str, says: &str| {
            std::fs::write(base.join("t.txt"), format!("{text}{more}")).unwrap();
            let e = load(&asked, base, &registry, Some(Tokenizer::from_bytes(l.tokenizer.json()).unwrap()));
            let e = e.unwrap_err().to_string();
            assert!(e.contains(says) && e.contains("\"Answer:\""), "{e}");
        };
        fault("Nothing asked", "has no");
        fault("Question: why?\nAnswer:", "has nothing behind");
    }

    #[test]
    fn errors_name_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let (base, registry) = (folder.path(), Registry::new(folder.path()));
        let message = |s: &DataSpec| load(s, base, &registry, None).unwrap_err().to_string();
        assert!(message(&spec(|s| s.train = Some("gone.txt".into()))).contains("gone.txt"));
        assert!(message(&spec(|s| s.corpus = Some("gone".into()))).contains("\"gone\""));
        std::fs::write(base.join("t.txt"), "one\n\ntwo").unwrap();
        std::fs::write(base.join("v.txt"), "a").unwrap();
        let mut short = spec(|s| (s.train, s.valid) = (Some("t.txt".into()), Some("v.txt".into())));
        assert!(message(&short).starts_with("validation: 1 documents"), "{}", message(&short));
        short.tokenizer = Some("t.txt".into());
        assert!(message(&short).contains("t.txt: "));
    }
}
