//! Tiles of up to six rows of a panel by `vpmaddubsw`: eight outputs at a time, or sixteen where rows are few.
//!
//! `vpmaddubsw` adds two products of an unsigned and a signed byte in 16 bits and saturates. An activation is at most 127, so
//! that of codes of four bits the results of all eight words of a block fit in 16 bits (8 · 2 · 15 · 127 = 30 480), of five
//! bits those of four words (31 496), of six those of two (32 004); they are widened only then. Codes of eight bits and steps
//! would not fit even once: they become signed again, and the instruction gets |w| and x with w's sign: 2 · 128 · 127 =
//! 32 512.
//!
//! One or two rows take both halves of a panel at once, which is one stream of memory. More rows take one half after the
//! other, for their sums would not find registers; the second half is in the cache by then.
#![allow(clippy::needless_range_loop, reason = "the indices are registers")]

use super::Tile;
use super::activations::{MR, Rounded};
use super::form::{Form, LANES, LINE, Scales};
use formats::quant::IQ4_STEPS;
use std::arch::x86_64::*;

/// Outputs of a register.
const WIDTH: usize = 8;
/// Bytes ahead that the lines of a panel are fetched where it comes from memory.
const AHEAD: usize = 4096;

/// # Safety
/// As [`Tile::compute`]; the processor has AVX2, FMA and F16C.
pub(super) unsafe fn tile(tile: &Tile<'_>, out: (*mut f32, usize)) {
    macro_rules! of_form {
        ($bits:literal, $scales:ident) => {{
            const SCALES: u8 = Scales::$scales as u8;
            // SAFETY: as the caller promises.
            unsafe {
                match tile.height {
                    1 => tile_of::<$bits, SCALES, 1, 2>(tile, 0, out),
                    2 if $bits < 8 => tile_of::<$bits, SCALES, 2, 2>(tile, 0, out),
                    2 => halves::<$bits, SCALES, 2>(tile, out),
                    3 => halves::<$bits, SCALES, 3>(tile, out),
                    4 => halves::<$bits, SCALES, 4>(tile, out),
                    5 => halves::<$bits, SCALES, 5>(tile, out),
                    _ => halves::<$bits, SCALES, MR>(tile, out),
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
        (2, Scales::HalvesMinimum) => of_form!(2, HalvesMinimum),
        (3, Scales::Halves) => of_form!(3, Halves),
        (4, Scales::Steps) => of_form!(4, Steps),
        (4, Scales::SuperSteps) => of_form!(4, SuperSteps),
        (bits, scales) => unreachable!("no encoding has {bits} bits and {scales:?}"),
    }
}

/// Both halves of a panel, one after the other.
///
/// # Safety
/// As [`tile`].
unsafe fn halves<const BITS: usize, const SCALES: u8, const H: usize>(tile: &Tile<'_>, out: (*mut f32, usize)) {
    for column in (0..tile.width).step_by(WIDTH) {
        // SAFETY: as the caller promises.
        unsafe { tile_of::<BITS, SCALES, H, 1>(tile, column, out) };
    }
}

/// Words of a block of which the products are added in 16 bits; a signed code is alone.
const fn words_together(form: Form) -> usize {
    match form.bits {
        _ if form.offset() == 128 => 1,
        6 => 2,
        4 => 8,
        // Of five bits no more fit, and of two or three bits no more share a scale.
        _ => 4,
    }
}

// Loops over rows and registers. They are macros for the reason given in `vnni.rs`.

/// Starts a row's integer sums at a number of its activations: the offset of the codes, times their sum.
macro_rules! start {
    ($dots:ident, $left:ident, $start:expr) => {
        for row in 0..H {
            $dots[row] = [_mm256_set1_epi32($start(&*$left.add(row))); C];
        }
    };
}

/// Adds the products of some words of a block, as many at a time as fit in 16 bits. The words are written out: a loop over
/// them was not unrolled for five and six rows of eight bits.
macro_rules! multiply {
    ($dots:ident, $left:ident, $lines:ident, $form:ident, $($word:literal)*) => {
        let mut pairs = [[_mm256_setzero_si256(); C]; H];
        $(
            for column in 0..C {
                let code = code::<BITS, SCALES>($lines.add(4 * WIDTH * column), $word);
                for row in 0..H {
                    let x = _mm256_set1_epi32((*$left.add(row)).q.as_ptr().cast::<i32>().add($word).read());
                    let products = if $form.offset() == 128 {
                        _mm256_maddubs_epi16(_mm256_abs_epi8(code), _mm256_sign_epi8(x, code))
                    } else {
                        _mm256_maddubs_epi16(code, x)
                    };
                    pairs[row][column] = _mm256_add_epi16(pairs[row][column], products);
                }
            }
            if ($word + 1) % words_together($form) == 0 {
                for row in 0..H {
                    for column in 0..C {
                        let sums = _mm256_madd_epi16(pairs[row][column], _mm256_set1_epi16(1));
                        $dots[row][column] = _mm256_add_epi32($dots[row][column], sums);
                    }
                }
                pairs = [[_mm256_setzero_si256(); C]; H];
            }
        )*
    };
}

/// Adds integer sums, scaled, to the tile's.
macro_rules! add {
    ($sums:ident, $dots:ident, $scales:ident, $half:literal, $left:ident) => {
        for row in 0..H {
            for column in 0..C {
                let scale = _mm256_mul_ps($scales[column].0[$half], _mm256_set1_ps((*$left.add(row)).scale));
                $sums[row][column] = _mm256_fmadd_ps(_mm256_cvtepi32_ps($dots[row][column]), scale, $sums[row][column]);
            }
        }
    };
}

/// The outputs of `C` registers from `column` on.
///
/// # Safety
/// As [`tile`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile_of<const BITS: usize, const SCALES: u8, const H: usize, const C: usize>(
    tile: &Tile<'_>,
    column: usize,
    out: (*mut f32, usize),
) {
    let form = const { Form { bits: BITS, scales: Scales::ALL[SCALES as usize] } };
    assert!(tile.form == form && tile.height == H && tile.left.len() == tile.blocks * H);
    assert!(column + C * WIDTH <= LANES);
    let (panel, mut left) = (tile.panel.as_ptr(), tile.left.as_ptr());
    let mut sums = [[_mm256_setzero_ps(); C]; H];
    for block in 0..tile.blocks {
        let (unit_at, i) = form.unit(block);
        let codes_at = unit_at + form.scale_bytes() + i * form.code_bytes();
        let mut dots = [[_mm256_setzero_si256(); C]; H];
        // SAFETY: a panel has `blocks` blocks in whole units, and `left` H activation blocks for each of them.
        unsafe {
            let (unit, lines) = (panel.add(unit_at), panel.add(codes_at + 4 * column));
            if tile.stream && column == 0 {
                // The first block of a unit brings the scales of all.
                let from = if i == 0 { unit_at } else { codes_at };
                fetch(panel.wrapping_add(from), codes_at + form.code_bytes() - from);
            }
            let mut scales = [scales_of(form.scales, unit, i, column); C];
            for c in 1..C {
                scales[c] = scales_of(form.scales, unit, i, column + c * WIDTH);
            }
            if form.scales.in_halves() {
                start!(dots, left, |x: &Rounded| x.half_start(0, form.offset()));
                multiply!(dots, left, lines, form, 0 1 2 3);
                add!(sums, dots, scales, 0, left);
                start!(dots, left, |x: &Rounded| x.half_start(1, form.offset()));
                multiply!(dots, left, lines, form, 4 5 6 7);
                add!(sums, dots, scales, 1, left);
            } else {
                if form.offset() > 0 && form.offset() < 128 {
                    start!(dots, left, |x: &Rounded| x.start[Rounded::index_of_start(form.offset())]);
                }
                multiply!(dots, left, lines, form, 0 1 2 3 4 5 6 7);
                add!(sums, dots, scales, 0, left);
            }
            for column in 0..C {
                let Some(minimum) = scales[column].1 else { continue };
                for row in 0..H {
                    let (x, sum) = (&*left.add(row), &mut sums[row][column]);
                    if form.scales.in_halves() {
                        *sum = _mm256_fmadd_ps(minimum[0], _mm256_set1_ps(x.half_sum(0)), *sum);
                        *sum = _mm256_fmadd_ps(minimum[1], _mm256_set1_ps(x.half_sum(1)), *sum);
                    } else {
                        *sum = _mm256_fmadd_ps(minimum[0], _mm256_set1_ps(x.sum), *sum);
                    }
                }
            }
            left = left.add(H);
        }
    }
    // SAFETY: as the caller promises.
    unsafe { finish(tile, column, out, &sums) };
}

/// Asks for the lines that follow the `bytes` at `panel` by some way. What is there need not be anyone's.
#[inline]
fn fetch(panel: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(LINE) {
        // SAFETY: a fetch of an address that is nobody's does nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(panel.wrapping_add(line + AHEAD).cast()) };
    }
}

/// The codes of one word of a block; those of eight bits signed, and steps in place of their numbers.
///
/// # Safety
/// Half of each of `BITS` lines is behind `lines`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn code<const BITS: usize, const SCALES: u8>(lines: *const u8, word: usize) -> __m256i {
    // SAFETY: as the caller promises.
    let line = |line: usize| unsafe { _mm256_loadu_si256(lines.add(line * LINE).cast()) };
    if BITS == 8 {
        return _mm256_xor_si256(line(word), _mm256_set1_epi8(i8::MIN));
    }
    if BITS < 4 {
        let code = _mm256_and_si256(moved(line(word / 4), word % 4 * 2, 0), _mm256_set1_epi8(3));
        if BITS == 2 {
            return code;
        }
        return _mm256_or_si256(code, _mm256_and_si256(moved(line(2), word, 2), _mm256_set1_epi8(4)));
    }
    let both = line(word % 4);
    let code = _mm256_and_si256(if word < 4 { both } else { _mm256_srli_epi16::<4>(both) }, _mm256_set1_epi8(15));
    if Scales::ALL[SCALES as usize].in_steps() {
        // SAFETY: there are sixteen steps.
        let steps = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(IQ4_STEPS.as_ptr().cast()) });
        return _mm256_shuffle_epi8(steps, code);
    }
    if BITS == 4 {
        return code;
    }
    let (upper, words, mask) = if BITS == 6 { (2, 4, 48) } else { (1, 8, 16) };
    let bits = moved(line(4 + word / words), upper * (word % words), 4);
    _mm256_or_si256(code, _mm256_and_si256(bits, _mm256_set1_epi8(mask)))
}

