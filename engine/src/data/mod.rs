//! From text to rows: documents -> token ids -> packed rows -> places.
//!
//! A document is a trimmed, non-empty piece of text. It is encoded alone, ended by the end-of-text id, and all
//! documents are laid end to end and cut into rows ([`pack`]). Where one document ends and the next begins stays
//! readable from the ids alone, because encoded text can never contain a special id ([`tokenizer`]).

pub mod byte_level;
pub mod document;
pub mod error;
pub mod pack;
#[cfg(test)]
mod shared;
pub mod tokenizer;

pub use document::Format;
pub use error::DataError;
pub use pack::{Packed, Row, pack, places};
pub use tokenizer::{Specials, Tokenizer};
