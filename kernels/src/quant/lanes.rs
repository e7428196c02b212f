//! Vectors of 32-bit sums, one type an instruction set. Inlined into functions that enable it ([`super::tile`]).

/// A vector of `N` sums, of 2 N 16-bit values, or of what is read into one.
pub trait Lanes: Copy {
    const N: usize;
    /// # Safety
    /// The machine has the instruction set (all functions of this trait).
    unsafe fn zero() -> Self;
    /// 2 N codes, widened to 16 bits.
    ///
    /// # Safety
    /// 2 N codes are readable at `p`.
    unsafe fn codes(p: *const i8) -> Self;
    /// Two activations in every lane.
    ///
    /// # Safety
    /// Two values are readable at `p`.
    unsafe fn pair(p: *const i16) -> Self;
    /// self + a_0 b_0 + a_1 b_1 in every lane.
    ///
    /// # Safety
    /// See `zero`.
    unsafe fn dot(self, a: Self, b: Self) -> Self;
    /// The sums in float32, times `x`, times the `N` values at `w`.
    ///
    /// # Safety
    /// `N` floats are readable at `w` and writable at `y`; with `add` they are added to.
    unsafe fn scaled(self, x: f32, w: *const f32, y: *mut f32, add: bool);
    /// [`Lanes::scaled`] for the first `n` lanes, 0 < n <= N.
    ///
    /// # Safety
    /// `N` floats are readable at `w`, `n` writable at `y`.
    #[inline(always)]
    unsafe fn finish(self, x: f32, w: *const f32, y: *mut f32, n: usize, add: bool) {
        unsafe {
            if n == Self::N {
                return self.scaled(x, w, y, add);
            }
            let mut all = [0f32; 16];
            std::ptr::copy_nonoverlapping(y, all.as_mut_ptr(), n);
            self.scaled(x, w, all.as_mut_ptr(), add);
            std::ptr::copy_nonoverlapping(all.as_ptr(), y, n);
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{I4, I8, I16, Vnni};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Lanes;

    /// AVX-512 with VNNI
    #[derive(Clone, Copy)]
    pub struct Vnni(__m512i);
    /// AVX-512
    #[derive(Clone, Copy)]
    pub struct I16(__m512i);
    /// AVX2
    #[derive(Clone, Copy)]
    pub struct I8(__m256i);
    /// SSE2
    #[derive(Clone, Copy)]
    pub struct I4(__m128i);

    macro_rules! avx512 {
        ($t:ident, |$acc:ident, $a:ident, $b:ident| $dot:expr) => {
            impl Lanes for $t {
                const N: usize = 16;
                #[inline(always)]
                unsafe fn zero() -> Self {
                    unsafe { $t(_mm512_setzero_si512()) }
                }
                #[inline(always)]
                unsafe fn codes(p: *const i8) -> Self {
                    unsafe { $t(_mm512_cvtepi8_epi16(_mm256_loadu_si256(p as *const __m256i))) }
                }
                #[inline(always)]
                unsafe fn pair(p: *const i16) -> Self {
                    unsafe { $t(_mm512_set1_epi32((p as *const i32).read_unaligned())) }
                }
                #[inline(always)]
                unsafe fn dot(self, a: Self, b: Self) -> Self {
                    let ($acc, $a, $b) = (self.0, a.0, b.0);
                    unsafe { $t($dot) }
                }
                #[inline(always)]
                unsafe fn scaled(self, x: f32, w: *const f32, y: *mut f32, add: bool) {
                    unsafe {
                        let sums = _mm512_mul_ps(_mm512_cvtepi32_ps(self.0), _mm512_set1_ps(x));
                        let z = _mm512_mul_ps(sums, _mm512_loadu_ps(w));
                        _mm512_storeu_ps(y, if add { _mm512_add_ps(_mm512_loadu_ps(y), z) } else { z });
                    }
                }
            }
        };
    }
    avx512!(Vnni, |acc, a, b| _mm512_dpwssd_epi32(acc, a, b));
    avx512!(I16, |acc, a, b| _mm512_add_epi32(acc, _mm512_madd_epi16(a, b)));

    impl Lanes for I8 {
        const N: usize = 8;
        #[inline(always)]
        unsafe fn zero() -> Self {
            unsafe { I8(_mm256_setzero_si256()) }
        }
        #[inline(always)]
        unsafe fn codes(p: *const i8) -> Self {
            unsafe { I8(_mm256_cvtepi8_epi16(_mm_loadu_si128(p as *const __m128i))) }
        }
        #[inline(always)]
        unsafe fn pair(p: *const i16) -> Self {
            unsafe { I8(_mm256_set1_epi32((p as *const i32).read_unaligned())) }
        }
        #[inline(always)]
        unsafe fn dot(self, a: Self, b: Self) -> Self {
            unsafe { I8(_mm256_add_epi32(self.0, _mm256_madd_epi16(a.0, b.0))) }
        }
        #[inline(always)]
        unsafe fn scaled(self, x: f32, w: *const f32, y: *mut f32, add: bool) {
            unsafe {
                let sums = _mm256_mul_ps(_mm256_cvtepi32_ps(self.0), _mm256_set1_ps(x));
                let z = _mm256_mul_ps(sums, _mm256_loadu_ps(w));
                _mm256_storeu_ps(y, if add { _mm256_add_ps(_mm256_loadu_ps(y), z) } else { z });
            }
        }
    }

    impl Lanes for I4 {
        const N: usize = 4;
        #[inline(always)]
        unsafe fn zero() -> Self {
            unsafe { I4(_mm_setzero_si128()) }
        }
        #[inline(always)]
        unsafe fn codes(p: *const i8) -> Self {
            unsafe {
                let x = _mm_loadl_epi64(p as *const __m128i);
                // a code in the upper half of 16 bits, shifted down with its sign
                I4(_mm_srai_epi16::<8>(_mm_unpacklo_epi8(x, x)))
            }
        }
        #[inline(always)]
        unsafe fn pair(p: *const i16) -> Self {
            unsafe { I4(_mm_set1_epi32((p as *const i32).read_unaligned())) }
        }
        #[inline(always)]
        unsafe fn dot(self, a: Self, b: Self) -> Self {
            unsafe { I4(_mm_add_epi32(self.0, _mm_madd_epi16(a.0, b.0))) }
        }
        #[inline(always)]
        unsafe fn scaled(self, x: f32, w: *const f32, y: *mut f32, add: bool) {
            unsafe {
                let sums = _mm_mul_ps(_mm_cvtepi32_ps(self.0), _mm_set1_ps(x));
                let z = _mm_mul_ps(sums, _mm_loadu_ps(w));
                _mm_storeu_ps(y, if add { _mm_add_ps(_mm_loadu_ps(y), z) } else { z });
            }
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub use plain::I4;

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod plain {
    use std::arch::wasm32::*;

    use super::Lanes;

    /// simd128
    #[derive(Clone, Copy)]
    pub struct I4(v128);

    impl Lanes for I4 {
        const N: usize = 4;
        #[inline(always)]
        unsafe fn zero() -> Self {
            I4(i32x4(0, 0, 0, 0))
        }
        #[inline(always)]
        unsafe fn codes(p: *const i8) -> Self {
            I4(unsafe { i16x8_load_extend_i8x8(p) })
        }
        #[inline(always)]
        unsafe fn pair(p: *const i16) -> Self {
            I4(unsafe { v128_load32_splat(p as *const u32) })
        }
        #[inline(always)]
        unsafe fn dot(self, a: Self, b: Self) -> Self {
            I4(i32x4_add(self.0, i32x4_dot_i16x8(a.0, b.0)))
        }
        #[inline(always)]
        unsafe fn scaled(self, x: f32, w: *const f32, y: *mut f32, add: bool) {
            unsafe {
                let sums = f32x4_mul(f32x4_convert_i32x4(self.0), f32x4_splat(x));
                let z = f32x4_mul(sums, v128_load(w as *const v128));
                let y = y as *mut v128;
                v128_store(y, if add { f32x4_add(v128_load(y), z) } else { z });
            }
        }
    }
}

#[cfg(not(any(target_arch = "x86_64", all(target_arch = "wasm32", target_feature = "simd128"))))]
mod plain {
    use super::Lanes;

    /// Arrays: what the compiler makes of them.
    #[derive(Clone, Copy)]
    pub struct I4([i32; 4], [i16; 8]);

    impl Lanes for I4 {
        const N: usize = 4;
        #[inline(always)]
        unsafe fn zero() -> Self {
            I4([0; 4], [0; 8])
        }
        #[inline(always)]
        unsafe fn codes(p: *const i8) -> Self {
            I4([0; 4], std::array::from_fn(|i| unsafe { *p.add(i) as i16 }))
        }
        #[inline(always)]
        unsafe fn pair(p: *const i16) -> Self {
            I4([0; 4], std::array::from_fn(|i| unsafe { *p.add(i % 2) }))
        }
        #[inline(always)]
        unsafe fn dot(self, a: Self, b: Self) -> Self {
            let term = |i: usize| a.1[i] as i32 * b.1[i] as i32;
            I4(std::array::from_fn(|i| self.0[i] + (term(2 * i) + term(2 * i + 1))), self.1)
        }
        #[inline(always)]
        unsafe fn scaled(self, x: f32, w: *const f32, y: *mut f32, add: bool) {
            for i in 0..4 {
                unsafe {
                    let z = self.0[i] as f32 * x * *w.add(i);
                    *y.add(i) = if add { *y.add(i) + z } else { z };
                }
            }
        }
    }
}
