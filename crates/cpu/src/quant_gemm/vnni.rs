//! Tiles by `vpdpbusd`: sixteen outputs in a register, up to [`MR`] rows.
#![allow(clippy::needless_range_loop, reason = "the indices are registers")]

use super::Tile;
use super::activations::{MR, Rounded};
use super::form::{Form, LANES, LINE, Scales};
use std::arch::x86_64::*;

/// Bytes of weights ahead of the present block that are fetched.
const AHEAD: usize = 4096;

/// # Safety
/// As [`Tile::compute`]; the processor has AVX-512 F, BW, DQ, VL and VNNI.
pub(super) unsafe fn tile(tile: &Tile<'_>, out: (*mut f32, usize)) {
    macro_rules! of_form {
        ($bits:literal, $scales:ident) => {{
            const SCALES: u8 = Scales::$scales as u8;
            // SAFETY: as the caller promises.
            unsafe {
                match tile.height {
                    1 => tile_of::<$bits, SCALES, 1>(tile, out),
                    2 => tile_of::<$bits, SCALES, 2>(tile, out),
                    3 => tile_of::<$bits, SCALES, 3>(tile, out),
                    4 => tile_of::<$bits, SCALES, 4>(tile, out),
                    5 => tile_of::<$bits, SCALES, 5>(tile, out),
                    6 => tile_of::<$bits, SCALES, 6>(tile, out),
                    7 => tile_of::<$bits, SCALES, 7>(tile, out),
                    _ => tile_of::<$bits, SCALES, MR>(tile, out),
                }
            }
        }};
    }
    match (tile.form.bits, tile.form.scales) {
        (8, Scales::Offset) => of_form!(8, Offset),
        (4, Scales::Offset) => of_form!(4, Offset),
        (5, Scales::Offset) => of_form!(5, Offset),
        (4, Scales::Minimum) => of_form!(4, Minimum),
        (5, Scales::Minimum) => of_form!(5, Minimum),
        (4, Scales::Super) => of_form!(4, Super),
        (5, Scales::Super) => of_form!(5, Super),
        (6, Scales::Halves) => of_form!(6, Halves),
        (bits, scales) => unreachable!("no encoding has {bits} bits and {scales:?}"),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn tile_of<const BITS: usize, const SCALES: u8, const H: usize>(tile: &Tile<'_>, out: (*mut f32, usize)) {
    let form = const { Form { bits: BITS, scales: Scales::ALL[SCALES as usize] } };
    assert!(tile.form == form && tile.height == H);
    let mut sums = [_mm512_setzero_ps(); H];
    let mut left = tile.left.as_ptr();
    for block in 0..tile.blocks {
        let (unit, i) = form.unit(block);
        // SAFETY: the panel has `blocks` blocks in whole units, `left` as many times H of its own.
        unsafe {
            let unit = tile.panel.as_ptr().add(unit);
            let lines = unit.add(form.scale_bytes() + i * form.code_bytes());
            for line in 0..BITS {
                _mm_prefetch::<_MM_HINT_T0>(lines.wrapping_add(AHEAD + line * LINE).cast());
            }
            let codes = unpack::<BITS>(lines);
            let (scale, minimum) = scales_of(form.scales, unit, i);
            for row in 0..H {
                add(&mut sums[row], form, &codes, scale, minimum, &*left.add(row));
            }
            left = left.add(H);
        }
    }
    // SAFETY: as the caller promises.
    unsafe { finish(tile, out, sums) };
}

/// One row's products with a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add(sum: &mut __m512, form: Form, codes: &[__m512i; 8], scale: [__m512; 2], minimum: Option<__m512>, x: &Rounded) {
    let q: &[i32; 8] = bytemuck::cast_ref(&x.q);
    let dots = |start: i32, words: std::ops::Range<usize>| {
        let mut dots = _mm512_set1_epi32(start);
        for word in words {
            dots = _mm512_dpbusd_epi32(dots, codes[word], _mm512_set1_epi32(q[word]));
        }
        _mm512_cvtepi32_ps(dots)
    };
    let d = _mm512_set1_ps(x.scale);
    match form.scales {
        Scales::Halves => {
            for half in 0..2 {
                let dots = dots(x.half_start[half], 4 * half..4 * half + 4);
                *sum = _mm512_fmadd_ps(dots, _mm512_mul_ps(scale[half], d), *sum);
            }
        }
        scales => {
            let start = if matches!(scales, Scales::Offset) { x.start[Rounded::index_of_start(form.bits)] } else { 0 };
            *sum = _mm512_fmadd_ps(dots(start, 0..8), _mm512_mul_ps(scale[0], d), *sum);
        }
    }
    if let Some(minimum) = minimum {
        *sum = _mm512_fmadd_ps(minimum, _mm512_set1_ps(x.sum), *sum);
    }
}

/// The codes of a block, a register a word.
///
/// # Safety
/// `lines` are `BITS` lines.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn unpack<const BITS: usize>(lines: *const u8) -> [__m512i; 8] {
    // SAFETY: as the caller promises.
    let line = |line: usize| unsafe { _mm512_loadu_si512(lines.add(line * LINE).cast()) };
    let mut codes = [_mm512_setzero_si512(); 8];
    if BITS == 8 {
        for word in 0..8 {
            codes[word] = line(word);
        }
        return codes;
    }
    let low = _mm512_set1_epi8(15);
    for word in 0..4 {
        let both = line(word);
        codes[word] = _mm512_and_si512(both, low);
        codes[word + 4] = _mm512_and_si512(_mm512_srli_epi16::<4>(both), low);
    }
    if BITS == 5 {
        // Bit `w` to bit 4.
        let bits = line(4);
        let moved = [
            _mm512_slli_epi16::<4>(bits),
            _mm512_slli_epi16::<3>(bits),
            _mm512_slli_epi16::<2>(bits),
            _mm512_slli_epi16::<1>(bits),
            bits,
            _mm512_srli_epi16::<1>(bits),
            _mm512_srli_epi16::<2>(bits),
            _mm512_srli_epi16::<3>(bits),
        ];
        for word in 0..8 {
            codes[word] = merged(codes[word], moved[word], _mm512_set1_epi8(16));
        }
    }
    if BITS == 6 {
        for half in 0..2 {
            // Bits `2w` and `2w + 1` to bits 4 and 5.
            let bits = line(4 + half);
            let moved =
                [_mm512_slli_epi16::<4>(bits), _mm512_slli_epi16::<2>(bits), bits, _mm512_srli_epi16::<2>(bits)];
            for word in 0..4 {
                codes[4 * half + word] = merged(codes[4 * half + word], moved[word], _mm512_set1_epi8(48));
            }
        }
    }
    codes
}

