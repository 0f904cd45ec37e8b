//! Batches on the host: sequences of ids and the tokens that follow them, ready to be written into buffers.

use backend::{Backend, Buf, NO_TARGET};
use data::Sample;
use model::Batch;
use std::ops::Range;

/// Equally long sequences, row `s·tokens + t` being token `t` of sequence `s`. Allocated once, filled for every step.
#[derive(Debug)]
pub(crate) struct TokenBatch {
    tokens: usize,
    ids: Vec<u32>,
    targets: Vec<u32>,
    first_key: Vec<u32>,
}

impl TokenBatch {
    /// Room for `sequences` of `tokens` each.
    pub(crate) fn new(sequences: usize, tokens: usize) -> Self {
        let room = || Vec::with_capacity(sequences * tokens);
        Self { tokens, ids: room(), targets: room(), first_key: room() }
    }

    /// Takes all sequences out.
    pub(crate) fn clear(&mut self) {
        self.ids.clear();
        self.targets.clear();
        self.first_key.clear();
    }

    /// Adds the sequence of a sample; a shorter one (the last held-out one) is filled with rows that no loss counts.
    pub(crate) fn push(&mut self, sample: &Sample) {
        let missing = self.tokens.saturating_sub(sample.inputs().len());
        self.ids.extend_from_slice(sample.inputs());
        self.ids.extend(std::iter::repeat_n(0, missing));
        self.targets.extend_from_slice(sample.targets());
        self.targets.extend(std::iter::repeat_n(NO_TARGET, missing));
        self.first_key.extend_from_slice(&sample.first_key);
        self.first_key.extend(std::iter::repeat_n(0, missing));
    }

    /// Sequences that are in.
    pub(crate) fn sequences(&self) -> usize {
        self.ids.len() / self.tokens
    }

    /// Rows that have a target.
    pub(crate) fn predicted(&self) -> usize {
        self.targets.iter().filter(|&&target| target != NO_TARGET).count()
    }

    /// Ids, targets and first keys of some sequences.
    pub(crate) fn part(&self, sequences: Range<usize>) -> Part<'_> {
        let rows = sequences.start * self.tokens..sequences.end * self.tokens;
        Part { ids: &self.ids[rows.clone()], targets: &self.targets[rows.clone()], first_key: &self.first_key[rows] }
    }
}

/// Rows of a [`TokenBatch`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    pub(crate) ids: &'a [u32],
    pub(crate) targets: &'a [u32],
    pub(crate) first_key: &'a [u32],
}

/// Writes rows to the buffers of a micro-batch. Where they fill its beginning only, the rest keeps the ids that it has
/// and gets no targets: no loss, and gradients of exactly 0.
///
/// A batch is always of its full size, so that every pass has the shape that was planned.
pub(crate) fn write_part(b: &dyn Backend, batch: &Batch, targets: Buf, part: Part<'_>) {
    b.write_ids(batch.ids, 0, part.ids);
    b.write_ids(targets, 0, part.targets);
    // By parts of a fixed size: a step allocates nothing.
    let none = [NO_TARGET; 64];
    for row in (part.ids.len()..batch.sequences.rows()).step_by(none.len()) {
        b.write_ids(targets, row, &none[..none.len().min(batch.sequences.rows() - row)]);
    }
    if let Some(first_key) = batch.first_key {
        b.write_ids(first_key, 0, part.first_key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_predicts_its_next_tokens_and_a_short_one_is_filled() {
        let mut batch = TokenBatch::new(2, 4);
        batch.push(&Sample { tokens: vec![10, 11, 12, 13, 14], first_key: vec![0, 0, 2, 2] });
        batch.push(&Sample { tokens: vec![20, 21, 22], first_key: vec![0, 1] });
        assert_eq!((batch.sequences(), batch.predicted()), (2, 6));
        let first = batch.part(0..1);
        assert_eq!((first.ids, first.targets), (&[10, 11, 12, 13][..], &[11, 12, 13, 14][..]));
        assert_eq!(first.first_key, [0, 0, 2, 2]);
        let second = batch.part(1..2);
        assert_eq!((second.ids, second.targets), (&[20, 21, 0, 0][..], &[21, 22, NO_TARGET, NO_TARGET][..]));
        assert_eq!(second.first_key, [0, 1, 0, 0]);
        batch.clear();
        assert_eq!(batch.sequences(), 0);
    }
}
