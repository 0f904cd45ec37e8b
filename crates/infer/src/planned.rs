//! Activations that give their buffers back when they are dropped.

use backend::{Backend, BackendError};
use model::{Activations, Config};
use std::ops::Deref;

/// [`Activations`] of a backend that outlives them.
pub(crate) struct Planned<'b> {
    b: &'b dyn Backend,
    /// Some until dropped.
    activations: Option<Activations>,
}

impl<'b> Planned<'b> {
    /// See [`Activations::inference`].
    pub(crate) fn inference(
        b: &'b dyn Backend,
        config: &Config,
        rows: usize,
        logits_rows: usize,
        positions: usize,
    ) -> Result<Self, BackendError> {
        Ok(Self { b, activations: Some(Activations::inference(b, config, rows, logits_rows, positions)?) })
    }
}

impl Deref for Planned<'_> {
    type Target = Activations;

    fn deref(&self) -> &Activations {
        self.activations.as_ref().expect("held until dropped")
    }
}

impl Drop for Planned<'_> {
    fn drop(&mut self) {
        if let Some(activations) = self.activations.take() {
            activations.free(self.b);
        }
    }
}
