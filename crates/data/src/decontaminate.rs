//! Training text → which documents share runs of words with benchmarks, and the text without them.

use crate::DataError;
use crate::account::{Account, Reason, Tally};
use crate::contamination::{Contamination, ItemId};
use crate::corpus::CorpusPlace;
use crate::filter::Filter;
use crate::pipeline::{self, Event, Work};
use crate::plan::{self, SourcePlan};
use crate::prepare::{Progress, Silent, Status};
use crate::read::{self, Block, ReadError, Record, Shape};
use formats::file::{self, FileError};
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;

/// How to look, as opposed to where: the result does not depend on it.
#[derive(Clone)]
pub struct ScanOptions<'p> {
    /// Threads that read and look.
    pub threads: usize,
    /// Where `crates_prose` and `crates_code` find their text.
    pub corpus: Option<CorpusPlace>,
    /// Told how far it has come.
    pub progress: &'p dyn Progress,
}

impl Default for ScanOptions<'_> {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
        Self { threads, corpus: None, progress: &Silent }
    }
}

/// What of one benchmark was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskScan {
    /// Its name.
    pub name: String,
    /// Its items.
    pub items: usize,
    /// Items with fewer words than a run, which cannot be found.
    pub short_items: usize,
    /// Items that some document shares a run with.
    pub found_items: usize,
    /// Documents that share a run with it.
    pub documents: u64,
    /// The first few of them.
    pub places: Vec<String>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Documents read = without a shared run + with one ([`Reason::Contaminated`]) + no text at all.
    pub account: Account,
    /// Each benchmark.
    pub tasks: Vec<TaskScan>,
}

/// Places that are kept of each task.
const PLACES_KEPT: usize = 5;

/// What became of a document.
enum Verdict {
    NoText(Reason, Tally),
    /// The line that it is written as, where something is written.
    Clean(Tally, Vec<u8>),
    Found(Tally, BTreeSet<ItemId>),
}

type Done = (Vec<(Verdict, usize, u64)>, u64);

/// Looks at every document of the sources.
///
/// # Errors
/// [`DataError`].
pub fn scan(data: &recipe::Data, index: &Contamination, options: &ScanOptions<'_>) -> Result<Scan, DataError> {
    look(data, index, options, &mut None)
}

/// [`scan`], and the documents that share no run with an item in a file, one JSON object a line: lines of JSON as they
/// were, other documents as `{"text": …}`. It is packed if its name ends in `.gz` or `.zst`.
///
/// # Errors
/// [`DataError`]; the file is not changed then.
pub fn scan_into(
    path: &Path,
    data: &recipe::Data,
    index: &Contamination,
    options: &ScanOptions<'_>,
) -> Result<Scan, DataError> {
    let mut result = None;
    let mut run = |out: &mut dyn Write| {
        let scan = look(data, index, options, &mut Some((out, path)));
        let is_good = scan.is_ok();
        result = Some(scan);
        if is_good { Ok(()) } else { Err(io::Error::other("nothing was written")) }
    };
    let written = file::write_atomic(path, |out| match path.extension().and_then(|ending| ending.to_str()) {
        Some("gz") => {
            let mut packed = flate2::write::GzEncoder::new(out, flate2::Compression::default());
            run(&mut packed)?;
            packed.finish().map(|_| ())
        }
        Some("zst") => {
            let mut packed = zstd::Encoder::new(out, 0)?;
            run(&mut packed)?;
            packed.finish().map(|_| ())
        }
        _ => run(out),
    });
    match result {
        Some(Ok(scan)) => written.map(|()| scan).map_err(DataError::from),
        Some(Err(error)) => Err(error),
        None => Err(written.err().map_or(DataError::ScanStopped, DataError::from)),
    }
}

/// Where documents are written, if they are.
type Clean<'c> = Option<(&'c mut dyn Write, &'c Path)>;

