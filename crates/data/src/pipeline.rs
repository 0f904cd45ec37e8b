//! Blocks of documents through threads and out again in order.
//!
//! A worker takes the next block of the earliest task whose reader is free, gives the reader back, and works on the
//! block; so one large file keeps all threads busy, and while its reader is busy the next file is begun. The collector
//! (the calling thread) sees the results in order: task by task, block by block, errors in their place too. What it
//! sees is therefore the same for any number of threads.

use crate::DataError;
use crate::read::{BLOCK_BYTES, Block, BlockReader, ReadError};
use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A result costs about this many times the memory of its block: text, token ids, tokens as stored.
const EXPANSION: usize = 4;

/// What the collector is handed.
pub(crate) enum Event<R> {
    /// The result of a block.
    Block(usize, R),
    /// A task is at its end; the hashes of its inputs.
    End(usize, Vec<String>),
}

/// What the threads share.
pub(crate) struct Work<'w, R> {
    /// Number of tasks.
    pub(crate) tasks: usize,
    /// Task and block to begin with: those before were done in an earlier run.
    pub(crate) from: (usize, u64),
    /// Memory for blocks and results.
    pub(crate) memory_bytes: usize,
    /// Opens a task's reader.
    pub(crate) open: &'w (dyn Fn(usize) -> Result<Box<dyn BlockReader>, ReadError> + Sync),
    /// Works on a block of a task.
    pub(crate) work: &'w (dyn Fn(usize, Block) -> Result<R, ReadError> + Sync),
}

type Outcome<R> = Result<Event<R>, DataError>;

struct Slot {
    task: usize,
    /// Absent while a worker reads, and at the end.
    reader: Option<Box<dyn BlockReader>>,
    next_block: u64,
    ended: bool,
}

/// A block to be read: its task, its number in this run, the task's reader if it is open already.
type Ticket = (usize, u64, Option<Box<dyn BlockReader>>);

struct State<R> {
    next_task: usize,
    slots: VecDeque<Slot>,
    results: BTreeMap<(usize, u64), (Outcome<R>, usize)>,
    /// Memory of blocks that are being worked on and results that wait.
    held_bytes: usize,
    /// Blocks of the earliest task that were taken and not yet collected.
    ahead: u64,
    stopped: bool,
}

struct Shared<'w, R> {
    state: Mutex<State<R>>,
    changed: Condvar,
    work: Work<'w, R>,
}

/// Runs the work on `threads` threads; `collect` is called in order on this one, until it says to stop.
pub(crate) fn run<R: Send>(
    threads: usize,
    work: Work<'_, R>,
    collect: &mut dyn FnMut(Event<R>) -> Result<ControlFlow<()>, DataError>,
) -> Result<(), DataError> {
    let state = State {
        next_task: work.from.0,
        slots: VecDeque::new(),
        results: BTreeMap::new(),
        held_bytes: 0,
        ahead: 0,
        stopped: false,
    };
    let shared = Shared { state: Mutex::new(state), changed: Condvar::new(), work };
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| shared.worker());
        }
        // Also when `collect` panics, or the workers would wait for ever and the scope for them.
        let collected = catch_unwind(AssertUnwindSafe(|| shared.collector(collect)));
        shared.lock().stopped = true;
        shared.changed.notify_all();
        collected.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

