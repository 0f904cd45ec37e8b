//! Keys and values of the positions seen so far, laid out for [`attention_cached`](crate::attention::attention_cached).
//!
//! For each layer and key head: keys as panels (see [`pack`](crate::attention::pack)), so that one query's scores are
//! a stream of whole vectors; values as rows padded to whole vectors. In f32, or rounded to bf16 or f16 (nearest, ties
//! to even); how 8 bits are laid out says [`q8`].

pub(crate) mod q8;

use crate::attention::keys_and_values;
use crate::attention::pack::{BLOCK, HeadRows, padded, to_panels, to_rows};
use crate::memory::Aligned;
use crate::pool::Disjoint;
use crate::simd::{Simd, at_every_level};
use crate::split::over_items;
use crate::{Level, Pool};
use backend::{BackendError, Heads, KvType};
use bytemuck::Pod;
use half::f16;
use std::ops::Range;

/// How many elements storing one of a key counts for, when it is decided whether threads share the work: each is in a line
/// of its own, which comes from memory. A token of 768-wide keys is then shared; twelve layers take 46 to 87 µs instead of
/// 85 to 103 on Zen 4.
const ELEMENTS_OF_A_LINE: usize = 16;

/// The cache of a model: all layers.
pub(crate) struct KvStore {
    kept: Kept,
    layers: usize,
    capacity: usize,
    heads: Heads,
}

/// Keys and values of all layers and key heads; elements of bf16 by their bits.
enum Kept {
    F32(Both<f32>),
    Bf16(Both<u16>),
    F16(Both<f16>),
    Q8(Both<u8>),
}

/// Keys and values, and how many elements of each a position of a key head has.
struct Both<E> {
    panels: Aligned<E>,
    values: Aligned<E>,
    widths: [usize; 2],
}

/// Blocks of one key head of one layer.
#[derive(Clone, Copy)]
pub(crate) enum Layer<'a> {
    F32(Part<'a, f32>),
    Bf16(Part<'a, u16>),
    F16(Part<'a, f16>),
    Q8(Part<'a, u8>),
}

/// Panels and values of whole blocks of one key head.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a, E> {
    pub(crate) panels: &'a [E],
    pub(crate) values: &'a [E],
}

impl<E: Pod + Send> Both<E> {
    /// Zeroes for so many positions of a key head.
    fn new(positions: Option<usize>, widths: [usize; 2]) -> Result<Self, BackendError> {
        let room = |width: usize| {
            let len = positions.and_then(|positions| positions.checked_mul(width));
            let bytes = len.and_then(|len| len.checked_mul(size_of::<E>())).unwrap_or(usize::MAX);
            let memory = len.and_then(Aligned::zeroed);
            memory.ok_or(BackendError::OutOfMemory { what: "the cache of keys and values", bytes })
        };
        Ok(Self { panels: room(widths[0])?, values: room(widths[1])?, widths })
    }

    fn bytes(&self) -> usize {
        self.panels.bytes() + self.values.bytes()
    }

    fn part(&self, first: usize, positions: usize) -> Part<'_, E> {
        let of = |width: usize| first * width..(first + positions) * width;
        Part { panels: &self.panels[of(self.widths[0])], values: &self.values[of(self.widths[1])] }
    }
}

impl KvStore {
    /// Room for `capacity` positions, rounded up to whole blocks.
    pub(crate) fn new(layers: usize, capacity: usize, heads: Heads, kv_type: KvType) -> Result<Self, BackendError> {
        let capacity = capacity.checked_next_multiple_of(BLOCK).unwrap_or(usize::MAX);
        let all = layers.checked_mul(heads.kv_heads).and_then(|all| all.checked_mul(capacity));
        let widths = [heads.head_dim, padded(heads.head_dim)];
        let kept = match kv_type {
            KvType::F32 => Kept::F32(Both::new(all, widths)?),
            KvType::Bf16 => Kept::Bf16(Both::new(all, widths)?),
            KvType::F16 => Kept::F16(Both::new(all, widths)?),
            KvType::Q8_0 => Kept::Q8(Both::new(all, [q8::position_bytes(heads.head_dim); 2])?),
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
            Kept::F32(both) => both.bytes(),
            Kept::Bf16(both) => both.bytes(),
            Kept::F16(both) => both.bytes(),
            Kept::Q8(both) => both.bytes(),
        }
    }

    /// Some blocks of key head `kv_head` of `layer`.
    pub(crate) fn layer(&self, layer: usize, kv_head: usize, blocks: Range<usize>) -> Layer<'_> {
        assert!(layer < self.layers && kv_head < self.heads.kv_heads, "layer {layer} of {}", self.layers);
        assert!(blocks.end * BLOCK <= self.capacity, "blocks {blocks:?} of {} positions", self.capacity);
        let first = (layer * self.heads.kv_heads + kv_head) * self.capacity + blocks.start * BLOCK;
        let positions = blocks.len() * BLOCK;
        match &self.kept {
            Kept::F32(both) => Layer::F32(both.part(first, positions)),
            Kept::Bf16(both) => Layer::Bf16(both.part(first, positions)),
            Kept::F16(both) => Layer::F16(both.part(first, positions)),
            Kept::Q8(both) => Layer::Q8(both.part(first, positions)),
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
            Kept::F32(both) => place.keep(pool, both, qkv, rows, &|to, from| keep_f32(level, to, from, at, rows)),
            Kept::Bf16(both) => place.keep(pool, both, qkv, rows, &|to, from| keep_bf16(level, to, from, at, rows)),
            Kept::F16(both) => place.keep(pool, both, qkv, rows, &|to, from| keep_f16(level, to, from, at, rows)),
            Kept::Q8(both) => place.keep(pool, both, qkv, rows, &|to, from| q8::keep(level, to, from, at, rows)),
        }
    }
}

