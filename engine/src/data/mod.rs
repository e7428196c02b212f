//! From text to rows: documents -> token ids -> packed rows -> places.
//!
//! A document is a trimmed, non-empty piece of text. It is encoded alone, ended by the end-of-text id, and all
//! documents are laid end to end and cut into rows ([`pack`]). Where one document ends and the next begins stays
//! readable from the ids alone, because encoded text can never contain a special id ([`tokenizer`]).

mod added;
#[cfg(feature = "train")]
pub mod answers;
#[cfg(feature = "train")]
pub mod bpe;
pub mod byte_level;
#[cfg(feature = "train")]
pub mod cache;
#[cfg(feature = "train")]
pub mod corpus;
pub mod document;
pub mod error;
pub mod frequencies;
mod letters;
#[cfg(feature = "train")]
pub mod load;
pub mod mask;
mod merges;
pub mod pack;
#[cfg(feature = "train")]
mod partial;
#[cfg(test)]
mod shared;
pub mod tasks;
pub mod tokenizer;
mod words;

#[cfg(feature = "train")]
pub use corpus::{AddOptions, Corpus, CorpusCard, Registry, Split};
pub use document::Format;
pub use error::DataError;
pub use frequencies::{FREQUENCIES, Frequencies};
#[cfg(feature = "train")]
pub use load::{Loaded, load};
pub use pack::{Packed, Row, pack, places};
pub use tokenizer::{Specials, Tokenizer};
