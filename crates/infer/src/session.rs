//! A model reading one text: positions seen so far in a key-value cache, and the logits of new rows.

use crate::InferError;
use crate::planned::Planned;
use backend::{Backend, Family, KvCache, KvType, Rows};
use model::{Model, pass};

/// Most rows of the generated family in one pass: a proposal of 16 tokens and the token before it.
pub const MAX_GENERATED_ROWS: usize = 17;

/// Rows of a prompt that pass through the model at a time; longer prompts go in several passes, with the same bits.
pub const PROMPT_CHUNK: usize = 512;

/// A model, its key-value cache, and the buffers of its passes. Dropping it gives the memory back.
pub struct Session<'b> {
    b: &'b dyn Backend,
    model: &'b Model,
    cache: KvCache,
    activations: Planned<'b>,
    len: usize,
    capacity: usize,
    /// Logits on the host, room for the rows of one pass.
    logits: Vec<f32>,
    /// Which row of `logits` belongs to the last token read.
    last_row: usize,
}

/// Logits of the rows of one pass, on the host.
#[derive(Clone, Copy, Debug)]
pub struct Logits<'a> {
    values: &'a [f32],
    vocab: usize,
}

impl<'a> Logits<'a> {
    /// Rows of `vocab` floats each.
    ///
    /// # Panics
    /// If `values` are not whole rows.
    pub fn new(values: &'a [f32], vocab: usize) -> Self {
        assert!(vocab > 0 && values.len().is_multiple_of(vocab), "{} logits of {vocab}", values.len());
        Self { values, vocab }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.values.len() / self.vocab
    }

    /// Logits of row `index`, one a token of the vocabulary.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, index: usize) -> &'a [f32] {
        &self.values[index * self.vocab..][..self.vocab]
    }

    /// All rows, one after the other.
    pub fn values(&self) -> &'a [f32] {
        self.values
    }
}

impl<'b> Session<'b> {
    /// A session for texts of up to `capacity` tokens, with keys and values in f32.
    ///
    /// # Errors
    /// [`InferError::Capacity`] if that is 0 or more than the model's context; no memory.
    pub fn new(b: &'b dyn Backend, model: &'b Model, capacity: usize) -> Result<Self, InferError> {
        Self::with_cache(b, model, capacity, KvType::F32)
    }

