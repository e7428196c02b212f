//! Vectors of floats, one type an instruction set, and the block transposition that packing and storing need.
//!
//! Everything is inlined into functions that enable the instruction set ([`super::tile`], [`super::pack`]); calling it
//! elsewhere is correct on a machine that has the set, and slow.

/// A vector of `N` floats.
pub trait Lanes: Copy {
    const N: usize;
    /// # Safety
    /// The machine has the instruction set (all functions of this trait).
    unsafe fn zero() -> Self;
    /// # Safety
    /// `N` floats are readable at `p`.
    unsafe fn load(p: *const f32) -> Self;
    /// # Safety
    /// `N` floats are writable at `p`.
    unsafe fn store(self, p: *mut f32);
    /// One float in every lane.
    ///
    /// # Safety
    /// One float is readable at `p`.
    unsafe fn splat(p: *const f32) -> Self;
    /// # Safety
    /// See `zero`.
    unsafe fn add(self, o: Self) -> Self;
    /// self + a b, rounded once where the instruction set can.
    ///
    /// # Safety
    /// See `zero`.
    unsafe fn madd(self, a: Self, b: Self) -> Self;
    /// `N` rows of `N` floats, `from_row` apart, to columns, `to_row` apart.
    ///
    /// # Safety
    /// The rows are readable and the columns writable.
    unsafe fn transpose(from: *const f32, from_row: usize, to: *mut f32, to_row: usize);
    /// The first `n` lanes, 0 < n <= N.
    ///
    /// # Safety
    /// `n` floats are writable at `p`.
    #[inline(always)]
    unsafe fn store_part(self, p: *mut f32, n: usize) {
        let mut all = [0f32; 16];
        unsafe {
            self.store(all.as_mut_ptr());
            std::ptr::copy_nonoverlapping(all.as_ptr(), p, n);
        }
    }
    /// The first `n` lanes from `p`, the others zero.
    ///
    /// # Safety
    /// `n` floats are readable at `p`.
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> Self {
        let mut all = [0f32; 16];
        unsafe {
            std::ptr::copy_nonoverlapping(p, all.as_mut_ptr(), n);
            Self::load(all.as_ptr())
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{F4, F8, F16};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Lanes;

    /// AVX-512
    #[derive(Clone, Copy)]
    pub struct F16(__m512);
    /// AVX2 and FMA
    #[derive(Clone, Copy)]
    pub struct F8(__m256);
    /// SSE2
    #[derive(Clone, Copy)]
    pub struct F4(__m128);

    impl Lanes for F16 {
        const N: usize = 16;
        #[inline(always)]
        unsafe fn zero() -> Self {
            unsafe { F16(_mm512_setzero_ps()) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            unsafe { F16(_mm512_loadu_ps(p)) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            unsafe { _mm512_storeu_ps(p, self.0) }
        }
        #[inline(always)]
        unsafe fn splat(p: *const f32) -> Self {
            unsafe { F16(_mm512_set1_ps(*p)) }
        }
        #[inline(always)]
        unsafe fn add(self, o: Self) -> Self {
            unsafe { F16(_mm512_add_ps(self.0, o.0)) }
        }
        #[inline(always)]
        unsafe fn madd(self, a: Self, b: Self) -> Self {
            unsafe { F16(_mm512_fmadd_ps(a.0, b.0, self.0)) }
        }
        #[inline(always)]
        unsafe fn store_part(self, p: *mut f32, n: usize) {
            unsafe { _mm512_mask_storeu_ps(p, (0xffffu32 >> (16 - n)) as __mmask16, self.0) }
        }
        #[inline(always)]
        unsafe fn load_part(p: *const f32, n: usize) -> Self {
            unsafe { F16(_mm512_maskz_loadu_ps((0xffffu32 >> (16 - n)) as __mmask16, p)) }
        }
        #[inline(always)]
        unsafe fn transpose(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
            unsafe {
                let pd = |x| _mm512_castps_pd(x);
                let ps = |x| _mm512_castpd_ps(x);
                let mut r = [_mm512_setzero_ps(); 16];
                for i in 0..16 {
                    r[i] = _mm512_loadu_ps(from.add(i * from_row));
                }
                let mut t = r;
                for i in 0..8 {
                    t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                    t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
                }
                // u[4 g + c]: column c of every 128-bit part, rows 4 g .. 4 g + 3
                let mut u = t;
                for g in 0..4 {
                    let (a, b) = (pd(t[4 * g]), pd(t[4 * g + 2]));
                    let (c, d) = (pd(t[4 * g + 1]), pd(t[4 * g + 3]));
                    u[4 * g] = ps(_mm512_unpacklo_pd(a, b));
                    u[4 * g + 1] = ps(_mm512_unpackhi_pd(a, b));
                    u[4 * g + 2] = ps(_mm512_unpacklo_pd(c, d));
                    u[4 * g + 3] = ps(_mm512_unpackhi_pd(c, d));
                }
                for c in 0..4 {
                    let x0 = _mm512_shuffle_f32x4::<0x88>(u[c], u[4 + c]);
                    let x1 = _mm512_shuffle_f32x4::<0xdd>(u[c], u[4 + c]);
                    let y0 = _mm512_shuffle_f32x4::<0x88>(u[8 + c], u[12 + c]);
                    let y1 = _mm512_shuffle_f32x4::<0xdd>(u[8 + c], u[12 + c]);
                    _mm512_storeu_ps(to.add(c * to_row), _mm512_shuffle_f32x4::<0x88>(x0, y0));
                    _mm512_storeu_ps(to.add((4 + c) * to_row), _mm512_shuffle_f32x4::<0x88>(x1, y1));
                    _mm512_storeu_ps(to.add((8 + c) * to_row), _mm512_shuffle_f32x4::<0xdd>(x0, y0));
                    _mm512_storeu_ps(to.add((12 + c) * to_row), _mm512_shuffle_f32x4::<0xdd>(x1, y1));
                }
            }
        }
    }

    impl Lanes for F8 {
        const N: usize = 8;
        #[inline(always)]
        unsafe fn zero() -> Self {
            unsafe { F8(_mm256_setzero_ps()) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            unsafe { F8(_mm256_loadu_ps(p)) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            unsafe { _mm256_storeu_ps(p, self.0) }
        }
        #[inline(always)]
        unsafe fn splat(p: *const f32) -> Self {
            unsafe { F8(_mm256_broadcast_ss(&*p)) }
        }
        #[inline(always)]
        unsafe fn add(self, o: Self) -> Self {
            unsafe { F8(_mm256_add_ps(self.0, o.0)) }
        }
        #[inline(always)]
        unsafe fn madd(self, a: Self, b: Self) -> Self {
            unsafe { F8(_mm256_fmadd_ps(a.0, b.0, self.0)) }
        }
        #[inline(always)]
        unsafe fn transpose(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
            unsafe {
                let mut r = [_mm256_setzero_ps(); 8];
                for i in 0..8 {
                    r[i] = _mm256_loadu_ps(from.add(i * from_row));
                }
                let mut t = r;
                for i in 0..4 {
                    t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                    t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
                }
                let mut u = t;
                for g in 0..2 {
                    u[4 * g] = _mm256_shuffle_ps::<0x44>(t[4 * g], t[4 * g + 2]);
                    u[4 * g + 1] = _mm256_shuffle_ps::<0xee>(t[4 * g], t[4 * g + 2]);
                    u[4 * g + 2] = _mm256_shuffle_ps::<0x44>(t[4 * g + 1], t[4 * g + 3]);
                    u[4 * g + 3] = _mm256_shuffle_ps::<0xee>(t[4 * g + 1], t[4 * g + 3]);
                }
                for c in 0..4 {
                    _mm256_storeu_ps(to.add(c * to_row), _mm256_permute2f128_ps::<0x20>(u[c], u[4 + c]));
                    _mm256_storeu_ps(
                        to.add((4 + c) * to_row),
                        _mm256_permute2f128_ps::<0x31>(u[c], u[4 + c]),
                    );
                }
            }
        }
    }

    impl Lanes for F4 {
        const N: usize = 4;
        #[inline(always)]
        unsafe fn zero() -> Self {
            unsafe { F4(_mm_setzero_ps()) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            unsafe { F4(_mm_loadu_ps(p)) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            unsafe { _mm_storeu_ps(p, self.0) }
        }
        #[inline(always)]
        unsafe fn splat(p: *const f32) -> Self {
            unsafe { F4(_mm_set1_ps(*p)) }
        }
        #[inline(always)]
        unsafe fn add(self, o: Self) -> Self {
            unsafe { F4(_mm_add_ps(self.0, o.0)) }
        }
        #[inline(always)]
        unsafe fn madd(self, a: Self, b: Self) -> Self {
            unsafe { F4(_mm_add_ps(self.0, _mm_mul_ps(a.0, b.0))) }
        }
        #[inline(always)]
        unsafe fn transpose(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
            unsafe {
                let r = |i: usize| _mm_loadu_ps(from.add(i * from_row));
                let (a, b) = (_mm_unpacklo_ps(r(0), r(1)), _mm_unpackhi_ps(r(0), r(1)));
                let (c, d) = (_mm_unpacklo_ps(r(2), r(3)), _mm_unpackhi_ps(r(2), r(3)));
                _mm_storeu_ps(to, _mm_movelh_ps(a, c));
                _mm_storeu_ps(to.add(to_row), _mm_movehl_ps(c, a));
                _mm_storeu_ps(to.add(2 * to_row), _mm_movelh_ps(b, d));
                _mm_storeu_ps(to.add(3 * to_row), _mm_movehl_ps(d, b));
            }
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub use plain::F4;

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod plain {
    use std::arch::wasm32::*;

    use super::Lanes;

    /// simd128
    #[derive(Clone, Copy)]
    pub struct F4(v128);

    impl Lanes for F4 {
        const N: usize = 4;
        #[inline(always)]
        unsafe fn zero() -> Self {
            F4(f32x4(0.0, 0.0, 0.0, 0.0))
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            F4(unsafe { v128_load(p as *const v128) })
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            unsafe { v128_store(p as *mut v128, self.0) }
        }
        #[inline(always)]
        unsafe fn splat(p: *const f32) -> Self {
            F4(unsafe { v128_load32_splat(p as *const u32) })
        }
        #[inline(always)]
        unsafe fn add(self, o: Self) -> Self {
            F4(f32x4_add(self.0, o.0))
        }
        #[inline(always)]
        unsafe fn madd(self, a: Self, b: Self) -> Self {
            #[cfg(target_feature = "relaxed-simd")]
            return F4(f32x4_relaxed_madd(a.0, b.0, self.0));
            #[cfg(not(target_feature = "relaxed-simd"))]
            F4(f32x4_add(self.0, f32x4_mul(a.0, b.0)))
        }
        #[inline(always)]
        unsafe fn transpose(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
            unsafe {
                let r = |i: usize| v128_load(from.add(i * from_row) as *const v128);
                let (a, b) =
                    (i32x4_shuffle::<0, 4, 1, 5>(r(0), r(1)), i32x4_shuffle::<2, 6, 3, 7>(r(0), r(1)));
                let (c, d) =
                    (i32x4_shuffle::<0, 4, 1, 5>(r(2), r(3)), i32x4_shuffle::<2, 6, 3, 7>(r(2), r(3)));
                v128_store(to as *mut v128, i64x2_shuffle::<0, 2>(a, c));
                v128_store(to.add(to_row) as *mut v128, i64x2_shuffle::<1, 3>(a, c));
                v128_store(to.add(2 * to_row) as *mut v128, i64x2_shuffle::<0, 2>(b, d));
                v128_store(to.add(3 * to_row) as *mut v128, i64x2_shuffle::<1, 3>(b, d));
            }
        }
    }
}

#[cfg(not(any(target_arch = "x86_64", all(target_arch = "wasm32", target_feature = "simd128"))))]
mod plain {
    use super::Lanes;

    /// An array: what the compiler makes of it.
    #[derive(Clone, Copy)]
    pub struct F4([f32; 4]);

    impl Lanes for F4 {
        const N: usize = 4;
        #[inline(always)]
        unsafe fn zero() -> Self {
            F4([0.0; 4])
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            F4(unsafe { (p as *const [f32; 4]).read_unaligned() })
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            unsafe { (p as *mut [f32; 4]).write_unaligned(self.0) }
        }
        #[inline(always)]
        unsafe fn splat(p: *const f32) -> Self {
            F4([unsafe { *p }; 4])
        }
        #[inline(always)]
        unsafe fn add(self, o: Self) -> Self {
            F4(std::array::from_fn(|i| self.0[i] + o.0[i]))
        }
        #[inline(always)]
        unsafe fn madd(self, a: Self, b: Self) -> Self {
            F4(std::array::from_fn(|i| self.0[i] + a.0[i] * b.0[i]))
        }
        #[inline(always)]
        unsafe fn transpose(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
            for i in 0..4 {
                for j in 0..4 {
                    unsafe { *to.add(j * to_row + i) = *from.add(i * from_row + j) }
                }
            }
        }
    }
}
