//! Causal attention of grouped heads, forward, backward, and over a cache, without a matrix of tokens × tokens.
//!
//! For a query at position t that may see keys `first ≤ s ≤ t`: `p[s] = exp(q·k[s]/√head_dim − logsumexp)` and
//! `out = Σ p[s] v[s]`. Keys are visited in blocks of [`BLOCK`] at fixed absolute positions, with the online softmax,
//! each row seeing exactly its own keys in ascending order. So a row's bits depend neither on the rows beside it nor on
//! threads, and a prompt over a cache of f32 returns the bits of attention without one. Sums of exponentials are kept in
//! sixteen lanes and folded at the end; every product is one chain of fused additions ([`multiply`]); so all levels
//! return the same bits too. Generated rows go another way, in f32: see [`cached`].
//!
//! Products are in f32, or their operands (queries scaled by 1/√head_dim, keys, values, exponentials) are rounded to
//! bf16 ([`form`]). Rounding is that of a cache in bf16, which therefore returns the bits of attention without a cache as
//! well.
//!
//! Backward: see [`backward`].

mod backward;
mod cached;
mod form;
mod forward;
mod multiply;
pub(crate) mod pack;

use crate::kv_cache::{KvStore, Layer, Part, q8};
use crate::memory::Scratch;
use crate::pool::Disjoint;
use crate::simd::{Simd, at_every_level};
use crate::split::share;
use crate::{Level, Pool};
use backend::{Family, Heads, Precision, Rows, Sequences};
pub(crate) use backward::attention_backward;
use bytemuck::cast_slice_mut;
use form::{Pack, in_every_form};
use forward::{KeysValues, Outputs, attend, attend_in, tile_floats};
use half::f16;
use pack::{BLOCK, HeadRows, padded};
use std::ops::Range;

/// Query rows of which a bf16 cache is widened first, once, instead of at each use. Equal bits either way: widening is
/// exact.
const WIDEN_ROWS: usize = 17;

/// The queries of one key head: pair `i` is row `base + i / group`, query head `kv_head · group + i % group`.
#[derive(Clone, Copy)]
struct Queries<'a> {
    /// A whole `qkv` buffer.
    qkv: &'a [f32],
    heads: Heads,
    kv_head: usize,
    /// The row of `qkv` that stands at position `at`.
    base: usize,
    at: usize,
    /// Of each row of `qkv`.
    first_key: Option<&'a [u32]>,
}

impl Queries<'_> {
    /// The row of `qkv` and the query head of a pair.
    #[inline(always)]
    fn row_and_head(&self, pair: usize) -> (usize, usize) {
        let group = self.heads.group();
        (self.base + pair / group, self.kv_head * group + pair % group)
    }

    /// The positions of the keys that a pair sees; never empty.
    #[inline(always)]
    fn visible(&self, pair: usize) -> Range<usize> {
        let row = pair / self.heads.group();
        let own = self.at + row;
        let first = self.first_key.map_or(0, |first| first[self.base + row] as usize);
        first.min(own)..own + 1
    }

    /// The query of a pair.
    #[inline(always)]
    fn query(&self, pair: usize) -> &[f32] {
        let (row, head) = self.row_and_head(pair);
        &self.qkv[row * self.heads.qkv_width() + head * self.heads.head_dim..][..self.heads.head_dim]
    }

    /// The query of a pair, times 1/√head_dim.
    #[inline(always)]
    fn scaled(&self, pair: usize, out: &mut [f32]) {
        let scale = self.scale();
        for (out, &q) in out.iter_mut().zip(self.query(pair)) {
            *out = q * scale;
        }
    }

    #[inline(always)]
    fn scale(&self) -> f32 {
        1.0 / (self.heads.head_dim as f32).sqrt()
    }

    /// The first block that one of the rows sees.
    fn first_block(&self, rows: Range<usize>) -> usize {
        let group = self.heads.group();
        rows.map(|row| self.visible(row * group).start).min().unwrap_or(0) / BLOCK
    }
}

