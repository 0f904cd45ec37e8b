//! A tile unit in plain Rust, for machines without one: what Intel's manual says of the six instructions, with an assertion
//! where the processor would raise a fault. It is there for tests alone and as slow as one expects.

use super::{Block, LEFT_STRIDE, RIGHT_STRIDE, ROWS, STEP, STEP_WORDS};
use crate::gemm::NR;
use std::cell::RefCell;

/// Words of a row of a tile.
const WORDS: usize = 16;

/// A tile: sixteen rows of sixteen words.
type Register = [[u32; WORDS]; 16];

/// What `ldtilecfg` has set: rows, and bytes of a row, of each tile.
#[derive(Clone, Copy)]
struct Shapes {
    rows: [usize; 8],
    bytes: [usize; 8],
}

/// The tile unit of a thread.
pub(super) struct Unit {
    shapes: Option<Shapes>,
    tiles: [Register; 8],
}

thread_local! {
    static UNIT: RefCell<Unit> = const { RefCell::new(Unit::released()) };
}

/// `ldtilecfg` on this thread.
pub(super) fn configure(configuration: &[u8; 64]) {
    UNIT.with_borrow_mut(|unit| {
        assert!(unit.shapes.is_none(), "the tiles of a task are configured once");
        unit.configure(configuration);
    });
}

/// `tilerelease` on this thread.
pub(super) fn release() {
    UNIT.with_borrow_mut(|unit| *unit = Unit::released());
}

/// What the block of assembly in [`super::multiply`] does, instruction by instruction.
///
/// # Safety
/// As there.
pub(super) unsafe fn multiply(block: &Block) {
    let (above, ld) = block.sums;
    let quarter = |i: usize| above.wrapping_add(i / 2 * (ROWS / 2) * ld + i % 2 * WORDS).cast::<u32>();
    UNIT.with_borrow_mut(|unit| {
        for i in 0..4 {
            match block.go_on {
                // SAFETY: as the caller promises.
                true => unsafe { unit.load(i, quarter(i), 4 * ld) },
                false => unit.zero(i),
            }
        }
        let (mut left, mut right) = (block.left, block.right);
        for _ in 0..block.steps {
            // SAFETY: as the caller promises.
            unsafe {
                unit.load(6, right, RIGHT_STRIDE);
                unit.load(4, left, LEFT_STRIDE);
                unit.load(7, right.wrapping_add(WORDS), RIGHT_STRIDE);
                unit.load(5, left.wrapping_add(STEP_WORDS / 2), LEFT_STRIDE);
            }
            unit.add_products(0, 4, 6);
            unit.add_products(1, 4, 7);
            unit.add_products(2, 5, 6);
            unit.add_products(3, 5, 7);
            left = left.wrapping_add(STEP_WORDS);
            right = right.wrapping_add(STEP * NR);
        }
        for i in 0..4 {
            // SAFETY: as the caller promises.
            unsafe { unit.store(i, quarter(i), 4 * ld) };
        }
    });
}

impl Unit {
    /// Without a configuration: no instruction on tiles may run.
    pub(super) const fn released() -> Self {
        Self { shapes: None, tiles: [[[0; WORDS]; 16]; 8] }
    }

    /// `ldtilecfg`: the configuration must be one that the processor takes, all tiles become 0.
    pub(super) fn configure(&mut self, configuration: &[u8; 64]) {
        assert_eq!(configuration[..2], [1, 0], "palette 1, start row 0");
        assert!(configuration[2..16].iter().chain(&configuration[32..48]).all(|&byte| byte == 0), "reserved bytes");
        assert!(configuration[56..].iter().all(|&byte| byte == 0), "reserved bytes");
        let bytes =
            |tile: usize| usize::from(configuration[16 + 2 * tile]) | usize::from(configuration[17 + 2 * tile]) << 8;
        let shapes = Shapes {
            rows: std::array::from_fn(|tile| usize::from(configuration[48 + tile])),
            bytes: std::array::from_fn(bytes),
        };
        assert!(shapes.rows.iter().all(|&rows| rows <= 16) && shapes.bytes.iter().all(|&bytes| bytes <= 64));
        *self = Self { shapes: Some(shapes), ..Self::released() };
    }

