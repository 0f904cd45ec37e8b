//! Where in a model numbers first stop being numbers: for the message when its logits are not.

use crate::{Activations, Batch, Model, pass};
use backend::{Backend, BackendError, Buf, Rows, Sequences};
use std::cell::Cell;
use std::fmt;

/// A part of a forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Token vectors and positions.
    Embedding,
    /// A block.
    Layer {
        /// Which, from 0.
        index: usize,
        /// How many there are.
        layers: usize,
    },
    /// The final norm and, where there is one, the projection behind it.
    FinalNorm,
    /// The output projection.
    Head,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding => f.write_str("the embedding"),
            Self::Layer { index, layers } => write!(f, "layer {index} (counted from 0, of {layers})"),
            Self::FinalNorm => f.write_str("the final norm"),
            Self::Head => f.write_str("the output projection"),
        }
    }
}

/// The first part of a pass over `ids` whose output holds a NaN or an infinity; `None` if all are numbers. This is for
/// after the fact: it plans buffers for the whole text and reads every hidden state.
///
/// # Errors
/// No memory.
///
/// # Panics
/// If there are no ids, more than the model's context, or one without an embedding.
pub fn first_not_finite(b: &dyn Backend, model: &Model, ids: &[u32]) -> Result<Option<Stage>, BackendError> {
    let sequences = Sequences { batch: 1, tokens: ids.len() };
    let acts = Activations::inference(b, &model.config, ids.len(), 1, ids.len())?;
    let found = Batch::new(b, sequences, false).map(|batch| {
        let found = find(b, model, &acts, &batch, ids);
        batch.free(b);
        found
    });
    acts.free(b);
    found
}

fn find(b: &dyn Backend, model: &Model, acts: &Activations, batch: &Batch, ids: &[u32]) -> Option<Stage> {
    let (rows, layers) = (ids.len(), model.config.layers);
    let (found, width) = (Cell::new(None), model.config.width);
    let look = |buf: Buf, len: usize, stage: Stage| {
        if found.get().is_none() && !is_finite(b, buf, len) {
            found.set(Some(stage));
        }
    };
    b.write_ids(batch.ids, 0, ids);
    let hidden = pass::forward_observed(b, model, acts, batch, &|layer, x| {
        let before = layer.checked_sub(1).map_or(Stage::Embedding, |index| Stage::Layer { index, layers });
        look(x, rows * width, before);
    });
    look(acts.last, rows * width, Stage::Layer { index: layers - 1, layers });
    look(hidden, rows * model.config.token_width(), Stage::FinalNorm);
    for row in 0..rows {
        look(pass::logits(b, model, acts, row, Rows::prompt(1)), model.config.vocab, Stage::Head);
    }
    found.get()
}

fn is_finite(b: &dyn Backend, buf: Buf, len: usize) -> bool {
    let mut values = vec![0.0; len];
    b.read(buf, 0, &mut values);
    values.iter().all(|value| value.is_finite())
}
