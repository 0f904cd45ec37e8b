//! Weights in blocks: the layouts of GGUF's types, decoded and encoded one value at a time.
//!
//! This is the readable definition of every type, used for reading, writing and testing; the fast products over packed
//! blocks are `cpu`'s and are tested against this. A row is cut into blocks along its columns, so a row has a whole
//! number of blocks. Arithmetic is f32 in the order of ggml's reference, so the bits are the same as its.

mod blocks;
mod k_blocks;
mod k_encode;
mod simple;

pub use blocks::{
    BlockIq4Nl, BlockIq4Xs, BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K,
    BlockQ6K, BlockQ8_0, F16, IQ4_STEPS, SUPER_BLOCK, k_scale_and_minimum,
};

use crate::Encoding;
use half::{bf16, f16};

/// What a request to encode or decode can get wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantError {
    /// A row that is no whole number of blocks.
    #[error("{len} values are not a whole number of {encoding} blocks of {block}; choose another type for this tensor")]
    PartialBlock {
        /// The type.
        encoding: Encoding,
        /// Values given.
        len: usize,
        /// Values in a block.
        block: usize,
    },
    /// Bytes and values do not fit each other.
    #[error("{bytes} bytes of {encoding} do not hold {len} values; the tensor's shape or its file is damaged")]
    WrongLength {
        /// The type.
        encoding: Encoding,
        /// Bytes given.
        bytes: usize,
        /// Values asked for.
        len: usize,
    },
}

/// Values in a block: 1 for the float types.
pub const fn block_len(encoding: Encoding) -> usize {
    match encoding {
        Encoding::F32 | Encoding::F16 | Encoding::Bf16 => 1,
        Encoding::Q8_0 | Encoding::Q4_0 | Encoding::Q4_1 | Encoding::Q5_0 | Encoding::Q5_1 | Encoding::Iq4Nl => 32,
        Encoding::Q2K | Encoding::Q3K | Encoding::Q4K | Encoding::Q5K | Encoding::Q6K | Encoding::Iq4Xs => SUPER_BLOCK,
    }
}

/// Bytes of a block.
pub const fn block_bytes(encoding: Encoding) -> usize {
    match encoding {
        Encoding::F32 => 4,
        Encoding::F16 | Encoding::Bf16 => 2,
        Encoding::Q8_0 => size_of::<BlockQ8_0>(),
        Encoding::Q4_0 => size_of::<BlockQ4_0>(),
        Encoding::Q4_1 => size_of::<BlockQ4_1>(),
        Encoding::Q5_0 => size_of::<BlockQ5_0>(),
        Encoding::Q5_1 => size_of::<BlockQ5_1>(),
        Encoding::Q2K => size_of::<BlockQ2K>(),
        Encoding::Q3K => size_of::<BlockQ3K>(),
        Encoding::Q4K => size_of::<BlockQ4K>(),
        Encoding::Q5K => size_of::<BlockQ5K>(),
        Encoding::Q6K => size_of::<BlockQ6K>(),
        Encoding::Iq4Nl => size_of::<BlockIq4Nl>(),
        Encoding::Iq4Xs => size_of::<BlockIq4Xs>(),
    }
}

/// Bytes of a row of `cols` values; `None` where it is no whole number of blocks or the number does not fit.
pub const fn row_bytes(encoding: Encoding, cols: usize) -> Option<usize> {
    if cols.is_multiple_of(block_len(encoding)) {
        (cols / block_len(encoding)).checked_mul(block_bytes(encoding))
    } else {
        None
    }
}

/// Bytes of a tensor (`shape` outermost first; a scalar has shape `[]`); `None` as in [`row_bytes`].
pub fn tensor_bytes(encoding: Encoding, shape: &[usize]) -> Option<usize> {
    let (cols, outer) = shape.split_last().map_or((1, shape), |(&cols, outer)| (cols, outer));
    let rows = outer.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim))?;
    rows.checked_mul(cols)?; // the number of elements must fit as well
    rows.checked_mul(row_bytes(encoding, cols)?)
}

