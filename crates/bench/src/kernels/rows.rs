//! Products of one to sixteen generated rows, whose weights come from memory as they do in a decoded token.

use super::products::MATRICES;
use super::{Buffers, Case, Found, in_gigabytes, noise};
use crate::BenchError;
use crate::bench::Bench;
use backend::{Backend, EncodedRows, Encoding, Matrix, Precision, Rows};

/// Rows at once: one that is decoded, several that are verified.
const ROWS: [usize; 5] = [1, 2, 4, 8, 16];

/// Weights that a token of AMD-135M is multiplied with.
const WEIGHTS: usize = 109_500_000;

/// How weights are stored and multiplied.
const FORMS: [(&str, Encoding, Precision); 5] = [
    ("bf16", Encoding::F32, Precision::Bf16),
    ("f32", Encoding::F32, Precision::F32),
    ("q8_0", Encoding::Q8_0, Precision::Int8),
    ("q4_0", Encoding::Q4_0, Precision::Int8),
    ("q4_k", Encoding::Q4K, Precision::Int8),
];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (dtype, encoding, precision) in FORMS {
        for (name, outputs, inputs) in MATRICES {
            for rows in ROWS {
                let measure = move |bench: &Bench<'_>| product(bench, (encoding, precision), rows, outputs, inputs);
                let shape = format!("{rows} × {inputs} → {outputs}");
                cases.push(Case { name, shape, dtype, unit: "GB/s", measure: Box::new(measure) });
            }
        }
    }
    cases
}

/// Copies of one matrix, together as large as a model's, each multiplied once a call.
fn product(
    bench: &Bench<'_>,
    (encoding, precision): (Encoding, Precision),
    rows: usize,
    outputs: usize,
    inputs: usize,
) -> Result<Found, BenchError> {
    let (b, buffers) = (bench.cpu, Buffers::new(bench.cpu));
    let bytes = encoded(encoding, outputs * inputs);
    let part = EncodedRows { encoding, rows: outputs, bytes: &bytes };
    let load = |_| b.load_matrix(&[part], inputs, precision);
    let copies = (0..WEIGHTS.div_ceil(outputs * inputs)).map(load).collect::<Result<Vec<Matrix>, _>>()?;
    let (x, out) = (buffers.noise(rows * inputs)?, buffers.noise(rows * outputs)?);
    let bytes: usize = copies.iter().map(|&copy| b.matrix_bytes(copy)).sum();
    let flops = 2.0 * (rows * outputs * inputs * copies.len()) as f64;
    let found = in_gigabytes(bench, bytes as f64, Some((precision, flops)), || {
        copies.iter().for_each(|&w| b.linear(out, x, w, Rows::generated(rows)));
    });
    copies.into_iter().for_each(|matrix| b.free_matrix(matrix));
    found
}

/// `len` weights that follow no pattern; blocks have small scales, since any bits make an integer but not any a number.
fn encoded(encoding: Encoding, len: usize) -> Vec<u8> {
    /// A hundredth, about, in IEEE half.
    const SCALE: [u8; 2] = [0x1f, 0x21];
    let (weights, bytes, scales) = match encoding {
        Encoding::Q8_0 => (32, 34, 1),
        Encoding::Q4_0 => (32, 18, 1),
        Encoding::Q4K => (256, 144, 2),
        _ => return noise(len).iter().flat_map(|value| value.to_le_bytes()).collect(),
    };
    let mut encoded: Vec<u8> = noise(len / weights * bytes).iter().map(|value| (value * 127.0) as i8 as u8).collect();
    for block in encoded.chunks_exact_mut(bytes) {
        block[..2 * scales].copy_from_slice(&SCALE.repeat(scales));
    }
    encoded
}
