//! Packing of A for tiles: `[block of 32 rows][step][row][16 words]`, so that a tile is sixteen neighbouring lines. (Rows of
//! words one after the other would be a power of two apart for most widths, and the lines of a tile in one set of the L1.)

use super::amx::{ROWS, STEP, STEP_WORDS};
use super::pack_avx512::{load, pair_lanes, pair_neighbours, transposed};
use std::arch::x86_64::*;
use std::ops::Range;

/// Stores a row of a tile.
#[inline]
#[target_feature(enable = "avx512f")]
fn store(panel: &mut [u32], step: usize, row: usize, words: __m512i) {
    let out = &mut panel[step * STEP_WORDS + row * STEP..][..STEP];
    // SAFETY: `out` is as long as a register.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), words) };
}

/// Packs pairs of rows `rows` of `x`, the k of `range`; zeroes for rows and k beyond.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) fn of_rows(packed: &mut [u32], x: &[f32], ld: usize, rows: Range<usize>, range: Range<usize>) {
    let steps = range.len().div_ceil(2 * STEP);
    if steps == 0 {
        return;
    }
    for (first, panel) in rows.clone().step_by(ROWS).zip(packed.chunks_exact_mut(steps * STEP_WORDS)) {
        let height = ROWS.min(rows.end - first);
        for row in 0..ROWS {
            for step in 0..steps {
                if row >= height {
                    store(panel, step, row, _mm512_setzero_si512());
                    continue;
                }
                let start = (first + row) * ld;
                let (at, end) = (start + range.start + 2 * STEP * step, start + range.end);
                store(panel, step, row, pair_neighbours(load(x, at, end), load(x, at + STEP, end)));
            }
        }
    }
}

/// Packs pairs of columns `rows` of `x`, the k (rows of `x`) of `range`; zeroes for rows and k beyond.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) fn of_columns(packed: &mut [u32], x: &[f32], ld: usize, rows: Range<usize>, range: Range<usize>) {
    let steps = range.len().div_ceil(2 * STEP);
    if steps == 0 {
        return;
    }
    for (first, panel) in rows.clone().step_by(ROWS).zip(packed.chunks_exact_mut(steps * STEP_WORDS)) {
        for step in 0..steps {
            for half in [0, ROWS / 2] {
                let column = first + half;
                let get = |k: usize| match k < range.end {
                    true => load(x, k * ld + column, k * ld + rows.end),
                    false => _mm512_setzero_ps(),
                };
                let words = std::array::from_fn(|word| {
                    let k = range.start + 2 * (step * STEP + word);
                    pair_lanes(get(k), get(k + 1))
                });
                for (row, words) in transposed(words).into_iter().enumerate() {
                    store(panel, step, half + row, words);
                }
            }
        }
    }
}
