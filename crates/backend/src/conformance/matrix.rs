//! Matrices: loaded, trainable, multiplied, and their gradients.

use super::reference::{linear, transpose};
use super::{Check, Lab, assert_close, assert_row_exact, assert_same, assert_same_sum, bf16, random, wide};
use crate::{Backend, EncodedRows, Encoding, Family, Precision, Rows};
use std::ops::Range;

pub(super) const CHECKS: &[(&str, Check)] = &[
    ("a linear layer is near its formula", linear_forward),
    ("a linear layer's rows are exact in each family", linear_is_row_exact),
    ("a linear layer adds to its residual, in place too", linear_adds),
    ("a linear layer's gradients", linear_backward),
    ("a linear layer's gradients: split", linear_backward_splits),
    ("a trainable matrix keeps its values until it is refreshed", refresh_takes_new_values),
    ("loaded matrices of every float encoding, stacked", loaded_floats),
    ("loaded matrices of 8-bit and 4-bit blocks", loaded_blocks),
];

const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];
const FAMILIES: [Family; 2] = [Family::Prompt, Family::Generated];

/// (rows, inner, out) of products; odd ones among them.
const SIZES: [(usize, usize, usize); 5] = [(1, 16, 16), (3, 48, 40), (7, 33, 19), (16, 256, 130), (2, 768, 96)];

/// The operand as it is multiplied.
fn operand(x: &[f32], precision: Precision) -> Vec<f64> {
    match precision {
        Precision::F32 => wide(x),
        Precision::Bf16 | Precision::Int8 => wide(&x.iter().map(|&x| bf16(x)).collect::<Vec<_>>()),
    }
}

/// `x · wᵀ` with a trainable matrix, or `residual + x · wᵀ`.
fn run(b: &dyn Backend, x: &[f32], w: &[f32], inner: usize, precision: Precision, family: Family) -> Vec<f32> {
    let (lab, count, out) = (Lab::new(b), x.len() / inner, w.len() / inner);
    let w = lab.keep(b.trainable_matrix(lab.floats(w), out, inner, precision).expect("a small matrix"));
    assert_eq!(b.matrix_shape(w), (out, inner));
    let y = lab.output(count * out);
    b.linear(y, lab.with_tail(x), w, Rows { count, family });
    lab.read_before_tail(y, count * out)
}

fn linear_forward(b: &dyn Backend) {
    for (rows, inner, out) in SIZES {
        let (x, w) = (random(1, rows * inner), random(2, out * inner));
        for precision in PRECISIONS {
            let want = linear(&operand(&x, precision), &operand(&w, precision), inner);
            for family in FAMILIES {
                let got = run(b, &x, &w, inner, precision, family);
                assert_close(&format!("{rows}×{inner}×{out} {precision:?} {family:?}"), &got, &want, 2e-6);
            }
        }
    }
}

fn linear_is_row_exact(b: &dyn Backend) {
    for (inner, out) in [(64, 48), (200, 77)] {
        let w = random(2, out * inner);
        for precision in PRECISIONS {
            for (family, rows) in [(Family::Prompt, 150), (Family::Prompt, 7), (Family::Generated, 16)] {
                let x = random(1, rows * inner);
                assert_row_exact(&format!("linear {precision:?} {family:?}"), rows, out, |range| {
                    run(b, &x[range.start * inner..range.end * inner], &w, inner, precision, family)
                });
            }
        }
    }
}

fn linear_adds(b: &dyn Backend) {
    let (rows, inner, out) = (5, 48, 40);
    let (x, w, residual) = (random(1, rows * inner), random(2, out * inner), random(3, rows * out));
    for precision in PRECISIONS {
        let product = linear(&operand(&x, precision), &operand(&w, precision), inner);
        let want: Vec<f64> = product.iter().zip(wide(&residual)).map(|(a, b)| a + b).collect();
        for family in FAMILIES {
            for in_place in [false, true] {
                let lab = Lab::new(b);
                let w = lab.keep(b.trainable_matrix(lab.floats(&w), out, inner, precision).expect("a small matrix"));
                let residual = lab.with_tail(&residual);
                let y = if in_place { residual } else { lab.output(rows * out) };
                b.linear_add(y, residual, lab.floats(&x), w, Rows { count: rows, family });
                assert_close("linear_add", &lab.read_before_tail(y, rows * out), &want, 2e-6);
            }
        }
    }
}

