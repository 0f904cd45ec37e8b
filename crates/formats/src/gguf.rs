//! GGUF, llama.cpp's format: typed key-value pairs, a table of tensors, aligned data.
//!
//! ```text
//! "GGUF"  u32 version  u64 tensors  u64 pairs
//! pairs:   string key, u32 type, value          string = u64 length, bytes; array = u32 type, u64 count, values
//! tensors: string name, u32 n, u64 dims[n], u32 type, u64 offset      dims innermost first, offset from the data
//! padding to the alignment (32 unless `general.alignment` says otherwise), then the data, each tensor padded likewise
//! ```
//!
//! All little-endian; versions 2 and 3 are the same. Nothing in a file is believed: counts are held against the bytes
//! that are left, tensors must be aligned, inside the file and apart from each other, and reading never allocates more
//! than the file is long plus 64 MiB for bookkeeping.

mod error;
mod parse;
mod read;
mod table;
mod types;
mod value;
mod write;

pub use error::{GgufError, TensorProblem};
pub use read::{Gguf, Header, TensorInfo};
pub use value::{Array, FromValue, Strings, Value};
pub use write::{write, write_with};

/// The alignment of a file that does not state one, and of all that are written here.
pub const DEFAULT_ALIGNMENT: usize = 32;

/// The key that states another.
const ALIGNMENT_KEY: &str = "general.alignment";

#[cfg(test)]
mod tests;
