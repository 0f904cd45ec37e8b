//! Log-probabilities of many continuations at once: what a multiple-choice task asks.
//!
//! Sequences are taken in lexicographic order and laid out as a [`PrefixTree`], so the beginnings that they share (the
//! question of four answers, the examples of a subject) pass through the model once a batch; the head sees only the
//! rows that are scored. A continuation's number has the same bits whatever it is scored with, so batches can be cut
//! anywhere and a killed run can go on.

use crate::InferError;
use crate::planned::Planned;
use crate::session::check_ids;
use backend::{Backend, Buf, Element, Rows};
use model::{Model, PrefixTree, TreeBuffers, pass};
use std::ops::Range;

/// Rows of a batch. Products are at their full speed from a few hundred rows on; more rows find more to share.
const BATCH_ROWS: usize = 1024;

/// A batch has room for this many of the longest sequence (up to [`MOST_BATCH_ROWS`]), so that a long beginning is
/// computed seldom.
const LONGEST_IN_BATCH: usize = 4;

/// More rows than that are given only to a single sequence that is longer.
const MOST_BATCH_ROWS: usize = 4096;

/// Rows whose hidden states are held for the head at once.
const HEAD_ROWS: usize = 512;

/// Rows whose logits come to the host at once, to look for the greatest.
const LOGITS_ROWS: usize = 32;

/// The question: how likely are `targets`, each in its place?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Continuation<'a> {
    /// What the model reads: the context, and the continuation but for its last token.
    pub inputs: &'a [u32],
    /// The continuation: `targets` are predicted by the last `targets.len()` inputs.
    pub targets: &'a [u32],
    /// Whether to find out if the continuation is what greedy decoding gives.
    pub greedy: bool,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ContinuationScore {
    /// Σ log p(target | what stands before it) in nats.
    pub log_probability: f64,
    /// Whether every target is the likeliest token of its place (the first of equals); `None` where not asked.
    pub greedy: Option<bool>,
}

/// Continuations that are scored together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContinuationBatch {
    /// Indices of the continuations.
    pub indices: Vec<usize>,
    /// Rows that the model computes for them.
    pub rows: usize,
}

/// A model and the buffers of its passes. Dropping it gives the memory back.
pub struct ContinuationScorer<'b> {
    b: &'b dyn Backend,
    model: &'b Model,
    activations: Planned<'b>,
    buffers: Buffers<'b>,
    batch_rows: usize,
    longest: usize,
}

struct Buffers<'b> {
    b: &'b dyn Backend,
    tree: Option<TreeBuffers>,
    held: Vec<Buf>,
    /// Hidden states of scored rows, `HEAD_ROWS × width`.
    hidden: Buf,
    /// Their targets and losses.
    targets: Buf,
    losses: Buf,
    /// `LOGITS_ROWS × vocab`.
    logits: Buf,
}

/// A scored place: a row of the tree, the token that should follow, and whose it is.
#[derive(Clone, Copy)]
struct Place {
    row: usize,
    target: u32,
    continuation: usize,
}

impl<'b> ContinuationScorer<'b> {
    /// For sequences of up to `longest` inputs.
    ///
    /// # Errors
    /// [`InferError::Capacity`] if that is 0 or more than the model's context; no memory.
    pub fn new(b: &'b dyn Backend, model: &'b Model, longest: usize) -> Result<Self, InferError> {
        let config = &model.config;
        if !(1..=config.context).contains(&longest) {
            return Err(InferError::Capacity { capacity: longest, context: config.context });
        }
        let batch_rows = (LONGEST_IN_BATCH * longest).clamp(BATCH_ROWS, MOST_BATCH_ROWS).max(longest);
        let activations = Planned::inference(b, config, batch_rows, 0, longest)?;
        let mut held = Vec::new();
        let tree = TreeBuffers::new(b, config, batch_rows, batch_rows)?;
        let mut alloc = |element, len| -> Result<Buf, InferError> {
            let buf = b.alloc(element, len)?;
            held.push(buf);
            Ok(buf)
        };
        let sizes = [HEAD_ROWS * config.token_width(), HEAD_ROWS, LOGITS_ROWS * config.vocab];
        let allocated = (|| {
            let [hidden, losses, logits] = sizes.map(|len| alloc(Element::F32, len));
            Ok((hidden?, losses?, logits?, alloc(Element::U32, HEAD_ROWS)?))
        })();
        let (hidden, losses, logits, targets) = match allocated {
            Ok(bufs) => bufs,
            Err(error) => {
                held.into_iter().for_each(|buf| b.free(buf));
                tree.free(b);
                return Err(error);
            }
        };
        let buffers = Buffers { b, tree: Some(tree), held, hidden, targets, losses, logits };
        Ok(Self { b, model, activations, buffers, batch_rows, longest })
    }

    /// The most inputs that a continuation may have.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Size of the model's vocabulary.
    pub fn vocab(&self) -> usize {
        self.model.config.vocab
    }

