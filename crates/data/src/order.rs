//! The order of training samples: a function of (seed, data, global index), with no table and no state.
//!
//! - **Epochs.** Epoch `e` of a source visits its `n` samples in the order of a pseudo-random permutation of `0..n`,
//!   keyed by BLAKE3 of (seed, content hash of the shards, source, epoch).
//! - **Permutation.** A balanced Feistel network over the smallest even number of bits that holds `n`, walked until
//!   the value is below `n` again (cycle walking): a bijection on `0..n` for any round function. Eight rounds; the round
//!   function is the finalizer of SplitMix64. All of it is integer arithmetic, so the order is the same on any machine.
//! - **Mixture.** Without weights, all samples of all sources are one permutation. With weights, the sources take turns
//!   so that among the first `n` samples, for every `n`, each source's count differs from its share by less than two (by
//!   at most ½ where there are two sources).
//!
//! Changing any constant here changes every run's order of data: a new version of the manifest would be due.

use blake3::Hasher;

/// Rounds of the Feistel network. Four are enough for a pseudo-random permutation in theory; eight cost 20 ns a sample.
const ROUNDS: usize = 8;
/// Weights are brought to integers of about this many bits, so that shares are exact to 10⁻⁹.
const WEIGHT_BITS: u32 = 32;

/// A pseudo-random bijection of `0..n`.
#[derive(Clone, Debug)]
pub struct Permutation {
    n: u64,
    half_bits: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// The bijection of `0..n` that `key` selects.
    pub fn new(n: u64, key: &blake3::Hash) -> Self {
        let bits = 64 - n.saturating_sub(1).leading_zeros();
        let mut stream = Hasher::new_keyed(key.as_bytes()).finalize_xof();
        let keys = std::array::from_fn(|_| {
            let mut bytes = [0; 8];
            stream.fill(&mut bytes);
            u64::from_le_bytes(bytes)
        });
        Self { n, half_bits: bits.div_ceil(2).max(1), keys }
    }

    /// Where `index` goes; `index` is below `n`.
    pub fn at(&self, index: u64) -> u64 {
        assert!(index < self.n, "{index} is not in 0..{}", self.n);
        let mut value = self.round_trip(index);
        // The domain has fewer than 4·n values, so this takes fewer than four turns on average.
        while value >= self.n {
            value = self.round_trip(value);
        }
        value
    }

    fn round_trip(&self, value: u64) -> u64 {
        let mask = u64::MAX >> (64 - self.half_bits);
        let (mut left, mut right) = ((value >> self.half_bits) & mask, value & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        (left << self.half_bits) | right
    }
}

/// The finalizer of SplitMix64.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Which source each sample of a weighted mixture comes from.
///
/// The sources are the leaves of a binary tree whose halves weigh about the same. Among the first `n` samples of a node,
/// `round(n · share)` go to its left half and the others to its right half. A child's count is therefore off by at most
/// (its share of the node) · (the node's error) + ½. Where a half is not a leaf, it has at most two thirds of its node,
/// so nodes are off by less than 1½ and leaves by less than 2, for any number of sources and samples.
#[derive(Clone, Debug)]
pub struct Mixture {
    root: Node,
}

#[derive(Clone, Debug)]
enum Node {
    Source(usize),
    Halves { left_weight: u64, weight: u64, halves: Box<[Node; 2]> },
}

impl Mixture {
    /// `weights` are finite; a source of weight 0 never has its turn, and one weight at least is greater.
    pub fn new(weights: &[f64]) -> Self {
        let sum: f64 = weights.iter().sum();
        let scale = 2f64.powi(WEIGHT_BITS as i32);
        let integer = |weight: f64| ((weight / sum * scale).round() as u64).max(1);
        let drawn = weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0);
        let mut sources: Vec<(usize, u64)> = drawn.map(|(source, &weight)| (source, integer(weight))).collect();
        assert!(!sources.is_empty(), "a mixture of nothing");
        sources.sort_by_key(|&(source, weight)| (std::cmp::Reverse(weight), source));
        Self { root: Node::new(&sources) }
    }

