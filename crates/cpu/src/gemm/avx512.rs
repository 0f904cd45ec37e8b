//! Tiles of 6 × 64 sums in 24 registers of AVX-512; smaller ones at the edges of C, cut by masks.
#![allow(clippy::needless_range_loop, reason = "the indices are registers")]

use super::{NR, Tile};
use std::arch::x86_64::*;

/// Floats of a register.
const LANES: usize = 16;
/// Words of B ahead of the present one that are fetched: 4 KiB. On Zen 4 six rows gain 3 % by it (94 % of the peak of
/// `vdpbf16ps` instead of 91 %), on Zen 5 one row, whose weights come from memory, 3–9 %.
const AHEAD: usize = 1024;

/// Makes `name(tile, out)`, which calls `inner::<height, registers of width>` made from the body of the loop.
macro_rules! tiles {
    ($name:ident, $inner:ident, $features:literal, $per_word:literal, |$sums:ident, $left:ident, $b:ident| $body:block) => {
        /// # Safety
        /// [`Tile`]'s pointers and `out` reach `height` rows of `width` floats, which no other thread writes, and the
        /// processor has the instructions.
        pub(super) unsafe fn $name(tile: &Tile<'_>, out: (*mut f32, usize)) {
            macro_rules! width {
                ($height:literal) => {
                    // SAFETY: as the caller promises; the width is at most that of the registers.
                    unsafe {
                        match tile.width.div_ceil(LANES) {
                            1 => $inner::<$height, 1>(tile, out),
                            2 => $inner::<$height, 2>(tile, out),
                            3 => $inner::<$height, 3>(tile, out),
                            _ => $inner::<$height, 4>(tile, out),
                        }
                    }
                };
            }
            match tile.height {
                1 => width!(1),
                2 => width!(2),
                3 => width!(3),
                4 => width!(4),
                5 => width!(5),
                _ => width!(6),
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn $inner<const H: usize, const W: usize>(tile: &Tile<'_>, out: (*mut f32, usize)) {
            let words = tile.right.len() / NR;
            assert!(tile.left.len() == words * H * $per_word && tile.height == H && tile.width <= W * LANES);
            // SAFETY: as the caller promises.
            let mut $sums: [[__m512; W]; H] = unsafe { start(tile) };
            let (mut $left, mut right) = (tile.left.as_ptr(), tile.right.as_ptr());
            for _ in 0..words {
                for j in 0..W {
                    _mm_prefetch::<_MM_HINT_T0>(right.wrapping_add(AHEAD + j * LANES).cast());
                }
                // SAFETY: `words` words of B are NR long each, and as many groups of A are H · per_word long.
                unsafe {
                    for j in 0..W {
                        let $b = (_mm512_loadu_si512(right.add(j * LANES).cast()), j);
                        $body
                    }
                    $left = $left.add(H * $per_word);
                    right = right.add(NR);
                }
            }
            // SAFETY: as the caller promises.
            unsafe { finish(tile, out, $sums) };
        }
    };
}

tiles!(dots, dots_of, "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16", 1, |sums, left, b| {
    for i in 0..H {
        let a = _mm512_set1_epi32(*left.add(i) as i32);
        sums[i][b.1] = dot(sums[i][b.1], a, b.0);
    }
});

tiles!(singles, singles_of, "avx512f,avx512bw,avx512vl,avx512dq", 1, |sums, left, b| {
    let b_singles = _mm512_castsi512_ps(b.0);
    for i in 0..H {
        let a = _mm512_set1_ps(f32::from_bits(*left.add(i)));
        sums[i][b.1] = _mm512_fmadd_ps(a, b_singles, sums[i][b.1]);
    }
});

tiles!(widened, widened_of, "avx512f,avx512bw,avx512vl,avx512dq", 2, |sums, left, b| {
    let earlier = _mm512_castsi512_ps(_mm512_and_si512(b.0, _mm512_set1_epi32(0xffff_0000_u32 as i32)));
    let later = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(b.0));
    for i in 0..H {
        let a = _mm512_set1_ps(f32::from_bits(*left.add(i)));
        sums[i][b.1] = _mm512_fmadd_ps(a, earlier, sums[i][b.1]);
    }
    for i in 0..H {
        let a = _mm512_set1_ps(f32::from_bits(*left.add(H + i)));
        sums[i][b.1] = _mm512_fmadd_ps(a, later, sums[i][b.1]);
    }
});

/// The sums continued by the products of two pairs in each lane, the upper halves first.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(crate) fn dot(sum: __m512, a: __m512i, b: __m512i) -> __m512 {
    // SAFETY: both types are 64 plain bytes.
    let [a, b] = unsafe { [std::mem::transmute::<__m512i, __m512bh>(a), std::mem::transmute::<__m512i, __m512bh>(b)] };
    _mm512_dpbf16_ps(sum, a, b)
}

/// The lanes of register `j` that are inside the width.
fn lanes(tile: &Tile<'_>, j: usize) -> u16 {
    let left = tile.width.saturating_sub(j * LANES);
    if left >= LANES { u16::MAX } else { (1 << left) - 1 }
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512bw")]
unsafe fn start<const H: usize, const W: usize>(tile: &Tile<'_>) -> [[__m512; W]; H] {
    let mut sums = [[_mm512_setzero_ps(); W]; H];
    if let Some((start, ld)) = tile.start {
        for (i, sums) in sums.iter_mut().enumerate() {
            for (j, sum) in sums.iter_mut().enumerate() {
                // SAFETY: as the caller promises; lanes outside the width are not touched.
                *sum = unsafe { _mm512_maskz_loadu_ps(lanes(tile, j), start.wrapping_add(i * ld + j * LANES)) };
            }
        }
    }
    sums
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512bw")]
unsafe fn finish<const H: usize, const W: usize>(tile: &Tile<'_>, out: (*mut f32, usize), sums: [[__m512; W]; H]) {
    for (i, sums) in sums.into_iter().enumerate() {
        for (j, mut sum) in sums.into_iter().enumerate() {
            let mask = lanes(tile, j);
            if let Some((residual, ld)) = tile.residual {
                // SAFETY: as the caller promises; lanes outside the width are not touched.
                let residual = unsafe { _mm512_maskz_loadu_ps(mask, residual.wrapping_add(i * ld + j * LANES)) };
                sum = _mm512_add_ps(residual, sum);
            }
            // SAFETY: as above.
            unsafe { _mm512_mask_storeu_ps(out.0.wrapping_add(i * out.1 + j * LANES), mask, sum) };
        }
    }
}
