//! The operations in f64, as plainly as they can be written, and finite differences.

use crate::{Divergence, Heads, LEAST_PROBABILITY, NO_TARGET, Sequences};

/// `x · wᵀ`, `w` being `out × inner`.
pub(super) fn linear(x: &[f64], w: &[f64], inner: usize) -> Vec<f64> {
    let dot = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
    x.chunks(inner).flat_map(|x| w.chunks(inner).map(move |w| dot(x, w))).collect()
}

/// The transpose of a `rows × cols` matrix.
pub(super) fn transpose(x: &[f64], cols: usize) -> Vec<f64> {
    (0..cols).flat_map(|c| x.iter().skip(c).step_by(cols).copied()).collect()
}

/// Root-mean-square normalization.
pub(super) fn rmsnorm(x: &[f64], weight: &[f64], epsilon: f64) -> Vec<f64> {
    let rows = x.chunks(weight.len()).zip(rstd(x, weight.len(), epsilon));
    rows.flat_map(|(x, rstd)| x.iter().zip(weight).map(move |(x, w)| x * rstd * w)).collect()
}

/// `1 / √(mean(x²) + ε)` of each row.
pub(super) fn rstd(x: &[f64], width: usize, epsilon: f64) -> Vec<f64> {
    let mean = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>() / width as f64;
    x.chunks(width).map(|x| 1.0 / (mean(x) + epsilon).sqrt()).collect()
}

/// Layer normalization.
pub(super) fn layer_norm(x: &[f64], weight: &[f64], bias: &[f64], epsilon: f64) -> Vec<f64> {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let row = |x: &[f64]| {
        let centered: Vec<f64> = x.iter().map(|value| value - mean(x)).collect();
        let rstd = 1.0 / (mean(&centered.iter().map(|c| c * c).collect::<Vec<_>>()) + epsilon).sqrt();
        let parts = centered.iter().zip(weight).zip(bias);
        parts.map(|((c, w), b)| c * rstd * w + b).collect::<Vec<_>>()
    };
    x.chunks(weight.len()).flat_map(row).collect()
}

/// GELU by its hyperbolic tangent.
pub(super) fn gelu(x: &[f64]) -> Vec<f64> {
    let root = (2.0 / std::f64::consts::PI).sqrt();
    x.iter().map(|x| 0.5 * x * (1.0 + (root * (x + 0.044_715 * x.powi(3))).tanh())).collect()
}

/// `silu(gate) ⊙ up`.
pub(super) fn swiglu(gate_up: &[f64], width: usize) -> Vec<f64> {
    let row = |row: &[f64]| {
        let (gate, up) = row.split_at(width);
        gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect::<Vec<_>>()
    };
    gate_up.chunks(2 * width).flat_map(row).collect()
}

/// Rotary embedding; `direction` −1 turns back.
pub(super) fn rope(qkv: &[f64], table: &[f64], positions: &[u32], heads: Heads, direction: f64) -> Vec<f64> {
    let (mut out, half) = (qkv.to_vec(), heads.head_dim / 2);
    for (row, &position) in out.chunks_mut(heads.qkv_width()).zip(positions) {
        let table = &table[position as usize * heads.head_dim..];
        for head in row[..heads.query_width() + heads.kv_width()].chunks_mut(heads.head_dim) {
            for i in 0..half {
                let (a, b, cos, sin) = (head[i], head[i + half], table[i], table[i + half] * direction);
                head[i] = a * cos - b * sin;
                head[i + half] = b * cos + a * sin;
            }
        }
    }
    out
}

