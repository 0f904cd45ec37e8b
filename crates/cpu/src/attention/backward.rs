//! The backward of attention.
//!
//! With q̃ = q/√head_dim, for each query i and key s that it sees:
//! `P = exp(q̃·k − logsumexp)`, `dP = dO·v`, `D = dO·O`, `dS = P ⊙ (dP − D)`, and
//! `dV[s] = Σ_i P dO[i]`, `dK[s] = Σ_i dS q̃[i]`, `dQ[i] = Σ_s dS k[s] / √head_dim`.
//!
//! Blocks of keys are the outer loop, tiles of queries the inner one. Sums over queries run in ascending order of rows
//! and, within a row, of the heads that share the key; sums over keys in ascending order of keys; each is one chain of
//! fused additions.

use super::form::{Pack, in_every_form};
use super::multiply::{Left, Right, Size, multiply};
use super::pack::{BLOCK, HeadRows, padded};
use super::{Queries, keys_and_values};
use crate::memory;
use crate::pool::Disjoint;
use crate::reduce::dot;
use crate::simd::{LANES, Simd};
use crate::split::share;
use crate::{Level, Pool};
use backend::{Heads, Precision, Sequences};
use bytemuck::cast_slice_mut;
use std::ops::Range;

/// Queries of a tile.
const TILE: usize = 64;
/// Queries of a tile that meets the diagonal: a smaller one computes fewer scores that no query sees.
const DIAGONAL_TILE: usize = 16;

/// What all parts read.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    d_out: &'a [f32],
    out: &'a [f32],
    logsumexp: &'a [f32],
}

/// What a part computes: gradients of the keys and values of `keys` (of the sequence), if asked, and of the queries of
/// rows `rows`, if asked.
#[derive(Clone)]
struct Part {
    keys: Range<usize>,
    rows: Range<usize>,
    key_gradients: bool,
    query_gradients: bool,
}

/// `d_qkv = ∂attention/∂qkv · d_out`; see `Backend::attention_backward`.
pub(crate) fn attention_backward(
    pool: &Pool,
    level: Level,
    scratch: &memory::Scratch,
    d_qkv: &mut [f32],
    d_out: &[f32],
    out: &[f32],
    logsumexp: &[f32],
    qkv: &[f32],
    sequences: Sequences,
    heads: Heads,
    first_key: Option<&[u32]>,
    precision: Precision,
) {
    let (rows, tokens) = (sequences.rows(), sequences.tokens);
    let qkv = &qkv[..rows * heads.qkv_width()];
    let d_qkv = Disjoint::new(&mut d_qkv[..rows * heads.qkv_width()]);
    let inputs = Inputs { d_out, out, logsumexp };
    let all = sequences.batch * heads.kv_heads;
    let parts = Parts::of(all, pool.threads(), tokens);
    pool.run(all * parts.len(), &|index| {
        let (head, part) = (index / parts.len(), parts.part(index % parts.len()));
        let base = head / heads.kv_heads * tokens;
        let queries = Queries { qkv, heads, kv_head: head % heads.kv_heads, base, at: 0, first_key };
        let mut lease = scratch.take(scratch_floats(heads, part.rows.len()));
        backward(level, precision, queries, inputs, part.clone(), &d_qkv, lease.floats());
    });
}

/// One part for a key head where that keeps the threads busy; else parts for keys and parts for queries, which both
/// compute the scores (seven products instead of five). The bits are the same.
#[derive(Clone, Copy)]
struct Parts {
    tokens: usize,
    /// Into how many parts the keys are cut, and the queries; `None`: one part does both.
    cuts: Option<usize>,
}

impl Parts {
    /// Parts of each of `all` key heads of a batch.
    fn of(all: usize, threads: usize, tokens: usize) -> Self {
        let rounds = all.div_ceil(threads);
        // 5/7 of the threads busy is where both ways take the same time.
        let busy = all * 7 >= rounds * threads * 5;
        Self { tokens, cuts: (!busy).then(|| (4 * threads).div_ceil(all).min(tokens.div_ceil(BLOCK))) }
    }

    fn len(self) -> usize {
        self.cuts.map_or(1, |cuts| 2 * cuts)
    }

