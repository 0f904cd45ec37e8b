//! Steps that must not touch the weights: a loss or a gradient that is not finite.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What was not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The loss of the batch.
    Loss,
    /// The norm of the whole gradient, while the loss was finite.
    GradientNorm,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loss => "the loss is not finite",
            Self::GradientNorm => "the norm of the gradient is not finite",
        })
    }
}

/// Why a step of this loss and gradient norm must be skipped; `None` where it may be taken.
pub(crate) fn check(loss: f64, gradient_norm: f64) -> Option<Fault> {
    if !loss.is_finite() {
        Some(Fault::Loss)
    } else if !gradient_norm.is_finite() {
        Some(Fault::GradientNorm)
    } else {
        None
    }
}

/// Counts skipped steps: in a row, and in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streak {
    /// Skipped steps since the last good one.
    pub in_a_row: u32,
    /// Skipped steps since the run began.
    pub in_all: u64,
}

impl Streak {
    /// Takes one more step into account.
    pub(crate) fn count(&mut self, fault: Option<Fault>) {
        if fault.is_some() {
            self.in_a_row += 1;
            self.in_all += 1;
        } else {
            self.in_a_row = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_finite_numbers_pass() {
        assert_eq!(check(2.5, 1.0), None);
        assert_eq!(check(2.5, 0.0), None);
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(check(bad, 1.0), Some(Fault::Loss));
            assert_eq!(check(bad, bad), Some(Fault::Loss));
            assert_eq!(check(2.5, bad), Some(Fault::GradientNorm));
        }
    }

    #[test]
    fn a_good_step_ends_a_streak_but_not_the_count() {
        let mut streak = Streak::default();
        for fault in [Some(Fault::Loss), Some(Fault::GradientNorm), None, Some(Fault::Loss)] {
            streak.count(fault);
        }
        assert_eq!(streak, Streak { in_a_row: 1, in_all: 3 });
    }
}
