//! llama2.c's files: the version-0 `.bin` of a model, and the `tok….bin` of its tokenizer.
//!
//! ```text
//! model:     i32 dim hidden layers heads kv_heads vocab seq_len       vocab < 0: the head has its own matrix
//!            f32 tensors in the order of `Llama2c::names`
//! tokenizer: i32 longest piece, then for each piece: f32 score, i32 length, bytes
//! ```
//! All little-endian, no magic, no checksum: only the length of the file shows whether it is one.

use crate::cursor::{Cursor, PastEnd};
use crate::file::{FileError, MappedFile};
use crate::{Encoding, StoredTensor};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Why a llama2.c file was refused.
#[derive(Debug, thiserror::Error)]
pub enum Llama2cError {
    /// The disk or the path.
    #[error(transparent)]
    File(#[from] FileError),
    /// A length beyond the end.
    #[error("{file}: {reason}; it is no llama2.c file or is cut short, fetch it again")]
    PastEnd {
        /// The file.
        file: PathBuf,
        /// Where and how much.
        reason: PastEnd,
    },
    /// A number in the header that cannot be.
    #[error("{file}: byte {at}: {what} is {found}, not {expected}; it is no llama2.c model of version 0")]
    Header {
        /// The file.
        file: PathBuf,
        /// Offset of the number.
        at: usize,
        /// Its name.
        what: &'static str,
        /// Its value.
        found: i32,
        /// What it should be.
        expected: &'static str,
    },
    /// The header's numbers ask for another length.
    #[error(
        "{file}: {found} bytes long, but a model of the shape in its header takes {expected}; it is no llama2.c model of version 0 or is damaged, fetch it again"
    )]
    Length {
        /// The file.
        file: PathBuf,
        /// Its length.
        found: usize,
        /// The length that the header asks for; saturated.
        expected: usize,
    },
    /// A tensor that was asked for is not there.
    #[error("{file}: no tensor `{tensor}` in a llama2.c model of this shape")]
    Missing {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A piece of the tokenizer that cannot be.
    #[error(
        "{file}: byte {at}: piece {piece} has {what} {found}; it is no llama2.c tokenizer or is damaged, fetch it again"
    )]
    Piece {
        /// The file.
        file: PathBuf,
        /// Offset of the number.
        at: usize,
        /// Number of the piece.
        piece: usize,
        /// Which number.
        what: &'static str,
        /// Its value.
        found: f64,
    },
}

/// The shape of a model, as its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Width of the residual stream.
    pub dim: usize,
    /// Width of the feed-forward layer.
    pub hidden_dim: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads; divides `dim`.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Number of token ids.
    pub vocab: usize,
    /// Whether embedding and head are one matrix.
    pub tied: bool,
    /// Context length in tokens.
    pub seq_len: usize,
}

/// A model, mapped.
#[derive(Debug)]
pub struct Llama2c {
    file: MappedFile,
    shape: Shape,
    tensors: Vec<Place>,
}

/// Where a tensor is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    name: String,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

const HEADER_BYTES: usize = 7 * 4;

impl Llama2c {
    /// Opens a model.
    ///
    /// # Errors
    /// [`Llama2cError`].
    pub fn open(path: &Path) -> Result<Self, Llama2cError> {
        let file = MappedFile::open(path)?;
        let (shape, tensors) = parse(path, &file)?;
        Ok(Self { file, shape, tensors })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The shape in its header.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The names, in the order of the file and in llama2.c's words: `token_embedding_table`, `layers.0.rms_att_weight`,
    /// then for every layer `wq wk wv wo rms_ffn_weight w1 w2 w3`, `rms_final_weight`, and `wcls` where the head is not
    /// the embedding. A matrix is (output features, input features).
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|place| place.name.as_str())
    }

    /// A tensor.
    ///
    /// # Errors
    /// [`Llama2cError::Missing`].
    pub fn tensor(&self, name: &str) -> Result<StoredTensor<'_>, Llama2cError> {
        let place = self.tensors.iter().find(|place| place.name == name);
        let missing = || Llama2cError::Missing { file: self.path().into(), tensor: name.into() };
        let Place { name, shape, bytes } = place.ok_or_else(missing)?;
        let bytes = &self.file[bytes.clone()];
        Ok(StoredTensor { name: name.clone(), encoding: Encoding::F32, shape: shape.clone(), bytes })
    }
}

