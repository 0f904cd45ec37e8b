//! One chunk of keys and values that are kept in 8 bits (see [`crate::kv_cache::q8`]).
//!
//! Scores: the scaled query is rounded to integers of 16 bits with a scale for every 32, `q[i] ≈ f·n[i]`. The sum
//! `Σ n[i]·k[i]` of 32 products is exact in 32 bits; rounded to f32 and multiplied by both scales, it is added to the
//! score in ascending order. Sixteen bits make the query's own error 1/256 of that of the keys, and cost nothing: the
//! instructions multiply 16 bits anyway. (Widening the keys to f32 needs three instructions for sixteen numbers, this
//! two for thirty-two.)
//!
//! Values: the integers are widened to f32, exactly, and multiplied by weight times scale (rounded once).

use super::{CHUNK, View, in_blocks, weigh};
use crate::attention::pack::BLOCK;
use crate::kv_cache::Part;
use crate::kv_cache::q8::{BIAS, FOUR, INTEGERS, KEYS_BYTES, SHARED, position_bytes, scales};
use crate::simd::{LANES, ROUNDER, Simd, at_every_level};
use half::f16;

/// The largest integer of a query.
const MOST: f32 = 32_767.0;
/// Words of 32 numbers of a query: see [`quantize`].
const WORDS: usize = 2 * FOURS + 2;
/// Fours of numbers that share a scale.
const FOURS: usize = SHARED / FOUR;

/// Words of a query.
pub(super) const fn query_words(head_dim: usize) -> usize {
    scales(head_dim) * WORDS
}

/// Floats of a query's weights of one block of keys, times the scales of their values.
pub(super) const fn weight_floats(head_dim: usize) -> usize {
    scales(head_dim) * BLOCK
}

at_every_level! {
    pub(super) fn chunk(view: View<'_>, part: Part<'_, u8>, records: &mut [f32], scratch: &mut [f32]) = chunk_of;
}

#[inline(always)]
fn chunk_of<S: Simd>(s: S, view: View<'_>, part: Part<'_, u8>, records: &mut [f32], scratch: &mut [f32]) {
    let (head_dim, pairs) = (view.queries.heads.head_dim, view.pairs());
    let words = query_words(head_dim);
    let (scores, rest) = scratch.split_at_mut(pairs * CHUNK);
    let (queries, weights) = rest.split_at_mut(pairs * words);
    let queries: &mut [i32] = bytemuck::cast_slice_mut(queries);
    for (pair, words) in queries.chunks_exact_mut(words).enumerate() {
        let query = view.queries.query(pair);
        for (x, words) in query.chunks(SHARED).zip(words.chunks_exact_mut(WORDS)) {
            quantize(x, view.queries.scale(), words);
        }
    }
    let block_bytes = position_bytes(head_dim) * BLOCK;
    for (block, panel) in part.panels.chunks_exact(block_bytes).enumerate() {
        score(s, &mut scores[block * BLOCK..], panel, queries, pairs, words);
    }
    weigh(s, &view, scores, records);
    for (row, keys) in view.pieces() {
        let first = row * view.group();
        for keys in in_blocks(keys) {
            let block = &part.values[keys.start / BLOCK * block_bytes..][..block_bytes];
            let (integers, factors) = block.split_at(scales(head_dim) * INTEGERS);
            let scores = &scores[first * CHUNK + keys.start / BLOCK * BLOCK..];
            let weights = &mut weights[..(pairs - first) * weight_floats(head_dim)];
            scale_weights(s, weights, scores, factors, scales(head_dim));
            let stride = view.record.floats();
            let keys = keys.start % BLOCK..keys.start % BLOCK + keys.len();
            let values = Values { integers, weights, keys: keys.clone(), scales: scales(head_dim) };
            add_values(s, &mut records[first * stride..], stride, &values, pairs - first);
        }
    }
}

