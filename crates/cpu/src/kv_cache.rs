//! Keys and values of the positions seen so far, laid out for [`attention_cached`](crate::attention::attention_cached).
//!
//! For each layer and key head: keys as panels (see [`pack`](crate::attention::pack)), so that one query's scores are
//! a stream of whole vectors; values as rows padded to whole vectors. Both in f32, or in bf16 (nearest, ties to even).

use crate::attention::keys_and_values;
use crate::attention::pack::{BLOCK, HeadRows, padded, to_panels, to_rows};
use crate::lines::{Line, zeroed};
use crate::pool::Disjoint;
use crate::simd::{Simd, at_every_level};
use crate::split::over_items;
use crate::{Level, Pool};
use backend::{BackendError, Heads, Precision};

/// The cache of a model: all layers.
pub(crate) struct KvStore {
    keys: Vec<Line>,
    values: Vec<Line>,
    layers: usize,
    capacity: usize,
    heads: Heads,
    precision: Precision,
}

/// Blocks `0..` of one key head of one layer.
pub(crate) enum Layer<'a> {
    F32 { panels: &'a [f32], values: &'a [f32] },
    Bf16 { panels: &'a [u16], values: &'a [u16] },
}

impl KvStore {
    /// Room for `capacity` positions, rounded up to whole blocks.
    pub(crate) fn new(
        layers: usize,
        capacity: usize,
        heads: Heads,
        precision: Precision,
    ) -> Result<Self, BackendError> {
        let element = match precision {
            Precision::F32 => size_of::<f32>(),
            Precision::Bf16 => size_of::<u16>(),
        };
        let bytes = |head_dim: usize| {
            let each = layers.checked_mul(heads.kv_heads)?.checked_mul(head_dim)?.checked_mul(element)?;
            each.checked_mul(capacity.checked_next_multiple_of(BLOCK)?)
        };
        let room = |head_dim| {
            let bytes = bytes(head_dim);
            let memory = bytes.and_then(|bytes| zeroed(bytes).ok());
            let bytes = bytes.unwrap_or(usize::MAX);
            memory.ok_or(BackendError::OutOfMemory { what: "the cache of keys and values", bytes })
        };
        let (keys, values) = (room(heads.head_dim)?, room(padded(heads.head_dim))?);
        Ok(Self { keys, values, layers, capacity: capacity.next_multiple_of(BLOCK), heads, precision })
    }

    pub(crate) fn heads(&self) -> Heads {
        self.heads
    }

    /// Positions that it has room for.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes that it holds.
    pub(crate) fn bytes(&self) -> usize {
        (self.keys.len() + self.values.len()) * size_of::<Line>()
    }

