//! Named buffers for one forward (and backward) pass, planned once for a shape and used again for every batch.

use crate::Config;
use crate::memory::{Held, Memory};
use backend::{Backend, BackendError, Buf, Element, Sequences};

/// What a model's pass over some rows writes. Shapes: `rows × …`, row-major; a batch may use fewer rows than planned.
#[derive(Debug)]
pub struct Activations {
    /// Rows that there is room for.
    pub rows: usize,
    /// Every position given must be below: so far the rotary table reaches.
    pub positions: usize,
    /// Rows of logits that there is room for.
    pub logits_rows: usize,
    /// Cosines and sines, `positions × head_dim` ([`Backend::rope`]); nothing where positions are learned.
    pub rope: Buf,
    /// One entry per block.
    pub blocks: Vec<BlockActivations>,
    /// The residual stream before the first block, `× width`.
    pub embedded: Buf,
    /// The residual stream after the last block, `× width`.
    pub last: Buf,
    /// Output of the norm at hand, `× width`.
    pub normed: Buf,
    /// At the end of a forward pass the final hidden states, which the head multiplies, `× token width`: `normed`, but where
    /// token vectors are narrower (then before the first block the token vectors themselves).
    pub(crate) final_states: Buf,
    /// 1 / RMS of the norm at hand, `rows`.
    pub rstd: Buf,
    /// Loss of each row in nats, `rows`.
    pub losses: Buf,
    /// Ids and positions of the rows of [`crate::pass::forward_cached`], which come from the host.
    pub(crate) ids: Buf,
    pub(crate) row_positions: Buf,
    /// Hidden states moved to the front for the head, `logits_rows × token width`.
    pub(crate) picked: Buf,
    /// `logits_rows × vocab`.
    pub(crate) logits: Buf,
    /// Gradients on the way back; `None` where only forward passes were planned.
    pub gradients: Option<ActivationGradients>,
    held: Held,
}

/// What one block writes. In training the fields marked *kept* are the block's own; all others, and in inference all,
/// are shared by the blocks. The norms' outputs and `hidden` are computed again in the backward pass: that costs two
/// cheap passes over a block and saves `2·width + ffn_width` floats per row and block.
#[derive(Clone, Copy, Debug)]
pub struct BlockActivations {
    /// Input of the block: the residual stream, `× width`. Kept.
    pub x: Buf,
    /// Output of the norm at hand, `× width`.
    pub normed: Buf,
    /// 1 / RMS of the norm at hand.
    pub rstd: Buf,
    /// Rotated queries and keys, and values, `× qkv_width`. Kept.
    pub qkv: Buf,
    /// Attended values, `× query_width`. Kept.
    pub attended: Buf,
    /// log Σ exp of the attention scores, `× heads`. Kept.
    pub logsumexp: Buf,
    /// The residual stream after attention, `× width`. Kept.
    pub mid: Buf,
    /// Gate and up projections, `× 2·ffn_width`; without a gate the up projection, `× ffn_width`. Kept.
    pub gate_up: Buf,
    /// SwiGLU's output, `× ffn_width`; without a gate nothing.
    pub hidden: Buf,
    /// The residual stream after the block, `× width`: the next block's `x`.
    pub out: Buf,
}

/// ∂loss/∂activation under the activation's name; shared by all blocks.
#[derive(Clone, Copy, Debug)]
pub struct ActivationGradients {
    /// Of the residual stream: of `out`, then of `mid`, then of `x`, each over the last.
    pub stream: Buf,
    /// Of a norm's output.
    pub normed: Buf,
    /// Of `qkv`.
    pub qkv: Buf,
    /// Of `attended`.
    pub attended: Buf,
    /// Of `gate_up`.
    pub gate_up: Buf,
    /// Of `hidden`.
    pub hidden: Buf,
}

/// For what activations are planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) rows: usize,
    pub(crate) positions: usize,
    pub(crate) logits_rows: usize,
    pub(crate) training: bool,
}

impl Plan {
    pub(crate) fn training(sequences: Sequences) -> Self {
        Self { rows: sequences.rows(), positions: sequences.tokens, logits_rows: 0, training: true }
    }
}

impl Activations {
    /// For training (and for losses of the same shape). Positions reach `sequences.tokens`.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`]; nothing stays allocated.
    pub fn training(b: &dyn Backend, config: &Config, sequences: Sequences) -> Result<Self, BackendError> {
        Self::new(b, config, Plan::training(sequences))
    }

