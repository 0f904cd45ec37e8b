//! Handles in the making: what was allocated is given back unless the whole succeeds.

use backend::{Backend, BackendError, Buf, Element, EncodedRows, Matrix, Precision};

/// The allocations of one thing that is being built. Dropped before [`Memory::keep`], it frees them.
pub(crate) struct Memory<'b> {
    b: &'b dyn Backend,
    held: Held,
}

/// Handles that belong to one owner.
#[derive(Debug, Default)]
pub(crate) struct Held {
    bufs: Vec<Buf>,
    matrices: Vec<Matrix>,
}

impl Held {
    pub(crate) fn free(&mut self, b: &dyn Backend) {
        // Matrices first: a trainable one refers to its master.
        self.matrices.drain(..).for_each(|matrix| b.free_matrix(matrix));
        self.bufs.drain(..).for_each(|buf| b.free(buf));
    }
}

impl<'b> Memory<'b> {
    pub(crate) fn new(b: &'b dyn Backend) -> Self {
        Self { b, held: Held::default() }
    }

    pub(crate) fn alloc(&mut self, element: Element, len: usize) -> Result<Buf, BackendError> {
        let buf = self.b.alloc(element, len)?;
        self.held.bufs.push(buf);
        Ok(buf)
    }

    /// A buffer that holds `values`.
    pub(crate) fn floats(&mut self, values: &[f32]) -> Result<Buf, BackendError> {
        let buf = self.alloc(Element::F32, values.len())?;
        self.b.write(buf, 0, values);
        Ok(buf)
    }

    pub(crate) fn load_matrix(
        &mut self,
        parts: &[EncodedRows<'_>],
        cols: usize,
        precision: Precision,
    ) -> Result<Matrix, BackendError> {
        let matrix = self.b.load_matrix(parts, cols, precision)?;
        self.held.matrices.push(matrix);
        Ok(matrix)
    }

    pub(crate) fn trainable_matrix(
        &mut self,
        master: Buf,
        rows: usize,
        cols: usize,
        precision: Precision,
    ) -> Result<Matrix, BackendError> {
        let matrix = self.b.trainable_matrix(master, rows, cols, precision)?;
        self.held.matrices.push(matrix);
        Ok(matrix)
    }

    /// The handles, now somebody else's to free.
    pub(crate) fn keep(mut self) -> Held {
        std::mem::take(&mut self.held)
    }
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        self.held.free(self.b);
    }
}
