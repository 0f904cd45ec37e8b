//! From logits to a token: greedy, or drawn from warped probabilities.
//!
//! The steps and their order are those of Hugging Face's `generate`: repetition penalty (Keskar et al., 2019), then
//! temperature, top-k, top-p (Holtzman et al., 2020), min-p (Nguyen et al., 2025). llama.cpp applies the temperature
//! last, so the two differ where top-p or min-p meet a temperature other than 1. Plain and speculative generation, and
//! both sides of speculation, go through [`Sampler::distribution`].

use crate::random::{Draw, uniform};
use crate::{Distribution, InferError};

/// How the next token is chosen. The default is greedy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingOptions {
    /// Logits are divided by it, at least 0. 0: the most likely token, the lowest id among equals.
    pub temperature: f32,
    /// Only so many of the most likely tokens remain, lower ids first among equals; 0: all.
    pub top_k: usize,
    /// Only the fewest most likely tokens whose probabilities reach this sum remain, in (0, 1]; 1: all.
    pub top_p: f32,
    /// Only tokens at least this times as likely as the most likely one remain, in [0, 1]; 0: all.
    pub min_p: f32,
    /// Positive logits of tokens in the prompt or the output are divided by it, negative ones multiplied; above 0.
    /// 1: off.
    pub repetition_penalty: f32,
    /// Key of every random number ([`uniform`]).
    pub seed: u64,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 }
    }
}

impl SamplingOptions {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`InferError::Option`] for the first option outside its range.
    pub fn validate(&self) -> Result<(), InferError> {
        let checks = [
            ("temperature", self.temperature, self.temperature >= 0.0, "0 or more"),
            ("top-p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1"),
            ("min-p", self.min_p, (0.0..=1.0).contains(&self.min_p), "from 0 to 1"),
            ("repetition-penalty", self.repetition_penalty, self.repetition_penalty > 0.0, "above 0"),
        ];
        for (flag, value, holds, rule) in checks {
            if !holds || !value.is_finite() {
                return Err(InferError::Option { flag, value: value.to_string(), rule: rule.into() });
            }
        }
        Ok(())
    }
}

/// Chooses tokens by [`SamplingOptions`].
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplingOptions,
    /// Logits after the penalty.
    penalized: Vec<f32>,
}

impl Sampler {
    /// # Errors
    /// [`InferError::Option`] for an option outside its range.
    pub fn new(options: SamplingOptions) -> Result<Self, InferError> {
        options.validate()?;
        Ok(Self { options, penalized: Vec::new() })
    }

    /// The options.
    pub fn options(&self) -> &SamplingOptions {
        &self.options
    }

    /// Whether nothing is left to chance.
    pub fn is_greedy(&self) -> bool {
        self.options.temperature == 0.0
    }

    /// The token that follows `history` (prompt and output), by the logits of its last row.
    ///
    /// # Errors
    /// [`InferError::NotFinite`].
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> Result<u32, InferError> {
        if self.is_greedy() {
            return self.most_likely(logits, history);
        }
        let u = uniform(self.options.seed, Draw::Token, history.len());
        Ok(self.distribution(logits, history)?.draw(u))
    }

    /// Probabilities of the token that follows `history`, by the logits of its last row, after every step.
    ///
    /// # Errors
    /// [`InferError::NotFinite`].
    pub fn distribution(&mut self, logits: &[f32], history: &[u32]) -> Result<Distribution, InferError> {
        if self.is_greedy() {
            return Ok(Distribution::certain(self.most_likely(logits, history)?));
        }
        let SamplingOptions { temperature, top_k, top_p, min_p, .. } = self.options;
        let logits = self.penalize(logits, history);
        let highest = highest(logits).ok_or(not_finite(history))?;
        let mut kept = if top_k > 0 && top_k < logits.len() {
            most_likely_of(logits, top_k)
        } else {
            (0..).zip(logits.iter().copied()).collect()
        };
        // exp((logit − highest) / temperature): 1 for the most likely token.
        kept.iter_mut().for_each(|(_, value)| *value = ((*value - highest) / temperature).exp());
        if top_p < 1.0 {
            keep_nucleus(&mut kept, top_p);
        }
        kept.retain(|&(_, weight)| weight >= min_p);
        kept.sort_unstable_by_key(|&(id, _)| id);
        Distribution::from_weights(kept).ok_or(not_finite(history))
    }

