//! The Llama model (Touvron et al., 2023): block and model, forward and backward, as calls to the backend.
//!
//! A block, with `x` the residual stream:
//! ```text
//! mid = x   + Wₒ · attend(rope(Wqkv · norm₁(x)))
//! out = mid + W↓ · swiglu(Wgate,up · norm₂(mid))
//! ```
//! The model: `logits = Whead · norm(block_L(… block_1(embed(ids))))`.

use crate::activations::{ActivationGradients, Activations, BlockActivations};
use crate::parameters::BlockWeightGradients;
use crate::{Block, Config, Model, Parameters};
use backend::{Backend, BackendError, Buf, Element, Family, KvCache, Rows, Sequences};

/// What a pass reads: one id and one position a row.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// How the rows form sequences.
    pub sequences: Sequences,
    /// Token ids, each below the vocabulary's size.
    pub ids: Buf,
    /// Positions, each below [`Activations::positions`].
    pub positions: Buf,
    /// First token of its sequence that a row may attend to: the start of its document. `None`: token 0.
    pub first_key: Option<Buf>,
}

impl Batch {
    /// Buffers for batches of this shape: ids to be written, positions `0..tokens` in every sequence, and with
    /// `documents` a zeroed `first_key`.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    pub fn new(b: &dyn Backend, sequences: Sequences, documents: bool) -> Result<Self, BackendError> {
        let alloc = || b.alloc(Element::U32, sequences.rows());
        let batch = Self {
            sequences,
            ids: alloc()?,
            positions: alloc()?,
            first_key: if documents { Some(alloc()?) } else { None },
        };
        let row: Vec<u32> = (0..sequences.tokens as u32).collect();
        (0..sequences.batch).for_each(|sequence| b.write_ids(batch.positions, sequence * sequences.tokens, &row));
        Ok(batch)
    }

    /// Gives the buffers back.
    pub fn free(self, b: &dyn Backend) {
        [Some(self.ids), Some(self.positions), self.first_key].into_iter().flatten().for_each(|buf| b.free(buf));
    }
}

/// Rows of a pass, the table and the places that turn them.
#[derive(Clone, Copy)]
struct Pass<'a> {
    config: &'a Config,
    rows: Rows,
    rope: Buf,
    positions: Buf,
}

/// The block's two equations; `attend` is attention within a batch or over a cache.
fn block_forward(b: &dyn Backend, w: &Block, a: &BlockActivations, pass: Pass<'_>, attend: impl FnOnce()) {
    let Pass { config, rows, rope, positions } = pass;
    let n = rows.count;

    b.rmsnorm(a.normed, a.rstd, a.x, w.norm1, config.norm_epsilon, n);
    b.linear(a.qkv, a.normed, w.qkv, rows);
    b.rope(a.qkv, rope, positions, config.heads, n);
    attend();
    b.linear_add(a.mid, a.x, a.attended, w.attention_out, rows);

    b.rmsnorm(a.normed, a.rstd, a.mid, w.norm2, config.norm_epsilon, n);
    b.linear(a.gate_up, a.normed, w.gate_up, rows);
    b.swiglu(a.hidden, a.gate_up, config.ffn_width, n);
    b.linear_add(a.out, a.mid, a.hidden, w.down, rows);
}