    /// Part `index`: those of keys first, then those of queries from the last, each the longest first.
    fn part(self, index: usize) -> Part {
        let Self { tokens, cuts } = self;
        let Some(cuts) = cuts else {
            return Part { keys: 0..tokens, rows: 0..tokens, key_gradients: true, query_gradients: true };
        };
        let cut = |part| {
            let blocks = share(part, cuts, tokens.div_ceil(BLOCK));
            blocks.start * BLOCK..tokens.min(blocks.end * BLOCK)
        };
        if index < cuts {
            let keys = cut(index);
            Part { rows: keys.start..tokens, keys, key_gradients: true, query_gradients: false }
        } else {
            let rows = cut(2 * cuts - 1 - index);
            Part { keys: 0..rows.end, rows, key_gradients: false, query_gradients: true }
        }
    }
}

fn scratch_floats(heads: Heads, rows: usize) -> usize {
    let (width, pairs) = (padded(heads.head_dim), even(rows * heads.group()));
    4 * TILE * BLOCK + 5 * BLOCK * width + pairs * (3 * width + 2) + 2 * width
}

/// Operands in pairs of rows: an odd one stands beside zeroes.
fn even(rows: usize) -> usize {
    rows.next_multiple_of(2)
}

/// The scratch of a part, by name; operands are kept as words of a [`Pack`]. A pair is a row and one of the query heads
/// that share the key head.
struct Scratch<'a> {
    /// P of a tile: `TILE × BLOCK`. A left operand along keys, in place.
    weights: &'a mut [f32],
    /// dP, then dS, of a tile: `TILE × BLOCK`. A left operand along keys, in place.
    slopes: &'a mut [f32],
    /// Left operands along queries, where they are not the same: `TILE/2 × BLOCK`.
    weights_across: &'a mut [f32],
    slopes_across: &'a mut [f32],
    /// A block of keys as a panel, of values as a panel, of keys as padded rows.
    key_panel: &'a mut [f32],
    value_panel: &'a mut [f32],
    key_rows: &'a mut [f32],
    /// Gradients of the block's keys and values, padded rows.
    d_keys: &'a mut [f32],
    d_values: &'a mut [f32],
    /// Of every pair: scaled queries, gradients of outputs.
    queries: Operand<'a>,
    d_out: Operand<'a>,
    /// Gradients of queries, padded rows.
    d_queries: &'a mut [f32],
    /// Of every pair: logsumexp and D.
    logsumexp: &'a mut [f32],
    d_sum: &'a mut [f32],
    /// Two padded rows on their way into an operand.
    rows: &'a mut [f32],
}

/// Rows of floats, padded, that are left operands along their width and right operands with their width in lanes.
struct Operand<'a> {
    words: &'a mut [f32],
    width: usize,
}

impl Operand<'_> {
    /// Keeps rows `at..at + F::PER_WORD`, the floats of `rows`.
    #[inline(always)]
    fn keep<F: Pack>(&mut self, f: F, at: usize, rows: &mut [f32]) {
        let width = self.width;
        let (earlier, later) = rows.split_at_mut(width);
        let (left, right) = self.words.split_at_mut(Self::right_start::<F>(self.words.len()));
        let right: &mut [F::Right] = cast_slice_mut(&mut right[at / F::PER_WORD * width..][..width]);
        f.right_row(right, earlier, later);
        if F::PER_WORD > 1 {
            for (i, row) in [earlier, later].into_iter().enumerate() {
                f.left_row(row);
                left[(at + i) * width / 2..][..width / 2].copy_from_slice(&row[..width / 2]);
            }
        }
    }

    /// Words are numbers: one copy is both. Else left rows come first.
    const fn right_start<F: Pack>(len: usize) -> usize {
        if F::PER_WORD > 1 { len / 2 } else { 0 }
    }

    /// Rows from `at` on, k running along them.
    #[inline(always)]
    fn left<F: Pack>(&self, at: usize) -> Left<'_> {
        let stride = self.width / F::PER_WORD;
        Left { data: &self.words[at * stride..], row_stride: stride, depth_stride: 1 }
    }

    /// Rows from `at` on, a multiple of what a word holds; k runs over them.
    #[inline(always)]
    fn right<F: Pack>(&self, at: usize) -> Right<'_, F::Right> {
        let words = &self.words[Self::right_start::<F>(self.words.len())..][at / F::PER_WORD * self.width..];
        Right { data: bytemuck::cast_slice(words), stride: self.width }
    }
}

