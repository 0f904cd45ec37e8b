//! Matrix products `C = A · Bᵀ`, row-exact: `m` rows of activations against `n` rows of weights, `k` long.
//!
//! # The sum
//! Every element of C is one chain of fused multiply-adds over ascending k, started from 0 or, where a gradient is added
//! to, from what C holds: `c ← fma(a[k], b[k], c)`. Blocking stores and reloads the chain in f32, which loses nothing. So
//! the bits of a row depend neither on the number of rows, nor on threads, nor on blocks; both [`backend::Family`]s are
//! one here; and a gradient of 4096 tokens has the bits of two gradients of 2048 added up. A residual is added last.
//!
//! At the level `amx` bf16 products of *prompt* rows (so all of training) are summed by tiles, 32 k at a time: see
//! `amx.rs`. There the families differ in bits, each row-exact in itself, and gradients may be cut at multiples of 32 rows.
//!
//! # bf16
//! Both operands are rounded to bf16 (nearest, ties to even), the products and sums are f32. `vdpbf16ps` adds to each f32
//! lane the two products of a pair. Measured on AMD Zen 4 (9.6 million lanes, all equal) and as Intel's manual has it:
//! it adds the product of the *upper* halves first, then that of the *lower* halves, each as a fused multiply-add rounded
//! to nearest; subnormal numbers are read and written as 0. So pairs are packed with the earlier k in the upper half, and
//! the instruction continues the very chain that widened bf16 and f32 multiply-adds make. The levels' bits are the same
//! but where a subnormal number (below 1.2e-38) takes part, and a chain may be cut at odd k.
//!
//! # The form
//! B is packed into panels of [`NR`] = 64 outputs, A into panels of [`MR`] = 6 rows (of 32 for tiles), in 32-bit words: one
//! f32, or a pair of bf16. Word `w` of a panel is followed by the same word of the next output (row). 6 × 64 sums are 24
//! registers of AVX-512; the loop loads 4 vectors and 6 broadcasts for 24 multiply-adds, so that it is bound by arithmetic
//! while the panel comes from L2, and by memory for few rows, where it streams each panel once, straight ahead.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod pack;
#[cfg(target_arch = "x86_64")]
mod pack_avx512;
#[cfg(target_arch = "x86_64")]
mod pack_tiles;
mod scalar;

pub(crate) use pack::{Panels, Right, panel_words};

/// What is done with pairs of bf16 in registers.
#[cfg(target_arch = "x86_64")]
pub(crate) mod pair_instructions {
    pub(crate) use super::avx512::dot;
    pub(crate) use super::pack_avx512::{pair_lanes, pair_neighbours, transposed};
}

use crate::memory::Scratch;
use crate::pool::Disjoint;
use crate::split::share;
use crate::{Level, Pool};
use backend::Rows;
use pack::LeftForm;
use std::ops::Range;

/// Outputs of a panel of B.
pub(crate) const NR: usize = 64;
/// Rows of a panel of A.
pub(crate) const MR: usize = 6;
/// Words of k between a store and a reload of the sums: a panel of B is then 256 KiB and stays in an L2 of 1 MiB.
pub(crate) const K_BLOCK: usize = 1024;
/// Bytes of packed A that a task works on, beside the panel of B in L2.
pub(crate) const LEFT_BYTES: usize = 384 << 10;
/// The same for tiles: the processors that have them have an L2 of 2 MiB. Reckoned, not measured.
const TILES_LEFT_BYTES: usize = 1 << 20;
/// Rows up to which a task is a run of panels, read once from memory, and rows are not split.
const FEW_ROWS: usize = 17;
/// k of a strip (`avx2.rs`), whose 16 KiB stay in a first cache of 32 KiB beside the rows that they meet.
const STRIP_DEPTH: usize = 256;

/// How the numbers of a right operand are kept, and both operands multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    /// f32.
    F32,
    /// f32 rounded to bf16.
    Bf16,
}

