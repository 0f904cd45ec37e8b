//! Operands in the form that the tiles read: panels of 32-bit words, each an f32 or a pair of bf16.

use super::Number;
use super::{Left, MR, NR};
use crate::kv_cache::bf16_bits;
use crate::memory::{Aligned, Scratch, Slabs};
use crate::pool::Disjoint;
use crate::{Level, Pool};
use backend::Family;
use std::ops::Range;

/// A right operand: panels of [`NR`] outputs, `[panel][word of k][NR]`, zeroes where n or k is short.
pub(crate) struct Panels {
    number: Number,
    n: usize,
    k: usize,
    words: Aligned<u32>,
}

/// A borrowed [`Panels`], perhaps in scratch.
#[derive(Clone, Copy)]
pub(crate) struct Right<'a> {
    pub(crate) number: Number,
    /// Outputs.
    pub(crate) n: usize,
    /// Length of the sums.
    pub(crate) k: usize,
    words: &'a [u32],
}

/// Words of a row of `k` numbers: an odd one is paired with 0.
pub(crate) const fn words_of(number: Number, k: usize) -> usize {
    match number {
        Number::F32 => k,
        Number::Bf16 => k.div_ceil(2),
    }
}

/// Words of all panels of a right operand.
pub(crate) const fn panel_words(number: Number, n: usize, k: usize) -> usize {
    n.div_ceil(NR) * NR * words_of(number, k)
}

impl Panels {
    /// Panels of zeroes; `None` where the memory cannot be had.
    pub(crate) fn zeroed(slabs: &Slabs, number: Number, n: usize, k: usize) -> Option<Self> {
        Some(Self { number, n, k, words: slabs.take(panel_words(number, n, k))? })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.words.bytes()
    }

    pub(crate) fn right(&self) -> Right<'_> {
        Right { number: self.number, n: self.n, k: self.k, words: &self.words }
    }

    /// Packs the rows that `fill(first row, rows)` writes, up to [`NR`] at a time, `k` floats each.
    pub(crate) fn fill_by_rows(
        &mut self,
        pool: &Pool,
        scratch: &Scratch,
        fill: impl Fn(Range<usize>, &mut [f32]) + Sync,
    ) {
        let (number, n, k) = (self.number, self.n, self.k);
        if k == 0 {
            return;
        }
        pool.for_each_chunk(&mut self.words, NR * words_of(number, k), |panel, words| {
            let rows = panel * NR..n.min((panel + 1) * NR);
            let mut lease = scratch.take(rows.len() * k);
            fill(rows, lease.floats());
            right_rows(number, words, lease.floats(), k);
        });
    }

    /// Packs `n` rows of `k` floats.
    pub(crate) fn pack_rows(&mut self, pool: &Pool, level: Level, x: &[f32]) {
        let (number, k) = (self.number, self.k);
        let x = &x[..self.n * k];
        if k == 0 {
            return;
        }
        pool.for_each_chunk(&mut self.words, NR * words_of(number, k), |panel, words| {
            let rows = &x[panel * NR * k..x.len().min((panel + 1) * NR * k)];
            match (level, number) {
                #[cfg(target_arch = "x86_64")]
                (Level::Avx512 | Level::Avx512Bf16 | Level::Amx, _) if rows.len() == NR * k => {
                    // SAFETY: a `Level` is made only where its instructions were seen.
                    unsafe { super::pack_avx512::right_rows(number, words, rows, k) }
                }
                _ => right_rows(number, words, rows, k),
            }
        });
    }

    /// Packs the transpose of `k` rows of `n` floats.
    pub(crate) fn pack_columns(&mut self, pool: &Pool, level: Level, x: &[f32]) {
        right_columns(pool, level, self.number, &mut self.words, x, self.n, self.k);
    }

    /// Unpacks row `row` of the `n`.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.n, "row {row} of {}", self.n);
        let panel = self.right().panel(row / NR);
        match self.number {
            Number::F32 => {
                for (out, words) in out[..self.k].iter_mut().zip(panel.chunks_exact(NR)) {
                    *out = f32::from_bits(words[row % NR]);
                }
            }
            Number::Bf16 => {
                for (out, words) in out[..self.k].chunks_mut(2).zip(panel.chunks_exact(NR)) {
                    let pair = unpair(words[row % NR]);
                    out.copy_from_slice(&pair[..out.len()]);
                }
            }
        }
    }
}

