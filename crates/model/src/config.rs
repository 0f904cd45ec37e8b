//! What a model is: one `Config`, what its numbers mean, and what is refused.

pub(crate) mod gguf;
mod hugging_face;
mod llama2c;
mod rope;

pub(crate) use hugging_face::scaling as hf_scaling;
pub use rope::{Rope, RopeScaling};

use crate::{Architecture, Form};
use backend::Heads;
use std::borrow::Cow;

/// The shape of a model and what else its forward pass depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Tokens in the vocabulary: rows of the embedding.
    pub vocab: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Heads of every attention layer.
    pub heads: Heads,
    /// Inner width of the feed-forward layer.
    pub ffn_width: usize,
    /// Longest sequence that the model was made for, in tokens.
    pub context: usize,
    /// ε of every norm.
    pub norm_epsilon: f32,
    /// Rotary position embedding; unused where positions are learned.
    pub rope: Rope,
    /// Whether the output matrix is the embedding itself.
    pub tied: bool,
    /// Token that begins a text.
    pub bos: Option<u32>,
    /// Tokens that end a text.
    pub eos: Vec<u32>,
    /// The family.
    pub architecture: Architecture,
    /// What differs from a plain Llama.
    pub form: Form,
    /// Standard deviation noted in `config.json`; the first weights are drawn by [`crate::Scheme`], not by this.
    pub initializer_range: f32,
}

/// What is wrong with a config. It names the field as `config.json` does; who knows the file puts it before.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A number outside the range that is handled.
    #[error("{field} is {value}, but it must be {rule}")]
    OutOfRange {
        /// The key.
        field: &'static str,
        /// What it says.
        value: String,
        /// The range.
        rule: String,
    },
    /// Something that this program does not compute.
    #[error("{field} is `{value}`, which is not supported ({supported}); convert the model or choose another one")]
    Unsupported {
        /// The key.
        field: &'static str,
        /// What it says.
        value: String,
        /// What would be.
        supported: Cow<'static, str>,
    },
    /// A key that must be there.
    #[error("{field} is missing; add it or take the file from its publisher again")]
    Missing {
        /// The key.
        field: &'static str,
    },
}

/// Largest sizes handled. They keep every product of sizes far below 2^63.
const MOST: [(&str, usize); 8] = [
    ("vocab_size", 1 << 20),
    ("hidden_size", 1 << 16),
    ("num_hidden_layers", 1 << 10),
    ("num_attention_heads", 1 << 10),
    ("num_key_value_heads", 1 << 10),
    ("head_dim", 1 << 10),
    ("intermediate_size", 1 << 18),
    ("max_position_embeddings", 1 << 24),
];

fn require(holds: bool, field: &'static str, value: impl ToString, rule: impl Into<String>) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError::OutOfRange { field, value: value.to_string(), rule: rule.into() }) }
}

impl Config {
    /// Width of token vectors: that of the residual stream, unless they are projected.
    pub fn token_width(&self) -> usize {
        self.form.token_width.unwrap_or(self.width)
    }

    /// Checks every number and relation that the rest of the crate relies on.
    ///
    /// # Errors
    /// [`ConfigError::OutOfRange`] for the first field that is wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let Heads { heads, kv_heads, head_dim } = self.heads;
        let sizes = [self.vocab, self.width, self.layers, heads, kv_heads, head_dim, self.ffn_width, self.context];
        for ((field, most), value) in MOST.into_iter().zip(sizes) {
            require((1..=most).contains(&value), field, value, format!("1 to {most}"))?;
        }
        let turns = !self.architecture.learns_positions();
        require(!turns || head_dim.is_multiple_of(2), "head_dim", head_dim, "even (rotary embedding turns pairs)")?;
        let rule = format!("a divisor of num_attention_heads = {heads}");
        require(heads.is_multiple_of(kv_heads), "num_key_value_heads", kv_heads, rule)?;
        let token_width = self.token_width();
        require((1..=1 << 16).contains(&token_width), "word_embed_proj_dim", token_width, "1 to 65536")?;
        let epsilon = self.norm_epsilon;
        require(epsilon > 0.0 && epsilon < 1.0, "rms_norm_eps", epsilon, "between 0 and 1")?;
        let range = self.initializer_range;
        require((0.0..10.0).contains(&range), "initializer_range", range, "from 0 to 10")?;
        for (field, &id) in
            self.bos.iter().map(|id| ("bos_token_id", id)).chain(self.eos.iter().map(|id| ("eos_token_id", id)))
        {
            require((id as usize) < self.vocab, field, id, format!("below vocab_size = {}", self.vocab))?;
        }
        self.rope.validate(head_dim)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A model of a few hundred weights for tests of other modules.
    pub(crate) fn small(kv_heads: usize, tied: bool) -> Config {
        Config {
            vocab: 24,
            width: 16,
            layers: 2,
            heads: Heads { heads: 4, kv_heads, head_dim: 4 },
            ffn_width: 24,
            context: 64,
            norm_epsilon: 1e-5,
            rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
            tied,
            bos: Some(1),
            eos: vec![2],
            architecture: Architecture::Llama,
            form: Form::LLAMA,
            initializer_range: 0.02,
        }
    }

    #[test]
    fn sound_configs_pass() {
        small(2, true).validate().unwrap();
        small(4, false).validate().unwrap();
    }

    #[test]
    fn a_fault_is_named_with_its_value_and_range() {
        let mut odd = small(2, true);
        odd.heads.head_dim = 5;
        assert_eq!(
            odd.validate().unwrap_err().to_string(),
            "head_dim is 5, but it must be even (rotary embedding turns pairs)"
        );
        let mut three = small(3, true);
        three.heads.kv_heads = 3;
        assert_eq!(
            three.validate().unwrap_err().to_string(),
            "num_key_value_heads is 3, but it must be a divisor of num_attention_heads = 4"
        );
        let mut huge = small(2, true);
        huge.vocab = usize::MAX;
        assert!(huge.validate().unwrap_err().to_string().contains("1 to 1048576"));
        let mut outside = small(2, true);
        outside.eos = vec![24];
        assert!(outside.validate().unwrap_err().to_string().starts_with("eos_token_id is 24"));
        let mut infinite = small(2, true);
        infinite.rope.theta = f32::INFINITY;
        assert!(infinite.validate().is_err());
    }
}
