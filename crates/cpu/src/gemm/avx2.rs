//! Tiles of 6 × 16 sums in 12 registers of AVX2, four of them side by side over a panel.
#![allow(clippy::needless_range_loop, reason = "the indices are registers")]

use super::{MR, NR, Tile};
use std::arch::x86_64::*;

/// Floats of a register.
const LANES: usize = 8;
/// Registers of a tile's width.
const WIDTH: usize = 2;

/// Makes `name(tile, out)`, which calls `inner::<height>` on each piece of the panel that is `WIDTH` registers wide.
macro_rules! tiles {
    ($name:ident, $inner:ident, $per_word:literal, |$sums:ident, $left:ident, $b:ident| $body:block) => {
        /// # Safety
        /// [`Tile`]'s pointers and `out` reach `height` rows of `width` floats, which no other thread writes, and the
        /// processor has the instructions.
        pub(super) unsafe fn $name(tile: &Tile<'_>, out: (*mut f32, usize)) {
            for column in (0..tile.width).step_by(WIDTH * LANES) {
                // SAFETY: as the caller promises.
                unsafe {
                    match tile.height {
                        1 => $inner::<1>(tile, column, out),
                        2 => $inner::<2>(tile, column, out),
                        3 => $inner::<3>(tile, column, out),
                        4 => $inner::<4>(tile, column, out),
                        5 => $inner::<5>(tile, column, out),
                        _ => $inner::<MR>(tile, column, out),
                    }
                }
            }
        }

        #[target_feature(enable = "avx2,fma")]
        unsafe fn $inner<const H: usize>(tile: &Tile<'_>, column: usize, out: (*mut f32, usize)) {
            let words = tile.right.len() / NR;
            assert!(tile.left.len() == words * H * $per_word && tile.height == H && column + WIDTH * LANES <= NR);
            // SAFETY: as the caller promises.
            let mut $sums: [[__m256; WIDTH]; H] = unsafe { start(tile, column) };
            let ($left, right) = (tile.left.as_ptr(), tile.right.as_ptr().wrapping_add(column));
            for word in 0..words {
                // SAFETY: `words` words of B are NR long each, and as many groups of A are H · per_word long.
                unsafe {
                    let $left = $left.add(word * H * $per_word);
                    for j in 0..WIDTH {
                        let $b = (_mm256_loadu_si256(right.add(word * NR + j * LANES).cast()), j);
                        $body
                    }
                }
            }
            // SAFETY: as the caller promises.
            unsafe { finish(tile, column, out, $sums) };
        }
    };
}

tiles!(singles, singles_of, 1, |sums, left, b| {
    let b_singles = _mm256_castsi256_ps(b.0);
    for i in 0..H {
        let a = _mm256_set1_ps(f32::from_bits(*left.add(i)));
        sums[i][b.1] = _mm256_fmadd_ps(a, b_singles, sums[i][b.1]);
    }
});

tiles!(widened, widened_of, 2, |sums, left, b| {
    let earlier = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_srli_epi32::<16>(b.0)));
    let later = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(b.0));
    for i in 0..H {
        let a = _mm256_set1_ps(f32::from_bits(*left.add(i)));
        sums[i][b.1] = _mm256_fmadd_ps(a, earlier, sums[i][b.1]);
    }
    for i in 0..H {
        let a = _mm256_set1_ps(f32::from_bits(*left.add(H + i)));
        sums[i][b.1] = _mm256_fmadd_ps(a, later, sums[i][b.1]);
    }
});

/// All bits set in the lanes of the register at `column` that are inside the width.
#[inline]
#[target_feature(enable = "avx2")]
fn mask(tile: &Tile<'_>, column: usize) -> __m256i {
    let left = tile.width.saturating_sub(column).min(LANES) as i32;
    _mm256_cmpgt_epi32(_mm256_set1_epi32(left), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn start<const H: usize>(tile: &Tile<'_>, column: usize) -> [[__m256; WIDTH]; H] {
    let mut sums = [[_mm256_setzero_ps(); WIDTH]; H];
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
unsafe fn finish<const H: usize>(tile: &Tile<'_>, column: usize, out: (*mut f32, usize), sums: [[__m256; WIDTH]; H]) {
    for (i, sums) in sums.into_iter().enumerate() {
        for (j, mut sum) in sums.into_iter().enumerate() {
            let at = column + j * LANES;
            let mask = mask(tile, at);
            if let Some((residual, ld)) = tile.residual {
                // SAFETY: as the caller promises; lanes outside the width are not touched.
                let residual = unsafe { _mm256_maskload_ps(residual.wrapping_add(i * ld + at), mask) };
                sum = _mm256_add_ps(residual, sum);
            }
            // SAFETY: as above.
            unsafe { _mm256_maskstore_ps(out.0.wrapping_add(i * out.1 + at), mask, sum) };
        }
    }
}
