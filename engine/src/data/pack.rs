//! Packing: `doc_1 eos doc_2 eos ...` cut into rows of L tokens; the rest that fills no row is dropped.
//!
//! Nothing but ids is stored, `[n, L]`: a document ends with its end-of-text id, and encoded text holds no other, so
//! documents and positions inside a row follow from the ids ([`Packed::row`]). A document that continues from the
//! row before counts as a new one that starts at column 0: a row is all that a forward pass sees.
//!
//! [`places`] turns a row into the integers that mask rules read, under the three packing flags. All true is the
//! project's default; all false is the plain concatenation of the reference curves.

use hilda_kernels::Place;

use super::{DataError, Tokenizer};
use crate::config::PackingSpec;

/// Rows of equal length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// ids, `[n, length]`
    pub rows: Vec<u32>,
    /// L
    pub length: usize,
    /// id that ends a document
    pub eos: u32,
    /// documents that went in
    pub documents: usize,
    /// tokens that went in, with one end-of-text each, before the rest was dropped
    pub tokens: usize,
    /// which tokens belong to answers, `[n, length]`; empty: every token counts
    pub answers: Vec<bool>,
}

/// One row with what its ids imply. All slices `[L]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    pub tokens: &'a [u32],
    /// index of the document inside the row, from 0
    pub documents: Vec<u32>,
    /// distance from the document's first token in the row
    pub positions: Vec<u32>,
    /// which tokens are corrupted and scored; None: all
    pub answers: Option<&'a [bool]>,
}

impl Packed {
    /// n
    pub fn len(&self) -> usize {
        self.rows.len() / self.length
    }
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
    /// Row `i < n`.
    pub fn row(&self, i: usize) -> Row<'_> {
        let columns = i * self.length..(i + 1) * self.length;
        let answers = (!self.answers.is_empty()).then(|| &self.answers[columns.clone()]);
        Row { answers, ..Row::new(&self.rows[columns], self.eos) }
    }
}

impl<'a> Row<'a> {
    /// Splits a row after each end-of-text id.
    pub fn new(tokens: &'a [u32], eos: u32) -> Self {
        let (mut document, mut position) = (0, 0);
        let (mut documents, mut positions) =
            (Vec::with_capacity(tokens.len()), Vec::with_capacity(tokens.len()));
        for token in tokens {
            documents.push(document);
            positions.push(position);
            position += 1;
            if *token == eos {
                (document, position) = (document + 1, 0);
            }
        }
        Row { tokens, documents, positions, answers: None }
    }
    /// May the token at `column` be corrupted and scored?
    pub fn counts(&self, column: usize) -> bool {
        self.answers.is_none_or(|a| a[column])
    }
}

impl Row<'_> {
    /// Ends the document of column `at` before it: what follows is a document of its own, of random length where `at` is
    /// random (LLaDA, arXiv 2502.09992, section 2.1, trains 1 % of its data at random lengths). No token is lost.
    pub fn cut(&mut self, at: usize) {
        let (document, offset) = (self.documents[at], self.positions[at]);
        if offset == 0 {
            return;
        }
        for c in at..self.tokens.len() {
            if self.documents[c] == document {
                self.positions[c] -= offset;
            }
            self.documents[c] += 1;
        }
    }
}

/// Lays documents (ids without end-of-text) end to end and cuts rows of `length`.
///
/// Errors: `length` outside 2..=65536, or too few tokens for one row.
pub fn pack<D: AsRef<[u32]>>(
    documents: impl IntoIterator<Item = D>,
    length: usize,
    eos: u32,
) -> Result<Packed, DataError> {
    let mut stream = Vec::new();
    for document in documents {
        stream.extend_from_slice(document.as_ref());
        stream.push(eos);
    }
    pack_stream(stream, length, eos)
}

