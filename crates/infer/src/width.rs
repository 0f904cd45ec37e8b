//! How many tokens to propose: the arithmetic, without models or clocks.
//!
//! Time is counted in target steps: one pass of the target over one row is 1, over m rows `V(m)`, one token of the draft
//! `c`. Let `Sᵢ` be the probability that the first i tokens of a proposal are all accepted. A round with k of them yields
//! `1 + S₁ + … + S_k` tokens and takes `V(k+1) + k·c`. With independent acceptances of probability α that is
//!
//! ```text
//! speed-up = (1 − α^(k+1)) / (1 − α) / (V(k+1) + k·c)          (Leviathan et al., 2023, with V for their 1)
//! ```
//!
//! Rounds differ, so the best width of one round is not the one of its own best ratio: to maximise tokens per time over
//! all rounds, each round maximises `tokens − λ · time`, with λ the rate that is reached (Dinkelbach, 1967). λ is at
//! least 1, the rate without speculation.
//!
//! A round with a draft costs a little once as well ([`Costs::draft_once`]), which the formulas above leave out.

use crate::{MAX_DRAFT_LENGTH, MAX_GENERATED_ROWS};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a machine takes for two models, in steps of the target unless said otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Costs {
    /// Seconds of one step: the target's pass over one row.
    pub step_seconds: f64,
    /// `V(m)` at index m − 1, for 1 to [`MAX_GENERATED_ROWS`] rows; never falling, the first is 1.
    pub verify: [f64; MAX_GENERATED_ROWS],
    /// `c`: the draft's pass over one row; 0 without a draft model.
    pub draft: f64,
    /// What each further row costs that the draft reads in the same pass.
    pub draft_row: f64,
    /// What the draft's first pass of a round costs beside that: the target's weights went through the caches since the
    /// last one.
    pub draft_once: f64,
}

impl Costs {
    /// Where every pass costs the same, and a drafted token `draft` of it.
    pub fn flat(draft: f64) -> Self {
        Self { step_seconds: 1.0, verify: [1.0; MAX_GENERATED_ROWS], draft, draft_row: 0.0, draft_once: 0.0 }
    }

    /// `V(rows)`; beyond what is known, that of the most rows.
    pub fn verify(&self, rows: usize) -> f64 {
        self.verify[rows.clamp(1, MAX_GENERATED_ROWS) - 1]
    }

    /// Tokens per step with `width` proposed tokens a round, each accepted with probability `alpha`.
    pub fn speedup(&self, alpha: f64, width: usize) -> f64 {
        let drafting = if width > 0 { self.draft_once + width as f64 * self.draft } else { 0.0 };
        expected_tokens(alpha, width) / (self.verify(width + 1) + drafting)
    }

    /// The best width at acceptance `alpha`, 0 included, and its [`Costs::speedup`].
    pub fn optimum(&self, alpha: f64) -> (usize, f64) {
        let speedups = (0..=MAX_DRAFT_LENGTH).map(|width| (width, self.speedup(alpha, width)));
        speedups.fold((0, 1.0), |best, candidate| if candidate.1 > best.1 { candidate } else { best })
    }

    /// The best width for `survival` (`Sᵢ` at index i − 1) at `price` λ, and what it gains over no proposal, in tokens.
    /// A proposed token costs `token` beside its row, a proposal at all `once`.
    pub(crate) fn best_width(&self, survival: &[f64], price: f64, token: f64, once: f64) -> Choice {
        let mut best = Choice { width: 0, gain: 0.0 };
        let mut tokens = 0.0;
        for (index, survival) in survival.iter().take(MAX_DRAFT_LENGTH).enumerate() {
            let width = index + 1;
            tokens += survival;
            let time = self.verify(width + 1) - self.verify(1) + width as f64 * token + once;
            let gain = tokens - price * time;
            if gain > best.gain {
                best = Choice { width, gain };
            }
        }
        best
    }

    /// Whether a proposal of `width` tokens is worth lengthening, if the tokens that follow survive with `ahead`. Those
    /// cost `token` each to draft, but for the first `drafted` of them, which are there already.
    pub(crate) fn worth_more(&self, width: usize, ahead: &[f64], price: f64, token: f64, drafted: usize) -> bool {
        let mut tokens = 0.0;
        ahead.iter().take(MAX_DRAFT_LENGTH.saturating_sub(width)).enumerate().any(|(index, survival)| {
            tokens += survival;
            let more = index + 1;
            let time =
                self.verify(width + more + 1) - self.verify(width + 1) + more.saturating_sub(drafted) as f64 * token;
            tokens > price * time
        })
    }
}

