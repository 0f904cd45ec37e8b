//! The head and its divergence from a teacher.

use super::reference::{self, gradient, objective};
use super::{Check, Lab, assert_close, assert_same, assert_same_sum, bf16, random, wide};
use crate::{Backend, Divergence, NO_TARGET, Precision, Teacher};
use std::ops::Range;

pub(super) const CHECKS: &[(&str, Check)] = &[
    ("divergences and their gradients are near finite differences", backward),
    ("divergences: split", splits),
    ("a row of which the teacher says nothing has no divergence and no gradient", nothing_said),
];

const ALL: [Divergence; 4] =
    [Divergence::ForwardKl, Divergence::ReverseKl, Divergence::SymmetricKl, Divergence::TotalVariation];

/// Tokens that the teacher lists.
const TOKENS: usize = 3;

/// Inputs of the head, and a teacher that lists three tokens, two, or none.
struct Inputs {
    width: usize,
    x: Vec<f32>,
    head: Vec<f32>,
    ids: Vec<u32>,
    probabilities: Vec<f32>,
    g_start: Vec<f32>,
}

impl Inputs {
    fn new(rows: usize, width: usize, vocab: usize) -> Self {
        let (mut ids, mut probabilities) = (Vec::new(), Vec::new());
        for row in 0..rows {
            let [a, b, c] = [0, 1, 2].map(|place| ((row * 7 + place * 5) % vocab) as u32);
            match row % 4 {
                1 => (ids.extend([a, b, NO_TARGET]), probabilities.extend([0.7, 0.3, 0.0])),
                3 => (ids.extend([NO_TARGET; TOKENS]), probabilities.extend([0.0; TOKENS])),
                _ => (ids.extend([a, b, c]), probabilities.extend([0.5, 0.2, 0.05])),
            };
        }
        let [head, g_start] = [2, 4].map(|seed| random(seed, vocab * width));
        Self { width, x: random(1, rows * width), head, ids, probabilities, g_start }
    }

    /// Divergences and `d_x` of the rows of several ranges, computed one after the other, and `g_head` at the end.
    fn run(
        &self,
        b: &dyn Backend,
        precision: Precision,
        divergence: Divergence,
        ranges: &[Range<usize>],
        scale: f32,
    ) -> [Vec<f32>; 3] {
        let (lab, width) = (Lab::new(b), self.width);
        let head = lab.floats(&self.head);
        let head = b.trainable_matrix(head, self.head.len() / width, width, precision).expect("a small matrix");
        let (head, g) = (lab.keep(head), lab.floats(&self.g_start));
        let (mut values, mut all_d_x) = (Vec::new(), Vec::new());
        for range in ranges {
            let (rows, listed) = (range.len(), range.start * TOKENS..range.end * TOKENS);
            let x = lab.with_tail(&self.x[range.start * width..range.end * width]);
            let ids = lab.ids(&self.ids[listed.clone()]);
            let teacher = Teacher { ids, probabilities: lab.with_tail(&self.probabilities[listed]), tokens: TOKENS };
            let (out, d_x) = (lab.output(rows), lab.output(rows * width));
            b.head_divergence_backward(out, d_x, g, x, head, teacher, divergence, scale, rows);
            values.extend(lab.read_before_tail(out, rows));
            all_d_x.extend(lab.read_before_tail(d_x, rows * width));
        }
        [values, all_d_x, lab.read(g, self.head.len())]
    }
}

fn backward(b: &dyn Backend) {
    let (rows, width, vocab, scale) = (6, 8, 37, 0.125f32);
    let inputs = Inputs::new(rows, width, vocab);
    let round = |x: &[f32]| wide(&x.iter().map(|&x| bf16(x)).collect::<Vec<_>>());
    for divergence in ALL {
        for (precision, tolerance) in [(Precision::F32, 3e-6), (Precision::Bf16, 1e-2)] {
            let (x, head) = match precision {
                Precision::F32 => (wide(&inputs.x), wide(&inputs.head)),
                Precision::Bf16 | Precision::Int8 => (round(&inputs.x), round(&inputs.head)),
            };
            let t = wide(&inputs.probabilities);
            let of =
                |x: &[f64], head: &[f64]| reference::divergences(x, head, (&inputs.ids, &t, TOKENS), divergence, width);
            let scales = vec![f64::from(scale); rows];
            let all = 0..rows;
            let [values, d_x, g] = inputs.run(b, precision, divergence, std::slice::from_ref(&all), scale);
            assert_close(&format!("{divergence:?}"), &values, &of(&x, &head), 2e-6);
            let want = gradient(&x, |x| objective(&of(x, &head), &scales));
            assert_close(&format!("d_x {divergence:?} {precision:?}"), &d_x, &want, tolerance);
            let want = gradient(&head, |head| objective(&of(&x, head), &scales));
            let added: Vec<f64> = want.iter().zip(wide(&inputs.g_start)).map(|(a, b)| a + b).collect();
            assert_close(&format!("g_head {divergence:?} {precision:?}"), &g, &added, tolerance);
        }
    }
}

fn splits(b: &dyn Backend) {
    let inputs = Inputs::new(96, 48, 300);
    let (all, ranges) = (0..96, [0..32, 32..96]);
    for precision in [Precision::F32, Precision::Bf16] {
        let run = |ranges: &[Range<usize>]| inputs.run(b, precision, Divergence::SymmetricKl, ranges, 0.01);
        let ([values, d_x, g], [want_values, want_d_x, want_g]) = (run(&ranges), run(std::slice::from_ref(&all)));
        assert_same("divergences", &values, &want_values);
        assert_same("d_x", &d_x, &want_d_x);
        assert_same_sum("g_head", precision, &ranges, &g, &want_g);
    }
}

fn nothing_said(b: &dyn Backend) {
    let (rows, width) = (4, 16);
    let mut inputs = Inputs::new(rows, width, 50);
    for divergence in ALL {
        let all = 0..rows;
        let mut run = |silent: bool| {
            if silent {
                inputs.ids.fill(NO_TARGET);
            }
            inputs.run(b, Precision::F32, divergence, std::slice::from_ref(&all), 0.5)
        };
        let [values, d_x, _] = run(false);
        assert!(values[0] > 0.0 && values[3] == 0.0, "{divergence:?} {values:?}");
        assert_eq!(d_x[3 * width..], vec![0.0; width]);
        let [values, d_x, g] = run(true);
        assert_eq!((values, d_x), (vec![0.0; rows], vec![0.0; rows * width]));
        assert_eq!(g, inputs.g_start, "nothing said, no gradient");
        inputs = Inputs::new(rows, width, 50);
    }
}
