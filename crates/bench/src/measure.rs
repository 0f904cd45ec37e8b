//! Repeated timing and the form of a result.

use crate::ceiling::Ceiling;
use backend::{KvType, Precision};
use serde::Serialize;
use std::time::Instant;

/// Why a benchmark could not run.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The machine has no room for the model or its buffers.
    #[error(transparent)]
    Backend(#[from] backend::BackendError),
    /// The model cannot be built or loaded.
    #[error(transparent)]
    Model(#[from] model::ModelError),
    /// The session cannot be opened or continued.
    #[error(transparent)]
    Infer(#[from] infer::InferError),
    /// The step cannot be planned.
    #[error(transparent)]
    Train(#[from] train::TrainError),
}

/// What a session computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Types {
    /// How products are computed.
    pub precision: Precision,
    /// How keys and values are kept.
    pub kv_type: KvType,
}

/// One line of `slm bench … --json`.
#[derive(Clone, Debug, Serialize)]
pub struct Measurement {
    /// What was run, for example `decode`.
    pub name: String,
    /// Its sizes, for example `depth 1024, 32 tokens`.
    pub shape: String,
    /// How the products were computed: `f32`, `bf16`, or for example `int8 (q4_0)`.
    pub dtype: String,
    /// How keys and values were kept, where there was a cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_type: Option<KvType>,
    /// Threads that computed.
    pub threads: usize,
    /// The backend's dispatch level.
    pub level: String,
    /// The middle run.
    pub median: f64,
    /// The worst run.
    pub min: f64,
    /// The best run.
    pub max: f64,
    /// What the three numbers count, for example `tokens/s`.
    pub unit: String,
    /// Timed runs; one more came before them, untimed.
    pub runs: usize,
    /// What the machine could do at most, in the same unit, and by which limit.
    pub ceiling: Option<f64>,
    /// Which limit that is, for example `read bandwidth 48.1 GB/s`.
    pub ceiling_by: Option<String>,
    /// `median / ceiling`.
    pub share_of_ceiling: Option<f64>,
    /// Nanoseconds that a cache line needed from core to core before and after, for what is bound by memory: whether
    /// the cores shared a cache, and whether they did all the while.
    pub placement_ns: Option<[f64; 2]>,
}

/// Middle, least and greatest of some runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statistics {
    /// The middle one (of an even number: the mean of the two in the middle).
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Statistics {
    /// Of `amount / seconds` of some runs.
    pub(crate) fn of_rates(amount: f64, seconds: &[f64]) -> Self {
        Self::of(&seconds.iter().map(|seconds| amount / seconds).collect::<Vec<_>>())
    }

    /// Of at least one value.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Self { median: (low + high) / 2.0, min: sorted[0], max: sorted[sorted.len() - 1] }
    }
}

/// Seconds of each of `runs` runs of `work`, behind one that is not timed; `warm` is called between it and the first.
pub(crate) fn seconds<E>(
    runs: usize,
    warm: impl FnOnce(),
    mut work: impl FnMut() -> Result<(), E>,
) -> Result<Vec<f64>, E> {
    work()?;
    warm();
    let mut seconds = Vec::with_capacity(runs);
    for _ in 0..runs.max(1) {
        let start = Instant::now();
        work()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(seconds)
}

impl Measurement {
    /// A result beside its ceiling, who computed it taken from `backend`.
    pub(crate) fn new(
        backend: &dyn backend::Backend,
        name: &str,
        shape: String,
        dtype: &str,
        unit: &str,
        runs: usize,
        statistics: Statistics,
        ceiling: Option<Ceiling>,
    ) -> Self {
        let description = backend.describe();
        Self {
            name: name.into(),
            shape,
            dtype: dtype.into(),
            cache_type: None,
            threads: description.threads,
            level: description.level,
            median: statistics.median,
            min: statistics.min,
            max: statistics.max,
            unit: unit.into(),
            runs,
            ceiling: ceiling.as_ref().map(|ceiling| ceiling.value),
            share_of_ceiling: ceiling.as_ref().map(|ceiling| statistics.median / ceiling.value),
            ceiling_by: ceiling.map(|ceiling| ceiling.by),
            placement_ns: None,
        }
    }

    /// The same result, of a session whose keys and values were kept as `kv_type`.
    pub(crate) fn with_cache(self, kv_type: KvType) -> Self {
        Self { cache_type: Some(kv_type), ..self }
    }
}

impl Measurement {
    /// The same as milliseconds, where it counts what is done a second.
    pub(crate) fn in_milliseconds(mut self) -> Self {
        (self.median, self.min, self.max) = (1e3 / self.median, 1e3 / self.max, 1e3 / self.min);
        self.ceiling = self.ceiling.map(|rate| 1e3 / rate);
        self.unit = "ms".into();
        self
    }
}

/// Token ids below `vocab` that look like nothing in particular and are the same in every run.
pub(crate) fn token_ids(count: usize, vocab: usize) -> Vec<u32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % vocab as u64) as u32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        let statistics = Statistics::of(&[4.0, 1.0, 3.0, 2.0]);
        assert_eq!((statistics.median, statistics.min, statistics.max), (2.5, 1.0, 4.0));
        assert_eq!(Statistics::of(&[7.0]).median, 7.0);
    }

    #[test]
    fn ids_stay_below_the_vocabulary_and_differ() {
        let ids = token_ids(1000, 512);
        assert!(ids.iter().all(|&id| id < 512));
        assert!(ids.iter().collect::<std::collections::HashSet<_>>().len() > 300);
    }
}