fn look(
    data: &recipe::Data,
    index: &Contamination,
    options: &ScanOptions<'_>,
    clean: &mut Clean<'_>,
) -> Result<Scan, DataError> {
    let plans = plan::plan(data, options.corpus.as_ref())?;
    let mut books = Books::new(index);
    let all_bytes: u64 = plans.iter().map(SourcePlan::bytes).sum();
    let mut bytes_before = 0;
    for plan in &plans {
        let scanner = Scanner { index, filter: Filter::new(data, plan.source), writes: clean.is_some() };
        let work = Work {
            tasks: plan.tasks.len(),
            from: (0, 0),
            memory_bytes: data.memory_mib.saturating_mul(1 << 20) / 2,
            open: &|task| read::open(&plan.tasks[task], &plan.inputs, plan.source, None),
            work: &|_, block| Ok::<_, ReadError>(scanner.block(&block)),
        };
        let mut task_before = 0;
        pipeline::run(options.threads, work, &mut |event| {
            match event {
                Event::Block(task, (documents, position)) => {
                    books.enter(plan, task, documents, clean)?;
                    let read = bytes_before + task_before + position;
                    books.report(plan, read as f64 / all_bytes.max(1) as f64, options.progress);
                }
                Event::End(task, _) => {
                    let inputs = &plan.inputs[plan.tasks[task].inputs.clone()];
                    task_before += inputs.iter().map(|input| input.entry.bytes).sum::<u64>();
                }
            }
            if options.progress.stop() { Err(DataError::ScanStopped) } else { Ok(ControlFlow::Continue(())) }
        })?;
        bytes_before += plan.bytes();
    }
    books.close()
}

struct Scanner<'s> {
    index: &'s Contamination,
    filter: Filter,
    writes: bool,
}

impl Scanner<'_> {
    fn block(&self, block: &Block) -> Done {
        let documents = block.records.iter().map(|record| (self.document(block, record), record.input, record.number));
        (documents.collect(), block.position)
    }

    fn document(&self, block: &Block, record: &Record) -> Verdict {
        let judged = self.filter.judge(block, record);
        let tally = Tally::one(judged.bytes, 0);
        let text = match judged.text {
            Ok(passed) => passed.text,
            Err(reason) => return Verdict::NoText(reason, tally),
        };
        let items = self.index.items_in(&text);
        if !items.is_empty() {
            return Verdict::Found(tally, items);
        }
        let line = match (self.writes, block.shape) {
            (false, _) => Vec::new(),
            (true, Shape::JsonLine) => block.bytes[record.start..record.end].trim_ascii().to_vec(),
            (true, _) => serde_json::json!({"text": text}).to_string().into_bytes(),
        };
        Verdict::Clean(tally, line)
    }
}

struct Books {
    scan: Scan,
    found: BTreeSet<ItemId>,
}

impl Books {
    fn new(index: &Contamination) -> Self {
        let task = |task: &crate::contamination::TaskIndex| TaskScan {
            name: task.name.clone(),
            items: task.items,
            short_items: task.short_items,
            ..TaskScan::default()
        };
        let tasks = index.tasks().iter().map(task).collect();
        Self { scan: Scan { tasks, ..Scan::default() }, found: BTreeSet::new() }
    }

    fn enter(
        &mut self,
        plan: &SourcePlan<'_>,
        task: usize,
        documents: Vec<(Verdict, usize, u64)>,
        clean: &mut Clean<'_>,
    ) -> Result<(), DataError> {
        for (verdict, input, number) in documents {
            let path = &plan.inputs[plan.tasks[task].inputs.start + input].entry.path;
            let place = || if number == 0 { path.clone() } else { format!("{path}:{number}") };
            match verdict {
                Verdict::NoText(reason, tally) => self.scan.account.drop_document(reason, tally, || Some(place())),
                Verdict::Clean(tally, mut line) => {
                    self.scan.account.keep_document(false, tally);
                    if let Some((out, path)) = clean {
                        line.push(b'\n');
                        out.write_all(&line).map_err(|cause| FileError::io("write it", path, cause))?;
                    }
                }
                Verdict::Found(tally, items) => {
                    self.scan.account.drop_document(Reason::Contaminated, tally, || Some(place()));
                    let tasks: BTreeSet<u32> = items.iter().map(|id| id.task).collect();
                    for task in tasks {
                        let task = &mut self.scan.tasks[task as usize];
                        task.documents += 1;
                        if task.places.len() < PLACES_KEPT {
                            task.places.push(place());
                        }
                    }
                    self.found.extend(items);
                }
            }
        }
        Ok(())
    }

