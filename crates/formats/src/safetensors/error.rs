//! What can be wrong with safetensors files.

use crate::Encoding;
use crate::file::FileError;
use std::path::PathBuf;

/// Why weights could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SafetensorsError {
    /// The disk or the path.
    #[error(transparent)]
    File(#[from] FileError),
    /// A folder without weights.
    #[error("{folder}: holds neither `model.safetensors` nor `model.safetensors.index.json`{}", hint(*.other_format))]
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// Whether weights in PyTorch's own format are there.
        other_format: bool,
    },
    /// Too short to be anything.
    #[error("{file}: {bytes} bytes long, too short for a safetensors file; it is cut short or damaged, fetch it again")]
    TooShort {
        /// The file.
        file: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// The header is longer than the file, or than the format allows.
    #[error(
        "{file}: the header claims {claims} bytes but {left} follow (at most 100000000 are allowed); it is no \
         safetensors file or is cut short, fetch it again"
    )]
    HeaderLength {
        /// The file.
        file: PathBuf,
        /// What its first 8 bytes say.
        claims: u64,
        /// Bytes after them.
        left: usize,
    },
    /// The header is no header, or its parts do not agree.
    #[error("{file}: the header is not valid ({reason}); the file is damaged, fetch it again")]
    Header {
        /// The file.
        file: PathBuf,
        /// What the parser says.
        reason: serde_json::Error,
    },
    /// Tensors and file do not end together.
    #[error(
        "{file}: the tensors take {claims} bytes but {found} follow the header; the file is cut short or damaged, fetch it again"
    )]
    DataLength {
        /// The file.
        file: PathBuf,
        /// Where the last tensor ends.
        claims: usize,
        /// Where the file ends, from the same zero.
        found: usize,
    },
    /// The index of a sharded model is no index.
    #[error("{file}: not an index of shards ({reason}); fetch it again")]
    Index {
        /// The index.
        file: PathBuf,
        /// What the parser says.
        reason: serde_json::Error,
    },
    /// The index points out of its folder.
    #[error(
        "{file}: tensor `{tensor}` is said to be in `{shard}`, which is not the name of a file in the same folder; do not use this model"
    )]
    ShardName {
        /// The index.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Where it is said to be.
        shard: String,
    },
    /// The index promises what its shard does not hold.
    #[error(
        "{file}: tensor `{tensor}` is not in it although the index says so; fetch the model's files again, all from one version"
    )]
    NotInShard {
        /// The shard.
        file: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor that was asked for is not there.
    #[error("{file}: no tensor `{tensor}`; the model is incomplete or of another architecture than its config says")]
    Missing {
        /// Folder or file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// Numbers of a type that no model of ours has.
    #[error(
        "{file}: tensor `{tensor}` has type {dtype}; F32, F16 and BF16 can be read, convert the model to one of them"
    )]
    Dtype {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The type.
        dtype: safetensors::Dtype,
    },
    /// Writing a type that the format does not have.
    #[error(
        "{file}: tensor `{tensor}` is {encoding}, which safetensors cannot hold; write f32, f16 or bf16, or export to GGUF"
    )]
    NotStorable {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The type.
        encoding: Encoding,
    },
    /// The tensors to be written contradict each other or their own bytes.
    #[error("{file}: tensor `{tensor}` {problem}; this is a mistake of the program that writes, please report it")]
    Unwritable {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong.
        problem: &'static str,
    },
}

fn hint(other_format: bool) -> &'static str {
    if other_format {
        "; its weights are in PyTorch's own format, convert them with transformers' `save_pretrained`"
    } else {
        "; pass the folder of a Hugging Face model, or a .gguf or llama2.c .bin file"
    }
}
