//! Batches on the host: sequences of ids and the tokens that follow them, or what a teacher says of these, ready to be
//! written into buffers.

use backend::{Backend, Buf, NO_TARGET, Teacher};
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
    /// Tokens that a teacher lists for each row; 0 without one.
    listed: usize,
    teacher_ids: Vec<u32>,
    teacher_probabilities: Vec<f32>,
}

impl TokenBatch {
    /// Room for `sequences` of `tokens` each, with `listed` tokens by a teacher for every row.
    pub(crate) fn new(sequences: usize, tokens: usize, listed: usize) -> Self {
        let room = || Vec::with_capacity(sequences * tokens);
        Self {
            tokens,
            ids: room(),
            targets: room(),
            first_key: room(),
            listed,
            teacher_ids: Vec::with_capacity(sequences * tokens * listed),
            teacher_probabilities: Vec::with_capacity(sequences * tokens * listed),
        }
    }

    /// Takes all sequences out.
    pub(crate) fn clear(&mut self) {
        self.ids.clear();
        self.targets.clear();
        self.first_key.clear();
        self.teacher_ids.clear();
        self.teacher_probabilities.clear();
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

    /// Adds a sequence, all of whose tokens see each other, with what a teacher says of each but the last; a shorter one
    /// is filled with rows of which it says nothing.
    pub(crate) fn push_taught(&mut self, tokens: &[u32], teacher_ids: &[u32], teacher_probabilities: &[f32]) {
        let rows = self.ids.len() + self.tokens;
        let predicted = tokens.len().saturating_sub(1).min(self.tokens);
        self.ids.extend(&tokens[..predicted]);
        self.ids.resize(rows, 0);
        self.targets.extend(&tokens[1..predicted + 1]);
        self.targets.resize(rows, NO_TARGET);
        self.first_key.resize(rows, 0);
        self.teacher_ids.extend(&teacher_ids[..predicted * self.listed]);
        self.teacher_ids.resize(rows * self.listed, NO_TARGET);
        self.teacher_probabilities.extend(&teacher_probabilities[..predicted * self.listed]);
        self.teacher_probabilities.resize(rows * self.listed, 0.0);
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
        let listed = rows.start * self.listed..rows.end * self.listed;
        Part {
            ids: &self.ids[rows.clone()],
            targets: &self.targets[rows.clone()],
            first_key: &self.first_key[rows],
            teacher_ids: &self.teacher_ids[listed.clone()],
            teacher_probabilities: &self.teacher_probabilities[listed],
        }
    }
}

/// Rows of a [`TokenBatch`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    pub(crate) ids: &'a [u32],
    pub(crate) targets: &'a [u32],
    pub(crate) first_key: &'a [u32],
    /// Empty without a teacher.
    pub(crate) teacher_ids: &'a [u32],
    pub(crate) teacher_probabilities: &'a [f32],
}

/// Writes rows to the buffers of a micro-batch. Where they fill its beginning only, the rest keeps the ids that it has
/// and gets no targets: no loss, and gradients of exactly 0.
///
/// A batch is always of its full size, so that every pass has the shape that was planned.
pub(crate) fn write_part(b: &dyn Backend, batch: &Batch, targets: Buf, part: Part<'_>) {
    b.write_ids(batch.ids, 0, part.ids);
    write_filled(b, targets, part.targets, batch.sequences.rows());
    if let Some(first_key) = batch.first_key {
        b.write_ids(first_key, 0, part.first_key);
    }
}

/// What the teacher says of the rows of a part, likewise.
pub(crate) fn write_teacher(b: &dyn Backend, batch: &Batch, teacher: Teacher, part: Part<'_>) {
    write_filled(b, teacher.ids, part.teacher_ids, batch.sequences.rows() * teacher.tokens);
    b.write(teacher.probabilities, 0, part.teacher_probabilities);
}

/// `ids`, and [`NO_TARGET`] up to `len`; by parts of a fixed size, since a step allocates nothing.
fn write_filled(b: &dyn Backend, buf: Buf, ids: &[u32], len: usize) {
    let none = [NO_TARGET; 64];
    b.write_ids(buf, 0, ids);
    for at in (ids.len()..len).step_by(none.len()) {
        b.write_ids(buf, at, &none[..none.len().min(len - at)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_predicts_its_next_tokens_and_a_short_one_is_filled() {
        let mut batch = TokenBatch::new(2, 4, 0);
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

    #[test]
    fn a_taught_sequence_has_its_teacher_beside_it() {
        let mut batch = TokenBatch::new(2, 3, 2);
        batch.push_taught(&[5, 6], &[6, 7], &[0.5, 0.25]);
        batch.push_taught(&[1, 2, 3, 4], &[2, 0, 3, 0, 4, 0], &[0.5; 6]);
        assert_eq!((batch.sequences(), batch.predicted()), (2, 4));
        let first = batch.part(0..1);
        assert_eq!((first.ids, first.targets), (&[5, 0, 0][..], &[6, NO_TARGET, NO_TARGET][..]));
        assert_eq!(first.teacher_ids, [6, 7, NO_TARGET, NO_TARGET, NO_TARGET, NO_TARGET]);
        assert_eq!(first.teacher_probabilities, [0.5, 0.25, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(batch.part(1..2).teacher_ids, [2, 0, 3, 0, 4, 0]);
    }
}
