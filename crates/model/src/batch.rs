//! What a pass reads.

use backend::{Backend, BackendError, Buf, Element, Sequences};

/// Equally long sequences of tokens: one id and one position a row.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// How the rows form sequences.
    pub sequences: Sequences,
    /// Token ids, each below the vocabulary's size.
    pub ids: Buf,
    /// Positions, each below [`crate::Activations::positions`].
    pub positions: Buf,
    /// First token of its sequence that a row may attend to: the start of its document. `None`: token 0.
    pub first_key: Option<Buf>,
}

impl Batch {
    /// Buffers for batches of this shape: ids to be written, positions `0..tokens` in every sequence, and with
    /// `documents` a zeroed `first_key`.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    pub fn new(b: &dyn Backend, sequences: Sequences, documents: bool) -> Result<Self, BackendError> {
        let alloc = || b.alloc(Element::U32, sequences.rows());
        let batch = Self {
            sequences,
            ids: alloc()?,
            positions: alloc()?,
            first_key: if documents { Some(alloc()?) } else { None },
        };
        let row: Vec<u32> = (0..sequences.tokens as u32).collect();
        (0..sequences.batch).for_each(|sequence| b.write_ids(batch.positions, sequence * sequences.tokens, &row));
        Ok(batch)
    }

    /// Gives the buffers back.
    pub fn free(self, b: &dyn Backend) {
        [Some(self.ids), Some(self.positions), self.first_key].into_iter().flatten().for_each(|buf| b.free(buf));
    }
}
