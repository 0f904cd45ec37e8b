//! The architectures that are computed. Each has a file here that says what files call it, its tensors and its settings; the
//! mathematics of a block stand in `llama.rs` and `gpt2.rs`.

mod gpt2;
mod llama;
mod opt;
mod qwen2;
mod qwen3;
mod smollm3;

use crate::pass::BlockForward;
use crate::tensors::{PairOrder, Role};
use crate::{Config, ConfigError};
use formats::gguf::Gguf;
use formats::hf_config::HfConfig;
use serde_json::Value;

/// Families of models that differ in parts of their block and in what files call them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// Llama and what has its shape: SmolLM, Mistral without its window, AMD-135M.
    Llama,
    /// Qwen 2 and 2.5 (Yang et al., 2024): a Llama whose query, key and value projections have biases.
    Qwen2,
    /// Qwen 3 (Yang et al., 2025): a Llama whose queries and keys are normalized head by head.
    Qwen3,
    /// SmolLM 3 (Bakouch et al., 2025): a Llama that rotates in three of four layers only.
    SmolLm3,
    /// GPT-2 (Radford et al., 2019).
    Gpt2,
    /// OPT (Zhang et al., 2022): a GPT-2 with ReLU, in some sizes with norms after the additions.
    Opt,
}

/// What the rest of the crate must know of an architecture.
pub(crate) struct Description {
    /// `model_type` of a `config.json`, `general.architecture` of a GGUF file.
    pub(crate) name: &'static str,
    /// The class in transformers.
    pub(crate) class: &'static str,
    /// The shape that a `config.json` states, not yet validated.
    pub(crate) from_hf: fn(&HfConfig) -> Result<Config, ConfigError>,
    /// A tensor's name in a Hugging Face folder, `{}` being the layer; `None` where there is no such tensor.
    pub(crate) folder_name: fn(Role) -> Option<&'static str>,
    /// Matrices that a Hugging Face folder holds as `inputs × outputs`.
    pub(crate) transposed: &'static [Role],
    /// How GGUF files hold it; `None`: they do not.
    pub(crate) gguf: Option<GgufForm>,
    /// The forward pass of a block.
    pub(crate) block_forward: BlockForward,
}

/// How GGUF files hold an architecture.
pub(crate) struct GgufForm {
    /// Layout of the pairs of a rotated head.
    pub(crate) pair_order: PairOrder,
    /// The key of the norms' ε, after the architecture's name.
    pub(crate) epsilon: &'static str,
    /// What such a file has beside a plain Llama's parts, found from its tensors; the number of layers is given.
    pub(crate) form: fn(&Gguf, usize) -> Form,
}

/// What a model has beside, or instead of, the parts of a plain Llama ([`Form::LLAMA`]).
#[derive(Clone, Debug, PartialEq)]
pub struct Form {
    /// What stands between the two projections of the feed-forward layer.
    pub activation: Activation,
    /// Whether query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the projection of the attended values has a bias.
    pub attention_out_bias: bool,
    /// Whether the projections of the feed-forward layer have biases.
    pub ffn_bias: bool,
    /// Whether queries and keys are normalized head by head before they are rotated.
    pub head_norms: bool,
    /// Whether each layer rotates queries and keys; empty where all do.
    pub rotated: Vec<bool>,
    /// Whether norms stand after the additions to the residual stream, not before attention and feed-forward layer.
    pub norms_after: bool,
    /// Whether there is a norm after the last block.
    pub final_norm: bool,
    /// Width of token vectors, where it is not that of the residual stream: they are projected in and, for the head, out.
    pub token_width: Option<usize>,
}

/// What stands between the two projections of a feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// SiLU of one half times the other ([`backend::Backend::swiglu`]).
    SwiGlu,
    /// [`backend::Backend::gelu`].
    Gelu,
    /// [`backend::Backend::relu`].
    Relu,
}

impl Activation {
    /// Whether the first projection is twice as wide: a gate beside what is gated.
    pub const fn is_gated(self) -> bool {
        matches!(self, Self::SwiGlu)
    }
}

