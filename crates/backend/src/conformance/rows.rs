//! Operations on single rows: embedding, norm, rope, SwiGLU.

use super::reference::{gradient, objective};
use super::{Check, Lab, assert_close, assert_row_exact, assert_same, random, random_ids, reference, wide};
use crate::{Backend, Heads, Precision};
use std::ops::Range;

pub(super) const CHECKS: &[(&str, Check)] = &[
    ("embedding takes the rows of the master, unrounded", embedding_takes_rows),
    ("embedding gradients are added row by row", embedding_gradients_are_added),
    ("rmsnorm is near its formula", rmsnorm_forward),
    ("rmsnorm's rows are exact", rmsnorm_is_row_exact),
    ("rmsnorm's gradients are near finite differences", rmsnorm_backward),
    ("rmsnorm's gradients: split, in place", rmsnorm_backward_splits),
    ("a bias is added to every row", biases_are_added),
    ("rope turns queries and keys", rope_turns),
    ("rope backward is the transpose", rope_backward_is_the_transpose),
    ("swiglu is near its formula", swiglu_forward),
    ("swiglu's gradient is near finite differences", swiglu_backward),
    ("swiglu's and rope's rows are exact", rows_are_exact),
];

fn embedding_takes_rows(b: &dyn Backend) {
    let (vocab, width, rows) = (11, 24, 30);
    let ids = random_ids(1, rows, vocab);
    let master = random(2, vocab as usize * width);
    for precision in [Precision::F32, Precision::Bf16] {
        let lab = Lab::new(b);
        let master_buf = lab.floats(&master);
        let table = b.trainable_matrix(master_buf, vocab as usize, width, precision).expect("a small matrix");
        let table = lab.keep(table);
        let out = lab.output(rows * width);
        b.embed(out, lab.ids(&ids), table, rows);
        let want: Vec<f32> = ids.iter().flat_map(|&id| master[id as usize * width..][..width].to_vec()).collect();
        assert_same("embedding", &lab.read_before_tail(out, rows * width), &want);
    }
}

fn embedding_gradients_are_added(b: &dyn Backend) {
    let (vocab, width, rows) = (7usize, 24, 40);
    let lab = Lab::new(b);
    let (ids, d_out, start) = (random_ids(1, rows, vocab as u32), random(2, rows * width), random(3, vocab * width));
    let g = lab.floats(&start);
    b.embed_backward(g, lab.floats(&d_out), lab.ids(&ids), width, rows);
    let mut want = start;
    for (&id, d) in ids.iter().zip(d_out.chunks(width)) {
        want[id as usize * width..][..width].iter_mut().zip(d).for_each(|(g, d)| *g += d);
    }
    // Plain additions in a given order: the bits are given too.
    assert_same("gradient of the table", &lab.read(g, vocab * width), &want);
}

fn biases_are_added(b: &dyn Backend) {
    for (rows, width) in [(1, 1), (3, 24), (70, 200)] {
        let lab = Lab::new(b);
        let (x, bias) = (random(1, rows * width), random(2, width));
        let buf = lab.with_tail(&x);
        b.add_bias(buf, lab.floats(&bias), rows);
        let want: Vec<f32> = x.iter().zip(bias.iter().cycle()).map(|(x, bias)| x + bias).collect();
        // One addition each: the bits are given.
        assert_same("bias", &lab.read_before_tail(buf, rows * width), &want);
    }
}

const EPSILON: f32 = 1e-5;

fn rmsnorm_forward(b: &dyn Backend) {
    for (rows, width) in [(1, 1), (3, 8), (5, 100), (2, 768)] {
        let lab = Lab::new(b);
        let (x, weight) = (random(1, rows * width), random(2, width));
        let (out, rstd) = (lab.output(rows * width), lab.output(rows));
        b.rmsnorm(out, rstd, lab.with_tail(&x), lab.floats(&weight), EPSILON, rows);
        let want = reference::rmsnorm(&wide(&x), &wide(&weight), f64::from(EPSILON));
        assert_close("rmsnorm", &lab.read_before_tail(out, rows * width), &want, 2e-6);
        let want = reference::rstd(&wide(&x), width, f64::from(EPSILON));
        assert_close("rstd", &lab.read_before_tail(rstd, rows), &want, 2e-6);
    }
}

