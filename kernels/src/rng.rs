//! Philox4x32-10 (Salmon et al., SC 2011, "Parallel random numbers: as easy as 1, 2, 3"): randomness as a
//! pure function of where it is used, so that no result depends on the order of execution.
//!
//! Key = the run's or request's seed. Counter = [lane / 2, position, step, stream << 24 | sequence].
//! A draw of 128 bits serves two lanes of 64 bits each; in token races the lane is the vocabulary index.

/// What a draw is for. Different streams never share a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stream {
    /// initial weights
    Init = 1,
    /// order of the training rows
    Shuffle = 2,
    /// mask rates t of a training batch
    Time = 3,
    /// which positions are masked
    Mask = 4,
    /// which visible tokens are replaced, and by what
    Replace = 5,
    /// choices of the training loop (block size of a batch, kind of a block)
    Choice = 6,
    /// evaluation masks
    Eval = 7,
    /// the token race while decoding
    Token = 8,
    /// the order of positions while decoding
    Order = 9,
    /// edges of an annealed attention mask
    Anneal = 10,
    /// free for tests
    Test = 15,
}

const M0: u64 = 0xD251_1F53;
const M1: u64 = 0xCD9E_8D57;
const W0: u32 = 0x9E37_79B9;
const W1: u32 = 0xBB67_AE85;

/// Ten rounds of Philox4x32 over `counter` under `key`: 128 uniform bits.
#[inline(always)]
pub fn philox(key: [u32; 2], counter: [u32; 4]) -> [u32; 4] {
    let [mut k0, mut k1] = key;
    let mut c = counter;
    for _ in 0..10 {
        let (p0, p1) = (M0 * c[0] as u64, M1 * c[2] as u64);
        c = [(p1 >> 32) as u32 ^ c[1] ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k1, p0 as u32];
        (k0, k1) = (k0.wrapping_add(W0), k1.wrapping_add(W1));
    }
    c
}

/// High and low words of the products m x[i].
#[inline(always)]
fn multiply<const N: usize>(m: u32, x: &[u32; N]) -> ([u32; N], [u32; N]) {
    let (mut high, mut low) = ([0; N], [0; N]);
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    {
        // the compiler does not find the widening multiplication by itself
        use core::arch::wasm32::*;
        const { assert!(N % 4 == 0) };
        for i in (0..N).step_by(4) {
            let (v, w) = (u32x4(x[i], x[i + 1], x[i + 2], x[i + 3]), u32x4_splat(m));
            let (a, b) = (u64x2_extmul_low_u32x4(v, w), u64x2_extmul_high_u32x4(v, w));
            // SAFETY: four words from i on, inside both arrays.
            unsafe {
                v128_store(low[i..i + 4].as_mut_ptr() as *mut v128, u32x4_shuffle::<0, 2, 4, 6>(a, b));
                v128_store(high[i..i + 4].as_mut_ptr() as *mut v128, u32x4_shuffle::<1, 3, 5, 7>(a, b));
            }
        }
    }
    #[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
    for i in 0..N {
        let p = m as u64 * x[i] as u64;
        (high[i], low[i]) = ((p >> 32) as u32, p as u32);
    }
    (high, low)
}

/// A keyed source: fixed seed, stream and sequence; position, step and lane vary per draw.
#[derive(Clone, Copy, Debug)]
pub struct Rng {
    key: [u32; 2],
    tail: u32,
}

