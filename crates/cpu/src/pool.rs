//! A few threads that do the parts of one job together and wait for it, at about a microsecond a hand-over.
//!
//! The caller works too. A job is published as one word, [`Ticket`], which counts the parts not yet taken; whoever lowers
//! a count owns a part, so a thread that sleeps through a job costs the job nothing. Idle threads spin for a few tens of
//! microseconds (decode hands over a hundred times per token), then sleep until the next job.
//!
//! The parts are two halves. Each thread begins with its own and helps with the other, so that it meets the weights and
//! activations again that it has in its caches, which matters most where the cores have a last cache each. Who does which
//! part is chance all the same. No result may depend on it: parts are disjoint outputs, never parts of a sum.

use crate::CpuError;
use std::any::Any;
use std::cell::Cell;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Pauses before an idle thread sleeps: 30–60 µs, longer than the gap between two operations of a decode step.
pub(crate) const SPINS: u32 = 3000;

/// Pauses after which the caller takes a thread that it waits for as one that lost its processor to another program:
/// about 100 µs, the pauses beyond [`SPINS`] being calls of the system. The parts of a decoded token are shorter; where
/// those of a training step are longer, a yield more or less is not felt.
const STALL: u32 = SPINS + 200;
/// Jobs after such a stall in which idle threads offer their processor to others at once: a decoded token or two.
const CROWDED_JOBS: u32 = 200;

/// Threads that run jobs.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One job at a time.
    turn: Mutex<()>,
}

struct Shared {
    /// The present [`Ticket`].
    ticket: AtomicU64,
    /// The job of the present epoch; it lives on the stack of [`Pool::run`] and is valid while a part of it is not done.
    job: AtomicPtr<Job<'static>>,
    sleepers: AtomicUsize,
    /// Times that an idle thread is still to yield before it spins. A thread that must share its processor is then
    /// suspended between two parts, where nobody waits for it, and not within one.
    crowded: AtomicU32,
    stop: AtomicBool,
    bed: Mutex<()>,
    wake: Condvar,
}

/// `epoch << 48 | parts left in the second half << 24 | parts left in the first half`. The epoch tells a new job from one
/// of the same size; two tickets that are equal stand for the same choice of parts, however much later.
#[derive(Clone, Copy)]
struct Ticket(u64);

impl Ticket {
    /// Bits of a count.
    const BITS: u32 = 24;

    fn left(self, half: usize) -> usize {
        (self.0 >> (half as u32 * Self::BITS)) as usize & ((1 << Self::BITS) - 1)
    }

    fn is_done(self) -> bool {
        self.left(0) + self.left(1) == 0
    }

    /// The first ticket of the next job.
    fn next(self, parts: usize) -> Self {
        let epoch = (self.0 >> (2 * Self::BITS)).wrapping_add(1);
        Self(epoch << (2 * Self::BITS) | ((parts - first_half(parts)) as u64) << Self::BITS | first_half(parts) as u64)
    }

    /// With a part of `half` taken, of which some are left.
    fn taken(self, half: usize) -> Self {
        Self(self.0 - (1 << (half as u32 * Self::BITS)))
    }
}

/// Parts of the first half of a job.
fn first_half(parts: usize) -> usize {
    parts.div_ceil(2)
}

struct Job<'a> {
    work: &'a (dyn Fn(usize) + Sync),
    parts: usize,
    done: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