impl<'a> Scratch<'a> {
    fn new(mut memory: &'a mut [f32], heads: Heads, rows: usize) -> Self {
        let (width, pairs) = (padded(heads.head_dim), even(rows * heads.group()));
        let mut take = |len| memory.split_off_mut(..len).unwrap_or_default();
        Self {
            weights: take(TILE * BLOCK),
            slopes: take(TILE * BLOCK),
            weights_across: take(TILE * BLOCK),
            slopes_across: take(TILE * BLOCK),
            key_panel: take(BLOCK * width),
            value_panel: take(BLOCK * width),
            key_rows: take(BLOCK * width),
            d_keys: take(BLOCK * width),
            d_values: take(BLOCK * width),
            queries: Operand { words: take(pairs * width), width },
            d_out: Operand { words: take(pairs * width), width },
            d_queries: take(pairs * width),
            logsumexp: take(pairs),
            d_sum: take(pairs),
            rows: take(2 * width),
        }
    }
}

in_every_form! {
    fn backward(
        queries: Queries<'_>,
        inputs: Inputs<'_>,
        part: Part,
        d_qkv: &Disjoint<'_, f32>,
        scratch: &mut [f32],
    ) = backward_part;
}

#[inline(always)]
fn backward_part(
    f: impl Pack,
    queries: Queries<'_>,
    inputs: Inputs<'_>,
    part: Part,
    d_qkv: &Disjoint<'_, f32>,
    scratch: &mut [f32],
) {
    let group = queries.heads.group();
    let mut scratch = Scratch::new(scratch, queries.heads, part.rows.len());
    gather(f, queries, inputs, part.rows.clone(), &mut scratch);
    let pairs = part.rows.start * group..part.rows.end * group;
    for start in (part.keys.start..part.keys.end).step_by(BLOCK) {
        let keys = start..part.keys.end.min(start + BLOCK);
        pack_keys(f, queries, keys.clone(), &mut scratch);
        let mut first = pairs.start.max(keys.start * group);
        while first < pairs.end {
            let tile = if first / group < keys.end { DIAGONAL_TILE } else { TILE };
            let tile = first..pairs.end.min(first + tile);
            first = tile.end;
            let Some(columns) = slopes(f, queries, keys.clone(), tile.clone(), pairs.start, &mut scratch) else {
                continue;
            };
            let at = tile.start - pairs.start;
            if part.key_gradients {
                add_to_keys(f, tile.len(), columns, at, &mut scratch);
            }
            if part.query_gradients {
                add_to_queries(f, tile.len(), columns, at, &mut scratch);
            }
        }
        if part.key_gradients {
            scatter_keys(queries, keys, &scratch, d_qkv);
        }
    }
    if part.query_gradients {
        scatter_queries(queries, pairs, &scratch, d_qkv);
    }
}

/// Queries, gradients of outputs, logsumexp and D of all pairs.
#[inline(always)]
fn gather<F: Pack>(f: F, queries: Queries<'_>, inputs: Inputs<'_>, rows: Range<usize>, scratch: &mut Scratch<'_>) {
    let Heads { heads, head_dim, .. } = queries.heads;
    let (width, group) = (padded(head_dim), queries.heads.group());
    scratch.d_queries.fill(0.0);
    let (first, count) = (rows.start * group, rows.len() * group);
    let head_of = |i: usize| {
        let (row, head) = queries.row_and_head(first + i);
        row * heads + head
    };
    for at in (0..count).step_by(F::PER_WORD) {
        let words = at..count.min(at + F::PER_WORD);
        scratch.rows.fill(0.0);
        for (i, row) in words.clone().zip(scratch.rows.chunks_exact_mut(width)) {
            queries.scaled(first + i, &mut row[..head_dim]);
        }
        scratch.queries.keep(f, at, scratch.rows);
        scratch.rows.fill(0.0);
        for (i, row) in words.zip(scratch.rows.chunks_exact_mut(width)) {
            let at = head_of(i) * head_dim;
            let (d_out, out) = (&inputs.d_out[at..][..head_dim], &inputs.out[at..][..head_dim]);
            row[..head_dim].copy_from_slice(d_out);
            scratch.d_sum[i] = dot(f.simd(), d_out, out);
            scratch.logsumexp[i] = inputs.logsumexp[head_of(i)];
        }
        scratch.d_out.keep(f, at, scratch.rows);
    }
}

