//! How a model's makers would have it sampled: `generation_config.json`.

use super::config::{number, pretty, token_list};
use super::keys::{self, ConfigError, Keys};
use crate::file;
use serde_json::{Map, Value, json};
use std::path::Path;

/// The name of the file in a model's folder.
pub const GENERATION_CONFIG_NAME: &str = "generation_config.json";

/// Recommended sampling and the tokens that begin and end a text; all optional.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// First token of a text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text; where present they count, not those of `config.json`.
    pub eos_token_id: Vec<u32>,
    /// Filler token.
    pub pad_token_id: Option<u32>,
    /// Whether to sample at all (else greedy).
    pub do_sample: Option<bool>,
    /// Divides the logits.
    pub temperature: Option<f32>,
    /// Only this many of the most likely tokens; 0 in the file means all and is `None` here.
    pub top_k: Option<usize>,
    /// Only the most likely tokens that together have this probability.
    pub top_p: Option<f32>,
    /// Only tokens at least this probable relative to the most likely.
    pub min_p: Option<f32>,
    /// Above 1: tokens that were used become less likely.
    pub repetition_penalty: Option<f32>,
    /// Longest continuation in tokens.
    pub max_new_tokens: Option<usize>,
}

impl GenerationConfig {
    /// Reads a `generation_config.json`, or the one in a folder; a folder without one gives the empty config.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let path = if file::is_dir(path) {
            let inside = path.join(GENERATION_CONFIG_NAME);
            if !file::exists(&inside) {
                return Ok(Self::default());
            }
            inside
        } else {
            path.into()
        };
        Self::from_map(&path, &keys::read(&path)?)
    }

    /// Reads the text of a generation config; `file` is for messages.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(file: &Path, bytes: &[u8]) -> Result<Self, ConfigError> {
        Self::from_map(file, &keys::parse(file, bytes)?)
    }

    fn from_map(file: &Path, map: &Map<String, Value>) -> Result<Self, ConfigError> {
        let keys = Keys { file, prefix: String::new(), map };
        let share = |key| keys.number(key, "a number from 0 to 1", |v| (0.0..=1.0).contains(&v));
        let zero = |key| keys.value(key).and_then(Value::as_u64) == Some(0);
        Ok(Self {
            bos_token_id: keys.token("bos_token_id")?,
            eos_token_id: keys.tokens("eos_token_id")?,
            pad_token_id: keys.token("pad_token_id")?,
            do_sample: keys.boolean("do_sample")?,
            temperature: keys.number("temperature", "a number of at least 0", |v| v >= 0.0)?,
            top_k: if zero("top_k") { None } else { keys.size("top_k")? },
            top_p: share("top_p")?,
            min_p: share("min_p")?,
            repetition_penalty: keys.number("repetition_penalty", "a number above 0", |v| v > 0.0)?,
            max_new_tokens: keys.size("max_new_tokens")?,
        })
    }

    /// The file's text.
    pub fn to_json(&self) -> String {
        let entries = [
            ("bos_token_id", json!(self.bos_token_id)),
            ("eos_token_id", token_list(&self.eos_token_id)),
            ("pad_token_id", json!(self.pad_token_id)),
            ("do_sample", json!(self.do_sample)),
            ("temperature", number(self.temperature)),
            ("top_k", json!(self.top_k)),
            ("top_p", number(self.top_p)),
            ("min_p", number(self.min_p)),
            ("repetition_penalty", number(self.repetition_penalty)),
            ("max_new_tokens", json!(self.max_new_tokens)),
        ];
        let map = entries.into_iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.into(), value));
        pretty(&Value::Object(map.collect()))
    }

    /// Writes `generation_config.json`, atomically.
    ///
    /// # Errors
    /// [`ConfigError::File`].
    pub fn write(&self, path: &Path) -> Result<(), ConfigError> {
        Ok(file::write_bytes(path, self.to_json().as_bytes())?)
    }
}
