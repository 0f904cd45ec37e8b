//! Tiles of 6 × 16 sums in 12 registers of AVX2.
//!
//! Few rows take a panel as it comes from memory, four tiles side by side. For many it is cut into strips of sixteen outputs
//! first, in f32: of a panel the sixteen outputs' lines are 256 bytes apart and fall on a quarter of the first cache's sets,
//! where a strip's stay for all rows; and bf16 is widened once. Measured on Zen 3, 1024 × 768 → 4096, one core, of a peak of 104
//! GFLOP/s, best of several: f32 84 GFLOP/s instead of 79, bf16 80 instead of 59.
#![allow(clippy::needless_range_loop, reason = "the indices are registers")]

use super::pack::unpair;
use super::{MR, NR, Number, Tile};
use std::arch::x86_64::*;

/// Floats of a register.
const LANES: usize = 8;
/// Outputs of a strip.
pub(super) const STRIP: usize = 2 * LANES;

/// Makes `name(tile, out)`, which calls `inner::<height, width>` on each piece of the panel: so many registers wide that the sums
/// fit in twelve, but no wider than the panel. The body is what is done with a word of A, `height` of them, and of B.
macro_rules! tiles {
    ($name:ident, $pieces:ident, $inner:ident, $stride:expr, $per_word:literal, |$sums:ident, $left:ident, $right:ident| $body:block) => {
        /// # Safety
        /// [`Tile`]'s pointers and `out` reach `height` rows of `width` floats, which no other thread writes, and the
        /// processor has the instructions.
        pub(super) unsafe fn $name(tile: &Tile<'_>, out: (*mut f32, usize)) {
            const fn at_most(registers: usize) -> usize {
                if registers * LANES < $stride { registers } else { $stride / LANES }
            }
            // SAFETY: as the caller promises.
            unsafe {
                match tile.height {
                    1 => $pieces::<1, { at_most(8) }>(tile, out),
                    2 => $pieces::<2, { at_most(4) }>(tile, out),
                    3 => $pieces::<3, { at_most(4) }>(tile, out),
                    4 => $pieces::<4, 2>(tile, out),
                    5 => $pieces::<5, 2>(tile, out),
                    _ => $pieces::<MR, 2>(tile, out),
                }
            }
        }

        /// # Safety
        /// As `name`.
        #[target_feature(enable = "avx2,fma")]
        unsafe fn $pieces<const H: usize, const W: usize>(tile: &Tile<'_>, out: (*mut f32, usize)) {
            for column in (0..tile.width).step_by(W * LANES) {
                // SAFETY: as the caller promises.
                unsafe { $inner::<H, W>(tile, column, out) };
            }
        }

        #[target_feature(enable = "avx2,fma")]
        unsafe fn $inner<const H: usize, const W: usize>(tile: &Tile<'_>, column: usize, out: (*mut f32, usize)) {
            let words = tile.right.len() / $stride;
            assert!(tile.left.len() == words * H * $per_word && tile.height == H && column + W * LANES <= $stride);
            // SAFETY: as the caller promises.
            let mut $sums: [[__m256; W]; H] = unsafe { start(tile, column) };
            let ($left, $right) = (tile.left.as_ptr(), tile.right.as_ptr().wrapping_add(column));
            for word in 0..words {
                // SAFETY: `words` words of B are `stride` long each, and as many groups of A are H · per_word long.
                unsafe {
                    let ($left, $right) =
                        ($left.add(word * H * $per_word), $right.add(word * $stride).cast::<__m256i>());
                    $body
                }
            }
            // SAFETY: as the caller promises.
            unsafe { finish(tile, column, out, $sums) };
        }
    };
}

/// Adds the products of `H` numbers of A, each broadcast once, and of `W` registers of B to the sums.
macro_rules! multiply {
    ($sums:ident, $left:expr, |$j:ident| $b:expr) => {
        for i in 0..H {
            let a = _mm256_set1_ps(f32::from_bits(*$left.add(i)));
            for $j in 0..W {
                $sums[i][$j] = _mm256_fmadd_ps(a, _mm256_castsi256_ps($b), $sums[i][$j]);
            }
        }
    };
}

