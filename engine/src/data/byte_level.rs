//! The byte alphabet of byte-level BPE (Radford et al. 2019, "Language models are unsupervised multitask
//! learners", section 2.2): every byte has one printable character, so that a `tokenizer.json` is readable text.
//!
//! Bytes 33..=126, 161..=172 and 174..=255 stand for themselves; the other 68 take U+0100 onwards in byte order.

/// The character that stands for a byte.
pub fn byte_to_char(byte: u8) -> char {
    let printable = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    if printable(byte) {
        return byte as char;
    }
    let rank = (0..byte).filter(|b| !printable(*b)).count() as u32;
    char::from_u32(256 + rank).expect("below the surrogates")
}

/// The byte that a character stands for, if it is one of the 256.
pub fn char_to_byte(c: char) -> Option<u8> {
    (0..=255u8).find(|b| byte_to_char(*b) == c)
}

/// The 256 characters in byte order.
pub fn alphabet() -> [char; 256] {
    std::array::from_fn(|b| byte_to_char(b as u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_a_bijection_with_known_letters() {
        let distinct: std::collections::BTreeSet<char> = alphabet().into_iter().collect();
        assert_eq!(distinct.len(), 256);
        assert!((0..=255u8).all(|b| char_to_byte(byte_to_char(b)) == Some(b)));
        assert_eq!((byte_to_char(b' '), byte_to_char(b'\n'), byte_to_char(b'a')), ('Ġ', 'Ċ', 'a'));
        assert_eq!(char_to_byte('語'), None);
    }
}
