//! Operations on single rows of models that are not Llamas: layer norm, norms of heads, GELU, ReLU, learned positions.

use super::{Check, Lab, assert_close, assert_row_exact, assert_same, random, random_ids, reference, wide};
use crate::{Backend, Heads};

pub(super) const CHECKS: &[(&str, Check)] = &[
    ("layer norm is near its formula", layer_norm_forward),
    ("layer norm's rows are exact", layer_norm_is_row_exact),
    ("heads of queries and keys are normalized, values stay", heads_are_normalized),
    ("rows of a table are added", rows_are_added),
    ("gelu is near its formula", gelu_forward),
    ("relu keeps what is positive", relu_forward),
];

const EPSILON: f32 = 1e-5;

/// Layer norm of the rows of `x`, its weights and biases random.
fn run_layer_norm(b: &dyn Backend, x: &[f32], width: usize) -> Vec<f32> {
    let (lab, rows) = (Lab::new(b), x.len() / width);
    let out = lab.output(rows * width);
    let (weight, bias) = (lab.floats(&random(2, width)), lab.floats(&random(3, width)));
    b.layer_norm(out, lab.with_tail(x), weight, bias, EPSILON, rows);
    lab.read_before_tail(out, rows * width)
}

fn layer_norm_forward(b: &dyn Backend) {
    for (rows, width) in [(1, 1), (3, 8), (5, 100), (2, 768)] {
        // A common part that is large beside what is left: two passes keep the digits of the rest.
        let x: Vec<f32> = random(1, rows * width).iter().map(|x| 20.0 + x).collect();
        let (weight, bias) = (wide(&random(2, width)), wide(&random(3, width)));
        let want = reference::layer_norm(&wide(&x), &weight, &bias, f64::from(EPSILON));
        assert_close("layer norm", &run_layer_norm(b, &x, width), &want, 1e-5);
    }
    let spoiled = run_layer_norm(b, &[1.0, f32::NAN, 0.0], 3);
    assert!(spoiled.iter().all(|x| x.is_nan()), "what is not a number must stay visible");
}

fn layer_norm_is_row_exact(b: &dyn Backend) {
    let (rows, width) = (70, 200);
    let x = random(1, rows * width);
    assert_row_exact("layer norm", rows, width, |range| {
        run_layer_norm(b, &x[range.start * width..range.end * width], width)
    });
}

fn heads_are_normalized(b: &dyn Backend) {
    for heads in [Heads { heads: 3, kv_heads: 1, head_dim: 8 }, Heads { heads: 4, kv_heads: 2, head_dim: 80 }] {
        let (rows, width) = (60, heads.qkv_width());
        let (qkv, weights) = (random(1, rows * width), [random(2, heads.head_dim), random(3, heads.head_dim)]);
        let run = |range: std::ops::Range<usize>| {
            let lab = Lab::new(b);
            let buf = lab.with_tail(&qkv[range.start * width..range.end * width]);
            let [query, key] = [0, 1].map(|index: usize| lab.floats(&weights[index]));
            b.rmsnorm_heads(buf, query, key, heads, EPSILON, range.len());
            lab.read_before_tail(buf, range.len() * width)
        };
        let (query_width, key_end) = (heads.query_width(), heads.query_width() + heads.kv_width());
        for (got, x) in run(0..rows).chunks(width).zip(qkv.chunks(width)) {
            let want = |x: &[f32], weight: &[f32]| reference::rmsnorm(&wide(x), &wide(weight), f64::from(EPSILON));
            assert_close("queries", &got[..query_width], &want(&x[..query_width], &weights[0]), 2e-6);
            let keys = want(&x[query_width..key_end], &weights[1]);
            assert_close("keys", &got[query_width..key_end], &keys, 2e-6);
            assert_same("values", &got[key_end..], &x[key_end..]);
        }
        assert_row_exact("norms of heads", rows, width, run);
    }
}

fn rows_are_added(b: &dyn Backend) {
    for (rows, width) in [(1, 1), (3, 24), (70, 200)] {
        let (lab, table_rows) = (Lab::new(b), 9);
        let (x, table) = (random(1, rows * width), random(2, table_rows * width));
        let ids = random_ids(3, rows, table_rows as u32);
        let buf = lab.with_tail(&x);
        b.add_rows(buf, lab.ids(&ids), lab.floats(&table), width, rows);
        let added = ids.iter().flat_map(|&id| &table[id as usize * width..][..width]);
        let want: Vec<f32> = x.iter().zip(added).map(|(x, row)| x + row).collect();
        // One addition each: the bits are given.
        assert_same("rows of a table", &lab.read_before_tail(buf, rows * width), &want);
    }
}

/// What an operation makes of floats in place.
fn changed(b: &dyn Backend, x: &[f32], operation: impl Fn(crate::Buf)) -> Vec<f32> {
    let lab = Lab::new(b);
    let buf = lab.with_tail(x);
    operation(buf);
    lab.read_before_tail(buf, x.len())
}

fn gelu_forward(b: &dyn Backend) {
    let near: Vec<f32> = random(1, 1000).iter().map(|x| 6.0 * x).collect();
    let got = changed(b, &near, |buf| b.gelu(buf, near.len()));
    assert_close("gelu", &got, &reference::gelu(&wide(&near)), 1e-6);
    for (&got, want) in got.iter().zip(reference::gelu(&wide(&near))) {
        // Small outputs keep their digits too, as long as f32 holds the exponential's.
        assert!((f64::from(got) - want).abs() <= 2e-5 * want.abs() + 1e-12, "gelu: {got} and {want}");
    }
    let far = [f32::NAN, -100.0, 100.0, 0.0];
    let got = changed(b, &far, |buf| b.gelu(buf, far.len()));
    assert!(got[0].is_nan() && got[1].abs() < 1e-30 && got[2] == 100.0 && got[3] == 0.0, "{got:?}");
}

fn relu_forward(b: &dyn Backend) {
    let x = random(1, 1000);
    let want: Vec<f32> = x.iter().map(|&x| if x > 0.0 { x } else { 0.0 }).collect();
    assert_same("relu", &changed(b, &x, |buf| b.relu(buf, x.len())), &want);
    assert!(changed(b, &[f32::NAN], |buf| b.relu(buf, 1))[0].is_nan(), "what is not a number must stay visible");
}
