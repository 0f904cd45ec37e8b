//! Handles that are given back to their backend when their holder is dropped, also on the way out of an error.

use backend::{Backend, BackendError, Buf, Element};
use std::ops::Deref;

/// Something made of handles, and how it is given back.
pub(crate) struct Held<'b, T> {
    b: &'b dyn Backend,
    /// Some until dropped.
    thing: Option<T>,
    free: fn(T, &dyn Backend),
}

impl<'b, T> Held<'b, T> {
    pub(crate) fn new(b: &'b dyn Backend, thing: T, free: fn(T, &dyn Backend)) -> Self {
        Self { b, thing: Some(thing), free }
    }
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.thing.as_ref().expect("held until dropped")
    }
}

impl<T> Drop for Held<'_, T> {
    fn drop(&mut self) {
        if let Some(thing) = self.thing.take() {
            (self.free)(thing, self.b);
        }
    }
}

/// Buffers that go together.
pub(crate) struct Buffers<'b> {
    b: &'b dyn Backend,
    all: Vec<Buf>,
}

impl<'b> Buffers<'b> {
    pub(crate) fn new(b: &'b dyn Backend) -> Self {
        Self { b, all: Vec::new() }
    }

    /// A zeroed buffer; see [`Backend::alloc`].
    pub(crate) fn alloc(&mut self, element: Element, len: usize) -> Result<Buf, BackendError> {
        let buf = self.b.alloc(element, len)?;
        self.all.push(buf);
        Ok(buf)
    }
}

impl Drop for Buffers<'_> {
    fn drop(&mut self) {
        self.all.drain(..).for_each(|buf| self.b.free(buf));
    }
}
