//! The machine's ceilings, and the matrix product's share of them at the shapes of AMD-135M.

use crate::BenchError;
use crate::bench::{Bench, Subject};
use crate::ceiling::{Moment, by_reading};
use crate::decode::name;
use crate::measure::{Measurement, Statistics};
use backend::{Backend, Element, Precision, Rows};
use cpu::ceiling;

/// `(what, output features, input features)` of the products of AMD-135M.
const PRODUCTS: [(&str, usize, usize); 5] = [
    ("qkv", 2304, 768),
    ("attention out", 768, 768),
    ("gate and up", 4096, 768),
    ("down", 768, 2048),
    ("head", 32000, 768),
];

/// Rows of a training micro-batch, and one generated row.
const ROWS: [usize; 2] = [1024, 1];

/// The ceilings as lines of their own, then forward products in both precisions.
///
/// # Errors
/// No memory.
pub fn kernels(bench: &Bench<'_>) -> Result<Vec<Measurement>, BenchError> {
    let mut lines = ceiling_lines(bench);
    for precision in [Precision::Bf16, Precision::F32] {
        for (what, outputs, inputs) in PRODUCTS {
            for rows in ROWS {
                lines.push(product(bench, precision, what, rows, outputs, inputs)?);
            }
        }
    }
    Ok(lines)
}

fn ceiling_lines(bench: &Bench<'_>) -> Vec<Measurement> {
    let line = |name, shape: String, dtype, unit, value| {
        let once = Statistics { median: value, min: value, max: value };
        bench.line(Subject { name, shape, dtype, unit, step: "" }, once, None)
    };
    let registers = || "registers only".to_owned();
    let mut lines = vec![
        line("f32 multiply-add", registers(), "f32", "GFLOP/s", bench.ceilings.f32_flops / 1e9),
        line("bf16 dot product", registers(), "bf16", "GFLOP/s", bench.ceilings.bf16_flops / 1e9),
    ];
    for mebibytes in [4, 16, 64, 256] {
        let bandwidth = ceiling::read_bandwidth(bench.cpu.pool(), mebibytes << 20) / 1e9;
        lines.push(line("read", format!("{mebibytes} MiB"), "bytes", "GB/s", bandwidth));
    }
    lines
}

fn product(
    bench: &Bench<'_>,
    precision: Precision,
    what: &str,
    rows: usize,
    outputs: usize,
    inputs: usize,
) -> Result<Measurement, BenchError> {
    let cpu = bench.cpu;
    let master = cpu.alloc(Element::F32, outputs * inputs)?;
    let (x, out) = (cpu.alloc(Element::F32, rows * inputs)?, cpu.alloc(Element::F32, rows * outputs)?);
    cpu.write(master, 0, &noise(outputs * inputs));
    cpu.write(x, 0, &noise(rows * inputs));
    let matrix = cpu.trainable_matrix(master, outputs, inputs, precision)?;
    let flops = 2.0 * (rows * outputs * inputs) as f64;
    let repeats = ((2e9 / flops) as usize).clamp(1, 400);
    let shape = if rows == 1 { Rows::generated(1) } else { Rows::prompt(rows) };
    let seconds = bench.seconds(|| -> Result<(), BenchError> {
        (0..repeats).for_each(|_| cpu.linear(out, x, matrix, shape));
        cpu.sync();
        Ok(())
    })?;
    let statistics = Statistics::of_rates(repeats as f64, &seconds);
    let ceiling = if rows == 1 {
        // The matrix is read again and again, so it is the bandwidth of its own size that limits it.
        let bytes = cpu.matrix_bytes(matrix) as f64;
        by_reading(Moment::now(cpu, bytes).bandwidth, bytes)
    } else {
        bench.ceilings.by_arithmetic(precision, flops)
    };
    cpu.free_matrix(matrix);
    [master, x, out].into_iter().for_each(|buf| cpu.free(buf));
    let shape = format!("{rows} × {inputs} → {outputs}");
    let subject = Subject { name: what, shape, dtype: name(precision), unit: "products/s", step: "" };
    let mut line = bench.line(subject, statistics, Some(ceiling));
    if rows > 1 {
        in_gigaflops(&mut line, flops);
    }
    Ok(line)
}

fn in_gigaflops(line: &mut Measurement, flops: f64) {
    let scale = flops / 1e9;
    line.median *= scale;
    line.min *= scale;
    line.max *= scale;
    line.ceiling = line.ceiling.map(|ceiling| ceiling * scale);
    line.unit = "GFLOP/s".into();
}

/// Floats between −1 and 1, the same in every run: products of zeros are faster than products of numbers.
fn noise(len: usize) -> Vec<f32> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}
