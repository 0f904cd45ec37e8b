//! Texts that a model writes, several at once.

use super::collect::Collector;
use crate::TrainError;
use infer::{Sampler, SamplingOptions, Texts};
use model::Model;
use std::sync::atomic::{AtomicBool, Ordering};

/// Texts that are written at once: a pass over eight costs little more than two over one.
const AT_ONCE: usize = 8;

/// A text to be written.
pub(crate) struct Begun {
    /// Its place in the round.
    pub(crate) place: usize,
    /// How it begins, in the target's ids.
    pub(crate) prompt: Vec<u32>,
    pub(crate) options: SamplingOptions,
}

/// A text that was written.
pub(crate) struct Written {
    /// Its place in the round.
    pub(crate) place: usize,
    /// Its beginning and what was written, in the target's ids.
    pub(crate) tokens: Vec<u32>,
}

/// A text in the making.
struct Writing {
    place: usize,
    /// Tokens of the prompt.
    prompt: Vec<u32>,
    /// In the ids of the model that writes.
    text: Vec<u32>,
    sampler: Sampler,
}

/// What `model`, the draft or the target, makes of each beginning, with the place of each: up to a stop id, which is part
/// of the text, or the length of a sequence. All in the target's ids. `None` if `stop` was set. A text does not depend
/// on those beside it.
///
/// # Errors
/// Passes, no memory.
pub(crate) fn texts(
    collector: &Collector<'_>,
    model: &Model,
    begun: Vec<Begun>,
    is_draft: bool,
    ended: &mut dyn FnMut(),
    stop: &AtomicBool,
) -> Result<Option<Vec<Written>>, TrainError> {
    if begun.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let Collector { b, teacher, shape, .. } = *collector;
    let own = |id: u32| if is_draft { teacher.own(id) } else { id };
    let stop_ids: Vec<u32> = teacher.stop.iter().map(|&id| own(id)).collect();
    // The stand-in, which is the last of a draft's own ids, is no token; nor is what only one of the two has.
    let most = match teacher.vocabulary {
        Some(vocabulary) if is_draft => vocabulary.target_ids().len(),
        _ => model.config.vocab.min(teacher.model.config.vocab),
    };
    let mut texts = Texts::new(b, model, AT_ONCE.min(begun.len()), shape.length + 1, teacher.kv_type)?;
    let mut slots: Vec<Option<Writing>> = (0..texts.count()).map(|_| None).collect();
    let mut waiting = begun.into_iter();
    let mut done = Vec::new();
    while waiting.len() > 0 || slots.iter().any(Option::is_some) {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        for (slot, writing) in slots.iter_mut().enumerate().filter(|(_, writing)| writing.is_none()) {
            let Some(Begun { place, prompt, options }) = waiting.next() else { break };
            let text = prompt.iter().map(|&id| own(id)).collect();
            let mut begun = Writing { place, prompt, text, sampler: Sampler::new(options)? };
            let logits = texts.begin(slot, &begun.text)?;
            begun.add(&logits[..most])?;
            *writing = Some(begun);
        }
        for slot in &mut slots {
            if let Some(whole) = slot.take_if(|writing| writing.is_whole(&stop_ids, shape.length)) {
                let of_target = |&id: &u32| if is_draft { teacher.of_target(id) } else { Some(id) };
                done.push(Written { place: whole.place, tokens: whole.in_ids_of_target(of_target) });
                ended();
            }
        }
        step(&mut texts, &mut slots, most)?;
    }
    Ok(Some(done))
}

/// One more token of each text that is being written.
fn step(texts: &mut Texts<'_>, slots: &mut [Option<Writing>], most: usize) -> Result<(), TrainError> {
    let last = |writing: &Option<Writing>| writing.as_ref()?.text.last().copied();
    let tokens: Vec<(usize, u32)> =
        slots.iter().enumerate().filter_map(|(slot, writing)| Some((slot, last(writing)?))).collect();
    if tokens.is_empty() {
        return Ok(());
    }
    let logits = texts.advance(&tokens)?;
    for (row, writing) in slots.iter_mut().flatten().enumerate() {
        writing.add(&logits.row(row)[..most])?;
    }
    Ok(())
}

impl Writing {
    /// The next token, by the logits behind the last.
    fn add(&mut self, logits: &[f32]) -> Result<(), TrainError> {
        let id = self.sampler.sample(logits, &self.text)?;
        self.text.push(id);
        Ok(())
    }

    /// Whether it ends with a stop id, or is as long as a sequence of `length` places.
    fn is_whole(&self, stop: &[u32], length: usize) -> bool {
        self.text.len() > length || self.text.last().is_some_and(|id| stop.contains(id))
    }

    /// The prompt, and what was written behind it.
    fn in_ids_of_target(self, of_target: impl Fn(&u32) -> Option<u32>) -> Vec<u32> {
        let written: Vec<u32> = self.text[self.prompt.len()..].iter().filter_map(of_target).collect();
        [self.prompt, written].concat()
    }
}