impl Number {
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// The left operand: f32, packed as it is used.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a> {
    /// `a[row][k] = x[row · ld + k]`.
    Rows { x: &'a [f32], ld: usize },
    /// `a[row][k] = x[k · ld + row]`.
    Columns { x: &'a [f32], ld: usize },
}

/// What the sums start from and what is added to them.
#[derive(Clone, Copy)]
pub(crate) enum Onto<'a> {
    /// `C = A·Bᵀ`.
    Nothing,
    /// `C += A·Bᵀ`, the chains starting from C.
    Itself,
    /// `C = residual + (A·Bᵀ)`.
    Residual(&'a [f32]),
    /// `C = C + (A·Bᵀ)`, C being the residual.
    ItselfAsResidual,
}

/// `out = onto + left · rightᵀ`: `out` is `rows × right.n`, dense.
pub(crate) fn gemm(
    pool: &Pool,
    level: Level,
    scratch: &Scratch,
    out: &mut [f32],
    onto: Onto<'_>,
    left: Left<'_>,
    right: Right<'_>,
    rows: Rows,
) {
    let (rows, family) = (rows.count, rows.family);
    let out = &mut out[..rows * right.n];
    if let Onto::Residual(residual) = onto {
        assert!(residual.len() >= out.len(), "residual of {} for {} outputs", residual.len(), out.len());
    }
    left.check(rows, right.k);
    let form = LeftForm::of(level, right.number, family);
    let strips = level == Level::Avx2 && rows > FEW_ROWS && right.k > 0;
    let job = Job { level, scratch, out: Disjoint::new(out), onto, left, form, strips, right, rows };
    let block_words = job.block_words().min(right.words_per_panel());
    let grid = Grid::of(pool.threads(), rows, right.panels(), form, form.words(block_words));
    pool.run(grid.row_blocks * grid.panel_blocks, &|task| {
        // Neighbours in time share the rows of A of a task and so the panels of B in the shared cache.
        let (row_block, panel_block) = (task / grid.panel_blocks, task % grid.panel_blocks);
        let row_range = share(row_block, grid.row_blocks, rows.div_ceil(form.height()));
        let panel_range = share(panel_block, grid.panel_blocks, right.panels());
        job.task(row_range.start * form.height()..rows.min(row_range.end * form.height()), panel_range);
    });
}

/// How C is cut into tasks. It decides nothing but speed.
struct Grid {
    row_blocks: usize,
    panel_blocks: usize,
}

impl Grid {
    /// `words` of packed A a row.
    fn of(threads: usize, rows: usize, panels: usize, form: LeftForm, words: usize) -> Self {
        if form == LeftForm::Tiles {
            return Self::of_tiles(threads, rows, panels, words);
        }
        let row_blocks =
            if rows <= FEW_ROWS { 1 } else { (rows * words * 4).div_ceil(LEFT_BYTES).clamp(1, rows.div_ceil(MR)) };
        // Four tasks a thread: the threads of a busy machine do not finish at the same time.
        let wanted = if threads == 1 { 1 } else { threads * 4 };
        // A task packs its rows for itself; with fewer than four panels that would be felt.
        let panel_blocks =
            wanted.div_ceil(row_blocks).min(panels.div_ceil(if rows <= FEW_ROWS { 1 } else { 4 })).max(1);
        Self { row_blocks, panel_blocks }
    }

    /// For tiles, packing and the reading of B weigh more, being no faster than elsewhere: at least 256 rows use a panel
    /// that came from the last cache, and A is cut into as many tasks as there should be before its rows are packed twice.
    /// Reckoned, not measured: 256 rows take 12 000 cycles for 32 outputs of 768 k, and 48 KiB of B come from L3 in 7 000.
    fn of_tiles(threads: usize, rows: usize, panels: usize, words: usize) -> Self {
        const ROWS_PER_BLOCK: usize = 256;
        let wanted = if threads == 1 { 1 } else { threads * 4 };
        let fitting = (rows * words * 4).div_ceil(TILES_LEFT_BYTES).max(1);
        let mut row_blocks = fitting.max(wanted.min(rows / ROWS_PER_BLOCK));
        if row_blocks > threads {
            row_blocks = row_blocks.next_multiple_of(threads);
        }
        let panel_blocks =
            wanted.div_ceil(row_blocks).min(panels.div_ceil(if rows <= FEW_ROWS { 1 } else { 4 })).max(1);
        Self { row_blocks, panel_blocks }
    }
}

/// A product under way.
struct Job<'a> {
    level: Level,
    scratch: &'a Scratch,
    out: Disjoint<'a, f32>,
    onto: Onto<'a>,
    left: Left<'a>,
    form: LeftForm,
    /// Whether the panels of B are cut into strips (`avx2.rs`).
    strips: bool,
    right: Right<'a>,
    rows: usize,
}

impl Job<'_> {
    /// Words of k between a store and a reload of the sums.
    fn block_words(&self) -> usize {
        match (self.strips, self.right.number) {
            (false, _) => K_BLOCK,
            (true, Number::F32) => STRIP_DEPTH,
            (true, Number::Bf16) => STRIP_DEPTH / 2,
        }
    }

