//! Text → token shards: the stages in order.

use crate::DataError;
use crate::account::{Account, Reason, Tally};
use crate::corpus::CorpusPlace;
use crate::filter::{Filter, TextHash};
use crate::journal::{Head, Journal, SourceState, WorkFolder};
use crate::manifest::{
    Difference, FORMAT, Input, MANIFEST_FILE, Manifest, Part, PartEntry, SeparatorIds, SourceEntry, VERSION,
    normalized, recipe_differences,
};
use crate::pipeline::{self, Event, Work};
use crate::plan::{self, SourcePlan};
use crate::read::{self, Block, ReadError, Shape};
use crate::shard::{Dtype, tokenizer_mark};
use crate::write::{Layout, PartWriter};
use formats::file;
use std::borrow::Cow;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokenizer::Tokenizer;

/// Texts larger than this are tokenized one at a time, because tokenizing needs several times their memory.
const LARGE_TEXT_BYTES: usize = 4 << 20;

/// How far preparing has come.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// The source that is being read.
    pub source: String,
    /// Documents read, over all sources.
    pub documents: u64,
    /// Bytes of text read, over all sources.
    pub text_bytes: u64,
    /// Tokens written, over all sources.
    pub tokens: u64,
    /// Share of the inputs that is done: 0…1.
    pub done: f64,
    /// Share that an earlier run had done.
    pub done_before: f64,
}

/// Told how far it has come, asked whether to stop.
pub trait Progress: Sync {
    /// Called some times a second.
    fn update(&self, _status: &Status) {}

    /// Whether to stop: what is done is kept, and [`DataError::Stopped`] returned.
    fn stop(&self) -> bool {
        false
    }
}

/// Progress that nobody looks at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {}

/// How to prepare, as opposed to what: the result does not depend on it.
#[derive(Clone)]
pub struct PrepareOptions<'p> {
    /// Threads that read and tokenize.
    pub threads: usize,
    /// Where `crates_prose` and `crates_code` find their text.
    pub corpus: Option<CorpusPlace>,
    /// Told how far it has come.
    pub progress: &'p dyn Progress,
    /// How often the work done so far is made durable.
    pub commit_every: Duration,
}

impl Default for PrepareOptions<'_> {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(1, |threads| threads.get()),
            corpus: None,
            progress: &Silent,
            commit_every: Duration::from_secs(10),
        }
    }
}

/// Reads the sources of a recipe's data section, drops and counts what it says, and writes token shards and their
/// manifest into `out`. Where `out` holds the same already, nothing is done; where an earlier run was stopped, this one
/// goes on, and the result is the same byte for byte.
///
/// # Errors
/// [`DataError`]; `out` is not changed where it holds something else.
pub fn prepare(
    data: &recipe::Data,
    tokenizer: &Tokenizer,
    out: &Path,
    options: &PrepareOptions<'_>,
) -> Result<Manifest, DataError> {
    let head = head(data, tokenizer)?;
    if file::exists(&out.join(MANIFEST_FILE)) {
        return existing(data, &head, out, options);
    }
    let plans = plan::plan(data, options.corpus.as_ref())?;
    file::create_dir_all(out)?;
    let is_ours = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name == ".work" || name == ".lock" || name.ends_with(file::PARTIAL_SUFFIX)
    };
    let entries = file::list(out)?;
    if !file::exists(&out.join(".work")) && !entries.iter().all(is_ours) {
        return Err(DataError::NotOurs { dir: out.into() });
    }
    let _lock = file::lock_folder(out)?;
    file::remove_leftovers(out)?;
    let (mut folder, journal) = WorkFolder::open(out, memory_bytes(data) / 8)?;
    let mut journal = match journal {
        Some(journal) => {
            check_same(&journal, &head, &plans, out)?;
            journal
        }
        None => Journal::new(head),
    };
    folder.commit(&mut journal)?;

    let layout = Layout {
        out: out.into(),
        work: folder.path.clone(),
        dtype: Dtype::for_vocab(journal.head.vocab),
        vocab: journal.head.vocab,
        tokenizer_mark: tokenizer_mark(tokenizer.hash()),
        shard_tokens: data.shard_tokens.max(1) as u64,
    };
    let mut run =
        Run { data, tokenizer, options, plans: &plans, layout: &layout, folder, journal, large: Mutex::new(()) };
    while run.journal.done.len() < plans.len() {
        if let Err(error) = run.source() {
            if matches!(error, DataError::NothingKept { .. }) && run.journal.done.is_empty() {
                run.folder.remove()?; // nothing is lost, and a corrected recipe is not in its own way
            }
            return Err(error);
        }
    }
    run.finish()
}