/// Inputs of a linear layer's backward.
struct Layer {
    inner: usize,
    out: usize,
    x: Vec<f32>,
    w: Vec<f32>,
    d_out: Vec<f32>,
    g_start: Vec<f32>,
}

impl Layer {
    fn new(rows: usize, inner: usize, out: usize) -> Self {
        let [w, g_start] = [1, 2].map(|seed| random(seed, out * inner));
        Self { inner, out, x: random(3, rows * inner), w, d_out: random(4, rows * out), g_start }
    }

    /// `d_x` of the rows of several ranges, computed one after the other, and `g_w` at the end.
    fn backward(&self, b: &dyn Backend, precision: Precision, ranges: &[Range<usize>]) -> (Vec<f32>, Vec<f32>) {
        let (lab, inner, out) = (Lab::new(b), self.inner, self.out);
        let w = lab.keep(b.trainable_matrix(lab.floats(&self.w), out, inner, precision).expect("a small matrix"));
        let g = lab.floats(&self.g_start);
        let mut all = Vec::new();
        for range in ranges {
            let rows = range.len();
            let x = lab.with_tail(&self.x[range.start * inner..range.end * inner]);
            let d_out = lab.with_tail(&self.d_out[range.start * out..range.end * out]);
            let d_x = lab.output(rows * inner);
            b.linear_backward(d_x, g, d_out, x, w, rows);
            all.extend(lab.read_before_tail(d_x, rows * inner));
        }
        (all, lab.read(g, out * inner))
    }
}

fn linear_backward(b: &dyn Backend) {
    for (rows, inner, out) in SIZES {
        let layer = Layer::new(rows, inner, out);
        for precision in PRECISIONS {
            let all = 0..rows;
            let (d_x, g) = layer.backward(b, precision, std::slice::from_ref(&all));
            let [x, w, d_out] = [&layer.x, &layer.w, &layer.d_out].map(|x| operand(x, precision));
            let what = format!("{rows}×{inner}×{out} {precision:?}");
            // d_x = d_out · w and g_w = d_outᵀ · x, both as x · wᵀ of transposes.
            assert_close(&format!("d_x {what}"), &d_x, &linear(&d_out, &transpose(&w, inner), out), 2e-6);
            let product = linear(&transpose(&d_out, out), &transpose(&x, inner), rows);
            let want: Vec<f64> = product.iter().zip(wide(&layer.g_start)).map(|(a, b)| a + b).collect();
            assert_close(&format!("g_w {what}"), &g, &want, 2e-6);
        }
    }
}

fn linear_backward_splits(b: &dyn Backend) {
    for (rows, cuts) in [(8, vec![0, 4, 8]), (96, vec![0, 32, 96]), (192, vec![0, 64, 128, 192])] {
        let layer = Layer::new(rows, 80, 72);
        for precision in PRECISIONS {
            let (all, parts) = (0..rows, cuts.windows(2).map(|cut| cut[0]..cut[1]).collect::<Vec<_>>());
            let (d_x, g) = layer.backward(b, precision, std::slice::from_ref(&all));
            let (split_d_x, split_g) = layer.backward(b, precision, &parts);
            assert_same(&format!("d_x {precision:?} {cuts:?}"), &split_d_x, &d_x);
            assert_same_sum("g_w", precision, &parts, &split_g, &g);
        }
    }
}

fn refresh_takes_new_values(b: &dyn Backend) {
    let (inner, out) = (32, 24);
    let (x, first, second) = (random(1, inner), random(2, out * inner), random(3, out * inner));
    for precision in PRECISIONS {
        let lab = Lab::new(b);
        let master = lab.floats(&first);
        let w = lab.keep(b.trainable_matrix(master, out, inner, precision).expect("a small matrix"));
        b.write(master, 0, &second);
        b.refresh(w);
        let y = lab.output(out);
        b.linear(y, lab.floats(&x), w, Rows::prompt(1));
        let want = linear(&operand(&x, precision), &operand(&second, precision), inner);
        assert_close("after refresh", &lab.read_before_tail(y, out), &want, 2e-6);
    }
}

/// The nearest f16 of a number that is one, or close to one (normal range only).
fn f16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let exponent = ((bits >> 23) & 0xFF) as i32 - 127 + 15;
    assert!(x == 0.0 || (1..31).contains(&exponent), "{x} is not in the normal range of f16");
    if x == 0.0 { 0 } else { ((bits >> 16) & 0x8000) as u16 | (exponent as u16) << 10 | ((bits >> 13) & 0x3FF) as u16 }
}

