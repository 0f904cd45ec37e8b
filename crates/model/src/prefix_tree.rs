//! Token sequences that begin alike, laid out so that a row which several of them share is computed once.
//!
//! Products, norms and activations look at a row alone, so a shared row passes through them once. Attention looks along
//! one sequence: for it, queries, keys and values are copied to where each sequence stands on end, from position 0.
//! A row therefore has the bits it has when its sequence is computed alone.

use crate::{BlockActivations, Config};
use backend::{Backend, BackendError, Buf, Element, Heads, Precision, Sequences};
use std::ops::Range;

/// Shorter sequences go into one attention pass with a longer one if they are at least this share of its length: the
/// rest is padding, which costs time and nothing else.
const SHORTEST_SHARE: (usize, usize) = (3, 4);

/// The rows of several sequences. Sequences that are pushed in lexicographic order share all that they can.
#[derive(Clone, Debug, Default)]
pub struct PrefixTree {
    ids: Vec<u32>,
    positions: Vec<u32>,
    paths: Vec<Path>,
    last: Vec<u32>,
    last_runs: Vec<Range<usize>>,
}

/// One sequence that attention runs along.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Path {
    /// Its rows, as runs of consecutive ones.
    runs: Vec<Range<usize>>,
    /// Its tokens.
    len: usize,
    /// Tokens at its beginning that an earlier path computes.
    shared: usize,
}

/// Paths that one call of attention handles, each padded to `tokens`.
#[derive(Debug)]
pub(crate) struct AttentionPass<'t> {
    paths: Vec<&'t Path>,
    tokens: usize,
}

impl PrefixTree {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.ids.len()
    }

    /// Rows that [`PrefixTree::push`] would add.
    pub fn new_rows(&self, sequence: &[u32]) -> usize {
        sequence.len() - common(&self.last, sequence)
    }

    /// Adds a sequence and returns its rows, as runs of consecutive ones.
    pub fn push(&mut self, sequence: &[u32]) -> Vec<Range<usize>> {
        let shared = common(&self.last, sequence);
        let goes_on = shared == self.last.len() && self.paths.last().is_some_and(|path| path.runs == self.last_runs);
        let first = self.rows();
        self.ids.extend(&sequence[shared..]);
        self.positions.extend((shared..sequence.len()).map(|position| position as u32));
        let mut runs = cut(&self.last_runs, shared);
        match runs.last_mut() {
            Some(run) if run.end == first => run.end = self.rows(),
            _ if self.rows() > first => runs.push(first..self.rows()),
            _ => {}
        }
        if self.rows() > first {
            match self.paths.last_mut().filter(|_| goes_on) {
                Some(path) => (path.runs, path.len) = (runs.clone(), sequence.len()),
                None => self.paths.push(Path { runs: runs.clone(), len: sequence.len(), shared }),
            }
        }
        self.last.truncate(shared);
        self.last.extend(&sequence[shared..]);
        self.last_runs.clone_from(&runs);
        runs
    }

    /// The paths in passes of at most `rows` rows, padding included; a longer path is a pass of its own.
    fn passes(&self, rows: usize) -> Vec<AttentionPass<'_>> {
        let mut paths: Vec<&Path> = self.paths.iter().collect();
        paths.sort_by_key(|path| std::cmp::Reverse(path.len));
        let mut passes: Vec<AttentionPass<'_>> = Vec::new();
        for path in paths {
            match passes.last_mut() {
                Some(pass)
                    if (pass.paths.len() + 1) * pass.tokens <= rows
                        && path.len * SHORTEST_SHARE.1 >= pass.tokens * SHORTEST_SHARE.0 =>
                {
                    pass.paths.push(path);
                }
                _ => passes.push(AttentionPass { paths: vec![path], tokens: path.len }),
            }
        }
        passes
    }
}