fn memory_bytes(data: &recipe::Data) -> usize {
    data.memory_mib.saturating_mul(1 << 20)
}

fn head(data: &recipe::Data, tokenizer: &Tokenizer) -> Result<Head, DataError> {
    use recipe::Separator::{Bos, BosEos, Eos};
    let (rule, wants_bos, wants_eos) = match data.separator {
        Eos => ("eos", false, true),
        Bos => ("bos", true, false),
        BosEos => ("bos_eos", true, true),
    };
    let need = |wanted: bool, id: Option<u32>, token| match (wanted, id) {
        (true, None) => Err(DataError::NoSeparator { rule, token }),
        (true, id) => Ok(id),
        (false, _) => Ok(None),
    };
    let bos = need(wants_bos, tokenizer.bos(), "beginning-of-sequence")?;
    let eos = need(wants_eos, tokenizer.eos(), "end-of-sequence")?;
    Ok(Head {
        tokenizer_hash: tokenizer.hash().into(),
        vocab: tokenizer.vocab_size() as u64,
        separator: SeparatorIds { rule: data.separator, bos, eos },
        recipe: normalized(data),
    })
}

fn head_differences(found: &Head, wanted: &Head) -> Vec<Difference> {
    let mut differences = Vec::new();
    for (field, found, wanted) in [
        ("tokenizer_hash", found.tokenizer_hash.clone(), wanted.tokenizer_hash.clone()),
        ("vocab", found.vocab.to_string(), wanted.vocab.to_string()),
        ("separator", format!("{:?}", found.separator), format!("{:?}", wanted.separator)),
    ] {
        if found != wanted {
            differences.push(Difference { field: field.into(), found, wanted });
        }
    }
    differences.extend(recipe_differences(&found.recipe, &wanted.recipe));
    differences
}

/// A folder that holds a manifest: the same, or refused.
fn existing(data: &recipe::Data, head: &Head, out: &Path, options: &PrepareOptions<'_>) -> Result<Manifest, DataError> {
    let manifest = Manifest::load(out)?;
    let found = Head {
        tokenizer_hash: manifest.tokenizer_hash.clone(),
        vocab: manifest.vocab,
        separator: manifest.separator,
        recipe: manifest.recipe.clone(),
    };
    let mut differences = head_differences(&found, head);
    if differences.is_empty() {
        match plan::plan(data, options.corpus.as_ref()) {
            Ok(plans) => differences = manifest_differences(&manifest, &plans)?,
            Err(error) => tracing::warn!("the token data in {} is taken as it is: {error}", out.display()),
        }
    }
    if !differences.is_empty() {
        return Err(DataError::OtherData { dir: out.into(), differences });
    }
    if file::exists(&out.join(".work")) {
        file::remove_dir_all(&out.join(".work"))?; // killed between the manifest and this
    }
    Ok(manifest)
}

