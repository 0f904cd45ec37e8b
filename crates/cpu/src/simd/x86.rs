//! The sixteen lanes as two registers of AVX2 or one of AVX-512.

use super::{Dots, LANES, Simd};
use crate::gemm::pair_instructions as pairs;
use half::f16;
use std::arch::x86_64::*;

/// Proof of AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

/// Proof of AVX-512 F, BW, DQ, VL, and of AVX512-BF16 if `DOTS`.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const DOTS: bool = false>(());

impl Avx2 {
    /// # Safety
    /// The processor must have AVX2, FMA and F16C.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

impl<const DOTS: bool> Avx512<DOTS> {
    /// # Safety
    /// The processor must have AVX-512 F, BW, DQ and VL, and AVX512-BF16 if `DOTS`.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

/// Applies an intrinsic to both halves.
macro_rules! halves {
    ($f:ident, $($v:ident),*) => {
        // SAFETY: `self` proves that the processor has the instructions; they touch no memory.
        unsafe { [$f($($v[0]),*), $f($($v[1]),*)] }
    };
}

impl Simd for Avx2 {
    type V = [__m256; 2];
    type I = [__m256i; 2];
    const ACCUMULATORS: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        // SAFETY: `self` proves the instruction.
        [unsafe { _mm256_set1_ps(x) }; 2]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::V {
        // SAFETY: `self` proves the instruction; `x` is sixteen floats long.
        unsafe { [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))] }
    }
    #[inline(always)]
    fn store(self, x: &mut [f32; LANES], v: Self::V) {
        // SAFETY: `self` proves the instruction; `x` is sixteen floats long.
        unsafe {
            _mm256_storeu_ps(x.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(x.as_mut_ptr().add(8), v[1]);
        }
    }
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> Self::V {
        let mut lanes = [0.0; LANES];
        lanes[..x.len()].copy_from_slice(x);
        self.load(&lanes)
    }
    #[inline(always)]
    fn store_part(self, x: &mut [f32], v: Self::V) {
        x.copy_from_slice(&self.lanes(v)[..x.len()]);
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u16; LANES]) -> Self::V {
        // SAFETY: `self` proves the instructions; `x` is sixteen numbers of 16 bits long.
        unsafe {
            let widen = |half| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half)));
            [widen(_mm_loadu_si128(x.as_ptr().cast())), widen(_mm_loadu_si128(x.as_ptr().add(8).cast()))]
        }
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> Self::V {
        // SAFETY: `self` proves the instructions; `x` is sixteen numbers of 16 bits long.
        unsafe {
            let half = |at| _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().add(at).cast()));
            [half(0), half(8)]
        }
    }
    #[inline(always)]
    fn load_i8(self, x: &[u8; LANES]) -> Self::V {
        // SAFETY: `self` proves the instructions; `x` is sixteen bytes long.
        unsafe {
            let half = |at| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(x.as_ptr().add(at).cast())));
            [half(0), half(8)]
        }
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        halves!(_mm256_add_ps, a, b)
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        halves!(_mm256_sub_ps, a, b)
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        halves!(_mm256_mul_ps, a, b)
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        halves!(_mm256_div_ps, a, b)
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        halves!(_mm256_fmadd_ps, a, b, c)
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        halves!(_mm256_max_ps, a, b)
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        halves!(_mm256_min_ps, a, b)
    }
    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        halves!(_mm256_sqrt_ps, a)
    }
    #[inline(always)]
    fn zero_where_less(self, a: Self::V, b: Self::V, v: Self::V) -> Self::V {
        // SAFETY: `self` proves the instructions.
        unsafe {
            [
                _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(a[0], b[0]), v[0]),
                _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(a[1], b[1]), v[1]),
            ]
        }
    }
    #[inline(always)]
    fn scale_exponent(self, p: Self::V, n: Self::V) -> Self::V {
        // SAFETY: `self` proves the instructions.
        let half = |p, n| unsafe {
            let shift = _mm256_slli_epi32::<23>(_mm256_castps_si256(n));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), shift))
        };
        [half(p[0], n[0]), half(p[1], n[1])]
    }
    #[inline(always)]
    fn splat_i32(self, x: i32) -> Self::I {
        // SAFETY: `self` proves the instruction.
        [unsafe { _mm256_set1_epi32(x) }; 2]
    }
    #[inline(always)]
    fn load_fours(self, x: &[u8; 4 * LANES]) -> [Self::I; 2] {
        // SAFETY: `self` proves the instructions; `x` is 64 bytes long.
        unsafe {
            let halves = [_mm256_loadu_si256(x.as_ptr().cast()), _mm256_loadu_si256(x.as_ptr().add(32).cast())];
            let even = _mm256_set1_epi16(0xFF);
            [halves.map(|x| _mm256_and_si256(x, even)), halves.map(|x| _mm256_srli_epi16::<8>(x))]
        }
    }
    #[inline(always)]
    fn add_products(self, sums: Self::I, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: `self` proves the instructions.
        let half = |i: usize| unsafe { _mm256_add_epi32(sums[i], _mm256_madd_epi16(a[i], b[i])) };
        [half(0), half(1)]
    }
    #[inline(always)]
    fn to_floats(self, x: Self::I) -> Self::V {
        halves!(_mm256_cvtepi32_ps, x)
    }
}

/// Applies an intrinsic.
macro_rules! whole {
    ($f:ident, $($v:ident),*) => {
        // SAFETY: `self` proves that the processor has the instruction; it touches no memory.
        unsafe { $f($($v),*) }
    };
}

