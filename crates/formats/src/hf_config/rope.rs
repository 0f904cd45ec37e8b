//! Rotary embeddings' numbers in either spelling.

use super::keys::{ConfigError, Keys};
use serde_json::{Map, Value, json};

/// How rotary angles are stretched for contexts beyond the trained one.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Positions divided by `factor`.
    Linear {
        /// ≥ 1.
        factor: f32,
    },
    /// Base raised with the length of the text (NTK).
    Dynamic {
        /// ≥ 1.
        factor: f32,
        /// Context of the training, where stated.
        original_context: Option<usize>,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// ≥ 1.
        factor: f32,
        /// Wavelengths above `original_context / low_frequency_factor` are low frequencies.
        low_frequency_factor: f32,
        /// Wavelengths below `original_context / high_frequency_factor` are high frequencies.
        high_frequency_factor: f32,
        /// Context of the training.
        original_context: usize,
    },
    /// YaRN (Peng et al., 2023): pairs that turn slowly are divided by `factor`, fast ones kept, a ramp between; cosines and
    /// sines are multiplied by `attention_factor`.
    Yarn {
        /// Divisor; absent: the context over the original one.
        factor: Option<f32>,
        /// Context of the training, where stated.
        original_context: Option<usize>,
        /// Absent: it follows from `factor` and the two below.
        attention_factor: Option<f32>,
        /// `mscale` and `mscale_all_dim`, where both are stated.
        mscales: Option<(f32, f32)>,
        /// Pairs that turn more often than this in the original context are kept; 32 as a rule.
        beta_fast: f32,
        /// Pairs that turn less often than this are divided; 1 as a rule.
        beta_slow: f32,
        /// Whether the ramp's ends are whole pairs.
        truncate: bool,
    },
    /// A kind that is not interpreted here (`longrope`, …).
    Other {
        /// Its name.
        kind: String,
    },
}

const FACTOR: &str = "a number of at least 1";

/// Base and scaling of a config.
pub(super) fn read(keys: &Keys<'_>) -> Result<(Option<f32>, Option<RopeScaling>), ConfigError> {
    let outer = theta(keys)?;
    whole_heads(keys)?;
    let (name, object) = match (keys.object("rope_parameters")?, keys.object("rope_scaling")?) {
        (Some(object), _) => ("rope_parameters", object),
        (None, Some(object)) => ("rope_scaling", object),
        (None, None) => return Ok((outer, None)),
    };
    if object.map.values().any(Value::is_object) {
        // One set of parameters per kind of layer: no plain Llama.
        return Err(keys.wrong(name, "one set of parameters for all layers, the only form that is supported"));
    }
    let inner = theta(&object)?;
    whole_heads(&object)?;
    if let (Some(inner), Some(outer)) = (inner, outer)
        && inner != outer
    {
        return Err(ConfigError::Contradiction {
            file: keys.file.into(),
            key: "rope_theta",
            found: outer.to_string(),
            other: "rope_parameters.rope_theta",
            other_found: inner.to_string(),
        });
    }
    Ok((inner.or(outer), scaling(&object)?))
}

/// Refuses a share of each head: transformers rotates only that, in every architecture.
fn whole_heads(keys: &Keys<'_>) -> Result<(), ConfigError> {
    let whole = "1, as whole heads are rotated";
    keys.number("partial_rotary_factor", whole, |share| share == 1.0).map(|_| ())
}

fn theta(keys: &Keys<'_>) -> Result<Option<f32>, ConfigError> {
    keys.number("rope_theta", "a number above 0", |theta| theta > 0.0)
}

