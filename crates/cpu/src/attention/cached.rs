//! Attention of generated rows over a cache, bound by reading it.
//!
//! Positions are cut into chunks of [`CHUNK`] at fixed absolute places. Of each chunk c, a query keeps the largest score
//! `m[c]`, the sum of weights `l[c] = Σ exp(score − m[c])` and the weighted values `o[c]`; the chunks are then merged in
//! ascending order:
//! ```text
//! out = Σ_c e^(m[c] − m) o[c] / Σ_c e^(m[c] − m) l[c],   m = max_c m[c]
//! ```
//! Chunks and key heads are spread over the threads, so that a few key heads keep all of them busy; the queries of a
//! key head read each of its keys once. Which chunks a row has depends on its position alone, and within a chunk keys
//! are added in ascending order, weights in sixteen lanes: so its bits depend neither on the rows beside it, nor on
//! threads, nor on what the cache has room for. They differ from those of a prompt's rows, which do not merge chunks.

mod q8;

use super::Queries;
use super::multiply::{Element, Left, Right, Size, multiply};
use super::pack::{BLOCK, padded};
use crate::kv_cache::{KvStore, Layer, Part};
use crate::memory::Scratch;
use crate::pool::Disjoint;
use crate::simd::{LANES, Simd, at_every_level, blocks};
use crate::split::over_items;
use crate::{Level, Pool};
use backend::Heads;
use half::f16;
use std::ops::Range;

/// Positions of a chunk.
const CHUNK: usize = 256;
/// Parts of the work a thread: where the machine is busy, threads do not finish at the same time.
const PARTS: usize = 4;
/// Products of a query's and a key's numbers below which one thread is faster than a hand-over to several.
const ALONE: usize = 1 << 14;

/// What a query knows of a chunk, as floats: weighted values, the largest score, the sum of weights.
#[derive(Clone, Copy)]
struct Record {
    /// Floats of the weighted values, a multiple of 32.
    width: usize,
}

impl Record {
    const fn new(head_dim: usize) -> Self {
        Self { width: head_dim.next_multiple_of(2 * LANES) }
    }

    const fn floats(self) -> usize {
        self.width + LANES
    }
}

/// The generated rows of a layer, all key heads.
struct Rows<'a> {
    qkv: &'a [f32],
    cache: &'a KvStore,
    layer: usize,
    at: usize,
    rows: usize,
    record: Record,
}

/// Attention of `rows` rows over the cached positions `0..=own`.
pub(super) fn attend(
    pool: &Pool,
    level: Level,
    scratch: &Scratch,
    out: &mut [f32],
    qkv: &[f32],
    cache: &KvStore,
    layer: usize,
    at: usize,
    rows: usize,
) {
    let heads = cache.heads();
    let job = Rows { qkv, cache, layer, at, rows, record: Record::new(heads.head_dim) };
    let pairs = rows * heads.group();
    let positions = at + rows;
    let chunks = positions.div_ceil(CHUNK);
    let record_floats = |chunks: usize| heads.kv_heads * chunks * pairs * job.record.floats();
    // Room for all chunks that may come, so that a growing context asks for memory once.
    let mut lease = scratch.take(record_floats(cache.capacity().div_ceil(CHUNK)));
    let records = &mut lease.floats()[..record_floats(chunks)];
    let shared = Disjoint::new(records);
    let units = heads.kv_heads * chunks;
    let alone = positions * rows * heads.query_width() < ALONE;
    let parts = if alone { 1 } else { units.min(PARTS * pool.threads()) };
    pool.run(parts, &|part| {
        let mut lease = scratch.take(job.scratch_floats());
        for unit in unit_at(part, parts, positions, heads.kv_heads)..unit_at(part + 1, parts, positions, heads.kv_heads)
        {
            let len = pairs * job.record.floats();
            // SAFETY: units differ from part to part, and their records do not overlap.
            let records = unsafe { shared.piece(unit * len, len) };
            job.attend_chunk(level, unit / chunks, unit % chunks, records, lease.floats());
        }
    });
    let records = &lease.floats()[..record_floats(chunks)];
    let out = Disjoint::new(&mut out[..rows * heads.query_width()]);
    over_items(pool, rows * heads.heads, records.len(), &|heads_of_rows| {
        // SAFETY: ranges of heads do not overlap.
        let out = unsafe { out.range(heads_of_rows.start * heads.head_dim..heads_of_rows.end * heads.head_dim) };
        merge(level, out, records, heads_of_rows, heads, at, chunks);
    });
}

