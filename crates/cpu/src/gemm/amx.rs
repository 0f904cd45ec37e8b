//! Blocks of 32 × 32 sums in four tiles of Intel's AMX, for the rows of prompts and of training.
//!
//! A tile is sixteen rows of 64 bytes. `tdpbf16ps` adds to a tile of sums the product of sixteen rows of A, sixteen words
//! (pairs of bf16) each, and of sixteen words of k of B, sixteen outputs each: a panel of B is in that order as it is
//! packed, a *step* of sixteen words being sixteen lines of 256 bytes. Two tiles of A and two of B are loaded for four
//! products; a product takes sixteen cycles and a load from L1 eight (Intel's manual for optimisation), so that arithmetic is the bound.
//!
//! # The sum
//! In steps of 32 k from the start of the product; within one, as Intel's manual has it (not measured): a chain of fused
//! multiply-adds over the sixteen odd k from 0, another over the even k, both added, and then added to the sum; rounded to
//! nearest, subnormal numbers read and written as 0. What is beyond k counts as 0. So a row's bits depend on nothing but
//! the row; and a sum goes on from a stored one with the same bits where the cut is at a multiple of 32.
//!
//! # Tiles and the compiler
//! The compiler knows nothing of tile registers and uses none. No tile lives outside one block of `asm!`, which loads what
//! it needs and stores what it has made; only the configuration, eight tiles of 16 × 64 bytes, stays for a task
//! ([`Configured`]). Tests have a second tile unit, in plain Rust ([`software`]), behind the same two functions.

mod check;
#[cfg(any(test, feature = "software-tiles"))]
mod software;

pub(crate) use check::tiles_are_right;

use super::{NR, Tile};
use std::arch::asm;
use std::marker::PhantomData;

/// Rows of a block, two tiles high.
pub(super) const ROWS: usize = 32;
/// Outputs of a block, two tiles wide.
const COLUMNS: usize = 32;
/// Words of k of a step: a row of a tile.
pub(super) const STEP: usize = 16;
/// Words of packed A of a step: two tiles.
pub(super) const STEP_WORDS: usize = ROWS * STEP;
/// Bytes between rows of a tile of A.
const LEFT_STRIDE: usize = 4 * STEP;
/// Bytes between rows (words of k) of a tile of B.
const RIGHT_STRIDE: usize = 4 * NR;

/// What `ldtilecfg` reads: palette 1, start row 0, and for each of eight tiles 64 bytes a row and sixteen rows.
#[repr(C, align(64))]
struct Configuration([u8; 64]);

static CONFIGURATION: Configuration = {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    let mut tile = 0;
    while tile < 8 {
        bytes[16 + 2 * tile] = 64;
        bytes[48 + tile] = 16;
        tile += 1;
    }
    Configuration(bytes)
};

/// Whether the tiles are those of [`software`].
#[cfg(any(test, feature = "software-tiles"))]
fn emulated() -> bool {
    !crate::level::has_tiles()
}

/// While it lives, this thread's tiles are configured. There must be one at a time: the end of an inner one would take the
/// tiles from the outer. (A task makes it, and no task runs another.)
pub(super) struct Configured(PhantomData<*const ()>);