/// The product with a loaded matrix, at both precisions and in both families, against the decoded weights.
fn check_loaded(b: &dyn Backend, what: &str, parts: &[EncodedRows<'_>], decoded: &[f32], cols: usize) {
    let (rows, out) = (3, decoded.len() / cols);
    let x = random(7, rows * cols);
    for precision in PRECISIONS {
        for family in FAMILIES {
            let lab = Lab::new(b);
            let w = lab.keep(b.load_matrix(parts, cols, precision).expect("a small matrix"));
            assert_eq!(b.matrix_shape(w), (out, cols));
            let y = lab.output(rows * out);
            b.linear(y, lab.floats(&x), w, Rows { count: rows, family });
            let want = linear(&wide(&x), &wide(decoded), cols);
            // A backend may keep blocks as they are and round the other operand to eight bits a block.
            let tolerance = if precision == Precision::F32 { 2e-6 } else { 2e-2 };
            assert_close(&format!("{what} {precision:?} {family:?}"), &lab.read(y, rows * out), &want, tolerance);
        }
    }
    let lab = Lab::new(b);
    let table = lab.keep(b.load_matrix(parts, cols, Precision::F32).expect("a small matrix"));
    let embedded = lab.output(2 * cols);
    b.embed(embedded, lab.ids(&[out as u32 - 1, 1]), table, 2);
    let want = [&decoded[(out - 1) * cols..], &decoded[cols..2 * cols]].concat();
    assert_close(&format!("{what}, embedded"), &lab.read_before_tail(embedded, 2 * cols), &wide(&want), 1e-7);
}

fn loaded_floats(b: &dyn Backend) {
    let (rows, cols) = (9, 64);
    // Values with eight bits: exact in every encoding.
    let values: Vec<f32> = random(1, rows * cols).iter().map(|x| bf16(x.signum() * x.abs().max(1e-3))).collect();
    let f32_bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let bf16_bytes: Vec<u8> = values.iter().flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes()).collect();
    let f16_bytes: Vec<u8> = values.iter().flat_map(|&x| f16_bits(x).to_le_bytes()).collect();
    let whole = |encoding, bytes| EncodedRows { encoding, rows, bytes };
    check_loaded(b, "f32", &[whole(Encoding::F32, &f32_bytes)], &values, cols);
    check_loaded(b, "bf16", &[whole(Encoding::Bf16, &bf16_bytes)], &values, cols);
    check_loaded(b, "f16", &[whole(Encoding::F16, &f16_bytes)], &values, cols);
    let stacked = [
        EncodedRows { encoding: Encoding::Bf16, rows: 4, bytes: &bf16_bytes[..4 * cols * 2] },
        EncodedRows { encoding: Encoding::F32, rows: 2, bytes: &f32_bytes[4 * cols * 4..6 * cols * 4] },
        EncodedRows { encoding: Encoding::F16, rows: 3, bytes: &f16_bytes[6 * cols * 2..] },
    ];
    check_loaded(b, "stacked", &stacked, &values, cols);
}

fn loaded_blocks(b: &dyn Backend) {
    let (rows, cols) = (6, 96);
    let scales = [0.25, 0.5, 0.03125, 1.5];
    let levels = random(1, rows * cols);
    let (mut q8, mut q8_bytes, mut q4, mut q4_bytes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (block, levels) in levels.chunks(32).enumerate() {
        let scale = scales[block % scales.len()];
        let eight: Vec<i8> = levels.iter().map(|x| (x * 127.0) as i8).collect();
        q8.extend(eight.iter().map(|&q| f32::from(q) * scale));
        q8_bytes.extend(f16_bits(scale).to_le_bytes());
        q8_bytes.extend(eight.iter().map(|&q| q as u8));
        let four: Vec<u8> = levels.iter().map(|x| ((x + 1.0) * 7.99) as u8).collect();
        q4.extend(four.iter().map(|&q| (f32::from(q) - 8.0) * scale));
        q4_bytes.extend(f16_bits(scale).to_le_bytes());
        // Byte i holds elements i (low half) and i + 16.
        q4_bytes.extend((0..16).map(|i| four[i] | four[i + 16] << 4));
    }
    check_loaded(b, "q8_0", &[EncodedRows { encoding: Encoding::Q8_0, rows, bytes: &q8_bytes }], &q8, cols);
    check_loaded(b, "q4_0", &[EncodedRows { encoding: Encoding::Q4_0, rows, bytes: &q4_bytes }], &q4, cols);
}