    fn report(&self, plan: &SourcePlan<'_>, done: f64, progress: &dyn Progress) {
        let read = self.scan.account.read;
        let source = plan.source.name.clone();
        progress.update(&Status {
            source,
            documents: read.documents,
            text_bytes: read.bytes,
            done: done.min(1.0),
            ..Status::default()
        });
    }

    fn close(mut self) -> Result<Scan, DataError> {
        for id in &self.found {
            if let Some(task) = self.scan.tasks.get_mut(id.task as usize) {
                task.found_items += 1;
            }
        }
        self.scan.account.check_balance("decontaminate")?;
        Ok(self.scan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TaskItems;
    use crate::tests::Scene;

    const ITEM: &str = "how many legs has a spider that lost two of them in a fight";

    fn index() -> Contamination {
        let texts = vec![ITEM.to_owned(), "too short to be found".to_owned()];
        Contamination::new(8, &[TaskItems { name: "legs".into(), texts }])
    }

    /// Files of several kinds: each third document holds the item.
    fn scene() -> Scene {
        let mut scene = Scene::new();
        let document = |i: usize| if i.is_multiple_of(3) { format!("{i} x. {ITEM}?") } else { format!("{i} goes on") };
        let line = |i: usize| serde_json::json!({"id": i, "text": document(i)}).to_string() + "\n";
        let lines: String = (0..300).map(line).collect();
        scene.file("in/a.jsonl", lines.as_bytes());
        scene.file("in/b.jsonl.zst", &zstd::encode_all(format!("{lines}not json\n").as_bytes(), 1).unwrap());
        scene.file("in/c.txt", document(0).as_bytes());
        scene.file("in/d.txt", document(1).as_bytes());
        scene.source("all", "in/*");
        scene
    }

    #[test]
    fn documents_with_items_are_counted_and_left_out_for_any_number_of_threads() {
        let scene = scene();
        let mut outputs = Vec::new();
        for threads in [1, 3] {
            let options = ScanOptions { threads, ..ScanOptions::default() };
            let out = scene.path(&format!("clean{threads}.jsonl.gz"));
            let found = scan_into(&out, &scene.data, &index(), &options).unwrap();
            assert_eq!(found, scan(&scene.data, &index(), &options).unwrap());
            assert_eq!(found.account.read.documents, 603);
            assert_eq!(found.account.dropped[&Reason::Contaminated].documents, 201);
            assert_eq!(found.account.dropped[&Reason::BadJson].documents, 1);
            assert_eq!(found.account.train.documents, 401);
            let task = &found.tasks[0];
            assert_eq!((task.items, task.short_items, task.found_items, task.documents), (2, 1, 1, 201));
            assert!(task.places[0].ends_with("a.jsonl:1"), "{:?}", task.places);
            let packed = file::read(&out, 1 << 20).unwrap();
            let mut text = String::new();
            io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&packed[..]), &mut text).unwrap();
            outputs.push(text);
        }
        assert_eq!(outputs[0], outputs[1]);
        assert_eq!(outputs[0].lines().count(), 401);
        assert!(!outputs[0].contains("spider") && outputs[0].starts_with("{\"id\":1,"), "lines stay as they were");
        assert!(outputs[0].ends_with("{\"text\":\"1 goes on\"}\n"));
    }

    #[test]
    fn preparing_leaves_them_out_and_the_books_balance() {
        let mut scene = scene();
        scene.data.decontaminate = Some(recipe::Decontaminate::default());
        let prepare = |contamination| {
            let options = crate::PrepareOptions { contamination, ..crate::PrepareOptions::default() };
            crate::prepare(&scene.data, &crate::tests::bytes_tokenizer(), &scene.path("out"), &options)
        };
        assert!(matches!(prepare(None), Err(DataError::NoItems)));
        let index = index();
        let account = prepare(Some(&index)).unwrap().sources.remove(0).account;
        account.check_balance("all").unwrap();
        assert_eq!(account.dropped[&Reason::Contaminated].documents, 201);
        assert_eq!(account.dropped[&Reason::Duplicate].documents, 201, "b repeats a, and d a line of each");
        assert_eq!(account.read.documents, 603);
    }
}