impl Configured {
    /// # Safety
    /// The processor has tiles, and the system has permitted them, or there are software tiles.
    pub(super) unsafe fn new() -> Self {
        #[cfg(any(test, feature = "software-tiles"))]
        if emulated() {
            software::configure(&CONFIGURATION.0);
            return Self(PhantomData);
        }
        // SAFETY: reads the 64 bytes of a valid configuration, zeroes the tiles, which nobody else uses, and changes no
        // other register. Memory counts as read and written (no `nomem`, no `readonly`): all 64 bytes are in place.
        unsafe {
            asm!(
                "ldtilecfg [{configuration}]",
                configuration = in(reg) &raw const CONFIGURATION,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
        Self(PhantomData)
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        #[cfg(any(test, feature = "software-tiles"))]
        if emulated() {
            return software::release();
        }
        // SAFETY: a `Configured` was made, so the processor has the instruction; the tiles go back to their first state,
        // which the system need not save when it switches threads.
        unsafe {
            asm!(
                "tilerelease",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

/// 32 × 32 sums over some steps.
struct Block {
    /// `[step][ROWS][STEP]`.
    left: *const u32,
    /// `[word of k][NR]`, of which the first [`COLUMNS`] outputs.
    right: *const u32,
    steps: usize,
    /// The first sum and the distance of rows.
    sums: (*mut f32, usize),
    /// Whether the sums go on from what is there; else from 0.
    go_on: bool,
}

/// # Safety
/// `left` and `right` reach `steps` steps, `sums` [`ROWS`] rows of [`COLUMNS`] floats, which no other thread writes; a
/// [`Configured`] lives on this thread.
unsafe fn multiply(block: &Block) {
    #[cfg(any(test, feature = "software-tiles"))]
    if emulated() {
        // SAFETY: as the caller promises.
        return unsafe { software::multiply(block) };
    }
    let (above, ld) = block.sums;
    // SAFETY: the tiles are configured as sixteen rows of 64 bytes: [`LEFT_STRIDE`], [`RIGHT_STRIDE`] and `ld` apart they
    // are inside of what the caller promises, for every step, as both pointers go on by a step. Nothing else is read or
    // written but the registers named; memory counts as read and written. The tiles are dead before and after.
    unsafe {
        asm!(
            "test {go_on}, {go_on}",
            "jz 2f",
            "tileloadd tmm0, [{above} + {ld}*1]",
            "tileloadd tmm1, [{above} + {ld}*1 + 64]",
            "tileloadd tmm2, [{below} + {ld}*1]",
            "tileloadd tmm3, [{below} + {ld}*1 + 64]",
            "jmp 3f",
            "2:",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "3:",
            "test {steps}, {steps}",
            "jz 5f",
            "4:",
            "tileloadd tmm6, [{right} + {right_stride}*1]",
            "tileloadd tmm4, [{left} + {left_stride}*1]",
            "tileloadd tmm7, [{right} + {right_stride}*1 + 64]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{left} + {left_stride}*1 + 1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {left}, 2048",
            "add {right}, 4096",
            "sub {steps}, 1",
            "jnz 4b",
            "5:",
            "tilestored [{above} + {ld}*1], tmm0",
            "tilestored [{above} + {ld}*1 + 64], tmm1",
            "tilestored [{below} + {ld}*1], tmm2",
            "tilestored [{below} + {ld}*1 + 64], tmm3",
            above = in(reg) above,
            below = in(reg) above.wrapping_add(ROWS / 2 * ld),
            ld = in(reg) 4 * ld,
            go_on = in(reg) usize::from(block.go_on),
            left = inout(reg) block.left => _,
            left_stride = in(reg) LEFT_STRIDE,
            right = inout(reg) block.right => _,
            right_stride = in(reg) RIGHT_STRIDE,
            steps = inout(reg) block.steps => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// Numbers on lines of their own.
#[repr(C, align(64))]
struct Lines<T, const N: usize>([T; N]);

/// Up to [`ROWS`] × [`NR`] sums, as two blocks side by side. Tiles cannot be cut: what is outside C, and sums that a
/// residual is added to, pass through a block on the stack; so do the last words of k, followed by zeroes.
///
/// # Safety
/// [`Tile`]'s pointers and `out` reach `height` rows of `width` floats, which no other thread writes; the processor has
/// AVX-512, and a [`Configured`] lives on this thread.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn tile(tile: &Tile<'_>, out: (*mut f32, usize)) {
    let words = tile.right.len() / NR;
    let (steps, rest) = (words / STEP, words % STEP);
    assert!(tile.left.len() == words.div_ceil(STEP) * STEP_WORDS && tile.height <= ROWS && tile.width <= NR);
    let last = (rest > 0).then(|| {
        let mut last = Lines([0u32; STEP * NR]);
        last.0[..rest * NR].copy_from_slice(&tile.right[steps * STEP * NR..]);
        last
    });
    let is_out = |start: (*const f32, usize)| start == (out.0.cast_const(), out.1);
    for column in (0..tile.width).step_by(COLUMNS) {
        let width = COLUMNS.min(tile.width - column);
        let whole = tile.height == ROWS && width == COLUMNS;
        let direct = whole && tile.residual.is_none() && tile.start.is_none_or(is_out);
        let own = (out.0.wrapping_add(column), out.1);
        let mut beside = match direct {
            true => None,
            false => Some(Lines([0.0f32; ROWS * COLUMNS])),
        };
        let sums = beside.as_mut().map_or(own, |beside| (beside.0.as_mut_ptr(), COLUMNS));
        if let (Some(start), false) = (tile.start, direct) {
            // SAFETY: `height` rows of `width` floats from `column` on are inside of what the caller promises.
            unsafe { copy_rows((start.0.wrapping_add(column), start.1), sums, tile.height, width) };
        }
        let right = tile.right.as_ptr().wrapping_add(column);
        let go_on = tile.start.is_some();
        // SAFETY: A and B are `steps` steps long and `rest` words, which `last` has, followed by zeroes, as A has them;
        // where `sums` are in C, C has the whole block.
        unsafe {
            if steps > 0 || rest == 0 {
                multiply(&Block { left: tile.left.as_ptr(), right, steps, sums, go_on });
            }
            if let Some(last) = &last {
                let left = tile.left[steps * STEP_WORDS..].as_ptr();
                let right = last.0.as_ptr().wrapping_add(column);
                multiply(&Block { left, right, steps: 1, sums, go_on: go_on || steps > 0 });
            }
        }
        if let Some(beside) = &beside {
            let residual = tile.residual.map(|(start, ld)| (start.wrapping_add(column), ld));
            // SAFETY: as above.
            unsafe { finish(beside, residual, own, tile.height, width) };
        }
    }
}

/// # Safety
/// Both reach `height` rows of `width` floats, the second to be written, and do not overlap.
unsafe fn copy_rows(from: (*const f32, usize), to: (*mut f32, usize), height: usize, width: usize) {
    for i in 0..height {
        let (from, to) = (from.0.wrapping_add(i * from.1), to.0.wrapping_add(i * to.1));
        // SAFETY: as the caller promises.
        unsafe { std::ptr::copy_nonoverlapping(from, to, width) };
    }
}

/// Stores the sums, added to the residual where there is one.
///
/// # Safety
/// `residual` and `out` reach `height` rows of `width` floats, which no other thread writes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn finish(
    sums: &Lines<f32, { ROWS * COLUMNS }>,
    residual: Option<(*const f32, usize)>,
    out: (*mut f32, usize),
    height: usize,
    width: usize,
) {
    for (i, sums) in sums.0.chunks_exact(COLUMNS).take(height).enumerate() {
        let out = out.0.wrapping_add(i * out.1);
        for (j, &sum) in sums[..width].iter().enumerate() {
            // SAFETY: as the caller promises; a residual that is the output is read before it is written.
            unsafe {
                let residual = residual.map(|(start, ld)| *start.wrapping_add(i * ld + j));
                *out.wrapping_add(j) = residual.map_or(sum, |residual| residual + sum);
            }
        }
    }
}

/// Products by `passes` rounds of four tiles in registers: the loop that a ceiling is measured with. Returns the
/// operations done (a multiply-add is two).
///
/// # Safety
/// As [`Configured::new`], and not within the life of a [`Configured`].
pub(crate) unsafe fn products_in_registers(passes: usize) -> f64 {
    // SAFETY: as the caller promises.
    let _tiles = unsafe { Configured::new() };
    #[cfg(any(test, feature = "software-tiles"))]
    if emulated() {
        return 0.0;
    }
    // SAFETY: the tiles are configured; no memory is touched; the tiles are dead before and after.
    unsafe {
        asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
            "test {passes}, {passes}",
            "jz 3f",
            "2:",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "sub {passes}, 1",
            "jnz 2b",
            "3:",
            passes = inout(reg) passes => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
    (passes * 4 * 16 * 16 * 32 * 2) as f64
}

#[cfg(test)]
mod tests;
