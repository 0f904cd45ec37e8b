//! What a Llama-shaped model is: one `Config`, what its numbers mean, and what is refused.

pub(crate) mod gguf;
mod hugging_face;
mod llama2c;

use backend::Heads;

/// Families of models that differ in a tensor or two and in what files call them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Llama and what has its shape: SmolLM, Mistral without its window, AMD-135M.
    Llama,
    /// Qwen 2 and 2.5 (Yang et al., 2024): a Llama whose query, key and value projections have biases.
    Qwen2,
}

impl Architecture {
    /// All that are computed.
    pub(crate) const ALL: [Self; 2] = [Self::Llama, Self::Qwen2];

    /// `model_type` of a `config.json`, `general.architecture` of a GGUF file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
        }
    }

    /// The class in transformers.
    pub(crate) const fn class(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
        }
    }

    /// Whether query, key and value projections have biases.
    pub const fn has_qkv_bias(self) -> bool {
        matches!(self, Self::Qwen2)
    }
}

/// The shape of a Llama model and what else its forward pass depends on.
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
    /// ε of every RMSNorm.
    pub norm_epsilon: f32,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Whether the output matrix is the embedding itself.
    pub tied: bool,
    /// Token that begins a text.
    pub bos: Option<u32>,
    /// Tokens that end a text.
    pub eos: Vec<u32>,
    /// The family.
    pub architecture: Architecture,
    /// Standard deviation noted in `config.json`; the first weights are drawn by [`crate::Scheme`], not by this.
    pub initializer_range: f32,
}

/// Rotary position embedding (Su et al., 2021) over all elements of a head, in Hugging Face's half-split pairing.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base θ: pair `i` turns by `position · θ^(−2i/head_dim)`.
    pub theta: f32,
    /// How those frequencies are stretched for longer contexts.
    pub scaling: RopeScaling,
}

/// Changes of the rotary frequencies.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Frequencies as they are.
    None,
    /// Every frequency divided by `factor` (position interpolation, Chen et al., 2023).
    Linear {
        /// At least 1 as a rule; above 0.
        factor: f32,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f32,
        /// Wavelengths longer than `original_context / low_frequency_factor` are divided.
        low_frequency_factor: f32,
        /// Wavelengths shorter than `original_context / high_frequency_factor` are kept.
        high_frequency_factor: f32,
        /// Context before stretching, in tokens.
        original_context: usize,
    },
    /// A divisor for each pair, as a GGUF file lists them (`rope_freqs.weight`); `head_dim / 2` of them.
    Divisors(Vec<f32>),
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
        supported: &'static str,
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
        require(head_dim.is_multiple_of(2), "head_dim", head_dim, "even (rotary embedding turns pairs)")?;
        let rule = format!("a divisor of num_attention_heads = {heads}");
        require(heads.is_multiple_of(kv_heads), "num_key_value_heads", kv_heads, rule)?;
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

impl Rope {
    fn validate(&self, head_dim: usize) -> Result<(), ConfigError> {
        let theta = self.theta;
        require(theta.is_finite() && theta >= 1.0, "rope_theta", theta, "a number of at least 1")?;
        let positive = |field, value: f32| require(value > 0.0 && value.is_finite(), field, value, "above 0");
        match &self.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => positive("rope_scaling.factor", *factor),
            RopeScaling::Llama3 {
                factor,
                low_frequency_factor: low,
                high_frequency_factor: high,
                original_context,
            } => {
                positive("rope_scaling.factor", *factor)?;
                positive("rope_scaling.low_freq_factor", *low)?;
                require(
                    high > low && high.is_finite(),
                    "rope_scaling.high_freq_factor",
                    high,
                    format!("above low_freq_factor = {low}"),
                )?;
                let field = "rope_scaling.original_max_position_embeddings";
                require((1..=1 << 24).contains(original_context), field, original_context, "1 to 16777216")
            }
            RopeScaling::Divisors(divisors) => {
                let field = "rope_freqs.weight";
                require(
                    divisors.len() == head_dim / 2,
                    field,
                    divisors.len(),
                    format!("{} numbers long", head_dim / 2),
                )?;
                divisors.iter().try_for_each(|&divisor| positive(field, divisor))
            }
        }
    }

    /// The angle per position of each of the `head_dim / 2` pairs, rounded to f32 as PyTorch has it.
    pub fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        let base = |pair: usize| {
            let exponent = (2 * pair) as f32 / head_dim as f32;
            1.0 / (f64::from(self.theta).powf(f64::from(exponent)) as f32)
        };
        (0..head_dim / 2).map(|pair| base(pair) / self.scaling.divisor(pair, base(pair))).collect()
    }

    /// What each pair's frequency is divided by, for [`RopeScaling::Divisors`].
    pub(crate) fn divisors(&self, head_dim: usize) -> Vec<f32> {
        let plain = Self { theta: self.theta, scaling: RopeScaling::None }.frequencies(head_dim);
        plain.iter().enumerate().map(|(pair, &frequency)| self.scaling.divisor(pair, frequency)).collect()
    }

    /// Cosines and sines for `positions` positions in the layout of [`backend::Backend::rope`]: `positions × head_dim`.
    pub fn table(&self, head_dim: usize, positions: usize) -> Vec<f32> {
        let frequencies = self.frequencies(head_dim);
        let mut table = Vec::with_capacity(positions * head_dim);
        for position in 0..positions {
            // The angle is rounded to f32 before its cosine is taken: PyTorch and llama.cpp do so, and the trained
            // weights have only ever seen those angles.
            let angles = frequencies.iter().map(|&frequency| f64::from(position as f32 * frequency));
            table.extend(angles.clone().map(|angle| angle.cos() as f32));
            table.extend(angles.map(|angle| angle.sin() as f32));
        }
        table
    }
}

impl RopeScaling {
    /// What the frequency of pair `pair`, unscaled `frequency`, is divided by.
    fn divisor(&self, pair: usize, frequency: f32) -> f32 {
        match self {
            Self::None => 1.0,
            Self::Linear { factor } => *factor,
            Self::Divisors(divisors) => divisors.get(pair).copied().unwrap_or(1.0),
            &Self::Llama3 { factor, low_frequency_factor: low, high_frequency_factor: high, original_context } => {
                let turns = original_context as f32 * frequency / (2.0 * std::f32::consts::PI);
                let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                1.0 / ((1.0 - kept) / factor + kept)
            }
        }
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

    #[test]
    fn a_table_row_is_cosines_then_sines() {
        let table = Rope { theta: 10_000.0, scaling: RopeScaling::None }.table(4, 3);
        assert_eq!(&table[..4], [1.0, 1.0, 0.0, 0.0]);
        assert_eq!(table[8], 2f64.cos() as f32);
        assert_eq!(table[11], 0.02f32.sin());
    }

    #[test]
    fn llama3_keeps_high_and_divides_low_frequencies() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_frequency_factor: 1.0,
            high_frequency_factor: 4.0,
            original_context: 8192,
        };
        let plain = Rope { theta: 500_000.0, scaling: RopeScaling::None }.frequencies(128);
        let scaled = Rope { theta: 500_000.0, scaling }.frequencies(128);
        assert_eq!(plain[0], scaled[0]);
        assert_eq!(plain[63] / 8.0, scaled[63]);
        assert!(plain.iter().zip(&scaled).all(|(plain, scaled)| scaled <= plain && *scaled >= plain / 8.0));
    }
}
