//! `Config` from and to `config.json` (LlamaForCausalLM).

use crate::config::{Architecture, Config, ConfigError, Rope, RopeScaling};
use backend::Heads;
use formats::hf_config::{self, HfConfig};
use serde_json::Map;

/// Defaults of transformers' `LlamaConfig`, for keys that a file leaves out.
mod absent {
    pub(super) const CONTEXT: usize = 2048;
    pub(super) const NORM_EPSILON: f32 = 1e-6;
    pub(super) const ROPE_THETA: f32 = 10_000.0;
    pub(super) const INITIALIZER_RANGE: f32 = 0.02;
}

impl Config {
    /// The shape that a `config.json` states, checked.
    ///
    /// # Errors
    /// [`ConfigError`]: another architecture than Llama, other biases, another activation than SiLU, a kind of rope scaling
    /// that is not computed here, a number out of range.
    pub fn from_hf(hf: &HfConfig) -> Result<Self, ConfigError> {
        let architecture = architecture(hf)?;
        let heads = hf.num_attention_heads;
        let head_dim = match hf.head_dim {
            Some(head_dim) => head_dim,
            None if heads > 0 && hf.hidden_size.is_multiple_of(heads) => hf.hidden_size / heads,
            None => {
                let rule = format!("a multiple of num_attention_heads = {heads} where head_dim is not given");
                return Err(ConfigError::OutOfRange { field: "hidden_size", value: hf.hidden_size.to_string(), rule });
            }
        };
        let config = Self {
            vocab: hf.vocab_size,
            width: hf.hidden_size,
            layers: hf.num_hidden_layers,
            heads: Heads { heads, kv_heads: hf.num_key_value_heads.unwrap_or(heads), head_dim },
            ffn_width: hf.intermediate_size,
            context: hf.max_position_embeddings.unwrap_or(absent::CONTEXT),
            norm_epsilon: hf.rms_norm_eps.unwrap_or(absent::NORM_EPSILON),
            rope: Rope { theta: hf.rope_theta.unwrap_or(absent::ROPE_THETA), scaling: scaling(hf)? },
            tied: hf.tie_word_embeddings.unwrap_or(false),
            bos: hf.bos_token_id,
            eos: hf.eos_token_id.clone(),
            architecture,
            initializer_range: hf.initializer_range.unwrap_or(absent::INITIALIZER_RANGE),
        };
        config.validate()?;
        Ok(config)
    }

    /// A `config.json` that transformers loads as `LlamaForCausalLM`; `dtype` is that of the tensors beside it
    /// (`float32`, `float16`, `bfloat16`).
    ///
    /// # Errors
    /// [`ConfigError::Unsupported`] for rope divisors listed one by one, which `config.json` cannot express.
    pub fn to_hf(&self, dtype: &str) -> Result<HfConfig, ConfigError> {
        let rope_scaling = match self.rope.scaling {
            RopeScaling::None => None,
            RopeScaling::Linear { factor } => Some(hf_config::RopeScaling::Linear { factor }),
            RopeScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_context } => {
                Some(hf_config::RopeScaling::Llama3 {
                    factor,
                    low_frequency_factor,
                    high_frequency_factor,
                    original_context,
                })
            }
            RopeScaling::Divisors(_) => {
                return Err(ConfigError::Unsupported {
                    field: "rope_freqs.weight",
                    value: "a list of divisors".into(),
                    supported: "a Hugging Face config states `linear` or `llama3` scaling by its numbers",
                });
            }
        };
        Ok(HfConfig {
            model_type: Some(self.architecture.name().into()),
            architectures: vec![self.architecture.class().into()],
            vocab_size: self.vocab,
            hidden_size: self.width,
            intermediate_size: self.ffn_width,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads.heads,
            num_key_value_heads: Some(self.heads.kv_heads),
            head_dim: Some(self.heads.head_dim),
            max_position_embeddings: Some(self.context),
            rms_norm_eps: Some(self.norm_epsilon),
            rope_theta: Some(self.rope.theta),
            rope_scaling,
            tie_word_embeddings: Some(self.tied),
            attention_bias: Some(false),
            mlp_bias: Some(false),
            hidden_act: Some("silu".into()),
            dtype: Some(dtype.into()),
            initializer_range: Some(self.initializer_range),
            bos_token_id: self.bos,
            eos_token_id: self.eos.clone(),
            pad_token_id: None,
            other: Map::new(),
        })
    }
}

