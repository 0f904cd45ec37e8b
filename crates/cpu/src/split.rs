//! Splitting the outputs of an operation over the threads of the pool.

use crate::Pool;
use crate::pool::Disjoint;
use std::ops::Range;

/// Elements below which one thread is faster than a hand-over (about a microsecond) to several.
pub(crate) const ALONE: usize = 8192;

impl<'a, T> Disjoint<'a, T> {
    /// The elements of `range`.
    ///
    /// # Safety
    /// No other piece alive at the same time may overlap this one.
    #[inline(always)]
    pub(crate) unsafe fn range(&self, range: Range<usize>) -> &'a mut [T] {
        // SAFETY: as the caller promises.
        unsafe { self.piece(range.start, range.len()) }
    }
}

/// Part `part` of `parts` nearly equal ranges that cover `0..items`.
pub(crate) fn share(part: usize, parts: usize, items: usize) -> Range<usize> {
    items * part / parts..items * (part + 1) / parts
}

/// Runs `job` on nearly equal ranges that cover `0..items`, one a thread; all of it here where the `elements` touched
/// are few.
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
