//! A model's weights as handles of a backend, and how they are loaded from files.

use crate::memory::{Held, Memory};
use crate::source::{Encoded, Source};
use crate::tensors::{Role, Tensor};
use crate::{Config, ModelError};
use backend::{Backend, Buf, EncodedRows, Matrix, Precision};
use formats::Encoding;
use std::borrow::Cow;
use std::path::Path;

/// A model: its shape and the handles of its weights. The backend that made the handles is given to every function.
#[derive(Debug)]
pub struct Model {
    /// The shape.
    pub config: Config,
    /// In which the model was asked to compute its matrices, and attention.
    pub precision: Precision,
    /// Of most of its weights in their file; f32 where they have none.
    pub encoding: Encoding,
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
    /// Added to their outputs, `qkv_width`, where the architecture has biases.
    pub qkv_bias: Option<Buf>,
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
    /// Loads a Hugging Face folder, a `.gguf` file or a llama2.c `.bin` file. Matrices are multiplied in `precision`; in
    /// [`Precision::Int8`] those that the file has in blocks stay as they are there, and floats become bf16.
    ///
    /// # Errors
    /// [`ModelError`]; nothing stays allocated.
    pub fn load(b: &dyn Backend, path: &Path, precision: Precision) -> Result<Self, ModelError> {
        Self::from_source(b, &Source::open(path)?, precision)
    }

    /// [`Model::load`] of what is open already.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_source(b: &dyn Backend, source: &Source, precision: Precision) -> Result<Self, ModelError> {
        Loader { memory: Memory::new(b), source, precision, decode: false }.model()
    }

    /// The model with all its weights decoded to f32: the oracle for what is written from `source`, and a way to
    /// compute with encodings that the backend lacks.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_source_decoded(b: &dyn Backend, source: &Source) -> Result<Self, ModelError> {
        Loader { memory: Memory::new(b), source, precision: Precision::F32, decode: true }.model()
    }

    /// A model over handles that somebody else frees.
    pub(crate) fn sharing(
        config: Config,
        precision: Precision,
        embedding: Matrix,
        blocks: Vec<Block>,
        norm: Buf,
        head: Matrix,
    ) -> Self {
        let encoding = Encoding::F32;
        Self { config, precision, encoding, embedding, blocks, norm, head, held: Held::default() }
    }

    /// The same weights once more; the result frees nothing and dies with the original.
    pub fn share(&self) -> Self {
        let config = self.config.clone();
        let shared = Self::sharing(config, self.precision, self.embedding, self.blocks.clone(), self.norm, self.head);
        Self { encoding: self.encoding, ..shared }
    }

    /// Gives the weights of a loaded model back; a model that shares its parameters' handles leaves them alone.
    pub fn free(mut self, b: &dyn Backend) {
        self.held.free(b);
    }
}

struct Loader<'a> {
    memory: Memory<'a>,
    source: &'a Source,
    precision: Precision,
    decode: bool,
}

impl<'a> Loader<'a> {
    fn model(mut self) -> Result<Model, ModelError> {
        let config = self.source.config().clone();
        let embedding = self.matrix(&[Role::Embedding], 0)?;
        let blocks = (0..config.layers).map(|layer| self.block(layer)).collect::<Result<_, _>>()?;
        let norm = self.norm(Role::FinalNorm, 0)?;
        let head = if config.tied { embedding } else { self.matrix(&[Role::Head], 0)? };
        let (precision, encoding) = (self.precision, self.source.encoding()?);
        Ok(Model { config, precision, encoding, embedding, blocks, norm, head, held: self.memory.keep() })
    }

    fn block(&mut self, layer: usize) -> Result<Block, ModelError> {
        Ok(Block {
            norm1: self.norm(Role::AttentionNorm, layer)?,
            qkv: self.matrix(&Block::QKV, layer)?,
            qkv_bias: self.source.config().architecture.has_qkv_bias().then(|| self.qkv_bias(layer)).transpose()?,
            attention_out: self.matrix(&[Role::AttentionOut], layer)?,
            norm2: self.norm(Role::FfnNorm, layer)?,
            gate_up: self.matrix(&Block::GATE_UP, layer)?,
            down: self.matrix(&[Role::Down], layer)?,
        })
    }

    fn norm(&mut self, role: Role, layer: usize) -> Result<Buf, ModelError> {
        let values = self.source.values(&Tensor::new(self.source.config(), role, layer))?;
        Ok(self.memory.floats(&values)?)
    }

    fn qkv_bias(&mut self, layer: usize) -> Result<Buf, ModelError> {
        let mut values = Vec::new();
        for role in Role::QKV_BIAS {
            values.extend(self.source.values(&Tensor::new(self.source.config(), role, layer))?);
        }
        Ok(self.memory.floats(&values)?)
    }

    /// One matrix of the tensors of `roles`, their rows stacked.
    fn matrix(&mut self, roles: &[Role], layer: usize) -> Result<Matrix, ModelError> {
        let tensors: Vec<Tensor> = roles.iter().map(|&role| Tensor::new(self.source.config(), role, layer)).collect();
        let encoded = tensors.iter().map(|tensor| self.encoded(tensor)).collect::<Result<Vec<_>, _>>()?;
        let mut parts = Vec::with_capacity(tensors.len());
        for (tensor, Encoded { encoding, bytes }) in tensors.iter().zip(&encoded) {
            let encoding = self.source.computable(tensor, *encoding)?;
            parts.push(EncodedRows { encoding, rows: tensor.rows, bytes });
        }
        Ok(self.memory.load_matrix(&parts, tensors[0].cols, self.precision)?)
    }

    fn encoded(&self, tensor: &Tensor) -> Result<Encoded<'a>, ModelError> {
        if !self.decode {
            return self.source.encoded(tensor);
        }
        let values = self.source.values(tensor)?;
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Ok(Encoded { encoding: Encoding::F32, bytes: Cow::Owned(bytes) })
    }
}