    /// Computes the outputs `rows × panels`.
    fn task(&self, rows: Range<usize>, panels: Range<usize>) {
        let (words, block_words) = (self.right.words_per_panel(), self.block_words());
        let blocks = words.div_ceil(block_words).max(1);
        let left_words = self.form.words(words.min(block_words));
        let left_rows = self.form.rows(rows.len());
        let mut lease = self.scratch.take(left_rows * left_words);
        let mut strips = self.strips.then(|| self.scratch.take(STRIP_DEPTH * NR));
        // SAFETY: the form is that of tiles only at the level that has them; this is the one task on this thread.
        #[cfg(target_arch = "x86_64")]
        let _tiles = (self.form == LeftForm::Tiles).then(|| unsafe { amx::Configured::new() });
        // The sums on their way; only where the residual is read from the place they would be stored to.
        let mut sums = (blocks > 1 && matches!(self.onto, Onto::ItselfAsResidual))
            .then(|| self.scratch.take(rows.len() * panels.len() * NR));
        for block in 0..blocks {
            let range = block * block_words..words.min((block + 1) * block_words);
            let packed = &mut lease.words()[..left_rows * self.form.words(range.len())];
            pack::left(self.level, self.form, packed, self.left, rows.clone(), range.clone(), self.right.k);
            for panel in panels.clone() {
                let sums = sums.as_mut().map(|lease| {
                    let first = (panel - panels.start) * NR;
                    (lease.floats().as_mut_ptr().wrapping_add(first), panels.len() * NR)
                });
                let edge = Edge { first: block == 0, last: block + 1 == blocks, sums };
                let right = &self.right.panel(panel)[range.start * NR..range.end * NR];
                let strips = strips.as_mut().map(|lease| lease.words());
                self.panel(rows.clone(), panel * NR, packed, right, strips, &edge);
            }
        }
    }

    /// Continues the sums of the outputs from `column` on, a panel or what is left of it, over some words of k.
    fn panel(
        &self,
        rows: Range<usize>,
        column: usize,
        packed: &[u32],
        right: &[u32],
        strips: Option<&mut [u32]>,
        edge: &Edge,
    ) {
        let width = NR.min(self.right.n - column);
        let Some(strips) = strips else { return self.columns(rows, column..column + width, packed, right, edge) };
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("{} words of strips without AVX2", strips.len());
        #[cfg(target_arch = "x86_64")]
        {
            let strips = &mut strips[..self.form.words(right.len())];
            // SAFETY: strips are made at the level of AVX2 only, which was seen then.
            unsafe { avx2::strips(strips, right, self.right.number) };
            let strip_words = avx2::STRIP * strips.len() / NR;
            for (at, strip) in (0..width).step_by(avx2::STRIP).zip(strips.chunks_exact(strip_words)) {
                let columns = column + at..column + width.min(at + avx2::STRIP);
                let edge = Edge { sums: edge.sums.map(|(sums, ld)| (sums.wrapping_add(at), ld)), ..*edge };
                self.columns(rows.clone(), columns, packed, strip, &edge);
            }
        }
    }