/// `code | moved & mask`.
#[inline]
#[target_feature(enable = "avx512f")]
fn merged(code: __m512i, moved: __m512i, mask: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<0b1111_1000>(code, moved, mask)
}

/// Scales of the first and last sixteen values of block `i` of a unit, and its minima.
///
/// # Safety
/// The scales of a unit are behind `unit`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,f16c")]
unsafe fn scales_of(scales: Scales, unit: *const u8, i: usize) -> ([__m512; 2], Option<__m512>) {
    // SAFETY: as the caller promises; all places are within the unit's scales.
    unsafe {
        let halves = |at: usize| _mm512_cvtph_ps(_mm256_loadu_si256(unit.add(at).cast()));
        let small = |at: usize| _mm_loadu_si128(unit.add(LINE + 32 * i + at).cast());
        let unsigned = |at: usize| _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(small(at)));
        let signed = |at: usize| _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(small(at)));
        match scales {
            Scales::Offset => ([halves(32 * i); 2], None),
            Scales::Minimum => ([halves(0); 2], Some(halves(32))),
            Scales::Super => {
                let minimum = _mm512_mul_ps(halves(32), unsigned(LANES));
                let minus = _mm512_xor_ps(minimum, _mm512_set1_ps(-0.0));
                ([_mm512_mul_ps(halves(0), unsigned(0)); 2], Some(minus))
            }
            Scales::Halves => ([0, LANES].map(|at| _mm512_mul_ps(halves(0), signed(at))), None),
        }
    }
}

/// # Safety
/// As [`Tile::compute`].
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn finish<const H: usize>(tile: &Tile<'_>, out: (*mut f32, usize), sums: [__m512; H]) {
    let lanes = u16::MAX >> (LANES - tile.width);
    for (i, mut sum) in sums.into_iter().enumerate() {
        // SAFETY: as the caller promises; lanes outside the width are not touched.
        unsafe {
            if let Some((residual, ld)) = tile.residual {
                sum = _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, residual.wrapping_add(i * ld)), sum);
            }
            _mm512_mask_storeu_ps(out.0.wrapping_add(i * out.1), lanes, sum);
        }
    }
}