fn scaling(keys: &Keys<'_>) -> Result<Option<RopeScaling>, ConfigError> {
    let kind = match keys.text("rope_type")? {
        Some(kind) => Some(kind),
        None => keys.text("type")?,
    };
    let factor = || keys.number("factor", FACTOR, |factor| factor >= 1.0);
    let positive = |key| keys.number(key, "a number above 0", |v| v > 0.0);
    Ok(match kind.as_deref() {
        None | Some("default") => None,
        Some("linear") => Some(RopeScaling::Linear { factor: keys.required("factor", factor()?)? }),
        Some("dynamic") => Some(RopeScaling::Dynamic {
            factor: keys.required("factor", factor()?)?,
            original_context: keys.size("original_max_position_embeddings")?,
        }),
        Some("llama3") => {
            let low = keys.required("low_freq_factor", positive("low_freq_factor")?)?;
            let high = keys.required("high_freq_factor", positive("high_freq_factor")?)?;
            if high <= low {
                return Err(keys.wrong("high_freq_factor", "a number above `low_freq_factor`"));
            }
            let original = "original_max_position_embeddings";
            Some(RopeScaling::Llama3 {
                factor: keys.required("factor", factor()?)?,
                low_frequency_factor: low,
                high_frequency_factor: high,
                original_context: keys.required(original, keys.size(original)?)?,
            })
        }
        Some("yarn") => Some(yarn(keys)?),
        Some(other) => Some(RopeScaling::Other { kind: other.into() }),
    })
}

fn yarn(keys: &Keys<'_>) -> Result<RopeScaling, ConfigError> {
    let positive = |key| keys.number(key, "a number above 0", |v| v > 0.0);
    Ok(RopeScaling::Yarn {
        factor: keys.number("factor", FACTOR, |factor| factor >= 1.0)?,
        original_context: keys.size("original_max_position_embeddings")?,
        attention_factor: positive("attention_factor")?,
        mscales: keys.number("mscale", "a number", |_| true)?.zip(keys.number("mscale_all_dim", "a number", |_| true)?),
        beta_fast: positive("beta_fast")?.unwrap_or(32.0),
        beta_slow: positive("beta_slow")?.unwrap_or(1.0),
        truncate: keys.boolean("truncate")?.unwrap_or(true),
    })
}

/// The object for `rope_scaling`; with `rope_theta` added it is `rope_parameters`.
pub(super) fn to_json(scaling: Option<&RopeScaling>) -> Map<String, Value> {
    let value = match scaling {
        None => json!({"rope_type": "default"}),
        Some(RopeScaling::Linear { factor }) => json!({"rope_type": "linear", "factor": factor}),
        Some(RopeScaling::Dynamic { factor, original_context: None }) => {
            json!({"rope_type": "dynamic", "factor": factor})
        }
        Some(RopeScaling::Dynamic { factor, original_context: Some(context) }) => {
            json!({"rope_type": "dynamic", "factor": factor, "original_max_position_embeddings": context})
        }
        Some(RopeScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_context }) => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_frequency_factor,
            "high_freq_factor": high_frequency_factor,
            "original_max_position_embeddings": original_context,
        }),
        Some(RopeScaling::Yarn {
            factor,
            original_context,
            attention_factor,
            mscales,
            beta_fast,
            beta_slow,
            truncate,
        }) => {
            let mut map = Map::new();
            let mut put = |key: &str, value: Value| {
                if !value.is_null() {
                    map.insert(key.into(), value);
                }
            };
            put("rope_type", json!("yarn"));
            put("factor", json!(factor));
            put("original_max_position_embeddings", json!(original_context));
            put("attention_factor", json!(attention_factor));
            put("mscale", json!(mscales.map(|(mscale, _)| mscale)));
            put("mscale_all_dim", json!(mscales.map(|(_, mscale)| mscale)));
            put("beta_fast", json!(beta_fast));
            put("beta_slow", json!(beta_slow));
            put("truncate", json!(truncate));
            Value::Object(map)
        }
        Some(RopeScaling::Other { kind }) => json!({"rope_type": kind}),
    };
    match value {
        Value::Object(map) => map,
        _ => Map::new(), // `json!` of braces is an object
    }
}