impl Rng {
    /// `sequence` is the request's or row's own index (24 bits), never a batch slot.
    pub fn new(seed: u64, stream: Stream, sequence: u32) -> Self {
        Rng {
            key: [seed as u32, (seed >> 32) as u32],
            tail: (stream as u32) << 24 | (sequence & 0x00FF_FFFF),
        }
    }
    /// 64 uniform bits as (high, low) words for one lane.
    #[inline(always)]
    pub fn bits(&self, step: u32, position: u32, lane: u32) -> (u32, u32) {
        let r = philox(self.key, [lane / 2, position, step, self.tail]);
        if lane % 2 == 0 { (r[0], r[1]) } else { (r[2], r[3]) }
    }
    /// [`Rng::bits`] of the consecutive lanes `first ..` (`first` even): lane `first + 2 i` has (`[0][i]`, `[1][i]`),
    /// lane `first + 2 i + 1` has (`[2][i]`, `[3][i]`). Straight loops over N counters, for vector registers.
    #[inline(always)]
    pub fn bits_block<const N: usize>(&self, step: u32, position: u32, first: u32) -> [[u32; N]; 4] {
        let [mut k0, mut k1] = self.key;
        let mut c = [[0; N], [position; N], [step; N], [self.tail; N]];
        for i in 0..N {
            c[0][i] = first / 2 + i as u32;
        }
        for _ in 0..10 {
            let ((h0, l0), (h1, l1)) = (multiply(M0 as u32, &c[0]), multiply(M1 as u32, &c[2]));
            for i in 0..N {
                let (a, b) = (h1[i] ^ c[1][i] ^ k0, h0[i] ^ c[3][i] ^ k1);
                (c[0][i], c[1][i], c[2][i], c[3][i]) = (a, l1[i], b, l0[i]);
            }
            (k0, k1) = (k0.wrapping_add(W0), k1.wrapping_add(W1));
        }
        c
    }
    /// Uniform in [0, 1) with 53 bits.
    #[inline(always)]
    pub fn uniform(&self, step: u32, position: u32, lane: u32) -> f64 {
        let (hi, lo) = self.bits(step, position, lane);
        ((hi as u64) << 21 | (lo as u64) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
    /// Uniform integer in 0..n (n > 0), by 64-bit multiplication (bias below n / 2^64).
    #[inline(always)]
    pub fn below(&self, step: u32, position: u32, lane: u32, n: u64) -> u64 {
        let (hi, lo) = self.bits(step, position, lane);
        ((((hi as u64) << 32 | lo as u64) as u128 * n as u128) >> 64) as u64
    }
    /// Standard normal (Box-Muller on one 128-bit draw).
    pub fn normal(&self, step: u32, position: u32, lane: u32) -> f64 {
        let u = 1.0 - self.uniform(step, position, 2 * lane);
        let v = self.uniform(step, position, 2 * lane + 1);
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }
    /// Standard exponential in f32 for the token race: -ln(1 - u) with u from 64 bits, so that values at both ends
    /// keep their full relative precision (`methods/decoding.md` 2.3; arXiv 2409.02908).
    #[inline(always)]
    pub fn exponential(&self, step: u32, position: u32, lane: u32) -> f32 {
        let (hi, lo) = self.bits(step, position, lane);
        race_exponential(hi, lo)
    }
    /// A permutation of 0..n: Fisher-Yates with keyed draws.
    pub fn permutation(&self, step: u32, n: usize) -> Vec<u32> {
        let mut p: Vec<u32> = (0..n as u32).collect();
        for i in (1..n).rev() {
            p.swap(i, self.below(step, i as u32, 0, i as u64 + 1) as usize);
        }
        p
    }
}

/// u = (hi 2^32 + lo + 1/2) 2^-64, with full relative precision near 0; never 0.
#[inline(always)]
pub fn race_uniform(hi: u32, lo: u32) -> f32 {
    hi as f32 * (1.0 / 4_294_967_296.0) + (lo as f32 + 0.5) * (1.0 / 18_446_744_073_709_551_616.0)
}

/// E = -ln(1 - u). With n = hi 2^32 + lo and u = (n + 1/2) 2^-64, 1 - u is exactly (!n + 1/2) 2^-64, so neither end
/// loses precision: E runs from 2^-65 to 65 ln 2.
#[inline(always)]
pub fn race_exponential(hi: u32, lo: u32) -> f32 {
    let u = race_uniform(hi, lo);
    if u < 1e-2 {
        // series of -log1p(-u): relative error below 1e-8 here
        u * (1.0 + u * (0.5 + u * (1.0 / 3.0 + u * 0.25)))
    } else {
        -race_uniform(!hi, !lo).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_of_the_random123_distribution() {
        assert_eq!(philox([0, 0], [0; 4]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(philox([!0, !0], [!0; 4]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(
            philox([0xa4093822, 0x299f31d0], [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn a_block_of_lanes_has_the_bits_of_its_lanes() {
        let r = Rng::new(0x0123_4567_89AB_CDEF, Stream::Test, 77);
        for first in [0u32, 6, u32::MAX - 31] {
            let block = r.bits_block::<16>(9, 5, first);
            for i in 0..32 {
                let (pair, half) = (i as usize / 2, i as usize % 2 * 2);
                assert_eq!((block[half][pair], block[half + 1][pair]), r.bits(9, 5, first + i), "lane {i}");
            }
        }
    }

    #[test]
    fn permutation_is_a_bijection_and_keyed() {
        let r = Rng::new(7, Stream::Shuffle, 0);
        let mut p = r.permutation(3, 101);
        assert_ne!(p, r.permutation(4, 101));
        p.sort_unstable();
        assert_eq!(p, (0..101).collect::<Vec<_>>());
        assert!(r.permutation(0, 0).is_empty());
    }

    #[test]
    fn moments() {
        let r = Rng::new(1, Stream::Test, 5);
        let n = 200_000;
        let (mut e, mut z, mut z2, mut u) = (0.0, 0.0, 0.0, 0.0);
        for i in 0..n {
            e += r.exponential(0, i, 3) as f64;
            let x = r.normal(0, i, 0);
            z += x;
            z2 += x * x;
            u += r.uniform(1, i, 1);
        }
        let n = n as f64;
        assert!((e / n - 1.0).abs() < 0.01 && (u / n - 0.5).abs() < 0.005);
        assert!((z / n).abs() < 0.01 && (z2 / n - 1.0).abs() < 0.02);
    }

    #[test]
    fn exponentials_keep_relative_precision_at_both_ends() {
        let ends = [(0, 0), (0, 12345), (1, 0), (1 << 20, 77), (1 << 26, 3), (42949672, !0), (42949673, 0)];
        let high = ends.map(|(hi, lo): (u32, u32)| (!hi, !lo));
        let r = Rng::new(3, Stream::Test, 1);
        let middle = (0..1000).map(|i| r.bits(0, i, 0));
        for (hi, lo) in ends.into_iter().chain(high).chain([(1 << 31, 0)]).chain(middle) {
            let uniform = |hi: u32, lo: u32| (hi as f64 + (lo as f64 + 0.5) / 4294967296.0) / 4294967296.0;
            // the nearer end in f64, which has no more bits for the farther one than f32 had for u
            let u = uniform(hi, lo);
            let want = if u < 0.5 { -(-u).ln_1p() } else { -uniform(!hi, !lo).ln() };
            let got = race_exponential(hi, lo) as f64;
            // where the series ends, 1 - u = 0.99 is known to 2^-25
            let rounding = if u < 1e-2 { 0.0 } else { 2f64.powi(-25) };
            assert!((got - want).abs() <= 3e-7 * want + rounding, "{hi} {lo}: {got} {want}");
        }
        assert!((race_exponential(!0, !0) - 65.0 * std::f32::consts::LN_2).abs() < 1e-5);
        assert!(
            race_exponential(!0, 0) < race_exponential(!0, 1 << 20),
            "u = 1 in f32 is not the end of the race"
        );
    }
}
