//! Sequences of a round: written, and read by the target.

use super::round::{RoundShape, Taught};
use super::rounds::number;
use super::write::{self, Begun};
use super::{Teacher, prompts};
use crate::TrainError;
use crate::observer::{Event, Observer};
use backend::{Backend, NO_TARGET};
use data::{Loader, Sample};
use infer::{InferError, SamplingOptions, Session};
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
        let of = self.shape.sequences;
        let mut all = Vec::with_capacity(of);
        let (mut for_target, mut for_draft) = (Vec::new(), Vec::new());
        for place in 0..of {
            let index = round * of as u64 + place as u64;
            let sample = loader.sample(index)?;
            match self.writer(index) {
                Writer::Text => {}
                Writer::Target => for_target.push(self.begun(place, index, &sample)),
                Writer::Draft => for_draft.push(self.begun(place, index, &sample)),
            }
            all.push(sample.tokens);
        }
        let mut done = all.len() - for_target.len() - for_draft.len();
        let mut tell = || {
            observer.observe(&Event::Collecting { round, sequences: done, of });
            done += 1;
        };
        let ended = write::texts(self, self.teacher.model, for_target, false, &mut tell, stop)?
            .zip(write::texts(self, draft, for_draft, true, &mut tell, stop)?);
        let Some((by_target, by_draft)) = ended else { return Ok(None) };
        // A text of one token, as a prompt of none gives, teaches nothing.
        for written in by_target.into_iter().chain(by_draft).filter(|written| written.tokens.len() >= 2) {
            all[written.place] = written.tokens;
        }
        let (length, kv_type) = (self.shape.length, self.teacher.kv_type);
        let mut target = Session::with_cache(self.b, self.teacher.model, length + 1, kv_type)?;
        let read = |tokens: &Vec<u32>| match stop.load(Ordering::Relaxed) {
            true => Ok(None),
            false => self.read(tokens, &mut target).map(Some),
        };
        all.iter().map(read).collect()
    }

    /// The beginning of sequence `index`, which is to stand at `place` in the round.
    fn begun(&self, place: usize, index: u64, sample: &Sample) -> Begun {
        let temperatures = &self.distill.temperatures;
        let options = SamplingOptions {
            temperature: temperatures[number(self.seed, "temperature", index) as usize % temperatures.len()],
            seed: number(self.seed, "tokens", index),
            ..SamplingOptions::default()
        };
        let prompt = prompts::prompt(self.teacher, self.distill, sample, index, self.shape.length / 2);
        Begun { place, prompt, options }
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
        match probabilities.iter().position(|probability| !probability.is_finite()) {
            Some(at) => Err(InferError::NotFinite { position: at / self.shape.top_k, first: None }.into()),
            None => Ok(Taught { tokens: own, ids, probabilities }),
        }
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
