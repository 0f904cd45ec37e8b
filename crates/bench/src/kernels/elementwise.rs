//! What memory limits: the optimizer, norms, activations, rotary turns, lookups, at the sizes of a micro-batch of four
//! sequences.

use super::{Buffers, Case, Found, in_gigabytes};
use crate::BenchError;
use crate::bench::Bench;
use crate::measure::token_ids;
use backend::{AdamW, Backend, Heads, Precision};

const ROWS: usize = 4096;
const WIDTH: usize = 768;
const FFN_WIDTH: usize = 2048;
const VOCAB: usize = 32_000;
const HEADS: Heads = Heads { heads: 12, kv_heads: 12, head_dim: 64 };

pub(super) fn cases() -> Vec<Case> {
    let case = |name, shape, measure: fn(&Bench<'_>) -> Result<Found, BenchError>| Case {
        name,
        shape,
        dtype: "f32",
        unit: "GB/s",
        measure: Box::new(measure),
    };
    let width = || format!("{ROWS} × {WIDTH}");
    vec![
        case("adamw", format!("{} weights", VOCAB * WIDTH), adamw),
        case("sum of squares", format!("{} floats", VOCAB * WIDTH), sum_of_squares),
        case("rmsnorm", width(), rmsnorm),
        case("rmsnorm back", width(), rmsnorm_backward),
        case("swiglu", format!("{ROWS} × {FFN_WIDTH}"), swiglu),
        case("swiglu back", format!("{ROWS} × {FFN_WIDTH}"), swiglu_backward),
        case("rope", format!("{ROWS} × {}", HEADS.qkv_width()), rope),
        case("embed", width(), embed),
        case("embed back", width(), embed_backward),
    ]
}

/// The rate of an operation that reads and writes `floats` floats.
fn moving(bench: &Bench<'_>, floats: usize, work: impl FnMut()) -> Result<Found, BenchError> {
    in_gigabytes(bench, 4.0 * floats as f64, None, work)
}

fn adamw(bench: &Bench<'_>) -> Result<Found, BenchError> {
    let (b, buffers, len) = (bench.cpu, Buffers::new(bench.cpu), VOCAB * WIDTH);
    let (weights, gradient, m, v) =
        (buffers.noise(len)?, buffers.noise(len)?, buffers.noise(len)?, buffers.noise(len)?);
    b.fill(v, 1.0);
    let step = AdamW {
        learning_rate: 1e-4,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        step: 10,
        gradient_scale: 0.5,
    };
    moving(bench, 7 * len, || b.adamw(weights, gradient, m, v, &step))
}

fn sum_of_squares(bench: &Bench<'_>) -> Result<Found, BenchError> {
    let (b, buffers, len) = (bench.cpu, Buffers::new(bench.cpu), VOCAB * WIDTH);
    let x = buffers.noise(len)?;
    moving(bench, len, || _ = std::hint::black_box(b.sum_of_squares(x)))
}

fn rmsnorm(bench: &Bench<'_>) -> Result<Found, BenchError> {
    let (b, buffers) = (bench.cpu, Buffers::new(bench.cpu));
    let (x, out, rstd) = (buffers.noise(ROWS * WIDTH)?, buffers.noise(ROWS * WIDTH)?, buffers.noise(ROWS)?);
    let weight = buffers.noise(WIDTH)?;
    moving(bench, 2 * ROWS * WIDTH, || b.rmsnorm(out, rstd, x, weight, 1e-5, ROWS))
}

fn rmsnorm_backward(bench: &Bench<'_>) -> Result<Found, BenchError> {
    let (b, buffers) = (bench.cpu, Buffers::new(bench.cpu));
    let (x, d_out) = (buffers.noise(ROWS * WIDTH)?, buffers.noise(ROWS * WIDTH)?);
    let (d_x, d_residual) = (buffers.noise(ROWS * WIDTH)?, buffers.noise(ROWS * WIDTH)?);
    let (rstd, weight, g_weight) = (buffers.noise(ROWS)?, buffers.noise(WIDTH)?, buffers.noise(WIDTH)?);
    moving(bench, 4 * ROWS * WIDTH, || {
        b.rmsnorm_backward_add(d_x, g_weight, d_residual, d_out, x, rstd, weight, ROWS);
    })
}

fn swiglu(bench: &Bench<'_>) -> Result<Found, BenchError> {
    let (b, buffers) = (bench.cpu, Buffers::new(bench.cpu));
    let (out, gate_up) = (buffers.noise(ROWS * FFN_WIDTH)?, buffers.noise(2 * ROWS * FFN_WIDTH)?);
    moving(bench, 3 * ROWS * FFN_WIDTH, || b.swiglu(out, gate_up, FFN_WIDTH, ROWS))
}

fn swiglu_backward(bench: &Bench<'_>) -> Result<Found, BenchError> {
    let (b, buffers) = (bench.cpu, Buffers::new(bench.cpu));
    let (d_out, gate_up) = (buffers.noise(ROWS * FFN_WIDTH)?, buffers.noise(2 * ROWS * FFN_WIDTH)?);
    let d_gate_up = buffers.noise(2 * ROWS * FFN_WIDTH)?;
    moving(bench, 5 * ROWS * FFN_WIDTH, || b.swiglu_backward(d_gate_up, d_out, gate_up, FFN_WIDTH, ROWS))
}

fn rope(bench: &Bench<'_>) -> Result<Found, BenchError> {
    let (b, buffers) = (bench.cpu, Buffers::new(bench.cpu));
    let qkv = buffers.noise(ROWS * HEADS.qkv_width())?;
    let table = buffers.noise(ROWS * HEADS.head_dim)?;
    // True angles, so that numbers neither grow nor shrink into the slow subnormal range, however often they turn.
    let angles: Vec<f32> = (0..ROWS)
        .flat_map(|row| [f32::cos, f32::sin].map(|turn| vec![turn(row as f32); HEADS.head_dim / 2]))
        .flatten()
        .collect();
    b.write(table, 0, &angles);
    let positions = buffers.ids(&(0..ROWS as u32).collect::<Vec<_>>())?;
    moving(bench, 2 * ROWS * (HEADS.query_width() + HEADS.kv_width()), || {
        b.rope(qkv, table, positions, HEADS, ROWS);
    })
}

fn embed(bench: &Bench<'_>) -> Result<Found, BenchError> {
    let (b, buffers) = (bench.cpu, Buffers::new(bench.cpu));
    let (out, ids) = (buffers.noise(ROWS * WIDTH)?, buffers.ids(&token_ids(ROWS, VOCAB))?);
    let table = b.trainable_matrix(buffers.noise(VOCAB * WIDTH)?, VOCAB, WIDTH, Precision::F32)?;
    let found = moving(bench, 2 * ROWS * WIDTH, || b.embed(out, ids, table, ROWS));
    b.free_matrix(table);
    found
}

fn embed_backward(bench: &Bench<'_>) -> Result<Found, BenchError> {
    let (b, buffers) = (bench.cpu, Buffers::new(bench.cpu));
    let (d_out, ids) = (buffers.noise(ROWS * WIDTH)?, buffers.ids(&token_ids(ROWS, VOCAB))?);
    let g_table = buffers.noise(VOCAB * WIDTH)?;
    moving(bench, 3 * ROWS * WIDTH, || b.embed_backward(g_table, d_out, ids, WIDTH, ROWS))
}
