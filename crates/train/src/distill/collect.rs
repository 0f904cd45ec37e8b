//! Sequences of a round: written, and read by the target.

use super::round::{RoundShape, Taught};
use super::rounds::number;
use super::{Teacher, prompts};
use crate::TrainError;
use crate::observer::{Event, Observer};
use backend::{Backend, NO_TARGET};
use data::{Loader, Sample};
use infer::{InferError, Sampler, SamplingOptions, Session};
use model::Model;
use recipe::Distill;
use std::sync::atomic::{AtomicBool, Ordering};

/// Logits so far below the highest take no part: together they have less than 10⁻⁵ of the probability, in a vocabulary
/// of 500,000 even.
const NEGLIGIBLE: f32 = 25.0;

/// What rounds are made of and with.
#[derive(Clone, Copy)]
pub(crate) struct Collector<'a> {
    pub(crate) b: &'a dyn Backend,
    pub(crate) teacher: &'a Teacher<'a>,
    pub(crate) distill: &'a Distill,
    pub(crate) seed: u64,
    pub(crate) shape: RoundShape,
}

/// Who writes a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writer {
    /// It is training text.
    Text,
    Target,
    Draft,
}

impl<'a> Collector<'a> {
    /// The sequences of round `round`, as the draft is now; `None` if `stop` was set before the last.
    ///
    /// # Errors
    /// Shards, passes, no memory.
    pub(crate) fn collect(
        &self,
        round: u64,
        loader: &Loader,
        draft: &Model,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Option<Vec<Taught>>, TrainError> {
        let (teacher, of) = (self.teacher, self.shape.sequences);
        let session = |model: &'a Model| Session::with_cache(self.b, model, self.shape.length + 1, teacher.kv_type);
        let mut target = session(teacher.model)?;
        let mut draft = Session::with_cache(self.b, draft, self.shape.length + 1, teacher.kv_type)?;
        let mut all = Vec::with_capacity(of);
        for done in 0..of {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            observer.observe(&Event::Collecting { round, sequences: done, of });
            let index = round * of as u64 + done as u64;
            let tokens = self.write(index, &loader.sample(index)?, &mut target, &mut draft)?;
            all.push(self.read(&tokens, &mut target)?);
        }
        Ok(Some(all))
    }

    /// Sequence `index` in the target's ids, at least two.
    fn write(
        &self,
        index: u64,
        sample: &Sample,
        target: &mut Session<'_>,
        draft: &mut Session<'_>,
    ) -> Result<Vec<u32>, TrainError> {
        let temperatures = &self.distill.temperatures;
        let options = SamplingOptions {
            temperature: temperatures[number(self.seed, "temperature", index) as usize % temperatures.len()],
            seed: number(self.seed, "tokens", index),
            ..SamplingOptions::default()
        };
        let writer = self.writer(index);
        let prompt = match writer {
            Writer::Text => return Ok(sample.tokens.clone()),
            _ => prompts::prompt(self.teacher, self.distill, sample, index, self.shape.length / 2)?,
        };
        let teacher = self.teacher;
        let vocab = target.vocab();
        let text = if writer == Writer::Target {
            self.continue_text(target, prompt, options, teacher.stop, vocab)?
        } else {
            let own: Vec<u32> = prompt.iter().map(|&id| teacher.own(id)).collect();
            let stop: Vec<u32> = teacher.stop.iter().map(|&id| teacher.own(id)).collect();
            // The stand-in, which is the last of the draft's own ids, is no token.
            let most = teacher.vocabulary.map_or(vocab, |vocabulary| vocabulary.target_ids().len());
            let text = self.continue_text(draft, own, options, &stop, most)?;
            let written = text[prompt.len()..].iter().filter_map(|&id| teacher.of_target(id));
            prompt.iter().copied().chain(written).collect()
        };
        Ok(if text.len() < 2 { sample.tokens.clone() } else { text })
    }

    fn writer(&self, index: u64) -> Writer {
        let share = number(self.seed, "writer", index) as f64 / u64::MAX as f64;
        let Distill { text_share, target_share, .. } = *self.distill;
        match share {
            _ if share < text_share => Writer::Text,
            _ if share < text_share + target_share => Writer::Target,
            _ => Writer::Draft,
        }
    }

    /// `text` with what the session's model writes behind it, a stop id included, ids below `most` only.
    fn continue_text(
        &self,
        session: &mut Session<'_>,
        mut text: Vec<u32>,
        options: SamplingOptions,
        stop: &[u32],
        most: usize,
    ) -> Result<Vec<u32>, InferError> {
        let mut sampler = Sampler::new(options)?;
        session.truncate(0);
        session.prefill(&text)?;
        while text.len() <= self.shape.length {
            let logits = session.last_logits();
            let id = sampler.sample(&logits[..most.min(logits.len())], &text)?;
            text.push(id);
            if stop.contains(&id) || text.len() > self.shape.length {
                break;
            }
            session.advance(&[id])?;
        }
        Ok(text)
    }

    /// What the target says at each place of `tokens`, all in the draft's ids.
    fn read(&self, tokens: &[u32], target: &mut Session<'_>) -> Result<Taught, TrainError> {
        let own: Vec<u32> = tokens.iter().map(|&id| self.teacher.own(id)).collect();
        let (mut ids, mut probabilities) = (Vec::new(), Vec::new());
        if super::divergence(self.distill.divergence).is_none() {
            let listed = (tokens.len() - 1) * self.shape.top_k;
            return Ok(Taught { tokens: own, ids: vec![NO_TARGET; listed], probabilities: vec![0.0; listed] });
        }
        target.truncate(0);
        let mut candidates = Vec::new();
        target.prefill_each(&tokens[..tokens.len() - 1], &mut |_, logits| {
            for row in 0..logits.rows() {
                self.list(logits.row(row), &mut candidates, &mut ids, &mut probabilities);
            }
        })?;
        Ok(Taught { tokens: own, ids, probabilities })
    }

    /// Adds the likeliest tokens by one row of the target's logits: those that the draft has, and all others as its
    /// stand-in.
    fn list(&self, logits: &[f32], candidates: &mut Vec<(u32, f32)>, ids: &mut Vec<u32>, probabilities: &mut Vec<f32>) {
        let stand_in = self.teacher.vocabulary.map(|vocabulary| vocabulary.stand_in());
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        candidates.clear();
        let (mut total, mut others) = (0.0f64, 0.0f64);
        for (id, &logit) in (0..).zip(logits) {
            if logit > highest - NEGLIGIBLE {
                let weight = (logit - highest).exp();
                total += f64::from(weight);
                match self.teacher.own(id) {
                    own if Some(own) == stand_in => others += f64::from(weight),
                    // A target's padding, which a draft may lack, belongs to the rest.
                    own if own as usize >= self.shape.vocab => {}
                    own => candidates.push((own, weight)),
                }
            }
        }
        candidates.extend(stand_in.filter(|_| others > 0.0).map(|id| (id, others as f32)));
        let top_k = self.shape.top_k;
        let by_weight = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if candidates.len() > top_k {
            candidates.select_nth_unstable_by(top_k, by_weight);
            candidates.truncate(top_k);
        }
        candidates.sort_unstable_by(by_weight);
        let end = ids.len() + top_k;
        ids.extend(candidates.iter().map(|&(id, _)| id));
        ids.resize(end, NO_TARGET);
        probabilities.extend(candidates.iter().map(|&(_, weight)| (f64::from(weight) / total) as f32));
        probabilities.resize(end, 0.0);
    }
}
