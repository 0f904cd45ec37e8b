//! `Config` from and to the keys of a GGUF file; most begin with the architecture's name.

use crate::ModelError;
use crate::architecture::{Architecture, GgufForm};
use crate::config::{Config, ConfigError, Rope, RopeScaling};
use crate::tensors::PairOrder;
use backend::Heads;
use formats::Encoding;
use formats::gguf::{Gguf, Value};
use std::borrow::Cow;

/// The tensor that lists a divisor for each pair of rotated elements.
pub(crate) const ROPE_DIVISORS: &str = "rope_freqs.weight";

impl Config {
    /// The shape that a GGUF file states, checked.
    ///
    /// # Errors
    /// [`ModelError::Gguf`] for keys that are missing or of a wrong type; [`ModelError::ConfigOf`] for an
    /// architecture that is not computed, experts, or numbers out of range.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, ModelError> {
        let (architecture, stated) = architecture(gguf)?;
        let key = |key: &str| format!("{}.{key}", architecture.name());
        let size = |name| gguf.require::<usize>(&key(name));
        let optional = |name| gguf.find::<usize>(&key(name));
        let (width, heads) = (size("embedding_length")?, size("attention.head_count")?);
        let layers = size("block_count")?;
        let even_share = width.checked_div(heads).unwrap_or(0);
        let head_dim = optional("attention.key_length")?.unwrap_or(even_share);
        for field in ["attention.value_length", "rope.dimension_count"] {
            if let Some(other) = optional(field)?.filter(|&other| other != head_dim) {
                let supported = "values and rotation span the whole head, as long as its keys".into();
                return refuse(gguf, ConfigError::Unsupported { field, value: other.to_string(), supported });
            }
        }
        let config = Self {
            vocab: vocab(gguf)?,
            width,
            layers,
            heads: Heads { heads, kv_heads: optional("attention.head_count_kv")?.unwrap_or(heads), head_dim },
            ffn_width: size("feed_forward_length")?,
            context: size("context_length")?,
            norm_epsilon: gguf.require(&key(stated.epsilon))?,
            rope: Rope {
                theta: gguf.find(&key("rope.freq_base"))?.unwrap_or(10_000.0),
                scaling: scaling(gguf, architecture)?,
            },
            tied: !gguf.contains("output.weight"),
            bos: gguf.find("tokenizer.ggml.bos_token_id")?,
            eos: end_tokens(gguf)?,
            architecture,
            form: (stated.form)(gguf, layers),
            initializer_range: 0.02,
        };
        config.validate().map_err(|error| ModelError::config(gguf.path(), error))?;
        Ok(config)
    }

    /// The keys of a GGUF file that llama.cpp loads, `file_type` of its weights among them; the tokenizer's are not.
    pub fn gguf_entries(&self, encoding: Encoding) -> Vec<(String, Value)> {
        let key = |key: &str| format!("{}.{key}", self.architecture.name());
        let size = |name: &str, size: usize| (key(name), Value::U32(size as u32));
        let mut entries = vec![
            ("general.architecture".into(), Value::String(self.architecture.name().into())),
            ("general.file_type".into(), Value::U32(file_type(encoding))),
            ("general.quantization_version".into(), Value::U32(2)),
            size("vocab_size", self.vocab),
            size("context_length", self.context),
            size("embedding_length", self.width),
            size("block_count", self.layers),
            size("feed_forward_length", self.ffn_width),
            size("attention.head_count", self.heads.heads),
            size("attention.head_count_kv", self.heads.kv_heads),
        ];
        if let Some(form) = &self.architecture.description().gguf {
            entries.push((key(form.epsilon), Value::F32(self.norm_epsilon)));
        }
        if self.architecture.learns_positions() {
            return entries;
        }
        entries.extend([
            size("attention.key_length", self.heads.head_dim),
            size("attention.value_length", self.heads.head_dim),
            size("rope.dimension_count", self.heads.head_dim),
            (key("rope.freq_base"), Value::F32(self.rope.theta)),
        ]);
        let scaling = |name: &str, value| (key(&format!("rope.scaling.{name}")), value);
        match self.rope.scaling {
            RopeScaling::Linear { factor } => {
                entries.push(scaling("type", Value::String("linear".into())));
                entries.push(scaling("factor", Value::F32(factor)));
            }
            RopeScaling::Yarn { factor, original_context, attention_factor, beta_fast, beta_slow, .. } => {
                // llama.cpp multiplies by what the paper gives, and by this.
                let more = attention_factor / RopeScaling::yarn_attention_factor(factor, 1.0);
                entries.push(scaling("type", Value::String("yarn".into())));
                entries.push(scaling("factor", Value::F32(factor)));
                entries.push(scaling("original_context_length", Value::U32(original_context as u32)));
                entries.push(scaling("attn_factor", Value::F32(more)));
                entries.push(scaling("yarn_beta_fast", Value::F32(beta_fast)));
                entries.push(scaling("yarn_beta_slow", Value::F32(beta_slow)));
            }
            _ => {}
        }
        entries
    }

    /// How a GGUF file lays out the pairs of a rotated head.
    pub(crate) fn gguf_pair_order(&self) -> PairOrder {
        self.architecture.description().gguf.as_ref().map_or(PairOrder::Halves, |form| form.pair_order)
    }

    /// Refuses what GGUF files cannot hold.
    pub(crate) fn check_gguf(&self) -> Result<(), ConfigError> {
        let unsupported = |field, value: &str, supported: Cow<'static, str>| {
            Err(ConfigError::Unsupported { field, value: value.into(), supported })
        };
        if self.architecture.description().gguf.is_none() {
            let known = Architecture::names(|known| known.name, |known| known.gguf.is_some());
            return unsupported("model_type", self.architecture.name(), format!("GGUF files hold {known}").into());
        }
        if let RopeScaling::Yarn { truncate: false, .. } = self.rope.scaling {
            return unsupported(
                "rope_scaling.truncate",
                "false",
                "in GGUF files the ends of the ramp are whole pairs".into(),
            );
        }
        if self.form.rotated.iter().zip(1..).any(|(&rotates, layer)| rotates == (layer % 4 == 0)) {
            return unsupported("no_rope_layers", "a list", "in GGUF files every fourth layer does not rotate".into());
        }
        Ok(())
    }

    /// What [`ROPE_DIVISORS`] must hold, where keys alone do not say the scaling.
    pub(crate) fn gguf_rope_divisors(&self) -> Option<Vec<f32>> {
        match &self.rope.scaling {
            RopeScaling::None | RopeScaling::Linear { .. } | RopeScaling::Dynamic { .. } | RopeScaling::Yarn { .. } => {
                None
            }
            RopeScaling::Divisors(divisors) => Some(divisors.clone()),
            RopeScaling::Llama3 { .. } => Some(self.rope.divisors(self.heads.head_dim)),
        }
    }
}

