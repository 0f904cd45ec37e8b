//! The first weights of a small model cut out of a larger one: some of its layers, some rows of its embedding.

use crate::tensors::{Role, Tensor};
use crate::{Config, ConfigError, ModelError, Parameters, Source};
use backend::{Backend, Precision};

/// What is taken of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Layers of the source, in the order in which they follow each other.
    pub layers: Vec<usize>,
    /// Ids whose rows of embedding and head are taken, ascending; one row follows them for all others, the mean of
    /// theirs. `None` takes all rows.
    pub ids: Option<Vec<u32>>,
}

impl Cut {
    /// The shape of what is cut. Marks that are not taken are left out.
    ///
    /// # Errors
    /// [`ConfigError`] where there is no such layer or id.
    pub fn config(&self, source: &Config) -> Result<Config, ConfigError> {
        let out_of_range = |field, value: String, rule| Err(ConfigError::OutOfRange { field, value, rule });
        if let Some(layer) = self.layers.iter().find(|layer| **layer >= source.layers) {
            return out_of_range("layers_of_target", layer.to_string(), format!("below {}", source.layers));
        }
        let mut config = Config { layers: self.layers.len(), ..source.clone() };
        if let Some(ids) = &self.ids {
            if let Some(id) = ids.last().filter(|id| **id as usize >= source.vocab) {
                return out_of_range("an id of the draft", id.to_string(), format!("below {}", source.vocab));
            }
            let own = |id: u32| ids.binary_search(&id).ok().map(|index| index as u32);
            config.vocab = ids.len() + 1;
            config.bos = source.bos.and_then(own);
            config.eos = source.eos.iter().filter_map(|&id| own(id)).collect();
        }
        Ok(config)
    }

    /// The values of a tensor of the cut.
    fn values(&self, source: &Source, tensor: &Tensor) -> Result<Vec<f32>, ModelError> {
        let layer = if tensor.role.in_block() { self.layers[tensor.layer] } else { 0 };
        let values = source.values(&Tensor::new(source.config(), tensor.role, layer))?;
        match (&self.ids, tensor.role) {
            (Some(ids), Role::Embedding | Role::Head) => Ok(taken_rows(&values, ids, tensor.cols)),
            _ => Ok(values),
        }
    }
}

/// The rows of `ids`, and the mean of all others.
fn taken_rows(values: &[f32], ids: &[u32], width: usize) -> Vec<f32> {
    let mut taken = Vec::with_capacity((ids.len() + 1) * width);
    ids.iter().for_each(|&id| taken.extend_from_slice(&values[id as usize * width..][..width]));
    let mut sums = vec![0.0f64; width];
    let mut others = 0;
    for (id, row) in values.chunks_exact(width).enumerate() {
        if ids.binary_search(&(id as u32)).is_err() {
            sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
            others += 1;
        }
    }
    taken.extend(sums.iter().map(|sum| (sum / f64::from(others.max(1))) as f32));
    taken
}

impl Parameters {
    /// First weights cut out of `source`.
    ///
    /// # Errors
    /// A cut that the source does not have, an architecture that is not trained, no memory.
    pub fn cut_from(b: &dyn Backend, source: &Source, cut: &Cut, precision: Precision) -> Result<Self, ModelError> {
        let config = cut.config(source.config()).map_err(|error| ModelError::config(source.path(), error))?;
        Self::build(b, &config, precision, &mut |tensor| cut.values(source, tensor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_taken_and_the_rest_is_averaged() {
        let values = [0.0, 1.0, 10.0, 11.0, 20.0, 21.0, 30.0, 31.0];
        assert_eq!(taken_rows(&values, &[0, 2], 2), [0.0, 1.0, 20.0, 21.0, 20.0, 21.0]);
        assert_eq!(taken_rows(&values, &[0, 1, 2, 3], 2)[8..], [0.0, 0.0]);
    }
}
