//! SentencePiece's BPE as its definition reads: slower than the merge lists of [`crate::engine`], exact for every
//! scored vocabulary, and the reference that they are tested against.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use crate::vocabulary::{PieceKind, Vocabulary};

/// Merges the two neighbours whose joint piece has the highest score, the leftmost first among equals, until none is a piece.
pub(crate) struct Scored {
    normal: HashMap<String, (u32, f32)>,
    bytes: Option<[u32; 256]>,
    unknown: Option<u32>,
}

/// A stretch of the text between two other stretches.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    end: usize,
    /// Neighbours by index; `usize::MAX` at the ends of the text.
    before: usize,
    after: usize,
}

/// Two neighbours that form a piece.
#[derive(PartialEq)]
struct Candidate {
    score: f32,
    left: usize,
    right: usize,
    /// Length of the joint piece in bytes: tells whether the neighbours are still what they were.
    len: usize,
}

impl Eq for Candidate {}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

const NONE: usize = usize::MAX;

impl Scored {
    pub(crate) fn new(vocabulary: &Vocabulary) -> Self {
        let mut normal = HashMap::with_capacity(vocabulary.pieces.len());
        for (piece, id) in vocabulary.pieces.iter().zip(0u32..) {
            if piece.kind == PieceKind::Normal && !piece.text.is_empty() {
                let score = vocabulary.scores.get(id as usize).copied().unwrap_or(0.0);
                normal.entry(piece.text.clone()).or_insert((id, score));
            }
        }
        let bytes = if vocabulary.byte_fallback { vocabulary.byte_ids() } else { None };
        Self { normal, bytes, unknown: vocabulary.unknown }
    }

    /// Appends the ids of `text`, in which spaces are `▁`.
    pub(crate) fn encode_into(&self, text: &str, out: &mut Vec<u32>) {
        let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
        for (start, c) in text.char_indices() {
            let at = symbols.len();
            symbols.push(Symbol { start, end: start + c.len_utf8(), before: at.wrapping_sub(1), after: at + 1 });
        }
        if let Some(last) = symbols.last_mut() {
            last.after = NONE;
        }
        let mut heap = BinaryHeap::new();
        for left in 1..symbols.len() {
            self.propose(text, &symbols, left - 1, left, &mut heap);
        }
        while let Some(Candidate { left, right, len, .. }) = heap.pop() {
            let (a, b) = (symbols[left], symbols[right]);
            let stale = a.start == a.end || b.start == b.end || b.end - a.start != len || a.after != right;
            if stale {
                continue;
            }
            symbols[left].end = b.end;
            symbols[left].after = b.after;
            symbols[right].end = b.start;
            if b.after != NONE {
                symbols[b.after].before = left;
                self.propose(text, &symbols, left, b.after, &mut heap);
            }
            if a.before != NONE {
                self.propose(text, &symbols, a.before, left, &mut heap);
            }
        }
        self.write_out(text, &symbols, out);
    }

    fn propose(&self, text: &str, symbols: &[Symbol], left: usize, right: usize, heap: &mut BinaryHeap<Candidate>) {
        let joint = &text[symbols[left].start..symbols[right].end];
        if let Some(&(_, score)) = self.normal.get(joint) {
            heap.push(Candidate { score, left, right, len: joint.len() });
        }
    }

    fn write_out(&self, text: &str, symbols: &[Symbol], out: &mut Vec<u32>) {
        let mut after_unknown = false;
        let mut at = if symbols.is_empty() { NONE } else { 0 };
        while at != NONE {
            let Symbol { start, end, after, .. } = symbols[at];
            let piece = &text[start..end];
            if let Some(&(id, _)) = self.normal.get(piece) {
                out.push(id);
                after_unknown = false;
            } else if let Some(bytes) = &self.bytes {
                out.extend(piece.bytes().map(|byte| bytes[usize::from(byte)]));
            } else if !after_unknown {
                out.extend(self.unknown);
                after_unknown = true;
            }
            at = after;
        }
    }
}
