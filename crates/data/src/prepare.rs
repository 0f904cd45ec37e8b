//! Text → token shards: the stages in order.

use crate::DataError;
use crate::collect::Collector;
use crate::compare::{check_same, head_differences, manifest_differences, normalized};
use crate::contamination::Contamination;
use crate::corpus::CorpusPlace;
use crate::filter::Filter;
use crate::journal::{Head, Journal, SourceState, WorkFolder};
use crate::manifest::{FORMAT, MANIFEST_FILE, Manifest, SeparatorIds, VERSION};
use crate::pipeline::{self, Work};
use crate::plan::{self, SourcePlan};
use crate::process::Worker;
use crate::read;
use crate::shard::{Dtype, tokenizer_mark};
use crate::write::Layout;
use formats::file;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;
use tokenizer::Tokenizer;

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
    /// The items that [`recipe::Data::decontaminate`] names.
    pub contamination: Option<&'p Contamination>,
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
            contamination: None,
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
    if data.decontaminate.is_some() != options.contamination.is_some() {
        return Err(DataError::NoItems);
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
            contamination: self.options.contamination,
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
        self.journal.current = SourceState::default();
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
