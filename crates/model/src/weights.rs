//! A model's weights as handles of a backend, and how they are loaded from files.

use crate::memory::{Held, Memory};
use crate::source::{self, Encoded, Source};
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
    /// Token vectors, `vocab × token width`.
    pub embedding: Matrix,
    /// Vectors of positions, `context × width` floats, where they are learned.
    pub positions: Option<Buf>,
    /// Projection of narrower token vectors into the residual stream, `width × token width`.
    pub project_in: Option<Matrix>,
    /// The blocks in order.
    pub blocks: Vec<Block>,
    /// The final norm, where there is one.
    pub norm: Option<Norm>,
    /// Projection of the final hidden states to narrower token vectors, `token width × width`.
    pub project_out: Option<Matrix>,
    /// Output projection, `vocab × token width`; the embedding itself where the model is tied.
    pub head: Matrix,
    held: Held,
}

/// Weights of a norm.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// What multiplies, `width`.
    pub weight: Buf,
    /// What is added, of a layer norm.
    pub bias: Option<Buf>,
}

/// A projection.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// What multiplies, outputs × inputs.
    pub matrix: Matrix,
    /// What is added, one number an output.
    pub bias: Option<Buf>,
}

/// Weights of one block.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// Norm before attention.
    pub norm1: Norm,
    /// Query, key and value projections stacked, `qkv_width × width`.
    pub qkv: Linear,
    /// Weights of the norms of query and key heads, `head_dim` each, where heads are normalized.
    pub head_norms: Option<[Buf; 2]>,
    /// Whether queries and keys are rotated.
    pub rotated: bool,
    /// `width × query_width`.
    pub attention_out: Linear,
    /// Norm before the feed-forward layer.
    pub norm2: Norm,
    /// Gate and up projections stacked, `2·ffn_width × width`; without a gate the up projection alone.
    pub gate_up: Linear,
    /// `width × ffn_width`.
    pub down: Linear,
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

    /// A Llama over handles that somebody else frees.
    pub(crate) fn sharing(
        config: Config,
        precision: Precision,
        embedding: Matrix,
        blocks: Vec<Block>,
        norm: Norm,
        head: Matrix,
    ) -> Self {
        Self {
            config,
            precision,
            encoding: Encoding::F32,
            embedding,
            positions: None,
            project_in: None,
            blocks,
            norm: Some(norm),
            project_out: None,
            head,
            held: Held::default(),
        }
    }

    /// The same weights once more; the result frees nothing and dies with the original.
    pub fn share(&self) -> Self {
        Self { config: self.config.clone(), blocks: self.blocks.clone(), held: Held::default(), ..*self }
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
        let projects = config.token_width() != config.width;
        let embedding = self.matrix(&[Role::Embedding], 0)?;
        let project_in = projects.then(|| self.matrix(&[Role::ProjectIn], 0)).transpose()?;
        let positions = config.architecture.learns_positions().then(|| self.positions()).transpose()?;
        let blocks = (0..config.layers).map(|layer| self.block(layer)).collect::<Result<_, _>>()?;
        let norm = config.form.final_norm.then(|| self.norm(Role::FinalNorm, 0)).transpose()?;
        let project_out = projects.then(|| self.matrix(&[Role::ProjectOut], 0)).transpose()?;
        let head = if config.tied { embedding } else { self.matrix(&[Role::Head], 0)? };
        let (precision, encoding) = (self.precision, self.source.encoding()?);
        let held = self.memory.keep();
        Ok(Model {
            config,
            precision,
            encoding,
            embedding,
            positions,
            project_in,
            blocks,
            norm,
            project_out,
            head,
            held,
        })
    }

    fn block(&mut self, layer: usize) -> Result<Block, ModelError> {
        let config = self.source.config();
        let (stacks, norms, rotated) = (config.stacks(), config.form.head_norms, config.form.rotates(layer));
        let head_norms =
            || Ok::<_, ModelError>([self.vector(&[Role::QueryNorm], layer)?, self.vector(&[Role::KeyNorm], layer)?]);
        Ok(Block {
            head_norms: norms.then(head_norms).transpose()?,
            rotated,
            norm1: self.norm(Role::AttentionNorm, layer)?,
            qkv: self.linear(stacks.qkv, layer)?,
            attention_out: self.linear(&[Role::AttentionOut], layer)?,
            norm2: self.norm(Role::FfnNorm, layer)?,
            gate_up: self.linear(stacks.gate_up, layer)?,
            down: self.linear(&[Role::Down], layer)?,
        })
    }

    fn norm(&mut self, role: Role, layer: usize) -> Result<Norm, ModelError> {
        Ok(Norm { weight: self.vector(&[role], layer)?, bias: self.bias(&[role], layer)? })
    }

    fn linear(&mut self, roles: &[Role], layer: usize) -> Result<Linear, ModelError> {
        Ok(Linear { matrix: self.matrix(roles, layer)?, bias: self.bias(roles, layer)? })
    }

    /// What is added to the outputs of some projections that are stacked.
    fn bias(&mut self, roles: &[Role], layer: usize) -> Result<Option<Buf>, ModelError> {
        let biases: Option<Vec<Role>> = roles.iter().map(|&role| self.source.config().bias_of(role)).collect();
        biases.map(|biases| self.vector(&biases, layer)).transpose()
    }

    /// Vectors on end.
    fn vector(&mut self, roles: &[Role], layer: usize) -> Result<Buf, ModelError> {
        let mut values = Vec::new();
        for &role in roles {
            values.extend(self.source.values(&Tensor::new(self.source.config(), role, layer))?);
        }
        Ok(self.memory.floats(&values)?)
    }

    /// The vectors of positions from 0 on.
    fn positions(&mut self) -> Result<Buf, ModelError> {
        let config = self.source.config();
        let values = self.source.values(&Tensor::new(config, Role::Positions, 0))?;
        Ok(self.memory.floats(&values[config.architecture.position_offset() * config.width..])?)
    }

    /// One matrix of the tensors of `roles`, their rows stacked.
    fn matrix(&mut self, roles: &[Role], layer: usize) -> Result<Matrix, ModelError> {
        let tensors: Vec<Tensor> = roles.iter().map(|&role| Tensor::new(self.source.config(), role, layer)).collect();
        let encoded = tensors.iter().map(|tensor| self.encoded(tensor)).collect::<Result<Vec<_>, _>>()?;
        let mut parts = Vec::with_capacity(tensors.len());
        for (tensor, Encoded { encoding, bytes }) in tensors.iter().zip(&encoded) {
            parts.push(EncodedRows { encoding: source::computable(*encoding), rows: tensor.rows, bytes });
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
