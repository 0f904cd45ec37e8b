//! Resampling: the harness's error of a perplexity, and intervals of differences.

use crate::python::Random;
use std::num::NonZero;
use std::thread;

/// Resamples of the harness.
const ITERATIONS: usize = 100_000;
/// Resamples of one generator.
const CHUNK: usize = 1000;

/// Standard deviation of `statistic(mean of a resample)` over 100,000 resamples, a thousand from each generator
/// `random.Random(i)`, as `bootstrap_stderr` has it.
pub(crate) fn stderr(values: &[f64], statistic: fn(f64) -> f64) -> f64 {
    let chunks = ITERATIONS / CHUNK;
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(chunks);
    let mut replicates = vec![0.0; ITERATIONS];
    thread::scope(|scope| {
        let share = chunks.div_ceil(threads);
        for (thread, part) in replicates.chunks_mut(share * CHUNK).enumerate() {
            scope.spawn(move || {
                for (chunk, out) in part.chunks_mut(CHUNK).enumerate() {
                    let mut random = Random::new((thread * share + chunk) as u32);
                    out.iter_mut().for_each(|out| *out = statistic(resampled_mean(&mut random, values)));
                }
            });
        }
    });
    sample_deviation(&replicates)
}

/// Mean of `random.choices(values, k=len(values))`.
pub(crate) fn resampled_mean(random: &mut Random, values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let sum: f64 = (0..values.len()).map(|_| values[(random.uniform() * n) as usize]).sum();
    sum / n
}

/// The mean.
pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// √(Σ (x − mean)² / (n − 1)).
pub(crate) fn sample_deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (values.len() as f64 - 1.0)).sqrt()
}
