//! Tokenised corpora on disk, so that a resumed run starts at once.
//!
//! One file per (tokenizer, corpus): a header, then the token stream with end-of-text ids, little-endian, 2 bytes a
//! token when the vocabulary allows. The header repeats both hashes and holds the SHA-256 of the stream: a file that
//! is truncated, altered or belongs to something else is rebuilt, never used.
//!
//! Header (120 bytes): magic `HILDATOK`, u32 version, u32 bytes per token, u64 tokens, 3 x 32 bytes: SHA-256 of
//! tokenizer, corpus and stream.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{DataError, Tokenizer};

const MAGIC: &[u8; 8] = b"HILDATOK";
const VERSION: u32 = 1;
const HEADER: usize = 120;

/// How the tokens were come by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// read from the cache
    Read,
    /// tokenised, there was no file
    Built,
    /// tokenised, the file was of no use
    Rebuilt { reason: String },
}

/// Where the cache of a pair lies. Hashes in hexadecimal.
pub fn path(folder: &Path, tokenizer: &str, corpus: &str) -> PathBuf {
    let short = |h: &str| h.chars().take(16).collect::<String>();
    folder.join(format!("{}-{}.tokens", short(tokenizer), short(corpus)))
}

/// The token stream of a corpus: every document followed by the end-of-text id. `corpus` is the SHA-256 of the
/// documents in hexadecimal; `documents` is called only when there is no good cache.
///
/// Errors: tokenising fails, or the folder cannot be written.
pub fn tokens<S: AsRef<str>>(
    folder: &Path,
    tokenizer: &Tokenizer,
    corpus: &str,
    documents: impl FnOnce() -> Result<Vec<S>, DataError>,
) -> Result<(Vec<u32>, Origin), DataError> {
    let path = path(folder, tokenizer.hash(), corpus);
    let origin = match std::fs::read(&path) {
        Ok(bytes) => match decode(&bytes, tokenizer, corpus) {
            Ok(tokens) => return Ok((tokens, Origin::Read)),
            Err(reason) => Origin::Rebuilt { reason },
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Origin::Built,
        Err(e) => Origin::Rebuilt { reason: e.to_string() },
    };
    let tokens = stream(tokenizer, &documents()?)?;
    std::fs::create_dir_all(folder).map_err(DataError::io(folder))?;
    let bytes = encode(&tokens, tokenizer, corpus);
    crate::files::replace(&path, &bytes).map_err(DataError::io(&path))?;
    Ok((tokens, origin))
}

/// Documents as one stream, each followed by the end-of-text id.
pub fn stream<S: AsRef<str>>(tokenizer: &Tokenizer, documents: &[S]) -> Result<Vec<u32>, DataError> {
    let mut stream = Vec::new();
    for chunk in documents.chunks(4096) {
        for ids in tokenizer.encode_all(chunk)? {
            stream.extend(ids);
            stream.push(tokenizer.specials().eos);
        }
    }
    Ok(stream)
}

fn encode(tokens: &[u32], tokenizer: &Tokenizer, corpus: &str) -> Vec<u8> {
    let width: u32 = if tokenizer.vocab() <= 1 << 16 { 2 } else { 4 };
    let mut bytes = Vec::with_capacity(HEADER + tokens.len() * width as usize);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&width.to_le_bytes());
    bytes.extend_from_slice(&(tokens.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&hash(tokenizer.hash()));
    bytes.extend_from_slice(&hash(corpus));
    bytes.extend_from_slice(&[0; 32]);
    match width {
        2 => tokens.iter().for_each(|t| bytes.extend_from_slice(&(*t as u16).to_le_bytes())),
        _ => tokens.iter().for_each(|t| bytes.extend_from_slice(&t.to_le_bytes())),
    }
    let digest = Sha256::digest(&bytes[HEADER..]);
    bytes[HEADER - 32..HEADER].copy_from_slice(&digest);
    bytes
}

/// The tokens, or why the file is of no use.
fn decode(bytes: &[u8], tokenizer: &Tokenizer, corpus: &str) -> Result<Vec<u32>, String> {
    let Some((header, body)) = bytes.split_at_checked(HEADER) else {
        return Err(format!("{} bytes hold no header", bytes.len()));
    };
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let count = u64::from_le_bytes(header[16..24].try_into().expect("eight bytes"));
    if &header[..8] != MAGIC || word(8) != VERSION {
        return Err("not a token cache of this version".into());
    }
    if header[24..56] != hash(tokenizer.hash()) || header[56..88] != hash(corpus) {
        return Err("made from another tokenizer or corpus".into());
    }
    let width = word(12);
    if !matches!(width, 2 | 4) || count.checked_mul(width as u64) != Some(body.len() as u64) {
        return Err(format!("{count} tokens of {width} bytes do not fill {} bytes", body.len()));
    }
    if header[88..] != Sha256::digest(body)[..] {
        return Err("the checksum differs".into());
    }
    Ok(match width {
        2 => body.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]) as u32).collect(),
        _ => body.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
    })
}

/// The 32 bytes of a hexadecimal hash; other text is hashed first.
fn hash(text: &str) -> [u8; 32] {
    let bytes = hex::decode(text).ok().and_then(|b| b.try_into().ok());
    bytes.unwrap_or_else(|| Sha256::digest(text).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::bpe;

    const TEXT: [&str; 3] = ["one two", "two three", "three one two"];

    fn never() -> Result<Vec<&'static str>, DataError> {
        panic!("the cache should have been read")
    }

    #[test]
    fn a_second_start_reads_and_damage_rebuilds() {
        let folder = tempfile::tempdir().unwrap();
        let t = bpe::train(&TEXT, 270).unwrap();
        let build = || Ok(TEXT.to_vec());
        let (first, origin) = tokens(folder.path(), &t, "c", build).unwrap();
        assert_eq!(origin, Origin::Built);
        assert_eq!(first.iter().filter(|id| **id == 0).count(), 3);
        assert_eq!(tokens(folder.path(), &t, "c", never).unwrap(), (first.clone(), Origin::Read));

        let file = path(folder.path(), t.hash(), "c");
        let good = std::fs::read(&file).unwrap();
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            assert!(decode(&bytes, &t, "c").is_err(), "byte {at}");
        }
        let mut bytes = good.clone();
        bytes[HEADER] ^= 1;
        std::fs::write(&file, &bytes).unwrap();
        let (again, origin) = tokens(folder.path(), &t, "c", build).unwrap();
        assert_eq!((again, origin), (first, Origin::Rebuilt { reason: "the checksum differs".into() }));
        for length in [0, 1, HEADER - 1, HEADER, good.len() - 1] {
            std::fs::write(&file, &good[..length]).unwrap();
            assert!(matches!(tokens(folder.path(), &t, "c", build).unwrap().1, Origin::Rebuilt { .. }));
        }
        assert_eq!(tokens(folder.path(), &t, "c", never).unwrap().1, Origin::Read);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing half-written stays");
    }

    #[test]
    fn another_corpus_or_tokenizer_is_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (bpe::train(&TEXT, 270).unwrap(), bpe::train(&TEXT, 262).unwrap());
        for (t, corpus) in [(&a, "c"), (&a, "d"), (&b, "c")] {
            assert_eq!(tokens(folder.path(), t, corpus, || Ok(TEXT.to_vec())).unwrap().1, Origin::Built);
        }
    }
}
