//! What can go wrong in inference.

use backend::{Backend, BackendError};
use model::{Model, Stage};

/// Why text could not be generated or scored.
#[derive(Debug, thiserror::Error)]
pub enum InferError {
    /// The machine.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A session for more positions than the model was made for, or for none.
    #[error(
        "a session of {capacity} tokens was asked for, but the model's context is {context}; ask for 1 to {context} tokens"
    )]
    Capacity {
        /// What was asked for.
        capacity: usize,
        /// The most that the model takes.
        context: usize,
    },
    /// More rows than the session has room for.
    #[error(
        "{tokens} more tokens do not fit: the session holds {held} of at most {capacity}; shorten the text or use a larger capacity"
    )]
    Full {
        /// What should be added.
        tokens: usize,
        /// What is there.
        held: usize,
        /// The session's capacity.
        capacity: usize,
    },
    /// A prompt that leaves no room for a single token.
    #[error(
        "the prompt is {tokens} tokens long and leaves no room to generate in a context of {capacity}; shorten it to at most {} tokens",
        capacity - 1
    )]
    PromptTooLong {
        /// The prompt's length.
        tokens: usize,
        /// The session's capacity.
        capacity: usize,
    },
    /// Nothing to continue.
    #[error("the prompt has no tokens; give at least one, for example the beginning-of-text token")]
    EmptyPrompt,
    /// A pass over no rows, or over more than its buffers hold.
    #[error("{rows} rows cannot be computed at once; give 1 to {most}")]
    RowCount {
        /// What was given.
        rows: usize,
        /// The most.
        most: usize,
    },
    /// An id that the model has no embedding for.
    #[error(
        "token {index} of the input has id {id}, but the model's vocabulary has {vocab} tokens; is this the model's own tokenizer?"
    )]
    UnknownToken {
        /// Index in the input, from 0.
        index: usize,
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// An option outside its range.
    #[error("--{flag} is {value}, but it must be {rule}")]
    Option {
        /// The flag's name, without dashes.
        flag: &'static str,
        /// What it was set to.
        value: String,
        /// What it may be.
        rule: String,
    },
    /// Logits that are not numbers.
    #[error(
        "the model's logits at position {position} are not finite numbers{}; its weights are damaged or overflow in this precision: try --dtype f32 or another copy of the model",
        first.map(|stage| format!(", and of its parts {stage} is the first whose output is not")).unwrap_or_default()
    )]
    NotFinite {
        /// Position of the row, from 0.
        position: usize,
        /// Where numbers first stop being numbers, once a second pass has looked.
        first: Option<Stage>,
    },
    /// A text longer than the model's context.
    #[error(
        "the text is {tokens} tokens long, but the model's context is {context}; shorten it or score it in windows with --rolling"
    )]
    TooLong {
        /// The text's length.
        tokens: usize,
        /// The model's context.
        context: usize,
    },
    /// A draft model that speaks another vocabulary.
    #[error(
        "the draft model cannot propose tokens for the target: id {id} is {draft:?} to the draft and {target:?} to the target; use a draft with the target's tokenizer, add --bridge-vocab to draft by way of text, or take --speculate suffix"
    )]
    OtherVocabulary {
        /// First id that differs.
        id: u32,
        /// The draft's spelling of it.
        draft: String,
        /// The target's.
        target: String,
    },
}

impl InferError {
    /// The error with the first part of `model` that does not give numbers, where logits were none: a pass over `ids`, the
    /// text that was read, looks at every layer's output.
    pub(crate) fn located(self, b: &dyn Backend, model: &Model, ids: &[u32]) -> Self {
        match self {
            Self::NotFinite { position, first: None } if !ids.is_empty() => {
                let read = &ids[..ids.len().min(model.config.context)];
                // Without memory for a second look the first finding stands.
                let first = model::first_not_finite(b, model, read).ok().flatten();
                Self::NotFinite { position, first }
            }
            other => other,
        }
    }
}