    /// Continues the sums of all `rows` of some columns, of which `right` has the words.
    fn columns(&self, rows: Range<usize>, columns: Range<usize>, packed: &[u32], right: &[u32], edge: &Edge) {
        let (n, width) = (self.right.n, columns.len());
        let left_words = packed.len() / self.form.rows(rows.len()).max(1);
        for row in rows.clone().step_by(self.form.height()) {
            let height = self.form.height().min(rows.end - row);
            debug_assert!(row + height <= self.rows && self.out.len >= (row + height - 1) * n + columns.end);
            let left = &packed[(row - rows.start) * left_words..][..self.form.rows(height) * left_words];
            let at = row * n + columns.start;
            let own = (self.out.at(at), n);
            let kept = match edge.sums {
                Some((sums, ld)) => (sums.wrapping_add((row - rows.start) * ld), ld),
                None => own,
            };
            let start = match (edge.first, self.onto) {
                (true, Onto::Itself) => Some(own),
                (true, _) => None,
                (false, _) => Some(kept),
            };
            let residual = match self.onto {
                Onto::Residual(residual) if edge.last => Some((residual[at..].as_ptr(), n)),
                Onto::ItselfAsResidual if edge.last => Some((own.0.cast_const(), n)),
                _ => None,
            };
            let tile = Tile { left, right, start: start.map(|(p, ld)| (p.cast_const(), ld)), residual, height, width };
            // SAFETY: tiles of different tasks are different outputs, and `out` and `sums` hold `height` rows of `width`
            // floats at the distance of `ld`, as asserted for `out` and as `sums` is laid out; so does `residual`.
            unsafe { self.tile(&tile, if edge.last { own } else { kept }) };
        }
    }

    /// # Safety
    /// [`Tile`]'s pointers and `out` reach `height` rows of `width` floats, which no other thread writes.
    unsafe fn tile(&self, tile: &Tile<'_>, out: (*mut f32, usize)) {
        // SAFETY: as the caller promises; a `Level` is made only where its instructions were seen.
        unsafe {
            match (self.level, self.form) {
                #[cfg(target_arch = "x86_64")]
                (_, LeftForm::Tiles) => amx::tile(tile, out),
                #[cfg(target_arch = "x86_64")]
                (_, LeftForm::Pairs) => avx512::dots(tile, out),
                #[cfg(target_arch = "x86_64")]
                (Level::Avx512 | Level::Amx, LeftForm::Rounded) => avx512::widened(tile, out),
                #[cfg(target_arch = "x86_64")]
                (Level::Avx512 | Level::Avx512Bf16 | Level::Amx, LeftForm::Singles) => avx512::singles(tile, out),
                #[cfg(target_arch = "x86_64")]
                (Level::Avx2, _) if self.strips => avx2::strip(tile, out),
                #[cfg(target_arch = "x86_64")]
                (Level::Avx2, LeftForm::Rounded) => avx2::widened(tile, out),
                #[cfg(target_arch = "x86_64")]
                (Level::Avx2, LeftForm::Singles) => avx2::singles(tile, out),
                _ => scalar::tile(tile, out, self.right.number),
            }
        }
    }
}

/// Where a block of k stands in the whole chain.
struct Edge {
    first: bool,
    last: bool,
    /// Where the sums wait between blocks, if not in C: the first float and the distance of rows.
    sums: Option<(*mut f32, usize)>,
}

/// `height × width` sums over some words of k.
struct Tile<'a> {
    /// `[words][height]`, or in the order of [`LeftForm::Tiles`].
    left: &'a [u32],
    /// `[words][NR]`, or a strip.
    right: &'a [u32],
    /// What the sums start from, if not from 0: the first float and the distance of rows.
    start: Option<(*const f32, usize)>,
    /// What is added to the sums in the end.
    residual: Option<(*const f32, usize)>,
    /// 1 to [`LeftForm::height`].
    height: usize,
    /// 1..=[`NR`].
    width: usize,
}

impl Left<'_> {
    fn check(&self, rows: usize, k: usize) {
        match *self {
            Left::Rows { x, ld } => assert!(ld >= k && (rows == 0 || x.len() >= (rows - 1) * ld + k), "left operand"),
            Left::Columns { x, ld } => {
                assert!(ld >= rows && (k == 0 || x.len() >= (k - 1) * ld + rows), "left operand")
            }
        }
    }
}

#[cfg(test)]
mod tests;
