//! What can go wrong with a model.

use crate::ConfigError;
use backend::BackendError;
use formats::Encoding;
use std::path::{Path, PathBuf};

/// Why a model could not be made, loaded or written.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A shape that was not read from a file.
    #[error("the model's shape: {0}")]
    Config(#[from] ConfigError),
    /// A shape that was read from a file.
    #[error("{path}: {error}")]
    ConfigOf {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong.
        error: ConfigError,
    },
    /// The machine.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The disk or the path.
    #[error(transparent)]
    File(#[from] formats::file::FileError),
    /// `config.json` or `generation_config.json`.
    #[error(transparent)]
    HfConfig(#[from] formats::hf_config::ConfigError),
    /// Weights of a Hugging Face folder.
    #[error(transparent)]
    Safetensors(#[from] formats::safetensors::SafetensorsError),
    /// A GGUF file.
    #[error(transparent)]
    Gguf(#[from] formats::gguf::GgufError),
    /// A llama2.c file.
    #[error(transparent)]
    Llama2c(#[from] formats::llama2c::Llama2cError),
    /// Neither folder nor a file of a known kind.
    #[error(
        "{path}: not a model that can be read; give a Hugging Face folder, a `.gguf` file or a llama2.c `.bin` file"
    )]
    UnknownFormat {
        /// What was given.
        path: PathBuf,
    },
    /// Tensors that the config does not call for.
    #[error(
        "{path}: tensor `{first}`{} no part of a `{architecture}` model of this config; the config does not belong to these \
         weights, or they are of another architecture",
        if *.count > 1 { format!(" and {} more are", .count - 1) } else { " is".into() }
    )]
    Surplus {
        /// The folder or file.
        path: PathBuf,
        /// What the config says they are.
        architecture: &'static str,
        /// One of them.
        first: String,
        /// How many.
        count: usize,
    },
    /// A tensor of another shape than the config's.
    #[error("{path}: tensor `{name}` has shape {found:?}, but the config makes it {expected:?}; one of them is wrong")]
    Misshaped {
        /// The folder or file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape, outermost first.
        found: Vec<usize>,
        /// What the config makes it.
        expected: Vec<usize>,
    },
    /// A tied model with a head that is not its embedding.
    #[error(
        "{path}: the config shares embedding and head (tie_word_embeddings), but `{name}` is there and differs from the \
         embedding; correct the config or remove the tensor"
    )]
    HeadOfTied {
        /// The folder or file.
        path: PathBuf,
        /// The head's name.
        name: String,
    },
    /// A type that Hugging Face folders do not hold.
    #[error("{path}: a Hugging Face folder holds f32, f16 or bf16, not {encoding}; choose one of them, or write GGUF")]
    NotForFolder {
        /// The folder that was to be written.
        path: PathBuf,
        /// What was asked for.
        encoding: Encoding,
    },
    /// An export that computes something else than its source.
    #[error(
        "{path}: {what} of the written model differ from the source's by {found:.1e} of their size, {bound:.0e} is \
         allowed for {encoding}; nothing was kept, export as f32 or choose a type of more bits"
    )]
    Unfaithful {
        /// What was to be written.
        path: PathBuf,
        /// Its type.
        encoding: Encoding,
        /// What differs.
        what: String,
        /// Relative difference found.
        found: f64,
        /// Largest allowed.
        bound: f64,
    },
    /// Bytes that do not decode.
    #[error("tensor `{tensor}`: {error}")]
    Decode {
        /// The tensor.
        tensor: String,
        /// Why.
        error: formats::quant::QuantError,
    },
}

impl ModelError {
    pub(crate) fn config(path: &Path, error: ConfigError) -> Self {
        Self::ConfigOf { path: path.into(), error }
    }
}
