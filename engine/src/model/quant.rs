//! Weights of few bits on disk. In memory they are float32.
//!
//! - int8 rows: x = s q with s = max |row| / 127; `X` I8 [rows, cols] with `X.scale` F32 [rows].
//! - 4-bit blocks, llama.cpp's Q4_0: 32 values share a scale d; x = d (q - 8), q in 0..16. A block is 18 bytes: d as f16, then 16 bytes whose low halves are values 0..16 and whose
//!   high halves are values 16..32. Safetensors has no such type: `X` is U8 [rows, cols / 32 * 18].

use half::f16;

/// Values that share a scale.
pub const BLOCK: usize = 32;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 18;

/// Shape of the U8 tensor that holds a matrix in 4-bit blocks; `None` where its rows are no multiple of a block.
pub fn q4_0_shape(shape: &[usize]) -> Option<Vec<usize>> {
    match shape {
        [rows, cols] if *cols > 0 && cols % BLOCK == 0 => Some(vec![*rows, cols / BLOCK * BLOCK_BYTES]),
        _ => None,
    }
}

/// Scales that are tried for a block: the value farthest from zero becomes -8 + k / 10 steps for k in -TRIED..=TRIED.
const TRIED: i32 = 9;

/// Blocks of `values`, whose number is a multiple of [`BLOCK`].
///
/// The scale of a block is the best of 19 by squared error weighted by x^2, after llama.cpp's `make_qx_quants`: for the
/// whole numbers q that a scale gives, the best d is sum w x q / sum w q^2, and it explains (sum w x q)^2 / sum w q^2.
pub fn to_q4_0(values: &[f32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(values.len() / BLOCK * BLOCK_BYTES);
    for block in values.chunks_exact(BLOCK) {
        let d = f16::from_f32(block_scale(block));
        let scale = d.to_f32();
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let four = |x: f32| (rounded(x * inverse) + 8.0) as u8;
        out.extend(d.to_le_bytes());
        let (low, high) = block.split_at(BLOCK / 2);
        out.extend(low.iter().zip(high).map(|(a, b)| four(*a) | four(*b) << 4));
    }
    out
}

fn rounded(x: f32) -> f32 {
    x.round().clamp(-8.0, 7.0)
}

fn block_scale(block: &[f32]) -> f32 {
    let farthest = block.iter().fold(0f32, |m, x| if x.abs() > m.abs() { *x } else { m });
    if farthest == 0.0 {
        return 0.0;
    }
    let (mut best, mut scale) = (-1f64, farthest / -8.0);
    for k in -TRIED..=TRIED {
        let inverse = (-8.0 + 0.1 * k as f32) / farthest;
        let (mut xq, mut qq) = (0f64, 0f64);
        for x in block {
            let (q, x) = (rounded(x * inverse) as f64, *x as f64);
            (xq, qq) = (xq + x * x * x * q, qq + x * x * q * q);
        }
        if qq > 0.0 && xq * xq > best * qq {
            (best, scale) = (xq * xq / qq, (xq / qq) as f32);
        }
    }
    scale
}

/// The inverse: `out` takes [`BLOCK`] values of every [`BLOCK_BYTES`] bytes.
pub fn from_q4_0(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.chunks_exact(BLOCK_BYTES).zip(out.chunks_exact_mut(BLOCK)) {
        let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let (low, high) = out.split_at_mut(BLOCK / 2);
        for (q, (a, b)) in block[2..].iter().zip(low.iter_mut().zip(high)) {
            *a = d * ((q & 15) as f32 - 8.0);
            *b = d * ((q >> 4) as f32 - 8.0);
        }
    }
}

/// Quantised rows of `cols` values, and their scales as bytes.
pub fn to_int8(values: &[f32], cols: usize) -> (Vec<u8>, Vec<u8>) {
    let (codes, scales, _) = codes(values, cols);
    let scales = scales.iter().flat_map(|s| s.to_le_bytes()).collect();
    (codes.into_iter().map(|q| q as u8).collect(), scales)
}

/// 1.5 2^23: what is added to it is rounded to an integer, half to even.
const ROUND: f32 = 12_582_912.0;

/// Quantised rows of `cols` values, their scales, and whether these yield every value again.
///
/// Values that were int8 rows, with a code of 127 or -127 in each, are given back as they were: q by rounding, and s, which
/// max |row| / 127 misses by up to two units in the last place, as the neighbour that yields every value of the row again.
pub fn codes(values: &[f32], cols: usize) -> (Vec<i8>, Vec<f32>, bool) {
    let (mut codes, mut scales, mut exact) = (vec![0; values.len()], vec![], true);
    for (row, codes) in values.chunks_exact(cols).zip(codes.chunks_exact_mut(cols)) {
        let (scale, yields) = row_codes(row, codes);
        scales.push(scale);
        exact &= yields;
    }
    (codes, scales, exact)
}

/// Of one row; a function of its own, because a browser compiles anew what is called often and not what loops long.
#[inline(never)]
fn row_codes(row: &[f32], codes: &mut [i8]) -> (f32, bool) {
    let scale = row.iter().fold(0f32, |m, x| if x.abs() > m { x.abs() } else { m }) / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    for (q, x) in codes.iter_mut().zip(row) {
        *q = (x * inverse + ROUND - ROUND).clamp(-127.0, 127.0) as i8;
    }
    let yields = |s: &f32| codes.iter().zip(row).all(|(q, x)| f32::from(*q) * s == *x);
    let near = [0i32, -1, 1, -2, 2].map(|ulp| f32::from_bits(scale.to_bits().wrapping_add_signed(ulp)));
    let exact = near.into_iter().find(yields);
    (exact.unwrap_or(scale), exact.is_some())
}

/// The rows of `cols` values as codes and scales, where those yield every value again.
pub fn exact_codes(values: &[f32], cols: usize) -> Option<(Vec<i8>, Vec<f32>)> {
    // most weights are no codes, and the first row says so
    let first = values.get(..cols).filter(|_| cols > 0)?;
    let exact = |values| Some(codes(values, cols)).filter(|c| c.2).map(|(codes, scales, _)| (codes, scales));
    exact(first).and_then(|_| exact(values))
}

/// The inverse, with a scale a row.
pub fn from_int8(bytes: &[u8], scales: &[f32], out: &mut [f32]) {
    let cols = out.len() / scales.len().max(1);
    for ((row, out), s) in bytes.chunks_exact(cols.max(1)).zip(out.chunks_exact_mut(cols.max(1))).zip(scales)
    {
        row_from_int8(row, *s, out);
    }
}

#[inline(never)]
fn row_from_int8(bytes: &[u8], scale: f32, out: &mut [f32]) {
    out.iter_mut().zip(bytes).for_each(|(o, b)| *o = *b as i8 as f32 * scale);
}

#[cfg(test)]
mod tests {
    use super::*;
    use hilda_kernels::rng::{Rng, Stream};

    fn normal(n: usize, seed: u64) -> Vec<f32> {
        let rng = Rng::new(seed, Stream::Init, 0);
        (0..n).map(|i| 0.05 * rng.normal(0, i as u32, 0) as f32).collect()
    }

    #[test]
    fn four_bits_are_laid_out_as_in_llama_cpp_and_err_less_than_its_plain_rule() {
        use candle_core::quantized::{GgmlDType, QTensor, ggml_file::qtensor_from_ggml};
        use candle_core::{Device, Tensor};
        let mut values = normal(7 * 96, 1);
        values[..BLOCK].fill(0.0);
        values[40] = 3.0;
        let floats = |t: QTensor| -> Vec<f32> {
            t.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap()
        };
        let ours = to_q4_0(&values);
        assert_eq!(Some(vec![7, ours.len() / 7]), q4_0_shape(&[7, 96]));
        let mut back = vec![f32::NAN; values.len()];
        from_q4_0(&ours, &mut back);
        // candle reads our bytes as the same numbers
        assert_eq!(
            back,
            floats(qtensor_from_ggml(GgmlDType::Q4_0, &ours, vec![7, 96], &Device::Cpu).unwrap())
        );
        // and we its
        let tensor = Tensor::from_vec(values.clone(), (7, 96), &Device::Cpu).unwrap();
        let theirs = QTensor::quantize(&tensor, GgmlDType::Q4_0).unwrap();
        let mut read = vec![f32::NAN; values.len()];
        from_q4_0(&theirs.data().unwrap(), &mut read);
        let plain = floats(theirs);
        assert_eq!(read, plain);
        let error = |y: &[f32]| -> f64 {
            values.iter().zip(y).map(|(x, y)| ((x * x) as f64) * ((x - y) as f64).powi(2)).sum()
        };
        assert!(error(&back) < error(&plain), "{} {}", error(&back), error(&plain));
    }

    #[test]
    fn errors_are_bounded_by_steps() {
        let values = normal(64 * BLOCK, 2);
        let mut back = vec![0f32; values.len()];
        from_q4_0(&to_q4_0(&values), &mut back);
        for (x, y) in values.chunks(BLOCK).zip(back.chunks(BLOCK)) {
            // sixteen steps reach farther to one side: on the other, values are cut by up to a step and a half
            let step = x.iter().fold(0f32, |m, v| m.max(v.abs())) / 7.0;
            x.iter().zip(y).for_each(|(x, y)| assert!((x - y).abs() <= 1.5 * step, "{x} {y}"));
        }
        let (bytes, scales) = to_int8(&values, 128);
        let scales: Vec<f32> =
            scales.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        from_int8(&bytes, &scales, &mut back);
        for ((x, y), s) in values.chunks(128).zip(back.chunks(128)).zip(scales) {
            x.iter().zip(y).for_each(|(x, y)| assert!((x - y).abs() <= 0.501 * s));
        }
    }

    /// What was int8 stays what it was, to the bit, however often it is read and written.
    #[test]
    fn int8_rows_lose_nothing_the_second_time() {
        let values = normal(500 * 64, 3);
        let (codes, scales, exact) = super::codes(&values, 64);
        assert!(!exact && exact_codes(&values, 64).is_none());
        let mut read = vec![0f32; values.len()];
        let bytes: Vec<u8> = codes.iter().map(|q| *q as u8).collect();
        from_int8(&bytes, &scales, &mut read);
        assert_eq!(exact_codes(&read, 64).unwrap().0, codes);
        let mut bent = read.clone();
        bent[64 * 400 + 7] *= 1.01;
        assert!(exact_codes(&bent, 64).is_none());
        let (bytes, again) = to_int8(&read, 64);
        let again: Vec<f32> =
            again.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let mut back = vec![0f32; values.len()];
        from_int8(&bytes, &again, &mut back);
        assert_eq!(back, read);
        // rows of zeros, and of values next to nothing
        assert_eq!(super::codes(&[0.0, -0.0], 2), (vec![0, 0], vec![0.0], true));
        assert!(super::codes(&[1e-45, 0.0], 2).1[0].is_finite());
    }

    #[test]
    fn odd_rows_have_no_blocks() {
        for shape in [&[4, 33][..], &[4, 0], &[32], &[2, 2, 32]] {
            assert_eq!(q4_0_shape(shape), None);
        }
        from_int8(&[], &[], &mut []);
    }
}