fn rmsnorm_is_row_exact(b: &dyn Backend) {
    let (rows, width) = (70, 200);
    let (x, weight) = (random(1, rows * width), random(2, width));
    assert_row_exact("rmsnorm", rows, width, |range| {
        let (lab, count) = (Lab::new(b), range.len());
        let (out, rstd) = (lab.output(count * width), lab.output(count));
        b.rmsnorm(
            out,
            rstd,
            lab.floats(&x[range.start * width..range.end * width]),
            lab.floats(&weight),
            EPSILON,
            count,
        );
        lab.read(out, count * width)
    });
}

/// Inputs of rmsnorm's backward.
struct Norm {
    width: usize,
    x: Vec<f32>,
    weight: Vec<f32>,
    d_out: Vec<f32>,
    d_residual: Vec<f32>,
    g_start: Vec<f32>,
}

impl Norm {
    fn new(rows: usize, width: usize) -> Self {
        let [x, d_out, d_residual] = [1, 2, 3].map(|seed| random(seed, rows * width));
        Self { width, x, weight: random(4, width), d_out, d_residual, g_start: random(5, width) }
    }

    /// `d_x` of the rows of several ranges, computed one after the other, and `g_weight` at the end.
    fn backward(&self, b: &dyn Backend, ranges: &[Range<usize>], in_place: bool) -> (Vec<f32>, Vec<f32>) {
        let (lab, width) = (Lab::new(b), self.width);
        let (g, weight) = (lab.with_tail(&self.g_start), lab.floats(&self.weight));
        let mut all = Vec::new();
        for range in ranges {
            let (rows, part) = (range.len(), range.start * width..range.end * width);
            let x = lab.floats(&self.x[part.clone()]);
            let (out, rstd) = (lab.output(rows * width), lab.output(rows));
            b.rmsnorm(out, rstd, x, weight, EPSILON, rows);
            let d_residual = lab.with_tail(&self.d_residual[part.clone()]);
            let d_x = if in_place { d_residual } else { lab.output(rows * width) };
            b.rmsnorm_backward_add(d_x, g, d_residual, lab.floats(&self.d_out[part]), x, rstd, weight, rows);
            all.extend(lab.read_before_tail(d_x, rows * width));
        }
        (all, lab.read_before_tail(g, width))
    }
}

fn rmsnorm_backward(b: &dyn Backend) {
    let (rows, width) = (3, 20);
    let norm = Norm::new(rows, width);
    let range = 0..rows;
    let (d_x, g) = norm.backward(b, std::slice::from_ref(&range), false);
    let (x, weight, d_out) = (wide(&norm.x), wide(&norm.weight), wide(&norm.d_out));
    let loss = |x: &[f64], weight: &[f64]| objective(&reference::rmsnorm(x, weight, f64::from(EPSILON)), &d_out);
    let sum = |a: Vec<f64>, b: &[f32]| a.iter().zip(b).map(|(a, &b)| a + f64::from(b)).collect::<Vec<_>>();
    let want = sum(gradient(&x, |x| loss(x, &weight)), &norm.d_residual);
    assert_close("d_x", &d_x, &want, 2e-6);
    let want = sum(gradient(&weight, |weight| loss(&x, weight)), &norm.g_start);
    assert_close("g_weight", &g, &want, 2e-6);
}

fn rmsnorm_backward_splits(b: &dyn Backend) {
    let rows = 40;
    let norm = Norm::new(rows, 96);
    let range = 0..rows;
    let (d_x, g) = norm.backward(b, std::slice::from_ref(&range), false);
    let splits = [(vec![range], true), (vec![0..20, 20..40], false), (vec![0..1, 1..16, 16..40], true)];
    for (ranges, in_place) in splits {
        let (split_d_x, split_g) = norm.backward(b, &ranges, in_place);
        assert_same(&format!("d_x of {ranges:?}"), &split_d_x, &d_x);
        assert_same(&format!("g_weight of {ranges:?}"), &split_g, &g);
    }
}

const SHAPES: [Heads; 3] = [
    Heads { heads: 3, kv_heads: 1, head_dim: 8 },
    Heads { heads: 2, kv_heads: 2, head_dim: 64 },
    Heads { heads: 4, kv_heads: 2, head_dim: 80 },
];

/// Cosines and sines of random angles.
fn table(positions: usize, head_dim: usize) -> Vec<f32> {
    let angles = random(9, positions * head_dim / 2);
    let row = |angles: &[f32]| {
        angles.iter().map(|a| (3.0 * a).cos()).chain(angles.iter().map(|a| (3.0 * a).sin())).collect::<Vec<_>>()
    };
    angles.chunks(head_dim / 2).flat_map(row).collect()
}

