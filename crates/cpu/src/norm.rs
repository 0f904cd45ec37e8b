//! Root-mean-square normalization (Zhang and Sennrich, 2019) and its backward.
//!
//! `y = x · ρ ⊙ w` with `ρ = 1 / √(mean(x²) + ε)`. With `a = ∂L/∂y ⊙ w · ρ` and `c = ρ² · mean(a·x)`:
//! `∂L/∂x = a − c·x` and `∂L/∂w = Σ_rows ∂L/∂y ⊙ x·ρ`.
//! Sums over a row are taken in the lanes of [`dot`]; the gradient of the weight adds rows in ascending order, each
//! thread owning a range of columns.

use crate::pool::Disjoint;
use crate::reduce::dot;
use crate::simd::{LANES, Simd, at_every_level, blocks};
use crate::split::{over_grains, over_items};
use crate::{Level, Pool};
use backend::Heads;

/// `out[r] = x[r] · rstd[r] ⊙ weight`; `out` and `x` are `rows × weight.len()`, `rstd` is `rows`.
pub(crate) fn rmsnorm(
    pool: &Pool,
    level: Level,
    out: &mut [f32],
    rstd: &mut [f32],
    x: &[f32],
    weight: &[f32],
    epsilon: f32,
    rows: usize,
) {
    let width = weight.len();
    let (out, rstd) = (Disjoint::new(&mut out[..rows * width]), Disjoint::new(&mut rstd[..rows]));
    over_items(pool, rows, rows * width, &|range| {
        let elements = range.start * width..range.end * width;
        let x = &x[elements.clone()];
        // SAFETY: ranges of rows do not overlap.
        let (out, rstd) = unsafe { (out.range(elements), rstd.range(range)) };
        forward(level, out, rstd, x, weight, epsilon);
    });
}

/// Every head of queries and keys normalized in place: query heads by the first of `weights`, key heads by the second,
/// both `head_dim` floats; `qkv` is `rows × qkv_width`.
pub(crate) fn rmsnorm_heads(
    pool: &Pool,
    level: Level,
    qkv: &mut [f32],
    weights: [&[f32]; 2],
    heads: Heads,
    epsilon: f32,
    rows: usize,
) {
    assert!(weights.iter().all(|weight| weight.len() == heads.head_dim), "weights of one head");
    let width = heads.qkv_width();
    let qkv = Disjoint::new(&mut qkv[..rows * width]);
    over_items(pool, rows, rows * width, &|range| {
        // SAFETY: ranges of rows do not overlap.
        let qkv = unsafe { qkv.range(range.start * width..range.end * width) };
        for row in qkv.chunks_exact_mut(width) {
            let (queries, rest) = row.split_at_mut(heads.query_width());
            normalize_in_place(level, queries, weights[0], epsilon);
            normalize_in_place(level, &mut rest[..heads.kv_width()], weights[1], epsilon);
        }
    });
}

/// `d_x = d_residual + ∂rmsnorm/∂x · d_out` and `g_weight += Σ_r d_out[r] ⊙ x[r] · rstd[r]`.
/// Without `d_residual`, `d_x` already holds it.
pub(crate) fn rmsnorm_backward_add(
    pool: &Pool,
    level: Level,
    d_x: &mut [f32],
    g_weight: &mut [f32],
    d_residual: Option<&[f32]>,
    d_out: &[f32],
    x: &[f32],
    rstd: &[f32],
    weight: &[f32],
    rows: usize,
) {
    let width = weight.len();
    let d_x = Disjoint::new(&mut d_x[..rows * width]);
    over_items(pool, rows, rows * width, &|range| {
        let elements = range.start * width..range.end * width;
        // SAFETY: ranges of rows do not overlap.
        let d_x = unsafe { d_x.range(elements.clone()) };
        if let Some(d_residual) = d_residual {
            d_x.copy_from_slice(&d_residual[elements.clone()]);
        }
        backward_add(level, d_x, &d_out[elements.clone()], &x[elements], &rstd[range], weight);
    });
    let g_weight = Disjoint::new(&mut g_weight[..width]);
    over_grains(pool, width, LANES, rows * width, &|columns| {
        // SAFETY: ranges of columns do not overlap.
        let g_weight = unsafe { g_weight.range(columns.clone()) };
        weight_gradient(level, g_weight, columns.start, d_out, x, &rstd[..rows], width);
    });
}

at_every_level! {
    fn forward(out: &mut [f32], rstd: &mut [f32], x: &[f32], weight: &[f32], epsilon: f32) = forward_rows;
}

#[inline(always)]
fn forward_rows(s: impl Simd, out: &mut [f32], rstd: &mut [f32], x: &[f32], weight: &[f32], epsilon: f32) {
    let width = weight.len();
    for ((out, x), rstd) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(rstd) {
        *rstd = 1.0 / (dot(s, x, x) / width as f32 + epsilon).sqrt();
        let scale = s.splat(*rstd);
        for at in blocks(width) {
            let scaled = s.mul(s.get(&x[at.clone()]), scale);
            s.put(&mut out[at.clone()], s.mul(scaled, s.get(&weight[at])));
        }
    }
}

at_every_level! {
    fn normalize_in_place(x: &mut [f32], weight: &[f32], epsilon: f32) = normalize_rows_in_place;
}