/// One mask bit for each of the first `len` lanes.
#[inline(always)]
fn first(len: usize) -> __mmask16 {
    debug_assert!(len < LANES);
    (1 << len) - 1
}

impl<const DOTS: bool> Simd for Avx512<DOTS> {
    type V = __m512;
    type I = __m512i;
    const ACCUMULATORS: usize = 16;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        whole!(_mm512_set1_ps, x)
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::V {
        // SAFETY: `self` proves the instruction; `x` is sixteen floats long.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, x: &mut [f32; LANES], v: Self::V) {
        // SAFETY: `self` proves the instruction; `x` is sixteen floats long.
        unsafe { _mm512_storeu_ps(x.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> Self::V {
        let mask = first(x.len().min(LANES - 1));
        // SAFETY: `self` proves the instruction; lanes beyond the end of `x` are masked off and not touched.
        unsafe { _mm512_maskz_loadu_ps(mask, x.as_ptr()) }
    }
    #[inline(always)]
    fn store_part(self, x: &mut [f32], v: Self::V) {
        let mask = first(x.len().min(LANES - 1));
        // SAFETY: `self` proves the instruction; lanes beyond the end of `x` are masked off and not touched.
        unsafe { _mm512_mask_storeu_ps(x.as_mut_ptr(), mask, v) }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u16; LANES]) -> Self::V {
        // SAFETY: `self` proves the instructions; `x` is sixteen numbers of 16 bits long.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> Self::V {
        // SAFETY: `self` proves the instruction; `x` is sixteen numbers of 16 bits long.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
    }
    #[inline(always)]
    fn load_i8(self, x: &[u8; LANES]) -> Self::V {
        // SAFETY: `self` proves the instructions; `x` is sixteen bytes long.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()))) }
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        whole!(_mm512_add_ps, a, b)
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        whole!(_mm512_sub_ps, a, b)
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        whole!(_mm512_mul_ps, a, b)
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        whole!(_mm512_div_ps, a, b)
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        whole!(_mm512_fmadd_ps, a, b, c)
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        whole!(_mm512_max_ps, a, b)
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        whole!(_mm512_min_ps, a, b)
    }
    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        whole!(_mm512_sqrt_ps, a)
    }
    #[inline(always)]
    fn zero_where_less(self, a: Self::V, b: Self::V, v: Self::V) -> Self::V {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_maskz_mov_ps(!_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), v) }
    }
    #[inline(always)]
    fn scale_exponent(self, p: Self::V, n: Self::V) -> Self::V {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let shift = _mm512_slli_epi32::<23>(_mm512_castps_si512(n));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), shift))
        }
    }
    #[inline(always)]
    fn splat_i32(self, x: i32) -> Self::I {
        whole!(_mm512_set1_epi32, x)
    }
    #[inline(always)]
    fn load_fours(self, x: &[u8; 4 * LANES]) -> [Self::I; 2] {
        // SAFETY: `self` proves the instructions; `x` is 64 bytes long.
        unsafe {
            let x = _mm512_loadu_si512(x.as_ptr().cast());
            [_mm512_and_si512(x, _mm512_set1_epi16(0xFF)), _mm512_srli_epi16::<8>(x)]
        }
    }
    #[inline(always)]
    fn add_products(self, sums: Self::I, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_add_epi32(sums, _mm512_madd_epi16(a, b)) }
    }
    #[inline(always)]
    fn to_floats(self, x: Self::I) -> Self::V {
        whole!(_mm512_cvtepi32_ps, x)
    }
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    fn largest(self, v: Self::V) -> f32 {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let eight = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }
}

/// Calls a function over registers of whole numbers with registers of floats, bit for bit.
macro_rules! on_bits {
    ($f:path, $($v:ident),*) => {
        // SAFETY: `self` proves that the processor has the instructions; they touch no memory.
        unsafe { _mm512_castsi512_ps($f($($v),*)) }
    };
}

impl Dots for Avx512<true> {
    #[inline(always)]
    fn dot(self, a: Self::V, b: Self::V, sum: Self::V) -> Self::V {
        // SAFETY: `self` proves the instructions.
        unsafe { pairs::dot(sum, _mm512_castps_si512(a), _mm512_castps_si512(b)) }
    }
    #[inline(always)]
    fn pair_neighbours(self, low: Self::V, high: Self::V) -> Self::V {
        on_bits!(pairs::pair_neighbours, low, high)
    }
    #[inline(always)]
    fn pair(self, earlier: Self::V, later: Self::V) -> Self::V {
        on_bits!(pairs::pair_lanes, earlier, later)
    }
    #[inline(always)]
    fn earlier(self, pairs: Self::V) -> Self::V {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_and_ps(pairs, _mm512_castsi512_ps(_mm512_set1_epi32(0xffff_0000_u32 as i32))) }
    }
    #[inline(always)]
    fn later(self, pairs: Self::V) -> Self::V {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(pairs))) }
    }
    #[inline(always)]
    fn transposed(self, rows: [Self::V; LANES]) -> [Self::V; LANES] {
        // SAFETY: `self` proves the instructions; they touch no memory. Both kinds of registers are 64 plain bytes.
        unsafe {
            let words = std::mem::transmute::<[__m512; LANES], [__m512i; LANES]>(rows);
            std::mem::transmute::<[__m512i; LANES], [__m512; LANES]>(pairs::transposed(words))
        }
    }
}
