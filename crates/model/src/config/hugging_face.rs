//! `Config` from and to `config.json`; what is an architecture's own is read by its file in `architecture/`.

use crate::Architecture;
use crate::config::{Config, ConfigError, RopeScaling};
use formats::hf_config::{self, HfConfig};
use serde_json::Map;
use std::borrow::Cow;

impl Config {
    /// The shape that a `config.json` states, checked.
    ///
    /// # Errors
    /// [`ConfigError`]: an architecture, an activation, a kind of rope scaling or another setting that is not computed here,
    /// a number out of range.
    pub fn from_hf(hf: &HfConfig) -> Result<Self, ConfigError> {
        let config = (architecture(hf)?.description().from_hf)(hf)?;
        config.validate()?;
        Ok(config)
    }

    /// A `config.json` that transformers loads as the same model; `dtype` is that of the tensors beside it
    /// (`float32`, `float16`, `bfloat16`).
    ///
    /// # Errors
    /// [`ConfigError::Unsupported`] for GPT-2 and OPT, which are read but not written, and for rope divisors listed one by
    /// one, which `config.json` cannot express.
    pub fn to_hf(&self, dtype: &str) -> Result<HfConfig, ConfigError> {
        if self.architecture.learns_positions() {
            return Err(ConfigError::Unsupported {
                field: "model_type",
                value: self.architecture.name().into(),
                supported: "folders of Llamas and their relatives are written; this one is only read".into(),
            });
        }
        let rope_scaling = match self.rope.scaling {
            RopeScaling::None => None,
            RopeScaling::Linear { factor } => Some(hf_config::RopeScaling::Linear { factor }),
            RopeScaling::Dynamic { factor } => Some(hf_config::RopeScaling::Dynamic { factor, original_context: None }),
            RopeScaling::Yarn { factor, original_context, attention_factor, beta_fast, beta_slow, truncate } => {
                Some(hf_config::RopeScaling::Yarn {
                    factor: Some(factor),
                    original_context: Some(original_context),
                    attention_factor: Some(attention_factor),
                    mscales: None,
                    beta_fast,
                    beta_slow,
                    truncate,
                })
            }
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
                    supported: "a Hugging Face config states scaling by its numbers".into(),
                });
            }
        };
        Ok(HfConfig {
            model_type: Some(self.architecture.name().into()),
            architectures: vec![self.architecture.description().class.into()],
            vocab_size: self.vocab,
            hidden_size: self.width,
            intermediate_size: Some(self.ffn_width),
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads.heads,
            num_key_value_heads: Some(self.heads.kv_heads),
            head_dim: Some(self.heads.head_dim),
            max_position_embeddings: Some(self.context),
            rms_norm_eps: Some(self.norm_epsilon),
            rope_theta: Some(self.rope.theta),
            rope_scaling,
            tie_word_embeddings: Some(self.tied),
            attention_bias: Some(self.form.attention_out_bias),
            mlp_bias: Some(self.form.ffn_bias),
            hidden_act: Some("silu".into()),
            dtype: Some(dtype.into()),
            initializer_range: Some(self.initializer_range),
            bos_token_id: self.bos,
            eos_token_id: self.eos.clone(),
            pad_token_id: None,
            other: match self.form.rotated.as_slice() {
                [] => Map::new(),
                rotated => {
                    Map::from_iter([("no_rope_layers".into(), rotated.iter().map(|&yes| u8::from(yes)).collect())])
                }
            },
        })
    }
}

fn architecture(hf: &HfConfig) -> Result<Architecture, ConfigError> {
    let unsupported = |field, value: &str, supported: Cow<'static, str>| {
        Err(ConfigError::Unsupported { field, value: value.into(), supported })
    };
    let by_class = |name: &str| match name {
        // As early files of Llama wrote it.
        "LLaMAForCausalLM" => Some(Architecture::Llama),
        _ => Architecture::ALL.into_iter().find(|known| known.description().class == name),
    };
    let mut found = None;
    if let Some(model_type) = &hf.model_type {
        found = Architecture::named(model_type);
        if found.is_none() {
            let known = Architecture::names(|known| known.name, |_| true);
            return unsupported("model_type", model_type, format!("{known} are").into());
        }
    }
    for class in &hf.architectures {
        let named = by_class(class);
        if named.is_none() {
            let known = Architecture::names(|known| known.class, |_| true);
            return unsupported("architectures", class, format!("{known} are").into());
        }
        if found.is_some() && named != found {
            return unsupported("architectures", class, "`model_type` names another one".into());
        }
        found = named;
    }
    found.ok_or(ConfigError::Missing { field: "model_type" })
}

