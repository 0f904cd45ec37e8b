//! The packers of the AVX-512 levels: activations on every product, weights on every step of training.

use super::Number;
use super::pack::{self, words_of};
use super::{MR, NR};
use std::arch::x86_64::*;
use std::ops::Range;

/// Words of a register.
const LANES: usize = 16;

/// Lanes below `count`.
fn lanes(count: usize) -> u16 {
    if count >= LANES { u16::MAX } else { (1 << count) - 1 }
}

/// Up to sixteen floats of `x` at `at`, none from `end` on; 0 in the other lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn load(x: &[f32], at: usize, end: usize) -> __m512 {
    let count = end.saturating_sub(at).min(LANES);
    if count == 0 {
        return _mm512_setzero_ps();
    }
    let x = &x[at..at + count];
    // SAFETY: `count` floats are read.
    unsafe { _mm512_maskz_loadu_ps(lanes(count), x.as_ptr()) }
}

/// [`pack::pair`]s of 32 neighbours: `low` the first sixteen, `high` the next.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) fn pair_neighbours(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both types are 64 plain bytes.
    let pairs = unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) };
    _mm512_rol_epi32::<16>(pairs)
}

/// [`pack::pair`]s of `earlier[i]` and `later[i]`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) fn pair_lanes(earlier: __m512, later: __m512) -> __m512i {
    const INTERLEAVED: [u16; 32] = {
        let mut order = [0; 32];
        let mut i = 0;
        while i < 16 {
            order[2 * i] = i as u16;
            order[2 * i + 1] = i as u16 + 16;
            i += 1;
        }
        order
    };
    // SAFETY: all are 64 plain bytes.
    unsafe {
        let halves = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(earlier, later));
        _mm512_permutexvar_epi16(std::mem::transmute::<[u16; 32], __m512i>(INTERLEAVED), halves)
    }
}

/// Packs pairs of rows `rows` of `x`, the k of `range`, into panels of A.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) fn left_pairs_of_rows(packed: &mut [u32], x: &[f32], ld: usize, rows: Range<usize>, range: Range<usize>) {
    let words = range.len().div_ceil(2);
    if packed.is_empty() {
        return;
    }
    for (first, panel) in rows.clone().step_by(MR).zip(packed.chunks_mut(MR * words)) {
        let height = MR.min(rows.end - first);
        for word in (0..words).step_by(LANES) {
            let at = range.start + 2 * word;
            let count = LANES.min(words - word);
            let mut group = [_mm512_setzero_si512(); MR];
            for (i, pairs) in group[..height].iter_mut().enumerate() {
                let row = (first + i) * ld;
                *pairs =
                    pair_neighbours(load(x, row + at, row + range.end), load(x, row + at + LANES, row + range.end));
            }
            let out = &mut panel[word * height..][..count * height];
            if height == MR && count == LANES {
                // SAFETY: `out` is MR · LANES words long.
                unsafe { store_interleaved(out.as_mut_ptr(), group) };
            } else {
                // SAFETY: both are MR · LANES words.
                let group = unsafe { std::mem::transmute::<[__m512i; MR], [[u32; LANES]; MR]>(group) };
                for (word, out) in out.chunks_exact_mut(height).enumerate() {
                    out.iter_mut().zip(&group).for_each(|(out, row)| *out = row[word]);
                }
            }
        }
    }
}

/// Where the lanes of the six interleaved registers come from: register `o`, lane `j` is word `(16·o + j) / 6` of row
/// `(16·o + j) % 6`. For each register the order for rows 0|1, for rows 2|3 and for rows 4|5.
const INTERLEAVE: [[[u32; LANES]; 3]; MR] = {
    let mut order = [[[0; LANES]; 3]; MR];
    let mut flat = 0;
    while flat < MR * LANES {
        let (word, row) = (flat / MR, flat % MR);
        order[flat / LANES][row / 2][flat % LANES] = (word + LANES * (row % 2)) as u32;
        flat += 1;
    }
    order
};

