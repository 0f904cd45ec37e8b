//! A block of raw records → verdicts and tokens: what the threads do.

use crate::account::{Reason, Tally};
use crate::contamination::Contamination;
use crate::filter::{Filter, Passed, TextHash};
use crate::manifest::SeparatorIds;
use crate::plan::SourcePlan;
use crate::read::{Block, ReadError, Record, Shape};
use crate::shard::Dtype;
use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};
use tokenizer::Tokenizer;

/// Texts larger than this are tokenized one at a time, because tokenizing needs several times their memory.
const LARGE_TEXT_BYTES: usize = 4 << 20;

/// What became of a document.
pub(crate) enum Verdict {
    Dropped { reason: Reason, tally: Tally },
    Kept { hash: TextHash, validation: bool, tally: Tally, text_bytes: u64, nul_removed: bool, utf8_replaced: bool },
}

/// What became of a block.
pub(crate) struct Done {
    /// Verdict, index of the input in the task, number in it.
    pub(crate) documents: Vec<(Verdict, usize, u64)>,
    /// The tokens of all documents that were kept, as they are stored.
    pub(crate) stored: Vec<u8>,
    pub(crate) position: u64,
}

/// What the threads do with a block.
pub(crate) struct Worker<'w> {
    pub(crate) tokenizer: &'w Tokenizer,
    pub(crate) filter: Filter,
    pub(crate) split: recipe::Split,
    pub(crate) fraction: f64,
    pub(crate) separator: SeparatorIds,
    pub(crate) dtype: Dtype,
    pub(crate) vocab: u64,
    pub(crate) large: &'w Mutex<()>,
    /// Documents that share a run of words with its items are dropped.
    pub(crate) contamination: Option<&'w Contamination>,
    pub(crate) plan: &'w SourcePlan<'w>,
}

impl Worker<'_> {
    pub(crate) fn block(&self, task: usize, block: Block) -> Result<Done, ReadError> {
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

    fn text(&self, block: &Block, record: &Record, stored: &mut Vec<u8>) -> Result<Verdict, u32> {
        let judged = self.filter.judge(block, record);
        let passed = match judged.text {
            Ok(passed) => passed,
            Err(reason) => return Ok(Verdict::Dropped { reason, tally: Tally::one(judged.bytes, 0) }),
        };
        if self.is_contaminated(&passed) {
            return Ok(Verdict::Dropped { reason: Reason::Contaminated, tally: Tally::one(judged.bytes, 0) });
        }
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
            Ok(passed) if self.is_contaminated(&passed) => {
                let tally = Tally::one(length, ids.len() as u64);
                Ok(Verdict::Dropped { reason: Reason::Contaminated, tally })
            }
            Ok(passed) => {
                let tokens = self.store(ids, stored)?;
                Ok(self.kept(&passed, Tally::one(length, tokens)))
            }
        }
    }

    fn is_contaminated(&self, passed: &Passed<'_>) -> bool {
        self.contamination.is_some_and(|items| !items.items_in(&passed.text).is_empty())
    }

    fn kept(&self, passed: &Passed<'_>, tally: Tally) -> Verdict {
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