thread_local! {
    /// Whether this thread is inside a part: a job within a job runs on its own thread alone.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

impl Pool {
    /// A pool of `threads` threads (at least one), the caller of [`Pool::run`] being one of them.
    ///
    /// # Panics
    /// Where the system refuses a thread; [`Pool::try_new`] returns that as an error.
    pub fn new(threads: usize) -> Self {
        Self::try_new(threads).unwrap_or_else(|error| panic!("{error}"))
    }

    /// [`Pool::new`].
    ///
    /// # Errors
    /// [`CpuError::Threads`].
    pub fn try_new(threads: usize) -> Result<Self, CpuError> {
        let shared = Arc::new(Shared {
            ticket: AtomicU64::new(0),
            job: AtomicPtr::new(ptr::null_mut()),
            sleepers: AtomicUsize::new(0),
            crowded: AtomicU32::new(0),
            stop: AtomicBool::new(false),
            bed: Mutex::new(()),
            wake: Condvar::new(),
        });
        let mut pool = Self { shared, workers: Vec::new(), turn: Mutex::new(()) };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let thread = std::thread::Builder::new().name(format!("cpu-{index}"));
            let worker = thread
                .spawn(move || shared.work(index % 2))
                .map_err(|error| CpuError::Threads { threads, reason: error.to_string() })?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Threads that compute, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `job(0)`, `job(1)` … `job(parts − 1)`, each once, on the threads of the pool, and waits for all of them.
    /// A job within a job runs on the thread that starts it. If a part panics, the others are still done, and then the
    /// panic goes on in the caller.
    pub fn run(&self, parts: usize, job: &(dyn Fn(usize) + Sync)) {
        if parts <= 1 || self.workers.is_empty() || INSIDE.get() {
            return (0..parts).for_each(job);
        }
        assert!(parts >> Ticket::BITS == 0, "{parts} parts are too many for one job");
        let turn = lock(&self.turn);
        let job = Job { work: job, parts, done: AtomicUsize::new(0), panic: Mutex::new(None) };
        self.shared.publish(&job);
        while let Some(owned) = self.shared.take(0) {
            owned.run();
        }
        let mut spins = 0;
        while job.done.load(Ordering::Acquire) < parts {
            pause(&mut spins);
            if spins == STALL {
                self.shared.crowded.store(CROWDED_JOBS, Ordering::Relaxed);
            }
        }
        drop(turn);
        if let Some(panic) = job.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(panic);
        }
    }

    /// Cuts `out` into pieces of `chunk_len` elements (the last may be shorter) and runs `work(index, piece)` on each of
    /// them, spread over the threads.
    pub fn for_each_chunk<T: Send>(&self, out: &mut [T], chunk_len: usize, work: impl Fn(usize, &mut [T]) + Sync) {
        assert!(chunk_len > 0, "a chunk has at least one element");
        let pieces = Disjoint::new(out);
        self.run(pieces.len.div_ceil(chunk_len), &|index| {
            let at = index * chunk_len;
            // SAFETY: `run` gives each index once, so no two pieces overlap.
            work(index, unsafe { pieces.piece(at, chunk_len.min(pieces.len - at)) });
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.wake_all();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its parts; there is nothing to hear from it.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn publish(&self, job: &Job<'_>) {
        self.job.store(ptr::from_ref(job).cast::<Job<'static>>().cast_mut(), Ordering::Relaxed);
        let ticket = Ticket(self.ticket.load(Ordering::Relaxed)).next(job.parts);
        // Sequentially consistent, as is the sleepers' check: either they see the job, or this thread sees them.
        self.ticket.store(ticket.0, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            self.wake_all();
        }
    }

    fn wake_all(&self) {
        let _bed = lock(&self.bed);
        self.wake.notify_all();
    }

    /// Takes a part of the present job, if one is left: of the half `own`, then of the other.
    fn take(&self, own: usize) -> Option<Part> {
        let mut ticket = Ticket(self.ticket.load(Ordering::Acquire));
        while !ticket.is_done() {
            let half = if ticket.left(own) > 0 { own } else { 1 - own };
            let new = ticket.taken(half);
            match self.ticket.compare_exchange_weak(ticket.0, new.0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(Part { job: self.job.load(Ordering::Relaxed), half, left: ticket.left(half) }),
                Err(now) => ticket = Ticket(now),
            }
        }
        None
    }

    fn work(&self, own: usize) {
        let mut spins = 0;
        while !self.stop.load(Ordering::Relaxed) {
            if let Some(owned) = self.take(own) {
                owned.run();
                spins = 0;
            } else if spins == 0 && self.crowded.load(Ordering::Relaxed) > 0 {
                // Several threads may lower it at once; what matters is that it ends.
                self.crowded.store(self.crowded.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
                std::thread::yield_now();
                spins = 1;
            } else if spins < SPINS {
                std::hint::spin_loop();
                spins += 1;
            } else {
                self.sleep();
                spins = 0;
            }
        }
    }

    fn sleep(&self) {
        let bed = lock(&self.bed);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let nothing = Ticket(self.ticket.load(Ordering::SeqCst)).is_done();
        if nothing && !self.stop.load(Ordering::SeqCst) {
            drop(self.wake.wait(bed).unwrap_or_else(PoisonError::into_inner));
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A part that this thread owns, and so a job that is not done.
struct Part {
    job: *const Job<'static>,
    half: usize,
    /// Parts of the half that were left when this one was taken.
    left: usize,
}

impl Part {
    fn run(self) {
        // SAFETY: the part was taken and is not yet counted as done, so `Pool::run` still waits and its job is alive.
        // `take` read the pointer after it lowered the ticket that the job was published with.
        let job = unsafe { &*self.job };
        let end = if self.half == 0 { first_half(job.parts) } else { job.parts };
        INSIDE.set(true);
        let result = catch_unwind(AssertUnwindSafe(|| (job.work)(end - self.left)));
        INSIDE.set(false);
        if let Err(panic) = result {
            lock(&job.panic).get_or_insert(panic);
        }
        job.done.fetch_add(1, Ordering::Release);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits a moment: the others are nearly done; but where threads outnumber processors they need this one.
fn pause(spins: &mut u32) {
    *spins += 1;
    if *spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
}

/// A slice whose disjoint pieces are written by several threads.
#[derive(Clone, Copy)]
pub(crate) struct Disjoint<'a, T> {
    start: *mut T,
    /// Elements in the whole.
    pub(crate) len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: elements are reached only through `piece`, whose callers promise that no two threads reach the same one.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// Where element `at` is. Whoever writes there answers for it as the callers of [`Disjoint::piece`] do.
    pub(crate) fn at(&self, at: usize) -> *mut T {
        debug_assert!(at <= self.len);
        self.start.wrapping_add(at)
    }

    /// Elements `at..at + len`.
    ///
    /// # Safety
    /// No other piece alive at the same time may overlap this one.
    pub(crate) unsafe fn piece(&self, at: usize, len: usize) -> &'a mut [T] {
        assert!(at <= self.len && len <= self.len - at, "piece {at} + {len} of {}", self.len);
        // SAFETY: inside the slice, as just asserted; exclusive, as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_part_runs_once() {
        for threads in 1..5 {
            let pool = Pool::new(threads);
            for parts in [0, 1, 2, 3, 7, 100] {
                let counts: Vec<AtomicUsize> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
                pool.run(parts, &|part| {
                    counts[part].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{threads} {parts}");
            }
        }
    }

    #[test]
    fn many_short_jobs_and_sleeps_between_them() {
        let pool = Pool::new(3);
        let sum = AtomicUsize::new(0);
        for round in 0..2000 {
            pool.run(3, &|part| {
                sum.fetch_add(part, Ordering::Relaxed);
            });
            if round % 500 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        assert_eq!(sum.into_inner(), 3 * 2000);
    }

    #[test]
    fn callers_take_turns() {
        let pool = Pool::new(2);
        let sum = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.run(4, &|_| {
                            sum.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 3 * 200 * 4);
    }

    #[test]
    fn a_job_within_a_job_is_done() {
        let pool = Pool::new(2);
        let sum = AtomicUsize::new(0);
        pool.run(4, &|_| {
            pool.run(5, &|_| {
                sum.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(sum.into_inner(), 20);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        let done = AtomicUsize::new(0);
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(8, &|part| {
                assert!(part != 3, "part three");
                done.fetch_add(1, Ordering::Relaxed);
            });
        }));
        let panic = result.unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"part three"));
        assert_eq!(done.load(Ordering::Relaxed), 7);
        pool.run(2, &|_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 9);
    }

    #[test]
    fn chunks_cover_the_slice() {
        let pool = Pool::new(2);
        let mut out = vec![0usize; 1003];
        pool.for_each_chunk(&mut out, 100, |index, piece| {
            assert_eq!(piece.len(), if index == 10 { 3 } else { 100 });
            piece.iter_mut().enumerate().for_each(|(i, value)| *value = index * 100 + i);
        });
        assert!(out.iter().enumerate().all(|(i, &value)| i == value));
    }
}
