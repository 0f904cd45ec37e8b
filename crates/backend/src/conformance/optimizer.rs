//! The optimizer's operations.

use super::{Check, Lab, assert_close, assert_same, random, wide};
use crate::{AdamW, Backend};

pub(super) const CHECKS: &[(&str, Check)] = &[
    ("the sum of squares", the_sum_of_squares),
    ("AdamW follows its formula", adamw_follows_its_formula),
    ("AdamW does not depend on where an element stands", adamw_is_elementwise),
];

fn the_sum_of_squares(b: &dyn Backend) {
    for len in [1, 3, 64, 1001, 70_000] {
        let lab = Lab::new(b);
        let x = random(len as u64, len);
        let exact: f64 = wide(&x).iter().map(|x| x * x).sum();
        let buf = lab.floats(&x);
        let sum = b.sum_of_squares(buf);
        assert!((sum - exact).abs() <= 1e-6 * exact, "{len} floats: {sum}, not {exact}");
        assert_eq!(sum.to_bits(), b.sum_of_squares(buf).to_bits(), "twice the same");
    }
}

const STEP: AdamW = AdamW {
    learning_rate: 2e-2,
    beta1: 0.9,
    beta2: 0.95,
    epsilon: 1e-8,
    weight_decay: 0.1,
    step: 1,
    gradient_scale: 0.75,
};

fn adamw_follows_its_formula(b: &dyn Backend) {
    let (lab, len) = (Lab::new(b), 203);
    let start = random(1, len);
    let (w, m, v) = (lab.floats(&start), lab.floats(&vec![0.0; len]), lab.floats(&vec![0.0; len]));
    let (mut want_w, mut want_m, mut want_v) = (wide(&start), vec![0.0; len], vec![0.0; len]);
    for step in 1..=5 {
        let gradient = random(10 + step, len);
        b.adamw(w, lab.floats(&gradient), m, v, &AdamW { step, ..STEP });
        let [lr, beta1, beta2, decay, scale] =
            [STEP.learning_rate, STEP.beta1, STEP.beta2, STEP.weight_decay, STEP.gradient_scale].map(f64::from);
        for i in 0..len {
            let g = scale * f64::from(gradient[i]);
            want_m[i] = beta1 * want_m[i] + (1.0 - beta1) * g;
            want_v[i] = beta2 * want_v[i] + (1.0 - beta2) * g * g;
            let m_hat = want_m[i] / (1.0 - beta1.powi(step as i32));
            let v_hat = want_v[i] / (1.0 - beta2.powi(step as i32));
            want_w[i] = want_w[i] * (1.0 - lr * decay) - lr * m_hat / (v_hat.sqrt() + f64::from(STEP.epsilon));
        }
        assert_close("weights", &lab.read(w, len), &want_w, 1e-6);
        assert_close("first moment", &lab.read(m, len), &want_m, 1e-6);
        assert_close("second moment", &lab.read(v, len), &want_v, 1e-6);
    }
}

fn adamw_is_elementwise(b: &dyn Backend) {
    let run = |values: &[f32], gradient: &[f32]| {
        let (lab, len) = (Lab::new(b), values.len());
        let (w, m, v) = (lab.floats(values), lab.floats(&vec![0.25; len]), lab.floats(&vec![0.5; len]));
        b.adamw(w, lab.floats(gradient), m, v, &STEP);
        lab.read(w, len)
    };
    let (values, gradient) = (random(1, 100), random(2, 100));
    let whole = run(&values, &gradient);
    for range in [0..1, 3..40, 99..100] {
        assert_same("weights", &run(&values[range.clone()], &gradient[range.clone()]), &whole[range]);
    }
}
