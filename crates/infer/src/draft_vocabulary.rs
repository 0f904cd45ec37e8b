//! A draft's own, smaller vocabulary: ids for the target's frequent tokens, and one for all others together.

use serde::{Deserialize, Serialize};

/// Which of the target's tokens a draft has ids for. A head over the frequent ones is most of what makes a small draft
/// of a large vocabulary cheap (Zhao et al., 2025, FR-Spec); where the target says another token it has said it alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct DraftVocabulary {
    /// Hash of the target's tokenizer.
    tokenizer_hash: String,
    /// The target's id for each of the draft's but its last, ascending.
    target_ids: Vec<u32>,
    /// The draft's id for each of the target's up to the last of `target_ids`.
    own: Vec<u32>,
}

/// As it is kept in a file.
#[derive(Serialize, Deserialize)]
#[serde(rename = "DraftVocabulary")]
struct Stored {
    tokenizer_hash: String,
    target_ids: Vec<u32>,
}

/// The file of a draft's vocabulary, in its folder.
pub const DRAFT_VOCABULARY_FILE: &str = "target_ids.json";

/// Ids of the largest vocabulary that is known, and many times more.
const LARGEST_ID: u32 = 1 << 24;

impl DraftVocabulary {
    /// Ids for `target_ids`, in ascending order, of the tokenizer with this hash; `None` where they do not ascend or are
    /// no ids.
    pub fn new(tokenizer_hash: String, target_ids: Vec<u32>) -> Option<Self> {
        let last = *target_ids.last()?;
        if last >= LARGEST_ID || !target_ids.is_sorted_by(|a, b| a < b) {
            return None;
        }
        let mut own = vec![target_ids.len() as u32; last as usize + 1];
        target_ids.iter().zip(0..).for_each(|(&id, index)| own[id as usize] = index);
        Some(Self { tokenizer_hash, target_ids, own })
    }

    /// Hash of the target's tokenizer.
    pub fn tokenizer_hash(&self) -> &str {
        &self.tokenizer_hash
    }

    /// The target's ids that the draft has, ascending.
    pub fn target_ids(&self) -> &[u32] {
        &self.target_ids
    }

    /// Number of the draft's ids.
    pub fn len(&self) -> usize {
        self.target_ids.len() + 1
    }

    /// Whether there are none, which cannot be.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The draft's id for all tokens that it has no id for.
    pub fn stand_in(&self) -> u32 {
        self.target_ids.len() as u32
    }

    /// The draft's id for one of the target's.
    pub fn own(&self, id: u32) -> u32 {
        self.own.get(id as usize).copied().unwrap_or(self.stand_in())
    }

    /// The draft's logits at the places of the target's ids.
    pub(crate) fn spread(&self, logits: &[f32], onto: &mut [f32]) {
        for (&id, &logit) in self.target_ids.iter().zip(logits) {
            if let Some(place) = onto.get_mut(id as usize) {
                *place = logit;
            }
        }
    }

    /// By how much the highest logit of a token exceeds that of all others together, at least 0.
    pub(crate) fn lead_over_others(&self, logits: &[f32]) -> f32 {
        let Some((others, own)) = logits.get(..self.len()).and_then(<[f32]>::split_last) else { return 0.0 };
        (own.iter().copied().fold(f32::NEG_INFINITY, f32::max) - others).max(0.0)
    }
}

impl TryFrom<Stored> for DraftVocabulary {
    type Error = &'static str;

    fn try_from(stored: Stored) -> Result<Self, Self::Error> {
        Self::new(stored.tokenizer_hash, stored.target_ids).ok_or("`target_ids` must be ids in ascending order")
    }
}

impl From<DraftVocabulary> for Stored {
    fn from(vocabulary: DraftVocabulary) -> Self {
        Self { tokenizer_hash: vocabulary.tokenizer_hash, target_ids: vocabulary.target_ids }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_there_and_back_and_strangers_become_the_stand_in() {
        let vocabulary = DraftVocabulary::new("hash".into(), vec![0, 2, 5]).unwrap();
        assert_eq!((vocabulary.len(), vocabulary.stand_in()), (4, 3));
        assert_eq!([0, 1, 2, 3, 5, 6, u32::MAX].map(|id| vocabulary.own(id)), [0, 3, 1, 3, 2, 3, 3]);
        let mut spread = [f32::NEG_INFINITY; 6];
        vocabulary.spread(&[1.0, 2.0, 3.0, 9.0], &mut spread);
        assert_eq!((spread[0], spread[2], spread[5]), (1.0, 2.0, 3.0));
        assert!([1, 3, 4].iter().all(|&id| spread[id] == f32::NEG_INFINITY));
        assert_eq!(vocabulary.lead_over_others(&[1.0, 2.0, 3.0, 2.5]), 0.5);
        assert_eq!(vocabulary.lead_over_others(&[1.0, 2.0, 3.0, 9.0]), 0.0);
    }

    #[test]
    fn a_file_reads_back_and_a_damaged_one_is_refused() {
        let vocabulary = DraftVocabulary::new("hash".into(), vec![1, 4]).unwrap();
        let json = serde_json::to_string(&vocabulary).unwrap();
        assert_eq!(serde_json::from_str::<DraftVocabulary>(&json).unwrap(), vocabulary);
        for ids in ["[]", "[2, 1]", "[1, 1]", "[99999999]"] {
            let json = format!(r#"{{"tokenizer_hash": "hash", "target_ids": {ids}}}"#);
            assert!(serde_json::from_str::<DraftVocabulary>(&json).is_err(), "{ids}");
        }
    }
}