/// Checks a whole file's bytes; returns its shape, as [`Llama2c::open`] would.
///
/// # Errors
/// [`Llama2cError`].
pub fn check(file: &Path, bytes: &[u8]) -> Result<Shape, Llama2cError> {
    Ok(parse(file, bytes)?.0)
}

fn parse(file: &Path, bytes: &[u8]) -> Result<(Shape, Vec<Place>), Llama2cError> {
    let shape = header(file, bytes)?;
    let expected = model_bytes(&shape);
    if expected != Some(bytes.len()) {
        let expected = expected.unwrap_or(usize::MAX);
        return Err(Llama2cError::Length { file: file.into(), found: bytes.len(), expected });
    }
    Ok((shape, places(&shape)))
}

fn header(file: &Path, bytes: &[u8]) -> Result<Shape, Llama2cError> {
    let mut cursor = Cursor::new(bytes);
    let mut number = |what, expected, accepts: &dyn Fn(i32) -> bool| {
        let at = cursor.at();
        let found = cursor.u32(what).map_err(|reason| Llama2cError::PastEnd { file: file.into(), reason })? as i32;
        if accepts(found) {
            Ok(found.unsigned_abs() as usize)
        } else {
            Err(Llama2cError::Header { file: file.into(), at, what, found, expected })
        }
    };
    let positive = |v: i32| v > 0;
    let dim = number("dim", "a number above 0", &positive)?;
    let hidden_dim = number("hidden_dim", "a number above 0", &positive)?;
    let layers = number("n_layers", "a number from 1 to 1024", &|v| (1..=1024).contains(&v))?;
    let even = |v: i32| v > 0 && dim.is_multiple_of(v as usize) && (dim / v as usize).is_multiple_of(2);
    let heads = number("n_heads", "a number that cuts dim into heads of an even width", &even)?;
    let divides = |v: i32| v > 0 && heads.is_multiple_of(v as usize);
    let kv_heads = number("n_kv_heads", "a divisor of n_heads", &divides)?;
    let mut tied = true;
    let vocab = number("vocab_size", "a number other than 0", &|v| v != 0 && v != i32::MIN)?;
    let seq_len = number("seq_len", "a number above 0", &positive)?;
    // The sign of the vocabulary is its own flag; its four bytes are there, since seq_len was read after it.
    if let Some(sign) = bytes.get(23) {
        tied = sign >> 7 == 0;
    }
    Ok(Shape { dim, hidden_dim, layers, heads, kv_heads, vocab, tied, seq_len })
}

