//! What became of every document: read, dropped under a reason, written. The sums must balance.

use crate::DataError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Places that are kept for each reason, so that a user can go and look.
const PLACES_KEPT: usize = 5;

/// Why a document was dropped. One that fails several rules is counted under the first, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Larger than [`crate::DOCUMENT_LIMIT_BYTES`]; skipped without being held.
    Oversized,
    /// A line that is not a JSON object.
    BadJson,
    /// The text key or column is absent or null.
    MissingText,
    /// The text key holds something that is not a string.
    TextNotString,
    /// One of the recipe's `drop_where` rules holds.
    DropRule,
    /// Not UTF-8, where the recipe says to drop such documents.
    InvalidUtf8,
    /// Holds NUL characters, where the recipe says to drop such documents.
    Nul,
    /// Nothing but white space.
    Empty,
    /// Fewer characters than `min_chars`.
    TooShort,
    /// More characters than `max_chars`.
    TooLong,
    /// Shares a run of words with an item of a benchmark.
    Contaminated,
    /// The same text came earlier, in this source or another.
    Duplicate,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Oversized => "oversized",
            Self::BadJson => "bad_json",
            Self::MissingText => "missing_text",
            Self::TextNotString => "text_not_string",
            Self::DropRule => "drop_rule",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::Nul => "nul",
            Self::Empty => "empty",
            Self::TooShort => "too_short",
            Self::TooLong => "too_long",
            Self::Contaminated => "contaminated",
            Self::Duplicate => "duplicate",
        })
    }
}

/// Amounts. `bytes` are those of the text as it was read (of the whole line where there was no text to be found);
/// `tokens` include separators, and are 0 for documents that were dropped before they were tokenized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Documents.
    pub documents: u64,
    /// Bytes of text as read.
    pub bytes: u64,
    /// Tokens, separators included.
    pub tokens: u64,
}

impl Tally {
    /// One document.
    pub(crate) fn one(bytes: u64, tokens: u64) -> Self {
        Self { documents: 1, bytes, tokens }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.documents = self.documents.saturating_add(other.documents);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.tokens = self.tokens.saturating_add(other.tokens);
    }
}

/// Documents that were written, but not as they were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// NUL characters were removed.
    pub nul_removed: u64,
    /// Bad bytes became U+FFFD.
    pub utf8_replaced: u64,
}

/// The books of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Everything that came in.
    pub read: Tally,
    /// What was dropped, by reason.
    pub dropped: BTreeMap<Reason, Tally>,
    /// What went to the training shards.
    pub train: Tally,
    /// What went to the validation shards.
    pub validation: Tally,
    /// What was written in another form than it was read.
    pub changed: Changed,
    /// The first few places of each reason (`file:line` or `file#document`); none for duplicates.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub places: BTreeMap<Reason, Vec<String>>,
}

impl Account {
    /// Counts a document that is dropped.
    pub(crate) fn drop_document(&mut self, reason: Reason, tally: Tally, place: impl FnOnce() -> Option<String>) {
        self.read.add(tally);
        self.dropped.entry(reason).or_default().add(tally);
        let kept = self.places.get(&reason).map_or(0, Vec::len);
        if kept < PLACES_KEPT
            && let Some(place) = place()
        {
            self.places.entry(reason).or_default().push(place);
        }
    }

    /// Counts a document that is written.
    pub(crate) fn keep_document(&mut self, validation: bool, tally: Tally) {
        self.read.add(tally);
        if validation { &mut self.validation } else { &mut self.train }.add(tally);
    }

    /// What was dropped, whatever the reason.
    pub fn dropped_in_all(&self) -> Tally {
        let mut sum = Tally::default();
        self.dropped.values().for_each(|tally| sum.add(*tally));
        sum
    }

    /// That what was read is what was dropped and written.
    ///
    /// # Errors
    /// [`DataError::Unbalanced`], naming the first of documents, bytes, tokens that does not.
    pub fn check_balance(&self, source: &str) -> Result<(), DataError> {
        let mut sum = self.dropped_in_all();
        sum.add(self.train);
        sum.add(self.validation);
        for (what, read, counted) in [
            ("documents", self.read.documents, sum.documents),
            ("bytes", self.read.bytes, sum.bytes),
            ("tokens", self.read.tokens, sum.tokens),
        ] {
            if read != counted {
                return Err(DataError::Unbalanced { source_name: source.into(), what, read, counted });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_sequence_of_verdicts_balances(verdicts in proptest::collection::vec((0usize..4, 0u64..1 << 40, 0u64..1 << 30), 0..200)) {
            let mut account = Account::default();
            for (verdict, bytes, tokens) in &verdicts {
                let tally = Tally::one(*bytes, *tokens);
                match verdict {
                    0 => account.drop_document(Reason::Nul, tally, || Some("here".into())),
                    1 => account.drop_document(Reason::Duplicate, tally, || None),
                    2 => account.keep_document(false, tally),
                    _ => account.keep_document(true, tally),
                }
            }
            prop_assert!(account.check_balance("source").is_ok());
            prop_assert_eq!(account.read.documents, verdicts.len() as u64);
            prop_assert!(account.places.values().all(|places| places.len() <= PLACES_KEPT));
        }
    }

    #[test]
    fn a_lost_document_is_told() {
        let mut account = Account::default();
        account.keep_document(false, Tally::one(10, 3));
        account.train.documents = 0;
        let message = account.check_balance("prose").unwrap_err().to_string();
        assert!(message.contains("prose") && message.contains("1 documents") && message.contains('0'), "{message}");
    }
}
