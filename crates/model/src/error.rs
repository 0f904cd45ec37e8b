//! What can go wrong with a model.

use crate::ConfigError;
use backend::BackendError;

/// Why a model could not be made, loaded or written.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A shape that was not read from a file.
    #[error("the model's shape: {0}")]
    Config(#[from] ConfigError),
    /// The machine.
    #[error(transparent)]
    Backend(#[from] BackendError),
}
