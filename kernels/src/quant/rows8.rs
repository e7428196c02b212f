//! An int8 weight [n, k] as the shaders of WebGPU read it (`backend/web/codes.wgsl`): row after row, each k / 4 words of four
//! codes, the first in the lowest byte, and a word with the row's scale. Rows of the vocabulary can then be bound apart.

/// Words of a row of k codes, k a multiple of 4.
pub fn row_words(k: usize) -> usize {
    k / 4 + 1
}

/// Codes [n, k] and scales [n] to words [n, k / 4 + 1].
///
/// # Panics
/// Lengths that do not fit; k that is no multiple of 4.
pub fn pack(codes: &[i8], scales: &[f32], k: usize, out: &mut [f32]) {
    let (n, words) = (scales.len(), row_words(k));
    assert!(
        k > 0 && k.is_multiple_of(4) && codes.len() == n * k && out.len() == n * words,
        "rows8: {} codes and {n} scales of rows of {k} in {} words",
        codes.len(),
        out.len()
    );
    for ((row, scale), out) in codes.chunks_exact(k).zip(scales).zip(out.chunks_exact_mut(words)) {
        let (bytes, last) = out.split_at_mut(words - 1);
        bytemuck::cast_slice_mut::<f32, i8>(bytes).copy_from_slice(row);
        last[0] = *scale;
    }
}