fn architecture(hf: &HfConfig) -> Result<Architecture, ConfigError> {
    let unsupported =
        |field, value: &str, supported| Err(ConfigError::Unsupported { field, value: value.into(), supported });
    let by_type = |name: &str| Architecture::ALL.into_iter().find(|known| known.name() == name);
    let by_class = |name: &str| match name {
        // As early files of Llama wrote it.
        "LLaMAForCausalLM" => Some(Architecture::Llama),
        _ => Architecture::ALL.into_iter().find(|known| known.class() == name),
    };
    let mut found = None;
    if let Some(model_type) = &hf.model_type {
        found = by_type(model_type);
        if found.is_none() {
            return unsupported("model_type", model_type, "`llama` and `qwen2` are");
        }
    }
    for class in &hf.architectures {
        let named = by_class(class);
        if named.is_none() {
            return unsupported("architectures", class, "`LlamaForCausalLM` and `Qwen2ForCausalLM` are");
        }
        if found.is_some() && named != found {
            return unsupported("architectures", class, "`model_type` names another one");
        }
        found = named;
    }
    let Some(found) = found else { return Err(ConfigError::Missing { field: "model_type" }) };
    if hf.attention_bias == Some(true) {
        return unsupported("attention_bias", "true", "projections have no biases");
    }
    if hf.other.get("use_sliding_window").and_then(serde_json::Value::as_bool) == Some(true) {
        return unsupported("use_sliding_window", "true", "every token sees all before it");
    }
    if hf.mlp_bias == Some(true) {
        return unsupported("mlp_bias", "true", "projections have no biases");
    }
    match hf.hidden_act.as_deref() {
        None | Some("silu" | "swish") => Ok(found),
        Some(other) => unsupported("hidden_act", other, "only `silu` is"),
    }
}

fn scaling(hf: &HfConfig) -> Result<RopeScaling, ConfigError> {
    let unsupported = |kind: &str| ConfigError::Unsupported {
        field: "rope_scaling.rope_type",
        value: kind.into(),
        supported: "`default`, `linear` and `llama3` are",
    };
    Ok(match &hf.rope_scaling {
        None => RopeScaling::None,
        Some(hf_config::RopeScaling::Linear { factor }) => RopeScaling::Linear { factor: *factor },
        &Some(hf_config::RopeScaling::Llama3 {
            factor,
            low_frequency_factor,
            high_frequency_factor,
            original_context,
        }) => RopeScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_context },
        Some(hf_config::RopeScaling::Dynamic { .. }) => return Err(unsupported("dynamic")),
        Some(hf_config::RopeScaling::Other { kind }) => return Err(unsupported(kind)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::small;
    use proptest::strategy::Strategy;

    #[test]
    fn a_config_survives_the_way_through_hugging_face() {
        let mut config = small(2, true);
        config.eos = vec![2, 3];
        config.rope.scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_frequency_factor: 1.0,
            high_frequency_factor: 4.0,
            original_context: 32,
        };
        let hf = config.to_hf("float32").unwrap();
        assert_eq!(Config::from_hf(&hf).unwrap(), config);
        let reread = HfConfig::parse("config.json".as_ref(), hf.to_json().as_bytes()).unwrap();
        assert_eq!(Config::from_hf(&reread).unwrap(), config);
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        let hf = small(2, true).to_hf("float32").unwrap();
        let refused = |hf: HfConfig| Config::from_hf(&hf).unwrap_err().to_string();
        let gpt2 = HfConfig { model_type: Some("gpt2".into()), ..hf.clone() };
        assert_eq!(
            refused(gpt2),
            "model_type is `gpt2`, which is not supported (`llama` and `qwen2` are); convert the model or choose another one"
        );
        assert!(refused(HfConfig { hidden_act: Some("gelu".into()), ..hf.clone() }).contains("hidden_act is `gelu`"));
        assert!(refused(HfConfig { attention_bias: Some(true), ..hf.clone() }).contains("attention_bias"));
        assert!(refused(HfConfig { model_type: None, architectures: vec![], ..hf.clone() }).contains("missing"));
        let yarn = Some(hf_config::RopeScaling::Other { kind: "yarn".into() });
        assert!(refused(HfConfig { rope_scaling: yarn, ..hf.clone() }).contains("`yarn`"));
        assert!(refused(HfConfig { head_dim: None, hidden_size: 18, ..hf }).contains("hidden_size is 18"));
    }

    proptest::proptest! {
        #[test]
        fn no_config_file_overflows_a_product(
            sizes in proptest::array::uniform7(proptest::prelude::any::<u64>().prop_map(|size| (size >> (40 + size % 24)) as usize)),
            tied: bool,
        ) {
            let [vocab_size, hidden_size, intermediate_size, layers, group, kv_heads, half] = sizes;
            let hf = HfConfig {
                vocab_size,
                hidden_size,
                intermediate_size,
                num_hidden_layers: layers,
                num_attention_heads: kv_heads.saturating_mul(group),
                num_key_value_heads: Some(kv_heads),
                head_dim: Some(half.saturating_mul(2)),
                max_position_embeddings: Some(vocab_size),
                tie_word_embeddings: Some(tied),
                bos_token_id: None,
                eos_token_id: vec![],
                ..small(2, tied).to_hf("float32").unwrap()
            };
            if let Ok(config) = Config::from_hf(&hf) {
                crate::cost::flops_per_token(&config, config.context);
                crate::cost::inference_bytes(&config, 16.0, backend::KvType::Bf16, 512, 16, config.context);
            }
        }
    }
}
