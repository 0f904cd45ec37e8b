//! All logits of a text at once, for comparisons of models.

use crate::{Activations, Batch, Model, ModelError, pass};
use backend::{Backend, Rows, Sequences};

/// The logits behind each token of a text, `ids.len() × vocab`.
///
/// # Errors
/// No memory.
///
/// # Panics
/// If there are no ids, more than the context, or one is outside the vocabulary.
pub fn text_logits(b: &dyn Backend, model: &Model, ids: &[u32]) -> Result<Vec<f32>, ModelError> {
    let tokens = ids.len();
    let acts = Activations::inference(b, &model.config, tokens, tokens, tokens)?;
    let mut values = vec![0.0; tokens * model.config.vocab];
    let batch = Batch::new(b, Sequences { batch: 1, tokens }, false)?;
    b.write_ids(batch.ids, 0, ids);
    pass::forward(b, model, &acts, &batch);
    b.read(pass::logits(b, model, &acts, 0, Rows::prompt(tokens)), 0, &mut values);
    batch.free(b);
    acts.free(b);
    Ok(values)
}
