//! Passes over the rows of a batch, of a tree of sequences, or over a cache: `logits = Whead · norm(block_L(… block_1(x)))`,
//! whatever the architecture; its blocks stand in [`crate::llama`] and `gpt2.rs`.

use crate::{Activations, Batch, Block, BlockActivations, Config, Linear, Model, Norm, PrefixTree, TreeBuffers};
use backend::{Backend, Buf, Family, Heads, KvCache, Precision, Rows};

/// The forward pass of a block: from [`BlockActivations::x`] to [`BlockActivations::out`]. The last argument computes
/// attention, within a batch or over a cache, from `qkv` to `attended`.
pub(crate) type BlockForward = fn(&dyn Backend, &Block, &BlockActivations, Pass, &dyn Fn());

/// What every operation of a pass must know beside its buffers.
#[derive(Clone, Copy)]
pub(crate) struct Pass {
    pub(crate) rows: Rows,
    pub(crate) heads: Heads,
    pub(crate) ffn_width: usize,
    pub(crate) epsilon: f32,
    pub(crate) rope: Buf,
    pub(crate) positions: Buf,
    pub(crate) precision: Precision,
    pub(crate) activation: crate::Activation,
    pub(crate) norms_after: bool,
}

impl Pass {
    pub(crate) fn new(model: &Model, acts: &Activations, rows: Rows, positions: Buf) -> Self {
        assert!((1..=acts.rows).contains(&rows.count), "{} rows, planned for {}", rows.count, acts.rows);
        let Config { heads, ffn_width, norm_epsilon: epsilon, .. } = model.config;
        let (activation, norms_after) = (model.config.form.activation, model.config.form.norms_after);
        let (rope, precision) = (acts.rope, model.precision);
        Self { rows, heads, ffn_width, epsilon, rope, positions, precision, activation, norms_after }
    }
}

/// Hidden states of a batch after the final norm, `rows × token width`, until the next pass.
pub fn forward(b: &dyn Backend, model: &Model, acts: &Activations, batch: &Batch) -> Buf {
    let pass = Pass::new(model, acts, Rows::prompt(batch.sequences.rows()), batch.positions);
    run(b, model, acts, pass, batch.ids, &|_, a| {
        b.attention(a.attended, a.logsumexp, a.qkv, batch.sequences, pass.heads, batch.first_key, pass.precision);
    })
}

/// [`forward`] under the eyes of `observe`, which is given every layer's index and input, `rows × width`.
pub(crate) fn forward_observed(
    b: &dyn Backend,
    model: &Model,
    acts: &Activations,
    batch: &Batch,
    observe: &dyn Fn(usize, Buf),
) -> Buf {
    let pass = Pass::new(model, acts, Rows::prompt(batch.sequences.rows()), batch.positions);
    run(b, model, acts, pass, batch.ids, &|layer, a| {
        observe(layer, a.x);
        b.attention(a.attended, a.logsumexp, a.qkv, batch.sequences, pass.heads, batch.first_key, pass.precision);
    })
}

/// [`forward`] over the rows of a tree of sequences, those that sequences share computed once.
///
/// # Panics
/// If the tree is larger than the activations or the buffers were planned for, or empty.
pub fn forward_tree(
    b: &dyn Backend,
    model: &Model,
    acts: &Activations,
    buffers: &TreeBuffers,
    tree: &PrefixTree,
) -> Buf {
    let pass = Pass::new(model, acts, Rows::prompt(tree.rows()), buffers.positions);
    let along = buffers.load(b, tree);
    run(b, model, acts, pass, buffers.ids, &|_, a| buffers.attend(b, a, &along, pass.heads, pass.precision))
}

/// The pass over `ids`, whose rows stand at positions `at..at + ids.len()` of one sequence and see what `cache` holds
/// before them; their keys and values are stored. Returns hidden states as [`forward`] does.
///
/// # Panics
/// If there are no ids, more than [`Activations::rows`], or positions beyond [`Activations::positions`].
pub fn forward_cached(
    b: &dyn Backend,
    model: &Model,
    acts: &Activations,
    cache: KvCache,
    at: usize,
    ids: &[u32],
    family: Family,
) -> Buf {
    let rows = Rows { count: ids.len(), family };
    let pass = Pass::new(model, acts, rows, acts.row_positions);
    assert!(at + rows.count <= acts.positions, "position {} of {}", at + rows.count, acts.positions);
    b.write_ids(acts.ids, 0, ids);
    write_positions(b, acts.row_positions, at, rows.count);
    run(b, model, acts, pass, acts.ids, &|layer, a| {
        b.kv_store(cache, layer, at, a.qkv, rows.count);
        b.attention_cached(a.attended, a.qkv, cache, layer, at, rows, pass.precision);
    })
}

/// Room for the row of one text in [`forward_texts`].
#[derive(Clone, Copy, Debug)]
pub struct TextRow {
    /// A row of queries, keys and values.
    pub qkv: Buf,
    /// A row of attended values.
    pub attended: Buf,
}

