//! Tiles of up to six rows × two panels by `vpdpbusd`: 6 × 2 integer sums and as many in f32 are 24 registers.
//!
//! The loop goes over the words of a block; each brings two registers of codes and a broadcast of four activations a row,
//! which serves both panels. That matters, for a load of 64 bytes takes as long as a `vpdpbusd`. Measured on Zen 4 (one
//! 512-bit operation of each kind a cycle), cycles for a row, a panel and a block of Q8_0, of which the arithmetic needs
//! 10: 10.2; with one panel and eight rows 12.0, with a block's codes of two panels in registers and four rows 11.0.
#![allow(clippy::needless_range_loop, reason = "the indices are registers")]

use super::activations::{MR, Rounded};
use super::form::{Form, LANES, LINE, Scales};
use super::{STRIP, Tile};
use std::arch::x86_64::*;

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

// Loops over the rows of a tile and the panels of a strip. They are macros, not closures: those were not all inlined, and
// the arrays of registers went through memory (12.5 cycles instead of 10.2).

/// Starts a row's integer sums at a number of its activations: the offset of the codes, times their sum.
macro_rules! start {
    ($dots:ident, $left:ident, $field:ident[$index:expr]) => {
        for (row, dots) in $dots.iter_mut().enumerate() {
            *dots = [_mm512_set1_epi32((*$left.add(row)).$field[$index]); STRIP];
        }
    };
}

/// Adds the products of some words of a block.
macro_rules! multiply {
    ($dots:ident, $left:ident, $panels:ident, $codes_at:ident, $words:expr) => {
        for word in $words {
            let codes = [code::<BITS>($panels[0].add($codes_at), word), code::<BITS>($panels[1].add($codes_at), word)];
            for row in 0..H {
                let x = _mm512_set1_epi32((*$left.add(row)).q.as_ptr().cast::<i32>().add(word).read());
                for j in 0..STRIP {
                    $dots[row][j] = _mm512_dpbusd_epi32($dots[row][j], codes[j], x);
                }
            }
        }
    };
}

