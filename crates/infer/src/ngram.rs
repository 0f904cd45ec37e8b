//! Proposals without a model: what followed the last tokens when they occurred before (prompt lookup decoding).

use crate::draft::{Request, continue_match};
use crate::{Drafter, InferError, Proposal, SamplingOptions};

/// Looks the last tokens of the text up in the text itself, first `longest` of them, then ever fewer down to
/// `shortest`; the latest earlier occurrence counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NgramDrafter {
    /// Most tokens to look up; 3 as a rule.
    pub longest: usize,
    /// Fewest; at least 1.
    pub shortest: usize,
}

impl Default for NgramDrafter {
    fn default() -> Self {
        Self { longest: 3, shortest: 1 }
    }
}

impl NgramDrafter {
    /// Where the latest earlier occurrence of the text's end is continued, an index into the text, and its length.
    fn continuation(&self, text: &[u32]) -> Option<(usize, usize)> {
        (self.shortest.max(1)..=self.longest).rev().find_map(|n| {
            let end = text.len().checked_sub(n)?;
            let start = (0..end).rev().find(|&start| text[start..][..n] == text[end..])?;
            Some((start + n, n))
        })
    }
}

impl Drafter for NgramDrafter {
    fn prepare(&mut self, _prompt: &[u32], _sampling: &SamplingOptions) -> Result<(), InferError> {
        Ok(())
    }

    fn propose(&mut self, request: Request<'_>) -> Result<Proposal, InferError> {
        let found = self.continuation(request.history);
        Ok(found.map_or_else(Proposal::default, |(at, length)| continue_match(request, at, length)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draft::tests::ask;

    fn propose(text: &[u32], most: usize, stop: &[u32]) -> Vec<u32> {
        ask(&mut NgramDrafter::default(), text, most, stop).ids
    }

    #[test]
    fn the_longest_then_the_latest_match_is_continued() {
        assert_eq!(propose(&[1, 2, 3, 9, 2, 3, 8, 1, 2, 3], 2, &[]), [9, 2]);
        assert_eq!(propose(&[5, 3, 7, 4, 3, 8, 6, 3], 3, &[]), [8, 6, 3]);
        assert_eq!(propose(&[5, 3, 7, 4, 3, 8, 6, 3], 3, &[6]), [8, 6]);
    }

    #[test]
    fn a_period_goes_on_beyond_the_end() {
        assert_eq!(propose(&[4, 4], 5, &[]), [4; 5]);
        assert_eq!(propose(&[1, 2, 1, 2, 1], 4, &[]), [2, 1, 2, 1]);
    }

    #[test]
    fn new_text_proposes_nothing() {
        assert!(propose(&[1], 4, &[]).is_empty());
        assert!(propose(&[1, 2, 3], 4, &[]).is_empty());
    }
}
