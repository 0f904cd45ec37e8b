//! The forward of a few queries of one key head, block of keys after block of keys.

use super::Queries;
use super::form::{Form, Singles};
use super::multiply::{Element, Left, Right, Size, multiply};
use super::pack::{BLOCK, padded};
use crate::pool::Disjoint;
use crate::simd::{LANES, Simd};
use std::ops::Range;

/// Queries of a tile. 32 rows of scores (8 KiB), their queries and outputs (8 KiB each at a head of 64) stay in the
/// first-level cache beside the block of keys or of values that is being read.
const TILE: usize = 32;
/// Rows that the product takes at once.
const GROUP: usize = 4;

/// Keys and values of one head as right operands, the keys as panels and the values as padded rows, from block
/// `first_block` on. `E` is a word of their form.
#[derive(Clone, Copy)]
pub(crate) struct KeysValues<'a, E> {
    pub(crate) panels: &'a [E],
    pub(crate) values: &'a [E],
    pub(crate) first_block: usize,
}

/// Where results go: `rows × heads·head_dim` and, for training, `rows × heads`.
#[derive(Clone, Copy)]
pub(crate) struct Outputs<'a> {
    pub(crate) out: &'a Disjoint<'a, f32>,
    pub(crate) logsumexp: Option<&'a Disjoint<'a, f32>>,
}

/// Floats of scratch that [`attend`] needs.
pub(crate) fn tile_floats(head_dim: usize) -> usize {
    TILE * (head_dim.next_multiple_of(LANES) + BLOCK + padded(head_dim) + LANES + 1)
}

/// The state of a tile: one row of each for every query.
struct Tile<'a> {
    /// Queries, scaled by 1/√head_dim: `TILE × head_dim`, words at the beginning of each row.
    queries: &'a mut [f32],
    /// Scores, then their exponentials, then these as words: `TILE × BLOCK`.
    scores: &'a mut [f32],
    /// Sums of exponentials times values so far: `TILE × padded`.
    sums: &'a mut [f32],
    /// Sums of exponentials so far, in sixteen lanes.
    weights: &'a mut [[f32; LANES]],
    /// The largest score so far.
    largest: &'a mut [f32],
}

impl<'a> Tile<'a> {
    fn new(scratch: &'a mut [f32], head_dim: usize) -> Self {
        let (scores, rest) = scratch.split_at_mut(TILE * BLOCK);
        let (sums, rest) = rest.split_at_mut(TILE * padded(head_dim));
        let (weights, rest) = rest.split_at_mut(TILE * LANES);
        let (queries, rest) = rest.split_at_mut(TILE * head_dim.next_multiple_of(LANES));
        Self { queries, scores, sums, weights: weights.as_chunks_mut().0, largest: &mut rest[..TILE] }
    }
}

/// [`attend_in`] by products in f32.
#[inline(always)]
pub(crate) fn attend<S: Simd, E: Element<S>>(
    s: S,
    queries: Queries<'_>,
    kv: KeysValues<'_, E>,
    rows: Range<usize>,
    outputs: Outputs<'_>,
    scratch: &mut [f32],
) {
    attend_in(Singles::new(s), queries, kv, rows, outputs, scratch);
}

/// Attention of rows `rows` for all query heads of the queries' key head, over the keys that each may see.
///
/// `outputs` must be written by nobody else in these rows and heads while this runs.
#[inline(always)]
pub(crate) fn attend_in<F: Form>(
    f: F,
    queries: Queries<'_>,
    kv: KeysValues<'_, F::Right>,
    rows: Range<usize>,
    outputs: Outputs<'_>,
    scratch: &mut [f32],
) {
    let group = queries.heads.group();
    let mut tile = Tile::new(scratch, queries.heads.head_dim);
    let end = rows.end * group;
    for first in (rows.start * group..end).step_by(TILE) {
        attend_tile(f, queries, kv, first..end.min(first + TILE), &mut tile);
        finish(f.simd(), queries, first..end.min(first + TILE), &tile, outputs);
    }
}

/// A few rows of a tile and the words of keys of the block that all of them see whole.
#[derive(Clone, Copy, Default)]
struct Segment {
    row: usize,
    rows: usize,
    start: usize,
    end: usize,
}

