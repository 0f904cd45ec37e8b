//! safetensors: 8 bytes of header length, a JSON header (name → dtype, shape, offsets), the tensors' bytes.
//!
//! Reading goes over the format's own crate, which checks that shapes, types and offsets agree and that the tensors
//! cover the data without a gap; here the file is mapped, shards are joined and every refusal gets its place and its
//! remedy. Writing streams, and the same tensors always give the same bytes.

mod error;
mod read;
mod write;

pub use error::SafetensorsError;
pub use read::{INDEX_NAME, SINGLE_NAME, Weights, check, check_index};
pub(crate) use write::Counter;
pub use write::{Metadata, write, write_with};

#[cfg(test)]
mod tests;
