//! Memory behind the handles: aligned buffers, the table that names them, slabs for weights, and scratch that operations
//! borrow.
//!
//! An operation takes the buffers that it writes out of the [`Arena`] and puts them back when it is done. So what it
//! writes cannot be what it reads, and the borrow checker sees it: a buffer that is out is not there to be read.

use backend::{BackendError, Buf, Element};
use bytemuck::Pod;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A cache line: what vectors of any level want, and what two threads should not share.
const LINE_BYTES: usize = 64;
/// A huge page; buffers of several are aligned to it, so that the system can use it.
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A fixed number of elements, zeroed when made, on a line of its own.
///
/// The zeroes come from the system where the buffer is large: memory that is never written is never resident.
pub(crate) struct Aligned<T> {
    start: NonNull<T>,
    len: usize,
    /// What `start` points into; several buffers may share it, each having a part of its own.
    block: Option<Arc<Block>>,
}

/// Memory of the allocator.
struct Block {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it is an address to be freed; what is behind it belongs to the buffers.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: made by `alloc_zeroed` with this layout, freed once; no buffer points into it any more.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

// SAFETY: it owns its memory alone, as a `Vec<T>` does.
unsafe impl<T: Send> Send for Aligned<T> {}
// SAFETY: as above; shared, it gives `&[T]` only.
unsafe impl<T: Sync> Sync for Aligned<T> {}

impl<T: Pod> Aligned<T> {
    /// No elements.
    pub(crate) const fn empty() -> Self {
        Self { start: NonNull::dangling(), len: 0, block: None }
    }

    /// `len` zeroes; `None` where the memory cannot be had.
    pub(crate) fn zeroed(len: usize) -> Option<Self> {
        if len == 0 {
            return Some(Self::empty());
        }
        let bytes = len.checked_mul(size_of::<T>())?;
        let align = if bytes >= HUGE_PAGE_BYTES { HUGE_PAGE_BYTES } else { LINE_BYTES };
        // Asked for with a small alignment and aligned here: for those the allocator takes zero pages from the system
        // as they are, for larger ones it writes the zeroes itself.
        let layout = Layout::from_size_align(bytes.checked_add(align)?, 16).ok()?;
        // SAFETY: the layout's size is not zero.
        let block = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let skip = block.as_ptr().align_offset(align);
        // SAFETY: `align_offset` is less than `align`, by which the block is longer than `bytes`.
        let start = unsafe { block.add(skip) };
        if align == HUGE_PAGE_BYTES {
            advise_huge_pages(start, bytes);
        }
        Some(Self { start: start.cast(), len, block: Some(Arc::new(Block { start: block, layout })) })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }
}

/// Asks for huge pages: the packed weights of one token are 50 000 small pages, more than a TLB holds.
fn advise_huge_pages(start: NonNull<u8>, bytes: usize) {
    #[cfg(target_os = "linux")]
    // SAFETY: the range is owned by the caller and starts at a page; the advice changes no contents.
    unsafe {
        libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, bytes);
}

impl<T> Deref for Aligned<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `len` elements, initialised with zeroes (`T` is plain data), owned.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// Where packed weights live: in slabs of huge pages, one matrix after the other. Most matrices of a small model are a
/// huge page or two long, too short to be given them alone, and one core of a Zen 4 reads them from small pages at
/// 16 GB/s, from huge ones at 26 (768 × 2304, bf16). The memory of a slab is given back with the last matrix in it.
#[derive(Default)]
pub(crate) struct Slabs {
    /// The slab that is being filled, and how much of it is taken.
    current: Mutex<(Aligned<u32>, usize)>,
}

impl<T: Pod> Default for Aligned<T> {
    fn default() -> Self {
        Self::empty()
    }
}

impl Slabs {
    /// Words of a slab; a matrix of half that stands alone.
    const WORDS: usize = 16 << 20;

