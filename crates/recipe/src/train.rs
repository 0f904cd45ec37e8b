//! The `[train]` section.

use serde::{Deserialize, Serialize};

/// How the model is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Train {
    /// Tokens of one sample; 0 is the model's context.
    pub sequence: usize,
    /// Tokens of one optimizer step; a multiple of `sequence`.
    pub batch_tokens: usize,
    /// Sequences that go through the model together; the rest of the batch follows in turn. The weights do not depend
    /// on it.
    pub micro_batch: usize,
    /// Optimizer steps. Exactly one of `steps` and `tokens`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Training tokens, rounded up to whole steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// How the products are computed; master weights and moments are always f32.
    pub precision: Precision,
    /// Whether attention stays within a document.
    pub document_mask: bool,
    /// AdamW's numbers.
    pub optimizer: Optimizer,
    /// The learning rate over the steps.
    pub schedule: Schedule,
    /// When and on what the model is evaluated.
    pub evaluation: Evaluation,
    /// When checkpoints are written, and which are kept.
    pub checkpoints: Checkpoints,
    /// Stop after this many steps in a row with a loss or gradient that is not finite.
    pub max_bad_steps: u32,
}

impl Default for Train {
    fn default() -> Self {
        Self {
            sequence: 0,
            batch_tokens: 0,
            micro_batch: 1,
            steps: None,
            tokens: None,
            precision: Precision::Bf16,
            document_mask: false,
            optimizer: Optimizer::default(),
            schedule: Schedule::default(),
            evaluation: Evaluation::default(),
            checkpoints: Checkpoints::default(),
            max_bad_steps: 10,
        }
    }
}

/// The arithmetic of the products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// The oracle.
    F32,
    /// bf16 × bf16 → f32.
    Bf16,
}

/// AdamW with decoupled decay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Optimizer {
    /// Decay of the first moment, 0…1.
    pub beta1: f32,
    /// Decay of the second moment, 0…1.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// What decays.
    pub decayed: DecayedParameters,
    /// Greatest norm of the whole gradient; larger ones are scaled down to it. 0 is no clipping.
    pub clip_norm: f32,
}

impl Default for Optimizer {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            decayed: DecayedParameters::Matrices,
            clip_norm: 1.0,
        }
    }
}

/// Parameter groups of weight decay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecayedParameters {
    /// Everything, norms and embeddings included (AMD's).
    All,
    /// The matrices of the blocks and an untied head; not norms, not embeddings.
    Matrices,
}

/// Learning rate: warm-up from 0, then by `kind`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Schedule {
    /// The shape after the warm-up.
    pub kind: ScheduleKind,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// The learning rate at the last step.
    pub min_learning_rate: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// For `wsd`: the last share of the steps in which the rate falls linearly, 0…1.
    pub decay_fraction: f64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            kind: ScheduleKind::Cosine,
            learning_rate: 6e-4,
            min_learning_rate: 6e-5,
            warmup_steps: 0,
            decay_fraction: 0.2,
        }
    }
}

/// Shapes of the learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Half a cosine down to the minimum.
    Cosine,
    /// Warm-up, stable, decay.
    Wsd,
    /// A straight line down to the minimum.
    Linear,
    /// The highest rate all along.
    Constant,
}

/// Evaluation on held-out text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Evaluation {
    /// Every this many steps, and at the end; 0 is at the end only.
    pub every_steps: u64,
    /// Tokens of the validation set that are read, from its beginning; 0 is all of them.
    pub tokens: u64,
    /// Texts that the model continues at each evaluation.
    pub prompts: Vec<String>,
    /// Tokens of each continuation.
    pub sample_tokens: usize,
}

impl Default for Evaluation {
    fn default() -> Self {
        Self { every_steps: 0, tokens: 0, prompts: Vec::new(), sample_tokens: 64 }
    }
}

/// Checkpoints: when they are written, which are kept. One is always written at the end and on SIGINT or SIGTERM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Checkpoints {
    /// Every this many steps; 0 is never by steps.
    pub every_steps: u64,
    /// Every this many minutes; 0 is never by time.
    pub every_minutes: f64,
    /// The newest ones that are kept.
    pub keep_last: usize,
    /// Checkpoints of steps divisible by this are kept for good; 0 is none.
    pub keep_every_steps: u64,
}

impl Default for Checkpoints {
    fn default() -> Self {
        Self { every_steps: 0, every_minutes: 10.0, keep_last: 2, keep_every_steps: 0 }
    }
}
