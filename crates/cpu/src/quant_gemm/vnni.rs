//! Tiles of up to six rows of a panel by `vpdpbusd`.
//!
//! The loop goes over the words of a block; each brings a register of codes, which serves all rows, and an activation
//! word a row, broadcast by the `vpdpbusd` itself. Measured on Zen 4 (one 512-bit operation of each kind a cycle), in
//! 10⁹ operations a second of one core, of 512 rows by Q8_0 and Q4_0: 320 and 333; the same with two panels at a time 316
//! and 308, with twelve rows 284 and 264. And a second panel would be a second stream of memory: of one the core reads 34
//! GB/s, of two that are a few kilobytes long 22.
#![allow(clippy::needless_range_loop, reason = "the indices are registers")]

use super::Tile;
use super::activations::{MR, Rounded};
use super::form::{Form, LANES, LINE, Scales};
use formats::quant::IQ4_STEPS;
use std::arch::x86_64::*;

/// Bytes ahead that the lines of a panel are fetched where it comes from memory: for one row into the first cache, for
/// more into the second, which waits for more lines at a time, and from there into the first.
///
/// The processor follows one stream by itself while the arithmetic is short (one core of Zen 4, Q8_0, 768 long: 28 GB/s,
/// and 24 with a fetch); but between the multiplications of more rows it does not look far enough (2048 long, six rows: 15
/// GB/s, and 26). Every line counts: with the scales left out, four rows of Q4_0 read 14 GB/s instead of 22.
const AHEAD_OF_ONE_ROW: usize = 4096;
const FAR_AHEAD: usize = 32 << 10;
const NEAR_AHEAD: usize = 768;

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
        (2, Scales::HalvesMinimum) => of_form!(2, HalvesMinimum),
        (3, Scales::Halves) => of_form!(3, Halves),
        (4, Scales::Steps) => of_form!(4, Steps),
        (4, Scales::SuperSteps) => of_form!(4, SuperSteps),
        (bits, scales) => unreachable!("no encoding has {bits} bits and {scales:?}"),
    }
}

// Loops over the rows of a tile. They are macros, not closures: those were not all inlined, and the arrays of registers
// went through memory, a fifth slower.

/// Starts a row's integer sums at a number of its activations: the offset of the codes, times their sum.
macro_rules! start {
    ($dots:ident, $left:ident, $start:expr) => {
        for row in 0..H {
            $dots[row] = _mm512_set1_epi32($start(&*$left.add(row)));
        }
    };
}

/// Adds the products of some words of a block.
macro_rules! multiply {
    ($dots:ident, $left:ident, $codes:ident, $words:expr) => {
        for word in $words {
            let code = code::<BITS, SCALES>($codes, word);
            for row in 0..H {
                let x = _mm512_set1_epi32((*$left.add(row)).q.as_ptr().cast::<i32>().add(word).read());
                $dots[row] = _mm512_dpbusd_epi32($dots[row], code, x);
            }
        }
    };
}