    /// For forward passes of up to `rows` rows at positions below `positions`, and logits of up to `logits_rows` of
    /// them at a time.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`]; nothing stays allocated.
    pub fn inference(
        b: &dyn Backend,
        config: &Config,
        rows: usize,
        logits_rows: usize,
        positions: usize,
    ) -> Result<Self, BackendError> {
        Self::new(b, config, Plan { rows, positions, logits_rows, training: false })
    }

    fn new(b: &dyn Backend, config: &Config, plan: Plan) -> Result<Self, BackendError> {
        let mut memory = Memory::new(b);
        let mut activations = plan.lay_out(config, &mut |element, len| memory.alloc(element, len))?;
        if !config.architecture.learns_positions() {
            b.write(activations.rope, 0, &config.rope.table(config.heads.head_dim, plan.positions));
        }
        activations.held = memory.keep();
        Ok(activations)
    }

    /// Gives the buffers back.
    pub fn free(mut self, b: &dyn Backend) {
        self.held.free(b);
    }
}

/// Where a buffer comes from: a backend, or a count of bytes.
pub(crate) type Source<'a> = &'a mut dyn FnMut(Element, usize) -> Result<Buf, BackendError>;

impl Plan {
    /// Asks `source` for every buffer of the plan, in a fixed order.
    pub(crate) fn lay_out(self, config: &Config, source: Source<'_>) -> Result<Activations, BackendError> {
        let rows = self.rows;
        let mut ids = |len| source(Element::U32, len);
        let (ids, row_positions) = (ids(rows)?, ids(rows)?);
        let mut floats = |len: usize| source(Element::F32, len);
        let turned = if config.architecture.learns_positions() { 0 } else { config.heads.head_dim };
        let rope = floats(self.positions * turned)?;
        let blocks = self.blocks(config, &mut floats)?;
        let (first, last) = (blocks[0], blocks[blocks.len() - 1]);
        let gradients = if self.training { Some(self.gradients(config, &mut floats)?) } else { None };
        Ok(Activations {
            rows,
            positions: self.positions,
            logits_rows: self.logits_rows,
            rope,
            embedded: first.x,
            last: last.out,
            normed: last.normed,
            final_states: match config.token_width() == config.width {
                true => last.normed,
                false => floats(rows * config.token_width())?,
            },
            rstd: last.rstd,
            losses: floats(rows)?,
            ids,
            row_positions,
            picked: floats(self.logits_rows * config.token_width())?,
            logits: floats(self.logits_rows * config.vocab)?,
            blocks,
            gradients,
            held: Held::default(),
        })
    }

    fn blocks(self, config: &Config, floats: Floats<'_>) -> Result<Vec<BlockActivations>, BackendError> {
        let Self { rows, training, .. } = self;
        let (normed, rstd) = (floats(rows * config.width)?, floats(rows)?);
        let gated = config.form.activation.is_gated();
        let hidden = floats(if gated { rows * config.ffn_width } else { 0 })?;
        let mut blocks: Vec<BlockActivations> = Vec::with_capacity(config.layers);
        let mut x = floats(rows * config.width)?;
        for layer in 0..config.layers {
            if layer > 0 && !training {
                blocks.push(blocks[0]);
                continue;
            }
            let (mid, out) =
                if training { (floats(rows * config.width)?, floats(rows * config.width)?) } else { (x, x) };
            blocks.push(BlockActivations {
                x,
                normed,
                rstd,
                qkv: floats(rows * config.heads.qkv_width())?,
                attended: floats(rows * config.heads.query_width())?,
                logsumexp: floats(rows * config.heads.heads)?,
                mid,
                gate_up: floats(rows * if gated { 2 } else { 1 } * config.ffn_width)?,
                hidden,
                out,
            });
            x = out;
        }
        Ok(blocks)
    }

    fn gradients(self, config: &Config, floats: Floats<'_>) -> Result<ActivationGradients, BackendError> {
        Ok(ActivationGradients {
            stream: floats(self.rows * config.width)?,
            normed: floats(self.rows * config.width)?,
            qkv: floats(self.rows * config.heads.qkv_width())?,
            attended: floats(self.rows * config.heads.query_width())?,
            gate_up: floats(self.rows * 2 * config.ffn_width)?,
            hidden: floats(self.rows * config.ffn_width)?,
        })
    }
}

type Floats<'a> = &'a mut dyn FnMut(usize) -> Result<Buf, BackendError>;