pub(crate) fn scaling(hf: &HfConfig) -> Result<RopeScaling, ConfigError> {
    Ok(match &hf.rope_scaling {
        None => RopeScaling::None,
        Some(hf_config::RopeScaling::Linear { factor }) => RopeScaling::Linear { factor: *factor },
        &Some(hf_config::RopeScaling::Llama3 {
            factor,
            low_frequency_factor,
            high_frequency_factor,
            original_context,
        }) => RopeScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_context },
        Some(hf_config::RopeScaling::Dynamic { factor, .. }) => RopeScaling::Dynamic { factor: *factor },
        Some(yarn @ hf_config::RopeScaling::Yarn { .. }) => self::yarn(hf, yarn)?,
        Some(hf_config::RopeScaling::Other { kind }) => {
            return Err(ConfigError::Unsupported {
                field: "rope_scaling.rope_type",
                value: kind.clone(),
                supported: "`default`, `linear`, `dynamic`, `yarn` and `llama3` are".into(),
            });
        }
    })
}

/// What YaRN leaves out follows from the context and from its factor, as in transformers.
fn yarn(hf: &HfConfig, stated: &hf_config::RopeScaling) -> Result<RopeScaling, ConfigError> {
    let &hf_config::RopeScaling::Yarn {
        factor,
        original_context,
        attention_factor,
        mscales,
        beta_fast,
        beta_slow,
        truncate,
    } = stated
    else {
        return Ok(RopeScaling::None);
    };
    let Some(context) = hf.max_position_embeddings else {
        return Err(ConfigError::Missing { field: "max_position_embeddings" });
    };
    let original_context = original_context.unwrap_or(context);
    let factor = factor.unwrap_or(context as f32 / original_context.max(1) as f32);
    let by_factor = |mscale| RopeScaling::yarn_attention_factor(factor, mscale);
    let attention_factor = attention_factor.unwrap_or_else(|| match mscales {
        Some((mscale, all)) if mscale != 0.0 && all != 0.0 => by_factor(mscale) / by_factor(all),
        _ => by_factor(1.0),
    });
    Ok(RopeScaling::Yarn { factor, original_context, attention_factor, beta_fast, beta_slow, truncate })
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
        let llama3 = RopeScaling::Llama3 {
            factor: 8.0,
            low_frequency_factor: 1.0,
            high_frequency_factor: 4.0,
            original_context: 32,
        };
        let yarn = RopeScaling::Yarn {
            factor: 4.0,
            original_context: 16,
            attention_factor: 1.2,
            beta_fast: 24.0,
            beta_slow: 2.0,
            truncate: false,
        };
        for scaling in [llama3, yarn, RopeScaling::Linear { factor: 2.0 }, RopeScaling::Dynamic { factor: 2.0 }] {
            config.rope.scaling = scaling;
            let hf = config.to_hf("float32").unwrap();
            assert_eq!(Config::from_hf(&hf).unwrap(), config);
            let reread = HfConfig::parse("config.json".as_ref(), hf.to_json().as_bytes()).unwrap();
            assert_eq!(Config::from_hf(&reread).unwrap(), config);
        }
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        let hf = small(2, true).to_hf("float32").unwrap();
        let refused = |hf: HfConfig| Config::from_hf(&hf).unwrap_err().to_string();
        let bert = HfConfig { model_type: Some("bert".into()), ..hf.clone() };
        assert_eq!(
            refused(bert),
            "model_type is `bert`, which is not supported (`llama`, `qwen2`, `qwen3`, `smollm3`, `gpt2` and `opt` are); \
             convert the model or choose another one"
        );
        let other = HfConfig { model_type: Some("gpt2".into()), ..hf.clone() };
        assert!(refused(other).contains("architectures is `LlamaForCausalLM`"));
        assert!(refused(HfConfig { hidden_act: Some("gelu".into()), ..hf.clone() }).contains("hidden_act is `gelu`"));
        let windowed = Map::from_iter([("use_sliding_window".into(), true.into())]);
        assert!(refused(HfConfig { other: windowed, ..hf.clone() }).contains("use_sliding_window is `true`"));
        assert!(refused(HfConfig { model_type: None, architectures: vec![], ..hf.clone() }).contains("missing"));
        let long = Some(hf_config::RopeScaling::Other { kind: "longrope".into() });
        assert!(refused(HfConfig { rope_scaling: long, ..hf.clone() }).contains("`longrope`"));
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
                intermediate_size: Some(intermediate_size),
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
