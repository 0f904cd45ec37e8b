//! The logits of a model on a text of token ids, and how far two models are apart.

use crate::{Config, Model, ModelError, text_logits};
use backend::Backend;

/// Tokens of the fixed probe: enough positions for a wrong rotation to show, and still a second's work for the scalar
/// level.
const TOKENS: usize = 32;
/// Tokens that a forward pass takes at most; a longer text is cut into such windows.
const WINDOW: usize = 256;

/// The fixed probe, which is no text: ids scattered over the vocabulary. 7919 is a prime, so few repeat.
pub(super) fn scattered_ids(config: &Config) -> Vec<u32> {
    let tokens = TOKENS.min(config.context);
    (0..tokens).map(|token| ((token * 7919 + 13) % config.vocab) as u32).collect()
}

/// Logits of every token of a text, `tokens × vocab`.
pub(super) struct Logits {
    pub(super) tokens: usize,
    /// Tokens of a window: where the next one is, is nothing predicted from the last.
    window: usize,
    vocab: usize,
    values: Vec<f32>,
}

/// Distances of two [`Logits`].
pub(super) struct Difference {
    /// Largest |Δ|.
    pub(super) largest: f64,
    /// Root mean square of Δ over that of the logits about each row's mean.
    pub(super) relative: f64,
    /// Mean over tokens, in nats.
    pub(super) kl_divergence: f64,
}

/// Runs a text through a model and frees it.
pub(super) fn logits_of(b: &dyn Backend, model: Model, ids: &[u32]) -> Result<Logits, ModelError> {
    let (window, vocab) = (WINDOW.min(model.config.context), model.config.vocab);
    let values = ids.chunks(window).map(|ids| text_logits(b, &model, ids)).collect::<Result<Vec<_>, _>>();
    model.free(b);
    Ok(Logits { tokens: ids.len(), window, vocab, values: values?.concat() })
}

impl Logits {
    /// `exp` of the mean of −log p(next token): the windows' first tokens are predicted from nothing and left out.
    pub(super) fn perplexity(&self, ids: &[u32]) -> f64 {
        let windows = ids.chunks(self.window).zip(self.values.chunks(self.window * self.vocab));
        let nats: Vec<f64> = windows
            .flat_map(|(ids, rows)| ids[1..].iter().zip(rows.chunks(self.vocab)))
            .map(|(&next, row)| log_sum_exp(row) - f64::from(row[next as usize]))
            .collect();
        (nats.iter().sum::<f64>() / nats.len().max(1) as f64).exp()
    }

    /// How far `other` is from this.
    pub(super) fn compare(&self, other: &Self) -> Difference {
        let (mut largest, mut squares, mut spread, mut kl_divergence) = (0f64, 0.0, 0.0, 0.0);
        for (row, other) in self.values.chunks(self.vocab).zip(other.values.chunks(self.vocab)) {
            let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / self.vocab as f64;
            let (total, other_total) = (log_sum_exp(row), log_sum_exp(other));
            for (&x, &y) in row.iter().zip(other) {
                let (x, y) = (f64::from(x), f64::from(y));
                // `max` would drop a NaN.
                largest = if (x - y).abs() > largest || (x - y).is_nan() { (x - y).abs() } else { largest };
                squares += (x - y).powi(2);
                spread += (x - mean).powi(2);
                kl_divergence += (x - total).exp() * ((x - total) - (y - other_total));
            }
        }
        let relative = if squares == 0.0 { 0.0 } else { (squares / spread).sqrt() };
        Difference { largest, relative, kl_divergence: kl_divergence / self.tokens as f64 }
    }
}

/// Root mean square of the difference over that of the values; 0 where there is none.
pub(super) fn relative_difference(values: &[f32], others: &[f32]) -> f64 {
    let (mut squares, mut spread) = (0f64, 0f64);
    for (&x, &y) in values.iter().zip(others) {
        squares += (f64::from(x) - f64::from(y)).powi(2);
        spread += f64::from(x).powi(2);
    }
    if squares == 0.0 { 0.0 } else { (squares / spread).sqrt() }
}

fn log_sum_exp(row: &[f32]) -> f64 {
    let most = row.iter().fold(f32::NEG_INFINITY, |most, &x| most.max(x));
    f64::from(most) + row.iter().map(|&x| f64::from(x - most).exp()).sum::<f64>().ln()
}
