//! A recipe: every knob of a run in one file, with its unit, its range and its default.
//!
//! Holds: the sections of a recipe, reading them from TOML, `--set` overrides, checks.
//! Never: behaviour. Functions elsewhere take the section they need, never the whole.
//! Start reading at [`Recipe`].

mod check;
mod data;
mod distill;
mod load;
mod model_shape;
mod train;

#[cfg(test)]
mod tests;

pub use data::{Corpus, Data, Decontaminate, DropRule, Format, InvalidUtf8, Nul, Separator, Source, Split};
pub use distill::{Distill, Divergence};
pub use load::RecipeError;
pub use model_shape::{Init, ModelShape};
pub use train::{Checkpoints, DecayedParameters, Evaluation, Optimizer, Precision, Schedule, ScheduleKind, Train};

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Everything that determines a run. The resolved form, defaults and overrides included, is kept in the run folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// What the run is called and from which seed it grows.
    #[serde(default)]
    pub run: Run,
    /// The shape of the model, or the folder whose weights it starts from.
    #[serde(default)]
    pub model: ModelShape,
    /// Which tokenizer, or how one is trained; for a draft it is the target's, and nothing stands here.
    #[serde(default)]
    pub tokenizer: TokenizerChoice,
    /// Which text, what is dropped, how it is cut.
    pub data: Data,
    /// Batches, optimizer, schedule, checkpoints.
    pub train: Train,
    /// How a draft learns from its target; only in recipes of `slm distill`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distill: Option<Distill>,
}

/// The `[run]` section.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Run {
    /// One line for people.
    pub description: String,
    /// Seed of initial weights and of the order of data.
    pub seed: u64,
}

/// The `[tokenizer]` section: either `path`, or `train_vocab`; neither in a recipe for a draft.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenizerChoice {
    /// `tokenizer.json`, `tokenizer.model`, a GGUF file, or a folder that holds one of the first two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Train one of this many tokens on the recipe's own training text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_vocab: Option<usize>,
    /// Which kind is trained.
    pub kind: TokenizerKind,
    /// Bytes of text, taken evenly over the sources, that the tokenizer is trained on.
    pub train_bytes: u64,
}

impl Default for TokenizerChoice {
    fn default() -> Self {
        Self { path: None, train_vocab: None, kind: TokenizerKind::ByteLevel, train_bytes: 32 << 20 }
    }
}

/// Kinds of byte-pair encoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenizerKind {
    /// Bytes, cut into words by GPT-2's rule.
    #[default]
    ByteLevel,
    /// Characters with `▁` for the space, and bytes for what is rare (Llama 2's kind).
    Sentencepiece,
}
