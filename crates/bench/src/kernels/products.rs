//! Products of a training step: `x · wᵀ`, and the gradients by `x` and by `w`; attention; the loss.

use super::{Buffers, Case, Found, in_gigaflops, of_gigaflops, seconds_a_call};
use crate::BenchError;
use crate::bench::Bench;
use crate::decode::name;
use crate::measure::token_ids;
use backend::{Backend, Heads, Precision, Rows, Sequences};

/// `(what, output features, input features)` of the products of AMD-135M.
pub(super) const MATRICES: [(&str, usize, usize); 5] =
    [("qkv", 2304, 768), ("attention out", 768, 768), ("gate and up", 4096, 768), ("down", 768, 2048), HEAD];
const HEAD: (&str, usize, usize) = ("head", 32000, 768);
const HEADS: Heads = Heads { heads: 12, kv_heads: 12, head_dim: 64 };
/// Rows of a micro-batch of one and of four sequences.
const ROWS: [usize; 2] = [1024, 4096];
/// Tokens of a sequence.
const TOKENS: usize = 1024;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for precision in [Precision::Bf16, Precision::F32] {
        for (what, outputs, inputs) in MATRICES {
            // The head of a training batch is computed in parts, with its loss.
            for rows in ROWS.into_iter().filter(|&rows| what != HEAD.0 || rows == TOKENS) {
                let shape = |product| format!("{product} {rows} × {inputs} → {outputs}");
                let push =
                    |cases: &mut Vec<Case>, shape, measure: fn(&Bench<'_>, Product) -> Result<Found, BenchError>| {
                        let product = Product { precision, rows, outputs, inputs };
                        cases.push(case(what, shape, precision, move |bench| measure(bench, product)));
                    };
                push(&mut cases, shape("y"), forward);
                push(&mut cases, shape("d_x"), by_input);
                push(&mut cases, shape("d_w"), by_weight);
            }
        }
        let (rows, (_, outputs, inputs)) = (TOKENS, HEAD);
        let product = Product { precision, rows, outputs, inputs };
        let shape = || format!("{rows} × {inputs} → {outputs}");
        cases.push(case("attention", format!("1 × {TOKENS}"), precision, move |bench| attention(bench, precision)));
        cases.push(case("attention back", format!("1 × {TOKENS}"), precision, move |bench| {
            attention_backward(bench, precision)
        }));
        cases.push(case("head loss", shape(), precision, move |bench| head_loss(bench, product)));
        cases.push(case("head loss back", shape(), precision, move |bench| head_loss_backward(bench, product)));
    }
    cases
}

