//! Layer normalization (Ba, Kiros and Hinton, 2016): `y = (x − μ)·ρ ⊙ w + b` with `μ = mean(x)` and
//! `ρ = 1 / √(mean((x − μ)²) + ε)`.
//!
//! The mean is taken first and the variance of what is left, so that a large common part of a row costs no digits. Sums over
//! a row are taken in sixteen lanes ([`dot`] for the squares), folded by halves.

use crate::pool::Disjoint;
use crate::reduce::dot;
use crate::simd::{Simd, at_every_level, blocks};
use crate::split::over_items;
use crate::{Level, Pool};

/// `out` and `x` are `rows × weight.len()`, `bias` is as long as `weight`.
pub(crate) fn layer_norm(
    pool: &Pool,
    level: Level,
    out: &mut [f32],
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    epsilon: f32,
    rows: usize,
) {
    let width = weight.len();
    assert_eq!(bias.len(), width, "a bias for each weight");
    let out = Disjoint::new(&mut out[..rows * width]);
    over_items(pool, rows, rows * width, &|range| {
        let elements = range.start * width..range.end * width;
        // SAFETY: ranges of rows do not overlap.
        let out = unsafe { out.range(elements.clone()) };
        normalize(level, out, &x[elements], weight, bias, epsilon);
    });
}

at_every_level! {
    fn normalize(out: &mut [f32], x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32) = normalize_rows;
}

#[inline(always)]
fn normalize_rows(s: impl Simd, out: &mut [f32], x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32) {
    let width = weight.len();
    for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
        let mut sum = s.splat(0.0);
        for at in blocks(width) {
            sum = s.add(sum, s.get(&x[at]));
        }
        let mean = s.splat(s.sum(sum) / width as f32);
        for at in blocks(width) {
            s.put(&mut out[at.clone()], s.sub(s.get(&x[at]), mean));
        }
        let scale = s.splat(1.0 / (dot(s, out, out) / width as f32 + epsilon).sqrt());
        for at in blocks(width) {
            let scaled = s.mul(s.get(&out[at.clone()]), scale);
            s.put(&mut out[at.clone()], s.fma(scaled, s.get(&weight[at.clone()]), s.get(&bias[at])));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::{bits, floats, pools};

    fn run(pool: &Pool, level: Level, width: usize, rows: usize) -> Vec<f32> {
        let (x, weight, bias) = (floats(1, rows * width), floats(2, width), floats(3, width));
        let mut out = vec![0.0; rows * width];
        layer_norm(pool, level, &mut out, &x, &weight, &bias, 1e-5, rows);
        out
    }

    #[test]
    fn levels_and_threads_return_the_same_bits() {
        for width in [1, 7, 16, 63, 100, 768] {
            for rows in [1, 2, 33] {
                let want = run(&Pool::new(1), Level::Scalar, width, rows);
                for pool in pools() {
                    for level in crate::available() {
                        assert_eq!(bits(&run(&pool, level, width, rows)), bits(&want), "{level:?} {width}×{rows}");
                    }
                }
            }
        }
    }
}
