//! Keys and values in 8 bits: integers q and, for every 32 along a head, a scale s in f16; a number is q·s.
//!
//! `s` is the largest magnitude of the 32 over 127, rounded to f16, and `q` the integer nearest to x/s (ties to even).
//! Numbers that are not finite make the scale NaN, and so all 32.
//!
//! A block of [`BLOCK`] positions is one piece of memory, for the keys as for the values, and both are read straight
//! ahead. Of the keys it has for each 32 along the head
//! ```text
//! [8 fours of the head][64 keys][4 of the head] u8 = q + 128, then [64 keys] f16
//! ```
//! so that a vector is sixteen keys, four numbers of each: what the instructions for sums of four products of bytes
//! take, the biased operand first. Of the values it has
//! ```text
//! [64 keys][head_dim, rounded up to 32] i8 = q, then for each 32 along the head [64 keys] f16
//! ```
//! A head whose width is no multiple of 32 is filled up with zeros.

use crate::attention::pack::{BLOCK, HeadRows, padded};
use crate::simd::{Simd, at_every_level};
use backend::KvType;
use half::f16;

/// Numbers that share a scale.
pub(crate) const SHARED: usize = KvType::BLOCK;
/// What is added to the integers of keys.
pub(crate) const BIAS: u8 = 128;
/// Numbers of a key that lie together.
pub(crate) const FOUR: usize = 4;
/// Bytes of 32 numbers of all keys of a block, scales included.
pub(crate) const KEYS_BYTES: usize = INTEGERS + 2 * BLOCK;
/// Of these, the bytes of the integers.
pub(crate) const INTEGERS: usize = SHARED * BLOCK;

/// Scales along a head.
pub(crate) const fn scales(head_dim: usize) -> usize {
    head_dim.div_ceil(SHARED)
}

/// Bytes of the keys, and of the values, of one position.
pub(crate) const fn position_bytes(head_dim: usize) -> usize {
    scales(head_dim) * (SHARED + 2)
}

/// The integers and the scale of up to 32 numbers.
#[inline(always)]
fn quantize(x: &[f32]) -> ([i8; SHARED], f16) {
    /// 1.5·2²³: a small number added to it is rounded to an integer, which is then in the low bits.
    const ROUNDER: f32 = 12_582_912.0;
    let mut padded = [0.0f32; SHARED];
    padded[..x.len()].copy_from_slice(x);
    // Compared as integers, magnitudes are in order, and infinity and NaN are above all.
    let largest = f32::from_bits(padded.iter().fold(0, |largest, x| largest.max(x.to_bits() & 0x7FFF_FFFF)));
    if !largest.is_finite() {
        return ([0; SHARED], f16::NAN);
    }
    let scale = f16::from_f32((largest / 127.0).min(f16::MAX.to_f32()));
    let inverse = if scale.to_bits() == 0 { 0.0 } else { 1.0 / scale.to_f32() };
    let nearest = |x: f32| ((x * inverse).clamp(-127.0, 127.0) + ROUNDER).to_bits() as i8;
    (padded.map(nearest), scale)
}