impl<'a> Right<'a> {
    /// Packs the transpose of `k` rows of `n` floats into `words`.
    pub(crate) fn from_columns(
        pool: &Pool,
        level: Level,
        number: Number,
        words: &'a mut [u32],
        x: &[f32],
        n: usize,
        k: usize,
    ) -> Self {
        let words = &mut words[..panel_words(number, n, k)];
        right_columns(pool, level, number, words, x, n, k);
        Self { number, n, k, words }
    }

    pub(crate) fn panels(&self) -> usize {
        self.n.div_ceil(NR)
    }

    pub(crate) fn words_per_panel(&self) -> usize {
        words_of(self.number, self.k)
    }

    /// `[word of k][NR]`.
    pub(crate) fn panel(&self, panel: usize) -> &'a [u32] {
        let len = self.words_per_panel() * NR;
        &self.words[panel * len..][..len]
    }
}

/// How the left operand must look beside a right one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeftForm {
    /// f32.
    Singles,
    /// f32 rounded to bf16, two words for each of the right operand's.
    Rounded,
    /// Pairs of bf16.
    Pairs,
    /// Pairs of bf16 in the order of tiles, zeroes where rows or words are short of a block.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "no other processor has tiles"))]
    Tiles,
}

impl LeftForm {
    pub(crate) fn of(level: Level, number: Number, family: Family) -> Self {
        match (level, number, family) {
            (_, Number::F32, _) => Self::Singles,
            (Level::Avx512Bf16, Number::Bf16, _) => Self::Pairs,
            #[cfg(target_arch = "x86_64")]
            (Level::Amx, Number::Bf16, Family::Prompt) => Self::Tiles,
            (_, Number::Bf16, _) => Self::Rounded,
        }
    }

    /// Rows of a panel of A.
    pub(crate) const fn height(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Tiles => super::amx::ROWS,
            _ => MR,
        }
    }

    /// Rows that `rows` rows are packed as.
    pub(crate) const fn rows(self, rows: usize) -> usize {
        match self {
            Self::Tiles => rows.next_multiple_of(self.height()),
            _ => rows,
        }
    }

    /// Words of a row of A beside `right` words of B.
    pub(crate) const fn words(self, right: usize) -> usize {
        match self {
            Self::Singles | Self::Pairs => right,
            #[cfg(target_arch = "x86_64")]
            Self::Tiles => right.next_multiple_of(super::amx::STEP),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Tiles => right,
            Self::Rounded => 2 * right,
        }
    }
}

/// Packs `rows` of the left operand, the k of the right operand's words `words`, into panels `[word][rows of the panel]`.
pub(crate) fn left(
    level: Level,
    form: LeftForm,
    packed: &mut [u32],
    left: Left<'_>,
    rows: Range<usize>,
    words: Range<usize>,
    k: usize,
) {
    #[cfg(target_arch = "x86_64")]
    if matches!((level, form), (Level::Avx512Bf16, LeftForm::Pairs) | (Level::Amx, LeftForm::Tiles)) {
        use super::{pack_avx512, pack_tiles};
        let range = 2 * words.start..k.min(2 * words.end);
        // SAFETY: a `Level` is made only where its instructions were seen; these two have AVX512-BF16.
        return unsafe {
            match (left, form) {
                (Left::Rows { x, ld }, LeftForm::Tiles) => pack_tiles::of_rows(packed, x, ld, rows, range),
                (Left::Columns { x, ld }, LeftForm::Tiles) => pack_tiles::of_columns(packed, x, ld, rows, range),
                (Left::Rows { x, ld }, _) => pack_avx512::left_pairs_of_rows(packed, x, ld, rows, range),
                (Left::Columns { x, ld }, _) => pack_avx512::left_pairs_of_columns(packed, x, ld, rows, range),
            }
        };
    }
    let _ = level;
    match form {
        LeftForm::Singles => left_words(packed, left, rows, words.start..words.end.min(k), words.len(), f32::to_bits),
        LeftForm::Rounded => {
            let range = 2 * words.start..k.min(2 * words.end);
            left_words(packed, left, rows, range, 2 * words.len(), |x| u32::from(bf16_bits(x)) << 16);
        }
        LeftForm::Pairs | LeftForm::Tiles => unreachable!("{form:?} are packed by AVX512-BF16"),
    }
}

