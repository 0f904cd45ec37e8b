//! Text for training a tokenizer: the training part of a recipe's sources, evenly.

use crate::DataError;
use crate::corpus::CorpusPlace;
use crate::filter::{Filter, TextHash};
use crate::plan::{self, Kind, SourcePlan};
use crate::read::{self, Block, BlockReader};
use recipe::Data;
use std::collections::VecDeque;

/// What is taken of a file at least, before the next one: opening more files costs more than it evens out.
const LEAST_BYTES: u64 = 256 << 10;

/// Documents of the training part. An error ends the iteration; ask [`SampleTexts::finish`] afterwards.
pub struct SampleTexts<'r> {
    data: &'r Data,
    plans: Vec<SourcePlan<'r>>,
    filters: Vec<Filter>,
    /// Bytes still wanted of each source.
    wanted: Vec<u64>,
    steps: VecDeque<Step>,
    /// Tasks that had more than was taken: gone on with if the others have too little.
    later: VecDeque<Step>,
    current: Option<Current>,
    error: Option<DataError>,
}

/// Some of a task.
#[derive(Clone, Copy)]
struct Step {
    source: usize,
    task: usize,
    /// Bytes that were taken before.
    skip: u64,
    limit: u64,
}

struct Current {
    step: Step,
    reader: Box<dyn BlockReader>,
    block: Option<Block>,
    /// Next record of the block.
    next: usize,
    /// Bytes of texts passed, skipped ones included.
    passed: u64,
}

/// About `bytes` of text: equally much of each training source, from files spread evenly over it (of a source with
/// `max_bytes`, from its beginning, which is all that will be trained on). The filters are those of
/// [`crate::prepare()`], without deduplication.
///
/// # Errors
/// Where a source's files cannot be found, or no source is text.
pub fn sample_texts<'r>(
    data: &'r Data,
    bytes: u64,
    corpus: Option<&CorpusPlace>,
) -> Result<SampleTexts<'r>, DataError> {
    let mut plans = plan::plan(data, corpus)?;
    plans.retain(|plan| plan.source.split != recipe::Split::Validation);
    plans.iter_mut().for_each(|plan| plan.tasks.retain(|task| !matches!(task.kind, Kind::Litpkds | Kind::LlmC)));
    plans.retain(|plan| !plan.tasks.is_empty());
    if plans.is_empty() {
        return Err(DataError::NoText);
    }
    let share = bytes.div_ceil(plans.len() as u64).max(1);
    let mut steps = VecDeque::new();
    let mut wanted = Vec::new();
    for (source, plan) in plans.iter().enumerate() {
        let tasks = plan.tasks.len();
        if plan.source.max_bytes > 0 {
            wanted.push(share.min(plan.source.max_bytes));
            steps.extend((0..tasks).map(|task| Step { source, task, skip: 0, limit: u64::MAX }));
        } else {
            wanted.push(share);
            let limit = (share / tasks as u64).max(LEAST_BYTES);
            steps.extend(spread(tasks).map(|task| Step { source, task, skip: 0, limit }));
        }
    }
    let filters = plans.iter().map(|plan| Filter::new(data, plan.source)).collect();
    Ok(SampleTexts { data, plans, filters, wanted, steps, later: VecDeque::new(), current: None, error: None })
}

/// `0..count` in an order whose every beginning is spread over all of it (bits reversed).
fn spread(count: usize) -> impl Iterator<Item = usize> {
    let bits = count.next_power_of_two().trailing_zeros();
    let reversed = move |index: usize| if bits == 0 { 0 } else { index.reverse_bits() >> (usize::BITS - bits) };
    (0..1usize << bits).map(reversed).filter(move |&index| index < count)
}

