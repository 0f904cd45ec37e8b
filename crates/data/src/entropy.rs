//! The loss of a model that knows how frequent tokens are and nothing else: what training has to beat.

use crate::DataError;
use crate::manifest::{Manifest, Part};
use std::path::Path;

/// Entropy of the tokens of a part of the shards in `dir`, in nats per token: `-Σ p(t) ln p(t)` with the frequencies of
/// that very part. 0 where it has no tokens.
///
/// # Errors
/// Whatever [`Manifest::load`] says, and [`DataError::Shard`].
pub fn unigram_entropy(dir: &Path, part: Part) -> Result<f64, DataError> {
    const STEP: u64 = 1 << 16;
    let manifest = Manifest::load(dir)?;
    let mut counts: Vec<u64> = Vec::new();
    let mut ids = Vec::new();
    for source in &manifest.sources {
        for shard in manifest.open_shards(dir, source, part)? {
            for from in (0..shard.tokens()).step_by(STEP as usize) {
                ids.clear();
                shard.read(from, from + STEP, &mut ids)?;
                for &id in &ids {
                    let id = id as usize;
                    if counts.len() <= id {
                        counts.resize(id + 1, 0);
                    }
                    counts[id] += 1;
                }
            }
        }
    }
    Ok(entropy(&counts))
}

fn entropy(counts: &[u64]) -> f64 {
    let total: u64 = counts.iter().sum();
    let part = |&count: &u64| {
        let p = count as f64 / total as f64;
        -p * p.ln()
    };
    counts.iter().filter(|count| **count > 0).map(part).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_counts_have_the_logarithm_of_their_number() {
        assert!((entropy(&[5, 0, 5, 5, 5]) - 4f64.ln()).abs() < 1e-12);
        assert_eq!(entropy(&[7]), 0.0);
        assert_eq!(entropy(&[]), 0.0);
    }
}
