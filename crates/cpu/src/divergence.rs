//! A row of logits against a teacher's probabilities.
//!
//! Outcomes are the teacher's listed tokens `K` and, as one more, all others together: with `p = softmax(z)`,
//! `qᵢ = pᵢ` for `i ∈ K` and `qₒ = 1 − Σ qᵢ`, and likewise `t`. For a divergence `D(q, t)`, with `gᵢ = ∂D/∂qᵢ` and
//! `S = Σ qᵢ·gᵢ` over all outcomes, `∂D/∂zⱼ = pⱼ·(g_outcome(j) − S)`. So every unlisted token's exponential is multiplied
//! by one factor, and only the listed ones are looked at one by one.

use crate::Level;
use crate::cross_entropy::{exponentials, multiply};
use crate::simd::{Simd, at_every_level};
use backend::{Divergence, LEAST_PROBABILITY, MAX_TEACHER_TOKENS, NO_TARGET};

/// What a teacher says of rows: `tokens` ids and probabilities for each.
#[derive(Clone, Copy)]
pub(crate) struct TeacherRows<'a> {
    pub(crate) ids: &'a [u32],
    pub(crate) probabilities: &'a [f32],
    pub(crate) tokens: usize,
    pub(crate) divergence: Divergence,
}

impl<'a> TeacherRows<'a> {
    /// Ids and probabilities of a row.
    fn listed(&self, row: usize) -> (&'a [u32], &'a [f32]) {
        let from = row * self.tokens;
        let ids = &self.ids[from..from + self.tokens];
        let count = ids.iter().position(|&id| id == NO_TARGET).unwrap_or(self.tokens);
        (&ids[..count], &self.probabilities[from..from + count])
    }
}

/// The divergence of row `row`, whose logits become `scale · ∂D/∂z` where `scale` is given.
pub(crate) fn row(level: Level, logits: &mut [f32], teacher: &TeacherRows<'_>, row: usize, scale: Option<f32>) -> f32 {
    let (ids, probabilities) = teacher.listed(row);
    if ids.is_empty() {
        if scale.is_some() {
            logits.fill(0.0);
        }
        return 0.0;
    }
    diverge(level, logits, ids, probabilities, teacher.divergence, scale)
}

at_every_level! {
    fn diverge(logits: &mut [f32], ids: &[u32], t: &[f32], divergence: Divergence, scale: Option<f32>) -> f32 = diverge_of;
}

#[inline(always)]
fn diverge_of<S: Simd>(
    s: S,
    logits: &mut [f32],
    ids: &[u32],
    t: &[f32],
    divergence: Divergence,
    scale: Option<f32>,
) -> f32 {
    let (_, total) = exponentials(s, logits, true);
    let mut sums = Sums::default();
    let mut weighted = [0.0; MAX_TEACHER_TOKENS];
    for (index, (&id, &t)) in ids.iter().zip(t).enumerate() {
        let q = f64::from(logits[id as usize]) / total;
        weighted[index] = sums.add(divergence, q, f64::from(t));
    }
    let rest = (1.0 - sums.q).max(0.0);
    let weighted_rest = sums.add(divergence, rest, (1.0 - sums.t).max(0.0));
    if let Some(scale) = scale {
        let scale = f64::from(scale);
        let mut q = [0.0; MAX_TEACHER_TOKENS];
        for (q, &id) in q.iter_mut().zip(ids) {
            *q = f64::from(logits[id as usize]) / total;
        }
        let factor = if rest > 0.0 { weighted_rest / rest - sums.weighted } else { 0.0 };
        multiply(s, logits, (scale * factor / total) as f32);
        for ((&id, q), weighted) in ids.iter().zip(q).zip(weighted) {
            logits[id as usize] = (scale * (weighted - q * sums.weighted)) as f32;
        }
    }
    sums.divergence as f32
}

/// Sums over outcomes.
#[derive(Default)]
struct Sums {
    q: f64,
    t: f64,
    /// `Σ qᵢ·gᵢ`.
    weighted: f64,
    divergence: f64,
}

