//! One JSON object with a file name: every getter says which key of which file is wrong, and how.

use crate::file::{self, FileError};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Why a config was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The disk or the path.
    #[error(transparent)]
    File(#[from] FileError),
    /// No JSON.
    #[error("{file}: not valid JSON ({reason}); fetch the file again")]
    Json {
        /// The file.
        file: PathBuf,
        /// What the parser says, with line and column.
        reason: serde_json::Error,
    },
    /// JSON, but no object.
    #[error("{file}: holds {found}, not an object of settings; check that it is the config of a model")]
    NotAnObject {
        /// The file.
        file: PathBuf,
        /// What it holds.
        found: String,
    },
    /// A key that must be there.
    #[error("{file}: `{key}` is missing; check that it is the config of a language model")]
    Missing {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
    },
    /// A key with a value that cannot be meant.
    #[error("{file}: `{key}` is {found}, not {expected}; correct the file or fetch it again")]
    Value {
        /// The file.
        file: PathBuf,
        /// The key, dotted where it is inside another.
        key: String,
        /// The value, shortened.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// Two keys that say the same say it differently.
    #[error("{file}: `{key}` is {found} but `{other}` is {other_found}; correct one of them")]
    Contradiction {
        /// The file.
        file: PathBuf,
        /// One key.
        key: &'static str,
        /// Its value.
        found: String,
        /// The other key.
        other: &'static str,
        /// Its value.
        other_found: String,
    },
}

/// An object being read.
pub(super) struct Keys<'a> {
    pub(super) file: &'a Path,
    /// Key of the object itself and a dot, where it is inside another.
    pub(super) prefix: String,
    pub(super) map: &'a Map<String, Value>,
}

/// The object that a file holds. serde_json refuses nesting beyond 128 levels.
pub(super) fn parse(file: &Path, bytes: &[u8]) -> Result<Map<String, Value>, ConfigError> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(ConfigError::NotAnObject { file: file.into(), found: shortened(&other) }),
        Err(reason) => Err(ConfigError::Json { file: file.into(), reason }),
    }
}

/// [`parse`] of a file on the disk.
pub(super) fn read(file: &Path) -> Result<Map<String, Value>, ConfigError> {
    parse(file, &file::read(file, super::LIMIT_BYTES)?)
}

/// A value in a message: at most 40 characters of it.
fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

impl<'a> Keys<'a> {
    /// The value of a key; `null` counts as absent, as transformers writes it for "none".
    pub(super) fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn wrong(&self, key: &str, expected: &'static str) -> ConfigError {
        let found = self.map.get(key).map_or_else(|| "missing".into(), shortened);
        ConfigError::Value { file: self.file.into(), key: format!("{}{key}", self.prefix), found, expected }
    }

    /// The value of a key through `read`, which returns `None` for what is not `expected`.
    fn typed<T>(
        &self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        self.value(key).map(|value| read(value).ok_or_else(|| self.wrong(key, expected))).transpose()
    }

    pub(super) fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, ConfigError> {
        value.ok_or_else(|| ConfigError::Missing { file: self.file.into(), key: format!("{}{key}", self.prefix) })
    }

    /// A size: 1…2³¹−1, so that products of two of them fit 64 bits.
    pub(super) fn size(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        self.typed(key, "a whole number from 1 to 2147483647", |value| {
            // Some exporters write 4096.0.
            let number = value.as_u64().or_else(|| whole(value.as_f64()?))?;
            usize::try_from(number).ok().filter(|size| (1..=i32::MAX as usize).contains(size))
        })
    }

    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<String>, ConfigError> {
        self.typed(key, "a string", |value| value.as_str().map(String::from))
    }

    /// A finite number that is an f32 and fulfils `accepts`.
    pub(super) fn number(
        &self,
        key: &str,
        expected: &'static str,
        accepts: impl Fn(f32) -> bool,
    ) -> Result<Option<f32>, ConfigError> {
        self.typed(key, expected, |value| Some(value.as_f64()? as f32).filter(|&v| v.is_finite() && accepts(v)))
    }

    pub(super) fn token(&self, key: &str) -> Result<Option<u32>, ConfigError> {
        // OPT and others write −1 for "none".
        if self.value(key).and_then(Value::as_i64) == Some(-1) {
            return Ok(None);
        }
        self.typed(key, "a token id", token)
    }

    /// One id or a list of them.
    pub(super) fn tokens(&self, key: &str) -> Result<Vec<u32>, ConfigError> {
        let ids = self.typed(key, "a token id or a list of token ids", |value| match value {
            Value::Array(ids) => ids.iter().map(token).collect(),
            one if one.as_i64() == Some(-1) => Some(vec![]),
            one => Some(vec![token(one)?]),
        })?;
        Ok(ids.unwrap_or_default())
    }

    pub(super) fn texts(&self, key: &str) -> Result<Vec<String>, ConfigError> {
        let texts = self.typed(key, "a list of strings", |value| {
            value.as_array()?.iter().map(|text| text.as_str().map(String::from)).collect()
        })?;
        Ok(texts.unwrap_or_default())
    }

    pub(super) fn object(&self, key: &str) -> Result<Option<Keys<'a>>, ConfigError> {
        let map = self.typed(key, "an object", Value::as_object)?;
        Ok(map.map(|map| Keys { file: self.file, prefix: format!("{}{key}.", self.prefix), map }))
    }
}

fn token(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

fn whole(value: f64) -> Option<u64> {
    (value >= 0.0 && value.fract() == 0.0 && value < 9e15).then_some(value as u64)
}