/// Tokens that two sequences have in common at their beginnings.
fn common(one: &[u32], other: &[u32]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

/// The first `len` rows of some runs.
fn cut(runs: &[Range<usize>], len: usize) -> Vec<Range<usize>> {
    let mut left = len;
    let mut kept = Vec::with_capacity(runs.len());
    for run in runs {
        let taken = run.len().min(left);
        if taken > 0 {
            kept.push(run.start..run.start + taken);
        }
        left -= taken;
    }
    kept
}

/// Buffers of the passes over prefix trees.
#[derive(Debug)]
pub struct TreeBuffers {
    rows: usize,
    pass_rows: usize,
    /// One a row.
    pub(crate) ids: Buf,
    /// One a row.
    pub(crate) positions: Buf,
    /// Sequences on end, `pass_rows × qkv_width`, `× query_width` and `× heads`.
    qkv: Buf,
    attended: Buf,
    logsumexp: Buf,
}

impl TreeBuffers {
    /// For trees of up to `rows` rows and paths of up to `pass_rows` tokens; as many rows go through attention at once.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`]; nothing stays allocated.
    pub fn new(b: &dyn Backend, config: &Config, rows: usize, pass_rows: usize) -> Result<Self, BackendError> {
        let heads = config.heads;
        let mut memory = crate::memory::Memory::new(b);
        let buffers = Self {
            rows,
            pass_rows,
            ids: memory.alloc(Element::U32, rows)?,
            positions: memory.alloc(Element::U32, rows)?,
            qkv: memory.alloc(Element::F32, pass_rows * heads.qkv_width())?,
            attended: memory.alloc(Element::F32, pass_rows * heads.query_width())?,
            logsumexp: memory.alloc(Element::F32, pass_rows * heads.heads)?,
        };
        memory.keep(); // the fields are the owners
        Ok(buffers)
    }

    /// Gives the buffers back.
    pub fn free(self, b: &dyn Backend) {
        [self.ids, self.positions, self.qkv, self.attended, self.logsumexp].into_iter().for_each(|buf| b.free(buf));
    }

    /// Writes the ids and positions of a tree, and returns how attention runs over it.
    ///
    /// # Panics
    /// If the tree has more rows than planned, or a longer path.
    pub(crate) fn load<'t>(&self, b: &dyn Backend, tree: &'t PrefixTree) -> Vec<AttentionPass<'t>> {
        assert!((1..=self.rows).contains(&tree.rows()), "{} rows, planned for {}", tree.rows(), self.rows);
        let passes = tree.passes(self.pass_rows);
        assert!(passes[0].tokens <= self.pass_rows, "{} tokens, planned for {}", passes[0].tokens, self.pass_rows);
        b.write_ids(self.ids, 0, &tree.ids);
        b.write_ids(self.positions, 0, &tree.positions);
        passes
    }

    /// Attention of one block over a tree: each path copied to where it stands on end, and its own rows back.
    pub(crate) fn attend(
        &self,
        b: &dyn Backend,
        a: &BlockActivations,
        passes: &[AttentionPass<'_>],
        heads: Heads,
        precision: Precision,
    ) {
        let (wide, narrow) = (heads.qkv_width(), heads.query_width());
        for pass in passes {
            for (slot, path) in pass.paths.iter().enumerate() {
                let mut to = slot * pass.tokens;
                for run in &path.runs {
                    b.copy(self.qkv, to * wide, a.qkv, run.start * wide, run.len() * wide);
                    to += run.len();
                }
            }
            let sequences = Sequences { batch: pass.paths.len(), tokens: pass.tokens };
            b.attention(self.attended, self.logsumexp, self.qkv, sequences, heads, None, precision);
            for (slot, path) in pass.paths.iter().enumerate() {
                let own = path.len - path.shared; // the last rows that were pushed for it: consecutive
                let Some(end) = path.runs.last().map(|run| run.end) else { continue };
                let from = slot * pass.tokens + path.shared;
                b.copy(a.attended, (end - own) * narrow, self.attended, from * narrow, own * narrow);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(sequences: &[&[u32]]) -> (PrefixTree, Vec<Vec<Range<usize>>>) {
        let mut tree = PrefixTree::default();
        let rows = sequences.iter().map(|sequence| tree.push(sequence)).collect();
        (tree, rows)
    }

    #[test]
    fn rows_of_common_beginnings_are_laid_out_once() {
        let (tree, rows) = tree(&[&[1, 2, 3, 4], &[1, 2, 5], &[1, 2, 5, 6], &[1, 2, 5, 6], &[7]]);
        assert_eq!(tree.ids, [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(tree.positions, [0, 1, 2, 3, 2, 3, 0]);
        let rows = rows.into_iter().map(|runs| runs.into_iter().flatten().collect::<Vec<_>>()).collect::<Vec<_>>();
        assert_eq!(rows, [vec![0, 1, 2, 3], vec![0, 1, 4], vec![0, 1, 4, 5], vec![0, 1, 4, 5], vec![6]]);
        let lens = tree.paths.iter().map(|path| (path.len, path.shared)).collect::<Vec<_>>();
        assert_eq!(
            lens,
            [(4, 0), (4, 2), (1, 0)],
            "a sequence that goes on where the last one ends is one path with it"
        );
    }

    #[test]
    fn every_order_gives_each_sequence_its_own_tokens() {
        let sequences: [&[u32]; 7] = [&[1, 2], &[1], &[1, 2, 3], &[1, 2, 3, 9], &[1], &[4, 4], &[1, 2, 3]];
        for rotation in 0..sequences.len() {
            let mut sequences = sequences;
            sequences.rotate_left(rotation);
            let (tree, rows) = tree(&sequences);
            for (sequence, runs) in sequences.iter().zip(rows) {
                let found = runs.into_iter().flatten().map(|row| tree.ids[row]).collect::<Vec<_>>();
                assert_eq!(found, *sequence);
            }
            let own = tree.paths.iter().map(|path| path.len - path.shared).sum::<usize>();
            assert_eq!(own, tree.rows(), "each row is attended to in one path");
        }
    }

    #[test]
    fn passes_hold_sequences_of_like_lengths() {
        let sequences = (1..=40).map(|len| vec![len as u32; len]).collect::<Vec<_>>();
        let (tree, _) = tree(&sequences.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let passes = tree.passes(100);
        assert_eq!(passes.iter().map(|pass| pass.paths.len()).sum::<usize>(), 40);
        for pass in &passes {
            assert!(pass.paths.len() * pass.tokens <= 100);
            assert!(pass.paths.iter().all(|path| path.len <= pass.tokens && 4 * path.len >= 3 * pass.tokens));
        }
    }
}