fn refuse<T>(gguf: &Gguf, error: ConfigError) -> Result<T, ModelError> {
    Err(ModelError::config(gguf.path(), error))
}

fn architecture(gguf: &Gguf) -> Result<(Architecture, &'static GgufForm), ModelError> {
    let name: &str = gguf.require("general.architecture")?;
    let found = Architecture::named(name).and_then(|known| Some((known, known.description().gguf.as_ref()?)));
    let Some(found) = found else {
        let known = Architecture::names(|known| known.name, |known| known.gguf.is_some());
        let (field, supported) = ("general.architecture", format!("{known} are").into());
        return refuse(gguf, ConfigError::Unsupported { field, value: name.into(), supported });
    };
    // Mixtral calls itself `llama` too.
    match gguf.find::<u32>(&format!("{name}.expert_count"))? {
        None | Some(0) => Ok(found),
        Some(experts) => {
            let (field, supported) = ("expert_count", "mixtures of experts are not".into());
            refuse(gguf, ConfigError::Unsupported { field, value: experts.to_string(), supported })
        }
    }
}

/// The rows of the embedding; what keys say of the vocabulary is often left out or longer.
fn vocab(gguf: &Gguf) -> Result<usize, ModelError> {
    Ok(gguf.tensor("token_embd.weight")?.shape.first().copied().unwrap_or(0))
}

fn scaling(gguf: &Gguf, architecture: Architecture) -> Result<RopeScaling, ModelError> {
    if gguf.contains(ROPE_DIVISORS) {
        let tensor = gguf.tensor(ROPE_DIVISORS)?;
        let decoded = tensor.to_f32().map_err(|error| ModelError::Decode { tensor: ROPE_DIVISORS.into(), error })?;
        return Ok(RopeScaling::Divisors(decoded));
    }
    let key = |key: &str| format!("{}.rope.scaling.{key}", architecture.name());
    match gguf.find::<&str>(&key("type"))? {
        None | Some("none") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear { factor: gguf.require(&key("factor"))? }),
        Some("yarn") => yarn(gguf, architecture),
        Some(other) => {
            let supported = "`none`, `linear`, `yarn` and a list of divisors are".into();
            refuse(gguf, ConfigError::Unsupported { field: "rope.scaling.type", value: other.into(), supported })
        }
    }
}

