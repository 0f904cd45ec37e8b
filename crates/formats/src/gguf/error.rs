//! What can be wrong with a GGUF file.

use crate::Encoding;
use crate::cursor::PastEnd;
use crate::file::FileError;
use std::path::PathBuf;

/// Why a GGUF file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The disk or the path.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another kind of file.
    #[error("{file}: not a GGUF file (it starts with `{}`, not `GGUF`); for a Hugging Face model pass its folder", found.escape_ascii())]
    BadMagic {
        /// The file.
        file: PathBuf,
        /// Its first bytes.
        found: [u8; 4],
    },
    /// Too old, too new, or of a big-endian machine.
    #[error("{file}: GGUF version {found} cannot be read, only 2 and 3{}; convert the model anew with llama.cpp", endian(*.found))]
    Version {
        /// The file.
        file: PathBuf,
        /// What it says.
        found: u32,
    },
    /// A length beyond the end.
    #[error("{file}: {reason}; the file is cut short or damaged, fetch it again")]
    PastEnd {
        /// The file.
        file: PathBuf,
        /// Where and how much.
        reason: PastEnd,
    },
    /// A count that no model has.
    #[error("{file}: byte {at}: claims {claims} {what}, at most {limit} are read; the file is damaged, fetch it again")]
    Count {
        /// The file.
        file: PathBuf,
        /// Offset of the count.
        at: usize,
        /// Of what.
        what: &'static str,
        /// What it says.
        claims: u64,
        /// What is allowed.
        limit: u64,
    },
    /// A string that is none.
    #[error("{file}: byte {at}: {what} is not valid UTF-8; the file is damaged, fetch it again")]
    NotUtf8 {
        /// The file.
        file: PathBuf,
        /// Offset of the string's first bad byte.
        at: usize,
        /// What it is.
        what: &'static str,
    },
    /// An unknown type of value, or an array of arrays.
    #[error("{file}: byte {at}: key `{key}` has values of type {found}, which {}; fetch the file again or convert the model anew", type_problem(*.found))]
    ValueType {
        /// The file.
        file: PathBuf,
        /// Offset of the type.
        at: usize,
        /// The key.
        key: String,
        /// The type's number.
        found: u32,
    },
    /// A truth value that is neither.
    #[error(
        "{file}: byte {at}: key `{key}` has the truth value {found}, not 0 or 1; the file is damaged, fetch it again"
    )]
    Boolean {
        /// The file.
        file: PathBuf,
        /// Offset of the byte.
        at: usize,
        /// The key.
        key: String,
        /// The byte.
        found: u8,
    },
    /// A key twice.
    #[error("{file}: byte {at}: key `{key}` is there twice; the file is damaged, fetch it again")]
    DuplicateKey {
        /// The file.
        file: PathBuf,
        /// Offset of the second.
        at: usize,
        /// The key.
        key: String,
    },
    /// An alignment that cannot be.
    #[error(
        "{file}: `general.alignment` is {found}, not a power of two from 1 to 1048576; the file is damaged, fetch it again"
    )]
    Alignment {
        /// The file.
        file: PathBuf,
        /// What it says.
        found: String,
    },
    /// A part of a model.
    #[error("{file}: part of a model in {parts} files; join them with llama.cpp's `llama-gguf-split --merge` first")]
    Split {
        /// The file.
        file: PathBuf,
        /// Number of files.
        parts: u64,
    },
    /// Something about a tensor.
    #[error("{file}: tensor `{tensor}` {problem}")]
    Tensor {
        /// The file.
        file: PathBuf,
        /// Its name.
        tensor: String,
        /// What it is.
        problem: TensorProblem,
    },
    /// A key that must be there.
    #[error(
        "{file}: key `{key}` is missing; the file is incomplete or of another kind of model, convert the model anew"
    )]
    MissingKey {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
    },
    /// A key with a value of another type than its meaning asks for.
    #[error("{file}: key `{key}` is {found}, not {expected}; convert the model anew")]
    WrongValue {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
        /// The value, shortened.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
}

/// What is wrong with a tensor, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorProblem {
    /// Not there.
    #[error("is missing; the file is incomplete or of another architecture than it says")]
    Missing,
    /// There twice.
    #[error("is there twice; the file is damaged, fetch it again")]
    Duplicate,
    /// A name that ggml would refuse as well.
    #[error("has a name of {0} bytes, at most 127 are read; the file is damaged, fetch it again")]
    LongName(usize),
    /// No dimension, or more than ggml has.
    #[error("has {0} dimensions, not 1 to 4; the file is damaged, fetch it again")]
    Dimensions(u32),
    /// A dimension of nothing.
    #[error("has a dimension of 0; the file is damaged, fetch it again")]
    Empty,
    /// More than can be counted.
    #[error("claims more elements than fit in memory; the file is damaged, fetch it again")]
    TooLarge,
    /// A type that is not read.
    #[error(
        "has element type {0}, which is not supported; use a file with F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K to Q6_K, IQ4_NL or IQ4_XS"
    )]
    ElementType(String),
    /// Rows that are no whole blocks.
    #[error(
        "has rows of {cols} elements, not whole {encoding} blocks of {block}; fetch the file again or, when writing, choose another type"
    )]
    PartialBlock {
        /// Elements of a row.
        cols: usize,
        /// Its type.
        encoding: Encoding,
        /// Elements of a block.
        block: usize,
    },
    /// An offset off the grid.
    #[error(
        "begins at data offset {offset}, no multiple of the alignment {alignment}; the file is damaged, fetch it again"
    )]
    Misaligned {
        /// Its offset.
        offset: u64,
        /// The file's alignment.
        alignment: usize,
    },
    /// Bytes beyond the end.
    #[error(
        "takes {bytes} bytes from data offset {offset} but the file has {data} bytes of data; it is cut short or damaged, fetch it again"
    )]
    OutOfFile {
        /// Its offset.
        offset: u64,
        /// Its length.
        bytes: usize,
        /// The length of all data.
        data: usize,
    },
    /// Bytes of another tensor.
    #[error("overlaps tensor `{0}`; the file is damaged, fetch it again")]
    Overlap(String),
    /// A writer's mistake.
    #[error(
        "got more or fewer bytes than its shape takes; this is a mistake of the program that writes, please report it"
    )]
    WrongBytes,
}

fn endian(version: u32) -> &'static str {
    if version.swap_bytes() <= 16 { " (it was made for big-endian machines)" } else { "" }
}

fn type_problem(found: u32) -> &'static str {
    if found == super::types::ARRAY { "inside an array is not read" } else { "is not known" }
}
