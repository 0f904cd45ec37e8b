//! A training step: forward, backward, gradient norm, AdamW.

use crate::BenchError;
use crate::bench::{Bench, Outcome, Subject};
use crate::decode::name;
use backend::{Heads, Precision};
use model::{Config, Rope, RopeScaling, cost};
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

/// The shape of AMD-Llama-135M.
fn amd_135m(sequence: usize) -> Config {
    Config {
        vocab: 32_000,
        width: 768,
        layers: 12,
        heads: Heads { heads: 12, kv_heads: 12, head_dim: 64 },
        ffn_width: 2048,
        context: sequence.max(2048),
        norm_epsilon: 1e-5,
        rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
        tied: false,
        bos: None,
        eos: Vec::new(),
        architecture: model::Architecture::Llama,
        form: model::Form::LLAMA,
        initializer_range: 0.02,
    }
}