#[inline(always)]
fn normalize_rows_in_place(s: impl Simd, x: &mut [f32], weight: &[f32], epsilon: f32) {
    let width = weight.len();
    for x in x.chunks_exact_mut(width) {
        let scale = s.splat(1.0 / (dot(s, x, x) / width as f32 + epsilon).sqrt());
        for at in blocks(width) {
            let scaled = s.mul(s.get(&x[at.clone()]), scale);
            s.put(&mut x[at.clone()], s.mul(scaled, s.get(&weight[at])));
        }
    }
}

at_every_level! {
    fn backward_add(d_x: &mut [f32], d_out: &[f32], x: &[f32], rstd: &[f32], weight: &[f32]) = backward_rows;
}

#[inline(always)]
fn backward_rows(s: impl Simd, d_x: &mut [f32], d_out: &[f32], x: &[f32], rstd: &[f32], weight: &[f32]) {
    let width = weight.len();
    let inputs = d_out.chunks_exact(width).zip(x.chunks_exact(width)).zip(rstd);
    for (d_x, ((d_out, x), &rstd)) in d_x.chunks_exact_mut(width).zip(inputs) {
        let mut sum = s.splat(0.0);
        for at in blocks(width) {
            let weighted = s.mul(s.get(&d_out[at.clone()]), s.get(&weight[at.clone()]));
            sum = s.fma(weighted, s.get(&x[at]), sum);
        }
        let c = s.splat(-(rstd * rstd * rstd) * (s.sum(sum) / width as f32));
        let scale = s.splat(rstd);
        for at in blocks(width) {
            let weighted = s.mul(s.get(&d_out[at.clone()]), s.get(&weight[at.clone()]));
            let change = s.fma(c, s.get(&x[at.clone()]), s.mul(weighted, scale));
            let sum = s.add(s.get(&d_x[at.clone()]), change);
            s.put(&mut d_x[at], sum);
        }
    }
}

at_every_level! {
    fn weight_gradient(g: &mut [f32], first: usize, d_out: &[f32], x: &[f32], rstd: &[f32], width: usize) = add_rows;
}

/// Adds the gradient of the columns from `first` on, row by row.
#[inline(always)]
fn add_rows(s: impl Simd, g: &mut [f32], first: usize, d_out: &[f32], x: &[f32], rstd: &[f32], width: usize) {
    for (row, &rstd) in rstd.iter().enumerate() {
        let start = row * width + first;
        let (d_out, x) = (&d_out[start..][..g.len()], &x[start..][..g.len()]);
        let scale = s.splat(rstd);
        for at in blocks(g.len()) {
            let normed = s.mul(s.get(&x[at.clone()]), scale);
            let sum = s.fma(s.get(&d_out[at.clone()]), normed, s.get(&g[at.clone()]));
            s.put(&mut g[at], sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::{bits, floats, pools};

    type Outputs = (Vec<f32>, Vec<f32>, Vec<f32>, Vec<f32>);

    fn run(pool: &Pool, level: Level, width: usize, rows: usize, in_place: bool) -> Outputs {
        let (x, d_out, residual) = (floats(1, rows * width), floats(2, rows * width), floats(3, rows * width));
        let weight = floats(4, width);
        let (mut out, mut rstd) = (vec![0.0; rows * width], vec![0.0; rows]);
        rmsnorm(pool, level, &mut out, &mut rstd, &x, &weight, 1e-5, rows);
        let mut d_x = if in_place { residual.clone() } else { vec![0.0; rows * width] };
        let mut g = floats(5, width);
        let d_residual = (!in_place).then_some(&residual[..]);
        rmsnorm_backward_add(pool, level, &mut d_x, &mut g, d_residual, &d_out, &x, &rstd, &weight, rows);
        (out, rstd, d_x, g)
    }

    #[test]
    fn levels_threads_and_aliasing_return_the_same_bits() {
        for width in [1, 7, 16, 63, 64, 100, 768] {
            for rows in [1, 2, 33] {
                let want = run(&Pool::new(1), Level::Scalar, width, rows, false);
                for pool in pools() {
                    for level in crate::available() {
                        for in_place in [false, true] {
                            let got = run(&pool, level, width, rows, in_place);
                            assert_eq!(bits(&got.0), bits(&want.0), "{level:?} {width}×{rows} out");
                            assert_eq!(bits(&got.1), bits(&want.1), "{level:?} {width}×{rows} rstd");
                            assert_eq!(bits(&got.2), bits(&want.2), "{level:?} {width}×{rows} d_x");
                            assert_eq!(bits(&got.3), bits(&want.3), "{level:?} {width}×{rows} g_weight");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn heads_are_normalized_like_rows() {
        let heads = Heads { heads: 3, kv_heads: 1, head_dim: 20 };
        let (rows, weights) = (70, [floats(1, 20), floats(2, 20)]);
        let qkv = floats(3, rows * heads.qkv_width());
        for pool in pools() {
            for level in crate::available() {
                let mut got = qkv.clone();
                rmsnorm_heads(&pool, level, &mut got, [&weights[0], &weights[1]], heads, 1e-6, rows);
                for (got, x) in got.chunks(100).zip(qkv.chunks(100)) {
                    let (mut want, mut rstd) = (x.to_vec(), [0.0; 3]);
                    rmsnorm(&pool, Level::Scalar, &mut want, &mut rstd, x, &weights[0], 1e-6, 3);
                    rmsnorm(&pool, Level::Scalar, &mut want[60..], &mut rstd, &x[60..], &weights[1], 1e-6, 1);
                    assert_eq!(bits(got), bits(&want), "{level:?}");
                }
            }
        }
    }
}