/// Where part `part` of `parts` begins, as a number of a chunk among those of all key heads: at the chunk nearest to
/// an equal share of the positions.
fn unit_at(part: usize, parts: usize, positions: usize, kv_heads: usize) -> usize {
    let chunks = positions.div_ceil(CHUNK);
    let first = kv_heads * positions * part / parts;
    let chunk = (first % positions + CHUNK / 2) / CHUNK;
    first / positions * chunks + chunk.min(chunks)
}

impl Rows<'_> {
    /// Floats of scratch for one chunk.
    fn scratch_floats(&self) -> usize {
        let heads = self.cache.heads();
        let pairs = self.rows * heads.group();
        pairs
            * (CHUNK + q8::query_words(heads.head_dim).max(padded(heads.head_dim)) + q8::weight_floats(heads.head_dim))
    }

    /// Fills the records of one key head's queries for one chunk, as far as they see it.
    fn attend_chunk(&self, level: Level, kv_head: usize, chunk: usize, records: &mut [f32], scratch: &mut [f32]) {
        let heads = self.cache.heads();
        let queries = Queries { qkv: self.qkv, heads, kv_head, base: 0, at: self.at, first_key: None };
        let start = chunk * CHUNK;
        let keys = start..(self.at + self.rows).min(start + CHUNK);
        let blocks = start / BLOCK..keys.end.div_ceil(BLOCK);
        let view = View { queries, keys, rows: self.rows, record: self.record };
        match self.cache.layer(self.layer, kv_head, blocks) {
            Layer::F32(part) => chunk_f32(level, view, part, records, scratch),
            Layer::Bf16(part) => chunk_bf16(level, view, part, records, scratch),
            Layer::F16(part) => chunk_f16(level, view, part, records, scratch),
            Layer::Q8(part) => q8::chunk(level, view, part, records, scratch),
        }
    }
}

/// One key head's queries and the keys of one chunk.
#[derive(Clone)]
struct View<'a> {
    queries: Queries<'a>,
    /// Positions of the chunk that are stored.
    keys: Range<usize>,
    rows: usize,
    record: Record,
}

impl View<'_> {
    fn group(&self) -> usize {
        self.queries.heads.group()
    }

    fn pairs(&self) -> usize {
        self.rows * self.group()
    }

    /// Keys of the chunk that a row sees.
    #[inline(always)]
    fn seen(&self, row: usize) -> usize {
        (self.queries.at + row + 1).saturating_sub(self.keys.start).min(self.keys.len())
    }

    /// Pieces of the chunk in ascending order, and the first row that sees each of them (the later ones do too).
    #[inline(always)]
    fn pieces(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        (0..self.rows).map(|row| (row, if row == 0 { 0 } else { self.seen(row - 1) }..self.seen(row)))
    }
}

at_every_level! {
    fn chunk_f32(view: View<'_>, part: Part<'_, f32>, records: &mut [f32], scratch: &mut [f32]) = chunk_of;
}

at_every_level! {
    fn chunk_bf16(view: View<'_>, part: Part<'_, u16>, records: &mut [f32], scratch: &mut [f32]) = chunk_of;
}

at_every_level! {
    fn chunk_f16(view: View<'_>, part: Part<'_, f16>, records: &mut [f32], scratch: &mut [f32]) = chunk_of;
}

/// One chunk of keys and values that are kept as floats.
#[inline(always)]
fn chunk_of<S: Simd, E: Element<S>>(s: S, view: View<'_>, part: Part<'_, E>, records: &mut [f32], scratch: &mut [f32]) {
    let (head_dim, pairs) = (view.queries.heads.head_dim, view.pairs());
    let (scores, scaled) = scratch.split_at_mut(pairs * CHUNK);
    for (pair, scaled) in scaled.chunks_exact_mut(head_dim).take(pairs).enumerate() {
        view.queries.scaled(pair, scaled);
    }
    let left = Left { data: scaled, row_stride: head_dim, depth_stride: 1 };
    for (block, panel) in part.panels.chunks_exact(head_dim * BLOCK).enumerate() {
        let vectors = (view.keys.len() - block * BLOCK).min(BLOCK).div_ceil(LANES);
        let right = Right { data: panel, stride: BLOCK };
        let size = Size { rows: pairs, depth: head_dim, vectors };
        multiply::<true, S, E>(s, &mut scores[block * BLOCK..], CHUNK, left, right, size);
    }
    weigh(s, &view, scores, records);
    let (width, stride) = (padded(head_dim), view.record.floats());
    for (row, keys) in view.pieces() {
        let first = row * view.group();
        for keys in in_blocks(keys) {
            let left = Left { data: &scores[first * CHUNK + keys.start..], row_stride: CHUNK, depth_stride: 1 };
            let right = Right { data: &part.values[keys.start * width..], stride: width };
            let size = Size { rows: pairs - first, depth: keys.len(), vectors: width / LANES };
            multiply::<false, S, E>(s, &mut records[first * stride..], stride, left, right, size);
        }
    }
}

