//! What training changes: master weights, their gradients, and the matrices that are multiplied.

use crate::init::{self, Scheme};
use crate::memory::{Held, Memory};
use crate::source::Source;
use crate::tensors::{Role, Stacks, Tensor};
use crate::weights::{Block, Linear, Model, Norm};
use crate::{Architecture, Config, ConfigError, Form, ModelError};
use backend::{Backend, Buf, Element, Matrix, Precision};
use formats::hf_config::{CONFIG_NAME, GENERATION_CONFIG_NAME, GenerationConfig};
use formats::safetensors::{self, SINGLE_NAME};
use formats::{Encoding, TensorPlan, quant};
use std::io;
use std::ops::Range;
use std::path::Path;

/// All parameters of a model in training, in the order of the forward pass.
#[derive(Debug)]
pub struct Parameters {
    /// The shape.
    pub config: Config,
    /// How matrices are multiplied.
    pub precision: Precision,
    /// Embedding; per block the norm, qkv, attention out, norm, gate and up, down; final norm; head unless tied.
    pub list: Vec<Parameter>,
    pub(crate) model: Model,
    pub(crate) gradients: WeightGradients,
    held: Held,
}

/// One parameter. Query, key and value projections are one (their rows stacked), gate and up likewise.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Hugging Face's name, `…qkv_proj.weight` and `…gate_up_proj.weight` for the stacked ones.
    pub name: String,
    /// For optimizers that treat kinds differently.
    pub kind: Kind,
    /// Output features (tokens for an embedding); 1 for a norm.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// f32 weights, `rows × cols`.
    pub master: Buf,
    /// ∂loss/∂weights, of the same shape.
    pub grad: Buf,
    /// What is multiplied; `None` for a norm.
    pub matrix: Option<Matrix>,
    tensors: Vec<Tensor>,
}

/// Kinds of parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A projection, the output projection of an untied model among them.
    Matrix,
    /// The token embedding (also the output projection, where the model is tied).
    Embedding,
    /// Weights of an RMSNorm.
    Norm,
}

/// Where a tensor of a Hugging Face folder lies among the parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The tensor, with its name and shape.
    pub tensor: Tensor,
    /// Index in [`Parameters::list`].
    pub parameter: usize,
    /// First of the parameter's elements that are the tensor's; they are consecutive.
    pub at: usize,
}

/// Gradient buffers under the names of the weights.
#[derive(Clone, Debug)]
pub(crate) struct WeightGradients {
    pub(crate) embedding: Buf,
    pub(crate) blocks: Vec<BlockWeightGradients>,
    pub(crate) norm: Buf,
    /// The embedding's buffer where the model is tied.
    pub(crate) head: Buf,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockWeightGradients {
    pub(crate) norm1: Buf,
    pub(crate) qkv: Buf,
    pub(crate) attention_out: Buf,
    pub(crate) norm2: Buf,
    pub(crate) gate_up: Buf,
    pub(crate) down: Buf,
}

impl Parameter {
    /// Number of weights.
    pub const fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Whether there are none: never, in a valid config.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The Hugging Face tensors that this parameter stacks: name and rows.
    pub fn hf_parts(&self) -> impl Iterator<Item = (String, Range<usize>)> + '_ {
        self.tensors.iter().scan(0, |next, tensor| {
            let first = *next;
            *next += tensor.rows;
            Some((tensor.name(), first..*next))
        })
    }
}

impl Parameters {
    /// First weights by `scheme` from `seed`: the same bits on every machine, whatever its threads.
    ///
    /// # Errors
    /// A config that [`Config::validate`] refuses; no memory.
    pub fn initialize(
        b: &dyn Backend,
        config: &Config,
        scheme: Scheme,
        seed: u64,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        Self::build(b, config, precision, &mut |tensor| Ok(init::values(config, scheme, seed, tensor)))
    }

    /// f32 masters from a Hugging Face folder (f32, f16 or bf16), or from any other format, its weights decoded.
    ///
    /// # Errors
    /// [`ModelError`]; nothing stays allocated.
    pub fn load(b: &dyn Backend, path: &Path, precision: Precision) -> Result<Self, ModelError> {
        Self::from_source(b, &Source::open(path)?, precision)
    }

    /// [`Parameters::load`] of what is open already.
    ///
    /// # Errors
    /// As [`Parameters::load`].
    pub fn from_source(b: &dyn Backend, source: &Source, precision: Precision) -> Result<Self, ModelError> {
        Self::build(b, source.config(), precision, &mut |tensor| source.values(tensor))
    }