impl Form {
    /// Nothing but a Llama.
    pub const LLAMA: Self = Self {
        activation: Activation::SwiGlu,
        qkv_bias: false,
        attention_out_bias: false,
        ffn_bias: false,
        head_norms: false,
        rotated: Vec::new(),
        norms_after: false,
        final_norm: true,
        token_width: None,
    };

    /// GPT-2's: biases everywhere.
    pub fn gpt2() -> Self {
        Self { activation: Activation::Gelu, qkv_bias: true, attention_out_bias: true, ffn_bias: true, ..Self::LLAMA }
    }

    /// Whether `layer` rotates queries and keys.
    pub fn rotates(&self, layer: usize) -> bool {
        self.rotated.get(layer).copied().unwrap_or(true)
    }
}

impl Architecture {
    /// All that are computed.
    pub(crate) const ALL: [Self; 6] = [Self::Llama, Self::Qwen2, Self::Qwen3, Self::SmolLm3, Self::Gpt2, Self::Opt];

    pub(crate) const fn description(self) -> &'static Description {
        match self {
            Self::Llama => &llama::DESCRIPTION,
            Self::Qwen2 => &qwen2::DESCRIPTION,
            Self::Qwen3 => &qwen3::DESCRIPTION,
            Self::SmolLm3 => &smollm3::DESCRIPTION,
            Self::Gpt2 => &gpt2::DESCRIPTION,
            Self::Opt => &opt::DESCRIPTION,
        }
    }

    /// `model_type` of a `config.json`, `general.architecture` of a GGUF file.
    pub const fn name(self) -> &'static str {
        self.description().name
    }

    /// The architecture of that name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name)
    }

    /// Whether positions are learned vectors that are added to the tokens', instead of rotations.
    pub const fn learns_positions(self) -> bool {
        matches!(self, Self::Gpt2 | Self::Opt)
    }

    /// Whether norms subtract the mean and add a bias (layer norm), instead of dividing alone (RMSNorm).
    pub const fn has_layer_norm(self) -> bool {
        matches!(self, Self::Gpt2 | Self::Opt)
    }

    /// Rows of the table of positions before that of position 0.
    pub(crate) const fn position_offset(self) -> usize {
        match self {
            Self::Opt => 2,
            _ => 0,
        }
    }

    /// Names of all for which `has` holds, for messages: "`llama`, `qwen2` and `gpt2`".
    pub(crate) fn names(name: impl Fn(&Description) -> &'static str, has: impl Fn(&Description) -> bool) -> String {
        let known = Self::ALL.into_iter().map(Self::description).filter(|known| has(known));
        let names: Vec<String> = known.map(|known| format!("`{}`", name(known))).collect();
        match names.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, others)) => format!("{} and {last}", others.join(", ")),
            None => String::new(),
        }
    }
}

/// Refuses a setting of a `config.json`.
fn unsupported<T>(field: &'static str, value: impl ToString, supported: &'static str) -> Result<T, ConfigError> {
    Err(ConfigError::Unsupported { field, value: value.to_string(), supported: supported.into() })
}

/// A switch among the keys that [`HfConfig`] has no field for.
fn flag(hf: &HfConfig, field: &'static str, absent: bool) -> Result<bool, ConfigError> {
    match hf.other.get(field) {
        None | Some(Value::Null) => Ok(absent),
        Some(Value::Bool(value)) => Ok(*value),
        Some(other) => Err(ConfigError::OutOfRange { field, value: other.to_string(), rule: "true or false".into() }),
    }
}

/// Refuses a switch that is on.
fn refuse_flag(hf: &HfConfig, field: &'static str, supported: &'static str) -> Result<(), ConfigError> {
    if flag(hf, field, false)? { unsupported(field, "true", supported) } else { Ok(()) }
}

/// Refuses another activation than those of `known` (names of transformers); without a name it is the first.
fn activation(hf: &HfConfig, known: &[(&str, Activation)], supported: &'static str) -> Result<Activation, ConfigError> {
    let name = hf.hidden_act.as_deref().unwrap_or(known[0].0);
    match known.iter().find(|(known, _)| *known == name) {
        Some(&(_, activation)) => Ok(activation),
        None => unsupported("hidden_act", name, supported),
    }
}