#[inline(always)]
fn attend_tile<F: Form>(
    f: F,
    queries: Queries<'_>,
    kv: KeysValues<'_, F::Right>,
    pairs: Range<usize>,
    tile: &mut Tile<'_>,
) {
    let s = f.simd();
    let (head_dim, count) = (queries.heads.head_dim, pairs.len());
    let (width, depth) = (padded(head_dim), head_dim / F::PER_WORD);
    let mut visible = [(0, 0); TILE];
    for (i, pair) in pairs.clone().enumerate() {
        let keys = queries.visible(pair);
        visible[i] = (keys.start, keys.end);
        let query = &mut tile.queries[i * head_dim..][..head_dim];
        queries.scaled(pair, query);
        f.left_row(query);
    }
    let visible = &visible[..count];
    tile.sums[..count * width].fill(0.0);
    tile.weights[..count].fill([0.0; LANES]);
    tile.largest[..count].fill(f32::NEG_INFINITY);

    let first = visible.iter().map(|keys| keys.0).min().unwrap_or(0);
    let last = visible.iter().map(|keys| keys.1).max().unwrap_or(0);
    for block in first / BLOCK..last.div_ceil(BLOCK) {
        let start = block * BLOCK;
        let stored = block - kv.first_block;
        let panel = Right { data: &kv.panels[stored * depth * BLOCK..][..depth * BLOCK], stride: BLOCK };
        let values = &kv.values[stored * (BLOCK / F::PER_WORD) * width..][..BLOCK / F::PER_WORD * width];
        let left = Left { data: tile.queries, row_stride: head_dim, depth_stride: 1 };
        let vectors = (last - start).min(BLOCK).div_ceil(LANES);
        multiply::<true, _, _>(s, tile.scores, BLOCK, left, panel, Size { rows: count, depth, vectors });

        let mut seen = [(0, 0); TILE];
        for (i, keys) in visible.iter().enumerate() {
            let (from, to) = (keys.0.max(start) - start, keys.1.clamp(start, start + BLOCK) - start);
            seen[i] = (from.min(to), to);
            if from < to {
                softmax_step(f, tile, i, from, to, width);
            }
        }
        add_values(f, tile, &seen[..count], values, width);
    }
}

/// `sums += P · V` for the keys of a block that each row sees.
#[inline(always)]
fn add_values<F: Form>(f: F, tile: &mut Tile<'_>, seen: &[(usize, usize)], values: &[F::Right], width: usize) {
    let mut words = [(0, 0); TILE];
    for (i, (words, &(from, to))) in words.iter_mut().zip(seen).enumerate() {
        let end = to / F::PER_WORD;
        *words = (from.div_ceil(F::PER_WORD).min(end), end);
        // Of a pair of which a row sees the later key only.
        if F::PER_WORD > 1 && from < to && !from.is_multiple_of(F::PER_WORD) {
            let (sums, weights) = (&mut tile.sums[i * width..][..width], &tile.scores[i * BLOCK..][..BLOCK]);
            f.add_single(sums, weights, values, from);
        }
    }
    let mut segments = [Segment::default(); TILE / GROUP * (2 * GROUP + 1)];
    let segments_len = cut(&words[..seen.len()], &mut segments);
    for segment in &segments[..segments_len] {
        let left =
            Left { data: &tile.scores[segment.row * BLOCK + segment.start..], row_stride: BLOCK, depth_stride: 1 };
        let right = Right { data: &values[segment.start * width..], stride: width };
        let size = Size { rows: segment.rows, depth: segment.end - segment.start, vectors: width / LANES };
        multiply::<false, _, _>(f.simd(), &mut tile.sums[segment.row * width..], width, left, right, size);
    }
    if F::PER_WORD > 1 {
        for (i, &(from, to)) in seen.iter().enumerate() {
            // Of a pair of which a row sees the earlier key only.
            if from < to && !to.is_multiple_of(F::PER_WORD) {
                let (sums, weights) = (&mut tile.sums[i * width..][..width], &tile.scores[i * BLOCK..][..BLOCK]);
                f.add_single(sums, weights, values, to - 1);
            }
        }
    }
}

