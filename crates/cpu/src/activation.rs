//! SwiGLU (Shazeer, 2020) and its backward; GELU (Hendrycks and Gimpel, 2016) and ReLU.
//!
//! `y = silu(g) ⊙ u` with `silu(g) = g·σ(g)`, `σ(g) = 1 / (1 + e⁻ᵍ)`;
//! `∂L/∂u = ∂L/∂y ⊙ g·σ` and `∂L/∂g = ∂L/∂y ⊙ u ⊙ σ·(1 + g·(1 − σ))`.
//!
//! GELU is taken in the approximation `½x·(1 + tanh z)` with `z = √(2/π)·(x + 0.044715x³)`, which is `x·σ(2z)`.

use crate::pool::Disjoint;
use crate::simd::{LANES, Simd, at_every_level, blocks};
use crate::split::{over_grains, over_items};
use crate::{Level, Pool};

/// `out = silu(gate) ⊙ up`: `out` is `rows × width`, a row of `gate_up` is `width` floats of gate, then `width` of up.
pub(crate) fn swiglu(pool: &Pool, level: Level, out: &mut [f32], gate_up: &[f32], width: usize, rows: usize) {
    let out = Disjoint::new(&mut out[..rows * width]);
    over_items(pool, rows, rows * width, &|range| {
        // SAFETY: ranges of rows do not overlap.
        let out = unsafe { out.range(range.start * width..range.end * width) };
        forward(level, out, &gate_up[range.start * 2 * width..range.end * 2 * width], width);
    });
}

/// `d_gate_up = ∂swiglu/∂gate_up · d_out`.
pub(crate) fn swiglu_backward(
    pool: &Pool,
    level: Level,
    d_gate_up: &mut [f32],
    d_out: &[f32],
    gate_up: &[f32],
    width: usize,
    rows: usize,
) {
    let d_gate_up = Disjoint::new(&mut d_gate_up[..rows * 2 * width]);
    over_items(pool, rows, rows * width, &|range| {
        let pairs = range.start * 2 * width..range.end * 2 * width;
        // SAFETY: ranges of rows do not overlap.
        let d_gate_up = unsafe { d_gate_up.range(pairs.clone()) };
        backward(level, d_gate_up, &d_out[range.start * width..range.end * width], &gate_up[pairs], width);
    });
}

at_every_level! {
    fn forward(out: &mut [f32], gate_up: &[f32], width: usize) = forward_rows;
}

#[inline(always)]
fn forward_rows(s: impl Simd, out: &mut [f32], gate_up: &[f32], width: usize) {
    for (out, gate_up) in out.chunks_exact_mut(width).zip(gate_up.chunks_exact(2 * width)) {
        let (gate, up) = gate_up.split_at(width);
        for at in blocks(width) {
            let g = s.get(&gate[at.clone()]);
            let silu = s.mul(g, s.sigmoid(g));
            s.put(&mut out[at.clone()], s.mul(silu, s.get(&up[at])));
        }
    }
}

at_every_level! {
    fn backward(d_gate_up: &mut [f32], d_out: &[f32], gate_up: &[f32], width: usize) = backward_rows;
}

#[inline(always)]
fn backward_rows(s: impl Simd, d_gate_up: &mut [f32], d_out: &[f32], gate_up: &[f32], width: usize) {
    let inputs = d_out.chunks_exact(width).zip(gate_up.chunks_exact(2 * width));
    for (d_gate_up, (d_out, gate_up)) in d_gate_up.chunks_exact_mut(2 * width).zip(inputs) {
        let (gate, up) = gate_up.split_at(width);
        let (d_gate, d_up) = d_gate_up.split_at_mut(width);
        for at in blocks(width) {
            let (g, u, d) = (s.get(&gate[at.clone()]), s.get(&up[at.clone()]), s.get(&d_out[at.clone()]));
            let (one, sigma) = (s.splat(1.0), s.sigmoid(g));
            s.put(&mut d_up[at.clone()], s.mul(d, s.mul(g, sigma)));
            let slope = s.mul(sigma, s.fma(g, s.sub(one, sigma), one));
            s.put(&mut d_gate[at], s.mul(s.mul(d, u), slope));
        }
    }
}

/// `x ← x·σ(2z)`.
pub(crate) fn gelu(pool: &Pool, level: Level, x: &mut [f32]) {
    over_blocks(pool, x, &|part| gelu_part(level, part));
}

