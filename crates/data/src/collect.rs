//! Verdicts → shards, books, journal: what the one thread does that sees everything in order.

use crate::DataError;
use crate::account::{Account, Reason, Tally};
use crate::journal::{Journal, SourceState, WorkFolder};
use crate::manifest::{Input, Part, SourceEntry};
use crate::pipeline::Event;
use crate::plan::SourcePlan;
use crate::prepare::{PrepareOptions, Status};
use crate::process::{Done, Verdict};
use crate::write::{Layout, PartWriter};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// Takes the results in order: drops duplicates, counts, writes, commits.
pub(crate) struct Collector<'c> {
    plan: &'c SourcePlan<'c>,
    options: &'c PrepareOptions<'c>,
    folder: &'c mut WorkFolder,
    journal: &'c mut Journal,
    train: PartWriter<'c>,
    validation: PartWriter<'c>,
    account: Account,
    task: usize,
    block: u64,
    inputs: Vec<Input>,
    pub(crate) dedup: bool,
    stopped_at_max_bytes: bool,
    width: usize,
    committed: Instant,
    updated: Option<Instant>,
    done_before: Option<f64>,
}

impl<'c> Collector<'c> {
    pub(crate) fn new(
        layout: &'c Layout,
        plan: &'c SourcePlan<'c>,
        state: SourceState,
        options: &'c PrepareOptions<'c>,
        folder: &'c mut WorkFolder,
        journal: &'c mut Journal,
    ) -> Result<Self, DataError> {
        let name = &plan.source.name;
        let done_inputs = plan.tasks.get(..state.task).and_then(|tasks| tasks.last()).map_or(0, |task| task.inputs.end);
        let mut inputs = state.inputs;
        inputs.truncate(done_inputs);
        Ok(Self {
            plan,
            options,
            folder,
            journal,
            train: PartWriter::resume(layout, name, Part::Train, state.train)?,
            validation: PartWriter::resume(layout, name, Part::Validation, state.validation)?,
            account: state.account,
            task: state.task,
            block: state.block,
            inputs,
            dedup: true,
            stopped_at_max_bytes: false,
            width: layout.dtype.bytes(),
            committed: Instant::now(),
            updated: None,
            done_before: None,
        })
    }

