//! Several texts of one model at once: a pass reads the weights once for a token of each.

use crate::planned::Planned;
use crate::session::check_ids;
use crate::{InferError, Logits, MAX_GENERATED_ROWS, PROMPT_CHUNK};
use backend::{Backend, Element, Family, KvCache, KvType, Rows};
use model::pass::{self, TextRow};
use model::{Config, Model};

/// Texts in the making, each with its own key-value cache. Their tokens have the bits that they have in a
/// [`Session`](crate::Session) of their own. Dropping it gives the memory back.
pub struct Texts<'b> {
    b: &'b dyn Backend,
    model: &'b Model,
    activations: Planned<'b>,
    held: Held<'b>,
    /// Tokens that each has read.
    lens: Vec<usize>,
    capacity: usize,
    /// Logits on the host, a row for each text.
    logits: Vec<f32>,
}

/// Caches and the row of a text, given back when dropped.
struct Held<'b> {
    b: &'b dyn Backend,
    caches: Vec<KvCache>,
    row: Vec<backend::Buf>,
}

impl<'b> Texts<'b> {
    /// Room for `count` texts (1 to [`MAX_GENERATED_ROWS`]) of up to `capacity` tokens each.
    ///
    /// # Errors
    /// [`InferError::RowCount`], [`InferError::Capacity`]; no memory.
    pub fn new(
        b: &'b dyn Backend,
        model: &'b Model,
        count: usize,
        capacity: usize,
        kv_type: KvType,
    ) -> Result<Self, InferError> {
        let config: &Config = &model.config;
        if !(1..=MAX_GENERATED_ROWS).contains(&count) {
            return Err(InferError::RowCount { rows: count, most: MAX_GENERATED_ROWS });
        }
        if !(1..=config.context).contains(&capacity) {
            return Err(InferError::Capacity { capacity, context: config.context });
        }
        let rows = capacity.min(PROMPT_CHUNK).max(count);
        let activations = Planned::inference(b, config, rows, count, capacity)?;
        let mut held = Held { b, caches: Vec::new(), row: Vec::new() };
        for _ in 0..count {
            held.caches.push(b.new_kv_cache(config.layers, capacity, config.heads, kv_type)?);
        }
        for width in [config.heads.qkv_width(), config.heads.query_width()] {
            held.row.push(b.alloc(Element::F32, width)?);
        }
        let logits = vec![0.0; count * config.vocab];
        Ok(Self { b, model, activations, held, lens: vec![0; count], capacity, logits })
    }

    /// Number of texts.
    pub fn count(&self) -> usize {
        self.lens.len()
    }

    /// Tokens that `text` has read.
    ///
    /// # Panics
    /// If there is no such text.
    pub fn tokens(&self, text: usize) -> usize {
        self.lens[text]
    }

    /// Begins `text` anew with a prompt, and returns the logits that follow it.
    ///
    /// # Errors
    /// No ids, ids outside the vocabulary, or more than fit; the text is empty then.
    ///
    /// # Panics
    /// If there is no such text.
    pub fn begin(&mut self, text: usize, prompt: &[u32]) -> Result<&[f32], InferError> {
        self.lens[text] = 0;
        if prompt.is_empty() {
            return Err(InferError::EmptyPrompt);
        }
        let vocab = self.model.config.vocab;
        check_ids(prompt, vocab)?;
        self.check_room(text, prompt.len())?;
        let (b, model, acts) = (self.b, self.model, &*self.activations);
        let mut last = 0;
        for chunk in prompt.chunks(acts.rows) {
            pass::forward_cached(b, model, acts, self.held.caches[text], self.lens[text], chunk, Family::Prompt);
            self.lens[text] += chunk.len();
            last = chunk.len() - 1;
        }
        b.read(pass::logits(b, model, acts, last, Rows::prompt(1)), 0, &mut self.logits[..vocab]);
        Ok(&self.logits[..vocab])
    }

    /// Reads one more token of each of some texts, and returns the logits that follow each, in their order.
    ///
    /// # Errors
    /// No texts, ids outside the vocabulary, a text that is full; nothing was read then.
    ///
    /// # Panics
    /// If there is no such text, or one is given twice.
    pub fn advance(&mut self, tokens: &[(usize, u32)]) -> Result<Logits<'_>, InferError> {
        if tokens.is_empty() {
            return Err(InferError::RowCount { rows: 0, most: self.count() });
        }
        let mut given = vec![false; self.count()];
        for &(text, _) in tokens {
            assert!(!std::mem::replace(&mut given[text], true), "text {text} is given twice");
            self.check_room(text, 1)?;
        }
        let vocab = self.model.config.vocab;
        let ids: Vec<u32> = tokens.iter().map(|&(_, id)| id).collect();
        check_ids(&ids, vocab)?;
        let texts: Vec<(KvCache, usize)> =
            tokens.iter().map(|&(text, _)| (self.held.caches[text], self.lens[text])).collect();
        let row = TextRow { qkv: self.held.row[0], attended: self.held.row[1] };
        pass::forward_texts(self.b, self.model, &self.activations, &texts, &ids, row);
        tokens.iter().for_each(|&(text, _)| self.lens[text] += 1);
        let rows = tokens.len();
        let logits = pass::logits(self.b, self.model, &self.activations, 0, Rows::generated(rows));
        self.b.read(logits, 0, &mut self.logits[..rows * vocab]);
        Ok(Logits::new(&self.logits[..rows * vocab], vocab))
    }

    fn check_room(&self, text: usize, tokens: usize) -> Result<(), InferError> {
        let held = self.lens[text];
        if tokens > self.capacity - held {
            return Err(InferError::Full { tokens, held, capacity: self.capacity });
        }
        Ok(())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.caches.drain(..).for_each(|cache| self.b.free_kv_cache(cache));
        self.row.drain(..).for_each(|buf| self.b.free(buf));
    }
}