/// The block of keys and values in the forms that the products read; their gradients zero.
#[inline(always)]
fn pack_keys<F: Pack>(f: F, queries: Queries<'_>, keys: Range<usize>, scratch: &mut Scratch<'_>) {
    let [source, values] = keys_and_values(queries.qkv, queries.heads, queries.kv_head);
    let row = queries.base + keys.start;
    if keys.len() < BLOCK {
        scratch.key_panel.fill(0.0);
        scratch.value_panel.fill(0.0);
        scratch.key_rows.fill(0.0);
    }
    f.panel(cast_slice_mut(scratch.key_panel), source, row, keys.len());
    f.panel(cast_slice_mut(scratch.value_panel), values, row, keys.len());
    f.right_rows(cast_slice_mut(scratch.key_rows), source, row, keys.len());
    scratch.d_keys.fill(0.0);
    scratch.d_values.fill(0.0);
}

/// P and dS of a tile, zero where a query does not see a key. Returns the number of columns (a whole number of
/// vectors) beyond which all is zero, or nothing where no query of the tile sees a key of the block.
#[inline(always)]
fn slopes<F: Pack>(
    f: F,
    queries: Queries<'_>,
    keys: Range<usize>,
    tile: Range<usize>,
    first_pair: usize,
    scratch: &mut Scratch<'_>,
) -> Option<usize> {
    let s = f.simd();
    let depth = queries.heads.head_dim / F::PER_WORD;
    let mut seen = [(0, 0); TILE];
    let mut columns = 0;
    for (seen, pair) in seen.iter_mut().zip(tile.clone()) {
        let visible = queries.visible(pair);
        let (from, to) = (visible.start.max(keys.start), visible.end.min(keys.end));
        if from < to {
            *seen = (from - keys.start, to - keys.start);
            columns = columns.max(seen.1);
        }
    }
    if columns == 0 {
        return None;
    }
    let vectors = columns.div_ceil(LANES);
    let at = tile.start - first_pair;
    let size = Size { rows: tile.len(), depth, vectors };
    let panel = |words| Right::<F::Right> { data: bytemuck::cast_slice(words), stride: BLOCK };
    let (q, d_out) = (scratch.queries.left::<F>(at), scratch.d_out.left::<F>(at));
    multiply::<true, _, _>(s, scratch.weights, BLOCK, q, panel(&*scratch.key_panel), size);
    multiply::<true, _, _>(s, scratch.slopes, BLOCK, d_out, panel(&*scratch.value_panel), size);

    for (i, &(from, to)) in seen[..tile.len()].iter().enumerate() {
        let weights = &mut scratch.weights[i * BLOCK..][..vectors * LANES];
        let slopes = &mut scratch.slopes[i * BLOCK..][..vectors * LANES];
        let logsumexp = s.splat(scratch.logsumexp[at + i]);
        let d_sum = s.splat(scratch.d_sum[at + i]);
        for (p, ds) in weights.as_chunks_mut::<LANES>().0.iter_mut().zip(slopes.as_chunks_mut::<LANES>().0) {
            let weight = s.exp(s.sub(s.load(p), logsumexp));
            s.store(p, weight);
            let slope = s.mul(weight, s.sub(s.load(ds), d_sum));
            s.store(ds, slope);
        }
        for row in [weights, slopes] {
            row[..from].fill(0.0);
            row[to..].fill(0.0);
        }
    }
    // To a whole vector of words.
    let columns = columns.next_multiple_of(LANES * F::PER_WORD);
    keep_slopes(f, tile.len(), vectors * LANES..columns, scratch);
    Some(columns)
}