/// Parts of the rows of each head, so that all threads have work; cut at blocks.
fn chunks(pool: &Pool, parts: usize, rows: usize) -> usize {
    if parts >= 2 * pool.threads() || pool.threads() == 1 {
        1
    } else {
        (4 * pool.threads()).div_ceil(parts).min(rows.div_ceil(BLOCK))
    }
}

/// The rows of a chunk of `0..rows`, cut at multiples of the block.
fn chunk_rows(chunk: usize, chunks: usize, rows: usize) -> Range<usize> {
    let blocks = share(chunk, chunks, rows.div_ceil(BLOCK));
    blocks.start * BLOCK..rows.min(blocks.end * BLOCK)
}

/// Causal attention within each sequence; see `Backend::attention`.
pub(crate) fn attention(
    pool: &Pool,
    level: Level,
    scratch: &Scratch,
    out: &mut [f32],
    logsumexp: &mut [f32],
    qkv: &[f32],
    sequences: Sequences,
    heads: Heads,
    first_key: Option<&[u32]>,
    precision: Precision,
) {
    let (rows, tokens) = (sequences.rows(), sequences.tokens);
    let qkv = &qkv[..rows * heads.qkv_width()];
    let out = Disjoint::new(&mut out[..rows * heads.query_width()]);
    let logsumexp = Disjoint::new(&mut logsumexp[..rows * heads.heads]);
    let outputs = Outputs { out: &out, logsumexp: Some(&logsumexp) };
    let all = sequences.batch * heads.kv_heads;
    let chunks = chunks(pool, all, tokens);
    pool.run(all * chunks, &|part| {
        let (head, chunk) = (part / chunks, part % chunks);
        // Later chunks cost more: they come first.
        let range = chunk_rows(chunks - 1 - chunk, chunks, tokens);
        let base = head / heads.kv_heads * tokens;
        let queries = Queries { qkv, heads, kv_head: head % heads.kv_heads, base, at: 0, first_key };
        let blocks = queries.first_block(range.clone())..range.end.div_ceil(BLOCK);
        let floats = blocks.len() * BLOCK * (heads.head_dim + padded(heads.head_dim));
        let mut lease = scratch.take(floats + tile_floats(heads.head_dim));
        packed_part(level, precision, queries, blocks, range, outputs, lease.floats());
    });
}

in_every_form! {
    fn packed_part(queries: Queries<'_>, blocks: Range<usize>, rows: Range<usize>, outputs: Outputs<'_>, scratch: &mut [f32])
        = pack_and_attend;
}

/// Packs the keys and values of `blocks`, then attends.
#[inline(always)]
fn pack_and_attend<F: Pack>(
    f: F,
    queries: Queries<'_>,
    blocks: Range<usize>,
    rows: Range<usize>,
    outputs: Outputs<'_>,
    scratch: &mut [f32],
) {
    let Heads { head_dim, .. } = queries.heads;
    let (panel_words, value_words) = (BLOCK / F::PER_WORD * head_dim, BLOCK / F::PER_WORD * padded(head_dim));
    let (panels, rest) = scratch.split_at_mut(blocks.len() * panel_words);
    let (values, scratch) = rest.split_at_mut(blocks.len() * value_words);
    let (panels, values): (&mut [F::Right], &mut [F::Right]) = (cast_slice_mut(panels), cast_slice_mut(values));
    let (start, end) = (blocks.start * BLOCK, rows.end.min(blocks.end * BLOCK));
    let [keys, source] = keys_and_values(queries.qkv, queries.heads, queries.kv_head);
    for (panel, first) in panels.chunks_exact_mut(panel_words).zip((start..end).step_by(BLOCK)) {
        f.panel(panel, keys, queries.base + first, BLOCK.min(end - first));
    }
    f.right_rows(values, source, queries.base + start, end - start);
    attend_in(f, queries, KeysValues { panels, values, first_block: blocks.start }, rows, outputs, scratch);
}

