//! Activations rounded to 8 bits in blocks of 32.
//!
//! With `most` the largest magnitude of a block: `scale = most / 127`, and `q = round(x · (127 / most))`, computed as
//! one fused multiply-add onto 1.5·2²³, which rounds the exact product to the nearest integer, ties to even. A block
//! below 1e-36 becomes zeroes. A block with a number that is not finite has the scale NaN, and so have all sums over it.

use super::form::BLOCK;
use crate::Pool;
use crate::pool::Disjoint;
use crate::simd::{LANES, ROUNDER, Simd, at_every_level};
use crate::split::over_items;

/// Most rows of a tile, of which the [`Rounded`] blocks at one place of k lie together. Twelve are no faster
/// (`vnni.rs`).
pub(super) const MR: usize = 6;

/// Rows of the tiles that `rows` rows are cut into: as equal as can be, for a tile of one row costs nearly that of two.
pub(super) const fn tile_rows(rows: usize) -> usize {
    if rows == 0 { MR } else { rows.div_ceil(rows.div_ceil(MR)) }
}

/// Blocks of which the largest magnitude is less are zeroes: 127 divided by it would overflow.
const LEAST: f32 = 1e-36;

/// 32 activations of one row, on a line of their own, with all that a product may want of them.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(super) struct Rounded {
    /// `round(x / scale)`, −127…127.
    pub(super) q: [i8; BLOCK],
    /// `x ≈ scale · q`.
    pub(super) scale: f32,
    /// `scale · Σq`: what minima multiply. Of the rounded `x`, not of `x` itself, as the codes meet the rounded ones: where a
    /// weight is the small difference of `scale · code` and its minimum, the two errors cancel.
    pub(super) sum: f32,
    /// `−8·Σq`, `−16·Σq` and `−128·Σq`: what codes with that offset start from.
    pub(super) start: [i32; 3],
    /// `−32·Σq` of the first and of the last sixteen.
    pub(super) half_start: [i32; 2],
    unused: u32,
}

impl Rounded {
    /// What the integer sum over the whole block starts from where codes have an offset.
    pub(super) const fn index_of_start(offset: u8) -> usize {
        match offset {
            8 => 0,
            16 => 1,
            _ => 2,
        }
    }

    /// What the integer sum over half a block starts from where codes have an offset of 32, 4 or 0.
    #[inline(always)]
    pub(super) const fn half_start(&self, half: usize, offset: u8) -> i32 {
        match offset {
            0 => 0,
            4 => self.half_start[half] >> 3,
            _ => self.half_start[half],
        }
    }

    /// `scale · Σq` of half a block.
    #[inline(always)]
    pub(super) fn half_sum(&self, half: usize) -> f32 {
        self.scale * (self.half_start[half] >> 5).wrapping_neg() as f32
    }
}

/// Rounds `rows` rows of `blocks` blocks into tiles of [`tile_rows`] (the last may have fewer), `[tile][block][row]`.
pub(super) fn round(pool: &Pool, level: crate::Level, out: &mut [Rounded], x: &[f32], rows: usize, blocks: usize) {
    assert!(x.len() >= rows * blocks * BLOCK && out.len() == rows * blocks, "activations of {rows} rows");
    if rows * blocks == 0 {
        return;
    }
    let (out, tile) = (Disjoint::new(out), tile_rows(rows));
    over_items(pool, rows.div_ceil(tile) * blocks, rows * blocks * BLOCK, &|range| {
        for item in range {
            let (first, block) = (item / blocks * tile, item % blocks);
            let height = tile.min(rows - first);
            // SAFETY: the blocks of a tile's rows at one place of k; each is one item.
            let out = unsafe { out.piece(first * blocks + block * height, height) };
            round_rows(level, out, &x[(first * blocks + block) * BLOCK..], blocks * BLOCK);
        }
    });
}

at_every_level! {
    fn round_rows(out: &mut [Rounded], x: &[f32], stride: usize) = round_rows_of;
}

/// The first 32 numbers of each row of `x`.
#[inline(always)]
fn round_rows_of<S: Simd>(s: S, out: &mut [Rounded], x: &[f32], stride: usize) {
    for (out, x) in out.iter_mut().zip(x.chunks(stride)) {
        *out = round_block(s, x.as_chunks::<LANES>().0[..2].as_ref());
    }
}

