//! What a larger model says of a text, for a smaller one to learn: distillation's side of the head.

use crate::Buf;

/// How far a model's probabilities are from a teacher's: `q` and `t` over the teacher's listed tokens and, as one more
/// outcome, all others together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Divergence {
    /// `KL(t‖q) = Σ t·ln(t/q)`: covers all that the teacher might say.
    ForwardKl,
    /// `KL(q‖t) = Σ q·ln(q/t)`: says only what the teacher might (Gu et al., 2023). `t` counts as at least
    /// [`LEAST_PROBABILITY`].
    ReverseKl,
    /// Half of each.
    SymmetricKl,
    /// `½·Σ|q − t|`, which is 1 − the acceptance of exact speculative sampling (Leviathan et al., 2023).
    TotalVariation,
}

/// What a teacher's probability counts as at least where it is divided by, so that one of 0 costs much and not everything.
pub const LEAST_PROBABILITY: f64 = 1e-6;

/// Most tokens that a [`Teacher`] lists for a row.
pub const MAX_TEACHER_TOKENS: usize = 64;

/// What a teacher says of rows: its likeliest tokens and their probabilities, `tokens` of each for every row. A row that
/// lists fewer ends with [`NO_TARGET`](crate::NO_TARGET); one that begins with it takes no part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Teacher {
    /// Ids, no id twice in a row.
    pub ids: Buf,
    /// Their probabilities; what is missing to 1 belongs to all other tokens together.
    pub probabilities: Buf,
    /// Tokens listed for a row, 1 to [`MAX_TEACHER_TOKENS`].
    pub tokens: usize,
}