/// Adds integer sums, scaled, to the tile's.
macro_rules! add {
    ($sums:ident, $dots:ident, $scales:ident[$half:expr], $left:ident) => {
        for row in 0..H {
            let d = _mm512_set1_ps((*$left.add(row)).scale);
            for j in 0..STRIP {
                let scale = _mm512_mul_ps($scales[j].0[$half], d);
                $sums[row][j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps($dots[row][j]), scale, $sums[row][j]);
            }
        }
    };
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn tile_of<const BITS: usize, const SCALES: u8, const H: usize>(tile: &Tile<'_>, out: (*mut f32, usize)) {
    let form = const { Form { bits: BITS, scales: Scales::ALL[SCALES as usize] } };
    assert!(tile.form == form && tile.height == H && tile.left.len() == tile.blocks * H);
    // A strip of one panel is computed twice and stored once; a part has one such strip at most.
    let panels: [*const u8; STRIP] = std::array::from_fn(|j| tile.panel(j).as_ptr());
    let ahead = STRIP * tile.panel(0).len();
    let mut left = tile.left.as_ptr();
    let mut sums = [[_mm512_setzero_ps(); STRIP]; H];
    for block in 0..tile.blocks {
        let (unit, i) = form.unit(block);
        let codes_at = unit + form.scale_bytes() + i * form.code_bytes();
        let mut dots = [[_mm512_setzero_si512(); STRIP]; H];
        let mut scales = [([_mm512_setzero_ps(); 2], None); STRIP];
        // SAFETY: a panel has `blocks` blocks in whole units, and `left` H activation blocks for each of them. What is
        // only fetched need not be there.
        unsafe {
            if tile.fetch {
                fetch::<BITS>(panels, codes_at + ahead);
            }
            if let Scales::Halves = form.scales {
                start!(dots, left, half_start[0]);
                multiply!(dots, left, panels, codes_at, 0..4);
                // Behind the products, when registers are free.
                for j in 0..STRIP {
                    scales[j] = scales_of(form.scales, panels[j].add(unit), i);
                }
                add!(sums, dots, scales[0], left);
                start!(dots, left, half_start[1]);
                multiply!(dots, left, panels, codes_at, 4..8);
                add!(sums, dots, scales[1], left);
            } else {
                if let Scales::Offset = form.scales {
                    start!(dots, left, start[Rounded::index_of_start(BITS)]);
                }
                // Words of one line stand together.
                multiply!(dots, left, panels, codes_at, [0, 4, 1, 5, 2, 6, 3, 7]);
                for j in 0..STRIP {
                    scales[j] = scales_of(form.scales, panels[j].add(unit), i);
                }
                add!(sums, dots, scales[0], left);
            }
            for j in 0..STRIP {
                let Some(minimum) = scales[j].1 else { continue };
                for row in 0..H {
                    let sum = _mm512_set1_ps((*left.add(row)).sum);
                    sums[row][j] = _mm512_fmadd_ps(minimum, sum, sums[row][j]);
                }
            }
            left = left.add(H);
        }
    }
    // SAFETY: as the caller promises.
    unsafe { finish(tile, out, sums) };
}

/// Asks for the codes of a block of the next strip: the panels of a strip are two streams of a few kilobytes each, too
/// short for the processor to follow by itself.
#[inline]
#[target_feature(enable = "avx512f")]
fn fetch<const BITS: usize>(panels: [*const u8; STRIP], codes_at: usize) {
    for panel in panels {
        for line in 0..BITS {
            _mm_prefetch::<_MM_HINT_T0>(panel.wrapping_add(codes_at + line * LINE).cast());
        }
    }
}

/// The codes of one word of a block.
///
/// # Safety
/// `lines` are `BITS` lines.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn code<const BITS: usize>(lines: *const u8, word: usize) -> __m512i {
    // SAFETY: as the caller promises.
    let line = |line: usize| unsafe { _mm512_loadu_si512(lines.add(line * LINE).cast()) };
    if BITS == 8 {
        return line(word);
    }
    let (both, low) = (line(word % 4), _mm512_set1_epi8(15));
    let code = _mm512_and_si512(if word < 4 { both } else { _mm512_srli_epi16::<4>(both) }, low);
    if BITS == 4 {
        return code;
    }
    if BITS == 5 {
        return _mm512_ternarylogic_epi32::<OR_AND>(code, shifted(line(4), word), _mm512_set1_epi8(16));
    }
    let moved = shifted(line(4 + word / 4), word % 4 * 2);
    _mm512_ternarylogic_epi32::<OR_AND>(code, moved, _mm512_set1_epi8(48))
}

/// `a | b & c`.
const OR_AND: i32 = 0b1111_1000;

/// Bit `from` to bit 4, by shifts of 16-bit lanes: bits stray into neighbouring bytes, but not to where a mask keeps them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn shifted(bits: __m512i, from: usize) -> __m512i {
    match from {
        0 => _mm512_slli_epi16::<4>(bits),
        1 => _mm512_slli_epi16::<3>(bits),
        2 => _mm512_slli_epi16::<2>(bits),
        3 => _mm512_slli_epi16::<1>(bits),
        4 => bits,
        5 => _mm512_srli_epi16::<1>(bits),
        6 => _mm512_srli_epi16::<2>(bits),
        _ => _mm512_srli_epi16::<3>(bits),
    }
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
unsafe fn finish<const H: usize>(tile: &Tile<'_>, out: (*mut f32, usize), sums: [[__m512; STRIP]; H]) {
    for (i, sums) in sums.into_iter().enumerate() {
        for (j, mut sum) in sums.into_iter().enumerate() {
            let lanes = u32::MAX >> (32 - tile.width);
            let lanes = (lanes >> (j * LANES)) as u16;
            // SAFETY: as the caller promises; lanes outside the width are not touched.
            unsafe {
                if let Some((residual, ld)) = tile.residual {
                    let residual = residual.wrapping_add(i * ld + j * LANES);
                    sum = _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, residual), sum);
                }
                _mm512_mask_storeu_ps(out.0.wrapping_add(i * out.1 + j * LANES), lanes, sum);
            }
        }
    }
}