/// The panels and values from the block of a position on, and the keys and values that go there.
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
    fn keep<E: Send>(&self, pool: &Pool, both: &mut Both<E>, qkv: &[f32], rows: usize, keep: Keep<'_, E>) {
        let (heads, [key_width, value_width]) = (self.heads, both.widths);
        let (panels, values) = (Disjoint::new(&mut both.panels), Disjoint::new(&mut both.values));
        over_items(pool, heads.kv_heads, rows * heads.kv_width() * ELEMENTS_OF_A_LINE, &|kv_heads| {
            for kv_head in kv_heads {
                let first = self.first + kv_head * self.capacity;
                let block = self.at / BLOCK * BLOCK;
                let from = |width: usize| (first + block) * width..(first + self.capacity) * width;
                // SAFETY: key heads differ from thread to thread, and their parts do not overlap.
                let to = unsafe { [panels.range(from(key_width)), values.range(from(value_width))] };
                keep(to, keys_and_values(qkv, heads, kv_head));
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
    keep_floats(to, from, at, rows, |x| x);
}

at_every_level! {
    /// Keeps keys and values rounded to bf16.
    fn keep_bf16(to: [&mut [u16]; 2], from: [HeadRows<'_>; 2], at: usize, rows: usize) = keep_bf16_lanes;
}

#[inline(always)]
fn keep_bf16_lanes(_: impl Simd, to: [&mut [u16]; 2], from: [HeadRows<'_>; 2], at: usize, rows: usize) {
    keep_floats(to, from, at, rows, bf16_bits);
}

at_every_level! {
    /// Keeps keys and values rounded to f16.
    fn keep_f16(to: [&mut [f16]; 2], from: [HeadRows<'_>; 2], at: usize, rows: usize) = keep_f16_lanes;
}

#[inline(always)]
fn keep_f16_lanes(_: impl Simd, to: [&mut [f16]; 2], from: [HeadRows<'_>; 2], at: usize, rows: usize) {
    keep_floats(to, from, at, rows, nearest_f16);
}

#[inline(always)]
fn keep_floats<E: Copy>(
    to: [&mut [E]; 2],
    from: [HeadRows<'_>; 2],
    at: usize,
    rows: usize,
    keep: impl Fn(f32) -> E + Copy,
) {
    let ([panels, values], [keys, source]) = (to, from);
    to_panels(panels, keys, 0, at, rows, keep);
    to_rows(&mut values[at % BLOCK * padded(source.head_dim)..], source, 0, rows, keep);
}

/// The nearest bf16, ties to even, without a branch, so that the compiler does sixteen at a time.
#[inline(always)]
pub(crate) fn bf16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16;
    // A NaN could round to infinity: it stays one by its highest bit.
    (if x.is_nan() { bits >> 16 | 0x40 } else { rounded }) as u16
}

/// The nearest f16, ties to even, without a branch.
#[inline(always)]
fn nearest_f16(x: f32) -> f16 {
    /// 2⁻¹⁴, the least normal f16.
    const NORMAL: u32 = 113 << 23;
    /// 2¹⁶, which and above which all is infinite; from 65520 on the rounding below carries into it.
    const INFINITE: u32 = 143 << 23;
    let (sign, size) = (x.to_bits() >> 16 & 0x8000, x.to_bits() & 0x7FFF_FFFF);
    // The exponent's bias falls by 112, and 13 bits are rounded off; a carry goes into the exponent, as it should.
    let normal = size.wrapping_sub(112 << 23).wrapping_add(0xFFF + (size >> 13 & 1)) >> 13;
    // Added to ½, whose last place is the least subnormal f16, the addition itself rounds.
    let subnormal = (f32::from_bits(size) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let finite = if size < NORMAL { subnormal } else { normal };
    let special = if x.is_nan() { 0x7E00 | size >> 13 & 0x3FF } else { 0x7C00 };
    f16::from_bits((sign | if size < INFINITE { finite } else { special }) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::floats;

    #[test]
    fn rounding_is_that_of_half() {
        let special = [0.0, -0.0, f32::INFINITY, f32::NAN, -f32::NAN, f32::MAX, f32::MIN_POSITIVE, 1e-42];
        let patterns = (0..1_000_000u32).map(|i| f32::from_bits(i.wrapping_mul(4_294_967)));
        let halves = (0..=u16::MAX).map(|bits| f16::from_bits(bits).to_f32());
        // Halfway between two f16, and the floats beside.
        let ties = halves.clone().flat_map(|x| [0x0FFF, 0x1000, 0x1001].map(|up| f32::from_bits(x.to_bits() + up)));
        for x in patterns.chain(special).chain(halves).chain(ties) {
            assert_eq!(bf16_bits(x), half::bf16::from_f32(x).to_bits(), "{:08x}", x.to_bits());
            assert_eq!(nearest_f16(x).to_bits(), f16::from_f32(x).to_bits(), "{:08x}", x.to_bits());
        }
    }

    #[test]
    fn stored_keys_and_values_are_found_in_their_places() {
        let heads = Heads { heads: 4, kv_heads: 2, head_dim: 20 };
        let (rows, at) = (70, 37);
        let qkv = floats(1, rows * heads.qkv_width());
        for level in crate::available() {
            let mut cache = KvStore::new(3, 120, heads, KvType::F32).unwrap();
            cache.store(&Pool::new(2), level, 2, at, &qkv, rows);
            for kv_head in 0..heads.kv_heads {
                let Layer::F32(Part { panels, values }) = cache.layer(2, kv_head, 0..2) else { panic!("kept in f32") };
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
            let error = KvStore::new(2, capacity, heads, KvType::F32).err().map(|error| error.to_string());
            assert!(error.is_some_and(|error| error.starts_with("the cache of keys and values: ")), "{capacity}");
        }
    }

    #[test]
    fn bytes_are_those_of_whole_blocks() {
        let heads = Heads { heads: 4, kv_heads: 2, head_dim: 64 };
        let bytes = |kv_type| KvStore::new(3, 100, heads, kv_type).unwrap().bytes();
        assert_eq!(bytes(KvType::F32), 3 * 128 * 2 * 2 * 64 * 4);
        assert_eq!(bytes(KvType::Bf16), 3 * 128 * 2 * 2 * 64 * 2);
        assert_eq!(bytes(KvType::F16), bytes(KvType::Bf16));
        assert_eq!(bytes(KvType::Q8_0), 3 * 128 * 2 * 2 * 68);
    }
}