    /// The first `blocks` blocks of key head `kv_head` of `layer`.
    pub(crate) fn layer(&self, layer: usize, kv_head: usize, blocks: usize) -> Layer<'_> {
        assert!(layer < self.layers && kv_head < self.heads.kv_heads, "layer {layer} of {}", self.layers);
        let index = layer * self.heads.kv_heads + kv_head;
        match self.precision {
            Precision::F32 => Layer::F32 {
                panels: part(bytemuck::cast_slice(&self.keys), index, self.heads.head_dim, self.capacity, blocks),
                values: part(
                    bytemuck::cast_slice(&self.values),
                    index,
                    padded(self.heads.head_dim),
                    self.capacity,
                    blocks,
                ),
            },
            Precision::Bf16 => Layer::Bf16 {
                panels: part(bytemuck::cast_slice(&self.keys), index, self.heads.head_dim, self.capacity, blocks),
                values: part(
                    bytemuck::cast_slice(&self.values),
                    index,
                    padded(self.heads.head_dim),
                    self.capacity,
                    blocks,
                ),
            },
        }
    }

    /// Stores keys and values of `rows` rows of `qkv` at positions `at..at + rows`, over what was there.
    pub(crate) fn store(&mut self, pool: &Pool, level: Level, layer: usize, at: usize, qkv: &[f32], rows: usize) {
        assert!(layer < self.layers, "layer {layer} of {}", self.layers);
        assert!(at + rows <= self.capacity, "positions {at}..{} of {}", at + rows, self.capacity);
        match self.precision {
            Precision::F32 => self.keep(pool, layer, at, qkv, rows, &|to, from| keep_f32(level, to, from, at, rows)),
            Precision::Bf16 => self.keep(pool, layer, at, qkv, rows, &|to, from| keep_bf16(level, to, from, at, rows)),
        }
    }

    fn keep<E: bytemuck::Pod + Send>(
        &mut self,
        pool: &Pool,
        layer: usize,
        at: usize,
        qkv: &[f32],
        rows: usize,
        keep: &(dyn Fn([&mut [E]; 2], [HeadRows<'_>; 2]) + Sync),
    ) {
        let (heads, capacity) = (self.heads, self.capacity);
        let panels = Disjoint::new(bytemuck::cast_slice_mut::<_, E>(&mut self.keys));
        let values = Disjoint::new(bytemuck::cast_slice_mut::<_, E>(&mut self.values));
        over_items(pool, heads.kv_heads, rows * heads.kv_width(), &|kv_heads| {
            for kv_head in kv_heads {
                let first = (layer * heads.kv_heads + kv_head) * capacity;
                let from = |width: usize, position: usize| (first + position) * width..(first + capacity) * width;
                // SAFETY: key heads differ from thread to thread, and their parts do not overlap.
                let panels = unsafe { panels.range(from(heads.head_dim, at / BLOCK * BLOCK)) };
                // SAFETY: as above.
                let values = unsafe { values.range(from(padded(heads.head_dim), at)) };
                keep([panels, values], keys_and_values(qkv, heads, kv_head));
            }
        });
    }
}

at_every_level! {
    /// Keeps keys and values as they are.
    fn keep_f32(to: [&mut [f32]; 2], from: [HeadRows<'_>; 2], at: usize, rows: usize) = keep_f32_lanes;
}

#[inline(always)]
fn keep_f32_lanes(_: impl Simd, to: [&mut [f32]; 2], from: [HeadRows<'_>; 2], at: usize, rows: usize) {
    let ([panels, values], [keys, source]) = (to, from);
    to_panels(panels, keys, 0, at, rows, |x| x);
    to_rows(values, source, 0, rows, |x| x);
}

at_every_level! {
    /// Keeps keys and values rounded.
    fn keep_bf16(to: [&mut [u16]; 2], from: [HeadRows<'_>; 2], at: usize, rows: usize) = keep_bf16_lanes;
}

#[inline(always)]
fn keep_bf16_lanes(_: impl Simd, to: [&mut [u16]; 2], from: [HeadRows<'_>; 2], at: usize, rows: usize) {
    let ([panels, values], [keys, source]) = (to, from);
    to_panels(panels, keys, 0, at, rows, bf16_bits);
    to_rows(values, source, 0, rows, bf16_bits);
}

/// The nearest bf16, ties to even, without a branch, so that the compiler does sixteen at a time.
#[inline(always)]
fn bf16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16;
    // A NaN could round to infinity: it stays one by its highest bit.
    (if x.is_nan() { bits >> 16 | 0x40 } else { rounded }) as u16
}

/// The first `blocks` blocks of head `index`, `width` elements a position.
fn part<E>(all: &[E], index: usize, width: usize, capacity: usize, blocks: usize) -> &[E] {
    &all[index * capacity * width..][..blocks * BLOCK * width]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::floats;

    #[test]
    fn rounding_is_that_of_half() {
        let special = [0.0, -0.0, f32::INFINITY, f32::NAN, -f32::NAN, f32::MAX, f32::MIN_POSITIVE, 1e-42];
        let patterns = (0..1_000_000u32).map(|i| f32::from_bits(i.wrapping_mul(4_294_967)));
        for x in patterns.chain(special) {
            assert_eq!(bf16_bits(x), half::bf16::from_f32(x).to_bits(), "{:08x}", x.to_bits());
        }
    }

    #[test]
    fn stored_keys_and_values_are_found_in_their_places() {
        let heads = Heads { heads: 4, kv_heads: 2, head_dim: 20 };
        let (rows, at) = (70, 37);
        let qkv = floats(1, rows * heads.qkv_width());
        for level in crate::available() {
            let mut cache = KvStore::new(3, 120, heads, Precision::F32).unwrap();
            cache.store(&Pool::new(2), level, 2, at, &qkv, rows);
            for kv_head in 0..heads.kv_heads {
                let Layer::F32 { panels, values } = cache.layer(2, kv_head, 2) else { panic!("kept in f32") };
                for (row, position) in (at..at + rows).enumerate() {
                    for d in 0..heads.head_dim {
                        let [key, value] = keys_and_values(&qkv, heads, kv_head).map(|source| source.row(row)[d]);
                        let panel = &panels[position / BLOCK * BLOCK * heads.head_dim..];
                        assert_eq!(panel[d * BLOCK + position % BLOCK], key);
                        assert_eq!(values[position * padded(heads.head_dim) + d], value);
                    }
                }
                assert!(values[..at * padded(heads.head_dim)].iter().all(|&value| value == 0.0));
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_size() {
        let heads = Heads { heads: 4, kv_heads: 4, head_dim: 64 };
        for capacity in [usize::MAX, usize::MAX / 4096] {
            let error = KvStore::new(2, capacity, heads, Precision::F32).err().map(|error| error.to_string());
            assert!(error.is_some_and(|error| error.starts_with("the cache of keys and values: ")), "{capacity}");
        }
    }

    #[test]
    fn bytes_are_those_of_whole_blocks() {
        let heads = Heads { heads: 4, kv_heads: 2, head_dim: 64 };
        let bytes = |precision| KvStore::new(3, 100, heads, precision).unwrap().bytes();
        assert_eq!(bytes(Precision::F32), 3 * 128 * 2 * 2 * 64 * 4);
        assert_eq!(bytes(Precision::Bf16), 3 * 128 * 2 * 2 * 64 * 2);
    }
}