/// Cuts rows of `length` from documents that already lie end to end, each with its end-of-text id.
///
/// Errors: as [`pack`].
pub fn pack_stream(mut stream: Vec<u32>, length: usize, eos: u32) -> Result<Packed, DataError> {
    if !(2..=65536).contains(&length) {
        return Err(DataError::RowLength { length });
    }
    let (tokens, documents) = (stream.len(), stream.iter().filter(|t| **t == eos).count());
    if tokens < length {
        return Err(DataError::TooShort { split: "packing", documents, tokens, length });
    }
    stream.truncate(tokens - tokens % length);
    Ok(Packed { rows: stream, length, eos, documents, tokens, answers: vec![] })
}

/// As [`pack_stream`], with what belongs to answers; rows without such a token are left out, for nothing is learnt there.
///
/// Errors: as [`pack`], and as if there were no rows where no answer is left.
pub fn pack_answers(
    stream: Vec<u32>,
    answers: &[bool],
    length: usize,
    eos: u32,
) -> Result<Packed, DataError> {
    let all = pack_stream(stream, length, eos)?;
    let mut packed = Packed { rows: vec![], ..all.clone() };
    for (row, answers) in all.rows.chunks_exact(length).zip(answers.chunks_exact(length)) {
        if answers.contains(&true) {
            packed.rows.extend(row);
            packed.answers.extend(answers);
        }
    }
    Ok(packed)
}

/// Encodes documents one by one and packs them.
pub fn pack_texts<S: AsRef<str>>(
    tokenizer: &Tokenizer,
    documents: &[S],
    length: usize,
) -> Result<Packed, DataError> {
    let ids = documents.iter().map(|d| tokenizer.encode(d.as_ref())).collect::<Result<Vec<_>, _>>()?;
    pack(ids, length, tokenizer.specials().eos)
}

