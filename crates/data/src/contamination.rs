//! Which items of benchmarks a text holds: shared runs of words (Brown et al., 2020, appendix C).
//!
//! Words are what white space leaves of a text in lower case without punctuation. Every run of `n` of them becomes 64 bits,
//! hashed as it rolls over the text, and is looked up among those of the items: linear in the text, and no memory but the
//! index. Two different runs meet in 64 bits with a chance of 10⁻¹⁹, so among 10¹⁰ words and 10⁶ runs of items once in a
//! thousand corpora.

use std::collections::BTreeSet;

/// Factor of the rolling hash; odd, so that no bit is lost.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
/// Runs are found by this many of their first bits.
const BUCKET_BITS: u32 = 20;

/// A benchmark's items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskItems {
    /// The benchmark.
    pub name: String,
    /// Each item's text.
    pub texts: Vec<String>,
}

/// An item of a task, by their indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemId {
    /// Which task.
    pub task: u32,
    /// Which of its items.
    pub item: u32,
}

/// What is known of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskIndex {
    /// Its name.
    pub name: String,
    /// Its items.
    pub items: usize,
    /// Those of fewer words than a run: they cannot be found.
    pub short_items: usize,
}

/// The runs of words of all items.
#[derive(Clone, Debug)]
pub struct Contamination {
    words: usize,
    tasks: Vec<TaskIndex>,
    /// Sorted by hash.
    runs: Vec<(u64, ItemId)>,
    /// Where the runs of a bucket begin; one more than there are buckets.
    begins: Vec<u32>,
}

impl Contamination {
    /// An index of runs of `words` words.
    pub fn new(words: usize, tasks: &[TaskItems]) -> Self {
        let words = words.max(1);
        let (mut known, mut runs) = (Vec::with_capacity(tasks.len()), Vec::new());
        for (task, TaskItems { name, texts }) in (0..).zip(tasks) {
            let mut short_items = 0;
            for (item, text) in (0..).zip(texts) {
                let before = runs.len();
                each_run(text, words, &mut |hash| runs.push((hash, ItemId { task, item })));
                short_items += usize::from(runs.len() == before);
            }
            known.push(TaskIndex { name: name.clone(), items: texts.len(), short_items });
        }
        runs.sort_unstable();
        runs.dedup();
        let mut begins = vec![0u32; (1 << BUCKET_BITS) + 1];
        runs.iter().for_each(|(hash, _)| begins[bucket(*hash) + 1] += 1);
        for index in 1..begins.len() {
            begins[index] += begins[index - 1];
        }
        Self { words, tasks: known, runs, begins }
    }

    /// Words in a run.
    pub fn words(&self) -> usize {
        self.words
    }

    /// The tasks.
    pub fn tasks(&self) -> &[TaskIndex] {
        &self.tasks
    }

    /// The items that share a run with a text.
    pub fn items_in(&self, text: &str) -> BTreeSet<ItemId> {
        let mut found = BTreeSet::new();
        each_run(text, self.words, &mut |hash| found.extend(self.items_of(hash)));
        found
    }

    fn items_of(&self, hash: u64) -> impl Iterator<Item = ItemId> {
        let bucket = bucket(hash);
        let runs = &self.runs[self.begins[bucket] as usize..self.begins[bucket + 1] as usize];
        runs.iter().filter(move |run| run.0 == hash).map(|run| run.1)
    }
}

fn bucket(hash: u64) -> usize {
    (hash >> (64 - BUCKET_BITS)) as usize
}

/// Mixes all bits of a number into all (Stafford's thirteenth variant, as in SplitMix64).
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// The hash of every run of `words` words, in order. Of w₁ … wₙ it is Σ wᵢ · FACTORⁿ⁻ⁱ, mixed.
fn each_run(text: &str, words: usize, found: &mut dyn FnMut(u64)) {
    let out = FACTOR.wrapping_pow(u32::try_from(words).unwrap_or(u32::MAX));
    let mut last = vec![0u64; words];
    let (mut count, mut sum) = (0, 0u64);
    for word in text.split_whitespace() {
        let Some(hash) = word_hash(word) else { continue };
        let oldest = std::mem::replace(&mut last[count % words], hash);
        sum = sum.wrapping_mul(FACTOR).wrapping_add(hash).wrapping_sub(oldest.wrapping_mul(out));
        count += 1;
        if count >= words {
            found(mix(sum));
        }
    }
}

/// A word in lower case without punctuation (FNV-1a over its characters, mixed); `None` if nothing is left.
fn word_hash(word: &str) -> Option<u64> {
    let (mut hash, mut is_empty) = (0xcbf2_9ce4_8422_2325u64, true);
    for c in word.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase) {
        hash = (hash ^ u64::from(c)).wrapping_mul(0x0000_0100_0000_01b3);
        is_empty = false;
    }
    (!is_empty).then(|| mix(hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn index(words: usize, texts: &[&str]) -> Contamination {
        let texts = texts.iter().map(|&text| text.to_owned()).collect();
        Contamination::new(words, &[TaskItems { name: "task".into(), texts }])
    }

    /// The same by comparing words.
    fn shares(words: usize, one: &str, other: &str) -> bool {
        let normal = |text: &str| {
            let word = |word: &str| word.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
            let words: Vec<String> = text.split_whitespace().map(word).collect();
            words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>()
        };
        let (one, other) = (normal(one), normal(other));
        one.windows(words).any(|run| other.windows(words).any(|other| run == other))
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_comparing_words_finds(
            text in "([abA]\\.? ?){0,60}", item in "([ab],? ){0,20}", other in "([ab] ){0,20}", words in 1usize..6,
        ) {
            let index = index(words, &[&item, &other]);
            let found = index.items_in(&text);
            for (number, item) in [(0, &item), (1, &other)] {
                prop_assert_eq!(found.contains(&ItemId { task: 0, item: number }), shares(words, &text, item));
            }
        }
    }

    #[test]
    fn case_punctuation_and_space_do_not_hide_an_item() {
        let index = index(5, &["The quick, brown fox jumps!", "too short", "«Über» die Brücke am Fluss gehen"]);
        assert_eq!(index.tasks()[0], TaskIndex { name: "task".into(), items: 3, short_items: 1 });
        let items = |text| index.items_in(text).into_iter().map(|id| id.item).collect::<Vec<_>>();
        assert_eq!(items("… a QUICK -- the quick\n\tbrown  fox\u{2019} jumps over"), [0]);
        assert_eq!(items("the quick brown fox"), [0; 0]);
        assert_eq!(items("über die brücke AM fluss"), [2]);
        assert_eq!(items("the quick brown fox jumps. Über die Brücke am Fluss"), [0, 2]);
    }
}
