//! `summary.json`, as others read it: losses and entropy in nats per token.

use serde::Serialize;
use std::path::PathBuf;

/// What a quickstart measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    /// The model after pretraining, on held-out prose.
    pub base: Held,
    /// The model after finetuning, on held-out code.
    pub code: Held,
    /// Generation with and without the draft.
    pub speculation: Speculation,
    /// The exported Hugging Face folder.
    pub export: PathBuf,
}

/// Loss on held-out text before and after a training run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Held {
    /// Before the run (random weights for the base model, the base model for the finetuned one).
    pub heldout_loss_before: f64,
    /// After the run.
    pub heldout_loss_after: f64,
    /// Entropy of the held-out tokens' own frequencies.
    pub unigram_entropy: f64,
    /// The loss after the run, in bits per byte of text.
    pub bits_per_byte: f64,
}

/// Speed with and without the draft.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Speculation {
    /// The target alone.
    pub plain_tokens_per_second: f64,
    /// The target with its draft.
    pub speculative_tokens_per_second: f64,
    /// Accepted over drafted tokens.
    pub acceptance: f64,
    /// Tokens that one pass of the target yields.
    pub mean_accepted_length: f64,
    /// Whether both gave the same bytes.
    pub identical: bool,
}
