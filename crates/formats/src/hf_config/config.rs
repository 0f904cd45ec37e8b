//! The shape of a model: `config.json`.

use super::keys::{self, ConfigError, Keys};
use super::rope::{self, RopeScaling};
use crate::file;
use serde_json::{Map, Value, json};
use std::path::Path;

/// The name of the file in a model's folder.
pub const CONFIG_NAME: &str = "config.json";

/// The settings of a language model. Where a key is optional, absent and `null` are the same and are `None` here: which
/// default applies is the architecture's affair. Keys that GPT-2 and OPT spell in their own way (`n_embd`, `ffn_dim` …) are read
/// into the field of the usual one.
#[derive(Clone, Debug, PartialEq)]
pub struct HfConfig {
    /// `llama`, …
    pub model_type: Option<String>,
    /// `LlamaForCausalLM`, …
    pub architectures: Vec<String>,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: Option<usize>,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; absent: as many as query heads.
    pub num_key_value_heads: Option<usize>,
    /// Width of a head; absent: `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    /// Context length in tokens.
    pub max_position_embeddings: Option<usize>,
    /// Epsilon of the norms.
    pub rms_norm_eps: Option<f32>,
    /// Base of the rotary embeddings, from either spelling.
    pub rope_theta: Option<f32>,
    /// Stretching of the rotary embeddings, from either spelling; `None` also for kind `default`.
    pub rope_scaling: Option<RopeScaling>,
    /// Whether embedding and head are one matrix.
    pub tie_word_embeddings: Option<bool>,
    /// Whether the attention's projections have biases.
    pub attention_bias: Option<bool>,
    /// Whether the feed-forward's projections have biases.
    pub mlp_bias: Option<bool>,
    /// `silu`, …
    pub hidden_act: Option<String>,
    /// `float32`, `float16`, `bfloat16`, …, from either spelling.
    pub dtype: Option<String>,
    /// Standard deviation of the initial weights.
    pub initializer_range: Option<f32>,
    /// First token of a text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text: one id or a list in the file.
    pub eos_token_id: Vec<u32>,
    /// Filler token.
    pub pad_token_id: Option<u32>,
    /// All other keys, as they are; written back too.
    pub other: Map<String, Value>,
}

/// The keys that have a field.
const KNOWN: [&str; 24] = [
    "model_type",
    "architectures",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "tie_word_embeddings",
    "attention_bias",
    "mlp_bias",
    "hidden_act",
    "dtype",
    "torch_dtype",
    "initializer_range",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
];

/// GPT-2's and OPT's names of keys, and those that other models have for the same.
const OTHER_SPELLINGS: [(&str, &str); 8] = [
    ("n_embd", "hidden_size"),
    ("n_layer", "num_hidden_layers"),
    ("n_head", "num_attention_heads"),
    ("n_positions", "max_position_embeddings"),
    ("n_inner", "intermediate_size"),
    ("ffn_dim", "intermediate_size"),
    ("layer_norm_epsilon", "rms_norm_eps"),
    ("activation_function", "hidden_act"),
];