    /// Parameters whose values `values` gives, tensor by tensor (row-major, half-split pairs).
    pub(crate) fn build(
        b: &dyn Backend,
        config: &Config,
        precision: Precision,
        values: &mut dyn FnMut(&Tensor) -> Result<Vec<f32>, ModelError>,
    ) -> Result<Self, ModelError> {
        config.validate()?;
        refuse_untrained(config)?;
        let mut make = Builder { memory: Memory::new(b), b, config, precision, values, list: Vec::new() };
        let (embedding, embedding_grad) = make.matrix(Kind::Embedding, &[Role::Embedding], 0)?;
        let mut blocks = Vec::with_capacity(config.layers);
        let mut block_grads = Vec::with_capacity(config.layers);
        for layer in 0..config.layers {
            let (block, grads) = make.block(layer)?;
            blocks.push(block);
            block_grads.push(grads);
        }
        let (norm, norm_grad) = make.norm(Role::FinalNorm, 0)?;
        let (head, head_grad) =
            if config.tied { (embedding, embedding_grad) } else { make.matrix(Kind::Matrix, &[Role::Head], 0)? };
        Ok(Self {
            config: config.clone(),
            precision,
            list: make.list,
            model: Model::sharing(config.clone(), precision, embedding, blocks, norm, head),
            gradients: WeightGradients {
                embedding: embedding_grad,
                blocks: block_grads,
                norm: norm_grad,
                head: head_grad,
            },
            held: make.memory.keep(),
        })
    }

    /// The model that these parameters are; it shares the handles and dies with them.
    pub fn model(&self) -> Model {
        self.model.share()
    }

    /// Takes the masters' values into what is multiplied; after every update.
    pub fn refresh(&self, b: &dyn Backend) {
        self.list.iter().filter_map(|parameter| parameter.matrix).for_each(|matrix| b.refresh(matrix));
    }

    /// Sets every gradient to 0.
    pub fn clear_gradients(&self, b: &dyn Backend) {
        self.list.iter().for_each(|parameter| b.fill(parameter.grad, 0.0));
    }

    /// Number of weights in all; a tied matrix counts once.
    pub fn count(&self) -> usize {
        self.list.iter().map(Parameter::len).sum()
    }

    /// The tensors of a Hugging Face folder, in the order of the list, and where they lie. They cover every element
    /// once.
    pub fn parts(&self) -> Vec<Part> {
        let mut parts = Vec::new();
        for (parameter, entry) in self.list.iter().enumerate() {
            let mut at = 0;
            for &tensor in &entry.tensors {
                parts.push(Part { tensor, parameter, at });
                at += tensor.len();
            }
        }
        parts
    }

    /// The values of a part, from `buf`: the parameter's master, or any buffer of its shape (gradient, moment).
    pub fn read_part(&self, b: &dyn Backend, buf: Buf, part: &Part) -> Vec<f32> {
        let mut values = vec![0.0; part.tensor.len()];
        b.read(buf, part.at, &mut values);
        values
    }

    /// All masters as named tensors of a Hugging Face folder, row-major.
    pub fn to_stored(&self, b: &dyn Backend) -> Vec<(Tensor, Vec<f32>)> {
        let master = |part: Part| (part.tensor, self.read_part(b, self.list[part.parameter].master, &part));
        self.parts().into_iter().map(master).collect()
    }

    /// Writes the masters as a Hugging Face folder's `config.json`, `generation_config.json` and `model.safetensors`
    /// (f32) into `folder`, which must exist; `metadata` goes into the header. No more than one tensor is held.
    ///
    /// # Errors
    /// [`ModelError::File`] and its like.
    pub fn save(&self, b: &dyn Backend, folder: &Path, metadata: &safetensors::Metadata) -> Result<(), ModelError> {
        let config = self.config.to_hf("float32")?;
        config.write(&folder.join(CONFIG_NAME))?;
        let generation = GenerationConfig {
            bos_token_id: self.config.bos,
            eos_token_id: self.config.eos.clone(),
            ..GenerationConfig::default()
        };
        generation.write(&folder.join(GENERATION_CONFIG_NAME))?;
        let masters: Vec<Buf> = self.list.iter().map(|parameter| parameter.master).collect();
        self.save_tensors(b, &folder.join(SINGLE_NAME), &masters, "", metadata)
    }

    /// Writes one buffer per parameter (in the order of the list, each of its parameter's shape) as the tensors of a
    /// Hugging Face folder, f32, their names after `prefix`. Moments of an optimizer are saved so.
    ///
    /// # Errors
    /// [`ModelError::Safetensors`].
    pub fn save_tensors(
        &self,
        b: &dyn Backend,
        file: &Path,
        buffers: &[Buf],
        prefix: &str,
        metadata: &safetensors::Metadata,
    ) -> Result<(), ModelError> {
        let parts = self.parts();
        let plan = |part: &Part| TensorPlan {
            name: format!("{prefix}{}", part.tensor.name()),
            encoding: Encoding::F32,
            shape: part.tensor.shape(),
        };
        let plans: Vec<TensorPlan> = parts.iter().map(plan).collect();
        safetensors::write_with(file, &plans, metadata, |index, writer| {
            let part = &parts[index];
            let values = self.read_part(b, buffers[part.parameter], part);
            writer.write_all(&quant::encode(Encoding::F32, &values).map_err(io::Error::other)?)
        })?;
        Ok(())
    }

