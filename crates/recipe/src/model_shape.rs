//! The `[model]` section.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A Llama-shaped model. Where `from` is given, the shape is that of the folder and the other keys must be absent or
/// agree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelShape {
    /// A Hugging Face folder (a checkpoint of ours is one) whose weights the run starts from, with a fresh optimizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// Tokens in the vocabulary; 0 takes the tokenizer's.
    pub vocab: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; 0 is as many as `heads`.
    pub kv_heads: usize,
    /// Width of a head; 0 is `width / heads`.
    pub head_dim: usize,
    /// Inner width of the feed-forward layer.
    pub ffn_width: usize,
    /// Longest sequence, in tokens.
    pub context: usize,
    /// ε of RMSNorm.
    pub norm_epsilon: f32,
    /// Base of the rotary angles.
    pub rope_theta: f32,
    /// Whether the output matrix is the embedding itself.
    pub tied: bool,
    /// How the first weights are drawn.
    pub init: Init,
    /// Standard deviation for `init = "normal"`.
    pub init_std: f32,
}

/// Schemes of initial weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// N(0, √(2/(5·width))); attention output and feed-forward down projections N(0, 1/(√width·layers)). TinyLlama's
    /// and AMD's.
    Amd,
    /// N(0, 0.02); projections into the residual stream divided by √(2·layers).
    Gpt2,
    /// N(0, 1/√width), residual projections divided by √(2·layers), as nanotron does. SmolLM's.
    Smollm,
    /// N(0, `init_std`) everywhere.
    Normal,
}

impl Default for ModelShape {
    fn default() -> Self {
        Self {
            from: None,
            vocab: 0,
            width: 0,
            layers: 0,
            heads: 0,
            kv_heads: 0,
            head_dim: 0,
            ffn_width: 0,
            context: 0,
            norm_epsilon: 1e-5,
            rope_theta: 10_000.0,
            tied: false,
            init: Init::Amd,
            init_std: 0.02,
        }
    }
}
