//! From SentencePiece scores to merges by rank.
//!
//! SentencePiece merges the neighbours whose joint piece has the highest score, the leftmost first among equals. A merge
//! list gives each pair its own rank. Both do the same when every piece has a score of its own and the splits of one
//! piece are ordered so that, where two of them overlap in a text, the left one wins: two splits `x·y` and `y·z` of one
//! piece overlap in `x y z` only through a half `y` that is both its beginning and its end, and then `x·y` is the left
//! one. Only powers (`aaa`, `ababab`) could overlap both ways; there the longer left half comes first, which is the
//! order in which leftmost-first merging builds them.

use std::collections::HashMap;

use crate::vocabulary::{PieceKind, Vocabulary};

/// Derives the merges of a scored vocabulary, or says why a merge list cannot do what the scores say.
pub(crate) fn merges_from_scores(vocabulary: &Vocabulary) -> Result<Vec<(u32, u32)>, &'static str> {
    let mut normal: HashMap<&str, u32> = HashMap::with_capacity(vocabulary.pieces.len());
    for (piece, id) in vocabulary.pieces.iter().zip(0u32..) {
        if piece.kind == PieceKind::Normal && normal.insert(&piece.text, id).is_some() {
            return Err("two pieces are spelled alike");
        }
    }
    let mut by_score: Vec<(f32, u32, &str)> = Vec::new();
    for (&text, &id) in &normal {
        if text.chars().nth(1).is_some() {
            by_score.push((vocabulary.scores[id as usize], id, text));
        }
    }
    by_score.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));

    let mut single = [0u8; 4];
    let mut merges = Vec::new();
    let mut last_score = None;
    for &(score, _, text) in &by_score {
        if text.chars().any(|c| !normal.contains_key(&*c.encode_utf8(&mut single))) {
            return Err("a piece has a character without a piece of its own");
        }
        let first = merges.len();
        merges.extend(splits(text, &normal));
        if merges.len() > first {
            if last_score == Some(score) {
                return Err("two pieces have the same score");
            }
            last_score = Some(score);
        }
    }
    Ok(merges)
}

/// The splits of a piece into two pieces, in the order explained at the top.
fn splits(text: &str, normal: &HashMap<&str, u32>) -> Vec<(u32, u32)> {
    let mut found: Vec<(bool, usize, (u32, u32))> = Vec::new();
    for (at, _) in text.char_indices().skip(1) {
        let (left, right) = text.split_at(at);
        if let (Some(&left_id), Some(&right_id)) = (normal.get(left), normal.get(right)) {
            found.push((!text.starts_with(right), usize::MAX - left.len(), (left_id, right_id)));
        }
    }
    found.sort_unstable();
    found.into_iter().map(|(_, _, pair)| pair).collect()
}