/// One line for people.
impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verify: Vec<String> = self.verify.iter().map(|cost| format!("{cost:.2}")).collect();
        let Self { draft, draft_once, draft_row, .. } = self;
        write!(
            f,
            "in steps of the target ({:.2} ms): V(1…{MAX_GENERATED_ROWS}) = {}; c = {draft:.3}, {draft_once:.3} more for a \
             round's first, {draft_row:.4} for each further row",
            1e3 * self.step_seconds,
            verify.join(" ")
        )
    }
}

/// A width and what it is worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Choice {
    /// Tokens to propose.
    pub(crate) width: usize,
    /// Tokens gained over proposing nothing, at the price of time.
    pub(crate) gain: f64,
}

/// `1 + α + … + α^width`: tokens of a round with independent acceptances.
pub fn expected_tokens(alpha: f64, width: usize) -> f64 {
    (0..=width).map(|i| alpha.powi(i as i32)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// V rising by a tenth per token.
    fn rising(draft: f64) -> Costs {
        let mut costs = Costs::flat(draft);
        costs.verify.iter_mut().enumerate().for_each(|(index, verify)| *verify = 1.0 + 0.1 * index as f64);
        costs
    }

    fn geometric(alpha: f64) -> Vec<f64> {
        (1..=MAX_DRAFT_LENGTH as i32).map(|i| alpha.powi(i)).collect()
    }

    /// Optima to two decimals, worked out from the formula with another program.
    #[test]
    fn optima_are_those_of_the_formula() {
        for (alpha, draft, width, speedup) in [
            (0.6, 0.05, 4, 1.92),
            (0.7, 0.02, 8, 2.76),
            (0.8, 0.05, 8, 3.09),
            (0.85, 0.1, 7, 2.85),
            (0.9, 0.05, 13, 4.67),
        ] {
            let found = Costs::flat(draft).optimum(alpha);
            assert!(found.0 == width && (found.1 - speedup).abs() < 0.005, "α {alpha}, c {draft}: {found:?}");
        }
        for (alpha, width, speedup) in [(0.6, 2, 1.51), (0.7, 3, 1.75), (0.8, 5, 2.11), (0.9, 8, 2.78)] {
            let found = rising(0.05).optimum(alpha);
            assert!(found.0 == width && (found.1 - speedup).abs() < 0.005, "α {alpha}, V rising: {found:?}");
        }
    }

    #[test]
    fn nothing_is_proposed_where_nothing_is_gained() {
        assert_eq!(Costs::flat(0.5).optimum(0.4), (0, 1.0));
        assert_eq!(Costs::flat(0.5).best_width(&geometric(0.4), 1.0, 0.5, 0.0).width, 0);
        assert_eq!(rising(0.0).best_width(&geometric(0.05), 1.0, 0.0, 0.0).width, 0);
        assert_eq!(rising(0.0).best_width(&[], 1.0, 0.0, 0.0), Choice { width: 0, gain: 0.0 });
        assert_eq!(Costs::flat(0.01).best_width(&geometric(0.9), 1.0, 0.01, 20.0).width, 0, "too dear to begin with");
    }

    /// Dinkelbach: at λ = the optimal rate, the width of the greatest gain is the width of the optimal rate, and its gain
    /// is what one token is worth less: `1 + ΣS − λ·(V + k·c) = 0`.
    #[test]
    fn at_the_reached_rate_the_gain_names_the_optimal_width() {
        for costs in [Costs::flat(0.05), rising(0.03)] {
            for alpha in [0.5, 0.7, 0.9] {
                let (width, rate) = costs.optimum(alpha);
                let choice = costs.best_width(&geometric(alpha), rate, costs.draft, 0.0);
                assert_eq!(choice.width, width);
                assert!((1.0 + choice.gain - rate).abs() < 1e-9, "{choice:?} at rate {rate}");
            }
        }
    }

    #[test]
    fn a_step_in_the_cost_is_looked_across() {
        // Two rows cost half a step more, but seven more rows then come free.
        let mut costs = Costs::flat(0.0);
        costs.verify[1..].fill(1.5);
        costs.verify[8..].fill(4.0);
        let survival = geometric(0.8);
        assert!(costs.worth_more(0, &survival, 1.0, 0.0, 0));
        assert!(!costs.worth_more(0, &[0.4], 1.0, 0.0, 0));
        assert_eq!(costs.best_width(&survival, 1.0, 0.0, 0.0).width, 7);
        assert!(!costs.worth_more(7, &survival[..2], 1.0, 0.0, 0));
        // A token that was drafted already costs only its row.
        assert!(!Costs::flat(0.5).worth_more(0, &[0.3], 1.0, 0.5, 0));
        assert!(Costs::flat(0.5).worth_more(0, &[0.3], 1.0, 0.5, 1));
    }
}