    /// [`Session::new`] with keys and values kept as `kv_type`: a decoded token reads all of them.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn with_cache(
        b: &'b dyn Backend,
        model: &'b Model,
        capacity: usize,
        kv_type: KvType,
    ) -> Result<Self, InferError> {
        let config = &model.config;
        if !(1..=config.context).contains(&capacity) {
            return Err(InferError::Capacity { capacity, context: config.context });
        }
        let rows = capacity.min(PROMPT_CHUNK);
        let logits_rows = capacity.min(MAX_GENERATED_ROWS);
        let activations = Planned::inference(b, config, rows, logits_rows, capacity)?;
        let cache = b.new_kv_cache(config.layers, capacity, config.heads, kv_type)?;
        Ok(Self {
            b,
            model,
            cache,
            activations,
            len: 0,
            capacity,
            logits: vec![0.0; logits_rows * config.vocab],
            last_row: 0,
        })
    }

    /// Tokens read so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was read yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Most tokens that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Tokens of the model's vocabulary: the width of a row of logits.
    pub fn vocab(&self) -> usize {
        self.model.config.vocab
    }

    /// Reads the tokens of a prompt and returns the logits that follow the last one.
    ///
    /// # Errors
    /// No ids, ids outside the vocabulary, or more than fit; nothing was read then.
    pub fn prefill(&mut self, ids: &[u32]) -> Result<&[f32], InferError> {
        if ids.is_empty() {
            return Err(InferError::EmptyPrompt);
        }
        self.check(ids)?;
        let mut last = 0;
        for chunk in ids.chunks(self.activations.rows) {
            self.pass(chunk, Family::Prompt);
            last = chunk.len() - 1;
        }
        let vocab = self.vocab();
        let logits = pass::logits(self.b, self.model, &self.activations, last, Rows::prompt(1));
        self.b.read(logits, 0, &mut self.logits[..vocab]);
        self.last_row = 0;
        Ok(&self.logits[..vocab])
    }

    /// [`Session::prefill`] that gives the logits behind every token, up to [`MAX_GENERATED_ROWS`] at a time: `each` gets the place of
    /// the first row's token in `ids`.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn prefill_each(&mut self, ids: &[u32], each: &mut dyn FnMut(usize, Logits<'_>)) -> Result<(), InferError> {
        if ids.is_empty() {
            return Err(InferError::EmptyPrompt);
        }
        self.check(ids)?;
        let vocab = self.vocab();
        let most = self.logits.len() / vocab;
        let mut at = 0;
        for chunk in ids.chunks(self.activations.rows) {
            self.pass(chunk, Family::Prompt);
            for first in (0..chunk.len()).step_by(most) {
                let rows = most.min(chunk.len() - first);
                let logits = pass::logits(self.b, self.model, &self.activations, first, Rows::prompt(rows));
                self.b.read(logits, 0, &mut self.logits[..rows * vocab]);
                self.last_row = rows - 1;
                each(at + first, Logits::new(&self.logits[..rows * vocab], vocab));
            }
            at += chunk.len();
        }
        Ok(())
    }

    /// Reads 1 to [`MAX_GENERATED_ROWS`] generated or proposed tokens and returns the logits that follow each.
    ///
    /// # Errors
    /// None or more than [`MAX_GENERATED_ROWS`] ids, ids outside the vocabulary, or more than fit; nothing was read then.
    pub fn extend(&mut self, ids: &[u32]) -> Result<Logits<'_>, InferError> {
        let rows = ids.len();
        if !(1..=MAX_GENERATED_ROWS).contains(&rows) {
            return Err(InferError::RowCount { rows, most: MAX_GENERATED_ROWS });
        }
        self.check(ids)?;
        self.pass(ids, Family::Generated);
        let vocab = self.vocab();
        let logits = pass::logits(self.b, self.model, &self.activations, 0, Rows::generated(rows));
        self.b.read(logits, 0, &mut self.logits[..rows * vocab]);
        self.last_row = rows - 1;
        Ok(Logits::new(&self.logits[..rows * vocab], vocab))
    }

    /// [`Session::extend`] where only the logits that follow the last token are wanted.
    ///
    /// # Errors
    /// As [`Session::extend`].
    pub fn advance(&mut self, ids: &[u32]) -> Result<&[f32], InferError> {
        let rows = ids.len();
        if !(1..=MAX_GENERATED_ROWS).contains(&rows) {
            return Err(InferError::RowCount { rows, most: MAX_GENERATED_ROWS });
        }
        self.check(ids)?;
        self.pass(ids, Family::Generated);
        let vocab = self.vocab();
        let logits = pass::logits(self.b, self.model, &self.activations, rows - 1, Rows::generated(1));
        self.b.read(logits, 0, &mut self.logits[..vocab]);
        self.last_row = 0;
        Ok(&self.logits[..vocab])
    }

    /// The logits behind the token that was read last, whatever was forgotten since; zeroes before anything was read.
    pub fn last_logits(&self) -> &[f32] {
        &self.logits[self.last_row * self.vocab()..][..self.vocab()]
    }

    /// Forgets all tokens but the first `len`; nothing if there are fewer.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// [`InferError::located`] for this session's model.
    pub(crate) fn located(&self, error: InferError, ids: &[u32]) -> InferError {
        error.located(self.b, self.model, ids)
    }

    fn pass(&mut self, ids: &[u32], family: Family) {
        pass::forward_cached(self.b, self.model, &self.activations, self.cache, self.len, ids, family);
        self.len += ids.len();
    }

    fn check(&self, ids: &[u32]) -> Result<(), InferError> {
        check_ids(ids, self.vocab())?;
        if ids.len() > self.capacity - self.len {
            return Err(InferError::Full { tokens: ids.len(), held: self.len, capacity: self.capacity });
        }
        Ok(())
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.b.free_kv_cache(self.cache);
    }
}

/// Every id must have an embedding: backends index without asking again.
pub(crate) fn check_ids(ids: &[u32], vocab: usize) -> Result<(), InferError> {
    match ids.iter().position(|&id| id as usize >= vocab) {
        Some(index) => Err(InferError::UnknownToken { index, id: ids[index], vocab }),
        None => Ok(()),
    }
}