/// Decodes whole blocks: `out = values of bytes`.
///
/// # Errors
/// [`QuantError`] where `bytes` are not exactly the blocks of `out.len()` values.
pub fn decode(encoding: Encoding, bytes: &[u8], out: &mut [f32]) -> Result<(), QuantError> {
    if row_bytes(encoding, out.len()) != Some(bytes.len()) {
        return Err(QuantError::WrongLength { encoding, bytes: bytes.len(), len: out.len() });
    }
    match encoding {
        Encoding::F32 => decode_each(bytes, out, f32::from_le_bytes),
        Encoding::F16 => decode_each(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
        Encoding::Bf16 => decode_each(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
        Encoding::Q8_0 => decode_blocks(bytes, out, BlockQ8_0::decode),
        Encoding::Q4_0 => decode_blocks(bytes, out, BlockQ4_0::decode),
        Encoding::Q4_1 => decode_blocks(bytes, out, BlockQ4_1::decode),
        Encoding::Q5_0 => decode_blocks(bytes, out, BlockQ5_0::decode),
        Encoding::Q5_1 => decode_blocks(bytes, out, BlockQ5_1::decode),
        Encoding::Q2K => decode_blocks(bytes, out, BlockQ2K::decode),
        Encoding::Q3K => decode_blocks(bytes, out, BlockQ3K::decode),
        Encoding::Q4K => decode_blocks(bytes, out, BlockQ4K::decode),
        Encoding::Q5K => decode_blocks(bytes, out, BlockQ5K::decode),
        Encoding::Q6K => decode_blocks(bytes, out, BlockQ6K::decode),
        Encoding::Iq4Nl => decode_blocks(bytes, out, BlockIq4Nl::decode),
        Encoding::Iq4Xs => decode_blocks(bytes, out, BlockIq4Xs::decode),
    }
    Ok(())
}

/// [`decode`] into a new vector, as many values as the bytes hold.
///
/// # Errors
/// [`QuantError::WrongLength`] where the bytes are no whole number of blocks.
pub fn decode_all(encoding: Encoding, bytes: &[u8]) -> Result<Vec<f32>, QuantError> {
    let len = bytes.len() / block_bytes(encoding) * block_len(encoding);
    let mut out = vec![0.0; len];
    decode(encoding, bytes, &mut out)?;
    Ok(out)
}

/// Encodes whole blocks: floats and the simple types as ggml's reference rounds them, the others by a fit of our own.
///
/// # Errors
/// [`QuantError::PartialBlock`] where `values` are no whole blocks.
pub fn encode(encoding: Encoding, values: &[f32]) -> Result<Vec<u8>, QuantError> {
    let Some(bytes) = row_bytes(encoding, values.len()) else {
        return Err(QuantError::PartialBlock { encoding, len: values.len(), block: block_len(encoding) });
    };
    let mut out = vec![0; bytes];
    match encoding {
        Encoding::F32 => encode_each(values, &mut out, f32::to_le_bytes),
        Encoding::F16 => encode_each(values, &mut out, |v| f16::from_f32(v).to_le_bytes()),
        Encoding::Bf16 => encode_each(values, &mut out, |v| bf16::from_f32(v).to_le_bytes()),
        Encoding::Q8_0 => encode_blocks(values, &mut out, BlockQ8_0::encode),
        Encoding::Q4_0 => encode_blocks(values, &mut out, BlockQ4_0::encode),
        Encoding::Q4_1 => encode_blocks(values, &mut out, BlockQ4_1::encode),
        Encoding::Q5_0 => encode_blocks(values, &mut out, BlockQ5_0::encode),
        Encoding::Q5_1 => encode_blocks(values, &mut out, BlockQ5_1::encode),
        Encoding::Q2K => encode_blocks(values, &mut out, BlockQ2K::encode),
        Encoding::Q3K => encode_blocks(values, &mut out, BlockQ3K::encode),
        Encoding::Q4K => encode_blocks(values, &mut out, BlockQ4K::encode),
        Encoding::Q5K => encode_blocks(values, &mut out, BlockQ5K::encode),
        Encoding::Q6K => encode_blocks(values, &mut out, BlockQ6K::encode),
        Encoding::Iq4Nl => encode_blocks(values, &mut out, BlockIq4Nl::encode),
        Encoding::Iq4Xs => encode_blocks(values, &mut out, BlockIq4Xs::encode),
    }
    Ok(out)
}

fn decode_each<const N: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *out = value(*bytes);
    }
}

fn encode_each<const N: usize>(values: &[f32], out: &mut [u8], bytes: impl Fn(f32) -> [u8; N]) {
    for (out, value) in out.as_chunks_mut::<N>().0.iter_mut().zip(values) {
        *out = bytes(*value);
    }
}

/// Blocks are plain bytes of alignment 1, so the cast below cannot fail: `decode` has checked the length.
fn decode_blocks<B: bytemuck::AnyBitPattern, const N: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&B, &mut [f32; N]),
) {
    for (out, block) in out.as_chunks_mut::<N>().0.iter_mut().zip(bytemuck::cast_slice::<u8, B>(bytes)) {
        decode(block, out);
    }
}

/// The counterpart of [`decode_blocks`].
fn encode_blocks<B: bytemuck::Pod, const N: usize>(values: &[f32], out: &mut [u8], encode: impl Fn(&[f32; N]) -> B) {
    for (block, values) in bytemuck::cast_slice_mut::<u8, B>(out).iter_mut().zip(values.as_chunks::<N>().0) {
        *block = encode(values);
    }
}

#[cfg(test)]
mod tests;
