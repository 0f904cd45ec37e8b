//! The Llama model (Touvron et al., 2023): block and model, forward and backward, as calls to the backend.
//!
//! A block, with `x` the residual stream:
//! ```text
//! mid = x   + Wₒ · attend(rope(Wqkv · norm₁(x) [+ bias]))
//! out = mid + W↓ · swiglu(Wgate,up · norm₂(mid))
//! ```
//! The model: `logits = Whead · norm(block_L(… block_1(embed(ids))))`.

use crate::activations::{ActivationGradients, Activations, BlockActivations};
use crate::parameters::BlockWeightGradients;
use crate::{Block, Config, Model, Parameters, PrefixTree, TreeBuffers};
use backend::{Backend, Buf, Family, Heads, KvCache, Precision, Rows};

pub use crate::batch::Batch;

/// The block's two equations; `attend` is attention within a batch or over a cache.
fn block_forward(b: &dyn Backend, w: &Block, a: &BlockActivations, p: Pass, attend: impl FnOnce()) {
    let n = p.rows.count;

    b.rmsnorm(a.normed, a.rstd, a.x, w.norm1, p.epsilon, n);
    b.linear(a.qkv, a.normed, w.qkv, p.rows);
    if let Some(bias) = w.qkv_bias {
        b.add_bias(a.qkv, bias, n);
    }
    b.rope(a.qkv, p.rope, p.positions, p.heads, n);
    attend();
    b.linear_add(a.mid, a.x, a.attended, w.attention_out, p.rows);

    b.rmsnorm(a.normed, a.rstd, a.mid, w.norm2, p.epsilon, n);
    b.linear(a.gate_up, a.normed, w.gate_up, p.rows);
    b.swiglu(a.hidden, a.gate_up, p.ffn_width, n);
    b.linear_add(a.out, a.mid, a.hidden, w.down, p.rows);
}

/// The block's gradient, its equations from the bottom up: `d.stream` holds ∂loss/∂out on entry and ∂loss/∂x on
/// return; the weights' gradients `g` are added to. Norm outputs and `hidden` were not kept and are computed again.
fn block_backward(
    b: &dyn Backend,
    w: &Block,
    g: &BlockWeightGradients,
    a: &BlockActivations,
    d: &ActivationGradients,
    p: Pass,
    batch: &Batch,
) {
    let (n, sequences, first_key) = (p.rows.count, batch.sequences, batch.first_key);

    b.swiglu(a.hidden, a.gate_up, p.ffn_width, n);
    b.linear_backward(d.hidden, g.down, d.stream, a.hidden, w.down, n);
    b.swiglu_backward(d.gate_up, d.hidden, a.gate_up, p.ffn_width, n);
    b.rmsnorm(a.normed, a.rstd, a.mid, w.norm2, p.epsilon, n);
    b.linear_backward(d.normed, g.gate_up, d.gate_up, a.normed, w.gate_up, n);
    b.rmsnorm_backward_add(d.stream, g.norm2, d.stream, d.normed, a.mid, a.rstd, w.norm2, n);

    b.linear_backward(d.attended, g.attention_out, d.stream, a.attended, w.attention_out, n);
    b.attention_backward(d.qkv, d.attended, a.attended, a.logsumexp, a.qkv, sequences, p.heads, first_key, p.precision);
    b.rope_backward(d.qkv, p.rope, p.positions, p.heads, n);
    b.rmsnorm(a.normed, a.rstd, a.x, w.norm1, p.epsilon, n);
    b.linear_backward(d.normed, g.qkv, d.qkv, a.normed, w.qkv, n);
    b.rmsnorm_backward_add(d.stream, g.norm1, d.stream, d.normed, a.x, a.rstd, w.norm1, n);
}

/// Hidden states of a batch after the final norm, `rows × width`: [`Activations::normed`], until the next pass.
pub fn forward(b: &dyn Backend, model: &Model, acts: &Activations, batch: &Batch) -> Buf {
    let rows = Rows::prompt(batch.sequences.rows());
    let pass = Pass::new(model, acts, rows, batch.positions);
    b.embed(acts.embedded, batch.ids, model.embedding, rows.count);
    for (w, a) in model.blocks.iter().zip(&acts.blocks) {
        block_forward(b, w, a, pass, || {
            b.attention(a.attended, a.logsumexp, a.qkv, batch.sequences, pass.heads, batch.first_key, pass.precision);
        });
    }
    final_norm(b, model, acts, rows.count)
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
    let rows = Rows::prompt(tree.rows());
    let pass = Pass::new(model, acts, rows, buffers.positions);
    let along = buffers.load(b, tree);
    b.embed(acts.embedded, buffers.ids, model.embedding, rows.count);
    for (w, a) in model.blocks.iter().zip(&acts.blocks) {
        block_forward(b, w, a, pass, || buffers.attend(b, a, &along, pass.heads, pass.precision));
    }
    final_norm(b, model, acts, rows.count)
}

