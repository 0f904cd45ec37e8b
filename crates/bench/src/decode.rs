//! Decoding one token after the other, and verifying several at once.

use crate::BenchError;
use crate::bench::{Bench, Outcome, Subject};
use crate::measure::{Measurement, Types, token_ids};
use backend::{Backend, KvType, Precision};
use cpu::Cpu;
use infer::Session;
use model::{Model, cost};

/// Tokens per second of decoding `tokens` tokens behind a context of `depth`.
///
/// # Errors
/// Where the session cannot be opened, a depth beyond the model's context among them.
pub fn decode(
    bench: &Bench<'_>,
    model: &Model,
    types: Types,
    depth: usize,
    tokens: usize,
) -> Result<Outcome, BenchError> {
    let ids = token_ids(depth.max(1) + tokens, model.config.vocab);
    let (context, generated) = ids.split_at(depth.max(1));
    let mut session = Session::with_cache(bench.backend(), model, ids.len(), types.kv_type)?;
    session.prefill(context)?;
    let bytes = bytes_read(bench.cpu, model, types.kv_type, context.len() + tokens / 2);
    let subject = Subject {
        name: "decode",
        shape: format!("depth {depth}, {tokens} tokens"),
        dtype: &dtype(model, types.precision),
        unit: "tokens/s",
        step: "token",
    };
    let outcome = bench.by_reading(subject, tokens as f64, bytes, || {
        session.truncate(context.len());
        Ok(generated.iter().try_for_each(|&id| session.extend(&[id]).map(drop))?)
    })?;
    Ok(outcome.with_cache(types.kv_type))
}

/// Milliseconds of one pass over each of `widths` generated rows.
///
/// # Errors
/// As [`decode`].
pub fn verify(
    bench: &Bench<'_>,
    model: &Model,
    types: Types,
    widths: &[usize],
) -> Result<Vec<Measurement>, BenchError> {
    const DEPTH: usize = 64;
    const PASSES: usize = 8;
    let most = widths.iter().copied().max().unwrap_or(1);
    let ids = token_ids(DEPTH + most, model.config.vocab);
    let mut session = Session::with_cache(bench.backend(), model, ids.len(), types.kv_type)?;
    session.prefill(&ids[..DEPTH])?;
    let bytes = bytes_read(bench.cpu, model, types.kv_type, DEPTH);
    let mut measured = Vec::with_capacity(widths.len());
    for &rows in widths {
        let subject = Subject {
            name: "verify",
            shape: format!("{rows} rows at depth {DEPTH}"),
            dtype: &dtype(model, types.precision),
            unit: "passes/s",
            step: "pass",
        };
        let Outcome { line, .. } = bench.by_reading(subject, PASSES as f64, bytes, || {
            (0..PASSES).try_for_each(|_| {
                session.truncate(DEPTH);
                Ok(session.extend(&ids[DEPTH..DEPTH + rows]).map(drop)?)
            })
        })?;
        measured.push(line.in_milliseconds().with_cache(types.kv_type));
    }
    Ok(measured)
}

/// Bytes that one decoded token must read: every matrix but the input embedding once, and the cache.
fn bytes_read(cpu: &Cpu, model: &Model, kv_type: KvType, context: usize) -> f64 {
    let blocks = model
        .blocks
        .iter()
        .flat_map(|block| [block.qkv, block.attention_out, block.gate_up, block.down].map(|w| w.matrix));
    let weights: usize = blocks.chain([model.head]).map(|matrix| cpu.matrix_bytes(matrix)).sum();
    weights as f64 + context as f64 * cost::cached_bytes_per_position(&model.config, kv_type) as f64
}

/// How products are computed, and beside 8-bit ones of what.
pub(crate) fn dtype(model: &Model, precision: Precision) -> String {
    match precision {
        Precision::Int8 => format!("int8 ({})", model.encoding.name().to_lowercase()),
        precision => name(precision).into(),
    }
}

pub(crate) fn name(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => "f32",
        Precision::Bf16 => "bf16",
        Precision::Int8 => "int8",
    }
}
