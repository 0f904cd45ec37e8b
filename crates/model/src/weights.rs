//! A model's weights as handles of a backend, and how they are loaded from files.

use crate::Config;
use crate::memory::Held;
use crate::tensors::Role;
use backend::{Backend, Buf, Matrix};

/// A model: its shape and the handles of its weights. The backend that made the handles is given to every function.
#[derive(Debug)]
pub struct Model {
    /// The shape.
    pub config: Config,
    /// Token vectors, `vocab × width`.
    pub embedding: Matrix,
    /// The blocks in order.
    pub blocks: Vec<Block>,
    /// Weights of the final norm, `width`.
    pub norm: Buf,
    /// Output projection, `vocab × width`; the embedding itself where the model is tied.
    pub head: Matrix,
    held: Held,
}

/// Weights of one block.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// Norm before attention, `width`.
    pub norm1: Buf,
    /// Query, key and value projections stacked, `qkv_width × width`.
    pub qkv: Matrix,
    /// `width × query_width`.
    pub attention_out: Matrix,
    /// Norm before the feed-forward layer, `width`.
    pub norm2: Buf,
    /// Gate and up projections stacked, `2·ffn_width × width`.
    pub gate_up: Matrix,
    /// `width × ffn_width`.
    pub down: Matrix,
}

impl Block {
    /// What [`Block::qkv`] stacks.
    pub const QKV: [Role; 3] = [Role::Query, Role::Key, Role::Value];
    /// What [`Block::gate_up`] stacks.
    pub const GATE_UP: [Role; 2] = [Role::Gate, Role::Up];
}

impl Model {
    /// A model over handles that somebody else frees.
    pub(crate) fn sharing(config: Config, embedding: Matrix, blocks: Vec<Block>, norm: Buf, head: Matrix) -> Self {
        Self { config, embedding, blocks, norm, head, held: Held::default() }
    }

    /// The same weights once more; the result frees nothing and dies with the original.
    pub fn share(&self) -> Self {
        Self::sharing(self.config.clone(), self.embedding, self.blocks.clone(), self.norm, self.head)
    }

    /// Gives the weights of a loaded model back; a model that shares its parameters' handles leaves them alone.
    pub fn free(mut self, b: &dyn Backend) {
        self.held.free(b);
    }
}