/// Lanes of register `o` that come from rows 2|3 (first) and 4|5 (second).
const INTERLEAVE_FROM: [[u16; 2]; MR] = {
    let mut from = [[0; 2]; MR];
    let mut flat = 0;
    while flat < MR * LANES {
        let row = flat % MR;
        if row >= 2 {
            from[flat / LANES][row / 2 - 1] |= 1 << (flat % LANES);
        }
        flat += 1;
    }
    from
};

/// Stores word 0 of the six rows, word 1 of the six rows …
///
/// # Safety
/// 96 words can be written at `out`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn store_interleaved(out: *mut u32, rows: [__m512i; MR]) {
    for o in 0..MR {
        // SAFETY: an array of sixteen words is a register.
        let order = |pair: usize| unsafe { std::mem::transmute::<[u32; LANES], __m512i>(INTERLEAVE[o][pair]) };
        let mut mixed = _mm512_permutex2var_epi32(rows[0], order(0), rows[1]);
        let second = _mm512_permutex2var_epi32(rows[2], order(1), rows[3]);
        let third = _mm512_permutex2var_epi32(rows[4], order(2), rows[5]);
        mixed = _mm512_mask_blend_epi32(INTERLEAVE_FROM[o][0], mixed, second);
        mixed = _mm512_mask_blend_epi32(INTERLEAVE_FROM[o][1], mixed, third);
        // SAFETY: as the caller promises.
        unsafe { _mm512_storeu_si512(out.add(o * LANES).cast(), mixed) };
    }
}

/// Packs pairs of columns `rows` of `x`, the k (rows of `x`) of `range`, into panels of A.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) fn left_pairs_of_columns(packed: &mut [u32], x: &[f32], ld: usize, rows: Range<usize>, range: Range<usize>) {
    /// Columns at a time: the sixteen panels of a task of 96 rows. A row of `x` is read in pieces of that length.
    const GROUP: usize = 96;
    let words = range.len().div_ceil(2);
    for first in rows.clone().step_by(GROUP) {
        let end = rows.end.min(first + GROUP);
        let packed = &mut packed[(first - rows.start) * words..][..(end - first) * words];
        let mut line = [0u32; GROUP + 8];
        for word in 0..words {
            let earlier = (range.start + 2 * word) * ld;
            let later = earlier + ld;
            let odd = range.start + 2 * word + 1 >= range.end;
            for (i, line) in line[..GROUP].chunks_exact_mut(LANES).enumerate() {
                let at = first + i * LANES;
                let b = if odd { _mm512_setzero_ps() } else { load(x, later + at, later + end) };
                let pairs = pair_lanes(load(x, earlier + at, earlier + end), b);
                // SAFETY: a piece of `line` is LANES words.
                unsafe { _mm512_storeu_si512(line.as_mut_ptr().cast(), pairs) };
            }
            for column in (0..end - first).step_by(MR) {
                let height = MR.min(end - first - column);
                let at = column * words + word * height;
                // SAFETY: `line` has eight words at every column, and `height` words of `packed` are written: the masked
                // store leaves the others alone.
                unsafe {
                    let group = _mm256_loadu_si256(line.as_ptr().add(column).cast());
                    _mm256_mask_storeu_epi32(packed[at..at + height].as_mut_ptr().cast(), (1 << height) - 1, group);
                }
            }
        }
    }
}

/// Packs pairs of columns into the words `first..` of the panel of B that starts at output `column`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) fn right_pairs_of_columns(panel: &mut [u32], x: &[f32], column: usize, first: usize, n: usize, k: usize) {
    let end = n.min(column + NR);
    for (i, group) in panel.chunks_exact_mut(NR).enumerate() {
        let earlier = 2 * (first + i) * n;
        let odd = 2 * (first + i) + 1 >= k;
        for (j, out) in group.chunks_exact_mut(LANES).enumerate() {
            let at = column + j * LANES;
            let b = if odd { _mm512_setzero_ps() } else { load(x, earlier + n + at, earlier + n + end) };
            let pairs = pair_lanes(load(x, earlier + at, earlier + end), b);
            // SAFETY: `out` is LANES words.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), pairs) };
        }
    }
}