impl<R: Send> Shared<'_, R> {
    fn lock(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'s>(&self, state: MutexGuard<'s, State<R>>) -> MutexGuard<'s, State<R>> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn collector(
        &self,
        collect: &mut dyn FnMut(Event<R>) -> Result<ControlFlow<()>, DataError>,
    ) -> Result<(), DataError> {
        let (mut task, mut block) = self.work.from;
        while task < self.work.tasks {
            let mut state = self.lock();
            let (outcome, held) = loop {
                match state.results.remove(&(task, block)) {
                    Some(found) => break found,
                    None => state = self.wait(state),
                }
            };
            state.held_bytes -= held;
            state.ahead = state.ahead.saturating_sub(1);
            if matches!(outcome, Ok(Event::End(..))) {
                state.slots.pop_front();
                state.ahead = state.slots.front().map_or(0, |slot| slot.next_block);
            }
            drop(state);
            self.changed.notify_all();
            let event = outcome?;
            (task, block) = if matches!(event, Event::End(..)) { (task + 1, 0) } else { (task, block + 1) };
            if collect(event)?.is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn worker(&self) {
        while let Some((task, number, mut reader)) = self.take() {
            let read = guarded("reading an input", || self.read(task, &mut reader));
            let read = self.give_back(task, number, reader, read);
            let Some(block) = read else { continue };
            let held = block.held_bytes() * EXPANSION;
            let done = guarded("working on a block", || (self.work.work)(task, block).map_err(DataError::from));
            self.put(task, number, done.map(|result| Event::Block(task, result)), held);
        }
    }

    /// Waits for something to read; `None` when there is nothing any more.
    fn take(&self) -> Option<Ticket> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            let room = state.held_bytes + BLOCK_BYTES * EXPANSION <= self.work.memory_bytes;
            // The collector waits for the earliest task: were none of its blocks under way, waiting for room would be
            // waiting for ever.
            let needed = state.ahead == 0;
            if room || needed {
                let limit = if room { state.slots.len() } else { 1 };
                let free = state.slots.iter().take(limit).position(|slot| slot.reader.is_some());
                if let Some(index) = free {
                    return Some(Self::start(&mut state, index));
                }
                if state.next_task < self.work.tasks && (room || state.slots.is_empty()) {
                    let task = state.next_task;
                    state.next_task += 1;
                    state.slots.push_back(Slot { task, reader: None, next_block: 0, ended: false });
                    let index = state.slots.len() - 1;
                    return Some(Self::start(&mut state, index));
                }
                if state.next_task >= self.work.tasks && state.slots.iter().all(|slot| slot.ended) {
                    return None;
                }
            }
            state = self.wait(state);
        }
    }

    fn start(state: &mut State<R>, index: usize) -> Ticket {
        state.held_bytes += BLOCK_BYTES * EXPANSION;
        if index == 0 {
            state.ahead += 1;
        }
        let slot = &mut state.slots[index];
        slot.next_block += 1;
        (slot.task, slot.next_block - 1, slot.reader.take())
    }

    /// Opens the reader if need be, passing over what was done before, and reads.
    fn read(&self, task: usize, reader: &mut Option<Box<dyn BlockReader>>) -> Result<Read, DataError> {
        let reader = match reader {
            Some(reader) => reader,
            None => {
                let opened = reader.insert((self.work.open)(task)?);
                if task == self.work.from.0 {
                    for _ in 0..self.work.from.1 {
                        opened.next_block()?;
                    }
                }
                opened
            }
        };
        Ok(match reader.next_block()? {
            Some(block) => Read::Block(block),
            None => Read::End(reader.hashes()?),
        })
    }

    /// Puts the reader back for the next worker; an end or an error is a result already.
    fn give_back(
        &self,
        task: usize,
        number: u64,
        reader: Option<Box<dyn BlockReader>>,
        read: Result<Read, DataError>,
    ) -> Option<Block> {
        let mut state = self.lock();
        let index = state.slots.iter().position(|slot| slot.task == task)?;
        state.held_bytes -= BLOCK_BYTES * EXPANSION;
        let block = match read {
            Ok(Read::Block(block)) => {
                state.slots[index].reader = reader;
                state.held_bytes += block.held_bytes() * EXPANSION;
                Some(block)
            }
            Ok(Read::End(hashes)) => {
                state.slots[index].ended = true;
                let number = self.number(task, number);
                state.results.insert((task, number), (Ok(Event::End(task, hashes)), 0));
                None
            }
            Err(error) => {
                state.slots[index].ended = true;
                let number = self.number(task, number);
                state.results.insert((task, number), (Err(error), 0));
                None
            }
        };
        drop(state);
        self.changed.notify_all();
        block
    }

    fn put(&self, task: usize, number: u64, outcome: Outcome<R>, held: usize) {
        let number = self.number(task, number);
        self.lock().results.insert((task, number), (outcome, held));
        self.changed.notify_all();
    }

    /// The number of a block in its task: slots count from where an earlier run ended.
    fn number(&self, task: usize, number: u64) -> u64 {
        if task == self.work.from.0 { self.work.from.1 + number } else { number }
    }
}

enum Read {
    Block(Block),
    End(Vec<String>),
}

/// A panic (a fault of a library that reads damaged files, say) becomes an error in its place.
fn guarded<T>(what: &str, run: impl FnOnce() -> Result<T, DataError>) -> Result<T, DataError> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err(DataError::Internal { what: what.into() }))
}