/// One step of the online softmax (Milakov and Gimelshein, 2018) for row `i`: keys `from..to` of the block. Leaves their
/// exponentials as a left operand.
#[inline(always)]
fn softmax_step<F: Form>(f: F, tile: &mut Tile<'_>, i: usize, from: usize, to: usize, width: usize) {
    const CHUNK: usize = 2 * LANES;
    let s = f.simd();
    let chunks = from / CHUNK..to.div_ceil(CHUNK);
    let scores = &mut tile.scores[i * BLOCK..][..BLOCK];
    scores[chunks.start * CHUNK..from].fill(f32::NEG_INFINITY);
    scores[to..chunks.end * CHUNK].fill(f32::NEG_INFINITY);

    let mut lanes = s.splat(f32::NEG_INFINITY);
    for v in scores[chunks.start * CHUNK..chunks.end * CHUNK].as_chunks().0 {
        lanes = s.max(s.load(v), lanes);
    }
    let before = tile.largest[i];
    let here = s.largest(lanes);
    let mut weights = s.load(&tile.weights[i]);
    let largest = if here > before { here } else { before };
    // Where the largest stays, the factor would be exactly 1.
    if largest != before {
        tile.largest[i] = largest;
        let factor = s.exp(s.splat(before - largest));
        weights = s.mul(weights, factor);
        for sums in tile.sums[i * width..][..width].as_chunks_mut::<LANES>().0 {
            let scaled = s.mul(s.load(sums), factor);
            s.store(sums, scaled);
        }
    }
    let largest = s.splat(largest);
    for chunk in chunks {
        let (low, high) = (s.get(&scores[chunk * CHUNK..][..LANES]), s.get(&scores[chunk * CHUNK + LANES..][..LANES]));
        let (low, high) = (s.exp_below_one(s.sub(low, largest)), s.exp_below_one(s.sub(high, largest)));
        weights = s.add(s.add(weights, low), high);
        f.store_left(scores, chunk, low, high);
    }
    s.store(&mut tile.weights[i], weights);
}

/// Cuts the words of keys that each row sees whole into segments that rows share, such that no row meets a key that it may not see
/// (a weight of zero would still turn infinite values into NaN) and each row meets its keys in ascending order.
#[inline(always)]
fn cut(seen: &[(usize, usize)], segments: &mut [Segment]) -> usize {
    let mut len = 0;
    let mut push = |row, rows, start, end| {
        if start < end {
            segments[len] = Segment { row, rows, start, end };
            len += 1;
        }
    };
    if seen.iter().all(|keys| *keys == seen[0]) {
        push(0, seen.len(), seen[0].0, seen[0].1);
        return len;
    }
    for (g, rows) in seen.chunks(GROUP).enumerate() {
        let start = rows.iter().map(|keys| keys.0).max().unwrap_or(0);
        let end = rows.iter().map(|keys| keys.1).min().unwrap_or(0);
        let shared = rows.len() == GROUP && start < end;
        for (r, keys) in rows.iter().enumerate() {
            push(g * GROUP + r, 1, keys.0, if shared { start } else { keys.1 });
        }
        if shared {
            push(g * GROUP, GROUP, start, end);
            for (r, keys) in rows.iter().enumerate() {
                push(g * GROUP + r, 1, end, keys.1);
            }
        }
    }
    len
}

/// Divides by the sum of the weights and writes a tile's results.
#[inline(always)]
fn finish<S: Simd>(s: S, queries: Queries<'_>, pairs: Range<usize>, tile: &Tile<'_>, outputs: Outputs<'_>) {
    let head_dim = queries.heads.head_dim;
    let width = padded(head_dim);
    for (i, pair) in pairs.enumerate() {
        let (row, head) = queries.row_and_head(pair);
        let at = row * queries.heads.query_width() + head * head_dim;
        // SAFETY: rows and heads of different tiles differ, and nobody else writes these.
        let out = unsafe { outputs.out.range(at..at + head_dim) };
        let weight = s.sum(s.load(&tile.weights[i]));
        let factor = s.splat(1.0 / weight);
        let (whole, part) = out.as_chunks_mut::<LANES>();
        let (sums, last) = tile.sums[i * width..][..width].as_chunks::<LANES>().0.split_at(whole.len());
        for (out, sums) in whole.iter_mut().zip(sums) {
            s.store(out, s.mul(s.load(sums), factor));
        }
        if let Some(last) = last.first() {
            s.store_part(part, s.mul(s.load(last), factor));
        }
        if let Some(logsumexp) = outputs.logsumexp {
            let at = row * queries.heads.heads + head;
            // SAFETY: as above.
            let logsumexp = unsafe { logsumexp.range(at..at + 1) };
            logsumexp[0] = tile.largest[i] + weight.ln();
        }
    }
}
