//! From SentencePiece scores to merges by rank.
//!
//! SentencePiece merges the neighbours whose joint piece has the highest score, the leftmost first among equals. A merge
//! list gives each pair a rank of its own. Both do the same when every piece has a score of its own and the splits of
//! one piece are ordered so that, where two of them overlap in a text, the left one wins: two splits `x·y` and `y·z` of
//! one piece overlap in `x y z` only through a half `y` that is both its beginning and its end, and then `x·y` is the
//! left one. Only powers (`aaa`, `ababab`) could overlap both ways; there the longer left half comes first, which is the
//! order in which leftmost-first merging builds them.
//!
//! One kind of tie is allowed, because Llama's vocabulary has it: the runs of `▁` that were added after training share
//! the lowest score. They meet nothing but each other, so whether a merge list does the same is tried out on runs.

use std::collections::{HashMap, HashSet};

use crate::vocabulary::{PieceKind, Vocabulary};

/// Why a vocabulary must be encoded by its scores.
type Why = &'static str;

const TIED: Why = "two pieces have the same score";

/// A piece of more than one character: score, id, text, splits.
type Scored<'v> = (f32, u32, &'v str, Vec<(u32, u32)>);

/// Derives the merges of a scored vocabulary, or says why a merge list cannot do what the scores say.
pub(crate) fn merges_from_scores(vocabulary: &Vocabulary) -> Result<Vec<(u32, u32)>, Why> {
    let mut normal: HashMap<&str, u32> = HashMap::with_capacity(vocabulary.pieces.len());
    for (piece, id) in vocabulary.pieces.iter().zip(0u32..) {
        if piece.kind == PieceKind::Normal && normal.insert(&piece.text, id).is_some() {
            return Err("two pieces are spelled alike");
        }
    }
    let mut single = [0u8; 4];
    let mut by_score: Vec<Scored<'_>> = Vec::new();
    for (&text, &id) in &normal {
        if text.chars().nth(1).is_some() {
            if text.chars().any(|c| !normal.contains_key(&*c.encode_utf8(&mut single))) {
                return Err("a piece has a character without a piece of its own");
            }
            let splits = splits(text, &normal);
            if !splits.is_empty() {
                by_score.push((vocabulary.scores[id as usize], id, text, splits));
            }
        }
    }
    by_score.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));

    let tie = by_score.windows(2).position(|two| two[0].0 == two[1].0);
    let tied = tie.map(|begin| by_score.split_off(begin)).unwrap_or_default();
    let last = run_merges(vocabulary, &by_score, &tied)?;
    Ok(by_score.into_iter().flat_map(|piece| piece.3).chain(last).collect())
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

/// The merges of pieces that share the lowest score, if they are runs of one character and part of no other piece: by
/// ids of the halves (as transformers orders them), if that builds every run as leftmost-first merging does.
fn run_merges(vocabulary: &Vocabulary, others: &[Scored<'_>], tied: &[Scored<'_>]) -> Result<Vec<(u32, u32)>, Why> {
    let Some(&(score, _, first, _)) = tied.first() else { return Ok(Vec::new()) };
    let character = first.chars().next().unwrap_or_default();
    let is_run = |text: &str| text.chars().all(|c| c == character);
    let ids: HashSet<u32> = tied.iter().map(|piece| piece.1).collect();
    let meets = |pair: &(u32, u32)| ids.contains(&pair.0) || ids.contains(&pair.1);
    if tied.iter().any(|piece| piece.0 != score || !is_run(piece.2)) {
        return Err(TIED);
    }
    if others.iter().any(|piece| piece.3.iter().any(meets)) {
        return Err(TIED);
    }
    let mut merges: Vec<(u32, u32)> = tied.iter().flat_map(|piece| piece.3.iter().copied()).collect();
    merges.sort_unstable();

    let length = |id: u32| vocabulary.pieces[id as usize].text.chars().count();
    let lengths: HashSet<usize> = tied.iter().map(|piece| length(piece.1)).collect();
    let ranks: HashMap<(usize, usize), usize> =
        merges.iter().enumerate().map(|(rank, &(left, right))| ((length(left), length(right)), rank)).collect();
    let longest = lengths.iter().copied().max().unwrap_or(0);
    if longest > 64 {
        return Err(TIED);
    }
    let by_score = |left, right| lengths.contains(&(left + right)).then_some(0);
    let by_rank = |left, right| ranks.get(&(left, right)).copied();
    let same = (1..=8 * longest).all(|run| merged(run, by_score) == merged(run, by_rank));
    if same { Ok(merges) } else { Err(TIED) }
}