/// Makes operands of P and dS of a tile's `rows`, first filling `columns` of them with zeroes.
#[inline(always)]
fn keep_slopes<F: Pack>(f: F, rows: usize, columns: Range<usize>, scratch: &mut Scratch<'_>) {
    for tile in [&mut *scratch.weights, &mut *scratch.slopes] {
        for row in tile.chunks_exact_mut(BLOCK).take(rows) {
            row[columns.clone()].fill(0.0);
        }
        if !rows.is_multiple_of(F::PER_WORD) {
            tile[rows * BLOCK..][..BLOCK].fill(0.0);
        }
    }
    if F::PER_WORD > 1 {
        for (across, tile) in
            [(&mut *scratch.weights_across, &*scratch.weights), (&mut *scratch.slopes_across, &*scratch.slopes)]
        {
            let rows = tile.chunks_exact(2 * BLOCK).take(rows.div_ceil(2));
            for (out, rows) in across.chunks_exact_mut(BLOCK).zip(rows) {
                let (earlier, later) = rows.split_at(BLOCK);
                f.right_row(cast_slice_mut(&mut out[..columns.end]), &earlier[..columns.end], &later[..columns.end]);
            }
        }
    } else {
        scratch.weights.chunks_exact_mut(BLOCK).take(rows).for_each(|row| f.left_row(&mut row[..columns.end]));
    }
    scratch.slopes.chunks_exact_mut(BLOCK).take(rows).for_each(|row| f.left_row(&mut row[..columns.end]));
}

/// `dV += Pᵀ dO` and `dK += dSᵀ q̃`.
#[inline(always)]
fn add_to_keys<F: Pack>(f: F, rows: usize, columns: usize, at: usize, scratch: &mut Scratch<'_>) {
    let width = scratch.queries.width;
    let size = Size { rows: columns, depth: rows.div_ceil(F::PER_WORD), vectors: width / LANES };
    let (p, ds) = match F::PER_WORD {
        1 => (&*scratch.weights, &*scratch.slopes),
        _ => (&*scratch.weights_across, &*scratch.slopes_across),
    };
    let across = |data| Left { data, row_stride: 1, depth_stride: BLOCK };
    multiply::<false, _, _>(f.simd(), scratch.d_values, width, across(p), scratch.d_out.right::<F>(at), size);
    multiply::<false, _, _>(f.simd(), scratch.d_keys, width, across(ds), scratch.queries.right::<F>(at), size);
}

/// `dQ · √head_dim += dS K`.
#[inline(always)]
fn add_to_queries<F: Pack>(f: F, rows: usize, columns: usize, at: usize, scratch: &mut Scratch<'_>) {
    let width = scratch.queries.width;
    let size = Size { rows, depth: columns / F::PER_WORD, vectors: width / LANES };
    let left = Left { data: &*scratch.slopes, row_stride: BLOCK, depth_stride: 1 };
    let right = Right::<F::Right> { data: bytemuck::cast_slice(scratch.key_rows), stride: width };
    multiply::<false, _, _>(f.simd(), &mut scratch.d_queries[at * width..], width, left, right, size);
}

/// Writes the gradients of a block of keys and values.
#[inline(always)]
fn scatter_keys(queries: Queries<'_>, keys: Range<usize>, scratch: &Scratch<'_>, d_qkv: &Disjoint<'_, f32>) {
    let Heads { head_dim, .. } = queries.heads;
    let key_at = queries.heads.query_width() + queries.kv_head * head_dim;
    let value_at = key_at + queries.heads.kv_width();
    for (d, at) in [(&*scratch.d_keys, key_at), (&*scratch.d_values, value_at)] {
        let d = HeadRows { data: d, stride: padded(head_dim), head_dim };
        for key in keys.clone() {
            let at = (queries.base + key) * queries.heads.qkv_width() + at;
            // SAFETY: the part alone writes the keys and values of these rows and this head.
            let out = unsafe { d_qkv.range(at..at + head_dim) };
            out.copy_from_slice(d.row(key - keys.start));
        }
    }
}

/// Writes the gradients of the queries.
#[inline(always)]
fn scatter_queries(queries: Queries<'_>, pairs: Range<usize>, scratch: &Scratch<'_>, d_qkv: &Disjoint<'_, f32>) {
    let Heads { head_dim, .. } = queries.heads;
    let scale = queries.scale();
    for (i, pair) in pairs.enumerate() {
        let (row, head) = queries.row_and_head(pair);
        let at = row * queries.heads.qkv_width() + head * head_dim;
        // SAFETY: the part alone writes the queries of these rows and heads.
        let out = unsafe { d_qkv.range(at..at + head_dim) };
        for (out, &d) in out.iter_mut().zip(&scratch.d_queries[i * padded(head_dim)..]) {
            *out = d * scale;
        }
    }
}
