//! The token race: argmin over v of ln E_v - z_v / T with keyed exponentials (`methods/decoding.md` 2.3).
//!
//! Two logarithms for every token of the vocabulary would cost more than the head's matrix product. Most tokens cannot
//! win: E >= u, and ln u >= ln 2 (e + f) for u = 2^e (1 + f), which is u's bit pattern read as an integer. Draws and
//! this bound are computed in vectors; only a token whose bound beats the runner-up so far takes logarithms. The
//! result is bit for bit that of the plain loop.

use crate::rng::{Rng, race_exponential, race_uniform};
use crate::simd;

/// Counters per block; each serves two tokens.
const N: usize = 16;
const LANES: usize = 2 * N;
/// Covers the rounding of the bound.
const SLACK: f32 = 1e-3;

/// Winner of a race and its key, and the key of the runner-up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Race {
    pub winner: Option<u32>,
    pub first: f32,
    pub second: f32,
}

simd! {
    /// Races the tokens of `z` (forbidden ones at minus infinity) at 1 / T = `inv`.
    pub(super) fn race(z: &[f32], inv: f32, rng: Rng, step: u32, position: u32) -> Race {
        let mut best = Race { winner: None, first: f32::INFINITY, second: f32::INFINITY };
        for (block, z) in z.chunks(LANES).enumerate() {
            let at = (block * LANES) as u32;
            let [h0, l0, h1, l1] = rng.bits_block::<N>(step, position, at);
            let (mut even, mut odd) = ([f32::NEG_INFINITY; N], [f32::NEG_INFINITY; N]);
            for (i, pair) in z.chunks(2).enumerate() {
                even[i] = pair[0];
                odd[i] = pair.get(1).copied().unwrap_or(f32::NEG_INFINITY);
            }
            let (mut b0, mut b1, mut least) = ([0f32; N], [0f32; N], [0f32; N]);
            for i in 0..N {
                b0[i] = bound_of(race_uniform(h0[i], l0[i])) - even[i] * inv;
                b1[i] = bound_of(race_uniform(h1[i], l1[i])) - odd[i] * inv;
                least[i] = if b0[i] < b1[i] { b0[i] } else { b1[i] };
            }
            // (a bound that is no number belongs to a logit that is none: it never wins)
            let mut beaten = true;
            for b in least {
                beaten &= b >= best.second;
            }
            if beaten {
                continue;
            }
            for i in 0..LANES {
                let (bound, x, hi, lo) = match i % 2 {
                    0 => (b0[i / 2], even[i / 2], h0[i / 2], l0[i / 2]),
                    _ => (b1[i / 2], odd[i / 2], h1[i / 2], l1[i / 2]),
                };
                if bound >= best.second || x == f32::NEG_INFINITY {
                    continue;
                }
                let key = race_exponential(hi, lo).ln() - x * inv;
                if key < best.first {
                    best = Race { winner: Some(at + i as u32), first: key, second: best.first };
                } else if key < best.second {
                    best.second = key;
                }
            }
        }
        best
    }
}

/// Not above ln u as computed.
#[inline(always)]
fn bound_of(u: f32) -> f32 {
    (u.to_bits() as i32 as f32 * (1.0 / 8_388_608.0) - 127.0) * std::f32::consts::LN_2 - SLACK
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures::values;
    use crate::rng::{Rng, Stream};

    fn plain(z: &[f32], inv: f32, rng: Rng, step: u32, position: u32) -> Race {
        let mut best = Race { winner: None, first: f32::INFINITY, second: f32::INFINITY };
        for (v, &x) in z.iter().enumerate().filter(|(_, x)| **x > f32::NEG_INFINITY) {
            let key = rng.exponential(step, position, v as u32).ln() - x * inv;
            if key < best.first {
                best = Race { winner: Some(v as u32), first: key, second: best.first };
            } else if key < best.second {
                best.second = key;
            }
        }
        best
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn skipping_losers_changes_no_bit(
            vocab in 0usize..700,
            inv in prop_oneof![Just(1f32), Just(100.0), 0.1f32..10.0],
            scale in prop_oneof![Just(0f32), Just(1.0), Just(30.0)],
            forbidden in 1usize..9,
            seed: u64,
            position: u32,
        ) {
            let mut z: Vec<f32> = values(seed, vocab).iter().map(|z| z * scale).collect();
            z.iter_mut().step_by(forbidden).for_each(|z| *z = f32::NEG_INFINITY);
            let rng = Rng::new(seed, Stream::Token, 3);
            prop_assert_eq!(race(&z, inv, rng, 7, position), plain(&z, inv, rng, 7, position));
        }
    }

    #[test]
    fn the_bound_never_exceeds_the_logarithm() {
        let rng = Rng::new(1, Stream::Test, 8);
        for i in 0..2_000_000u32 {
            let (hi, lo) = rng.bits(0, i, 0);
            // also the smallest uniforms: shift the high word away
            for hi in [hi, hi >> (i % 32), 0] {
                let (bound, log) = (bound_of(race_uniform(hi, lo)), race_exponential(hi, lo).ln());
                assert!(bound <= log, "{hi} {lo}: {bound} {log}");
                assert!(race_uniform(hi, lo) > 0.5 || bound > log - 0.5, "{hi} {lo}: {bound} {log}");
            }
        }
    }
}
