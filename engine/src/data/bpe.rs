//! Training a byte-level BPE vocabulary (Sennrich et al. 2016, arXiv 1508.07909, on the bytes of Radford et al. 2019).
//!
//! Start: three specials, then the 256 bytes. Repeat: the most frequent neighbouring pair inside a word becomes a
//! token; among equals the pair with the lower ids. Counts are sums over documents, so neither the order of the
//! documents nor the number of threads changes the result. The text is cut into words by GPT-2's rule and never
//! across a special's name, so no merge can spell one.

use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerBuilder};

use super::{DataError, Tokenizer, byte_level};

/// Our specials in id order: end of text, mask, padding.
pub const SPECIALS: [&str; 3] = ["<|endoftext|>", "<|mask|>", "<|pad|>"];

/// Least number of times a pair must occur to become a token.
const MIN_FREQUENCY: u64 = 2;

/// Learns `vocab` tokens from documents. A corpus with too few repeated pairs gives fewer.
///
/// Errors: `vocab` outside 259..=65536 (ids are cached as 16 bits), or no documents.
pub fn train<S: AsRef<str> + Send + Sync>(documents: &[S], vocab: usize) -> Result<Tokenizer, DataError> {
    let least = SPECIALS.len() + 256;
    if !(least..=65536).contains(&vocab) {
        return Err(DataError::Vocabulary { vocab, least });
    }
    if documents.is_empty() {
        return Err(DataError::Empty { name: "the tokenizer's training text".into() });
    }
    let failed = |e: tokenizers::Error| DataError::Tokenizer(format!("training failed: {e}"));
    let level = ByteLevel::new(false, true, true);
    let specials = SPECIALS.map(|t| AddedToken::from(t, true));
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocab)
        .min_frequency(MIN_FREQUENCY)
        .special_tokens(specials.to_vec())
        .initial_alphabet(byte_level::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    let mut tokenizer =
        TokenizerBuilder::<_, tokenizers::NormalizerWrapper, _, tokenizers::PostProcessorWrapper, _>::new()
            .with_model(BPE::default())
            .with_pre_tokenizer(Some(level))
            .with_decoder(Some(level))
            .build()
            .map_err(failed)?;
    tokenizer.train(&mut trainer, documents.iter().map(|d| d.as_ref())).map_err(failed)?;
    Tokenizer::from_bytes(tokenizer.to_string(true).map_err(failed)?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Format, document::read_documents, shared::shared};
    use proptest::prelude::*;

    const TEXT: [&str; 4] = [
        "the cat sat on the mat",
        "the hat the cat ate",
        "Žluťoučký kůň, žluťoučký pes",
        "ate <|mask|> ate <|mask|>",
    ];

    #[test]
    fn learns_the_frequent_pairs_and_keeps_the_layout() {
        let t = train(&TEXT, 280).unwrap();
        assert_eq!(t.vocab(), 280);
        assert_eq!(t.forbid(), [1, 2]);
        assert_eq!(
            (t.piece(0), t.piece(3), t.piece(258)),
            (SPECIALS[0].into(), "!".into(), "\u{fffd}".into())
        );
        assert!(t.pieces().contains(&" the".to_string()));
        assert!(t.encode("the mask").unwrap().len() < "the mask".len());
        assert_eq!(t.decode(&t.encode(TEXT[3]).unwrap()), TEXT[3]);
    }

    #[test]
    fn the_result_depends_on_nothing_but_the_text() {
        let reversed: Vec<&str> = TEXT.iter().rev().copied().collect();
        let one = train(&TEXT, 300).unwrap();
        assert_eq!(one.hash(), train(&reversed, 300).unwrap().hash());
        tokenizers::utils::parallelism::set_parallelism(false);
        let serial = train(&TEXT, 300).unwrap();
        tokenizers::utils::parallelism::set_parallelism(true);
        assert_eq!(one.hash(), serial.hash());
    }

    #[test]
    fn impossible_sizes_are_errors() {
        assert!(matches!(train(&TEXT, 258), Err(DataError::Vocabulary { vocab: 258, least: 259 })));
        assert!(matches!(train::<&str>(&[], 300), Err(DataError::Empty { .. })));
        assert_eq!(train(&["ab"], 4096).unwrap().vocab(), 259);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn every_text_round_trips(learn in any::<String>(), text in any::<String>()) {
            let t = train(&[&learn, "x"], 280).unwrap();
            prop_assert_eq!(t.decode(&t.encode(&text).unwrap()), text);
        }
    }

    /// The reference vocabulary was trained on the same stories with the same rule.
    #[test]
    fn the_reference_vocabulary_is_reproduced() {
        let file =
            |f: &str| shared("the_reference_vocabulary_is_reproduced", &format!("data/tinystories/{f}"));
        let (Some(want), Some(text)) = (file("tokenizer-4096.json"), file("train.txt")) else {
            return;
        };
        let want = Tokenizer::from_file(want).unwrap();
        let got = train(&read_documents(&text, &Format::default()).unwrap(), 4096).unwrap();
        let same = want.pieces().iter().zip(got.pieces()).filter(|(a, b)| *a == b).count();
        println!("{same} of 4096 pieces equal");
        assert_eq!(got.vocab(), 4096);
        assert_eq!(want.pieces(), got.pieces());
    }
}
