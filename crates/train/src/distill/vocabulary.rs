//! Which of the target's tokens a draft has ids for.

use crate::TrainError;
use data::Loader;

/// Tokens of training text that are counted: enough for the order of tokens that occur more than once in 100,000.
const COUNTED_TOKENS: u64 = 4 << 20;

/// The ids of `always`, and of the training text's tokens the most frequent ones, `most` in all, in ascending order;
/// all ids below `vocab` where there are no more than that. Of equally frequent ones the lower id is taken.
///
/// # Errors
/// Shards that cannot be read.
pub fn frequent_ids(loader: &Loader, vocab: usize, always: &[u32], most: usize) -> Result<Vec<u32>, TrainError> {
    if most >= vocab {
        return Ok((0..vocab as u32).collect());
    }
    let mut counts = vec![0u64; vocab];
    let samples = (COUNTED_TOKENS / loader.sequence() as u64).clamp(1, loader.samples_per_epoch());
    for index in 0..samples {
        for &id in loader.sample(index)?.targets() {
            counts[id as usize] += 1;
        }
    }
    for &id in always {
        counts[id as usize] = u64::MAX;
    }
    let mut ids: Vec<u32> = (0..vocab as u32).collect();
    ids.sort_by_key(|&id| std::cmp::Reverse(counts[id as usize]));
    ids.truncate(most.max(1));
    ids.sort_unstable();
    Ok(ids)
}
