//! One round of speculation: the target reads the proposed tokens at once and keeps those it would have written.
//!
//! Greedy: the longest beginning of the proposal that equals the target's most likely tokens, and one more token.
//! Sampling (Leviathan et al., 2023, algorithm 1): with `p` the target's and `q` the draft's probabilities, both
//! warped by the same options, a proposed `x ~ q` is accepted if `u ≤ p(x)/q(x)`; the token after a rejection comes
//! from `norm(max(p − q, 0))`, the one after an accepted proposal from `p`. Either way the text is distributed as
//! without speculation. A proposal that was not drawn has `q(x) = 1`.

use crate::random::{Draw, uniform};
use crate::{Distribution, InferError, Logits, MAX_GENERATED_ROWS, Proposal, Sampler};

/// Most tokens of a proposal: they are verified with the token before them.
pub const MAX_DRAFT_LENGTH: usize = MAX_GENERATED_ROWS - 1;

/// What became of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Tokens of the proposal that were accepted, from the first.
    pub(crate) accepted: usize,
    /// The target's own token behind them; none behind a stop id.
    pub(crate) next: Option<u32>,
}

/// Verifies `proposal`, the continuation of `history`: `logits` has one row for the last token of `history` and one for
/// each proposed token. What was accepted, and the target's own token, are appended to `history`.
pub(crate) fn verify(
    sampler: &mut Sampler,
    logits: Logits<'_>,
    history: &mut Vec<u32>,
    proposal: &Proposal,
    stop: &[u32],
) -> Result<Verdict, InferError> {
    for (index, &id) in proposal.ids.iter().enumerate() {
        let row = logits.row(index);
        let own = if sampler.is_greedy() {
            sampler.sample(row, history)?
        } else {
            judge(sampler, row, history, id, proposal.distributions.get(index))?
        };
        history.push(own);
        if own != id {
            return Ok(Verdict { accepted: index, next: Some(own) });
        }
        if stop.contains(&id) {
            return Ok(Verdict { accepted: index + 1, next: None });
        }
    }
    let accepted = proposal.ids.len();
    let next = sampler.sample(logits.row(accepted), history)?;
    history.push(next);
    Ok(Verdict { accepted, next: Some(next) })
}

/// `id` if it is accepted, another token if not. `q` is what `id` was drawn from; `None` if it was certain.
fn judge(
    sampler: &mut Sampler,
    row: &[f32],
    history: &[u32],
    id: u32,
    q: Option<&Distribution>,
) -> Result<u32, InferError> {
    let (seed, position) = (sampler.options().seed, history.len());
    let p = sampler.distribution(row, history)?;
    let q_id = q.map_or(1.0, |q| q.probability(id));
    if uniform(seed, Draw::Accept, position) * q_id < p.probability(id) {
        return Ok(id);
    }
    let residual = match q {
        Some(q) => p.residual(q),
        None => p.residual(&Distribution::certain(id)),
    };
    // Rejected though p = q but for rounding: then p is as good as the residual.
    Ok(residual.unwrap_or(p).draw(uniform(seed, Draw::Token, position)))
}

#[cfg(test)]
mod tests;