#[inline(always)]
fn round_block<S: Simd>(s: S, x: &[[f32; LANES]]) -> Rounded {
    let mut rounded =
        Rounded { q: [0; BLOCK], scale: f32::NAN, sum: f32::NAN, start: [0; 3], half_start: [0; 2], unused: 0 };
    // Magnitudes in the order of their bits, in which NaN comes last.
    let most = x.as_flattened().iter().fold(0, |most, x| most.max(x.to_bits() & !(1 << 31)));
    let most = f32::from_bits(most);
    if !most.is_finite() {
        return rounded;
    }
    rounded.scale = most / 127.0;
    let inverse = s.splat(if most < LEAST { 0.0 } else { 127.0 / most });
    let mut sums = [0i32; 2];
    for (half, x) in x.iter().enumerate() {
        let shifted = s.lanes(s.fma(s.load(x), inverse, s.splat(ROUNDER)));
        for (q, shifted) in rounded.q[half * LANES..].iter_mut().zip(shifted) {
            // The integer stands in the low bits of the sum.
            *q = shifted.to_bits() as i8;
            sums[half] += i32::from(*q);
        }
    }
    let sum = sums[0] + sums[1];
    rounded.sum = rounded.scale * sum as f32;
    rounded.start = [-8 * sum, -16 * sum, -128 * sum];
    rounded.half_start = [-32 * sums[0], -32 * sums[1]];
    rounded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::{floats, pools};
    use bytemuck::Zeroable;

    fn rounded(level: crate::Level, x: &[f32], rows: usize, blocks: usize) -> Vec<Rounded> {
        let mut out = vec![Rounded::zeroed(); rows * blocks];
        round(&Pool::new(1), level, &mut out, x, rows, blocks);
        out
    }

    #[test]
    fn rounding_is_to_the_nearest_and_equal_at_every_level() {
        let (rows, blocks) = (19, 3);
        let x = floats(1, rows * blocks * BLOCK);
        let want = rounded(crate::Level::Scalar, &x, rows, blocks);
        for (r, x) in x.chunks_exact(blocks * BLOCK).enumerate() {
            let first = r / tile_rows(rows) * tile_rows(rows);
            let height = tile_rows(rows).min(rows - first);
            for (b, x) in x.chunks_exact(BLOCK).enumerate() {
                let got = &want[first * blocks + b * height + r - first];
                let most = x.iter().fold(0f32, |most, x| most.max(x.abs()));
                assert_eq!(got.scale, most / 127.0);
                for (&q, &x) in got.q.iter().zip(x) {
                    let exact = f64::from(x) * f64::from(127.0 / most);
                    assert_eq!(f64::from(q), exact.round_ties_even(), "{x}");
                }
                let sum = |q: &[i8]| q.iter().map(|&q| i32::from(q)).sum::<i32>();
                assert_eq!(got.start, [8, 16, 128].map(|offset| -offset * sum(&got.q)));
                assert_eq!(got.half_start, [-32 * sum(&got.q[..16]), -32 * sum(&got.q[16..])]);
                assert_eq!(got.sum, got.scale * sum(&got.q) as f32);
            }
        }
        for level in crate::available() {
            for pool in pools() {
                let mut out = vec![Rounded::zeroed(); rows * blocks];
                round(&pool, level, &mut out, &x, rows, blocks);
                let bytes = bytemuck::cast_slice::<Rounded, u8>;
                assert!(bytes(&out) == bytes(&want), "{level}");
            }
        }
    }

    #[test]
    fn tiles_are_nearly_equal() {
        let cut = |rows: usize| (tile_rows(rows), rows.div_ceil(tile_rows(rows)));
        assert_eq!([1, 6, 7, 8, 12, 13].map(cut), [(1, 1), (6, 1), (4, 2), (4, 2), (6, 2), (5, 3)]);
    }

    #[test]
    fn ties_zeroes_and_tiny_numbers() {
        for level in crate::available() {
            let mut x = [0.0; 4 * BLOCK];
            x[..5].copy_from_slice(&[127.0, 0.5, 1.5, -2.5, -126.5]);
            x[2 * BLOCK] = 1e-40;
            x[3 * BLOCK] = -1e-36;
            let got = rounded(level, &x, 1, 4);
            assert_eq!(got[0].q[..6], [127, 0, 2, -2, -126, 0], "{level}");
            assert_eq!((got[1].q, got[1].scale), ([0; BLOCK], 0.0));
            assert_eq!(got[2].q, [0; BLOCK]);
            assert_eq!((got[3].q[0], got[3].q[1]), (-127, 0));
        }
    }

    #[test]
    fn what_is_not_finite_is_nan() {
        for level in crate::available() {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN] {
                let mut x = floats(2, 2 * BLOCK);
                x[BLOCK + 7] = bad;
                let got = rounded(level, &x, 1, 2);
                assert!(got[0].scale.is_finite() && got[1].scale.is_nan() && got[1].q == [0; BLOCK], "{level}");
            }
        }
    }
}
