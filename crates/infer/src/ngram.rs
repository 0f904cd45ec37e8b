//! Proposals without a model: what followed the last tokens when they occurred before (prompt lookup decoding).

use crate::{Drafter, InferError, Proposal, Sampler};

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
    /// Where the latest earlier occurrence of the text's end is continued: an index into the text.
    fn continuation(&self, text: &[u32]) -> Option<usize> {
        (self.shortest.max(1)..=self.longest).rev().find_map(|n| {
            let end = text.len().checked_sub(n)?;
            let start = (0..end).rev().find(|&start| text[start..][..n] == text[end..])?;
            Some(start + n)
        })
    }
}

impl Drafter for NgramDrafter {
    fn prepare(&mut self, _prompt: &[u32]) -> Result<(), InferError> {
        Ok(())
    }

    fn propose(
        &mut self,
        history: &[u32],
        most: usize,
        stop: &[u32],
        _sampler: &mut Sampler,
    ) -> Result<Proposal, InferError> {
        let mut ids: Vec<u32> = Vec::new();
        if let Some(start) = self.continuation(history) {
            for index in start..start + most {
                // Beyond the text's end the proposal continues itself, as a text with a period does.
                let id = *history.get(index).unwrap_or_else(|| &ids[index - history.len()]);
                ids.push(id);
                if stop.contains(&id) {
                    break;
                }
            }
        }
        Ok(Proposal { ids, distributions: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SamplingOptions;

    fn propose(text: &[u32], most: usize, stop: &[u32]) -> Vec<u32> {
        let mut sampler = Sampler::new(SamplingOptions::default()).unwrap();
        NgramDrafter::default().propose(text, most, stop, &mut sampler).unwrap().ids
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
