//! `config.json` and `generation_config.json` of a Hugging Face folder, as they are written in the wild.
//!
//! Keys that we do not interpret are kept but not judged. Keys that we do are checked: a wrong type or an impossible
//! value is an error that names the key, never a silent default. The spellings of transformers 4 (`torch_dtype`,
//! `rope_theta`, `rope_scaling`) and 5 (`dtype`, `rope_parameters`) are both read, and both written.

mod config;
mod generation;
mod keys;
mod rope;

pub use config::{CONFIG_NAME, HfConfig};
pub use generation::{GENERATION_CONFIG_NAME, GenerationConfig};
pub use keys::ConfigError;
pub use rope::RopeScaling;

/// A config holds some dozens of numbers; the largest in the wild (with label lists) are below 1 MB.
const LIMIT_BYTES: u64 = 16 << 20;

#[cfg(test)]
mod tests;
