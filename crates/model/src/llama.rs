//! The Llama block (Touvron et al., 2023) and its relatives', forward, and the Llama's gradients, as calls to the backend.
//!
//! A block, with `x` the residual stream:
//! ```text
//! mid = x   + Wₒ · attend(rope(Wqkv · norm₁(x)))
//! out = mid + W↓ · swiglu(Wgate,up · norm₂(mid))
//! ```
//! where some relatives add biases to products, normalize the heads of queries and keys, or do not rotate in some layers.
//! The model: `logits = Whead · norm(block_L(… block_1(embed(ids))))` ([`crate::pass`]).

use crate::activations::{ActivationGradients, Activations, BlockActivations};
use crate::parameters::BlockWeightGradients;
use crate::pass::{Pass, forward, linear, linear_add};
use crate::{Batch, Block, Parameters};
use backend::{Backend, Buf, Divergence, Matrix, Rows, Teacher};

/// The block's two equations.
pub(crate) fn block_forward(b: &dyn Backend, w: &Block, a: &BlockActivations, p: Pass, attend: &dyn Fn()) {
    let n = p.rows.count;

    b.rmsnorm(a.normed, a.rstd, a.x, w.norm1.weight, p.epsilon, n);
    linear(b, a.qkv, a.normed, w.qkv, p.rows);
    if let Some([query, key]) = w.head_norms {
        b.rmsnorm_heads(a.qkv, query, key, p.heads, p.epsilon, n);
    }
    if w.rotated {
        b.rope(a.qkv, p.rope, p.positions, p.heads, n);
    }
    attend();
    linear_add(b, a.mid, a.x, a.attended, w.attention_out, p.rows);

    b.rmsnorm(a.normed, a.rstd, a.mid, w.norm2.weight, p.epsilon, n);
    linear(b, a.gate_up, a.normed, w.gate_up, p.rows);
    b.swiglu(a.hidden, a.gate_up, p.ffn_width, n);
    linear_add(b, a.out, a.mid, a.hidden, w.down, p.rows);
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
    b.linear_backward(d.hidden, g.down, d.stream, a.hidden, w.down.matrix, n);
    b.swiglu_backward(d.gate_up, d.hidden, a.gate_up, p.ffn_width, n);
    b.rmsnorm(a.normed, a.rstd, a.mid, w.norm2.weight, p.epsilon, n);
    b.linear_backward(d.normed, g.gate_up, d.gate_up, a.normed, w.gate_up.matrix, n);
    b.rmsnorm_backward_add(d.stream, g.norm2, d.stream, d.normed, a.mid, a.rstd, w.norm2.weight, n);

    b.linear_backward(d.attended, g.attention_out, d.stream, a.attended, w.attention_out.matrix, n);
    b.attention_backward(d.qkv, d.attended, a.attended, a.logsumexp, a.qkv, sequences, p.heads, first_key, p.precision);
    b.rope_backward(d.qkv, p.rope, p.positions, p.heads, n);
    b.rmsnorm(a.normed, a.rstd, a.x, w.norm1.weight, p.epsilon, n);
    b.linear_backward(d.normed, g.qkv, d.qkv, a.normed, w.qkv.matrix, n);
    b.rmsnorm_backward_add(d.stream, g.norm1, d.stream, d.normed, a.x, a.rstd, w.norm1.weight, n);
}

/// [`crate::pass::loss`], and the gradients of `scale · Σ losses` added to those of the parameters.
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
    backward(b, parameters, acts, batch, &|losses, d_hidden, g_head, hidden, head, rows| {
        b.head_loss_backward(losses, d_hidden, g_head, hidden, head, targets, scale, rows);
    })
}

/// Each row's divergence from a teacher ([`Backend::head_divergence_backward`]), and the gradients of `scale · Σ
/// divergences` added to those of the parameters, in the order of [`loss_and_gradients`].
///
/// # Panics
/// If the activations were planned for inference.
pub fn divergence_and_gradients(
    b: &dyn Backend,
    parameters: &Parameters,
    acts: &Activations,
    batch: &Batch,
    (teacher, divergence): (Teacher, Divergence),
    scale: f32,
) -> Buf {
    backward(b, parameters, acts, batch, &|losses, d_hidden, g_head, hidden, head, rows| {
        b.head_divergence_backward(losses, d_hidden, g_head, hidden, head, teacher, divergence, scale, rows);
    })
}

/// A head's losses and gradients: into losses, into ∂/∂hidden, onto ∂/∂head; from hidden states, head and rows.
type HeadBackward<'a> = &'a dyn Fn(Buf, Buf, Buf, Buf, Matrix, usize);

/// The forward pass, the head's `head_backward`, and the way back.
fn backward(
    b: &dyn Backend,
    parameters: &Parameters,
    acts: &Activations,
    batch: &Batch,
    head_backward: HeadBackward<'_>,
) -> Buf {
    let (model, g) = (&parameters.model, &parameters.gradients);
    let Some(d) = &acts.gradients else { panic!("these activations were planned for inference") };
    let n = batch.sequences.rows();
    let pass = Pass::new(model, acts, Rows::prompt(n), batch.positions);

    let Some(norm) = model.norm else { panic!("a Llama has a final norm") };
    let hidden = forward(b, model, acts, batch);
    head_backward(acts.losses, d.normed, g.head, hidden, model.head, n);
    b.fill(d.stream, 0.0);
    b.rmsnorm_backward_add(d.stream, g.norm, d.stream, d.normed, acts.last, acts.rstd, norm.weight, n);
    for ((w, g), a) in model.blocks.iter().zip(&g.blocks).zip(&acts.blocks).rev() {
        block_backward(b, w, g, a, d, pass, batch);
    }
    b.embed_backward(g.embedding, d.stream, batch.ids, model.config.width, n);
    acts.losses
}
