//! Memory aligned to cache lines, for caches of keys and values and for scratch.

use std::cell::RefCell;
use std::collections::TryReserveError;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A cache line.
#[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; 64]);

const BYTES: usize = size_of::<Line>();

/// Zeroed memory for `bytes` bytes, rounded up to whole lines.
pub(crate) fn zeroed(bytes: usize) -> Result<Vec<Line>, TryReserveError> {
    let lines = bytes.div_ceil(BYTES);
    let mut memory = Vec::new();
    memory.try_reserve_exact(lines)?;
    memory.resize(lines, Line([0; BYTES]));
    Ok(memory)
}

/// The scratch of a thread, kept from call to call and counted in [`scratch_bytes`].
struct Scratch(Vec<Line>);

impl Drop for Scratch {
    fn drop(&mut self) {
        SCRATCH.fetch_sub(self.0.len() * BYTES, Ordering::Relaxed);
    }
}

static SCRATCH: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static OWN: RefCell<Scratch> = const { RefCell::new(Scratch(Vec::new())) };
}

/// Bytes of scratch that all threads of the process keep.
pub(crate) fn scratch_bytes() -> usize {
    SCRATCH.load(Ordering::Relaxed)
}

/// Calls `job` with `len` floats of this thread's scratch, aligned to a line; what they hold is left from earlier calls.
/// Not to be nested.
pub(crate) fn with_scratch<R>(len: usize, job: impl FnOnce(&mut [f32]) -> R) -> R {
    OWN.with_borrow_mut(|Scratch(memory)| {
        let lines = (len * size_of::<f32>()).div_ceil(BYTES);
        if memory.len() < lines {
            SCRATCH.fetch_add((lines - memory.len()) * BYTES, Ordering::Relaxed);
            // The old contents are not wanted: free before allocating.
            *memory = Vec::new();
            *memory = vec![Line([0; BYTES]); lines];
        }
        job(&mut bytemuck::cast_slice_mut(memory)[..len])
    })
}
