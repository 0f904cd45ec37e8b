//! Rotary position embedding: its settings, its frequencies, its table.

use super::{ConfigError, require};

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
    /// Base raised with the length of the text, beyond [`crate::Config::context`] (NTK-aware, bloc97 and emozilla, 2023). As no
    /// text here is longer than the context, frequencies are as they are.
    Dynamic {
        /// What the context would be multiplied by.
        factor: f32,
    },
    /// YaRN (Peng et al., 2023): frequencies of pairs that turn less than `beta_slow` times within `original_context` are
    /// divided by `factor`, those above `beta_fast` kept, a ramp over pairs between.
    Yarn {
        /// Divisor.
        factor: f32,
        /// Context before stretching, in tokens.
        original_context: usize,
        /// What cosines and sines are multiplied by; by their paper `1 + 0.1·ln(factor)`.
        attention_factor: f32,
        /// Turns from which on a pair is kept.
        beta_fast: f32,
        /// Turns up to which a pair is divided.
        beta_slow: f32,
        /// Whether the ramp's ends are whole pairs.
        truncate: bool,
    },
    /// A divisor for each pair, as a GGUF file lists them (`rope_freqs.weight`); `head_dim / 2` of them.
    Divisors(Vec<f32>),
}

impl Rope {
    /// Where nothing is rotated.
    pub const NONE: Self = Self { theta: 10_000.0, scaling: RopeScaling::None };

    pub(super) fn validate(&self, head_dim: usize) -> Result<(), ConfigError> {
        let theta = self.theta;
        require(theta.is_finite() && theta >= 1.0, "rope_theta", theta, "a number of at least 1")?;
        let positive = |field, value: f32| require(value > 0.0 && value.is_finite(), field, value, "above 0");
        match &self.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } | RopeScaling::Dynamic { factor } => {
                positive("rope_scaling.factor", *factor)
            }
            &RopeScaling::Yarn { factor, original_context, attention_factor, beta_fast, beta_slow, .. } => {
                positive("rope_scaling.factor", factor)?;
                positive("rope_scaling.attention_factor", attention_factor)?;
                positive("rope_scaling.beta_slow", beta_slow)?;
                let rule = format!("a number of at least beta_slow = {beta_slow}");
                require(beta_fast >= beta_slow && beta_fast.is_finite(), "rope_scaling.beta_fast", beta_fast, rule)?;
                require(theta > 1.0, "rope_theta", theta, "a number above 1 with yarn")?;
                let field = "rope_scaling.original_max_position_embeddings";
                require((1..=1 << 24).contains(&original_context), field, original_context, "1 to 16777216")
            }
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
        let Some((kept_to, divided_from)) = self.yarn_ramp(head_dim) else {
            return (0..head_dim / 2).map(|pair| base(pair) / self.scaling.divisor(pair, base(pair))).collect();
        };
        let blend = |pair: usize| {
            let divided = ((pair as f32 - kept_to as f32) / (divided_from - kept_to) as f32).clamp(0.0, 1.0);
            base(pair) / self.scaling.divisor(pair, base(pair)) * divided + base(pair) * (1.0 - divided)
        };
        (0..head_dim / 2).map(blend).collect()
    }

    /// Between which pairs YaRN goes over from frequencies that are kept to frequencies that are divided.
    fn yarn_ramp(&self, head_dim: usize) -> Option<(f64, f64)> {
        let RopeScaling::Yarn { original_context, beta_fast, beta_slow, truncate, .. } = self.scaling else {
            return None;
        };
        // The pair, counted in fractions, that turns `turns` times within the original context.
        let pair = |turns: f32| {
            let wavelength = original_context as f64 / (f64::from(turns) * 2.0 * std::f64::consts::PI);
            head_dim as f64 * wavelength.ln() / (2.0 * f64::from(self.theta).ln())
        };
        let (low, high) = (pair(beta_fast), pair(beta_slow));
        let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
        let (low, high) = (low.max(0.0), high.min(head_dim as f64 - 1.0));
        Some((low, if low == high { high + 0.001 } else { high }))
    }

    /// What each pair's frequency is divided by, for [`RopeScaling::Divisors`].
    pub(crate) fn divisors(&self, head_dim: usize) -> Vec<f32> {
        let plain = Self { theta: self.theta, scaling: RopeScaling::None }.frequencies(head_dim);
        plain.iter().enumerate().map(|(pair, &frequency)| self.scaling.divisor(pair, frequency)).collect()
    }

    /// Cosines and sines for `positions` positions in the layout of [`backend::Backend::rope`]: `positions × head_dim`.
    pub fn table(&self, head_dim: usize, positions: usize) -> Vec<f32> {
        let frequencies = self.frequencies(head_dim);
        let factor = match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } => attention_factor,
            _ => 1.0,
        };
        let mut table = Vec::with_capacity(positions * head_dim);
        for position in 0..positions {
            // The angle is rounded to f32 before its cosine is taken: PyTorch and llama.cpp do so, and the trained
            // weights have only ever seen those angles.
            let angles = frequencies.iter().map(|&frequency| f64::from(position as f32 * frequency));
            table.extend(angles.clone().map(|angle| angle.cos() as f32 * factor));
            table.extend(angles.map(|angle| angle.sin() as f32 * factor));
        }
        table
    }
}

impl RopeScaling {
    /// The factor on cosines and sines that YaRN's authors give: attention sharpens as contexts grow.
    pub(crate) fn yarn_attention_factor(factor: f32, mscale: f32) -> f32 {
        if factor <= 1.0 { 1.0 } else { (0.1 * f64::from(mscale) * f64::from(factor).ln() + 1.0) as f32 }
    }

    /// What the frequency of pair `pair`, unscaled `frequency`, is divided by.
    fn divisor(&self, pair: usize, frequency: f32) -> f32 {
        match self {
            Self::None | Self::Dynamic { .. } => 1.0,
            Self::Linear { factor } | Self::Yarn { factor, .. } => *factor,
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
mod tests {
    use super::*;

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