    /// `len` zeroes; `None` where the memory cannot be had.
    pub(crate) fn take(&self, len: usize) -> Option<Aligned<u32>> {
        if len >= Self::WORDS / 2 || len == 0 {
            return Aligned::zeroed(len);
        }
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let (slab, taken) = &mut *current;
        if slab.len() - *taken < len {
            (*slab, *taken) = (Aligned::zeroed(Self::WORDS)?, 0);
        }
        // SAFETY: inside the slab. The words from `taken` on were given to nobody, and nobody gets these again.
        let start = unsafe { slab.start.add(*taken) };
        *taken = slab.len().min((*taken + len).next_multiple_of(LINE_BYTES / 4));
        Some(Aligned { start, len, block: slab.block.clone() })
    }
}

/// A place in the table of buffers.
enum Slot {
    Free,
    /// An operation is writing it.
    Out,
    F32(Aligned<f32>),
    U32(Aligned<u32>),
}

/// The buffers that handles name.
#[derive(Default)]
pub(crate) struct Arena {
    slots: Vec<Slot>,
    free: Vec<u32>,
    bytes: usize,
}

impl Arena {
    pub(crate) fn alloc(&mut self, element: Element, len: usize) -> Result<Buf, BackendError> {
        let lack = || BackendError::OutOfMemory { what: "a buffer", bytes: len.saturating_mul(4) };
        let slot = match element {
            Element::F32 => Slot::F32(Aligned::zeroed(len).ok_or_else(lack)?),
            Element::U32 => Slot::U32(Aligned::zeroed(len).ok_or_else(lack)?),
        };
        self.bytes += len * 4;
        if let Some(index) = self.free.pop() {
            self.slots[index as usize] = slot;
            return Ok(Buf::from_index(index));
        }
        let index = u32::try_from(self.slots.len()).map_err(|_| lack())?;
        self.slots.push(slot);
        Ok(Buf::from_index(index))
    }

    pub(crate) fn free(&mut self, buf: Buf) {
        self.bytes -= self.len(buf) * 4;
        self.slots[buf.index()] = Slot::Free;
        self.free.push(buf.index() as u32);
    }

    pub(crate) fn len(&self, buf: Buf) -> usize {
        match &self.slots[buf.index()] {
            Slot::F32(floats) => floats.len(),
            Slot::U32(ids) => ids.len(),
            slot => panic!("{}", slot.complaint(buf)),
        }
    }

    /// Bytes of all buffers.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A buffer of floats, to read.
    pub(crate) fn floats(&self, buf: Buf) -> &[f32] {
        match &self.slots[buf.index()] {
            Slot::F32(floats) => floats,
            slot => panic!("{}", slot.complaint(buf)),
        }
    }

    /// A buffer of floats, to write alone.
    pub(crate) fn floats_mut(&mut self, buf: Buf) -> &mut [f32] {
        match &mut self.slots[buf.index()] {
            Slot::F32(floats) => floats,
            slot => panic!("{}", slot.complaint(buf)),
        }
    }

    /// A buffer of ids, to read.
    pub(crate) fn ids(&self, buf: Buf) -> &[u32] {
        match &self.slots[buf.index()] {
            Slot::U32(ids) => ids,
            slot => panic!("{}", slot.complaint(buf)),
        }
    }

    /// A buffer of ids, to write.
    pub(crate) fn ids_mut(&mut self, buf: Buf) -> &mut [u32] {
        match &mut self.slots[buf.index()] {
            Slot::U32(ids) => ids,
            slot => panic!("{}", slot.complaint(buf)),
        }
    }

    /// Takes a buffer of floats out, to write it while others are read.
    pub(crate) fn take(&mut self, buf: Buf) -> Aligned<f32> {
        match std::mem::replace(&mut self.slots[buf.index()], Slot::Out) {
            Slot::F32(floats) => floats,
            slot => panic!("{}", slot.complaint(buf)),
        }
    }

    /// Puts back what [`Arena::take`] gave.
    pub(crate) fn put(&mut self, buf: Buf, floats: Aligned<f32>) {
        self.slots[buf.index()] = Slot::F32(floats);
    }
}

impl Slot {
    fn complaint(&self, buf: Buf) -> String {
        let what = match self {
            Self::Free => "was freed",
            Self::Out => "is named twice by an operation that writes it",
            Self::F32(_) => "holds floats where ids are needed",
            Self::U32(_) => "holds ids where floats are needed",
        };
        format!("buffer {} {what}", buf.index())
    }
}

/// Scratch memory: blocks that tasks borrow and give back. After the first steps no operation allocates.
#[derive(Default)]
pub(crate) struct Scratch {
    blocks: Mutex<Vec<Aligned<u32>>>,
    bytes: AtomicUsize,
}

/// A borrowed block of scratch; its contents are whatever was left there.
pub(crate) struct Lease<'a> {
    block: Aligned<u32>,
    len: usize,
    home: &'a Scratch,
}