/// The tensors of a layer: name, rows, columns; no columns for a vector. In the file each is stacked over all layers.
fn layer_tensors(shape: &Shape) -> [(&'static str, usize, Option<usize>); 9] {
    let (dim, hidden) = (shape.dim, shape.hidden_dim);
    let kv = dim / shape.heads * shape.kv_heads;
    [
        ("rms_att_weight", dim, None),
        ("wq", dim, Some(dim)),
        ("wk", kv, Some(dim)),
        ("wv", kv, Some(dim)),
        ("wo", dim, Some(dim)),
        ("rms_ffn_weight", dim, None),
        ("w1", hidden, Some(dim)),
        ("w2", dim, Some(hidden)),
        ("w3", hidden, Some(dim)),
    ]
}

/// Floats of the two tables of rotary angles that every file carries and nobody needs.
fn rotary_floats(shape: &Shape) -> Option<usize> {
    shape.seq_len.checked_mul(shape.dim / shape.heads)
}

/// Length of the file of a shape; `None` where it does not fit.
fn model_bytes(shape: &Shape) -> Option<usize> {
    let table = shape.vocab.checked_mul(shape.dim)?;
    let mut floats = if shape.tied { table } else { table.checked_mul(2)? };
    for (_, rows, cols) in layer_tensors(shape) {
        floats = floats.checked_add(rows.checked_mul(cols.unwrap_or(1))?.checked_mul(shape.layers)?)?;
    }
    floats = floats.checked_add(shape.dim)?.checked_add(rotary_floats(shape)?)?;
    floats.checked_mul(4)?.checked_add(HEADER_BYTES)
}

/// Where every tensor is. [`model_bytes`] has shown that nothing overflows and all is inside the file.
fn places(shape: &Shape) -> Vec<Place> {
    let mut at = HEADER_BYTES;
    let mut tensors = Vec::with_capacity(9 * shape.layers + 3);
    let mut place = |name: String, shape: Vec<usize>, skipped_floats: usize| {
        let start = at + 4 * skipped_floats;
        at = start + 4 * shape.iter().product::<usize>();
        tensors.push(Place { name, shape, bytes: start..at });
    };
    place("token_embedding_table".into(), vec![shape.vocab, shape.dim], 0);
    for (name, rows, cols) in layer_tensors(shape) {
        for layer in 0..shape.layers {
            let shape = std::iter::once(rows).chain(cols).collect();
            place(format!("layers.{layer}.{name}"), shape, 0);
        }
    }
    place("rms_final_weight".into(), vec![shape.dim], 0);
    if !shape.tied {
        place("wcls".into(), vec![shape.vocab, shape.dim], rotary_floats(shape).unwrap_or(0));
    }
    tensors
}

/// A piece of a tokenizer.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// Its bytes (`▁` is written as a space).
    pub bytes: Vec<u8>,
    /// Its score: pieces with higher ones are merged first.
    pub score: f32,
}

/// A tokenizer.
#[derive(Clone, Debug, PartialEq)]
pub struct TokBin {
    /// Length in bytes of the longest piece, as the file says.
    pub longest_piece: usize,
    /// In the order of their ids.
    pub pieces: Vec<Piece>,
}

/// No vocabulary has more; keeps the table below the size that a short file may claim.
const PIECE_LIMIT: usize = 1 << 20;

impl TokBin {
    /// Reads a tokenizer.
    ///
    /// # Errors
    /// [`Llama2cError`].
    pub fn open(path: &Path) -> Result<Self, Llama2cError> {
        Self::parse(path, &MappedFile::open(path)?)
    }

    /// Takes a whole file's bytes apart; `file` is for messages.
    ///
    /// # Errors
    /// [`Llama2cError`].
    pub fn parse(file: &Path, bytes: &[u8]) -> Result<Self, Llama2cError> {
        let mut cursor = Cursor::new(bytes);
        let past_end = |reason| Llama2cError::PastEnd { file: file.into(), reason };
        let longest = cursor.u32("the longest piece").map_err(past_end)?;
        let longest_piece = longest as usize;
        let mut pieces = vec![];
        while cursor.left() > 0 {
            let (at, piece) = (cursor.at(), pieces.len());
            let fail = |what, found| Llama2cError::Piece { file: file.into(), at, piece, what, found };
            if piece == PIECE_LIMIT {
                return Err(fail("a number beyond the limit of", PIECE_LIMIT as f64));
            }
            let score = f32::from_bits(cursor.u32("a score").map_err(past_end)?);
            if !score.is_finite() {
                return Err(fail("the score", score.into()));
            }
            let length = cursor.u32("a piece's length").map_err(past_end)?;
            if length > longest {
                return Err(fail("more than the longest piece's length:", length.into()));
            }
            let bytes = cursor.take("a piece", length.into()).map_err(past_end)?.to_vec();
            pieces.push(Piece { bytes, score });
        }
        Ok(Self { longest_piece, pieces })
    }
}

#[cfg(test)]
mod tests;
