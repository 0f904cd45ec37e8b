//! The file of a round: sequences in the draft's ids, and what the target says at each of their places.
//!
//! ```text
//! tokens         f32  sequences × (length + 1)      −1 behind the end of a shorter one
//! ids            f32  sequences × length × top_k    −1 behind the last that is listed
//! probabilities  f16  sequences × length × top_k
//! ```
//! The format (safetensors, so that any tool reads it) is written by what the workspace has, which stores floats; f32
//! holds every id below 2²⁴ exactly.

use crate::TrainError;
use backend::NO_TARGET;
use formats::safetensors::{self, Weights};
use formats::{Encoding, StoredTensor, quant};
use std::collections::BTreeMap;
use std::path::Path;

/// A sequence on the host.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Taught {
    /// Tokens in the draft's ids, one more than there are places.
    pub(crate) tokens: Vec<u32>,
    /// `top_k` ids for each place, [`NO_TARGET`] behind the last.
    pub(crate) ids: Vec<u32>,
    /// Their probabilities.
    pub(crate) probabilities: Vec<f32>,
}

/// Sizes of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RoundShape {
    pub(crate) sequences: usize,
    /// Places of a sequence.
    pub(crate) length: usize,
    pub(crate) top_k: usize,
    /// Ids of the draft are below it.
    pub(crate) vocab: usize,
}

/// Key of what a round was made from, in the file's header.
const ORIGIN: &str = "origin";

/// Writes a round; atomic. `origin` says what it was made from.
///
/// # Errors
/// The disk.
pub(crate) fn write(path: &Path, shape: RoundShape, taught: &[Taught], origin: &str) -> Result<(), TrainError> {
    let RoundShape { sequences, length, top_k, .. } = shape;
    let id = |&id: &u32| if id == NO_TARGET { -1.0 } else { id as f32 };
    let padded = |ids: Vec<f32>, to: usize, with: f32| ids.into_iter().chain(std::iter::repeat(with)).take(to);
    let (mut tokens, mut ids, mut probabilities) = (Vec::new(), Vec::new(), Vec::new());
    for sequence in taught {
        tokens.extend(padded(sequence.tokens.iter().map(id).collect(), length + 1, -1.0));
        ids.extend(padded(sequence.ids.iter().map(id).collect(), length * top_k, -1.0));
        probabilities.extend(padded(sequence.probabilities.clone(), length * top_k, 0.0));
    }
    let tensors = [
        ("tokens", Encoding::F32, vec![sequences, length + 1], tokens),
        ("ids", Encoding::F32, vec![sequences, length, top_k], ids),
        ("probabilities", Encoding::F16, vec![sequences, length, top_k], probabilities),
    ];
    let mut encoded = Vec::with_capacity(tensors.len());
    for (name, encoding, shape, values) in tensors {
        let bytes = quant::encode(encoding, &values).map_err(|error| damaged(path, error.to_string()))?;
        encoded.push((name, encoding, shape, bytes));
    }
    let stored: Vec<StoredTensor<'_>> = encoded
        .iter()
        .map(|(name, encoding, shape, bytes)| StoredTensor {
            name: (*name).into(),
            encoding: *encoding,
            shape: shape.clone(),
            bytes,
        })
        .collect();
    let metadata = BTreeMap::from([(ORIGIN.to_owned(), origin.to_owned())]);
    Ok(safetensors::write(path, &stored, &metadata)?)
}

fn damaged(path: &Path, reason: String) -> TrainError {
    TrainError::Round { file: path.into(), reason }
}

/// A round on the disk, mapped.
#[derive(Debug)]
pub(crate) struct Round {
    weights: Weights,
    shape: RoundShape,
}

impl Round {
    /// Opens a round of this shape and origin.
    ///
    /// # Errors
    /// [`TrainError::Round`] for another one or a damaged one.
    pub(crate) fn open(path: &Path, shape: RoundShape, origin: &str) -> Result<Self, TrainError> {
        let weights = Weights::open(path)?;
        if weights.metadata().get(ORIGIN).map(String::as_str) != Some(origin) {
            return Err(damaged(path, "it belongs to another run".into()));
        }
        let RoundShape { sequences, length, top_k, .. } = shape;
        let taught = vec![sequences, length, top_k];
        for (name, encoding, expected) in [
            ("tokens", Encoding::F32, vec![sequences, length + 1]),
            ("ids", Encoding::F32, taught.clone()),
            ("probabilities", Encoding::F16, taught),
        ] {
            let stored = weights.tensor(name)?;
            if (stored.encoding, &stored.shape) != (encoding, &expected) {
                return Err(damaged(path, format!("`{name}` is {} of {:?}", stored.encoding, stored.shape)));
            }
        }
        Ok(Self { weights, shape })
    }