    /// Rows and words of a row of a tile, which must be configured.
    fn shape(&self, tile: usize) -> (usize, usize) {
        let shapes = self.shapes.expect("the tiles are configured");
        assert!(shapes.rows[tile] > 0 && shapes.bytes[tile].is_multiple_of(4), "tile {tile}");
        (shapes.rows[tile], shapes.bytes[tile] / 4)
    }

    /// `tilezero`.
    pub(super) fn zero(&mut self, tile: usize) {
        self.shape(tile);
        self.tiles[tile] = [[0; WORDS]; 16];
    }

    /// `tileloadd`: rows `stride` bytes apart; the rest of the tile becomes 0.
    ///
    /// # Safety
    /// The rows can be read.
    pub(super) unsafe fn load(&mut self, tile: usize, from: *const u32, stride: usize) {
        let (rows, words) = self.shape(tile);
        self.tiles[tile] = [[0; WORDS]; 16];
        for (i, row) in self.tiles[tile].iter_mut().take(rows).enumerate() {
            // SAFETY: as the caller promises.
            unsafe { from.wrapping_byte_add(i * stride).copy_to_nonoverlapping(row.as_mut_ptr(), words) };
        }
    }

    /// `tilestored`.
    ///
    /// # Safety
    /// The rows can be written.
    pub(super) unsafe fn store(&self, tile: usize, to: *mut u32, stride: usize) {
        let (rows, words) = self.shape(tile);
        for (i, row) in self.tiles[tile].iter().take(rows).enumerate() {
            // SAFETY: as the caller promises.
            unsafe { to.wrapping_byte_add(i * stride).copy_from_nonoverlapping(row.as_ptr(), words) };
        }
    }

    /// `tdpbf16ps c, a, b`.
    pub(super) fn add_products(&mut self, c: usize, a: usize, b: usize) {
        let ((rows, columns), (_, words)) = (self.shape(c), self.shape(a));
        assert_eq!((rows, words, columns), (self.shape(a).0, self.shape(b).0, self.shape(b).1), "shapes of a product");
        assert!(c != a && c != b && a != b, "three different tiles");
        let (a, b) = (self.tiles[a], self.tiles[b]);
        for (sums, a) in self.tiles[c].iter_mut().zip(&a).take(rows) {
            add_row(sums, &a[..words], &b);
        }
    }
}

/// A row of sums: chains over the lower and over the upper halves of the words, both added, then added to the sum.
fn add_row(sums: &mut [u32; WORDS], a: &[u32], b: &Register) {
    #[target_feature(enable = "fma,avx2")]
    fn fused(sums: &mut [u32; WORDS], a: &[u32], b: &Register) {
        add_row_of(sums, a, b);
    }
    if std::arch::is_x86_feature_detected!("fma") && std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the instructions were just seen.
        return unsafe { fused(sums, a, b) };
    }
    add_row_of(sums, a, b);
}

#[inline(always)]
fn add_row_of(sums: &mut [u32; WORDS], a: &[u32], b: &Register) {
    let halves = |word: u32| [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)].map(flush);
    let (mut lower, mut upper) = ([0.0; WORDS], [0.0; WORDS]);
    for (&a, b) in a.iter().zip(b) {
        let [a_lower, a_upper] = halves(a);
        for (column, &b) in b.iter().enumerate() {
            let [b_lower, b_upper] = halves(b);
            lower[column] = flush(a_lower.mul_add(b_lower, lower[column]));
            upper[column] = flush(a_upper.mul_add(b_upper, upper[column]));
        }
    }
    for (sum, (lower, upper)) in sums.iter_mut().zip(lower.into_iter().zip(upper)) {
        *sum = flush(flush(f32::from_bits(*sum)) + flush(lower + upper)).to_bits();
    }
}

/// Subnormal numbers are 0.
#[inline(always)]
fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0f32.copysign(x) } else { x }
}
