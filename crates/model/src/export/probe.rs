//! The logits of a model on a fixed text of token ids, and how far two models are apart.

use crate::{Activations, Batch, Model, ModelError, pass};
use backend::{Backend, Rows, Sequences};

/// 32 tokens: enough positions for a wrong rotation to show, and still a second's work for the scalar level.
const TOKENS: usize = 32;

/// Logits of every token of the probe, `tokens × vocab`.
pub(super) struct Logits {
    pub(super) tokens: usize,
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

/// Runs the probe through a model and frees it.
pub(super) fn logits_of(b: &dyn Backend, model: Model) -> Result<Logits, ModelError> {
    let logits = run(b, &model);
    model.free(b);
    logits
}

fn run(b: &dyn Backend, model: &Model) -> Result<Logits, ModelError> {
    let (tokens, vocab) = (TOKENS.min(model.config.context), model.config.vocab);
    // Ids scattered over the vocabulary: 7919 is a prime, so few repeat.
    let ids: Vec<u32> = (0..tokens).map(|token| ((token * 7919 + 13) % vocab) as u32).collect();
    let acts = Activations::inference(b, &model.config, tokens, tokens, tokens)?;
    let batch = Batch::new(b, Sequences { batch: 1, tokens }, false)?;
    b.write_ids(batch.ids, 0, &ids);
    pass::forward(b, model, &acts, &batch);
    let mut values = vec![0.0; tokens * vocab];
    b.read(pass::logits(b, model, &acts, 0, Rows::prompt(tokens)), 0, &mut values);
    batch.free(b);
    acts.free(b);
    Ok(Logits { tokens, vocab, values })
}

impl Logits {
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