fn run_rope(b: &dyn Backend, qkv: &[f32], positions: &[u32], heads: Heads, backward: bool) -> Vec<f32> {
    let lab = Lab::new(b);
    let (buf, table, rows) = (lab.with_tail(qkv), lab.floats(&table(50, heads.head_dim)), positions.len());
    let positions = lab.ids(positions);
    if backward {
        b.rope_backward(buf, table, positions, heads, rows);
    } else {
        b.rope(buf, table, positions, heads, rows);
    }
    lab.read_before_tail(buf, rows * heads.qkv_width())
}

fn rope_turns(b: &dyn Backend) {
    for heads in SHAPES {
        let rows = 9;
        let (qkv, positions) = (random(1, rows * heads.qkv_width()), random_ids(2, rows, 50));
        let got = run_rope(b, &qkv, &positions, heads, false);
        let want = reference::rope(&wide(&qkv), &wide(&table(50, heads.head_dim)), &positions, heads, 1.0);
        assert_close("rope", &got, &want, 1e-6);
        let values = heads.query_width() + heads.kv_width();
        for (got, before) in got.chunks(heads.qkv_width()).zip(qkv.chunks(heads.qkv_width())) {
            assert_same("values stay", &got[values..], &before[values..]);
        }
    }
}

fn rope_backward_is_the_transpose(b: &dyn Backend) {
    for heads in SHAPES {
        let rows = 4;
        let (d, positions) = (random(1, rows * heads.qkv_width()), random_ids(2, rows, 50));
        let got = run_rope(b, &d, &positions, heads, true);
        let table = wide(&table(50, heads.head_dim));
        let x = wide(&random(3, d.len()));
        let want = gradient(&x, |x| objective(&reference::rope(x, &table, &positions, heads, 1.0), &wide(&d)));
        assert_close("rope backward", &got, &want, 1e-6);
    }
}

fn run_swiglu(b: &dyn Backend, gate_up: &[f32], width: usize) -> Vec<f32> {
    let (lab, rows) = (Lab::new(b), gate_up.len() / (2 * width));
    let out = lab.output(rows * width);
    b.swiglu(out, lab.with_tail(gate_up), width, rows);
    lab.read_before_tail(out, rows * width)
}

fn swiglu_forward(b: &dyn Backend) {
    for (rows, width) in [(1, 1), (4, 24), (3, 77)] {
        let gate_up: Vec<f32> = random(1, rows * 2 * width).iter().map(|x| 9.0 * x).collect();
        let want = reference::swiglu(&wide(&gate_up), width);
        assert_close("swiglu", &run_swiglu(b, &gate_up, width), &want, 1e-6);
    }
    assert!(run_swiglu(b, &[f32::NAN, 1.0], 1)[0].is_nan(), "what is not a number must stay visible");
}

fn swiglu_backward(b: &dyn Backend) {
    for (rows, width) in [(2, 24), (3, 19)] {
        let lab = Lab::new(b);
        let gate_up: Vec<f32> = random(1, rows * 2 * width).iter().map(|x| 4.0 * x).collect();
        let d_out = random(2, rows * width);
        let d_gate_up = lab.output(rows * 2 * width);
        b.swiglu_backward(d_gate_up, lab.floats(&d_out), lab.floats(&gate_up), width, rows);
        let want = gradient(&wide(&gate_up), |x| objective(&reference::swiglu(x, width), &wide(&d_out)));
        assert_close("swiglu backward", &lab.read_before_tail(d_gate_up, rows * 2 * width), &want, 2e-6);
    }
}

fn rows_are_exact(b: &dyn Backend) {
    let (rows, width) = (60, 150);
    let gate_up = random(1, rows * 2 * width);
    assert_row_exact("swiglu", rows, width, |range| {
        run_swiglu(b, &gate_up[range.start * 2 * width..range.end * 2 * width], width)
    });
    let heads = SHAPES[1];
    let (qkv, positions) = (random(2, rows * heads.qkv_width()), random_ids(3, rows, 50));
    assert_row_exact("rope", rows, heads.qkv_width(), |range| {
        let part = range.start * heads.qkv_width()..range.end * heads.qkv_width();
        run_rope(b, &qkv[part], &positions[range], heads, false)
    });
}
