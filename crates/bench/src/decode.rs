//! Decoding one token after the other, and verifying several at once.

use crate::measure::{Measurement, Statistics, Types, rate, token_ids};
use crate::{BenchError, Ceilings};
use backend::{Backend, KvType, Precision};
use cpu::Cpu;
use infer::Session;
use model::{Model, cost};

/// Tokens per second of decoding `tokens` tokens behind a context of `depth`.
///
/// # Errors
/// Where the session cannot be opened, a depth beyond the model's context among them.
pub fn decode(
    cpu: &Cpu,
    ceilings: &Ceilings,
    model: &Model,
    types: Types,
    depth: usize,
    tokens: usize,
    runs: usize,
) -> Result<Measurement, BenchError> {
    let ids = token_ids(depth.max(1) + tokens, model.config.vocab);
    let (context, generated) = ids.split_at(depth.max(1));
    let mut session = Session::with_cache(cpu, model, ids.len(), types.kv_type)?;
    session.prefill(context)?;
    let statistics = rate(tokens as f64, runs, || {
        session.truncate(context.len());
        generated.iter().try_for_each(|&id| session.extend(&[id]).map(drop))
    })?;
    let middle = context.len() + tokens / 2;
    let ceiling = ceilings.by_reading(bytes_read(cpu, model, types.kv_type, middle));
    let shape = format!("depth {depth}, {tokens} tokens");
    let dtype = name(types.precision);
    let line = Measurement::new(cpu, "decode", shape, dtype, "tokens/s", runs, statistics, Some(ceiling));
    Ok(line.with_cache(types.kv_type))
}

/// Milliseconds of one pass over each of `widths` generated rows.
///
/// # Errors
/// As [`decode`].
pub fn verify(
    cpu: &Cpu,
    ceilings: &Ceilings,
    model: &Model,
    types: Types,
    widths: &[usize],
    runs: usize,
) -> Result<Vec<Measurement>, BenchError> {
    const DEPTH: usize = 64;
    const PASSES: usize = 8;
    let most = widths.iter().copied().max().unwrap_or(1);
    let ids = token_ids(DEPTH + most, model.config.vocab);
    let mut session = Session::with_cache(cpu, model, ids.len(), types.kv_type)?;
    session.prefill(&ids[..DEPTH])?;
    let mut measured = Vec::with_capacity(widths.len());
    for &rows in widths {
        let passes = rate(PASSES as f64, runs, || {
            (0..PASSES).try_for_each(|_| {
                session.truncate(DEPTH);
                session.extend(&ids[DEPTH..DEPTH + rows]).map(drop)
            })
        })?;
        let milliseconds = Statistics { median: 1e3 / passes.median, min: 1e3 / passes.max, max: 1e3 / passes.min };
        let shape = format!("{rows} rows at depth {DEPTH}");
        let dtype = name(types.precision);
        let mut line = Measurement::new(cpu, "verify", shape, dtype, "ms", runs, milliseconds, None);
        let least = 1e3 / ceilings.by_reading(bytes_read(cpu, model, types.kv_type, DEPTH)).value;
        line.ceiling = Some(least);
        line.ceiling_by = Some(ceilings.by_reading(1.0).by);
        line.share_of_ceiling = Some(least / milliseconds.median);
        measured.push(line.with_cache(types.kv_type));
    }
    Ok(measured)
}

/// Bytes that one decoded token must read: every matrix but the input embedding once, and the cache.
fn bytes_read(cpu: &Cpu, model: &Model, kv_type: KvType, context: usize) -> f64 {
    let blocks = model.blocks.iter().flat_map(|block| [block.qkv, block.attention_out, block.gate_up, block.down]);
    let weights: usize = blocks.chain([model.head]).map(|matrix| cpu.matrix_bytes(matrix)).sum();
    weights as f64 + context as f64 * cost::cached_bytes_per_position(&model.config, kv_type) as f64
}

pub(crate) fn name(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => "f32",
        Precision::Bf16 => "bf16",
        Precision::Int8 => "int8",
    }
}