/// Loss of each row of a batch in nats ([`Backend::head_loss`]): [`Activations::losses`], until the next pass.
pub fn loss(b: &dyn Backend, model: &Model, acts: &Activations, batch: &Batch, targets: Buf) -> Buf {
    let hidden = forward(b, model, acts, batch);
    b.head_loss(acts.losses, hidden, model.head, targets, batch.sequences.rows());
    acts.losses
}

/// [`loss`], and the gradients of `scale · Σ losses` added to those of the parameters.
///
/// Sums over rows run in row order, so a batch and its parts in turn leave the same bits, except in the embedding of a
/// tied model: there the head's sum of one call comes before the embedding's, and parts interleave the two.
///
/// # Panics
/// If the activations were planned for inference.
pub fn loss_and_gradients(
    b: &dyn Backend,
    parameters: &Parameters,
    acts: &Activations,
    batch: &Batch,
    targets: Buf,
    scale: f32,
) -> Buf {
    let (model, g) = (&parameters.model, &parameters.gradients);
    let Some(d) = &acts.gradients else { panic!("these activations were planned for inference") };
    let n = batch.sequences.rows();
    let pass = Pass::new(model, acts, Rows::prompt(n), batch.positions);

    let hidden = forward(b, model, acts, batch);
    b.head_loss_backward(acts.losses, d.normed, g.head, hidden, model.head, targets, scale, n);
    b.fill(d.stream, 0.0);
    b.rmsnorm_backward_add(d.stream, g.norm, d.stream, d.normed, acts.last, acts.rstd, model.norm, n);
    for ((w, g), a) in model.blocks.iter().zip(&g.blocks).zip(&acts.blocks).rev() {
        block_backward(b, w, g, a, d, pass, batch);
    }
    b.embed_backward(g.embedding, d.stream, batch.ids, model.config.width, n);
    acts.losses
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

    b.embed(acts.embedded, acts.ids, model.embedding, rows.count);
    for (layer, (w, a)) in model.blocks.iter().zip(&acts.blocks).enumerate() {
        block_forward(b, w, a, pass, || {
            b.kv_store(cache, layer, at, a.qkv, rows.count);
            b.attention_cached(a.attended, a.qkv, cache, layer, at, rows, pass.precision);
        });
    }
    final_norm(b, model, acts, rows.count)
}

/// Positions `at..at + count`, by parts of a fixed size: a decoded token allocates nothing.
fn write_positions(b: &dyn Backend, positions: Buf, at: usize, count: usize) {
    const PART: usize = 64;
    for first in (0..count).step_by(PART) {
        let part: [u32; PART] = std::array::from_fn(|row| (at + first + row) as u32);
        b.write_ids(positions, first, &part[..PART.min(count - first)]);
    }
}

/// Logits of rows `first..first + rows.count` of the last pass, `rows.count × vocab`, until the next call.
///
/// # Panics
/// If there are more rows than [`Activations::logits_rows`].
pub fn logits(b: &dyn Backend, model: &Model, acts: &Activations, first: usize, rows: Rows) -> Buf {
    assert!((1..=acts.logits_rows).contains(&rows.count), "{} rows of {}", rows.count, acts.logits_rows);
    let width = model.config.width;
    let mut hidden = acts.normed;
    if first > 0 {
        b.copy(acts.picked, 0, acts.normed, first * width, rows.count * width);
        hidden = acts.picked;
    }
    b.linear(acts.logits, hidden, model.head, rows);
    acts.logits
}

fn final_norm(b: &dyn Backend, model: &Model, acts: &Activations, rows: usize) -> Buf {
    b.rmsnorm(acts.normed, acts.rstd, acts.last, model.norm, model.config.norm_epsilon, rows);
    acts.normed
}

/// What every operation of a pass must know beside its buffers.
#[derive(Clone, Copy)]
struct Pass {
    rows: Rows,
    heads: Heads,
    ffn_width: usize,
    epsilon: f32,
    rope: Buf,
    positions: Buf,
    precision: Precision,
}

impl Pass {
    fn new(model: &Model, acts: &Activations, rows: Rows, positions: Buf) -> Self {
        assert!((1..=acts.rows).contains(&rows.count), "{} rows, planned for {}", rows.count, acts.rows);
        let Config { heads, ffn_width, norm_epsilon: epsilon, .. } = model.config;
        Self { rows, heads, ffn_width, epsilon, rope: acts.rope, positions, precision: model.precision }
    }
}