/// The keys and the values of a key head, in the rows of `qkv`.
pub(crate) fn keys_and_values(qkv: &[f32], heads: Heads, kv_head: usize) -> [HeadRows<'_>; 2] {
    let offset = heads.query_width() + kv_head * heads.head_dim;
    [offset, offset + heads.kv_width()].map(|at| HeadRows::new(qkv, at, heads.qkv_width(), heads.head_dim))
}

/// Attention over the cached positions `0..=own`; see `Backend::attention_cached`.
pub(crate) fn attention_cached(
    pool: &Pool,
    level: Level,
    scratch: &Scratch,
    out: &mut [f32],
    qkv: &[f32],
    cache: &KvStore,
    layer: usize,
    at: usize,
    rows: Rows,
    precision: Precision,
) {
    let rounded = precision != Precision::F32;
    let (heads, Rows { count: rows, family }) = (cache.heads(), rows);
    assert!(at + rows <= cache.capacity(), "positions {at}..{} of {}", at + rows, cache.capacity());
    let qkv = &qkv[..rows * heads.qkv_width()];
    if family == Family::Generated {
        return cached::attend(pool, level, scratch, out, qkv, cache, layer, at, rows);
    }
    let out = Disjoint::new(&mut out[..rows * heads.query_width()]);
    let outputs = Outputs { out: &out, logsumexp: None };
    let chunks = chunks(pool, heads.kv_heads, rows);
    let tile = tile_floats(heads.head_dim);
    let job = |part: usize| {
        let (kv_head, chunk) = (part / chunks, part % chunks);
        let range = chunk_rows(chunks - 1 - chunk, chunks, rows);
        let queries = Queries { qkv, heads, kv_head, base: 0, at, first_key: None };
        let blocks = (at + range.end).div_ceil(BLOCK);
        if rounded {
            let kept = cache.layer(layer, kv_head, 0..blocks);
            return attend_rounded(level, precision, scratch, queries, kept, blocks, range, outputs);
        }
        match cache.layer(layer, kv_head, 0..blocks) {
            Layer::F32(Part { panels, values }) => {
                let kv = KeysValues { panels, values, first_block: 0 };
                attend_f32(level, queries, kv, range, outputs, scratch.take(tile).floats());
            }
            Layer::Bf16(Part { panels, values }) if range.len() * heads.group() < WIDEN_ROWS => {
                let kv = KeysValues { panels, values, first_block: 0 };
                attend_bf16(level, queries, kv, range, outputs, scratch.take(tile).floats());
            }
            narrow => {
                let positions = blocks * BLOCK;
                let [keys, width] = [heads.head_dim, padded(heads.head_dim)].map(|width| positions * width);
                let mut lease = scratch.take(keys + width + tile);
                let (wide_panels, rest) = lease.floats().split_at_mut(keys);
                let (wide_values, tile) = rest.split_at_mut(width);
                widen(level, wide_panels, wide_values, narrow, heads.head_dim);
                let kv = KeysValues { panels: wide_panels, values: wide_values, first_block: 0 };
                attend_f32(level, queries, kv, range, outputs, tile);
            }
        }
    };
    // A few thousand keys' worth of work is less than the hand-over to another thread.
    if (at + rows) * rows * heads.query_width() < 1 << 14 {
        (0..heads.kv_heads * chunks).for_each(job);
    } else {
        pool.run(heads.kv_heads * chunks, &job);
    }
}

at_every_level! {
    fn attend_f32(
        queries: Queries<'_>,
        kv: KeysValues<'_, f32>,
        rows: Range<usize>,
        outputs: Outputs<'_>,
        scratch: &mut [f32],
    ) = attend;
}

