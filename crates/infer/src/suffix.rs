//! Proposals without a model: the longest end of the text that occurred before, in prompt or output, is continued.

use crate::draft::{Request, continue_match};
use crate::{Drafter, InferError, Proposal, SamplingOptions};
use std::collections::HashMap;

/// Fewest tokens that must match.
const SHORTEST: usize = 2;
/// Beyond so many a longer match says no more.
const LONGEST: usize = 64;
/// Earlier occurrences of the last two tokens that are compared, the latest first. In code a pair such as a line break and
/// an indent occurs hundreds of times; 32 comparisons take a microsecond or so.
const CANDIDATES: usize = 32;
/// No earlier occurrence.
const NONE: u32 = u32::MAX;

/// Finds the longest match among the latest occurrences of the text's last two tokens, which a table leads to: adding a
/// token and looking one up take the same time however long the text is.
#[derive(Clone, Debug, Default)]
pub struct SuffixDrafter {
    /// The text so far.
    text: Vec<u32>,
    /// Where each pair of tokens ended last.
    latest: HashMap<[u32; SHORTEST], u32>,
    /// Where the pair that ends at an index ended before.
    earlier: Vec<u32>,
}

impl SuffixDrafter {
    /// Takes in what `history` has beyond the text so far, or all of it if it is another text.
    fn follow(&mut self, history: &[u32]) {
        if !history.starts_with(&self.text) {
            *self = Self::default();
        }
        for &id in &history[self.text.len()..] {
            self.text.push(id);
            let index = self.text.len() - 1;
            let before = match self.text.last_chunk() {
                Some(&pair) => self.latest.insert(pair, index as u32),
                None => None,
            };
            self.earlier.push(before.unwrap_or(NONE));
        }
    }

    /// Where the text goes on behind the longest match (the latest of equal ones), and how long that is.
    fn longest_match(&self) -> Option<(usize, usize)> {
        let end = self.text.len().checked_sub(1)?;
        let candidates = std::iter::successors(Some(self.earlier[end]), |&at| self.earlier.get(at as usize).copied());
        let mut best: Option<(usize, usize)> = None;
        for at in candidates.take_while(|&at| at != NONE).take(CANDIDATES) {
            let at = at as usize;
            let backwards = self.text[..=at].iter().rev().zip(self.text.iter().rev());
            let length = backwards.take(LONGEST).take_while(|(a, b)| a == b).count();
            if best.is_none_or(|(_, longest)| length > longest) {
                best = Some((at + 1, length));
            }
        }
        best
    }
}

impl Drafter for SuffixDrafter {
    fn prepare(&mut self, prompt: &[u32], _sampling: &SamplingOptions) -> Result<(), InferError> {
        self.follow(prompt);
        Ok(())
    }

    fn propose(&mut self, request: Request<'_>) -> Result<Proposal, InferError> {
        self.follow(request.history);
        Ok(self.longest_match().map_or_else(Proposal::default, |(at, length)| continue_match(request, at, length)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draft::tests::ask;

    #[test]
    fn the_longest_match_is_continued_and_the_latest_of_equals() {
        let text = [1, 2, 3, 9, 5, 2, 3, 8, 1, 2, 3];
        assert_eq!(ask(&mut SuffixDrafter::default(), &text, 3, &[]).ids, [9, 5, 2]);
        assert_eq!(ask(&mut SuffixDrafter::default(), &text, 3, &[]).confidences, [3.0, 4.0, 5.0]);
        let text = [4, 2, 3, 9, 5, 2, 3, 8, 1, 2, 3];
        assert_eq!(ask(&mut SuffixDrafter::default(), &text, 2, &[]).ids, [8, 1]);
        assert_eq!(ask(&mut SuffixDrafter::default(), &text, 4, &[8]).ids, [8]);
    }

    #[test]
    fn a_single_token_or_new_text_says_nothing() {
        for text in [&[][..], &[1], &[1, 1], &[1, 2, 1], &[1, 2, 3, 4]] {
            assert!(ask(&mut SuffixDrafter::default(), text, 4, &[]).ids.is_empty(), "{text:?}");
        }
        assert_eq!(ask(&mut SuffixDrafter::default(), &[7, 7, 7], 4, &[]).ids, [7; 4]);
    }

    /// Token by token, and after a text was left for another, it says what a fresh one says; and what a search through the
    /// whole text says.
    #[test]
    fn following_a_text_is_the_same_as_reading_it_afresh() {
        let mut state = 1u32;
        let mut text = Vec::new();
        let mut drafter = SuffixDrafter::default();
        for step in 0..400 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if step % 97 == 96 {
                text.truncate(text.len() / 2);
            }
            text.push(state >> 30);
            let said = ask(&mut drafter, &text, 5, &[]);
            assert_eq!(said, ask(&mut SuffixDrafter::default(), &text, 5, &[]));
            let longest = (0..text.len() - 1)
                .map(|end| text[..=end].iter().rev().zip(text.iter().rev()).take_while(|(a, b)| a == b).count())
                .max();
            if let (Some(&confidence), Some(longest)) = (said.confidences.first(), longest) {
                // The longest may lie beyond the occurrences that are looked at.
                assert!(confidence as usize <= longest && confidence as usize >= SHORTEST);
                assert!(text.len() > 100 || confidence as usize == longest.min(LONGEST));
            }
        }
    }
}
