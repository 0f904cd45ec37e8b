//! The `[distill]` section.

use serde::{Deserialize, Serialize};

/// How a draft learns from its target (`slm distill`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Distill {
    /// What is made small.
    pub divergence: Divergence,
    /// Tokens of which the target's probability is kept at each place, 1 to 64; the rest is kept as one number.
    pub top_k: usize,
    /// Tokens that the draft has ids for, the most frequent ones of the training text; all others share one id, and the
    /// target says them alone. 0 is all of the target's.
    pub frequent_tokens: usize,
    /// Layers of the target, from 0, that the draft begins with, its embedding and head too; `[model]` is empty then.
    pub layers_of_target: Vec<usize>,
    /// Sequences that are collected at a time.
    pub round_sequences: usize,
    /// Steps between two collections.
    pub round_steps: u64,
    /// Share of the sequences that are training text as it stands.
    pub text_share: f64,
    /// Share of the sequences that the target writes.
    pub target_share: f64,
    /// Share of the sequences that the draft writes, as well as it can by then.
    pub draft_share: f64,
    /// Temperatures at which target and draft write, in turn.
    pub temperatures: Vec<f32>,
    /// What the user says in chats, with `{text}` for a passage of the training text; in turn with the passage alone,
    /// outside a chat, to be continued. Needs the target's chat template.
    pub requests: Vec<String>,
    /// Prompts from held-out text on which acceptance is measured before and after.
    pub heldout_prompts: usize,
    /// Tokens generated for each.
    pub heldout_tokens: usize,
    /// Tokens drafted at a time there.
    pub draft_length: usize,
}

impl Default for Distill {
    fn default() -> Self {
        Self {
            divergence: Divergence::ForwardKl,
            top_k: 32,
            frequent_tokens: 0,
            layers_of_target: Vec::new(),
            round_sequences: 256,
            round_steps: 64,
            text_share: 0.5,
            target_share: 0.4,
            draft_share: 0.1,
            temperatures: vec![0.0, 1.0],
            requests: Vec::new(),
            heldout_prompts: 32,
            heldout_tokens: 96,
            draft_length: 4,
        }
    }
}

/// How the draft's probabilities are compared with the target's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Divergence {
    /// `KL(target‖draft)`.
    ForwardKl,
    /// `KL(draft‖target)`.
    ReverseKl,
    /// Half of each.
    SymmetricKl,
    /// 1 − the acceptance of sampled speculation.
    TotalVariation,
    /// Not with the target's, but with the next token of the text: training without a teacher, to compare with.
    NextToken,
}