/// YaRN by llama.cpp's keys; its `attn_factor` multiplies what the paper gives.
fn yarn(gguf: &Gguf, architecture: Architecture) -> Result<RopeScaling, ModelError> {
    let key = |key: &str| format!("{}.{key}", architecture.name());
    let number = |name: &str| gguf.find::<f32>(&key(&format!("rope.scaling.{name}")));
    for (field, plain) in [("yarn_ext_factor", 1.0), ("yarn_log_multiplier", 0.0)] {
        if let Some(value) = number(field)?.filter(|&value| value != plain) {
            let (value, supported) = (value.to_string(), format!("only {plain} is").into());
            return refuse(gguf, ConfigError::Unsupported { field, value, supported });
        }
    }
    let factor = gguf.require(&key("rope.scaling.factor"))?;
    let more = match number("yarn_attn_factor")? {
        Some(more) => more,
        None => number("attn_factor")?.unwrap_or(1.0),
    };
    let original_context = match gguf.find(&key("rope.scaling.original_context_length"))? {
        Some(original_context) => original_context,
        None => gguf.require(&key("context_length"))?,
    };
    Ok(RopeScaling::Yarn {
        factor,
        original_context,
        attention_factor: more * RopeScaling::yarn_attention_factor(factor, 1.0),
        beta_fast: number("yarn_beta_fast")?.unwrap_or(32.0),
        beta_slow: number("yarn_beta_slow")?.unwrap_or(1.0),
        truncate: true,
    })
}

/// The end of a text, and for chat models the end of a turn.
fn end_tokens(gguf: &Gguf) -> Result<Vec<u32>, ModelError> {
    let mut tokens = Vec::new();
    for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"] {
        tokens.extend(gguf.find::<u32>(key)?.filter(|id| !tokens.contains(id)));
    }
    Ok(tokens)
}

/// llama.cpp's number for a file whose matrices are of this type (`LLAMA_FTYPE_…`); only ever shown, never relied on.
const fn file_type(encoding: Encoding) -> u32 {
    match encoding {
        Encoding::F32 => 0,
        Encoding::F16 => 1,
        Encoding::Q4_0 => 2,
        Encoding::Q4_1 => 3,
        Encoding::Q8_0 => 7,
        Encoding::Q5_0 => 8,
        Encoding::Q5_1 => 9,
        // llama.cpp's numbers name mixtures here: those of its plainest, without added bits.
        Encoding::Q2K => 10,
        Encoding::Q3K => 11,
        Encoding::Q4K => 14,
        Encoding::Q5K => 16,
        Encoding::Q6K => 18,
        Encoding::Iq4Nl => 25,
        Encoding::Iq4Xs => 30,
        Encoding::Bf16 => 32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Form;
    use crate::config::tests::small;
    use formats::{StoredTensor, gguf};

    /// A file of these entries whose only tensors are an embedding (and a head, unless tied).
    fn written(config: &Config, entries: &[(String, Value)]) -> Result<Config, ModelError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let bytes = vec![0; config.vocab * config.width * 4];
        let tensor = |name: &str| StoredTensor {
            name: name.into(),
            encoding: Encoding::F32,
            shape: vec![config.vocab, config.width],
            bytes: &bytes,
        };
        let head = Some(tensor("output.weight")).filter(|_| !config.tied);
        let tensors: Vec<_> = std::iter::once(tensor("token_embd.weight")).chain(head).collect();
        gguf::write(&path, entries, &tensors).unwrap();
        Config::from_gguf(&Gguf::open(&path)?)
    }

    /// The config's own entries, one of them changed or added.
    fn with(config: &Config, key: &str, value: Value) -> Vec<(String, Value)> {
        let mut entries = config.gguf_entries(Encoding::F32);
        entries.retain(|(other, _)| other != key);
        entries.push((key.into(), value));
        entries
    }

    #[test]
    fn a_config_survives_the_way_through_gguf() {
        for (tied, architecture) in
            [(true, Architecture::Llama), (false, Architecture::Llama), (true, Architecture::Qwen2)]
        {
            let form = Form { qkv_bias: architecture == Architecture::Qwen2, ..Form::LLAMA };
            let mut config = Config { bos: None, eos: vec![], architecture, form, ..small(2, tied) };
            assert_eq!(written(&config, &config.gguf_entries(Encoding::F32)).unwrap(), config);
            config.rope.scaling = RopeScaling::Linear { factor: 4.0 };
            config.eos = vec![7];
            let entries = with(&config, "tokenizer.ggml.eos_token_id", Value::U32(7));
            assert_eq!(written(&config, &entries).unwrap(), config);
        }
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        let config = small(2, true);
        let refused = |key: &str, value| written(&config, &with(&config, key, value)).unwrap_err().to_string();
        let text = |text: &str| Value::String(text.into());
        assert!(refused("general.architecture", text("opt")).contains("general.architecture is `opt`"));
        assert!(refused("llama.expert_count", Value::U32(8)).contains("expert_count is `8`"));
        assert!(refused("llama.rope.scaling.type", text("longrope")).contains("`longrope`"));
        assert!(refused("llama.rope.dimension_count", Value::U32(2)).contains("rope.dimension_count is `2`"));
        assert!(refused("llama.attention.head_count", Value::U32(0)).contains("num_attention_heads is 0"));
        assert!(refused("tokenizer.ggml.bos_token_id", Value::U32(24)).contains("bos_token_id is 24"));
        assert!(refused("llama.block_count", text("two")).contains("llama.block_count"));
    }
}