/// Packs a whole panel of B from [`NR`] rows of `k` floats: squares of 16 × 16 words, transposed.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn right_rows(number: Number, panel: &mut [u32], x: &[f32], k: usize) {
    let words = words_of(number, k);
    let whole = match number {
        Number::F32 => k / LANES,
        Number::Bf16 => k / (2 * LANES),
    };
    for square in 0..whole {
        for rows in (0..NR).step_by(LANES) {
            let mut words_of_rows = [_mm512_setzero_si512(); LANES];
            for (i, words) in words_of_rows.iter_mut().enumerate() {
                let row = &x[(rows + i) * k..][..k];
                *words = match number {
                    Number::F32 => _mm512_castps_si512(load(row, square * LANES, k)),
                    Number::Bf16 => {
                        round_neighbours(load(row, square * 2 * LANES, k), load(row, (square * 2 + 1) * LANES, k))
                    }
                };
            }
            let out = &mut panel[square * LANES * NR..][..LANES * NR];
            for (i, words) in transposed(words_of_rows).into_iter().enumerate() {
                // SAFETY: a register is sixteen words, and so long is the piece.
                unsafe { _mm512_storeu_si512(out[i * NR + rows..][..LANES].as_mut_ptr().cast(), words) };
            }
        }
    }
    for word in whole * LANES..words {
        for (row, out) in panel[word * NR..][..NR].iter_mut().enumerate() {
            let row = &x[row * k..][..k];
            *out = match number {
                Number::F32 => row[word].to_bits(),
                Number::Bf16 => pack::pair(row[2 * word], row.get(2 * word + 1).copied().unwrap_or(0.0)),
            };
        }
    }
}

/// [`pair_neighbours`] with the integer rounding of [`pack::round`]: unlike `vcvtne2ps2bf16` it keeps subnormal numbers,
/// which [`super::Panels::row`] gives back.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn round_neighbours(low: __m512, high: __m512) -> __m512i {
    let rounded = |x: __m512| {
        let bits = _mm512_castps_si512(x);
        let even = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let nearest = _mm512_add_epi32(bits, _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff)));
        let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(_mm512_mask_blend_epi32(nan, nearest, quiet)))
    };
    let halves = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(rounded(low)), rounded(high));
    _mm512_rol_epi32::<16>(halves)
}

/// The transpose of a square of words: of pairs of rows, of quartets, then of quarters of registers.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn transposed(r: [__m512i; LANES]) -> [__m512i; LANES] {
    let mut t = r;
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    let mut q = t;
    for i in 0..4 {
        q[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        q[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        q[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        q[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    // q[4·i + j], quarter c: word 4·c + j of rows 4·i … 4·i + 3.
    let mut out = q;
    for j in 0..4 {
        let low01 = _mm512_shuffle_i32x4::<0x88>(q[j], q[4 + j]); // quarters 0 2 of rows 0–3, 0 2 of rows 4–7
        let high01 = _mm512_shuffle_i32x4::<0xdd>(q[j], q[4 + j]); // quarters 1 3
        let low23 = _mm512_shuffle_i32x4::<0x88>(q[8 + j], q[12 + j]);
        let high23 = _mm512_shuffle_i32x4::<0xdd>(q[8 + j], q[12 + j]);
        out[j] = _mm512_shuffle_i32x4::<0x88>(low01, low23);
        out[8 + j] = _mm512_shuffle_i32x4::<0xdd>(low01, low23);
        out[4 + j] = _mm512_shuffle_i32x4::<0x88>(high01, high23);
        out[12 + j] = _mm512_shuffle_i32x4::<0xdd>(high01, high23);
    }
    out
}