/// What a run of single characters is merged to: lengths from left to right. The pair of the lowest rank is merged
/// first, the leftmost among equals.
fn merged(run: usize, rank: impl Fn(usize, usize) -> Option<usize>) -> Vec<usize> {
    let mut lengths = vec![1; run];
    loop {
        let pairs = lengths.windows(2).enumerate().filter_map(|(at, two)| Some((rank(two[0], two[1])?, at)));
        let Some((_, at)) = pairs.min() else { return lengths };
        lengths[at] += lengths.remove(at + 1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::{hash_set, vec};
    use proptest::prelude::*;

    use super::*;
    use crate::engine::Engine;
    use crate::scored::Scored as ByScore;
    use crate::sentencepiece;
    use crate::vocabulary::{Family, Piece};

    /// Single characters, the given pieces best first, and the 256 byte pieces.
    fn vocabulary(pieces: &[String], scores: impl Fn(usize) -> f32) -> Vocabulary {
        let mut vocabulary = Vocabulary::new(Family::Spaced);
        let normal = |text: String| Piece { text, kind: PieceKind::Normal };
        let singles = "\u{2581}ab<>0123456789ABCDEFx".chars().map(String::from);
        vocabulary.pieces = pieces.iter().cloned().chain(singles).map(normal).collect();
        vocabulary.scores = (0..vocabulary.pieces.len()).map(scores).collect();
        for byte in 0..=255 {
            vocabulary.pieces.push(Piece { text: format!("<0x{byte:02X}>"), kind: PieceKind::Byte(byte) });
            vocabulary.scores.push(0.0);
        }
        sentencepiece::finish(&mut vocabulary).unwrap();
        vocabulary
    }

    fn both(vocabulary: &Vocabulary, text: &str) -> (Vec<u32>, Vec<u32>) {
        let (mut by_rank, mut by_score) = (Vec::new(), Vec::new());
        Engine::build(vocabulary).unwrap().encode_into(text, &mut by_rank);
        ByScore::new(vocabulary).encode_into(text, &mut by_score);
        (by_rank, by_score)
    }

    proptest! {
        // Building an encoder takes milliseconds whatever the vocabulary.
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        #[test]
        fn ranks_do_what_scores_say(
            pieces in hash_set("[ab\u{2581}]{2,6}", 1..24),
            texts in vec("[ab\u{2581}]{0,40}", 1..20),
        ) {
            let pieces: Vec<String> = pieces.into_iter().collect();
            let vocabulary = vocabulary(&pieces, |at| -(at as f32));
            for text in &texts {
                let (by_rank, by_score) = both(&vocabulary, text);
                prop_assert_eq!(by_rank, by_score, "{:?} {}", pieces, text);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        /// Pieces that are powers, whose splits overlap both ways.
        #[test]
        fn ranks_do_what_scores_say_of_powers(
            pieces in hash_set("a{2,9}|(ab){1,5}|b{2,4}|ba", 1..16),
            texts in vec("(a{1,30}|(ab){1,15}|[ab]{1,4}){1,4}", 1..20),
        ) {
            let pieces: Vec<String> = pieces.into_iter().collect();
            let vocabulary = vocabulary(&pieces, |at| -(at as f32));
            for text in &texts {
                let (by_rank, by_score) = both(&vocabulary, text);
                prop_assert_eq!(by_rank, by_score, "{:?} {}", pieces, text);
            }
        }
    }

    #[test]
    fn tied_runs_of_spaces_are_tried_out() {
        let run = |length: usize| "\u{2581}".repeat(length);
        let llama: Vec<String> = [2, 4, 8, 16, 3, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15].map(run).into();
        let tied = |_| -1.0;
        let found = vocabulary(&llama, tied);
        for length in 0..100 {
            let (by_rank, by_score) = both(&found, &run(length));
            assert_eq!(by_rank, by_score);
        }
        assert!(vocabulary(&["ab".into(), "ba".into()], tied).merges.is_empty());
    }
}