/// A range of a chunk's keys cut at blocks, whose values stay in the first-level cache for all queries.
#[inline(always)]
fn in_blocks(keys: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    (keys.start / BLOCK..keys.end.div_ceil(BLOCK))
        .map(move |block| keys.start.max(block * BLOCK)..keys.end.min((block + 1) * BLOCK))
}

/// Turns scores (`pairs × CHUNK`) into weights, and begins the records: the largest score, the sum of weights, no values.
#[inline(always)]
fn weigh<S: Simd>(s: S, view: &View<'_>, scores: &mut [f32], records: &mut [f32]) {
    let rows = scores.chunks_exact_mut(CHUNK).zip(records.chunks_exact_mut(view.record.floats()));
    for (pair, (scores, record)) in rows.enumerate() {
        let seen = view.seen(pair / view.group());
        let scores = &mut scores[..seen.next_multiple_of(LANES)];
        scores[seen..].fill(f32::NEG_INFINITY);
        let scores = scores.as_chunks_mut::<LANES>().0;
        let mut largest = s.splat(f32::NEG_INFINITY);
        for v in scores.iter() {
            largest = s.max(s.load(v), largest);
        }
        let largest = s.largest(largest);
        let mut weights = s.splat(0.0);
        for v in scores {
            let weight = s.exp(s.sub(s.load(v), s.splat(largest)));
            s.store(v, weight);
            weights = s.add(weights, weight);
        }
        record.fill(0.0);
        record[view.record.width] = largest;
        record[view.record.width + 1] = s.sum(weights);
    }
}

at_every_level! {
    fn merge(
        out: &mut [f32],
        records: &[f32],
        heads_of_rows: Range<usize>,
        heads: Heads,
        at: usize,
        chunks: usize,
    ) = merge_chunks;
}

/// Merges the records of query heads `heads_of_rows` (row · heads + head) into `out`.
#[inline(always)]
fn merge_chunks<S: Simd>(
    s: S,
    out: &mut [f32],
    records: &[f32],
    heads_of_rows: Range<usize>,
    heads: Heads,
    at: usize,
    chunks: usize,
) {
    let record = Record::new(heads.head_dim);
    let pairs = records.len() / (record.floats() * heads.kv_heads * chunks);
    let group = heads.group();
    for (out, index) in out.chunks_exact_mut(heads.head_dim).zip(heads_of_rows) {
        let (row, head) = (index / heads.heads, index % heads.heads);
        let first = head / group * chunks * pairs + row * group + head % group;
        let of_chunk = |chunk: usize| &records[(first + chunk * pairs) * record.floats()..][..record.floats()];
        let seen = (at + row) / CHUNK + 1;
        let larger = |a: f32, b: f32| if b > a { b } else { a };
        let largest = (0..seen).map(|chunk| of_chunk(chunk)[record.width]).fold(f32::NEG_INFINITY, larger);
        out.fill(0.0);
        let mut weight = s.splat(0.0);
        for chunk in 0..seen {
            let from = of_chunk(chunk);
            let factor = s.exp(s.splat(from[record.width] - largest));
            weight = s.fma(s.splat(from[record.width + 1]), factor, weight);
            for lanes in blocks(heads.head_dim) {
                let sum = s.fma(s.get(&from[lanes.clone()]), factor, s.get(&out[lanes.clone()]));
                s.put(&mut out[lanes], sum);
            }
        }
        let factor = s.div(s.splat(1.0), weight);
        for lanes in blocks(heads.head_dim) {
            let value = s.mul(s.get(&out[lanes.clone()]), factor);
            s.put(&mut out[lanes], value);
        }
    }
}

#[cfg(test)]
mod tests;
