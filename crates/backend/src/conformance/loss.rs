//! The head and its cross-entropy.

use super::reference::{gradient, objective};
use super::{
    Check, Lab, assert_close, assert_row_exact, assert_same, assert_same_sum, bf16, random, random_ids, reference, wide,
};
use crate::{Backend, NO_TARGET, Precision};
use std::ops::Range;

pub(super) const CHECKS: &[(&str, Check)] = &[
    ("losses are near their formula", forward),
    ("losses' rows are exact", rows_are_exact),
    ("gradients of losses are near finite differences", backward),
    ("gradients of losses: split", backward_splits),
    ("a row without a target has no loss and no gradient", no_target),
    ("large logits do not overflow", large_logits),
];

/// Inputs of the head.
struct Inputs {
    width: usize,
    x: Vec<f32>,
    head: Vec<f32>,
    targets: Vec<u32>,
    g_start: Vec<f32>,
}

impl Inputs {
    fn new(rows: usize, width: usize, vocab: usize) -> Self {
        let mut targets = random_ids(3, rows, vocab as u32);
        targets[rows / 3] = NO_TARGET;
        let [head, g_start] = [2, 4].map(|seed| random(seed, vocab * width));
        Self { width, x: random(1, rows * width), head, targets, g_start }
    }

    fn rounded(&self) -> (Vec<f64>, Vec<f64>) {
        let round = |x: &[f32]| wide(&x.iter().map(|&x| bf16(x)).collect::<Vec<_>>());
        (round(&self.x), round(&self.head))
    }

    fn losses(&self, b: &dyn Backend, precision: Precision, range: Range<usize>) -> Vec<f32> {
        let (lab, width, rows) = (Lab::new(b), self.width, range.len());
        let head = lab.floats(&self.head);
        let head = b.trainable_matrix(head, self.head.len() / width, width, precision).expect("a small matrix");
        let losses = lab.output(rows);
        let x = lab.with_tail(&self.x[range.start * width..range.end * width]);
        b.head_loss(losses, x, lab.keep(head), lab.ids(&self.targets[range]), rows);
        lab.read_before_tail(losses, rows)
    }

    /// Losses and `d_x` of the rows of several ranges, computed one after the other, and `g_head` at the end.
    fn backward(&self, b: &dyn Backend, precision: Precision, ranges: &[Range<usize>], scale: f32) -> [Vec<f32>; 3] {
        let (lab, width) = (Lab::new(b), self.width);
        let head = lab.floats(&self.head);
        let head = b.trainable_matrix(head, self.head.len() / width, width, precision).expect("a small matrix");
        let (head, g) = (lab.keep(head), lab.floats(&self.g_start));
        let (mut all_losses, mut all_d_x) = (Vec::new(), Vec::new());
        for range in ranges {
            let rows = range.len();
            let x = lab.with_tail(&self.x[range.start * width..range.end * width]);
            let (losses, d_x) = (lab.output(rows), lab.output(rows * width));
            b.head_loss_backward(losses, d_x, g, x, head, lab.ids(&self.targets[range.clone()]), scale, rows);
            all_losses.extend(lab.read_before_tail(losses, rows));
            all_d_x.extend(lab.read_before_tail(d_x, rows * width));
        }
        [all_losses, all_d_x, lab.read(g, self.head.len())]
    }
}

fn forward(b: &dyn Backend) {
    for (rows, width, vocab) in [(3, 16, 20), (5, 64, 700), (2, 40, 333)] {
        let inputs = Inputs::new(rows, width, vocab);
        let want = reference::losses(&wide(&inputs.x), &wide(&inputs.head), &inputs.targets, width);
        assert_close("losses f32", &inputs.losses(b, Precision::F32, 0..rows), &want, 2e-6);
        let (x, head) = inputs.rounded();
        let want = reference::losses(&x, &head, &inputs.targets, width);
        assert_close("losses bf16", &inputs.losses(b, Precision::Bf16, 0..rows), &want, 2e-6);
    }
}