impl Scratch {
    /// `len` words: the smallest free block that is long enough, else the longest free one, exchanged for a longer.
    ///
    /// # Panics
    /// Where the memory cannot be had.
    pub(crate) fn take(&self, len: usize) -> Lease<'_> {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = (0..blocks.len()).filter(|&i| blocks[i].len() >= len).min_by_key(|&i| blocks[i].len());
        if let Some(index) = fitting {
            return Lease { block: blocks.swap_remove(index), len, home: self };
        }
        if let Some(index) = (0..blocks.len()).max_by_key(|&i| blocks[i].len()) {
            self.bytes.fetch_sub(blocks.swap_remove(index).bytes(), Ordering::Relaxed);
        }
        drop(blocks);
        let Some(block) = Aligned::zeroed(len) else {
            panic!(
                "{} bytes of scratch memory could not be had; use a smaller micro-batch or a smaller model",
                len * 4
            );
        };
        self.bytes.fetch_add(block.bytes(), Ordering::Relaxed);
        Lease { block, len, home: self }
    }

    /// Bytes of all blocks, borrowed or not.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Lease<'_> {
    pub(crate) fn words(&mut self) -> &mut [u32] {
        &mut self.block[..self.len]
    }

    pub(crate) fn floats(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(self.words())
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let block = std::mem::take(&mut self.block);
        self.home.blocks.lock().unwrap_or_else(PoisonError::into_inner).push(block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_zeroed_and_counted() {
        let mut arena = Arena::default();
        let small = arena.alloc(Element::F32, 5).unwrap();
        let large = arena.alloc(Element::U32, 3 << 20).unwrap();
        assert_eq!(arena.bytes(), (5 + (3 << 20)) * 4);
        assert_eq!(arena.floats(small), [0.0; 5]);
        assert_eq!(arena.floats(small).as_ptr() as usize % LINE_BYTES, 0);
        assert_eq!(arena.ids(large).as_ptr() as usize % HUGE_PAGE_BYTES, 0);
        assert!(arena.ids(large).iter().all(|&id| id == 0));
        arena.free(large);
        assert_eq!(arena.bytes(), 20);
        assert_eq!(arena.alloc(Element::F32, 0).unwrap(), large, "the place is used again");
    }

    #[test]
    fn memory_that_does_not_exist_is_refused() {
        let error = Arena::default().alloc(Element::F32, usize::MAX / 8).unwrap_err();
        assert!(matches!(error, BackendError::OutOfMemory { .. }), "{error}");
    }

    #[test]
    #[should_panic(expected = "buffer 0 is named twice by an operation that writes it")]
    fn what_is_written_cannot_be_read() {
        let mut arena = Arena::default();
        let buf = arena.alloc(Element::F32, 5).unwrap();
        let _out = arena.take(buf);
        arena.floats(buf);
    }

    #[test]
    fn slabs_give_parts_that_do_not_touch() {
        let slabs = Slabs::default();
        let mut parts: Vec<_> = (0..40).map(|i| slabs.take(1_000_003 + i).unwrap()).collect();
        for (i, part) in parts.iter_mut().enumerate() {
            assert!(part.iter().all(|&word| word == 0));
            part.fill(i as u32 + 1);
        }
        drop(slabs);
        let own = |(i, part): (usize, &Aligned<u32>)| part.iter().all(|&word| word == i as u32 + 1);
        assert!(parts.iter().enumerate().all(own));
        assert!(parts.iter().all(|part| (part.as_ptr() as usize).is_multiple_of(LINE_BYTES)));
    }

    #[test]
    fn scratch_is_used_again() {
        let scratch = Scratch::default();
        drop((scratch.take(100), scratch.take(10)));
        assert_eq!(scratch.bytes(), 440);
        assert_eq!(scratch.take(8).words().len(), 8);
        drop((scratch.take(90), scratch.take(9)));
        assert_eq!(scratch.bytes(), 440);
        drop(scratch.take(200));
        assert_eq!(scratch.bytes(), 840);
    }
}