    /// Gives everything back; models made by [`Parameters::model`] must not be used again.
    pub fn free(mut self, b: &dyn Backend) {
        self.held.free(b);
    }
}

/// Refuses what has no backward pass.
fn refuse_untrained(config: &Config) -> Result<(), ConfigError> {
    let unsupported = |field, value: &str, supported: &'static str| {
        Err(ConfigError::Unsupported { field, value: value.into(), supported: supported.into() })
    };
    let Form { attention_out_bias, ffn_bias, .. } = config.form;
    match config.architecture {
        Architecture::Llama if attention_out_bias => unsupported("attention_bias", "true", "only `false` is trained"),
        Architecture::Llama if ffn_bias => unsupported("mlp_bias", "true", "only `false` is trained"),
        Architecture::Llama => Ok(()),
        other => unsupported("model_type", other.name(), "only `llama` is trained"),
    }
}

struct Builder<'a> {
    memory: Memory<'a>,
    b: &'a dyn Backend,
    config: &'a Config,
    precision: Precision,
    values: &'a mut dyn FnMut(&Tensor) -> Result<Vec<f32>, ModelError>,
    list: Vec<Parameter>,
}

impl Builder<'_> {
    fn block(&mut self, layer: usize) -> Result<(Block, BlockWeightGradients), ModelError> {
        let Stacks { qkv, gate_up } = self.config.stacks();
        let (norm1, norm1_grad) = self.norm(Role::AttentionNorm, layer)?;
        let (qkv, qkv_grad) = self.linear(qkv, layer)?;
        let (attention_out, attention_out_grad) = self.linear(&[Role::AttentionOut], layer)?;
        let (norm2, norm2_grad) = self.norm(Role::FfnNorm, layer)?;
        let (gate_up, gate_up_grad) = self.linear(gate_up, layer)?;
        let (down, down_grad) = self.linear(&[Role::Down], layer)?;
        let grads = BlockWeightGradients {
            norm1: norm1_grad,
            qkv: qkv_grad,
            attention_out: attention_out_grad,
            norm2: norm2_grad,
            gate_up: gate_up_grad,
            down: down_grad,
        };
        let (head_norms, rotated) = (None, true);
        Ok((Block { norm1, qkv, head_norms, rotated, attention_out, norm2, gate_up, down }, grads))
    }

    fn linear(&mut self, roles: &[Role], layer: usize) -> Result<(Linear, Buf), ModelError> {
        let (matrix, grad) = self.matrix(Kind::Matrix, roles, layer)?;
        Ok((Linear { matrix, bias: None }, grad))
    }

    fn norm(&mut self, role: Role, layer: usize) -> Result<(Norm, Buf), ModelError> {
        let mut parameter = self.parameter(Kind::Norm, &[role], layer)?;
        parameter.rows = 1;
        let handles = (Norm { weight: parameter.master, bias: None }, parameter.grad);
        self.list.push(parameter);
        Ok(handles)
    }

    fn matrix(&mut self, kind: Kind, roles: &[Role], layer: usize) -> Result<(Matrix, Buf), ModelError> {
        let mut parameter = self.parameter(kind, roles, layer)?;
        let Parameter { master, rows, cols, grad, .. } = parameter;
        let matrix = self.memory.trainable_matrix(master, rows, cols, self.precision)?;
        parameter.matrix = Some(matrix);
        self.list.push(parameter);
        Ok((matrix, grad))
    }

    fn parameter(&mut self, kind: Kind, roles: &[Role], layer: usize) -> Result<Parameter, ModelError> {
        let tensors: Vec<Tensor> = roles.iter().map(|&role| Tensor::new(self.config, role, layer)).collect();
        let (rows, cols) = (tensors.iter().map(|tensor| tensor.rows).sum(), tensors[0].cols);
        let name = match roles {
            [Role::Query, ..] => format!("model.layers.{layer}.self_attn.qkv_proj.weight"),
            [Role::Gate, ..] => format!("model.layers.{layer}.mlp.gate_up_proj.weight"),
            _ => tensors[0].name(),
        };
        let master = self.memory.alloc(Element::F32, rows * cols)?;
        let grad = self.memory.alloc(Element::F32, rows * cols)?;
        let mut at = 0;
        for tensor in &tensors {
            self.b.write(master, at, &(self.values)(tensor)?);
            at += tensor.len();
        }
        Ok(Parameter { name, kind, rows, cols, master, grad, matrix: None, tensors })
    }
}