impl Sums {
    /// Takes an outcome in; returns its `q·∂D/∂q`, which exists where `∂D/∂q` itself does not.
    fn add(&mut self, divergence: Divergence, q: f64, t: f64) -> f64 {
        let (value, weighted) = match divergence {
            Divergence::ForwardKl => forward(q, t),
            Divergence::ReverseKl => reverse(q, t),
            Divergence::SymmetricKl => {
                let ((value, weighted), (other, other_weighted)) = (forward(q, t), reverse(q, t));
                (0.5 * (value + other), 0.5 * (weighted + other_weighted))
            }
            Divergence::TotalVariation => (0.5 * (q - t).abs(), if q > t { 0.5 * q } else { -0.5 * q }),
        };
        self.q += q;
        self.t += t;
        self.weighted += weighted;
        self.divergence += value;
        weighted
    }
}

/// `t·ln(t/q)` and `q · −t/q`. A `q` that has underflown counts as the smallest number.
fn forward(q: f64, t: f64) -> (f64, f64) {
    if t > 0.0 { (t * (t / q.max(f64::MIN_POSITIVE)).ln(), -t) } else { (0.0, 0.0) }
}

/// `q·ln(q/t)` and `q·(ln(q/t) + 1)`.
fn reverse(q: f64, t: f64) -> (f64, f64) {
    if q > 0.0 {
        let value = q * (q / t.max(LEAST_PROBABILITY)).ln();
        (value, value + q)
    } else {
        (0.0, 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Divergence; 4] =
        [Divergence::ForwardKl, Divergence::ReverseKl, Divergence::SymmetricKl, Divergence::TotalVariation];

    fn logits(vocab: usize) -> Vec<f32> {
        (0..vocab).map(|i| ((i * 7919 % 2003) as f32 / 1000.0 - 1.0) * 4.0).collect()
    }

    fn run(level: Level, vocab: usize, ids: &[u32], t: &[f32], divergence: Divergence) -> (f32, Vec<f32>) {
        let mut logits = logits(vocab);
        let teacher = TeacherRows { ids, probabilities: t, tokens: ids.len(), divergence };
        let value = row(level, &mut logits, &teacher, 0, Some(0.5));
        (value, logits)
    }

    #[test]
    fn a_row_is_equal_at_every_level() {
        for divergence in ALL {
            for vocab in [3, 40, 2500] {
                let (ids, t) = ([2, 0, NO_TARGET], [0.5, 0.25, 0.0]);
                let scalar = run(Level::Scalar, vocab, &ids, &t, divergence);
                assert!(scalar.0 > 0.0);
                for level in crate::available() {
                    assert_eq!(run(level, vocab, &ids, &t, divergence), scalar, "{divergence:?} {vocab} {level}");
                }
            }
        }
    }

    /// The gradient by logits sums to 0, and a row that says what the teacher says is at the least.
    #[test]
    fn nothing_pulls_where_both_agree() {
        let z = logits(5);
        let total: f32 = z.iter().map(|z| z.exp()).sum();
        let p: Vec<f32> = z.iter().map(|z| z.exp() / total).collect();
        for divergence in ALL {
            let (value, d) = run(Level::Scalar, 5, &[0, 1, 2, 3, 4], &p, divergence);
            // The rounding of `p` leaves a little to the rest, of which the row has nothing.
            assert!(value.abs() < 1e-4, "{divergence:?} {value}");
            if divergence != Divergence::TotalVariation {
                assert!(d.iter().all(|d| d.abs() < 1e-6), "{divergence:?} {d:?}");
            }
            let (_, d) = run(Level::Scalar, 5, &[3, 1], &[0.9, 0.05], divergence);
            assert!(d.iter().sum::<f32>().abs() < 1e-6 && d[3] < 0.0, "{divergence:?} {d:?}");
        }
    }

    #[test]
    fn probabilities_of_nothing_stay_finite() {
        for divergence in ALL {
            let (value, d) = run(Level::Scalar, 40, &[7, 9], &[1.0, 0.0], divergence);
            assert!(value.is_finite() && d.iter().all(|d| d.is_finite()), "{divergence:?}");
            let mut extreme = vec![-300.0; 8];
            extreme[0] = 300.0;
            let teacher = TeacherRows { ids: &[5], probabilities: &[1.0], tokens: 1, divergence };
            let value = row(Level::Scalar, &mut extreme, &teacher, 0, Some(1.0));
            assert!(value.is_finite() && extreme.iter().all(|d| d.is_finite()), "{divergence:?}");
        }
    }
}
