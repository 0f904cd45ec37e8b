//! Tiles by `vpmaddubsw`: eight outputs of a panel at a time, rows one after the other.
//!
//! `vpmaddubsw` adds two products of an unsigned and a signed byte in 16 bits and saturates. Codes of up to six bits
//! leave room for two of its results: 4 · 63 · 127 = 32 004. Codes of eight bits and steps would not fit even once, so they
//! become signed again, and the instruction gets |w| and x with w's sign: 2 · 128 · 127 = 32 512.
#![allow(clippy::needless_range_loop, reason = "the indices are registers")]

use super::Tile;
use super::activations::{MR, Rounded};
use super::form::{Form, LANES, LINE, Scales};
use formats::quant::IQ4_STEPS;
use std::arch::x86_64::*;

/// Outputs of a register.
const WIDTH: usize = 8;

/// # Safety
/// As [`Tile::compute`]; the processor has AVX2, FMA and F16C.
pub(super) unsafe fn tile(tile: &Tile<'_>, out: (*mut f32, usize)) {
    for column in (0..tile.width).step_by(WIDTH) {
        // SAFETY: as the caller promises.
        unsafe {
            match (tile.form.bits, tile.form.scales) {
                (8, Scales::Offset) => tile_of::<8, { Scales::Offset as u8 }>(tile, column, out),
                (4, Scales::Offset) => tile_of::<4, { Scales::Offset as u8 }>(tile, column, out),
                (5, Scales::Offset) => tile_of::<5, { Scales::Offset as u8 }>(tile, column, out),
                (4, Scales::Minimum) => tile_of::<4, { Scales::Minimum as u8 }>(tile, column, out),
                (5, Scales::Minimum) => tile_of::<5, { Scales::Minimum as u8 }>(tile, column, out),
                (4, Scales::Super) => tile_of::<4, { Scales::Super as u8 }>(tile, column, out),
                (5, Scales::Super) => tile_of::<5, { Scales::Super as u8 }>(tile, column, out),
                (6, Scales::Halves) => tile_of::<6, { Scales::Halves as u8 }>(tile, column, out),
                (2, Scales::HalvesMinimum) => tile_of::<2, { Scales::HalvesMinimum as u8 }>(tile, column, out),
                (3, Scales::Halves) => tile_of::<3, { Scales::Halves as u8 }>(tile, column, out),
                (4, Scales::Steps) => tile_of::<4, { Scales::Steps as u8 }>(tile, column, out),
                (4, Scales::SuperSteps) => tile_of::<4, { Scales::SuperSteps as u8 }>(tile, column, out),
                (bits, scales) => unreachable!("no encoding has {bits} bits and {scales:?}"),
            }
        }
    }
}

/// The outputs from `column` on.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile_of<const BITS: usize, const SCALES: u8>(tile: &Tile<'_>, column: usize, out: (*mut f32, usize)) {
    let form = const { Form { bits: BITS, scales: Scales::ALL[SCALES as usize] } };
    assert!(tile.form == form && column < tile.width);
    let mut sums = [_mm256_setzero_ps(); MR];
    for (block, left) in tile.left.chunks_exact(tile.height).enumerate() {
        let (unit, i) = form.unit(block);
        // SAFETY: the panel has `blocks` blocks in whole units.
        let (codes, scale, minimum) = unsafe {
            let unit = tile.panel.as_ptr().add(unit);
            let lines = unit.add(form.scale_bytes() + i * form.code_bytes() + 4 * column);
            let (scale, minimum) = scales_of(form.scales, unit, i, column);
            (unpack::<BITS, SCALES>(lines), scale, minimum)
        };
        for (sum, x) in sums.iter_mut().zip(left) {
            add(sum, form, &codes, scale, minimum, x);
        }
    }
    // SAFETY: as the caller promises.
    unsafe { finish(tile, column, out, &sums) };
}

/// One row's products with a block.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn add(
    sum: &mut __m256,
    form: Form,
    codes: &[__m256i; 8],
    scale: [__m256; 2],
    minimum: Option<[__m256; 2]>,
    x: &Rounded,
) {
    let q: &[i32; 8] = bytemuck::cast_ref(&x.q);
    let (ones, signed) = (_mm256_set1_epi16(1), form.offset() == 128);
    let dots = |start: i32, words: std::ops::Range<usize>| {
        let mut dots = _mm256_set1_epi32(start);
        for word in words.step_by(2) {
            let (a, b) = (_mm256_set1_epi32(q[word]), _mm256_set1_epi32(q[word + 1]));
            if signed {
                for (code, x) in [(codes[word], a), (codes[word + 1], b)] {
                    let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(code), _mm256_sign_epi8(x, code));
                    dots = _mm256_add_epi32(dots, _mm256_madd_epi16(pairs, ones));
                }
            } else {
                let pairs = [_mm256_maddubs_epi16(codes[word], a), _mm256_maddubs_epi16(codes[word + 1], b)];
                dots = _mm256_add_epi32(dots, _mm256_madd_epi16(_mm256_add_epi16(pairs[0], pairs[1]), ones));
            }
        }
        _mm256_cvtepi32_ps(dots)
    };
    let d = _mm256_set1_ps(x.scale);
    if form.scales.in_halves() {
        for half in 0..2 {
            let dots = dots(x.half_start(half, form.offset()), 4 * half..4 * half + 4);
            *sum = _mm256_fmadd_ps(dots, _mm256_mul_ps(scale[half], d), *sum);
        }
    } else {
        let start = if signed || form.offset() == 0 { 0 } else { x.start[Rounded::index_of_start(form.offset())] };
        *sum = _mm256_fmadd_ps(dots(start, 0..8), _mm256_mul_ps(scale[0], d), *sum);
    }
    match minimum {
        Some(minimum) if form.scales.in_halves() => {
            *sum = _mm256_fmadd_ps(minimum[0], _mm256_set1_ps(x.half_sum(0)), *sum);
            *sum = _mm256_fmadd_ps(minimum[1], _mm256_set1_ps(x.half_sum(1)), *sum);
        }
        Some(minimum) => *sum = _mm256_fmadd_ps(minimum[0], _mm256_set1_ps(x.sum), *sum),
        None => {}
    }
}

