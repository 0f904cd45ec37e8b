//! Reading a prompt.

use crate::BenchError;
use crate::bench::{Bench, Outcome, Subject};
use crate::decode::dtype;
use crate::measure::{Types, token_ids};
use infer::Session;
use model::{Model, cost};

/// Tokens per second of reading a prompt of `tokens` tokens; logits of the last one only.
///
/// # Errors
/// Where the session cannot be opened, more tokens than the model's context among them.
pub fn prefill(bench: &Bench<'_>, model: &Model, types: Types, tokens: usize) -> Result<Outcome, BenchError> {
    let ids = token_ids(tokens, model.config.vocab);
    let mut session = Session::with_cache(bench.backend(), model, tokens, types.kv_type)?;
    let counts = cost::parameters(&model.config);
    let head = 2.0 * counts.embedding as f64;
    let flops = cost::flops_per_token(&model.config, tokens).forward - head + head / tokens as f64;
    let ceiling = bench.ceilings.by_arithmetic(types.precision, flops);
    let subject = Subject {
        name: "prefill",
        shape: format!("{tokens} tokens"),
        dtype: &dtype(model, types.precision),
        unit: "tokens/s",
        step: "prompt",
    };
    let outcome = bench.by_arithmetic(subject, tokens as f64, ceiling, || {
        bench.seconds(|| {
            session.truncate(0);
            Ok(session.prefill(&ids).map(drop)?)
        })
    })?;
    Ok(outcome.with_cache(types.kv_type))
}