fn manifest_differences(manifest: &Manifest, plans: &[SourcePlan<'_>]) -> Result<Vec<Difference>, DataError> {
    let mut differences = Vec::new();
    for (source, plan) in manifest.sources.iter().zip(plans) {
        if source.inputs.len() != plan.inputs.len() {
            differences.push(Difference {
                field: format!("sources.{}.inputs", source.name),
                found: format!("{} files", source.inputs.len()),
                wanted: format!("{} files", plan.inputs.len()),
            });
        }
        for (found, wanted) in source.inputs.iter().zip(&plan.inputs) {
            if found.path == wanted.entry.path && found.bytes == wanted.entry.bytes {
                let touched = found.modified_ns != wanted.entry.modified_ns;
                match &found.hash {
                    Some(hash) if touched && *hash != read::hash_file(&wanted.path)? => {}
                    _ => continue,
                }
            }
            differences.push(input_difference(&source.name, found, &wanted.entry));
        }
    }
    Ok(differences)
}

fn input_difference(source: &str, found: &Input, wanted: &Input) -> Difference {
    let show = |input: &Input| format!("{} of {} bytes", input.path, input.bytes);
    let (mut found, wanted) = (show(found), show(wanted));
    if found == wanted {
        found += ", with another content";
    }
    Difference { field: format!("sources.{source}.inputs"), found, wanted }
}

/// That what a journal speaks of is what is wanted now. Files that were not reached may have changed.
fn check_same(journal: &Journal, head: &Head, plans: &[SourcePlan<'_>], out: &Path) -> Result<(), DataError> {
    let mut differences = head_differences(&journal.head, head);
    if differences.is_empty() {
        let read = journal.done.iter().map(|source| &source.inputs).chain([&journal.current.inputs]);
        for (inputs, plan) in read.zip(plans) {
            let same = |found: &Input, wanted: &Input| {
                found.path == wanted.path && found.bytes == wanted.bytes && found.modified_ns == wanted.modified_ns
            };
            let nothing = Input { path: "nothing".into(), bytes: 0, modified_ns: None, hash: None };
            for (index, found) in inputs.iter().enumerate() {
                let wanted = plan.inputs.get(index).map_or(&nothing, |input| &input.entry);
                if !same(found, wanted) {
                    differences.push(input_difference(&plan.source.name, found, wanted));
                }
            }
        }
    }
    if differences.is_empty() { Ok(()) } else { Err(DataError::OtherData { dir: out.into(), differences }) }
}

/// What became of a document.
enum Verdict {
    Dropped { reason: Reason, tally: Tally },
    Kept { hash: TextHash, validation: bool, tally: Tally, text_bytes: u64, nul_removed: bool, utf8_replaced: bool },
}

/// What became of a block.
struct Done {
    /// Verdict, index of the input in the task, number in it.
    documents: Vec<(Verdict, usize, u64)>,
    /// The tokens of all documents that were kept, as they are stored.
    stored: Vec<u8>,
    position: u64,
}

/// A run of [`prepare`].
struct Run<'r> {
    data: &'r recipe::Data,
    tokenizer: &'r Tokenizer,
    options: &'r PrepareOptions<'r>,
    plans: &'r [SourcePlan<'r>],
    layout: &'r Layout,
    folder: WorkFolder,
    journal: Journal,
    large: Mutex<()>,
}

impl Run<'_> {
    /// Works on the next source to its end.
    fn source(&mut self) -> Result<(), DataError> {
        let plan = &self.plans[self.journal.done.len()];
        let state = std::mem::take(&mut self.journal.current);
        let source = plan.source;
        let worker = Worker {
            tokenizer: self.tokenizer,
            filter: Filter::new(self.data, source),
            split: source.split,
            fraction: self.data.validation_fraction,
            separator: self.journal.head.separator,
            dtype: self.layout.dtype,
            vocab: self.layout.vocab,
            large: &self.large,
            plan,
        };
        let work = Work {
            tasks: plan.tasks.len(),
            from: (state.task, state.block),
            memory_bytes: memory_bytes(self.data) / 2,
            open: &|task| read::open(&plan.tasks[task], &plan.inputs, source, Some(self.tokenizer)),
            work: &|task, block| worker.block(task, block),
        };
        let mut collector =
            Collector::new(self.layout, plan, state, self.options, &mut self.folder, &mut self.journal)?;
        collector.dedup = self.data.dedup;
        pipeline::run(self.options.threads, work, &mut |event| collector.event(event))?;
        let entry = collector.finish()?;
        self.journal.done.push(entry);
        self.folder.commit(&mut self.journal)
    }

    /// Writes the manifest, and reads it again.
    fn finish(self) -> Result<Manifest, DataError> {
        let Journal { head, done, .. } = self.journal;
        let manifest = Manifest {
            format: FORMAT.into(),
            version: VERSION,
            tokenizer_hash: head.tokenizer_hash,
            vocab: head.vocab,
            dtype: self.layout.dtype,
            separator: head.separator,
            recipe: head.recipe,
            sources: done,
        };
        manifest.write(&self.layout.out)?;
        let manifest = Manifest::load(&self.layout.out)?;
        self.folder.remove()?;
        Ok(manifest)
    }
}