    /// Cuts continuations into batches, alike ones together.
    ///
    /// # Panics
    /// If one has more inputs than [`ContinuationScorer::longest`].
    pub fn batches(&self, continuations: &[Continuation<'_>]) -> Vec<ContinuationBatch> {
        let mut order: Vec<usize> = (0..continuations.len()).collect();
        order.sort_by_key(|&index| continuations[index].inputs); // stable: equal ones in their order
        let mut batches = Vec::new();
        let (mut tree, mut indices) = (PrefixTree::default(), Vec::new());
        for index in order {
            let inputs = continuations[index].inputs;
            assert!(inputs.len() <= self.longest, "{} inputs, planned for {}", inputs.len(), self.longest);
            if tree.rows() + tree.new_rows(inputs) > self.batch_rows {
                batches.push(ContinuationBatch { indices: std::mem::take(&mut indices), rows: tree.rows() });
                tree = PrefixTree::default();
            }
            tree.push(inputs);
            indices.push(index);
        }
        if !indices.is_empty() {
            batches.push(ContinuationBatch { indices, rows: tree.rows() });
        }
        batches
    }

    /// Scores the continuations of one batch, in the order in which [`ContinuationScorer::batches`] lists them.
    ///
    /// # Errors
    /// Unknown ids, no inputs or targets, results that are not finite.
    ///
    /// # Panics
    /// If they are more than a batch.
    pub fn score(&self, continuations: &[Continuation<'_>]) -> Result<Vec<ContinuationScore>, InferError> {
        let mut tree = PrefixTree::default();
        let mut places = Vec::new();
        for (continuation, Continuation { inputs, targets, .. }) in continuations.iter().enumerate() {
            check_ids(inputs, self.vocab())?;
            check_ids(targets, self.vocab())?;
            if targets.is_empty() || targets.len() > inputs.len() {
                return Err(InferError::EmptyPrompt);
            }
            let runs = tree.push(inputs);
            let rows = runs.into_iter().flatten().skip(inputs.len() - targets.len());
            places.extend(rows.zip(*targets).map(|(row, &target)| Place { row, target, continuation }));
        }
        let Some(buffers) = &self.buffers.tree else { return Ok(Vec::new()) };
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let hidden = pass::forward_tree(self.b, self.model, &self.activations, buffers, &tree);
        let mut scores = vec![ContinuationScore { log_probability: 0.0, greedy: None }; continuations.len()];
        for (score, continuation) in scores.iter_mut().zip(continuations) {
            score.greedy = continuation.greedy.then_some(true);
        }
        for chunk in places.chunks(HEAD_ROWS) {
            self.gather(hidden, chunk);
            self.add_losses(chunk, continuations, &mut scores)?;
        }
        let asked: Vec<Place> =
            places.into_iter().filter(|place| scores[place.continuation].greedy.is_some()).collect();
        for chunk in asked.chunks(LOGITS_ROWS) {
            self.gather(hidden, chunk);
            self.compare_with_greedy(chunk, &mut scores);
        }
        Ok(scores)
    }

    /// Copies the hidden states of some places to where the head reads them.
    fn gather(&self, hidden: Buf, places: &[Place]) {
        let width = self.model.config.token_width();
        let mut at = 0;
        for run in consecutive(places) {
            let first = places[run.start].row;
            self.b.copy(self.buffers.hidden, at * width, hidden, first * width, run.len() * width);
            at += run.len();
        }
    }

    fn add_losses(
        &self,
        places: &[Place],
        continuations: &[Continuation<'_>],
        scores: &mut [ContinuationScore],
    ) -> Result<(), InferError> {
        let Buffers { hidden, targets, losses, .. } = self.buffers;
        let ids: Vec<u32> = places.iter().map(|place| place.target).collect();
        self.b.write_ids(targets, 0, &ids);
        self.b.head_loss(losses, hidden, self.model.head, targets, places.len());
        let mut values = vec![0.0; places.len()];
        self.b.read(losses, 0, &mut values);
        for (place, loss) in places.iter().zip(values) {
            if !loss.is_finite() {
                let inputs = continuations[place.continuation].inputs;
                let error = InferError::NotFinite { position: inputs.len() - 1, first: None };
                return Err(error.located(self.b, self.model, inputs));
            }
            scores[place.continuation].log_probability -= f64::from(loss);
        }
        Ok(())
    }

    fn compare_with_greedy(&self, places: &[Place], scores: &mut [ContinuationScore]) {
        let vocab = self.vocab();
        let Buffers { hidden, logits, .. } = self.buffers;
        self.b.linear(logits, hidden, self.model.head, Rows::prompt(places.len()));
        let mut values = vec![0.0; places.len() * vocab];
        self.b.read(logits, 0, &mut values);
        for (place, row) in places.iter().zip(values.chunks(vocab)) {
            let score = &mut scores[place.continuation];
            score.greedy = score.greedy.map(|so_far| so_far && first_greatest(row) == place.target as usize);
        }
    }
}

/// Index of the greatest number, the first of equals.
fn first_greatest(values: &[f32]) -> usize {
    let mut greatest = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[greatest] {
            greatest = index;
        }
    }
    greatest
}

/// Runs of places whose rows follow each other.
fn consecutive(places: &[Place]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (index, place) in places.iter().enumerate() {
        match runs.last_mut() {
            Some(run) if places[index - 1].row + 1 == place.row => run.end = index + 1,
            _ => runs.push(index..index + 1),
        }
    }
    runs
}

impl Drop for Buffers<'_> {
    fn drop(&mut self) {
        self.held.drain(..).for_each(|buf| self.b.free(buf));
        if let Some(tree) = self.tree.take() {
            tree.free(self.b);
        }
    }
}
