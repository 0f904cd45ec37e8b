//! Splitting the outputs of an operation over the threads of the pool.

use crate::Pool;
use std::marker::PhantomData;
use std::ops::Range;

/// Elements below which one thread is faster than a hand-over (about a microsecond) to several.
const ALONE: usize = 8192;

/// A slice of which several threads write disjoint pieces.
pub(crate) struct Pieces<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it is used only through `piece`, whose callers promise that no two pieces overlap.
unsafe impl<T: Send> Sync for Pieces<'_, T> {}

impl<'a, T> Pieces<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// The piece `range` of the slice.
    ///
    /// # Safety
    /// No other piece that is alive at the same time may overlap this one.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "that is the point; the caller promises disjointness")]
    pub(crate) unsafe fn piece(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "piece {range:?} of {}", self.len);
        // SAFETY: within the slice, as just asserted; exclusive, as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

/// Part `part` of `parts` nearly equal ranges that cover `0..items`.
pub(crate) fn share(part: usize, parts: usize, items: usize) -> Range<usize> {
    items * part / parts..items * (part + 1) / parts
}

/// Runs `job` on nearly equal ranges that cover `0..items`, one a thread; all of it here where the `elements` touched are few.
pub(crate) fn over_items(pool: &Pool, items: usize, elements: usize, job: &(dyn Fn(Range<usize>) + Sync)) {
    let parts = if elements < ALONE { 1 } else { pool.threads().min(items) };
    if parts <= 1 {
        return job(0..items);
    }
    pool.run(parts, &|part| job(share(part, parts, items)));
}

/// Like [`over_items`], with ranges that start at multiples of `grain`.
pub(crate) fn over_grains(
    pool: &Pool,
    items: usize,
    grain: usize,
    elements: usize,
    job: &(dyn Fn(Range<usize>) + Sync),
) {
    over_items(pool, items.div_ceil(grain), elements, &|r| job(r.start * grain..items.min(r.end * grain)));
}
