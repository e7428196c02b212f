//! The simplest driver: a function that computes a forward, called until the text is final.

use super::{DecodeError, Decoder, ForwardRequest, RowStats, trajectory::Stop};

/// Runs `decoder` to its end.
pub fn drive(
    decoder: &mut Decoder,
    mut forward: impl FnMut(&ForwardRequest) -> RowStats,
) -> Result<Option<Stop>, DecodeError> {
    while let Some(request) = decoder.next() {
        decoder.apply(forward(&request))?;
    }
    Ok(decoder.stop())
}