/// One generated token of each of several texts: `ids[i]` stands at position `texts[i].1` behind what the cache
/// `texts[i].0` holds, and its keys and values are stored there. Weights are read once for all. A row has the bits that it
/// has alone. Returns hidden states as [`forward`] does.
///
/// # Panics
/// If there are not as many texts as ids, none, more than [`Activations::rows`], or positions beyond
/// [`Activations::positions`].
pub fn forward_texts(
    b: &dyn Backend,
    model: &Model,
    acts: &Activations,
    texts: &[(KvCache, usize)],
    ids: &[u32],
    row: TextRow,
) -> Buf {
    assert_eq!(texts.len(), ids.len(), "a token for each text");
    let rows = Rows::generated(ids.len());
    let pass = Pass::new(model, acts, rows, acts.row_positions);
    b.write_ids(acts.ids, 0, ids);
    for (index, &(_, at)) in texts.iter().enumerate() {
        assert!(at < acts.positions, "position {at} of {}", acts.positions);
        b.write_ids(acts.row_positions, index, &[at as u32]);
    }
    let (qkv_width, query_width) = (pass.heads.qkv_width(), pass.heads.query_width());
    run(b, model, acts, pass, acts.ids, &|layer, a| {
        for (index, &(cache, at)) in texts.iter().enumerate() {
            b.copy(row.qkv, 0, a.qkv, index * qkv_width, qkv_width);
            b.kv_store(cache, layer, at, row.qkv, 1);
            b.attention_cached(row.attended, row.qkv, cache, layer, at, Rows::generated(1), pass.precision);
            b.copy(a.attended, index * query_width, row.attended, 0, query_width);
        }
    })
}

/// Loss of each row of a batch in nats ([`Backend::head_loss`]): [`Activations::losses`], until the next pass.
pub fn loss(b: &dyn Backend, model: &Model, acts: &Activations, batch: &Batch, targets: Buf) -> Buf {
    let hidden = forward(b, model, acts, batch);
    b.head_loss(acts.losses, hidden, model.head, targets, batch.sequences.rows());
    acts.losses
}

/// Logits of rows `first..first + rows.count` of the last pass, `rows.count × vocab`, until the next call.
///
/// # Panics
/// If there are more rows than [`Activations::logits_rows`].
pub fn logits(b: &dyn Backend, model: &Model, acts: &Activations, first: usize, rows: Rows) -> Buf {
    assert!((1..=acts.logits_rows).contains(&rows.count), "{} rows of {}", rows.count, acts.logits_rows);
    let width = model.config.token_width();
    let mut hidden = acts.final_states;
    if first > 0 {
        b.copy(acts.picked, 0, hidden, first * width, rows.count * width);
        hidden = acts.picked;
    }
    b.linear(acts.logits, hidden, model.head, rows);
    acts.logits
}

/// All of a pass but the head; `attend` is called with the layer.
fn run(
    b: &dyn Backend,
    model: &Model,
    acts: &Activations,
    pass: Pass,
    ids: Buf,
    attend: &dyn Fn(usize, &BlockActivations),
) -> Buf {
    let block_forward = model.config.architecture.description().block_forward;
    embed(b, model, acts, pass, ids);
    for (layer, (w, a)) in model.blocks.iter().zip(&acts.blocks).enumerate() {
        block_forward(b, w, a, pass, &|| attend(layer, a));
    }
    finish(b, model, acts, pass);
    acts.final_states
}

/// Token vectors, projected where they are narrower, and positions where they are learned: [`Activations::embedded`].
fn embed(b: &dyn Backend, model: &Model, acts: &Activations, p: Pass, ids: Buf) {
    match model.project_in {
        None => b.embed(acts.embedded, ids, model.embedding, p.rows.count),
        Some(project_in) => {
            b.embed(acts.final_states, ids, model.embedding, p.rows.count);
            b.linear(acts.embedded, acts.final_states, project_in, p.rows);
        }
    }
    if let Some(positions) = model.positions {
        b.add_rows(acts.embedded, p.positions, positions, model.config.width, p.rows.count);
    }
}

/// The final norm and projection, where there are any: from [`Activations::last`] to the final hidden states.
fn finish(b: &dyn Backend, model: &Model, acts: &Activations, p: Pass) {
    let (rows, width) = (p.rows.count, model.config.width);
    match model.norm {
        None => b.copy(acts.normed, 0, acts.last, 0, rows * width),
        Some(Norm { weight, bias: None }) => b.rmsnorm(acts.normed, acts.rstd, acts.last, weight, p.epsilon, rows),
        Some(Norm { weight, bias: Some(bias) }) => b.layer_norm(acts.normed, acts.last, weight, bias, p.epsilon, rows),
    }
    if let Some(project_out) = model.project_out {
        b.linear(acts.final_states, acts.normed, project_out, p.rows);
    }
}

/// `out = x · wᵀ + bias`.
pub(crate) fn linear(b: &dyn Backend, out: Buf, x: Buf, w: Linear, rows: Rows) {
    b.linear(out, x, w.matrix, rows);
    if let Some(bias) = w.bias {
        b.add_bias(out, bias, rows.count);
    }
}

/// `out = residual + x · wᵀ + bias`. `out` may be `residual` itself.
pub(crate) fn linear_add(b: &dyn Backend, out: Buf, residual: Buf, x: Buf, w: Linear, rows: Rows) {
    b.linear_add(out, residual, x, w.matrix, rows);
    if let Some(bias) = w.bias {
        b.add_bias(out, bias, rows.count);
    }
}

/// Positions `at..at + count`, by parts of a fixed size: a decoded token allocates nothing.
fn write_positions(b: &dyn Backend, positions: Buf, at: usize, count: usize) {
    const PART: usize = 64;
    for first in (0..count).step_by(PART) {
        let part: [u32; PART] = std::array::from_fn(|row| (at + first + row) as u32);
        b.write_ids(positions, first, &part[..PART.min(count - first)]);
    }
}