/// The codes of a block, a register a word; those of eight bits signed, and steps in place of their numbers.
///
/// # Safety
/// Half of each of `BITS` lines is behind `lines`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn unpack<const BITS: usize, const SCALES: u8>(lines: *const u8) -> [__m256i; 8] {
    // SAFETY: as the caller promises.
    let line = |line: usize| unsafe { _mm256_loadu_si256(lines.add(line * LINE).cast()) };
    let mut codes = [_mm256_setzero_si256(); 8];
    if BITS == 8 {
        for word in 0..8 {
            codes[word] = _mm256_xor_si256(line(word), _mm256_set1_epi8(i8::MIN));
        }
        return codes;
    }
    let moved = |bits: __m256i, from: usize, to: usize| {
        // A shift of 16-bit lanes, whose strays a mask removes.
        if from < to {
            _mm256_sll_epi16(bits, _mm_cvtsi32_si128((to - from) as i32))
        } else {
            _mm256_srl_epi16(bits, _mm_cvtsi32_si128((from - to) as i32))
        }
    };
    if BITS < 4 {
        for word in 0..8 {
            codes[word] = _mm256_and_si256(moved(line(word / 4), word % 4 * 2, 0), _mm256_set1_epi8(3));
            if BITS == 3 {
                let third = _mm256_and_si256(moved(line(2), word, 2), _mm256_set1_epi8(4));
                codes[word] = _mm256_or_si256(codes[word], third);
            }
        }
        return codes;
    }
    let low = _mm256_set1_epi8(15);
    for word in 0..4 {
        let both = line(word);
        codes[word] = _mm256_and_si256(both, low);
        codes[word + 4] = _mm256_and_si256(_mm256_srli_epi16::<4>(both), low);
    }
    if Scales::ALL[SCALES as usize].in_steps() {
        // SAFETY: there are sixteen steps.
        let steps = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(IQ4_STEPS.as_ptr().cast()) });
        return codes.map(|code| _mm256_shuffle_epi8(steps, code));
    }
    let (upper, words, mask) = if BITS == 6 { (2, 4, 48) } else { (1, 8, 16) };
    if BITS > 4 {
        for word in 0..8 {
            let bits = moved(line(4 + word / words), upper * (word % words), 4);
            codes[word] = _mm256_or_si256(codes[word], _mm256_and_si256(bits, _mm256_set1_epi8(mask)));
        }
    }
    codes
}

/// Scales of the first and last sixteen values of block `i` of a unit, and its minima, of the outputs from `column` on.
///
/// # Safety
/// The scales of a unit are behind `unit`.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn scales_of(scales: Scales, unit: *const u8, i: usize, column: usize) -> ([__m256; 2], Option<[__m256; 2]>) {
    // SAFETY: as the caller promises; all places are within the unit's scales.
    unsafe {
        let halves = |at: usize| _mm256_cvtph_ps(_mm_loadu_si128(unit.add(at + 2 * column).cast()));
        let small = |at: usize| _mm_loadl_epi64(unit.add(LINE + 32 * i + at + column).cast());
        let unsigned = |at: usize| _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(small(at)));
        let signed = |at: usize| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(small(at)));
        match scales {
            Scales::Offset | Scales::Steps => ([halves(32 * i); 2], None),
            Scales::Minimum => ([halves(0); 2], Some([halves(32); 2])),
            Scales::Super => {
                let minimum = _mm256_mul_ps(halves(32), unsigned(LANES));
                let minus = _mm256_xor_ps(minimum, _mm256_set1_ps(-0.0));
                ([_mm256_mul_ps(halves(0), unsigned(0)); 2], Some([minus; 2]))
            }
            Scales::Halves => ([0, LANES].map(|at| _mm256_mul_ps(halves(0), signed(at))), None),
            Scales::HalvesMinimum => {
                let of =
                    |bytes: __m128i| _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_and_si128(bytes, _mm_set1_epi8(15))));
                let scale = [0, LANES].map(|at| _mm256_mul_ps(halves(0), of(small(at))));
                let minimum = [0, LANES].map(|at| _mm256_mul_ps(halves(32), of(_mm_srli_epi16::<4>(small(at)))));
                (scale, Some(minimum.map(|minimum| _mm256_xor_ps(minimum, _mm256_set1_ps(-0.0)))))
            }
            Scales::SuperSteps => ([_mm256_mul_ps(halves(0), signed(0)); 2], None),
        }
    }
}

/// # Safety
/// As [`Tile::compute`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn finish(tile: &Tile<'_>, column: usize, out: (*mut f32, usize), sums: &[__m256; MR]) {
    let width = _mm256_set1_epi32(tile.width.saturating_sub(column).min(WIDTH) as i32);
    let mask = _mm256_cmpgt_epi32(width, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    for (i, &sum) in sums[..tile.height].iter().enumerate() {
        // SAFETY: as the caller promises; lanes outside the width are not touched.
        unsafe {
            let sum = match tile.residual {
                Some((residual, ld)) => {
                    _mm256_add_ps(_mm256_maskload_ps(residual.wrapping_add(i * ld + column), mask), sum)
                }
                None => sum,
            };
            _mm256_maskstore_ps(out.0.wrapping_add(i * out.1 + column), mask, sum);
        }
    }
}