/// What the threads do with a block.
struct Worker<'w> {
    tokenizer: &'w Tokenizer,
    filter: Filter,
    split: recipe::Split,
    fraction: f64,
    separator: SeparatorIds,
    dtype: Dtype,
    vocab: u64,
    large: &'w Mutex<()>,
    plan: &'w SourcePlan<'w>,
}

impl Worker<'_> {
    fn block(&self, task: usize, block: Block) -> Result<Done, ReadError> {
        let mut done = Done {
            documents: Vec::with_capacity(block.records.len()),
            stored: Vec::with_capacity(block.bytes.len() / 2),
            position: block.position,
        };
        for record in &block.records {
            let verdict = match block.shape {
                Shape::Tokens => self.tokens(&block.ids[record.start..record.end], &mut done.stored),
                _ => self.text(&block, record, &mut done.stored),
            };
            let verdict = verdict.map_err(|id| {
                let input = self.plan.tasks[task].inputs.start + record.input;
                ReadError::TokenId {
                    path: self.plan.inputs[input].path.clone(),
                    at: record.start as u64,
                    id,
                    vocab: self.vocab,
                }
            })?;
            done.documents.push((verdict, record.input, record.number));
        }
        Ok(done)
    }

    fn text(&self, block: &Block, record: &read::Record, stored: &mut Vec<u8>) -> Result<Verdict, u32> {
        let judged = self.filter.judge(block, record);
        let passed = match judged.text {
            Ok(passed) => passed,
            Err(reason) => return Ok(Verdict::Dropped { reason, tally: Tally::one(judged.bytes, 0) }),
        };
        let _alone =
            (passed.text.len() > LARGE_TEXT_BYTES).then(|| self.large.lock().unwrap_or_else(PoisonError::into_inner));
        let ids = self.tokenizer.encode(&passed.text);
        let tokens = self.store(&ids, stored)?;
        Ok(self.kept(&passed, Tally::one(judged.bytes, tokens)))
    }

    fn tokens(&self, ids: &[u32], stored: &mut Vec<u8>) -> Result<Verdict, u32> {
        let bytes = self.tokenizer.decode_bytes(ids);
        let length = bytes.len() as u64;
        match self.filter.pass(Cow::Owned(bytes)) {
            Err(reason) => Ok(Verdict::Dropped { reason, tally: Tally::one(length, ids.len() as u64) }),
            Ok(passed) => {
                let tokens = self.store(ids, stored)?;
                Ok(self.kept(&passed, Tally::one(length, tokens)))
            }
        }
    }

    fn kept(&self, passed: &crate::filter::Passed<'_>, tally: Tally) -> Verdict {
        let hash = TextHash::of(passed.text.as_bytes());
        Verdict::Kept {
            hash,
            validation: hash.is_validation(self.split, self.fraction),
            tally,
            text_bytes: passed.text.len() as u64,
            nul_removed: passed.nul_removed,
            utf8_replaced: passed.utf8_replaced,
        }
    }

    /// Appends a document with its separators; returns its tokens, or the first id that the vocabulary lacks.
    fn store(&self, ids: &[u32], stored: &mut Vec<u8>) -> Result<u64, u32> {
        if let Some(&id) = ids.iter().find(|id| u64::from(**id) >= self.vocab) {
            return Err(id);
        }
        let (before, after) = (self.separator.bos, self.separator.eos);
        self.dtype.store(before.as_slice(), stored);
        self.dtype.store(ids, stored);
        self.dtype.store(after.as_slice(), stored);
        Ok((ids.len() + before.iter().len() + after.iter().len()) as u64)
    }
}

/// Takes the results in order: drops duplicates, counts, writes, commits.
struct Collector<'c> {
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
    dedup: bool,
    stopped_at_max_bytes: bool,
    width: usize,
    committed: Instant,
    updated: Option<Instant>,
    done_before: Option<f64>,
}

impl<'c> Collector<'c> {
    fn new(
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

    fn event(&mut self, event: Event<Done>) -> Result<ControlFlow<()>, DataError> {
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

    fn finish(mut self) -> Result<SourceEntry, DataError> {
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
            train: PartEntry { ..self.train.entry },
            validation: PartEntry { ..self.validation.entry },
            inputs,
        })
    }
}
