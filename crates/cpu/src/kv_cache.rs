//! Keys and values of the positions seen so far, laid out for [`attention_cached`](crate::attention::attention_cached).
//!
//! For each layer and key head: keys as panels (see [`pack`](crate::attention::pack)), so that one query's scores are
//! a stream of whole vectors; values as rows padded to whole vectors. Both in f32, or in bf16 (nearest, ties to even).

use crate::attention::keys_and_values;
use crate::attention::pack::{BLOCK, HeadRows, padded, to_panels, to_rows};
use crate::memory::Aligned;
use crate::pool::Disjoint;
use crate::simd::{Simd, at_every_level};
use crate::split::over_items;
use crate::{Level, Pool};
use backend::{BackendError, Heads, Precision};
use bytemuck::Pod;

/// The cache of a model: all layers.
pub(crate) struct KvStore {
    kept: Kept,
    layers: usize,
    capacity: usize,
    heads: Heads,
}

/// Keys and values of all layers and key heads.
enum Kept {
    F32 { panels: Aligned<f32>, values: Aligned<f32> },
    Bf16 { panels: Aligned<u16>, values: Aligned<u16> },
}

/// Blocks `0..` of one key head of one layer.
pub(crate) enum Layer<'a> {
    F32 { panels: &'a [f32], values: &'a [f32] },
    Bf16 { panels: &'a [u16], values: &'a [u16] },
}

/// As many zeroes as the product of `sizes`.
fn room<E: Pod>(sizes: [usize; 4]) -> Result<Aligned<E>, BackendError> {
    let len = sizes.iter().try_fold(1usize, |len, &size| len.checked_mul(size));
    let bytes = len.and_then(|len| len.checked_mul(size_of::<E>())).unwrap_or(usize::MAX);
    let memory = len.and_then(Aligned::zeroed);
    memory.ok_or(BackendError::OutOfMemory { what: "the cache of keys and values", bytes })
}

impl KvStore {
    /// Room for `capacity` positions, rounded up to whole blocks.
    pub(crate) fn new(
        layers: usize,
        capacity: usize,
        heads: Heads,
        precision: Precision,
    ) -> Result<Self, BackendError> {
        let capacity = capacity.checked_next_multiple_of(BLOCK).unwrap_or(usize::MAX);
        let sizes = |width| [layers, heads.kv_heads, width, capacity];
        let (keys, values) = (sizes(heads.head_dim), sizes(padded(heads.head_dim)));
        let kept = match precision {
            Precision::F32 => Kept::F32 { panels: room(keys)?, values: room(values)? },
            Precision::Bf16 => Kept::Bf16 { panels: room(keys)?, values: room(values)? },
            Precision::Int8 => panic!("a cache of keys and values is kept in f32 or bf16"),
        };
        Ok(Self { kept, layers, capacity, heads })
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
        match &self.kept {
            Kept::F32 { panels, values } => panels.bytes() + values.bytes(),
            Kept::Bf16 { panels, values } => panels.bytes() + values.bytes(),
        }
    }

    /// The first `blocks` blocks of key head `kv_head` of `layer`.
    pub(crate) fn layer(&self, layer: usize, kv_head: usize, blocks: usize) -> Layer<'_> {
        assert!(layer < self.layers && kv_head < self.heads.kv_heads, "layer {layer} of {}", self.layers);
        let first = (layer * self.heads.kv_heads + kv_head) * self.capacity;
        let of = |width: usize| first * width..(first + blocks * BLOCK) * width;
        let (keys, rows) = (of(self.heads.head_dim), of(padded(self.heads.head_dim)));
        match &self.kept {
            Kept::F32 { panels, values } => Layer::F32 { panels: &panels[keys], values: &values[rows] },
            Kept::Bf16 { panels, values } => Layer::Bf16 { panels: &panels[keys], values: &values[rows] },
        }
    }

    /// Stores keys and values of `rows` rows of `qkv` at positions `at..at + rows`, over what was there.
    pub(crate) fn store(&mut self, pool: &Pool, level: Level, layer: usize, at: usize, qkv: &[f32], rows: usize) {
        assert!(layer < self.layers, "layer {layer} of {}", self.layers);
        assert!(at + rows <= self.capacity, "positions {at}..{} of {}", at + rows, self.capacity);
        let place = Place {
            heads: self.heads,
            first: layer * self.heads.kv_heads * self.capacity,
            capacity: self.capacity,
            at,
        };
        match &mut self.kept {
            Kept::F32 { panels, values } => {
                place.keep(pool, panels, values, qkv, rows, &|to, from| keep_f32(level, to, from, at, rows));
            }
            Kept::Bf16 { panels, values } => {
                place.keep(pool, panels, values, qkv, rows, &|to, from| keep_bf16(level, to, from, at, rows));
            }
        }
    }
}

/// The panels and values from a position on, and the keys and values that go there.
type Keep<'a, E> = &'a (dyn Fn([&mut [E]; 2], [HeadRows<'_>; 2]) + Sync);

/// Where rows are stored.
struct Place {
    heads: Heads,
    /// The layer's first position among those of all layers and key heads.
    first: usize,
    capacity: usize,
    at: usize,
}

impl Place {
    /// Calls `keep` for each key head.
    fn keep<E: Send>(
        &self,
        pool: &Pool,
        panels: &mut [E],
        values: &mut [E],
        qkv: &[f32],
        rows: usize,
        keep: Keep<'_, E>,
    ) {
        let heads = self.heads;
        let (panels, values) = (Disjoint::new(panels), Disjoint::new(values));
        over_items(pool, heads.kv_heads, rows * heads.kv_width(), &|kv_heads| {
            for kv_head in kv_heads {
                let first = self.first + kv_head * self.capacity;
                let from = |width: usize, position: usize| (first + position) * width..(first + self.capacity) * width;
                // SAFETY: key heads differ from thread to thread, and their parts do not overlap.
                let panels = unsafe { panels.range(from(heads.head_dim, self.at / BLOCK * BLOCK)) };
                // SAFETY: as above.
                let values = unsafe { values.range(from(padded(heads.head_dim), self.at)) };
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
