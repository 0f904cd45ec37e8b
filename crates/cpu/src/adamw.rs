//! AdamW (Loshchilov and Hutter, 2019): one pass over weights, gradient and both moments.
//!
//! With `g = gradient_scale · gradient` at step t: `m ← β₁m + (1−β₁)g`, `v ← β₂v + (1−β₂)g²`,
//! `w ← w·(1 − lr·decay) − lr/(1−β₁ᵗ) · m / (√v · 1/√(1−β₂ᵗ) + ε)`.
//! The factors that depend on the step alone are computed in f64, once a call, and rounded to f32.

use crate::pool::Disjoint;
use crate::simd::{LANES, Simd, at_every_level, blocks};
use crate::split::over_grains;
use crate::{Level, Pool};
use backend::AdamW;

/// The factors of one step.
#[derive(Clone, Copy)]
struct Factors {
    gradient_scale: f32,
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    /// `lr / (1 − β₁ᵗ)`
    rate: f32,
    /// `1 / √(1 − β₂ᵗ)`
    root_scale: f32,
    epsilon: f32,
    /// `1 − lr·decay`
    shrink: f32,
}

impl Factors {
    fn new(step: &AdamW) -> Self {
        let (beta1, beta2) = (f64::from(step.beta1), f64::from(step.beta2));
        let rate = f64::from(step.learning_rate);
        // powf: `powi` with a 64-bit exponent does not exist, and 2⁵³ steps are enough.
        let left = |beta: f64| 1.0 - beta.powf(step.step as f64);
        Self {
            gradient_scale: step.gradient_scale,
            beta1: step.beta1,
            one_minus_beta1: (1.0 - beta1) as f32,
            beta2: step.beta2,
            one_minus_beta2: (1.0 - beta2) as f32,
            rate: (rate / left(beta1)) as f32,
            root_scale: (1.0 / left(beta2).sqrt()) as f32,
            epsilon: step.epsilon,
            shrink: (1.0 - rate * f64::from(step.weight_decay)) as f32,
        }
    }
}

/// One update of `weights`, `m` and `v`.
pub(crate) fn adamw(
    pool: &Pool,
    level: Level,
    weights: &mut [f32],
    gradient: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    step: &AdamW,
) {
    assert!(step.step >= 1, "the first step is 1");
    let len = weights.len();
    let factors = Factors::new(step);
    let (weights, m, v) = (Disjoint::new(weights), Disjoint::new(&mut m[..len]), Disjoint::new(&mut v[..len]));
    over_grains(pool, len, LANES, len, &|range| {
        // SAFETY: ranges of elements do not overlap.
        let (weights, m, v) = unsafe { (weights.range(range.clone()), m.range(range.clone()), v.range(range.clone())) };
        update(level, weights, &gradient[range], m, v, factors);
    });
}

at_every_level! {
    fn update(weights: &mut [f32], gradient: &[f32], m: &mut [f32], v: &mut [f32], f: Factors) = update_lanes;
}

#[inline(always)]
fn update_lanes(s: impl Simd, weights: &mut [f32], gradient: &[f32], m: &mut [f32], v: &mut [f32], f: Factors) {
    for at in blocks(weights.len()) {
        let g = s.mul(s.get(&gradient[at.clone()]), s.splat(f.gradient_scale));
        let kept_m = s.mul(s.get(&m[at.clone()]), s.splat(f.beta1));
        let new_m = s.fma(s.splat(f.one_minus_beta1), g, kept_m);
        let kept_v = s.mul(s.get(&v[at.clone()]), s.splat(f.beta2));
        let new_v = s.fma(s.mul(s.splat(f.one_minus_beta2), g), g, kept_v);
        s.put(&mut m[at.clone()], new_m);
        s.put(&mut v[at.clone()], new_v);
        let below = s.fma(s.sqrt(new_v), s.splat(f.root_scale), s.splat(f.epsilon));
        let change = s.div(s.mul(new_m, s.splat(-f.rate)), below);
        let new_w = s.fma(s.get(&weights[at.clone()]), s.splat(f.shrink), change);
        s.put(&mut weights[at], new_w);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::{bits, floats, pools};

    fn run(pool: &Pool, level: Level, len: usize) -> [Vec<f32>; 3] {
        let (mut w, mut m, mut v) = (floats(1, len), vec![0.0; len], vec![0.0; len]);
        for step in 1..4 {
            let numbers = AdamW {
                learning_rate: 1e-2,
                beta1: 0.9,
                beta2: 0.95,
                epsilon: 1e-8,
                weight_decay: 0.1,
                step,
                gradient_scale: 0.5,
            };
            adamw(pool, level, &mut w, &floats(step, len), &mut m, &mut v, &numbers);
        }
        [w, m, v]
    }

    #[test]
    fn levels_and_threads_return_the_same_bits() {
        for len in [1, 15, 16, 17, 1000, 20_003] {
            let want = run(&Pool::new(1), Level::Scalar, len);
            for pool in pools() {
                for level in crate::available() {
                    let got = run(&pool, level, len);
                    for (got, want) in got.iter().zip(&want) {
                        assert_eq!(bits(got), bits(want), "{level:?} {len}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_first_step_moves_by_the_rate_against_the_sign() {
        let (mut w, mut m, mut v) = ([1.0, 1.0], [0.0; 2], [0.0; 2]);
        let step = AdamW {
            learning_rate: 0.25,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 0.0,
            weight_decay: 0.0,
            step: 1,
            gradient_scale: 1.0,
        };
        adamw(&Pool::new(1), Level::Scalar, &mut w, &[3.0, -0.01], &mut m, &mut v, &step);
        assert!((w[0] - 0.75).abs() < 1e-6 && (w[1] - 1.25).abs() < 1e-6, "{w:?}");
    }
}