/// `x ← max(x, 0)`; what is not a number stays so.
pub(crate) fn relu(pool: &Pool, level: Level, x: &mut [f32]) {
    over_blocks(pool, x, &|part| relu_part(level, part));
}

/// Runs `job` on parts of `x` that begin at whole vectors. Every element is computed by itself, so where parts end is seen
/// in no bit.
fn over_blocks(pool: &Pool, x: &mut [f32], job: &(dyn Fn(&mut [f32]) + Sync)) {
    let len = x.len();
    let x = Disjoint::new(x);
    over_grains(pool, len, LANES, len, &|range| {
        // SAFETY: ranges do not overlap.
        job(unsafe { x.range(range) });
    });
}

at_every_level! {
    fn gelu_part(x: &mut [f32]) = gelu_lanes;
}

#[inline(always)]
fn gelu_lanes(s: impl Simd, x: &mut [f32]) {
    const TWICE_ROOT: f32 = 1.595_769; // 2·√(2/π)
    for at in blocks(x.len()) {
        let v = s.get(&x[at.clone()]);
        let cubic = s.fma(s.mul(s.splat(0.044_715), v), s.mul(v, v), v);
        s.put(&mut x[at], s.mul(v, s.sigmoid(s.mul(s.splat(TWICE_ROOT), cubic))));
    }
}

at_every_level! {
    fn relu_part(x: &mut [f32]) = relu_lanes;
}

#[inline(always)]
fn relu_lanes(s: impl Simd, x: &mut [f32]) {
    for at in blocks(x.len()) {
        let v = s.get(&x[at.clone()]);
        // Of two operands the second where one is no number: a NaN is seen.
        s.put(&mut x[at], s.max(s.splat(0.0), v));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::{bits, floats, pools};

    fn run(pool: &Pool, level: Level, width: usize, rows: usize) -> (Vec<f32>, Vec<f32>) {
        let mut gate_up = floats(1, rows * 2 * width);
        gate_up.iter_mut().step_by(5).for_each(|g| *g *= 40.0); // both tails of the sigmoid
        let d_out = floats(2, rows * width);
        let (mut out, mut d_gate_up) = (vec![0.0; rows * width], vec![0.0; rows * 2 * width]);
        swiglu(pool, level, &mut out, &gate_up, width, rows);
        swiglu_backward(pool, level, &mut d_gate_up, &d_out, &gate_up, width, rows);
        (out, d_gate_up)
    }

    #[test]
    fn levels_and_threads_return_the_same_bits() {
        for width in [1, 7, 16, 63, 100, 512] {
            for rows in [1, 3, 40] {
                let want = run(&Pool::new(1), Level::Scalar, width, rows);
                for pool in pools() {
                    for level in crate::available() {
                        let got = run(&pool, level, width, rows);
                        assert_eq!(bits(&got.0), bits(&want.0), "{level:?} {width}×{rows} out");
                        assert_eq!(bits(&got.1), bits(&want.1), "{level:?} {width}×{rows} d_gate_up");
                    }
                }
            }
        }
    }

    #[test]
    fn large_gates_pass_or_close_and_nan_stays() {
        let mut out = [0.0; 4];
        let gate_up = [100.0, -100.0, f32::NAN, 0.0, 2.0, 2.0, 2.0, 2.0];
        swiglu(&Pool::new(1), Level::Scalar, &mut out, &gate_up, 4, 1);
        assert!(out[0] == 200.0 && out[1].abs() < 1e-30 && out[2].is_nan() && out[3] == 0.0, "{out:?}");
    }

    #[test]
    fn gelu_and_relu_have_the_same_bits_at_every_level() {
        for len in [1, 17, 100, 20_000] {
            let x: Vec<f32> = floats(1, len).iter().map(|x| 8.0 * x).collect();
            let run = |pool: &Pool, level| {
                let (mut gelus, mut relus) = (x.clone(), x.clone());
                gelu(pool, level, &mut gelus);
                relu(pool, level, &mut relus);
                [bits(&gelus), bits(&relus)]
            };
            let want = run(&Pool::new(1), Level::Scalar);
            for pool in pools() {
                for level in crate::available() {
                    assert_eq!(run(&pool, level), want, "{level:?} {len}");
                }
            }
        }
    }
}
