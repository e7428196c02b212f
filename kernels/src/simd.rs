//! Run-time dispatch of plain loops to AVX-512, AVX2 or the baseline (SSE2, or simd128 in WASM).
//!
//! The body is compiled once per level and vectorised by the compiler. No fused multiply-add is used, so every
//! level computes the same bits: sums run over 16 fixed lanes, whatever the register width.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// Lanes of every vectorised sum.
pub const LANES: usize = 16;

/// Instruction sets, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// what every machine of the architecture has
    Base = 1,
    /// AVX2 and FMA (which only matrix products use)
    V3 = 2,
    /// AVX-512 F, VL, BW, DQ and what V3 has
    V4 = 3,
}

/// Level in use; 0 until the machine has been asked.
static LEVEL: AtomicU8 = AtomicU8::new(0);

/// The level that [`simd!`](crate::simd!) functions run at.
#[inline]
pub fn level() -> Level {
    match LEVEL.load(Relaxed) {
        1 => Level::Base,
        2 => Level::V3,
        3 => Level::V4,
        _ => limit(Level::V4),
    }
}

/// Uses `most` or the best this machine has, whichever is lower, from now on in the whole process, and returns it.
/// Products are fused multiply-adds where the level has them: their bits depend on it, nothing else's do.
pub fn limit(most: Level) -> Level {
    let level = detect().min(most);
    LEVEL.store(level as u8, Relaxed);
    level
}

/// The best level of this machine.
#[cfg(test)]
pub fn best() -> Level {
    detect()
}

fn detect() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
        {
            return Level::V4;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Level::V3;
        }
    }
    Level::Base
}

/// Defines functions whose bodies are compiled for every level and dispatched at run time.
#[macro_export]
macro_rules! simd {
    ($($(#[$m:meta])* $v:vis fn $name:ident($($a:ident : $t:ty),* $(,)?) $(-> $r:ty)? $body:block)*) => {$(
        $(#[$m])*
        #[allow(clippy::too_many_arguments)]
        $v fn $name($($a: $t),*) $(-> $r)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body($($a: $t),*) $(-> $r)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2")]
                #[allow(clippy::too_many_arguments)]
                unsafe fn v4($($a: $t),*) $(-> $r)? { body($($a),*) }
                #[target_feature(enable = "avx2")]
                #[allow(clippy::too_many_arguments)]
                unsafe fn v3($($a: $t),*) $(-> $r)? { body($($a),*) }
                // SAFETY: the features of each level were detected.
                match $crate::simd::level() {
                    $crate::simd::Level::V4 => unsafe { v4($($a),*) },
                    $crate::simd::Level::V3 => unsafe { v3($($a),*) },
                    $crate::simd::Level::Base => body($($a),*),
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            body($($a),*)
        }
    )*};
}

/// e^x with relative error below 2e-7 on [-87.3, 88.7]; 0 below, the largest finite power above.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let c = x.clamp(-87.3, 88.37);
    // adding 1.5 2^23 rounds to an integer, which then stands in the lowest bits
    let shifted = c * std::f32::consts::LOG2_E + 12_582_912.0;
    let n = shifted - 12_582_912.0;
    let r = (c - n * 0.693_145_75) - n * 1.428_606_8e-6;
    let p = 1.0
        + r * (1.0
            + r * (0.5
                + r * (0.166_666_66
                    + r * (0.041_666_55 + r * (0.008_333_345 + r * (0.001_393_35 + r * 0.000_198_7))))));
    let y = f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23));
    if x < -87.3 { 0.0 } else { y }
}

/// Sum over fixed lanes.
#[inline(always)]
pub fn sum(a: &[f32]) -> f32 {
    let mut s = [0f32; LANES];
    let chunks = a.chunks_exact(LANES);
    let rest = chunks.remainder();
    for c in chunks {
        for i in 0..LANES {
            s[i] += c[i];
        }
    }
    fold(s) + rest.iter().sum::<f32>()
}

/// Inner product over fixed lanes.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    let mut s = [0f32; LANES];
    let (ca, cb) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let mut rest = 0.0;
    for (x, y) in ca.remainder().iter().zip(cb.remainder()) {
        rest += x * y;
    }
    for (x, y) in ca.zip(cb) {
        for i in 0..LANES {
            s[i] += x[i] * y[i];
        }
    }
    fold(s) + rest
}

/// Largest value (minus infinity for an empty slice).
#[inline(always)]
pub fn max(a: &[f32]) -> f32 {
    let mut s = [f32::NEG_INFINITY; LANES];
    let chunks = a.chunks_exact(LANES);
    let rest = chunks.remainder();
    for c in chunks {
        for i in 0..LANES {
            s[i] = if c[i] > s[i] { c[i] } else { s[i] };
        }
    }
    s.iter().chain(rest).fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m })
}

#[inline(always)]
fn fold(s: [f32; LANES]) -> f32 {
    let mut t = [0f32; 4];
    for i in 0..4 {
        t[i] = (s[i] + s[i + 4]) + (s[i + 8] + s[i + 12]);
    }
    (t[0] + t[1]) + (t[2] + t[3])
}

#[cfg(test)]
mod tests {
    #[test]
    fn exp_is_accurate() {
        let mut worst = 0f64;
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let want = (x as f64).exp();
            worst = worst.max((super::exp(x) as f64 - want).abs() / want);
        }
        assert!(worst < 2e-7, "{worst:e}");
        assert_eq!(super::exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(super::exp(-1000.0), 0.0);
        assert_eq!(super::exp(0.0), 1.0);
        assert!(super::exp(1000.0).is_finite());
    }
}