/// Up to 32 numbers times `factor` as integers in 16 bits: of each four, numbers 0 and 2 in one word and numbers 1 and 3
/// in another, as [`Simd::load_fours`] has the keys; then what cancels the bias of the keys, and the scale.
#[inline(always)]
fn quantize(x: &[f32], factor: f32, words: &mut [i32]) {
    let mut scaled = [0.0; SHARED];
    for (scaled, &x) in scaled.iter_mut().zip(x) {
        *scaled = x * factor;
    }
    let largest = f32::from_bits(scaled.iter().fold(0, |largest, x| largest.max(x.to_bits() & 0x7FFF_FFFF)));
    let inverse = if largest > 0.0 { MOST / largest } else { 0.0 };
    // Of a number that is not finite the scale is not either, and the integers do not matter.
    let nearest = |x: f32| (x * inverse).clamp(-MOST, MOST) + ROUNDER;
    let integers = scaled.map(|x| i32::from(nearest(x).to_bits() as i16));
    let (fours, rest) = words.split_at_mut(2 * FOURS);
    for (four, words) in integers.as_chunks::<FOUR>().0.iter().zip(fours.as_chunks_mut::<2>().0) {
        *words = [four[0] & 0xFFFF | four[2] << 16, four[1] & 0xFFFF | four[3] << 16];
    }
    rest[0] = -i32::from(BIAS) * integers.iter().sum::<i32>();
    rest[1] = (largest / MOST).to_bits() as i32;
}

/// Scores of the 64 keys of a panel: row r of `scores` is `scores[r · CHUNK..]`.
#[inline(always)]
fn score<S: Simd>(s: S, scores: &mut [f32], panel: &[u8], queries: &[i32], pairs: usize, words: usize) {
    let mut pair = 0;
    while pair < pairs {
        let (scores, queries) = (&mut scores[pair * CHUNK..], &queries[pair * words..]);
        // AVX2 has registers for one query.
        pair += match pairs - pair {
            1 => score_rows::<1, S>(s, scores, panel, queries, words),
            _ if S::ACCUMULATORS < 16 => score_rows::<1, S>(s, scores, panel, queries, words),
            2 => score_rows::<2, S>(s, scores, panel, queries, words),
            3 => score_rows::<3, S>(s, scores, panel, queries, words),
            _ => score_rows::<4, S>(s, scores, panel, queries, words),
        };
    }
}

/// [`score`] of `R` queries; returns `R`.
#[inline(always)]
fn score_rows<const R: usize, S: Simd>(s: S, scores: &mut [f32], panel: &[u8], queries: &[i32], words: usize) -> usize {
    const VECTORS: usize = BLOCK / LANES;
    for (index, piece) in panel.chunks_exact(KEYS_BYTES).enumerate() {
        let (integers, factors) = piece.split_at(INTEGERS);
        let query: [&[i32; WORDS]; R] = std::array::from_fn(|r| {
            let (query, _) = queries[r * words + index * WORDS..].split_first_chunk().expect("as many words as scales");
            query
        });
        let mut sums: [[S::I; VECTORS]; R] = std::array::from_fn(|r| [s.splat_i32(query[r][2 * FOURS]); VECTORS]);
        let integers: &[[u8; FOUR * LANES]; FOURS * VECTORS] =
            integers.as_chunks().0.try_into().expect("the integers of 64 keys");
        for four in 0..FOURS {
            for j in 0..VECTORS {
                let [even, odd] = s.load_fours(&integers[four * VECTORS + j]);
                for r in 0..R {
                    sums[r][j] = s.add_products(sums[r][j], even, s.splat_i32(query[r][2 * four]));
                    sums[r][j] = s.add_products(sums[r][j], odd, s.splat_i32(query[r][2 * four + 1]));
                }
            }
        }
        let factors = halves(factors);
        for r in 0..R {
            let own = s.splat(f32::from_bits(query[r][2 * FOURS + 1] as u32));
            let scores = scores[r * CHUNK..][..BLOCK].as_chunks_mut::<LANES>().0;
            for j in 0..VECTORS {
                let product = s.mul(s.to_floats(sums[r][j]), s.load_f16(&factors[j]));
                let before = if index == 0 { s.splat(0.0) } else { s.load(&scores[j]) };
                s.store(&mut scores[j], s.fma(product, own, before));
            }
        }
    }
    R
}

/// Scales as vectors.
#[inline(always)]
fn halves(bytes: &[u8]) -> &[[f16; LANES]] {
    // A block and all of its pieces are aligned to lines.
    bytemuck::cast_slice(bytes.as_chunks::<{ 2 * LANES }>().0)
}