tiles!(singles, singles_of_panel, singles_of, NR, 1, |sums, left, right| {
    multiply!(sums, left, |j| _mm256_loadu_si256(right.add(j)));
});

tiles!(widened, widened_of_panel, widened_of, NR, 2, |sums, left, right| {
    multiply!(sums, left, |j| {
        let pairs = _mm256_loadu_si256(right.add(j));
        _mm256_slli_epi32::<16>(_mm256_srli_epi32::<16>(pairs))
    });
    multiply!(sums, left.add(H), |j| _mm256_slli_epi32::<16>(_mm256_loadu_si256(right.add(j))));
});

tiles!(strip, whole_strip, strip_of, STRIP, 1, |sums, left, right| {
    multiply!(sums, left, |j| _mm256_loadu_si256(right.add(j)));
});

/// Cuts words of a panel (`[word][NR]`) into strips of f32, `[strip][k][STRIP]`.
///
/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn strips(out: &mut [u32], panel: &[u32], number: Number) {
    let strip_words = out.len() / (NR / STRIP);
    for (i, strip) in out.chunks_exact_mut(strip_words).enumerate() {
        let words = panel.as_chunks::<NR>().0.iter().map(|group| &group[i * STRIP..][..STRIP]);
        match number {
            Number::F32 => strip.chunks_exact_mut(STRIP).zip(words).for_each(|(out, words)| out.copy_from_slice(words)),
            Number::Bf16 => {
                for (out, words) in strip.chunks_exact_mut(2 * STRIP).zip(words) {
                    let (earlier, later) = out.split_at_mut(STRIP);
                    for ((earlier, later), word) in earlier.iter_mut().zip(later).zip(words) {
                        [*earlier, *later] = unpair(*word).map(f32::to_bits);
                    }
                }
            }
        }
    }
}

/// All bits set in the lanes of the register at `column` that are inside the width.
#[inline]
#[target_feature(enable = "avx2")]
fn mask(tile: &Tile<'_>, column: usize) -> __m256i {
    let left = tile.width.saturating_sub(column).min(LANES) as i32;
    _mm256_cmpgt_epi32(_mm256_set1_epi32(left), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn start<const H: usize, const W: usize>(tile: &Tile<'_>, column: usize) -> [[__m256; W]; H] {
    let mut sums = [[_mm256_setzero_ps(); W]; H];
    if let Some((start, ld)) = tile.start {
        for (i, sums) in sums.iter_mut().enumerate() {
            for (j, sum) in sums.iter_mut().enumerate() {
                let at = column + j * LANES;
                // SAFETY: as the caller promises; lanes outside the width are not touched.
                *sum = unsafe { _mm256_maskload_ps(start.wrapping_add(i * ld + at), mask(tile, at)) };
            }
        }
    }
    sums
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn finish<const H: usize, const W: usize>(
    tile: &Tile<'_>,
    column: usize,
    out: (*mut f32, usize),
    sums: [[__m256; W]; H],
) {
    for (i, sums) in sums.into_iter().enumerate() {
        for (j, mut sum) in sums.into_iter().enumerate() {
            let at = column + j * LANES;
            let mask = mask(tile, at);
            if let Some((residual, ld)) = tile.residual {
                // SAFETY: as the caller promises; lanes outside the width are not touched.
                let residual = unsafe { _mm256_maskload_ps(residual.wrapping_add(i * ld + at), mask) };
                sum = _mm256_add_ps(residual, sum);
            }
            let to = out.0.wrapping_add(i * out.1 + at);
            // SAFETY: as above. A masked store is some eighteen operations on AMD.
            unsafe {
                if at + LANES <= tile.width { _mm256_storeu_ps(to, sum) } else { _mm256_maskstore_ps(to, mask, sum) }
            };
        }
    }
}