/// Causal attention: outputs and logsumexp.
pub(super) fn attention(
    qkv: &[f64],
    sequences: Sequences,
    heads: Heads,
    first_key: Option<&[u32]>,
) -> (Vec<f64>, Vec<f64>) {
    let (mut out, mut logsumexp) = (Vec::new(), Vec::new());
    let at = |row: usize, offset: usize| &qkv[row * heads.qkv_width() + offset..][..heads.head_dim];
    for row in 0..sequences.rows() {
        let start = row / sequences.tokens * sequences.tokens;
        let keys = start + first_key.map_or(0, |first| first[row] as usize)..row + 1;
        for head in 0..heads.heads {
            let key = heads.query_width() + head / heads.group() * heads.head_dim;
            let score = |s: usize| {
                let dot: f64 = at(row, head * heads.head_dim).iter().zip(at(s, key)).map(|(q, k)| q * k).sum();
                dot / (heads.head_dim as f64).sqrt()
            };
            let scores: Vec<f64> = keys.clone().map(score).collect();
            let total = scores.iter().map(|score| score.exp()).sum::<f64>().ln();
            let weights: Vec<f64> = scores.iter().map(|score| (score - total).exp()).collect();
            let value = |s: usize, d: usize| at(s, key + heads.kv_width())[d];
            let sum = |d| keys.clone().zip(&weights).map(|(s, weight)| weight * value(s, d)).sum::<f64>();
            out.extend((0..heads.head_dim).map(sum));
            logsumexp.push(total);
        }
    }
    (out, logsumexp)
}

/// Cross-entropy of each row in nats; 0 where there is no target.
pub(super) fn losses(x: &[f64], head: &[f64], targets: &[u32], width: usize) -> Vec<f64> {
    let logits = linear(x, head, width);
    let loss = |(logits, &target): (&[f64], &u32)| {
        let total = logits.iter().map(|l| l.exp()).sum::<f64>().ln();
        if target == NO_TARGET { 0.0 } else { total - logits[target as usize] }
    };
    logits.chunks(head.len() / width).zip(targets).map(loss).collect()
}

/// Divergences from a teacher that lists `tokens` ids and probabilities for each row.
pub(super) fn divergences(
    x: &[f64],
    head: &[f64],
    (ids, t, tokens): (&[u32], &[f64], usize),
    divergence: Divergence,
    width: usize,
) -> Vec<f64> {
    let logits = linear(x, head, width);
    let row = |((logits, ids), t): ((&[f64], &[u32]), &[f64])| {
        let listed: Vec<(usize, f64)> =
            ids.iter().zip(t).filter(|(id, _)| **id != NO_TARGET).map(|(&id, &t)| (id as usize, t)).collect();
        if listed.is_empty() {
            return 0.0;
        }
        let total = logits.iter().map(|l| l.exp()).sum::<f64>();
        let mut outcomes: Vec<(f64, f64)> = listed.iter().map(|&(id, t)| (logits[id].exp() / total, t)).collect();
        let rest = outcomes.iter().fold((1.0, 1.0), |rest, outcome| (rest.0 - outcome.0, rest.1 - outcome.1));
        outcomes.push(rest);
        let kl = |a: f64, b: f64| if a > 0.0 { a * (a / b).ln() } else { 0.0 };
        let each = outcomes.into_iter().map(|(q, t)| match divergence {
            Divergence::ForwardKl => kl(t, q),
            Divergence::ReverseKl => kl(q, t.max(LEAST_PROBABILITY)),
            Divergence::SymmetricKl => 0.5 * (kl(t, q) + kl(q, t.max(LEAST_PROBABILITY))),
            Divergence::TotalVariation => 0.5 * (q - t).abs(),
        });
        each.sum()
    };
    logits.chunks(head.len() / width).zip(ids.chunks(tokens)).zip(t.chunks(tokens)).map(row).collect()
}

/// `Σ out ⊙ d_out`: what a backward differentiates.
pub(super) fn objective(out: &[f64], d_out: &[f64]) -> f64 {
    out.iter().zip(d_out).map(|(out, d)| out * d).sum()
}

/// The gradient of `f` at `x` by central differences; good to about ten digits for smooth functions of order one.
pub(super) fn gradient(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let mut x = x.to_vec();
    (0..x.len())
        .map(|i| {
            let here = x[i];
            x[i] = here + STEP;
            let above = f(&x);
            x[i] = here - STEP;
            let below = f(&x);
            x[i] = here;
            (above - below) / (2.0 * STEP)
        })
        .collect()
}