/// The block's gradient, its equations from the bottom up: `d.stream` holds ∂loss/∂out on entry and ∂loss/∂x on
/// return; the weights' gradients `g` are added to. Norm outputs and `hidden` were not kept and are computed again.
fn block_backward(
    b: &dyn Backend,
    w: &Block,
    g: &BlockWeightGradients,
    a: &BlockActivations,
    d: &ActivationGradients,
    pass: Pass<'_>,
    batch: &Batch,
) {
    let Pass { config, rows: Rows { count: n, .. }, rope, positions } = pass;

    b.swiglu(a.hidden, a.gate_up, config.ffn_width, n);
    b.linear_backward(d.hidden, g.down, d.stream, a.hidden, w.down, n);
    b.swiglu_backward(d.gate_up, d.hidden, a.gate_up, config.ffn_width, n);
    b.rmsnorm(a.normed, a.rstd, a.mid, w.norm2, config.norm_epsilon, n);
    b.linear_backward(d.normed, g.gate_up, d.gate_up, a.normed, w.gate_up, n);
    b.rmsnorm_backward_add(d.stream, g.norm2, d.stream, d.normed, a.mid, a.rstd, w.norm2, n);

    b.linear_backward(d.attended, g.attention_out, d.stream, a.attended, w.attention_out, n);
    b.attention_backward(
        d.qkv,
        d.attended,
        a.attended,
        a.logsumexp,
        a.qkv,
        batch.sequences,
        config.heads,
        batch.first_key,
    );
    b.rope_backward(d.qkv, rope, positions, config.heads, n);
    b.rmsnorm(a.normed, a.rstd, a.x, w.norm1, config.norm_epsilon, n);
    b.linear_backward(d.normed, g.qkv, d.qkv, a.normed, w.qkv, n);
    b.rmsnorm_backward_add(d.stream, g.norm1, d.stream, d.normed, a.x, a.rstd, w.norm1, n);
}

/// Hidden states of a batch after the final norm, `rows × width`: [`Activations::normed`], until the next pass.
pub fn forward(b: &dyn Backend, model: &Model, acts: &Activations, batch: &Batch) -> Buf {
    let pass = batch.pass(&model.config, acts);
    b.embed(acts.embedded, batch.ids, model.embedding, pass.rows.count);
    for (w, a) in model.blocks.iter().zip(&acts.blocks) {
        block_forward(b, w, a, pass, || {
            b.attention(a.attended, a.logsumexp, a.qkv, batch.sequences, model.config.heads, batch.first_key);
        });
    }
    final_norm(b, model, acts, pass.rows.count)
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
    let pass = batch.pass(&model.config, acts);
    let n = pass.rows.count;

    let hidden = forward(b, model, acts, batch);
    b.head_loss_backward(acts.losses, d.normed, g.head, hidden, model.head, targets, scale, n);
    b.fill(d.stream, 0.0);
    b.rmsnorm_backward_add(d.stream, g.norm, d.stream, d.normed, acts.last, acts.rstd, model.norm, n);
    for ((w, g), a) in model.blocks.iter().zip(&g.blocks).zip(&acts.blocks).rev() {
        block_backward(b, w, g, a, d, pass, batch);
    }
    b.embed_backward(g.embedding, d.stream, batch.ids, n);
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
    assert!((1..=acts.rows).contains(&rows.count), "{} rows, planned for {}", rows.count, acts.rows);
    assert!(at + rows.count <= acts.positions, "position {} of {}", at + rows.count, acts.positions);
    let positions: Vec<u32> = (at..at + rows.count).map(|position| position as u32).collect();
    b.write_ids(acts.ids, 0, ids);
    b.write_ids(acts.row_positions, 0, &positions);

    let pass = Pass { config: &model.config, rows, rope: acts.rope, positions: acts.row_positions };
    b.embed(acts.embedded, acts.ids, model.embedding, rows.count);
    for (layer, (w, a)) in model.blocks.iter().zip(&acts.blocks).enumerate() {
        block_forward(b, w, a, pass, || {
            b.kv_store(cache, layer, at, a.qkv, rows.count);
            b.attention_cached(a.attended, a.qkv, cache, layer, at, rows);
        });
    }
    final_norm(b, model, acts, rows.count)
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

impl Batch {
    fn pass<'a>(&self, config: &'a Config, acts: &Activations) -> Pass<'a> {
        let rows = Rows::prompt(self.sequences.rows());
        assert!((1..=acts.rows).contains(&rows.count), "{} rows, planned for {}", rows.count, acts.rows);
        Pass { config, rows, rope: acts.rope, positions: self.positions }
    }
}