/// Bit `from` to bit `to`, by shifts of 16-bit lanes: bits stray into neighbouring bytes, but not to where a mask keeps them.
#[inline]
#[target_feature(enable = "avx2")]
fn moved(bits: __m256i, from: usize, to: usize) -> __m256i {
    if from < to {
        _mm256_sll_epi16(bits, _mm_cvtsi32_si128((to - from) as i32))
    } else {
        _mm256_srl_epi16(bits, _mm_cvtsi32_si128((from - to) as i32))
    }
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

/// Adds the residual and stores `C` registers of each row from `column` on.
///
/// # Safety
/// As [`Tile::compute`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn finish<const H: usize, const C: usize>(
    tile: &Tile<'_>,
    column: usize,
    out: (*mut f32, usize),
    sums: &[[__m256; C]; H],
) {
    for c in 0..C {
        let at = column + c * WIDTH;
        let width = tile.width.saturating_sub(at).min(WIDTH);
        let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(width as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        for (row, sums) in sums.iter().enumerate() {
            // SAFETY: as the caller promises; lanes outside the width are not touched.
            unsafe {
                let sum = match tile.residual {
                    Some((residual, ld)) => {
                        _mm256_add_ps(_mm256_maskload_ps(residual.wrapping_add(row * ld + at), mask), sums[c])
                    }
                    None => sums[c],
                };
                let to = out.0.wrapping_add(row * out.1 + at);
                // A masked store is some eighteen operations on AMD.
                if width == WIDTH { _mm256_storeu_ps(to, sum) } else { _mm256_maskstore_ps(to, mask, sum) }
            }
        }
    }
}
