//! Reading a prompt.

use crate::decode::name;
use crate::measure::{Measurement, Types, rate, token_ids};
use crate::{BenchError, Ceilings};
use cpu::Cpu;
use infer::Session;
use model::{Model, cost};

/// Tokens per second of reading a prompt of `tokens` tokens; logits of the last one only.
///
/// # Errors
/// Where the session cannot be opened, more tokens than the model's context among them.
pub fn prefill(
    cpu: &Cpu,
    ceilings: &Ceilings,
    model: &Model,
    types: Types,
    tokens: usize,
    runs: usize,
) -> Result<Measurement, BenchError> {
    let ids = token_ids(tokens, model.config.vocab);
    let mut session = Session::with_cache(cpu, model, tokens, types.kv_type)?;
    let statistics = rate(tokens as f64, runs, || {
        session.truncate(0);
        session.prefill(&ids).map(drop)
    })?;
    let counts = cost::parameters(&model.config);
    let head = 2.0 * counts.embedding as f64;
    let flops = cost::flops_per_token(&model.config, tokens).forward - head + head / tokens as f64;
    let ceiling = ceilings.by_arithmetic(types.precision, flops);
    let shape = format!("{tokens} tokens");
    let dtype = name(types.precision);
    let line = Measurement::new(cpu, "prefill", shape, dtype, "tokens/s", runs, statistics, Some(ceiling));
    Ok(line.with_cache(types.kv_type))
}
