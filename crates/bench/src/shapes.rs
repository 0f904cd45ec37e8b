//! Shapes of known models.

use backend::Heads;
use model::{Config, Rope, RopeScaling};

/// AMD-Llama-135M, with a context of at least `context`.
pub fn amd_135m(context: usize) -> Config {
    Config {
        vocab: 32_000,
        width: 768,
        layers: 12,
        heads: Heads { heads: 12, kv_heads: 12, head_dim: 64 },
        ffn_width: 2048,
        context: context.max(2048),
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

/// CodeLlama-7b, the target of AMD's measurements, with a shorter context.
pub fn code_llama_7b() -> Config {
    Config {
        vocab: 32_016,
        width: 4096,
        layers: 32,
        heads: Heads { heads: 32, kv_heads: 32, head_dim: 128 },
        ffn_width: 11_008,
        rope: Rope { theta: 1_000_000.0, scaling: RopeScaling::None },
        ..amd_135m(2048)
    }
}

/// Small enough for a test.
#[cfg(test)]
pub(crate) fn tiny() -> Config {
    Config {
        vocab: 40,
        width: 24,
        layers: 1,
        heads: Heads { heads: 4, kv_heads: 2, head_dim: 6 },
        ffn_width: 40,
        context: 256,
        ..amd_135m(2048)
    }
}