/// Adds integer sums, scaled, to the tile's.
macro_rules! add {
    ($sums:ident, $dots:ident, $scale:expr, $left:ident) => {
        for row in 0..H {
            let scale = _mm512_mul_ps($scale, _mm512_set1_ps((*$left.add(row)).scale));
            $sums[row] = _mm512_fmadd_ps(_mm512_cvtepi32_ps($dots[row]), scale, $sums[row]);
        }
    };
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn tile_of<const BITS: usize, const SCALES: u8, const H: usize>(tile: &Tile<'_>, out: (*mut f32, usize)) {
    let form = const { Form { bits: BITS, scales: Scales::ALL[SCALES as usize] } };
    assert!(tile.form == form && tile.height == H && tile.left.len() == tile.blocks * H);
    let (panel, mut left) = (tile.panel.as_ptr(), tile.left.as_ptr());
    let mut sums = [_mm512_setzero_ps(); H];
    for block in 0..tile.blocks {
        let (unit_at, i) = form.unit(block);
        let codes_at = unit_at + form.scale_bytes() + i * form.code_bytes();
        let mut dots = [_mm512_setzero_si512(); H];
        // SAFETY: a panel has `blocks` blocks in whole units, and `left` H activation blocks for each of them.
        unsafe {
            let (unit, codes) = (panel.add(unit_at), panel.add(codes_at));
            if tile.stream {
                // The first block of a unit brings the scales of all.
                let from = if i == 0 { unit_at } else { codes_at };
                fetch::<H>(panel.wrapping_add(from), codes_at + form.code_bytes() - from);
            }
            let minimum = if form.scales.in_halves() {
                start!(dots, left, |x: &Rounded| x.half_start(0, form.offset()));
                multiply!(dots, left, codes, 0..4);
                // Behind the products, when registers are free.
                let (scales, minimum) = scales_of(form.scales, unit, i);
                add!(sums, dots, scales[0], left);
                start!(dots, left, |x: &Rounded| x.half_start(1, form.offset()));
                multiply!(dots, left, codes, 4..8);
                add!(sums, dots, scales[1], left);
                minimum
            } else {
                if form.offset() > 0 {
                    start!(dots, left, |x: &Rounded| x.start[Rounded::index_of_start(form.offset())]);
                }
                // Words of one line stand together.
                multiply!(dots, left, codes, [0, 4, 1, 5, 2, 6, 3, 7]);
                let (scales, minimum) = scales_of(form.scales, unit, i);
                add!(sums, dots, scales[0], left);
                minimum
            };
            if let Some(minimum) = minimum {
                for row in 0..H {
                    let x = &*left.add(row);
                    if form.scales.in_halves() {
                        sums[row] = _mm512_fmadd_ps(minimum[0], _mm512_set1_ps(x.half_sum(0)), sums[row]);
                        sums[row] = _mm512_fmadd_ps(minimum[1], _mm512_set1_ps(x.half_sum(1)), sums[row]);
                    } else {
                        sums[row] = _mm512_fmadd_ps(minimum[0], _mm512_set1_ps(x.sum), sums[row]);
                    }
                }
            }
            left = left.add(H);
        }
    }
    // SAFETY: as the caller promises.
    unsafe { finish(tile, out, sums) };
}

/// Asks for the lines that follow the `bytes` at `panel` by some way. What is there need not be anyone's.
#[inline]
#[target_feature(enable = "avx512f")]
fn fetch<const H: usize>(panel: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(LINE) {
        if H == 1 {
            _mm_prefetch::<_MM_HINT_T0>(panel.wrapping_add(line + AHEAD_OF_ONE_ROW).cast());
        } else {
            _mm_prefetch::<_MM_HINT_T1>(panel.wrapping_add(line + FAR_AHEAD).cast());
            _mm_prefetch::<_MM_HINT_T0>(panel.wrapping_add(line + NEAR_AHEAD).cast());
        }
    }
}

/// The codes of one word of a block; where they are numbers of steps, the steps with 128 added.
///
/// # Safety
/// `lines` are `BITS` lines.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn code<const BITS: usize, const SCALES: u8>(lines: *const u8, word: usize) -> __m512i {
    // SAFETY: as the caller promises.
    let line = |line: usize| unsafe { _mm512_loadu_si512(lines.add(line * LINE).cast()) };
    if BITS == 8 {
        return line(word);
    }
    if BITS < 4 {
        // Bits `2·(word mod 4)` to 0.
        let bits = line(word / 4);
        let moved = match word % 4 {
            0 => bits,
            1 => _mm512_srli_epi16::<2>(bits),
            2 => _mm512_srli_epi16::<4>(bits),
            _ => _mm512_srli_epi16::<6>(bits),
        };
        let code = _mm512_and_si512(moved, _mm512_set1_epi8(3));
        if BITS == 2 {
            return code;
        }
        let third = _mm512_srli_epi16::<2>(shifted(line(2), word));
        return _mm512_ternarylogic_epi32::<OR_AND>(code, third, _mm512_set1_epi8(4));
    }
    let (both, low) = (line(word % 4), _mm512_set1_epi8(15));
    let code = _mm512_and_si512(if word < 4 { both } else { _mm512_srli_epi16::<4>(both) }, low);
    if Scales::ALL[SCALES as usize].in_steps() {
        // SAFETY: there are sixteen steps.
        let steps = unsafe { _mm_loadu_si128(IQ4_STEPS.as_ptr().cast()) };
        let offset_steps = _mm_xor_si128(steps, _mm_set1_epi8(i8::MIN));
        return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(offset_steps), code);
    }
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
unsafe fn scales_of(scales: Scales, unit: *const u8, i: usize) -> ([__m512; 2], Option<[__m512; 2]>) {
    // SAFETY: as the caller promises; all places are within the unit's scales.
    unsafe {
        let halves = |at: usize| _mm512_cvtph_ps(_mm256_loadu_si256(unit.add(at).cast()));
        let small = |at: usize| _mm_loadu_si128(unit.add(LINE + 32 * i + at).cast());
        let unsigned = |at: usize| _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(small(at)));
        let signed = |at: usize| _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(small(at)));
        match scales {
            Scales::Offset | Scales::Steps => ([halves(32 * i); 2], None),
            Scales::Minimum => ([halves(0); 2], Some([halves(32); 2])),
            Scales::Super => {
                let minimum = _mm512_mul_ps(halves(32), unsigned(LANES));
                let minus = _mm512_xor_ps(minimum, _mm512_set1_ps(-0.0));
                ([_mm512_mul_ps(halves(0), unsigned(0)); 2], Some([minus; 2]))
            }
            Scales::Halves => ([0, LANES].map(|at| _mm512_mul_ps(halves(0), signed(at))), None),
            Scales::HalvesMinimum => {
                let of =
                    |bytes: __m128i| _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_and_si128(bytes, _mm_set1_epi8(15))));
                let scale = [0, LANES].map(|at| _mm512_mul_ps(halves(0), of(small(at))));
                let minimum = [0, LANES].map(|at| _mm512_mul_ps(halves(32), of(_mm_srli_epi16::<4>(small(at)))));
                (scale, Some(minimum.map(|minimum| _mm512_xor_ps(minimum, _mm512_set1_ps(-0.0)))))
            }
            Scales::SuperSteps => ([_mm512_mul_ps(halves(0), signed(0)); 2], None),
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