    /// A sequence of it.
    ///
    /// # Errors
    /// [`TrainError::Round`] where it holds what is no id or no probability.
    pub(crate) fn sequence(&self, index: usize) -> Result<Taught, TrainError> {
        let RoundShape { length, top_k, .. } = self.shape;
        let mut tokens = self.ids("tokens", index, length + 1)?;
        let end = tokens.iter().position(|&id| id == NO_TARGET).unwrap_or(tokens.len());
        tokens.truncate(end);
        if tokens.len() < 2 {
            return Err(damaged(self.weights.path(), format!("sequence {index} has {} tokens", tokens.len())));
        }
        let listed = (tokens.len() - 1) * top_k;
        let (mut ids, mut probabilities) =
            (self.ids("ids", index, length * top_k)?, self.floats("probabilities", index, length * top_k)?);
        ids.truncate(listed);
        probabilities.truncate(listed);
        match probabilities.iter().find(|probability| !(0.0..=1.0).contains(*probability)) {
            Some(found) => Err(damaged(self.weights.path(), format!("{found} is no probability"))),
            None => Ok(Taught { tokens, ids, probabilities }),
        }
    }

    fn floats(&self, name: &str, index: usize, each: usize) -> Result<Vec<f32>, TrainError> {
        let stored = self.weights.tensor(name)?;
        let bytes = stored.bytes.len() / self.shape.sequences;
        let decoded = quant::decode_all(stored.encoding, &stored.bytes[index * bytes..][..bytes]);
        let floats = decoded.map_err(|error| damaged(self.weights.path(), error.to_string()))?;
        debug_assert_eq!(floats.len(), each);
        Ok(floats)
    }

    fn ids(&self, name: &str, index: usize, each: usize) -> Result<Vec<u32>, TrainError> {
        let vocab = self.shape.vocab as f32;
        let id = |float: f32| match float {
            -1.0 => Ok(NO_TARGET),
            _ if (0.0..vocab).contains(&float) && float.fract() == 0.0 => Ok(float as u32),
            _ => Err(damaged(self.weights.path(), format!("{float} in `{name}` is no id of the draft"))),
        };
        self.floats(name, index, each)?.into_iter().map(id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: RoundShape = RoundShape { sequences: 2, length: 3, top_k: 2, vocab: 9 };

    fn taught() -> [Taught; 2] {
        [
            Taught {
                tokens: vec![1, 2, 3, 4],
                ids: vec![2, 5, 3, NO_TARGET, 4, 8],
                probabilities: vec![0.5, 0.25, 1.0, 0.0, 0.125, 0.0625],
            },
            Taught { tokens: vec![7, 8], ids: vec![8, 0], probabilities: vec![0.75, 0.25] },
        ]
    }

    #[test]
    fn a_round_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("round.safetensors");
        write(&path, SHAPE, &taught(), "here").unwrap();
        let round = Round::open(&path, SHAPE, "here").unwrap();
        assert_eq!([0, 1].map(|index| round.sequence(index).unwrap()), taught());
    }

    #[test]
    fn what_is_no_round_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("round.safetensors");
        write(&path, SHAPE, &taught(), "here").unwrap();
        let refused = |shape, origin| Round::open(&path, shape, origin).unwrap_err().to_string();
        assert!(refused(SHAPE, "there").contains("it belongs to another run"));
        assert!(refused(RoundShape { top_k: 3, ..SHAPE }, "here").contains("`ids` is f32 of [2, 3, 2]"));
        let small = Round::open(&path, RoundShape { vocab: 5, ..SHAPE }, "here").unwrap();
        assert!(small.sequence(0).unwrap_err().to_string().contains("5 in `ids` is no id of the draft"));
    }
}