/// Packs the numbers `range` of rows, a word each, and zeroes behind them up to `per_row` words.
fn left_words(
    packed: &mut [u32],
    left: Left<'_>,
    rows: Range<usize>,
    range: Range<usize>,
    per_row: usize,
    word: impl Fn(f32) -> u32 + Copy,
) {
    if packed.is_empty() {
        return;
    }
    for (first, panel) in rows.clone().step_by(MR).zip(packed.chunks_mut(MR * per_row)) {
        let height = MR.min(rows.end - first);
        let (panel, behind) = panel.split_at_mut(range.len() * height);
        behind.fill(0);
        match left {
            Left::Rows { x, ld } => {
                for row in 0..height {
                    let numbers = &x[(first + row) * ld..][range.clone()];
                    panel[row..].iter_mut().step_by(height).zip(numbers).for_each(|(out, &x)| *out = word(x));
                }
            }
            Left::Columns { x, ld } => {
                for (group, at) in panel.chunks_exact_mut(height).zip(range.clone()) {
                    let numbers = &x[at * ld + first..][..height];
                    group.iter_mut().zip(numbers).for_each(|(out, &x)| *out = word(x));
                }
            }
        }
    }
}

/// Packs the rows of one panel, `k` floats each.
pub(crate) fn right_rows(number: Number, panel: &mut [u32], x: &[f32], k: usize) {
    for (word, group) in panel.chunks_exact_mut(NR).enumerate() {
        for (out, row) in group.iter_mut().zip(x.chunks_exact(k)) {
            *out = match number {
                Number::F32 => row[word].to_bits(),
                Number::Bf16 => pair(row[2 * word], row.get(2 * word + 1).copied().unwrap_or(0.0)),
            };
        }
    }
}

/// Packs the transpose of `k` rows of `n` floats into all panels.
fn right_columns(pool: &Pool, level: Level, number: Number, words: &mut [u32], x: &[f32], n: usize, k: usize) {
    let per_panel = words_of(number, k);
    let x = &x[..n * k];
    if words.is_empty() {
        return;
    }
    // A task packs some words of k of all panels, for it reads whole rows then; rows are cut where they are many.
    let groups = per_panel.div_ceil(32);
    let words = Disjoint::new(words);
    pool.run(groups, &|group| {
        let range = group * 32..per_panel.min((group + 1) * 32);
        for panel in 0..n.div_ceil(NR) {
            // SAFETY: each group of words of a panel is packed by one task.
            let out = unsafe { words.piece((panel * per_panel + range.start) * NR, range.len() * NR) };
            match (level, number) {
                #[cfg(target_arch = "x86_64")]
                (Level::Avx512Bf16 | Level::Amx, Number::Bf16) => {
                    // SAFETY: a `Level` is made only where its instructions were seen.
                    unsafe { super::pack_avx512::right_pairs_of_columns(out, x, panel * NR, range.start, n, k) };
                }
                _ => right_columns_of_panel(number, out, x, panel * NR, range.start, n, k),
            }
        }
    });
}

/// Packs words `first..` of the panel that starts at output `column`.
fn right_columns_of_panel(
    number: Number,
    panel: &mut [u32],
    x: &[f32],
    column: usize,
    first: usize,
    n: usize,
    k: usize,
) {
    let width = NR.min(n - column);
    let row = |at: usize| &x[at * n + column..][..width];
    for (i, group) in panel.chunks_exact_mut(NR).enumerate() {
        group[width..].fill(0);
        let word = first + i;
        match number {
            Number::F32 => group.iter_mut().zip(row(word)).for_each(|(out, x)| *out = x.to_bits()),
            Number::Bf16 if 2 * word + 1 < k => {
                let rows = row(2 * word).iter().zip(row(2 * word + 1));
                group.iter_mut().zip(rows).for_each(|(out, (&a, &b))| *out = pair(a, b));
            }
            Number::Bf16 => group.iter_mut().zip(row(2 * word)).for_each(|(out, &a)| *out = pair(a, 0.0)),
        }
    }
}

/// Two numbers of ascending k in a word: the earlier one in the upper half, which `vdpbf16ps` adds first.
pub(crate) fn pair(earlier: f32, later: f32) -> u32 {
    u32::from(bf16_bits(earlier)) << 16 | u32::from(bf16_bits(later))
}

/// The numbers of a [`pair`], widened.
pub(crate) fn unpair(word: u32) -> [f32; 2] {
    [f32::from_bits(word & 0xffff_0000), f32::from_bits(word << 16)]
}
