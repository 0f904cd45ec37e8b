//! The merge loop: join the most frequent pair of neighbours, again and again.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// A learned vocabulary; ids are places in `pieces`.
pub(crate) struct Learned {
    /// The single symbols that were given, then the joint ones in the order they were learned.
    pub(crate) pieces: Vec<String>,
    /// The pairs that were joined, in that order. Two pairs may make one piece.
    pub(crate) merges: Vec<(u32, u32)>,
}

type Pair = (u32, u32);

/// Neighbours that occur fewer times than this are left apart.
const COUNT_MIN: u64 = 2;

/// Learns pieces until there are `vocab` of them or no pair is left that occurs twice. `words` are runs of symbols with
/// a count; no piece gets longer than `characters_max`. Equally frequent pairs are joined in the order of their ids.
pub(crate) fn learn(
    singles: Vec<String>,
    words: impl Iterator<Item = (Vec<Vec<u32>>, u64)>,
    vocab: usize,
    characters_max: usize,
) -> Learned {
    let mut state = State::new(singles, characters_max);
    for (runs, count) in words {
        for run in runs {
            state.add_word(&run, count);
        }
    }
    let mut queue: BinaryHeap<(u64, Reverse<Pair>)> =
        state.pairs.iter().map(|(&pair, found)| (found.count, Reverse(pair))).collect();
    let mut merges = Vec::new();
    while state.pieces.len() < vocab
        && let Some((count, Reverse(pair))) = queue.pop()
    {
        let now = state.pairs.get(&pair).map_or(0, |found| found.count);
        if now < COUNT_MIN {
            continue; // it is queued again if it becomes more frequent
        } else if now != count {
            queue.push((now, Reverse(pair)));
        } else {
            merges.push(pair);
            for risen in state.join(pair) {
                queue.push((state.pairs[&risen].count, Reverse(risen)));
            }
        }
    }
    Learned { pieces: state.pieces, merges }
}

/// Where a pair occurs.
#[derive(Default)]
struct Places {
    count: u64,
    /// Words that have, or had, the pair; may repeat.
    words: Vec<u32>,
}

struct State {
    pieces: Vec<String>,
    characters: Vec<usize>,
    ids: HashMap<String, u32>,
    characters_max: usize,
    /// All words on end; a word shrinks in place.
    symbols: Vec<u32>,
    /// Begin, length now, and count of each word.
    words: Vec<(usize, u32, u64)>,
    pairs: HashMap<Pair, Places>,
}

impl State {
    fn new(singles: Vec<String>, characters_max: usize) -> Self {
        let ids = singles.iter().cloned().zip(0u32..).collect();
        let characters = vec![1; singles.len()];
        let (symbols, words, pairs) = (Vec::new(), Vec::new(), HashMap::new());
        Self { pieces: singles, characters, ids, characters_max, symbols, words, pairs }
    }

    fn add_word(&mut self, word: &[u32], count: u64) {
        if word.len() < 2 {
            return;
        }
        let id = self.words.len() as u32;
        self.words.push((self.symbols.len(), word.len() as u32, count));
        self.symbols.extend_from_slice(word);
        for pair in word.windows(2) {
            self.raise((pair[0], pair[1]), count, id);
        }
    }

    /// Whether a pair may become a piece.
    fn fits(&self, pair: Pair) -> bool {
        self.characters[pair.0 as usize] + self.characters[pair.1 as usize] <= self.characters_max
    }

    fn raise(&mut self, pair: Pair, count: u64, word: u32) {
        if self.fits(pair) {
            let places = self.pairs.entry(pair).or_default();
            places.count += count;
            if places.words.last() != Some(&word) {
                places.words.push(word);
            }
        }
    }

    fn lower(&mut self, pair: Pair, count: u64) {
        if let Some(places) = self.pairs.get_mut(&pair) {
            places.count = places.count.saturating_sub(count);
        }
    }

    /// Joins a pair in all words; returns the pairs that became more frequent, in order.
    fn join(&mut self, pair: Pair) -> Vec<Pair> {
        let text = format!("{}{}", self.pieces[pair.0 as usize], self.pieces[pair.1 as usize]);
        let joint = *self.ids.entry(text.clone()).or_insert(self.pieces.len() as u32);
        if joint as usize == self.pieces.len() {
            self.pieces.push(text);
            self.characters.push(self.characters[pair.0 as usize] + self.characters[pair.1 as usize]);
        }
        let mut places = self.pairs.remove(&pair).unwrap_or_default().words;
        places.sort_unstable();
        places.dedup();
        let mut risen = Vec::new();
        for word in places {
            self.join_in_word(pair, joint, word, &mut risen);
        }
        risen.sort_unstable();
        risen.dedup();
        risen.retain(|pair| self.pairs.contains_key(pair));
        risen
    }

    fn join_in_word(&mut self, pair: Pair, joint: u32, word: u32, risen: &mut Vec<Pair>) {
        let (begin, len, count) = self.words[word as usize];
        let end = begin + len as usize;
        let (mut read, mut write) = (begin, begin);
        while read < end {
            let here = self.symbols[read];
            if read + 1 < end && (here, self.symbols[read + 1]) == pair {
                if write > begin {
                    let before = self.symbols[write - 1];
                    self.lower((before, here), count);
                    self.raise((before, joint), count, word);
                    risen.push((before, joint));
                }
                if read + 2 < end {
                    let after = self.symbols[read + 2];
                    self.lower((pair.1, after), count);
                    self.raise((joint, after), count, word);
                    risen.push((joint, after));
                }
                self.symbols[write] = joint;
                read += 2;
            } else {
                self.symbols[write] = here;
                read += 1;
            }
            write += 1;
        }
        self.words[word as usize].1 = (write - begin) as u32;
    }
}