impl SampleTexts<'_> {
    /// What ended the iteration early, if anything did.
    ///
    /// # Errors
    /// A file that could not be read.
    pub fn finish(self) -> Result<(), DataError> {
        self.error.map_or(Ok(()), Err)
    }

    /// The next text; `None` at the end of all of them.
    fn advance(&mut self) -> Result<Option<String>, DataError> {
        loop {
            if let Some(mut current) = self.current.take() {
                let found = self.text(&mut current)?;
                let passed = current.passed - current.step.skip.min(current.passed);
                let Some(text) = found else { continue }; // the task is at its end
                self.wanted[current.step.source] = self.wanted[current.step.source].saturating_sub(text.len() as u64);
                if self.wanted[current.step.source] > 0 {
                    if passed < current.step.limit {
                        self.current = Some(current);
                    } else {
                        let skip = current.passed;
                        self.later.push_back(Step { skip, limit: u64::MAX, ..current.step });
                    }
                }
                return Ok(Some(text));
            }
            if self.steps.is_empty() {
                self.steps = std::mem::take(&mut self.later);
            }
            let Some(step) = self.steps.pop_front() else { return Ok(None) };
            if self.wanted[step.source] > 0 {
                let plan = &self.plans[step.source];
                let reader = read::open(&plan.tasks[step.task], &plan.inputs, plan.source, None)?;
                self.current = Some(Current { step, reader, block: None, next: 0, passed: 0 });
            }
        }
    }

    /// The next text of a task that passes the filters, belongs to the training part and was not taken before.
    fn text(&self, current: &mut Current) -> Result<Option<String>, DataError> {
        let source = current.step.source;
        loop {
            let Some(block) = &current.block else {
                current.block = current.reader.next_block()?;
                current.next = 0;
                if current.block.is_none() {
                    return Ok(None);
                }
                continue;
            };
            let Some(record) = block.records.get(current.next) else {
                current.block = None;
                continue;
            };
            current.next += 1;
            let Ok(passed) = self.filters[source].judge(block, record).text else { continue };
            let split = self.plans[source].source.split;
            if TextHash::of(passed.text.as_bytes()).is_validation(split, self.data.validation_fraction) {
                continue;
            }
            let before = current.passed;
            current.passed += passed.text.len() as u64;
            if before >= current.step.skip {
                return Ok(Some(passed.text.into_owned()));
            }
        }
    }
}

impl Iterator for SampleTexts<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        if self.error.is_some() {
            return None;
        }
        self.advance().unwrap_or_else(|error| {
            self.error = Some(error);
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Scene;

    #[test]
    fn spread_is_a_permutation() {
        for count in [1, 2, 3, 5, 8, 100] {
            let mut order: Vec<usize> = spread(count).collect();
            order.sort_unstable();
            assert_eq!(order, (0..count).collect::<Vec<_>>());
        }
        assert_eq!(spread(4).collect::<Vec<_>>(), [0, 2, 1, 3]);
    }

    #[test]
    fn sources_give_equally_much_and_nothing_twice() {
        let mut scene = Scene::new();
        for file in 0..4 {
            let line = |index| format!("{{\"text\": \"file {file} line {index} {}\"}}\n", "x".repeat(1000));
            scene.file(&format!("big/{file}.jsonl"), (0..600).map(line).collect::<String>().as_bytes());
        }
        scene.file("small/a.txt", &vec![b'a'; 300_000]).file("small/b.txt", &vec![b'b'; 300_000]);
        scene.source("big", "big/*.jsonl");
        scene.source("small", "small/*.txt");
        scene.data.validation_fraction = 0.0;
        let mut texts = sample_texts(&scene.data, 1_200_000, None).unwrap();
        let all: Vec<String> = texts.by_ref().collect();
        texts.finish().unwrap();
        let big: Vec<&String> = all.iter().filter(|text| text.starts_with("file")).collect();
        let bytes: usize = big.iter().map(|text| text.len()).sum();
        assert!((600_000..603_000).contains(&bytes), "{bytes}");
        assert_eq!(all.len() - big.len(), 2);
        assert_eq!(big.iter().collect::<std::collections::HashSet<_>>().len(), big.len());
        // Three files give what one visit takes, the last what was still wanted.
        assert!(["file 0 ", "file 2 ", "file 1 "].iter().all(|name| big.iter().any(|text| text.starts_with(name))));
        // More than there is: everything, once.
        assert_eq!(sample_texts(&scene.data, 100_000_000, None).unwrap().count(), 2402);
    }

    #[test]
    fn validation_texts_stay_out() {
        let mut scene = Scene::new();
        let lines: String = (0..500).map(|index| format!("{{\"text\": \"line {index}\"}}\n")).collect();
        scene.file("in/a.jsonl", lines.as_bytes());
        scene.source("lines", "in/*.jsonl");
        let manifest = scene.prepare("out", 1).unwrap();
        let sampled = sample_texts(&scene.data, 1 << 20, None).unwrap().count() as u64;
        assert_eq!(sampled, manifest.sources[0].account.train.documents);
    }
}