fn rows_are_exact(b: &dyn Backend) {
    let inputs = Inputs::new(70, 48, 500);
    for precision in [Precision::F32, Precision::Bf16] {
        assert_row_exact(&format!("losses {precision:?}"), 70, 1, |range| inputs.losses(b, precision, range));
        let [losses, ..] = inputs.backward(b, precision, &[0..30, 30..70], 1.0);
        assert_same("losses of the backward", &losses, &inputs.losses(b, precision, 0..70));
    }
}

fn backward(b: &dyn Backend) {
    let (rows, width, vocab, scale) = (4, 8, 37, 0.125f32);
    let inputs = Inputs::new(rows, width, vocab);
    // In bf16, x and the head are rounded before the logits and the gradient of a logit before its products.
    for (precision, tolerance) in [(Precision::F32, 3e-6), (Precision::Bf16, 1e-2)] {
        let (x, head) = match precision {
            Precision::F32 => (wide(&inputs.x), wide(&inputs.head)),
            Precision::Bf16 | Precision::Int8 => inputs.rounded(),
        };
        let scales = vec![f64::from(scale); rows];
        let loss = |x: &[f64], head: &[f64]| objective(&reference::losses(x, head, &inputs.targets, width), &scales);
        let all = 0..rows;
        let [losses, d_x, g] = inputs.backward(b, precision, std::slice::from_ref(&all), scale);
        assert_close("losses", &losses, &reference::losses(&x, &head, &inputs.targets, width), 2e-6);
        assert_close(&format!("d_x {precision:?}"), &d_x, &gradient(&x, |x| loss(x, &head)), tolerance);
        let want = gradient(&head, |head| loss(&x, head));
        let added: Vec<f64> = want.iter().zip(wide(&inputs.g_start)).map(|(a, b)| a + b).collect();
        assert_close(&format!("g_head {precision:?}"), &g, &added, tolerance);
    }
}

fn backward_splits(b: &dyn Backend) {
    for (rows, ranges) in [(8, vec![0..4, 4..8]), (96, vec![0..32, 32..96])] {
        let inputs = Inputs::new(rows, 48, 300);
        for precision in [Precision::F32, Precision::Bf16] {
            let all = 0..rows;
            let whole = inputs.backward(b, precision, std::slice::from_ref(&all), 0.01);
            let split = inputs.backward(b, precision, &ranges, 0.01);
            for (what, (split, whole)) in ["losses", "d_x", "g_head"].iter().zip(split.iter().zip(&whole)) {
                match *what {
                    "g_head" => assert_same_sum(what, precision, &ranges, split, whole),
                    _ => assert_same(&format!("{what} {precision:?} {ranges:?}"), split, whole),
                }
            }
        }
    }
}

fn no_target(b: &dyn Backend) {
    let (rows, width) = (6, 16);
    let mut inputs = Inputs::new(rows, width, 50);
    for precision in [Precision::F32, Precision::Bf16] {
        inputs.targets = vec![3, NO_TARGET, 7, NO_TARGET, 9, 0];
        let all = 0..rows;
        let [losses, d_x, g] = inputs.backward(b, precision, std::slice::from_ref(&all), 0.5);
        for row in [1, 3] {
            assert_eq!(losses[row], 0.0);
            assert_eq!(d_x[row * width..(row + 1) * width], vec![0.0; width]);
        }
        assert!(losses.iter().sum::<f32>() > 0.0 && g != inputs.g_start);
        inputs.targets = vec![NO_TARGET; rows];
        let [losses, d_x, g] = inputs.backward(b, precision, std::slice::from_ref(&all), 0.5);
        assert_eq!(losses, vec![0.0; rows]);
        assert_eq!(d_x, vec![0.0; rows * width]);
        assert_eq!(g, inputs.g_start, "no target, no gradient");
    }
}

fn large_logits(b: &dyn Backend) {
    let mut inputs = Inputs::new(4, 16, 50);
    inputs.x.iter_mut().for_each(|x| *x *= 200.0);
    let all = 0..4;
    for precision in [Precision::F32, Precision::Bf16] {
        for values in inputs.backward(b, precision, std::slice::from_ref(&all), 1.0) {
            assert!(values.iter().all(|x| x.is_finite()), "logits of a thousand must stay finite");
        }
    }
}