impl HfConfig {
    /// Reads a `config.json`, or the one in a folder.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let path = if file::is_dir(path) { path.join(CONFIG_NAME) } else { path.into() };
        Self::from_map(&path, keys::read(&path)?)
    }

    /// Reads the text of a config; `file` is for messages.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(file: &Path, bytes: &[u8]) -> Result<Self, ConfigError> {
        Self::from_map(file, keys::parse(file, bytes)?)
    }

    fn from_map(file: &Path, mut map: Map<String, Value>) -> Result<Self, ConfigError> {
        for (other, usual) in OTHER_SPELLINGS {
            if let Some(value) = map.get(other).filter(|_| !map.contains_key(usual)).cloned() {
                map.insert(usual.into(), value);
            }
        }
        let keys = Keys { file, prefix: String::new(), map: &map };
        let size = |key| keys.required(key, keys.size(key)?);
        let (rope_theta, rope_scaling) = rope::read(&keys)?;
        let mut config = Self {
            model_type: keys.text("model_type")?,
            architectures: keys.texts("architectures")?,
            vocab_size: size("vocab_size")?,
            hidden_size: size("hidden_size")?,
            intermediate_size: keys.size("intermediate_size")?,
            num_hidden_layers: size("num_hidden_layers")?,
            num_attention_heads: size("num_attention_heads")?,
            num_key_value_heads: keys.size("num_key_value_heads")?,
            head_dim: keys.size("head_dim")?,
            max_position_embeddings: keys.size("max_position_embeddings")?,
            rms_norm_eps: keys.number("rms_norm_eps", "a number above 0 and below 1", |v| v > 0.0 && v < 1.0)?,
            rope_theta,
            rope_scaling,
            tie_word_embeddings: keys.boolean("tie_word_embeddings")?,
            attention_bias: keys.boolean("attention_bias")?,
            mlp_bias: keys.boolean("mlp_bias")?,
            hidden_act: keys.text("hidden_act")?,
            dtype: dtype(&keys)?,
            initializer_range: keys.number("initializer_range", "a number of at least 0", |v| v >= 0.0)?,
            bos_token_id: keys.token("bos_token_id")?,
            eos_token_id: keys.tokens("eos_token_id")?,
            pad_token_id: keys.token("pad_token_id")?,
            other: Map::new(),
        };
        map.retain(|key, _| !KNOWN.contains(&key.as_str()));
        config.other = map;
        Ok(config)
    }

    /// The file's text, keys sorted, in both spellings, so that transformers 4 and 5 and other readers understand it.
    pub fn to_json(&self) -> String {
        let mut map = Map::new();
        let mut put = |key: &str, value: Value| {
            if !value.is_null() {
                map.insert(key.into(), value);
            }
        };
        put("model_type", json!(self.model_type));
        put("architectures", json!(self.architectures));
        put("vocab_size", json!(self.vocab_size));
        put("hidden_size", json!(self.hidden_size));
        put("intermediate_size", json!(self.intermediate_size));
        put("num_hidden_layers", json!(self.num_hidden_layers));
        put("num_attention_heads", json!(self.num_attention_heads));
        put("num_key_value_heads", json!(self.num_key_value_heads));
        put("head_dim", json!(self.head_dim));
        put("max_position_embeddings", json!(self.max_position_embeddings));
        put("rms_norm_eps", number(self.rms_norm_eps));
        put("tie_word_embeddings", json!(self.tie_word_embeddings));
        put("attention_bias", json!(self.attention_bias));
        put("mlp_bias", json!(self.mlp_bias));
        put("hidden_act", json!(self.hidden_act));
        put("dtype", json!(self.dtype));
        put("torch_dtype", json!(self.dtype));
        put("initializer_range", number(self.initializer_range));
        put("bos_token_id", json!(self.bos_token_id));
        put("eos_token_id", token_list(&self.eos_token_id));
        put("pad_token_id", json!(self.pad_token_id));
        self.put_rope(&mut put);
        for (key, value) in &self.other {
            put(key, value.clone());
        }
        pretty(&Value::Object(map))
    }

    /// `rope_theta` and `rope_scaling` for transformers 4 and others, `rope_parameters` for transformers 5.
    fn put_rope(&self, put: &mut impl FnMut(&str, Value)) {
        let mut parameters = rope::to_json(self.rope_scaling.as_ref());
        put("rope_theta", number(self.rope_theta));
        if self.rope_scaling.is_some() {
            put("rope_scaling", Value::Object(parameters.clone()));
        }
        if self.rope_theta.is_some() {
            parameters.insert("rope_theta".into(), number(self.rope_theta));
            put("rope_parameters", Value::Object(parameters));
        }
    }

    /// Writes `config.json`, atomically.
    ///
    /// # Errors
    /// [`ConfigError::File`].
    pub fn write(&self, path: &Path) -> Result<(), ConfigError> {
        Ok(file::write_bytes(path, self.to_json().as_bytes())?)
    }
}

/// `dtype` of transformers 5 or `torch_dtype` of 4; some files say `torch.float16`.
fn dtype(keys: &Keys<'_>) -> Result<Option<String>, ConfigError> {
    let dtype = match keys.text("dtype")? {
        Some(dtype) => Some(dtype),
        None => keys.text("torch_dtype")?,
    };
    Ok(dtype.map(|dtype| dtype.strip_prefix("torch.").map_or(dtype.clone(), String::from)))
}

/// A float with the digits that give it back as f32, not those of its widening to f64.
pub(super) fn number(value: Option<f32>) -> Value {
    value.and_then(|v| v.to_string().parse::<f64>().ok()).map_or(Value::Null, |v| json!(v))
}

/// One id as a number, several as a list.
pub(super) fn token_list(ids: &[u32]) -> Value {
    match ids {
        [] => Value::Null,
        [one] => json!(one),
        several => json!(several),
    }
}

/// Indented text with a line feed at its end.
pub(super) fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