/// The weights of a block of keys times the scales of their values: `pairs × scales × BLOCK`.
#[inline(always)]
fn scale_weights<S: Simd>(s: S, weights: &mut [f32], scores: &[f32], factors: &[u8], scales: usize) {
    for (pair, weights) in weights.chunks_exact_mut(scales * BLOCK).enumerate() {
        let scores = scores[pair * CHUNK..][..BLOCK].as_chunks::<LANES>().0;
        let factors = halves(factors).iter();
        for ((weights, factors), scores) in weights.as_chunks_mut().0.iter_mut().zip(factors).zip(scores.iter().cycle())
        {
            s.store(weights, s.mul(s.load(scores), s.load_f16(factors)));
        }
    }
}

/// Values of a block and the weights of some queries, of which keys `keys` count.
struct Values<'a> {
    integers: &'a [u8],
    /// `[pair][scale][key]`.
    weights: &'a [f32],
    keys: std::ops::Range<usize>,
    scales: usize,
}

/// Adds weighted values to records, keys ascending.
#[inline(always)]
fn add_values<S: Simd>(s: S, records: &mut [f32], stride: usize, values: &Values<'_>, pairs: usize) {
    let mut pair = 0;
    while pair < pairs {
        let records = &mut records[pair * stride..];
        pair += match pairs - pair {
            1 => add_rows::<1, S>(s, records, stride, values, pair),
            _ if S::ACCUMULATORS < 16 => add_rows::<1, S>(s, records, stride, values, pair),
            2 => add_rows::<2, S>(s, records, stride, values, pair),
            3 => add_rows::<3, S>(s, records, stride, values, pair),
            _ => add_rows::<4, S>(s, records, stride, values, pair),
        };
    }
}

/// [`add_values`] of `R` queries from `pair` on; returns `R`.
#[inline(always)]
fn add_rows<const R: usize, S: Simd>(
    s: S,
    records: &mut [f32],
    stride: usize,
    values: &Values<'_>,
    pair: usize,
) -> usize {
    let mut first = 0;
    while first < values.scales {
        first += if first + 2 <= values.scales {
            add_columns::<R, 2, 4, S>(s, records, stride, values, pair, first)
        } else {
            add_columns::<R, 1, 2, S>(s, records, stride, values, pair, first)
        };
    }
    R
}

/// [`add_rows`] of `B` times 32 numbers, `C` vectors, from scale `first` on; returns `B`.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "counted loops over registers unroll; iterators do not always")]
fn add_columns<const R: usize, const B: usize, const C: usize, S: Simd>(
    s: S,
    records: &mut [f32],
    stride: usize,
    values: &Values<'_>,
    pair: usize,
    first: usize,
) -> usize {
    let (width, scales, keys) = (values.scales * SHARED, values.scales, values.keys.clone());
    let records = &mut records[first * SHARED..(R - 1) * stride + (first + B) * SHARED];
    let weights = &values.weights[(pair * scales + first) * BLOCK..((pair + R - 1) * scales + first + B) * BLOCK];
    assert!(C == 2 * B && keys.end <= BLOCK && values.integers.len() >= BLOCK * width);
    let mut sums = [[s.splat(0.0); C]; R];
    for r in 0..R {
        for j in 0..C {
            sums[r][j] = s.get(&records[r * stride + j * LANES..][..LANES]);
        }
    }
    let weights = weights.as_ptr();
    let mut row = values.integers.as_ptr().wrapping_add(keys.start * width + first * SHARED);
    for key in keys {
        let mut own = [[s.splat(0.0); B]; R];
        for r in 0..R {
            for b in 0..B {
                // SAFETY: this key's weight in the piece of query r and scale b, which the slice above ends behind.
                own[r][b] = s.splat(unsafe { *weights.add((r * scales + b) * BLOCK + key) });
            }
        }
        for j in 0..C {
            // SAFETY: columns of this key's row, which is one of the 64 that are there, as asserted.
            let value = s.load_i8(unsafe { &*row.add(j * LANES).cast() });
            for r in 0..R {
                sums[r][j] = s.fma(own[r][j / 2], value, sums[r][j]);
            }
        }
        row = row.wrapping_add(width);
    }
    for r in 0..R {
        for j in 0..C {
            s.put(&mut records[r * stride + j * LANES..][..LANES], sums[r][j]);
        }
    }
    B
}