    /// The source of sample `index`, and how many of its samples came before.
    pub fn at(&self, index: u64) -> (usize, u64) {
        let (mut node, mut index) = (&self.root, index);
        loop {
            match node {
                Node::Source(source) => return (*source, index),
                Node::Halves { left_weight, weight, halves } => {
                    let left = rounded_share(index, *left_weight, *weight);
                    let goes_left = rounded_share(index.saturating_add(1), *left_weight, *weight) > left;
                    (node, index) = if goes_left { (&halves[0], left) } else { (&halves[1], index - left) };
                }
            }
        }
    }
}

impl Node {
    /// `sources` with their weights, heaviest first; at least one.
    fn new(sources: &[(usize, u64)]) -> Self {
        if let [(source, _)] = sources {
            return Self::Source(*source);
        }
        let weight: u64 = sources.iter().map(|source| source.1).sum();
        let left_weight = |count: usize| sources[..count].iter().map(|source| source.1).sum::<u64>();
        let unevenness = |count: &usize| (left_weight(*count) * 2).abs_diff(weight);
        let count = (1..sources.len()).min_by_key(unevenness).unwrap_or(1);
        let (left, right) = sources.split_at(count);
        Self::Halves { left_weight: left_weight(count), weight, halves: Box::new([Self::new(left), Self::new(right)]) }
    }
}

/// `n · part / whole`, rounded to the nearest integer.
fn rounded_share(n: u64, part: u64, whole: u64) -> u64 {
    ((u128::from(n) * u128::from(part) * 2 + u128::from(whole)) / (u128::from(whole) * 2)) as u64
}

/// Which sample of which source is drawn at a global index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Index of the source.
    pub source: usize,
    /// Index of the sample in the source.
    pub sample: u64,
    /// How often the source (without weights: everything) has been gone through before.
    pub epoch: u64,
}

/// The order of the samples of a set of sources.
#[derive(Clone, Debug)]
pub struct Order {
    seed: u64,
    content: String,
    /// Name and number of samples.
    sources: Vec<(String, u64)>,
    mixture: Option<Mixture>,
    total: u64,
}

impl Order {
    /// `sources` are names and numbers of samples, at least one in all; `weights` one for each source, or none. A
    /// source whose weight is greater than 0 has at least one sample; one whose weight is 0 is not drawn.
    pub fn new(seed: u64, content: &str, sources: Vec<(String, u64)>, weights: Option<&[f64]>) -> Self {
        let drawn = |index: usize| weights.is_none_or(|weights| weights[index] > 0.0);
        let total = sources.iter().enumerate().filter(|(index, _)| drawn(*index)).map(|(_, source)| source.1).sum();
        assert!(total > 0, "an order of no samples");
        if let Some(weights) = weights {
            assert_eq!(weights.len(), sources.len());
            assert!((0..weights.len()).all(|i| !drawn(i) || sources[i].1 > 0), "a weighted source without samples");
        }
        Self { seed, content: content.into(), sources, mixture: weights.map(Mixture::new), total }
    }

    /// Samples of all sources that are drawn.
    pub fn samples_per_epoch(&self) -> u64 {
        self.total
    }

    /// What is drawn at `index`; there is no last index.
    pub fn at(&self, index: u64) -> Draw {
        match &self.mixture {
            Some(mixture) => {
                let (source, nth) = mixture.at(index);
                let (name, samples) = &self.sources[source];
                let epoch = nth / samples;
                let sample = Permutation::new(*samples, &self.key(name, epoch)).at(nth % samples);
                Draw { source, sample, epoch }
            }
            None => {
                let epoch = index / self.total;
                let mut sample = Permutation::new(self.total, &self.key("", epoch)).at(index % self.total);
                let mut source = 0;
                while sample >= self.sources[source].1 {
                    sample -= self.sources[source].1;
                    source += 1;
                }
                Draw { source, sample, epoch }
            }
        }
    }