fn case(
    name_: &'static str,
    shape: String,
    precision: Precision,
    measure: impl Fn(&Bench<'_>) -> Result<Found, BenchError> + 'static,
) -> Case {
    Case { name: name_, shape, dtype: name(precision), unit: "GFLOP/s", measure: Box::new(measure) }
}

#[derive(Clone, Copy)]
struct Product {
    precision: Precision,
    rows: usize,
    outputs: usize,
    inputs: usize,
}

impl Product {
    fn flops(self) -> f64 {
        2.0 * (self.rows * self.outputs * self.inputs) as f64
    }
}

fn forward(bench: &Bench<'_>, product: Product) -> Result<Found, BenchError> {
    let Product { precision, rows, outputs, inputs } = product;
    let (b, buffers) = (bench.cpu, Buffers::new(bench.cpu));
    let (x, out) = (buffers.noise(rows * inputs)?, buffers.noise(rows * outputs)?);
    let w = b.trainable_matrix(buffers.noise(outputs * inputs)?, outputs, inputs, precision)?;
    let found = in_gigaflops(bench, precision, product.flops(), || b.linear(out, x, w, Rows::prompt(rows)));
    b.free_matrix(w);
    found
}

/// `d_out · w` is the product with the transposed matrix.
fn by_input(bench: &Bench<'_>, product: Product) -> Result<Found, BenchError> {
    forward(bench, Product { outputs: product.inputs, inputs: product.outputs, ..product })
}

/// What a backward pass takes beyond [`by_input`], run by run.
fn by_weight(bench: &Bench<'_>, product: Product) -> Result<Found, BenchError> {
    let Product { precision, rows, outputs, inputs } = product;
    let (b, buffers) = (bench.cpu, Buffers::new(bench.cpu));
    let (x, d_x, d_out) =
        (buffers.noise(rows * inputs)?, buffers.noise(rows * inputs)?, buffers.noise(rows * outputs)?);
    let (master, g_w) = (buffers.noise(outputs * inputs)?, buffers.noise(outputs * inputs)?);
    let w = b.trainable_matrix(master, outputs, inputs, precision)?;
    let transposed = b.trainable_matrix(master, inputs, outputs, precision)?;
    let both = seconds_a_call(bench, || b.linear_backward(d_x, g_w, d_out, x, w, rows))?;
    let one = seconds_a_call(bench, || b.linear(d_x, d_out, transposed, Rows::prompt(rows)))?;
    [w, transposed].into_iter().for_each(|matrix| b.free_matrix(matrix));
    let seconds: Vec<_> = both.iter().zip(&one).map(|(both, one)| (both - one).max(0.1 * both)).collect();
    Ok(of_gigaflops(bench, precision, product.flops(), &seconds))
}

/// Operations of attention over one sequence: two products over the scores that are seen.
fn attention_flops() -> f64 {
    4.0 * (TOKENS * (TOKENS + 1) / 2 * HEADS.query_width()) as f64
}

fn attention(bench: &Bench<'_>, precision: Precision) -> Result<Found, BenchError> {
    let (b, buffers) = (bench.cpu, Buffers::new(bench.cpu));
    let qkv = buffers.noise(TOKENS * HEADS.qkv_width())?;
    let (out, logsumexp) = (buffers.noise(TOKENS * HEADS.query_width())?, buffers.noise(TOKENS * HEADS.heads)?);
    let sequences = Sequences { batch: 1, tokens: TOKENS };
    in_gigaflops(bench, precision, attention_flops(), || {
        b.attention(out, logsumexp, qkv, sequences, HEADS, None, precision);
    })
}

/// Four products; that of the scores, a fifth, is a recomputation and not counted.
fn attention_backward(bench: &Bench<'_>, precision: Precision) -> Result<Found, BenchError> {
    let (b, buffers) = (bench.cpu, Buffers::new(bench.cpu));
    let (qkv, d_qkv) = (buffers.noise(TOKENS * HEADS.qkv_width())?, buffers.noise(TOKENS * HEADS.qkv_width())?);
    let (out, d_out) = (buffers.noise(TOKENS * HEADS.query_width())?, buffers.noise(TOKENS * HEADS.query_width())?);
    let logsumexp = buffers.noise(TOKENS * HEADS.heads)?;
    let sequences = Sequences { batch: 1, tokens: TOKENS };
    b.attention(out, logsumexp, qkv, sequences, HEADS, None, precision);
    in_gigaflops(bench, precision, 2.0 * attention_flops(), || {
        b.attention_backward(d_qkv, d_out, out, logsumexp, qkv, sequences, HEADS, None, precision);
    })
}

fn head_loss(bench: &Bench<'_>, product: Product) -> Result<Found, BenchError> {
    let Product { precision, rows, outputs, inputs } = product;
    let (b, buffers) = (bench.cpu, Buffers::new(bench.cpu));
    let (x, losses, targets) =
        (buffers.noise(rows * inputs)?, buffers.noise(rows)?, buffers.ids(&token_ids(rows, outputs))?);
    let head = b.trainable_matrix(buffers.noise(outputs * inputs)?, outputs, inputs, precision)?;
    let found = in_gigaflops(bench, precision, product.flops(), || b.head_loss(losses, x, head, targets, rows));
    b.free_matrix(head);
    found
}

/// Three products.
fn head_loss_backward(bench: &Bench<'_>, product: Product) -> Result<Found, BenchError> {
    let Product { precision, rows, outputs, inputs } = product;
    let (b, buffers) = (bench.cpu, Buffers::new(bench.cpu));
    let (x, d_x) = (buffers.noise(rows * inputs)?, buffers.noise(rows * inputs)?);
    let (losses, targets) = (buffers.noise(rows)?, buffers.ids(&token_ids(rows, outputs))?);
    let (master, g_head) = (buffers.noise(outputs * inputs)?, buffers.noise(outputs * inputs)?);
    let head = b.trainable_matrix(master, outputs, inputs, precision)?;
    let found = in_gigaflops(bench, precision, 3.0 * product.flops(), || {
        b.head_loss_backward(losses, d_x, g_head, x, head, targets, 1e-3, rows);
    });
    b.free_matrix(head);
    found
}
