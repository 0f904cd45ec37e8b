//! Counting words in bounded memory.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;

use crate::vocabulary::SPACE_MARK;

/// GPT-2's words but for its look-ahead, which [`each_word`] does.
static WORD: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+").ok() // always compiles: tested
});

/// Longest word in bytes; longer ones (base64, rows of dashes) are cut.
const WORD_BYTES_MAX: usize = 128;

/// What one entry of the map takes beside its text: the string, the count, the slot, the allocation.
const ENTRY_BYTES: u64 = 80;

/// How often each word occurs.
pub(crate) struct WordCounts {
    counts: HashMap<String, u64>,
    used_bytes: u64,
    limit_bytes: u64,
    /// Words this rare were forgotten at some time.
    forgotten: u64,
}

impl WordCounts {
    /// Counts within about `limit_bytes`. When they are reached, the rarest words are forgotten, first those seen once,
    /// then twice, and so on until half of the memory is free: a rule that depends on nothing but the text so far.
    pub(crate) fn new(limit_bytes: u64) -> Self {
        Self { counts: HashMap::new(), used_bytes: 0, limit_bytes, forgotten: 0 }
    }

    /// Counts the words of a document as GPT-2 cuts them.
    pub(crate) fn count_byte_level(&mut self, text: &str) {
        each_word(text, |word| self.add(word));
    }

    /// Counts the words of a document in SentencePiece style: a space before the text, `▁` for spaces, each digit a
    /// word of its own, white space cut where it changes.
    pub(crate) fn count_spaced(&mut self, text: &str) {
        let mut marked = String::with_capacity(text.len() + 1);
        marked.push(' ');
        marked.push_str(text);
        let mut word_marked = String::new();
        each_word(&marked, |word| {
            word_marked.clear();
            word_marked.extend(word.chars().map(|c| if c == ' ' { SPACE_MARK } else { c }));
            let last = word.chars().next_back();
            if last.is_some_and(char::is_numeric) {
                for (at, c) in word_marked.char_indices() {
                    self.add(&word_marked[at..at + c.len_utf8()]);
                }
            } else if last.is_some_and(char::is_whitespace) {
                let mut run = 0;
                for (at, pair) in word_marked.char_indices().zip(word_marked.chars().skip(1)) {
                    if at.1 != pair {
                        let end = at.0 + at.1.len_utf8();
                        self.add(&word_marked[run..end]);
                        run = end;
                    }
                }
                self.add(&word_marked[run..]);
            } else {
                self.add(&word_marked);
            }
        });
    }

    fn add(&mut self, word: &str) {
        let mut rest = word;
        while !rest.is_empty() {
            let (head, tail) = rest.split_at(rest.floor_char_boundary(WORD_BYTES_MAX));
            match self.counts.get_mut(head) {
                Some(count) => *count += 1,
                None => {
                    self.counts.insert(head.to_owned(), 1);
                    self.used_bytes += head.len() as u64 + ENTRY_BYTES;
                }
            }
            rest = tail;
        }
        if self.used_bytes > self.limit_bytes {
            self.forget_rare();
        }
    }

    fn forget_rare(&mut self) {
        let mut rare = 0;
        while self.used_bytes > self.limit_bytes / 2 {
            rare += 1;
            self.counts.retain(|_, count| *count > rare);
            self.used_bytes = self.counts.keys().map(|word| word.len() as u64 + ENTRY_BYTES).sum();
        }
        self.forgotten = self.forgotten.max(rare);
    }

    /// The words in alphabetical order with their counts.
    pub(crate) fn into_sorted(self) -> Vec<(String, u64)> {
        if self.forgotten > 0 {
            let limit_bytes = self.limit_bytes;
            tracing::warn!(
                up_to = self.forgotten,
                limit_bytes,
                "words this rare were forgotten now and then to keep to the memory"
            );
        }
        let mut words: Vec<(String, u64)> = self.counts.into_iter().collect();
        words.sort_unstable();
        words
    }
}

/// Calls `with` for each word; the words on end are the text. White space before a word gives its last character to
/// that word, or stands alone if that is no plain space.
fn each_word(text: &str, mut with: impl FnMut(&str)) {
    let Some(pattern) = WORD.as_ref() else { return };
    let mut at = 0;
    while let Some(found) = pattern.find_at(text, at) {
        let mut end = found.end();
        let last = found.as_str().chars().next_back();
        if let Some(last) = last.filter(|c| c.is_whitespace() && end < text.len()) {
            let shorter = end - last.len_utf8();
            if shorter > found.start() {
                end = shorter;
            }
        }
        with(&text[found.start()..end]);
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        each_word(text, |word| found.push(word.to_owned()));
        found
    }

    #[test]
    fn words_are_gpt2s() {
        assert_eq!(
            words("I'll  go,\n\nit's 1st "),
            ["I", "'ll", " ", " go", ",", "\n", "\n", "it", "'s", " 1", "st", " "]
        );
        assert_eq!(words("a \n b"), ["a", " \n", " b"]);
        assert!(words("").is_empty());
    }

    #[test]
    fn spaced_words_have_single_digits_and_even_white_space() {
        let mut counts = WordCounts::new(1 << 20);
        counts.count_spaced("x 42\n\n  y");
        let found: Vec<String> = counts.into_sorted().into_iter().map(|(word, _)| word).collect();
        assert_eq!(found, ["\n\n", "2", "4", "▁", "▁x", "▁y"]);
    }

    #[test]
    fn memory_is_bounded_and_frequent_words_stay() {
        let mut counts = WordCounts::new(20_000);
        for at in 0..5_000 {
            counts.count_byte_level(&format!("the w{}x", char::from_u32(0x4E00 + at).unwrap()));
        }
        assert!(counts.used_bytes <= 20_000 && counts.counts["the"] == 5_000);
    }
}