at_every_level! {
    /// Keeps keys and values of `rows` rows at position `at`; `to` begins with the block of `at`.
    pub(super) fn keep(to: [&mut [u8]; 2], from: [HeadRows<'_>; 2], at: usize, rows: usize) = keep_lanes;
}

#[inline(always)]
fn keep_lanes(_: impl Simd, to: [&mut [u8]; 2], from: [HeadRows<'_>; 2], at: usize, rows: usize) {
    let ([panels, values], [keys, source]) = (to, from);
    let head_dim = keys.head_dim;
    let block_bytes = position_bytes(head_dim) * BLOCK;
    let width = scales(head_dim) * SHARED;
    for row in 0..rows {
        let (block, key) = ((at % BLOCK + row) / BLOCK, (at + row) % BLOCK);
        let panel = &mut panels[block * block_bytes..][..block_bytes];
        for (x, to) in keys.row(row).chunks(SHARED).zip(panel.chunks_exact_mut(KEYS_BYTES)) {
            let (integers, scale) = quantize(x);
            let (to, to_scales) = to.split_at_mut(INTEGERS);
            for (four, to) in integers.as_chunks::<FOUR>().0.iter().zip(to.chunks_exact_mut(FOUR * BLOCK)) {
                to[key * FOUR..][..FOUR].copy_from_slice(&four.map(|q| (q as u8).wrapping_add(BIAS)));
            }
            to_scales[2 * key..][..2].copy_from_slice(&scale.to_le_bytes());
        }
        let (to, to_scales) = values[block * block_bytes..][..block_bytes].split_at_mut(width * BLOCK);
        for (index, x) in source.row(row).chunks(SHARED).enumerate() {
            let (integers, scale) = quantize(x);
            to[key * width + index * SHARED..][..SHARED].copy_from_slice(&integers.map(|q| q as u8));
            to_scales[2 * (index * BLOCK + key)..][..2].copy_from_slice(&scale.to_le_bytes());
        }
    }
}

at_every_level! {
    /// Whole blocks of keys and of values as f32, in the form that a cache of f32 has.
    pub(crate) fn widen(keys: &mut [f32], values: &mut [f32], panels: &[u8], rows: &[u8], head_dim: usize) = widen_lanes;
}

#[inline(always)]
fn widen_lanes(_: impl Simd, keys: &mut [f32], values: &mut [f32], panels: &[u8], rows: &[u8], head_dim: usize) {
    let block_bytes = position_bytes(head_dim) * BLOCK;
    let (width, full) = (padded(head_dim), scales(head_dim) * SHARED);
    for (keys, panel) in keys.chunks_exact_mut(BLOCK * head_dim).zip(panels.chunks_exact(block_bytes)) {
        for (keys, panel) in keys.chunks_mut(BLOCK * SHARED).zip(panel.chunks_exact(KEYS_BYTES)) {
            let (integers, factors) = panel.split_at(INTEGERS);
            let factors = scales_of(factors);
            for (d, keys) in keys.chunks_exact_mut(BLOCK).enumerate() {
                let fours = integers[d / FOUR * FOUR * BLOCK..][..FOUR * BLOCK].as_chunks::<FOUR>().0;
                for ((key, four), factor) in keys.iter_mut().zip(fours).zip(&factors) {
                    *key = f32::from(four[d % FOUR].wrapping_sub(BIAS) as i8) * factor;
                }
            }
        }
    }
    for (values, block) in values.chunks_exact_mut(BLOCK * width).zip(rows.chunks_exact(block_bytes)) {
        let (integers, factors) = block.split_at(full * BLOCK);
        for (index, factors) in factors.chunks_exact(2 * BLOCK).enumerate() {
            let factors = scales_of(factors);
            let at = index * SHARED;
            for ((row, integers), factor) in
                values.chunks_exact_mut(width).zip(integers.chunks_exact(full)).zip(&factors)
            {
                let row = &mut row[at..width.min(at + SHARED)];
                for (value, &q) in row.iter_mut().zip(&integers[at..]) {
                    *value = f32::from(q as i8) * factor;
                }
            }
        }
    }
}

/// The scales of a block's keys.
#[inline(always)]
fn scales_of(bytes: &[u8]) -> [f32; BLOCK] {
    let halves = bytes.as_chunks::<2>().0;
    std::array::from_fn(|key| f16::from_le_bytes(halves[key]).to_f32())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv_cache::{KvStore, Layer, Part};
    use crate::test_data::floats;
    use crate::{Pool, attention::keys_and_values};
    use backend::Heads;

    /// Of numbers of any size, the error is at most half a step, and a step is 1/127 of the largest of the 32 (a
    /// little more where its rounding to f16 made it larger).
    #[test]
    fn integers_are_nearest() {
        for size in [1e-7, 1e-3, 1.0, 300.0, 5e6] {
            let x: Vec<f32> = floats(1, 32).iter().map(|x| x * size).collect();
            let (integers, scale) = quantize(&x);
            let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
            let least = f16::from_bits(1).to_f32();
            assert!((scale.to_f32() - largest / 127.0).abs() <= (largest / 127.0 / 2048.0).max(least / 2.0), "{size}");
            for (x, q) in x.iter().zip(integers) {
                let error = (x - f32::from(q) * scale.to_f32()).abs();
                assert!(error <= scale.to_f32() * 0.501 + least * 64.0, "{x} as {q} · {scale}");
            }
        }
        assert_eq!(quantize(&[0.0; 5]), ([0; 32], f16::from_f32(0.0)));
        assert_eq!(quantize(&[3.0, -127.0, 0.5, 1.5]).0[..4], [3, -127, 0, 2]);
        for x in [f32::INFINITY, f32::NAN, -f32::NAN] {
            assert!(quantize(&[1.0, x, 2.0]).1.is_nan());
        }
    }

    #[test]
    fn stored_keys_and_values_are_widened_in_their_places() {
        for head_dim in [64, 20, 48, 80] {
            let heads = Heads { heads: 4, kv_heads: 2, head_dim };
            let (rows, at) = (70, 37);
            let qkv = floats(1, rows * heads.qkv_width());
            for level in crate::available() {
                let mut cache = KvStore::new(3, 120, heads, KvType::Q8_0).unwrap();
                cache.store(&Pool::new(2), level, 2, at, &qkv, rows);
                for kv_head in 0..heads.kv_heads {
                    let Layer::Q8(Part { panels, values }) = cache.layer(2, kv_head, 0..2) else { panic!("in 8 bits") };
                    let width = padded(head_dim);
                    let mut wide = (vec![9.0; 2 * BLOCK * head_dim], vec![9.0; 2 * BLOCK * width]);
                    widen(level, &mut wide.0, &mut wide.1, panels, values, head_dim);
                    for (row, position) in (at..at + rows).enumerate() {
                        let [key, value] = keys_and_values(&qkv, heads, kv_head).map(|source| source.row(row));
                        for d in 0..head_dim {
                            let of = |x: &[f32]| {
                                let (integers, scale) = quantize(&x[d / 32 * 32..head_dim.min(d / 32 * 32 + 32)]);
                                f32::from(integers[d % 32]) * scale.to_f32()
                            };
                            let panel = &wide.0[position / BLOCK * BLOCK * head_dim..];
                            assert_eq!(panel[d * BLOCK + position % BLOCK], of(key), "{level} {head_dim}");
                            assert_eq!(wide.1[position * width + d], of(value), "{level} {head_dim}");
                        }
                        assert!(wide.1[position * width + head_dim..(position + 1) * width].iter().all(|&x| x == 0.0));
                    }
                }
            }
        }
    }
}
