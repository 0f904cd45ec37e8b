//! Files of models as names, types, shapes and bytes: safetensors, GGUF, Hugging Face configs, llama2.c files, and the
//! blocks of quantised weights.
//!
//! Holds: readers that trust nothing in a file, writers that never leave half a file, scalar encoding and decoding of
//! every weight type; [`mod@file`], through which the whole workspace touches the disk.
//! Never: an architecture (which tensors a model has and what they mean is `model`'s), arithmetic that must be fast.
//! Start reading at [`mod@file`] for the disk, at [`safetensors::Weights`] for a reader, at [`quant`] for the blocks.

mod cursor;
pub mod file;
pub mod gguf;
pub mod hf_config;
pub mod llama2c;
pub mod quant;
pub mod safetensors;

pub use cursor::PastEnd;

use std::fmt;

/// How the numbers of a tensor are written in a file. The quantised ones are GGUF's, by its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Encoding {
    /// Little-endian IEEE single.
    F32,
    /// Little-endian IEEE half.
    F16,
    /// Upper half of an IEEE single.
    Bf16,
    /// Blocks of 32: f16 scale, 32 × i8.
    Q8_0,
    /// Blocks of 32: f16 scale, 32 × 4 bits, offset −8.
    Q4_0,
    /// Blocks of 32: f16 scale, f16 minimum, 32 × 4 bits.
    Q4_1,
    /// Blocks of 32: f16 scale, 32 × 5 bits, offset −16.
    Q5_0,
    /// Blocks of 32: f16 scale, f16 minimum, 32 × 5 bits.
    Q5_1,
    /// Super-blocks of 256, 2 bits, with minima.
    Q2K,
    /// Super-blocks of 256, 3 bits.
    Q3K,
    /// Super-blocks of 256, 4 bits, with minima.
    Q4K,
    /// Super-blocks of 256, 5 bits, with minima.
    Q5K,
    /// Super-blocks of 256, 6 bits.
    Q6K,
    /// Blocks of 32: f16 scale, 32 × 4 bits into a table of 16 unequal steps.
    Iq4Nl,
    /// Super-blocks of 256 of the same table, a 6-bit scale for every 32.
    Iq4Xs,
}

impl Encoding {
    /// All of them, in GGUF's order of difficulty: floats, simple blocks, super-blocks.
    pub const ALL: [Self; 15] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
        Self::Iq4Xs,
    ];

    /// The name that users write and read (`f32`, `q8_0`, `q4_k`, …).
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q2K => "q2_k",
            Self::Q3K => "q3_k",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
            Self::Iq4Nl => "iq4_nl",
            Self::Iq4Xs => "iq4_xs",
        }
    }

    /// The encoding of a [`name`](Self::name), in any case.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|encoding| encoding.name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A tensor as a file holds it (or is to hold it).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTensor<'a> {
    /// Its name in the file.
    pub name: String,
    /// What `bytes` are.
    pub encoding: Encoding,
    /// Row-major, outermost first; blocks run along the last.
    pub shape: Vec<usize>,
    /// Exactly as many as encoding and shape say; readers guarantee it.
    pub bytes: &'a [u8],
}

impl StoredTensor<'_> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All elements as floats.
    ///
    /// # Errors
    /// [`quant::QuantError`] where `bytes` do not fit `shape`, which no reader of this crate lets through.
    pub fn to_f32(&self) -> Result<Vec<f32>, quant::QuantError> {
        quant::decode_all(self.encoding, self.bytes)
    }
}

/// A tensor to be written: everything but its bytes, which a writer asks for when their turn has come, so that no
/// model is held twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorPlan {
    /// Its name in the file.
    pub name: String,
    /// How its bytes will be encoded.
    pub encoding: Encoding,
    /// Row-major, outermost first.
    pub shape: Vec<usize>,
}

impl TensorPlan {
    /// Bytes that the tensor takes; `None` where its rows are no whole blocks or the number does not fit.
    pub fn bytes(&self) -> Option<usize> {
        quant::tensor_bytes(self.encoding, &self.shape)
    }
}