    fn key(&self, source: &str, epoch: u64) -> blake3::Hash {
        let mut hasher = Hasher::new_derive_key("slm 2026 order of training samples v1");
        hasher.update(&self.seed.to_le_bytes()).update(&epoch.to_le_bytes());
        for text in [&*self.content, source] {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        hasher.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        #[test]
        fn a_permutation_is_a_bijection(n in 1u64..3000, key in any::<[u8; 32]>()) {
            let permutation = Permutation::new(n, &blake3::Hash::from_bytes(key));
            let images: HashSet<u64> = (0..n).map(|index| permutation.at(index)).collect();
            prop_assert_eq!(images.len() as u64, n);
            prop_assert!(images.iter().all(|&image| image < n));
        }

        #[test]
        fn large_permutations_stay_within(n in 1u64.., index in any::<u64>(), key in any::<[u8; 32]>()) {
            prop_assert!(Permutation::new(n, &blake3::Hash::from_bytes(key)).at(index % n) < n);
        }

        #[test]
        fn shares_hold_in_every_prefix(weights in proptest::collection::vec(0.001f64..10.0, 1..12), length in 1u64..2000) {
            let mixture = Mixture::new(&weights);
            let sum: f64 = weights.iter().sum();
            let bound = if weights.len() <= 2 { 0.5 + 1e-5 } else { 2.0 };
            let mut counts = vec![0u64; weights.len()];
            for index in 0..length {
                let (source, nth) = mixture.at(index);
                prop_assert_eq!(nth, counts[source], "sample {} of source {}", index, source);
                counts[source] += 1;
                for (count, weight) in counts.iter().zip(&weights) {
                    let share = (index + 1) as f64 * weight / sum;
                    prop_assert!((*count as f64 - share).abs() < bound, "{:?} of {:?} at {}", counts, weights, index);
                }
            }
        }

        #[test]
        fn every_sample_once_an_epoch(counts in proptest::collection::vec(1u64..60, 1..5), seed in any::<u64>(), weighted in any::<bool>()) {
            let sources: Vec<_> = counts.iter().enumerate().map(|(i, &n)| (format!("s{i}"), n)).collect();
            let weights: Vec<f64> = counts.iter().map(|&n| n as f64).collect();
            let order = Order::new(seed, "content", sources, weighted.then_some(&weights[..]));
            let mut seen = HashSet::new();
            for index in 0..order.samples_per_epoch() {
                let draw = order.at(index);
                prop_assert!(seen.insert((draw.source, draw.sample, draw.epoch)));
                prop_assert_eq!(order.at(index), draw);
            }
            // With weights in proportion to the samples, an epoch of all is one of each, but for rounding.
            let early = seen.iter().filter(|draw| draw.2 == 0).count() as u64;
            prop_assert!(early + 2 * counts.len() as u64 >= order.samples_per_epoch());
            prop_assert!(weighted || early == order.samples_per_epoch());
        }
    }

    #[test]
    fn the_order_is_fixed_for_all_time() {
        let order = Order::new(7, "content", vec![("a".into(), 1000), ("b".into(), 10)], Some(&[3.0, 1.0]));
        let draws: Vec<_> = (0..8).map(|index| order.at(index)).map(|draw| (draw.source, draw.sample)).collect();
        assert_eq!(draws, [(0, 742), (0, 88), (1, 1), (0, 138), (0, 337), (0, 751), (1, 8), (0, 861)]);
        let plain = Order::new(7, "content", vec![("a".into(), 1000), ("b".into(), 10)], None);
        let draws: Vec<_> = [0, 1, 2, 1009, 1010].map(|index| plain.at(index).sample).into();
        assert_eq!(draws, [656, 498, 206, 894, 213]);
    }

    #[test]
    fn seeds_sources_and_epochs_differ() {
        let order = |seed| Order::new(seed, "content", vec![("a".into(), 1 << 20)], None);
        let first = |order: Order, from: u64| (from..from + 16).map(|index| order.at(index).sample).collect::<Vec<_>>();
        assert_ne!(first(order(1), 0), first(order(2), 0));
        assert_ne!(first(order(1), 0), first(order(1), 1 << 20));
    }
}