at_every_level! {
    fn attend_bf16(
        queries: Queries<'_>,
        kv: KeysValues<'_, u16>,
        rows: Range<usize>,
        outputs: Outputs<'_>,
        scratch: &mut [f32],
    ) = attend;
}

/// Attention of rows of a prompt over the first `blocks` blocks of a cache, by products in `precision`.
fn attend_rounded(
    level: Level,
    precision: Precision,
    scratch: &Scratch,
    queries: Queries<'_>,
    kept: Layer<'_>,
    blocks: usize,
    rows: Range<usize>,
    outputs: Outputs<'_>,
) {
    let head_dim = queries.heads.head_dim;
    let [keys, values] = [head_dim, padded(head_dim)].map(|width| blocks * BLOCK * width);
    let mut lease = scratch.take(keys + values + tile_floats(head_dim));
    let mut wide = scratch.take(if matches!(kept, Layer::F32(_)) { 0 } else { keys + values });
    let part = match kept {
        Layer::F32(part) => part,
        narrow => {
            let (panels, values) = wide.floats().split_at_mut(keys);
            widen(level, panels, values, narrow, head_dim);
            Part { panels, values }
        }
    };
    cached_part(level, precision, queries, part, rows, outputs, lease.floats());
}

in_every_form! {
    fn cached_part(
        queries: Queries<'_>,
        part: Part<'_, f32>,
        rows: Range<usize>,
        outputs: Outputs<'_>,
        scratch: &mut [f32],
    ) = repack_and_attend;
}

/// Packs what a cache holds, then attends.
#[inline(always)]
fn repack_and_attend<F: Pack>(
    f: F,
    queries: Queries<'_>,
    part: Part<'_, f32>,
    rows: Range<usize>,
    outputs: Outputs<'_>,
    scratch: &mut [f32],
) {
    let (panels, rest) = scratch.split_at_mut(part.panels.len() / F::PER_WORD);
    let (values, scratch) = rest.split_at_mut(part.values.len() / F::PER_WORD);
    let (panels, values): (&mut [F::Right], &mut [F::Right]) = (cast_slice_mut(panels), cast_slice_mut(values));
    f.rows_to_right(panels, part.panels, BLOCK);
    f.rows_to_right(values, part.values, padded(queries.heads.head_dim));
    attend_in(f, queries, KeysValues { panels, values, first_block: 0 }, rows, outputs, scratch);
}

/// Keys and values as f32, exactly what was kept.
fn widen(level: Level, panels: &mut [f32], values: &mut [f32], narrow: Layer<'_>, head_dim: usize) {
    match narrow {
        Layer::F32(part) => {
            panels.copy_from_slice(part.panels);
            values.copy_from_slice(part.values);
        }
        Layer::Bf16(part) => {
            widen_bf16(level, panels, part.panels);
            widen_bf16(level, values, part.values);
        }
        Layer::F16(part) => {
            widen_f16(level, panels, part.panels);
            widen_f16(level, values, part.values);
        }
        Layer::Q8(part) => q8::widen(level, panels, values, part.panels, part.values, head_dim),
    }
}

at_every_level! {
    fn widen_bf16(out: &mut [f32], x: &[u16]) = widen_bf16_lanes;
}

#[inline(always)]
fn widen_bf16_lanes<S: Simd>(s: S, out: &mut [f32], x: &[u16]) {
    for (out, x) in out.as_chunks_mut().0.iter_mut().zip(x.as_chunks().0) {
        s.store(out, s.load_bf16(x));
    }
}

at_every_level! {
    fn widen_f16(out: &mut [f32], x: &[f16]) = widen_f16_lanes;
}

#[inline(always)]
fn widen_f16_lanes<S: Simd>(s: S, out: &mut [f32], x: &[f16]) {
    for (out, x) in out.as_chunks_mut().0.iter_mut().zip(x.as_chunks().0) {
        s.store(out, s.load_f16(x));
    }
}

#[cfg(test)]
mod tests;
