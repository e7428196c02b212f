// A weight [n, k] in int8, k a multiple of 4: a row is k / 4 words of four codes, the first in the lowest byte, and a word
// with its scale. A value is code * scale in f32: the bits that the row would have been turned into beforehand.

fn code_row(k: u32) -> u32 {
    return k / 4u + 1u;
}

fn four_codes(word: u32) -> vec4<f32> {
    let i = bitcast<i32>(word);
    return vec4<f32>(vec4<i32>(
        extractBits(i, 0u, 8u),
        extractBits(i, 8u, 8u),
        extractBits(i, 16u, 8u),
        extractBits(i, 24u, 8u),
    ));
}
