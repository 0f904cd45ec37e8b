//! Sixteen lanes of f32 at every level, so that a kernel is written once and every level returns the same bits.
//!
//! A kernel is a generic function over [`Simd`], always inlined; `at_every_level!` compiles it once for each level and
//! chooses by [`Level`](crate::Level) at the call. An implementor of [`Simd`] is a proof: the values `Avx2` and `Avx512` can only be
//! made by unsafe code that knows the processor to have these instructions, and so their methods are safe.
//!
//! Rounding: every method rounds once, as IEEE 754 says; [`Simd::fma`] is fused at every level (at the scalar level by
//! `f32::mul_add`, which is slow where the target has no such instruction: that level is the reference, not a product).

use half::f16;

/// Lanes of a vector, at every level.
pub(crate) const LANES: usize = 16;

/// The ranges of at most [`LANES`] that cover `0..len`.
#[inline(always)]
pub(crate) fn blocks(len: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..len).step_by(LANES).map(move |at| at..len.min(at + LANES))
}

/// Arithmetic on [`LANES`] floats at a time. `max`, `min` and comparisons treat NaN as the SSE instructions do: where an
/// operand is NaN, `max` and `min` give the second, and no comparison holds.
pub(crate) trait Simd: Copy {
    /// Sixteen floats.
    type V: Copy;
    /// Sixteen integers of 32 bits.
    type I: Copy;
    /// How many vectors of accumulators fit in the registers beside the operands of a tile.
    const ACCUMULATORS: usize;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, x: &[f32; LANES]) -> Self::V;
    fn store(self, x: &mut [f32; LANES], v: Self::V);
    /// The first `x.len()` lanes, fewer than sixteen; the others are zero.
    fn load_part(self, x: &[f32]) -> Self::V;
    /// Stores the first `x.len()` lanes, fewer than sixteen.
    fn store_part(self, x: &mut [f32], v: Self::V);
    /// Sixteen bf16 numbers, widened exactly.
    fn load_bf16(self, x: &[u16; LANES]) -> Self::V;
    /// Sixteen IEEE halves, widened exactly.
    fn load_f16(self, x: &[f16; LANES]) -> Self::V;
    /// Sixteen integers of 8 bits (by their bits), which floats hold exactly.
    fn load_i8(self, x: &[u8; LANES]) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a·b + c`, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a > b ? a : b`.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a < b ? a : b`.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    fn sqrt(self, a: Self::V) -> Self::V;
    /// `a < b ? 0 : v`.
    fn zero_where_less(self, a: Self::V, b: Self::V, v: Self::V) -> Self::V;
    /// Adds the low bits of `n`'s pattern to the exponents of `p`: `p·2ⁿ` where `n` was shifted by [`ROUNDER`].
    fn scale_exponent(self, p: Self::V, n: Self::V) -> Self::V;

    fn splat_i32(self, x: i32) -> Self::I;
    /// Of sixteen fours of bytes, bytes 0 and 2 of each and bytes 1 and 3, each byte in 16 bits of its lane.
    fn load_fours(self, x: &[u8; 4 * LANES]) -> [Self::I; 2];
    /// `sums + low·low + high·high` in each lane, of the lower and the upper 16 bits of `a` and `b`, exact where the
    /// result fits in 32 bits.
    fn add_products(self, sums: Self::I, a: Self::I, b: Self::I) -> Self::I;
    /// The nearest floats, ties to even.
    fn to_floats(self, x: Self::I) -> Self::V;

    /// [`Simd::load`] or [`Simd::load_part`], by the length.
    #[inline(always)]
    fn get(self, x: &[f32]) -> Self::V {
        match x.try_into() {
            Ok(whole) => self.load(whole),
            Err(_) => self.load_part(x),
        }
    }

    /// [`Simd::store`] or [`Simd::store_part`], by the length.
    #[inline(always)]
    fn put(self, x: &mut [f32], v: Self::V) {
        match x.try_into() {
            Ok(whole) => self.store(whole, v),
            Err(_) => self.store_part(x, v),
        }
    }

    /// The lanes as an array.
    #[inline(always)]
    fn lanes(self, v: Self::V) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        self.store(&mut lanes, v);
        lanes
    }

    /// The sum of the lanes, halves onto halves: 16 → 8 → 4 → 2 → 1.
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        fold(self.lanes(v), |a, b| a + b)
    }

    /// The largest lane, folded as [`Simd::sum`].
    #[inline(always)]
    fn largest(self, v: Self::V) -> f32 {
        fold(self.lanes(v), |a, b| if a > b { a } else { b })
    }

    /// `eˣ` to about one unit in the last place. 0 below −87.3 (no subnormal results); no more than `e^88.37`; NaN of NaN.
    ///
    /// x = n·ln 2 + r with |r| ≤ ln 2 / 2; eʳ = 1 + r + r²·q(r), q the minimax polynomial of degree 4 (relative error of
    /// eʳ below 3.1e-9 before rounding).
    #[inline(always)]
    fn exp(self, x: Self::V) -> Self::V {
        self.exp_below_one(self.max(self.splat(EXP_LOWEST - 1.0), self.min(self.splat(EXP_HIGHEST), x)))
    }

    /// [`Simd::exp`] where x is no more than 88, by two operations less. Of larger numbers it returns anything.
    #[inline(always)]
    fn exp_below_one(self, x: Self::V) -> Self::V {
        // Far below the lowest, all that follows is nonsense, and the end makes it 0.
        let shifted = self.fma(x, self.splat(std::f32::consts::LOG2_E), self.splat(ROUNDER));
        let n = self.sub(shifted, self.splat(ROUNDER));
        let r = self.fma(n, self.splat(-LN2_HIGH), x);
        let r = self.fma(n, self.splat(-LN2_LOW), r);
        let mut q = self.splat(EXP_Q[4]);
        for &coefficient in EXP_Q[..4].iter().rev() {
            q = self.fma(q, r, self.splat(coefficient));
        }
        let p = self.add(self.fma(q, self.mul(r, r), r), self.splat(1.0));
        self.zero_where_less(x, self.splat(EXP_LOWEST), self.scale_exponent(p, shifted))
    }

    /// `1 / (1 + e⁻ˣ)`.
    #[inline(always)]
    fn sigmoid(self, x: Self::V) -> Self::V {
        let one = self.splat(1.0);
        self.div(one, self.add(one, self.exp(self.sub(self.splat(0.0), x))))
    }
}

/// [`Simd`] with products of pairs of bf16. A lane holds two, the earlier in its upper half, and only these methods look
/// into it; loads and stores move it as the float whose bits it has.
#[cfg(target_arch = "x86_64")]
pub(crate) trait Dots: Simd {
    /// `sum + a₁·b₁ + a₂·b₂`, the earlier product first, each rounded once; see [`crate::gemm`].
    fn dot(self, a: Self::V, b: Self::V, sum: Self::V) -> Self::V;
    /// Pairs of 32 neighbours, rounded: `low` the first sixteen, `high` the next.
    fn pair_neighbours(self, low: Self::V, high: Self::V) -> Self::V;
    /// Pairs of `earlier[i]` and `later[i]`, rounded.
    fn pair(self, earlier: Self::V, later: Self::V) -> Self::V;
    /// The earlier numbers of the pairs, widened.
    fn earlier(self, pairs: Self::V) -> Self::V;
    /// The later numbers of the pairs, widened.
    fn later(self, pairs: Self::V) -> Self::V;
    /// The transpose of a square of pairs.
    fn transposed(self, rows: [Self::V; LANES]) -> [Self::V; LANES];
}

/// 1.5·2²³: added to a float of small magnitude it leaves the nearest integer in the low bits of the sum.
pub(crate) const ROUNDER: f32 = 12_582_912.0;
/// ln 2⁻¹²⁶ rounded up, below which `exp` returns 0.
const EXP_LOWEST: f32 = -87.336_54;
/// The largest argument for which the exponent of the result stays finite.
const EXP_HIGHEST: f32 = 88.37;
/// ln 2 in two parts; the first has 9 bits, so that its product with n is exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Coefficients of q, lowest first (fitted by Remez exchange on |r| ≤ 1.0005·ln 2 / 2).
const EXP_Q: [f32; 5] = [0.499_999_94, 0.166_665_21, 0.041_668_39, 0.008_368_745, 0.001_381_454];

#[inline(always)]
fn fold(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = join(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// The reference: arrays, one lane after the other.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

#[inline(always)]
fn each(f: impl FnMut(usize) -> f32) -> [f32; LANES] {
    std::array::from_fn(f)
}

impl Simd for Scalar {
    type V = [f32; LANES];
    type I = [i32; LANES];
    const ACCUMULATORS: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::V {
        *x
    }
    #[inline(always)]
    fn store(self, x: &mut [f32; LANES], v: Self::V) {
        *x = v;
    }
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> Self::V {
        each(|i| x.get(i).copied().unwrap_or(0.0))
    }
    #[inline(always)]
    fn store_part(self, x: &mut [f32], v: Self::V) {
        x.copy_from_slice(&v[..x.len()]);
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u16; LANES]) -> Self::V {
        each(|i| f32::from_bits(u32::from(x[i]) << 16))
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> Self::V {
        each(|i| x[i].to_f32())
    }
    #[inline(always)]
    fn load_i8(self, x: &[u8; LANES]) -> Self::V {
        each(|i| f32::from(x[i] as i8))
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        each(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        each(|i| a[i].sqrt())
    }
    #[inline(always)]
    fn zero_where_less(self, a: Self::V, b: Self::V, v: Self::V) -> Self::V {
        each(|i| if a[i] < b[i] { 0.0 } else { v[i] })
    }
    #[inline(always)]
    fn scale_exponent(self, p: Self::V, n: Self::V) -> Self::V {
        each(|i| f32::from_bits(p[i].to_bits().wrapping_add(n[i].to_bits() << 23)))
    }
    #[inline(always)]
    fn splat_i32(self, x: i32) -> Self::I {
        [x; LANES]
    }
    #[inline(always)]
    fn load_fours(self, x: &[u8; 4 * LANES]) -> [Self::I; 2] {
        let two = |i: usize, first: usize| i32::from(x[4 * i + first]) | i32::from(x[4 * i + first + 2]) << 16;
        [std::array::from_fn(|i| two(i, 0)), std::array::from_fn(|i| two(i, 1))]
    }
    #[inline(always)]
    fn add_products(self, sums: Self::I, a: Self::I, b: Self::I) -> Self::I {
        let low = |x: i32| i32::from(x as i16);
        std::array::from_fn(|i| sums[i].wrapping_add(low(a[i]) * low(b[i])).wrapping_add((a[i] >> 16) * (b[i] >> 16)))
    }
    #[inline(always)]
    fn to_floats(self, x: Self::I) -> Self::V {
        each(|i| x[i] as f32)
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
#[path = "simd/x86.rs"]
mod x86;

/// `fn name(level, arguments) = body;` makes `name`, which calls the generic `body(simd, arguments)` compiled for `level`.
macro_rules! at_every_level {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)? = $body:path;) => {
        $(#[$meta])*
        $vis fn $name(level: $crate::Level, $($arg: $type),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($arg: $type),*) $(-> $out)? {
                // SAFETY: this function runs only where the processor has these features.
                $body(unsafe { $crate::simd::Avx2::new() }, $($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            fn avx512($($arg: $type),*) $(-> $out)? {
                // SAFETY: this function runs only where the processor has these features.
                $body(unsafe { <$crate::simd::Avx512>::new() }, $($arg),*)
            }
            match level {
                // SAFETY: a `Level` is made only by detection, which saw the features.
                #[cfg(target_arch = "x86_64")]
                $crate::Level::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::Level::Avx512 | $crate::Level::Avx512Bf16 | $crate::Level::Amx => unsafe { avx512($($arg),*) },
                _ => $body($crate::simd::Scalar, $($arg),*),
            }
        }
    };
}
pub(crate) use at_every_level;

#[cfg(test)]
mod tests {
    use super::*;

    fn exp_all(s: impl Simd, x: &[f32], out: &mut [f32]) {
        for b in blocks(x.len()) {
            let y = s.exp(s.get(&x[b.clone()]));
            s.put(&mut out[b], y);
        }
    }

    at_every_level! {
        fn exp(x: &[f32], out: &mut [f32]) = exp_all;
    }

    #[test]
    fn exp_is_close_to_f64_and_equal_at_every_level() {
        let mut x: Vec<f32> = (0..40_001).map(|i| -90.0 + 180.0 * i as f32 / 40_000.0).collect();
        x.extend([0.0, -0.0, 1e-30, -1e-30, f32::NEG_INFINITY, EXP_LOWEST, -87.4, 88.0, 88.36]);
        let mut want = vec![0.0; x.len()];
        exp_all(Scalar, &x, &mut want);
        let mut worst = 0.0f64;
        for (&x, &y) in x.iter().zip(&want) {
            let exact = f64::from(x).exp();
            if x < EXP_LOWEST {
                assert_eq!(y, 0.0, "{x}");
            } else if x <= EXP_HIGHEST {
                worst = worst.max((f64::from(y) - exact).abs() / exact);
            }
        }
        assert!(worst < 1.3e-7, "{worst}"); // 2^-23 is 1.19e-7
        let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for level in crate::available() {
            let mut out = vec![0.0; x.len()];
            exp(level, &x, &mut out);
            assert_eq!(bits(&out), bits(&want), "{level:?}");
        }
    }

    #[test]
    fn exp_of_nan_is_nan() {
        for level in crate::available() {
            let mut out = [0.0; 2];
            exp(level, &[f32::NAN, f32::INFINITY], &mut out);
            assert!(out[0].is_nan() && out[1] > 2e38, "{level:?} {out:?}");
        }
    }

    #[test]
    fn exp_of_zero_is_one() {
        assert_eq!(Scalar.lanes(Scalar.exp(Scalar.splat(0.0))), [1.0; LANES]);
    }
}