/// Places of a row, `[L]`, for one stream (0 clean, 1 noisy, 2 second noisy view).
///
/// - `documents` off: every token is in document 0.
/// - `restart_positions` off: the rotary position is the column.
/// - `restart_blocks` off: block = column / `block_size` (`block_size` 0: the row is one block). On: blocks count
///   from each document's first token in the row (0: a document is one block) and go on counting from one document
///   to the next, so that two documents never share a block and a later document never has a lower one.
pub fn places(row: &Row<'_>, packing: &PackingSpec, block_size: usize, stream: u32) -> Vec<Place> {
    let block_of = |offset: u32| offset.checked_div(block_size as u32).unwrap_or(0);
    let (mut first_block, mut last) = (0, None);
    let mut block = 0;
    (0..row.tokens.len())
        .map(|column| {
            let (document, position) = (row.documents[column], row.positions[column]);
            if packing.restart_blocks {
                if last.is_some_and(|l| l != document) {
                    first_block = block + 1;
                }
                last = Some(document);
                block = first_block + block_of(position);
            } else {
                block = block_of(column as u32);
            }
            Place {
                position: if packing.restart_positions { position } else { column as u32 },
                document: if packing.documents { document } else { 0 },
                block,
                stream,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EOS: u32 = 0;

    fn spec(documents: bool, restart_positions: bool, restart_blocks: bool) -> PackingSpec {
        PackingSpec { length: 8, documents, restart_positions, restart_blocks }
    }

    #[test]
    fn a_document_that_continues_restarts_in_the_next_row() {
        let packed = pack([vec![5, 6], vec![7, 8, 9], vec![4]], 4, EOS).unwrap();
        assert_eq!(packed.rows, [5, 6, 0, 7, 8, 9, 0, 4]);
        assert_eq!((packed.tokens, packed.documents, packed.len()), (9, 3, 2));
        let row = packed.row(1);
        assert_eq!((row.documents, row.positions), (vec![0, 0, 0, 1], vec![0, 1, 2, 0]));
    }

    #[test]
    fn a_cut_makes_two_documents() {
        let tokens = [5, 6, 7, 8, EOS, 9, 9, 9];
        let mut row = Row::new(&tokens, EOS);
        row.cut(2);
        assert_eq!(row.documents, [0, 0, 1, 1, 1, 2, 2, 2]);
        assert_eq!(row.positions, [0, 1, 0, 1, 2, 0, 1, 2]);
        let before = row.clone();
        row.cut(5);
        assert_eq!(row, before, "a document that begins there already");
    }

    #[test]
    fn places_follow_the_three_flags() {
        let row = Row::new(&[5, 6, 7, 8, 0, 9, 9, 9], EOS);
        let read = |p: &PackingSpec, b| {
            let places = places(&row, p, b, 1);
            assert!(places.iter().all(|p| p.stream == 1));
            let column = |f: fn(&Place) -> u32| places.iter().map(f).collect::<Vec<_>>();
            (column(|p| p.document), column(|p| p.position), column(|p| p.block))
        };
        let columns: Vec<u32> = (0..8).collect();
        let (documents, positions) = (vec![0, 0, 0, 0, 0, 1, 1, 1], vec![0, 1, 2, 3, 4, 0, 1, 2]);
        assert_eq!(
            read(&spec(true, true, true), 2),
            (documents.clone(), positions.clone(), vec![0, 0, 1, 1, 2, 3, 3, 4])
        );
        assert_eq!(
            read(&spec(false, false, false), 2),
            (vec![0; 8], columns.clone(), vec![0, 0, 1, 1, 2, 2, 3, 3])
        );
        assert_eq!(
            read(&spec(true, false, true), 0),
            (documents.clone(), columns.clone(), documents.clone())
        );
        assert_eq!(read(&spec(false, true, false), 0), (vec![0; 8], positions, vec![0; 8]));
    }

    #[test]
    fn impossible_lengths_are_errors() {
        assert!(matches!(pack([vec![1]], 1, EOS), Err(DataError::RowLength { length: 1 })));
        let e = pack([vec![1, 2]], 4, EOS).unwrap_err().to_string();
        assert!(e.contains("1 documents with 3 tokens"), "{e}");
    }

    proptest! {
        #[test]
        fn rows_hold_the_stream_and_blocks_are_ordered(
            documents in prop::collection::vec(prop::collection::vec(1u32..50, 0..20), 1..20),
            length in 2usize..12, block in 0usize..5,
        ) {
            let stream: Vec<u32> = documents.iter().flat_map(|d| d.iter().copied().chain([EOS])).collect();
            match pack(&documents, length, EOS) {
                Err(_) => prop_assert!(stream.len() < length),
                Ok(packed) => {
                    prop_assert_eq!(&packed.rows[..], &stream[..stream.len() / length * length]);
                    for i in 0..packed.len() {
                        let row = packed.row(i);
                        let places = places(&row, &spec(true, true, true), block, 0);
                        for (a, b) in places.iter().zip(&places[1..]) {
                            prop_assert!(a.block <= b.block);
                            prop_assert_eq!(a.document == b.document, b.position == a.position + 1);
                            prop_assert!(a.document == b.document || a.block < b.block);
                        }
                    }
                }
            }
        }
    }

    /// The counts in `goldens/training-curve.json`, section "data".
    #[cfg(feature = "train")]
    #[test]
    fn tinystories_packs_to_the_reference_counts() {
        use crate::data::{Format, Tokenizer, document::read_documents, shared::shared};
        let file =
            |f: &str| shared("tinystories_packs_to_the_reference_counts", &format!("data/tinystories/{f}"));
        let (Some(t), Some(train), Some(valid)) =
            (file("tokenizer-4096.json"), file("train.txt"), file("valid.txt"))
        else {
            return;
        };
        let tokenizer = Tokenizer::from_file(t).unwrap();
        let read = |p| pack_texts(&tokenizer, &read_documents(p, &Format::default()).unwrap(), 256).unwrap();
        let (train, valid) = (read(&train), read(&valid));
        assert_eq!((train.documents, train.tokens, train.len()), (2720, 585204, 2285));
        assert_eq!((valid.documents, valid.len()), (443, 341));
        assert!(train.rows.iter().all(|id| !tokenizer.forbid().contains(id)));
    }
}
