//! Tiny models with random weights, and the machines to run them on.

use backend::{Backend, Heads, Precision};
use cpu::Cpu;
use model::{Config, Parameters, Rope, RopeScaling, Scheme};
use std::ops::ControlFlow;

/// Every level that this machine has; two threads, so that work is split.
pub(crate) fn machines() -> impl Iterator<Item = Cpu> {
    cpu::available().into_iter().map(|level| Cpu::new(2, Some(level)).unwrap())
}

/// Two layers with grouped queries; widths that are no multiple of a vector.
pub(crate) fn config(vocab: usize, context: usize) -> Config {
    Config {
        vocab,
        width: 24,
        layers: 2,
        heads: Heads { heads: 4, kv_heads: 2, head_dim: 6 },
        ffn_width: 40,
        context,
        norm_epsilon: 1e-5,
        rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
        tied: false,
        bos: Some(1),
        eos: vec![2],
        architecture: model::Architecture::Llama,
        form: model::Form::LLAMA,
        initializer_range: 0.02,
    }
}

/// One layer as wide as the largest blocks of quantised weights and the largest tiles of a matrix product.
pub(crate) fn wide_config(vocab: usize, context: usize) -> Config {
    let heads = Heads { heads: 4, kv_heads: 2, head_dim: 64 };
    Config { width: 256, layers: 1, heads, ffn_width: 256, ..config(vocab, context) }
}

/// Weights large enough that the model has opinions.
pub(crate) fn parameters(b: &dyn Backend, config: &Config, seed: u64, precision: Precision) -> Parameters {
    Parameters::initialize(b, config, Scheme::Normal { std: 0.4 }, seed, precision).unwrap()
}

/// Ids below `vocab` that look random.
pub(crate) fn ids(count: usize, vocab: usize) -> Vec<u32> {
    (0..count).map(|i| ((i * i * 7 + i * 13 + 5) % vocab) as u32).collect()
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Takes every token.
pub(crate) fn listen(_: infer::TokenEvent) -> ControlFlow<()> {
    ControlFlow::Continue(())
}