    pub(crate) fn event(&mut self, event: Event<Done>) -> Result<ControlFlow<()>, DataError> {
        match event {
            Event::Block(task, done) => {
                self.block_done(task, &done)?;
                self.block += 1;
                self.report(done.position);
                if self.stopped_at_max_bytes {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Event::End(task, hashes) => {
                let inputs = self.plan.tasks[task].inputs.clone();
                for (input, hash) in self.plan.inputs[inputs].iter().zip(hashes) {
                    self.inputs.push(Input { hash: Some(hash), ..input.entry.clone() });
                }
                (self.task, self.block) = (task + 1, 0);
            }
        }
        let stop = self.options.progress.stop();
        if stop || self.committed.elapsed() >= self.options.commit_every {
            self.commit()?;
        }
        if stop { Err(DataError::Stopped { dir: self.out() }) } else { Ok(ControlFlow::Continue(())) }
    }

    fn out(&self) -> std::path::PathBuf {
        self.folder.path.parent().unwrap_or(&self.folder.path).to_owned()
    }

    fn block_done(&mut self, task: usize, done: &Done) -> Result<(), DataError> {
        let max_bytes = self.plan.source.max_bytes;
        let mut at = 0;
        for (verdict, input, number) in &done.documents {
            match verdict {
                Verdict::Dropped { reason, tally } => {
                    let index = self.plan.tasks[task].inputs.start + input;
                    let path = &self.plan.inputs[index].entry.path;
                    let place = || Some(if *number == 0 { path.clone() } else { format!("{path}:{number}") });
                    self.account.drop_document(*reason, *tally, place);
                }
                Verdict::Kept { hash, validation, tally, text_bytes, nul_removed, utf8_replaced } => {
                    let length = tally.tokens as usize * self.width;
                    let stored = &done.stored[at..at + length];
                    at += length;
                    if self.dedup && !self.folder.is_new(hash.identity)? {
                        self.account.drop_document(Reason::Duplicate, *tally, || None);
                        continue;
                    }
                    let writer = if *validation { &mut self.validation } else { &mut self.train };
                    writer.append(stored)?;
                    writer.entry.text_bytes += text_bytes;
                    self.account.keep_document(*validation, *tally);
                    self.account.changed.nul_removed += u64::from(*nul_removed);
                    self.account.changed.utf8_replaced += u64::from(*utf8_replaced);
                    if max_bytes > 0 && self.account.train.bytes + self.account.validation.bytes >= max_bytes {
                        self.stopped_at_max_bytes = true;
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), DataError> {
        let mut inputs = self.inputs.clone();
        if let Some(task) = self.plan.tasks.get(self.task).filter(|_| self.block > 0) {
            inputs.extend(self.plan.inputs[task.inputs.clone()].iter().map(|input| input.entry.clone()));
        }
        self.journal.current = SourceState {
            task: self.task,
            block: self.block,
            account: self.account.clone(),
            train: self.train.flush()?,
            validation: self.validation.flush()?,
            inputs,
        };
        self.folder.commit(self.journal)?;
        self.committed = Instant::now();
        Ok(())
    }

    fn report(&mut self, position: u64) {
        let kept = self.account.train.bytes + self.account.validation.bytes;
        let before = self.plan.tasks.get(self.task).map_or(0, |task| task.inputs.start);
        let read: u64 = self.plan.inputs[..before].iter().map(|input| input.entry.bytes).sum::<u64>() + position;
        let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { (part as f64 / whole as f64).min(1.0) };
        let done = share(read, self.plan.bytes()).max(share(kept, self.plan.source.max_bytes));
        let done_before = *self.done_before.get_or_insert(if self.block > 1 || self.task > 0 { done } else { 0.0 });
        if self.updated.is_some_and(|at| at.elapsed() < Duration::from_millis(100)) {
            return;
        }
        self.updated = Some(Instant::now());
        let mut sum = Tally::default();
        let accounts = self.journal.done.iter().map(|source| &source.account).chain([&self.account]);
        let mut tokens = 0;
        for account in accounts {
            sum.add(account.read);
            tokens += account.train.tokens + account.validation.tokens;
        }
        self.options.progress.update(&Status {
            source: self.plan.source.name.clone(),
            documents: sum.documents,
            text_bytes: sum.bytes,
            tokens,
            done,
            done_before,
        });
    }

    pub(crate) fn finish(mut self) -> Result<SourceEntry, DataError> {
        self.train.finish()?;
        self.validation.finish()?;
        self.account.check_balance(&self.plan.source.name)?;
        let read = self.account.read.documents;
        if self.account.train.documents + self.account.validation.documents == 0 {
            let reason = |(reason, tally): (&Reason, &Tally)| {
                let place = self.account.places.get(reason).and_then(|places| places.first());
                let place = place.map_or(String::new(), |place| format!(" (first {place})"));
                format!(", {} {reason}{place}", tally.documents)
            };
            let why = self.account.dropped.iter().map(reason).collect();
            return Err(DataError::NothingKept { source_name: self.plan.source.name.clone(), read, why });
        }
        let rest = self.plan.inputs[self.inputs.len()..].iter().map(|input| input.entry.clone());
        let inputs = self.inputs.into_iter().chain(rest).collect();
        Ok(SourceEntry {
            name: self.plan.source.name.clone(),
            stopped_at_max_bytes: self.stopped_at_max_bytes,
            account: self.account,
            train: self.train.entry,
            validation: self.validation.entry,
            inputs,
        })
    }
}
