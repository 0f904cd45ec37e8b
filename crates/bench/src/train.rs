//! A training step: forward, backward, gradient norm, AdamW.

use crate::BenchError;
use crate::bench::{Bench, Outcome, Subject};
use crate::decode::name;
use crate::shapes::amd_135m;
use backend::Precision;
use model::{Config, cost};
use train::BatchShape;

/// Sequences and tokens of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainShape {
    /// Tokens of a sequence.
    pub sequence: usize,
    /// Sequences that go through the model together; one micro-batch is a step.
    pub micro_batch: usize,
}

/// Training tokens per second of a model of `config`, by default AMD-135M's shape, on random weights and tokens.
///
/// # Errors
/// No memory, or a config that is refused.
pub fn train(
    bench: &Bench<'_>,
    config: Option<Config>,
    shape: TrainShape,
    precision: Precision,
) -> Result<Outcome, BenchError> {
    let config = config.unwrap_or_else(|| amd_135m(shape.sequence));
    let TrainShape { sequence, micro_batch } = shape;
    let batch = BatchShape { tokens: sequence, sequences: micro_batch, micro_batch };
    let ceiling = bench.ceilings.by_arithmetic(precision, cost::flops_per_token(&config, sequence).training);
    let subject = Subject {
        name: "train",
        shape: format!("{micro_batch} × {sequence} tokens"),
        dtype: name(precision),
        unit: "tokens/s",
        step: "step",
    };
    bench.by_arithmetic(subject, batch.batch_tokens() as f64, ceiling, || {
        let mut done = |step| {
            if step == 0 {
                bench.warm();
            }
        };
        Ok(train::time_steps(bench.backend(), &config, batch, precision, bench.runs, &mut done)?)
    })
}