    fn most_likely(&mut self, logits: &[f32], history: &[u32]) -> Result<u32, InferError> {
        let logits = self.penalize(logits, history);
        let highest = highest(logits).ok_or(not_finite(history))?;
        let index = logits.iter().position(|&logit| logit == highest).ok_or(not_finite(history))?;
        Ok(index as u32)
    }

    /// `logits` after the repetition penalty. A token counts once, however often it occurred.
    fn penalize<'a>(&'a mut self, logits: &'a [f32], history: &[u32]) -> &'a [f32] {
        let penalty = self.options.repetition_penalty;
        if penalty == 1.0 {
            return logits;
        }
        self.penalized.clear();
        self.penalized.extend_from_slice(logits);
        for &id in history {
            // Computed from the original logit, so a second occurrence changes nothing.
            if let Some(&logit) = logits.get(id as usize) {
                self.penalized[id as usize] = if logit > 0.0 { logit / penalty } else { logit * penalty };
            }
        }
        &self.penalized
    }
}

/// The row at fault is that of the last token of `history`.
fn not_finite(history: &[u32]) -> InferError {
    InferError::NotFinite { position: history.len().saturating_sub(1), first: None }
}

/// The highest logit; `None` if one is not a number, or the highest is infinite. In lanes, so that it is vectorised.
fn highest(logits: &[f32]) -> Option<f32> {
    const LANES: usize = 16;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut not_numbers = [0; LANES];
    let (blocks, rest) = logits.as_chunks::<LANES>();
    let mut last = [f32::NEG_INFINITY; LANES];
    last[..rest.len()].copy_from_slice(rest);
    for block in blocks.iter().chain([&last]) {
        for lane in 0..LANES {
            not_numbers[lane] |= u32::from(block[lane].is_nan());
            lanes[lane] = if block[lane] > lanes[lane] { block[lane] } else { lanes[lane] };
        }
    }
    let highest = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    (not_numbers == [0; LANES] && highest.is_finite()).then_some(highest)
}

/// The `count` highest logits with their ids, lower ids first among equals, in no order. One pass, in which nearly all
/// tokens fail a single comparison.
fn most_likely_of(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let room = 2 * count.max(64);
    let mut kept: Vec<(u32, f32)> = Vec::with_capacity(room.min(logits.len()));
    let mut threshold = None;
    for (id, &logit) in (0..).zip(logits) {
        if threshold.is_none_or(|threshold| logit > threshold) {
            kept.push((id, logit));
            if kept.len() == room {
                keep_first(&mut kept, count);
                // Later ids lose against equals, so only a higher logit still enters.
                threshold = kept.iter().map(|&(_, logit)| logit).min_by(f32::total_cmp);
            }
        }
    }
    keep_first(&mut kept, count);
    kept
}

/// Keeps the `count` entries of the highest values, lower ids first among equals.
fn keep_first(entries: &mut Vec<(u32, f32)>, count: usize) {
    if count < entries.len() {
        entries.select_nth_unstable_by(count, more_likely_first);
        entries.truncate(count);
    }
}

fn more_likely_first(a: &(u32, f32), b: &(u32, f32)) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Keeps the fewest most likely entries whose weights, from 0 to 1, reach `top_p` of their sum; at least one.
///
/// Sorting a vocabulary takes a millisecond, so weights are summed by size classes (exponent and three bits of the
/// mantissa), and only the class in which the sum is reached is sorted.
fn keep_nucleus(entries: &mut Vec<(u32, f32)>, top_p: f32) {
    let class = |weight: f32| (weight.to_bits() >> 20) as usize;
    let mut sums = vec![0.0; class(1.0) + 1];
    entries.iter().for_each(|&(_, weight)| sums[class(weight)] += f64::from(weight));
    let target = f64::from(top_p) * sums.iter().sum::<f64>();
    let mut sum = 0.0;
    let border = sums.iter().rposition(|class| {
        sum += class;
        sum >= target
    });
    let Some(border) = border else { return };
    sum -= sums[border];
    let mut at_border: Vec<_> = entries.iter().copied().filter(|&(_, weight)| class(weight) == border).collect();
    at_border.sort_unstable_by(more_likely_first);
    let last = at_border.iter().find(|&&(_, weight)| {
        sum += f64::from(weight);
        sum >= target
    });
    if let Some(last) = last.or(at_border.last()) {
        entries.retain(|entry| more_likely_first(entry, last).is_le());
    }
}

#[cfg(test)]
mod tests;
