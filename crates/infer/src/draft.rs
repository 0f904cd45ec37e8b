//! Who proposes the next tokens.

use crate::{Distribution, InferError, Sampler, SamplingOptions};

/// Tokens that may follow, for the target to verify.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Proposal {
    /// The tokens, each below the target's vocabulary.
    pub ids: Vec<u32>,
    /// From what each was drawn; empty where each was certain, not drawn.
    pub distributions: Vec<Distribution>,
    /// How sure the drafter was of each: for a model the log-odds of its choice, for a match its length in tokens.
    pub confidences: Vec<f32>,
}

/// Decides while tokens are drafted how many there shall be.
///
/// Nothing that is asked here may depend on the token at hand, only on what went before it and on the draft's
/// probabilities: were a drawn token dropped for being unlikely, the others would no longer be distributed as the draft
/// says, and sampled text no longer as the target says.
pub trait Pace {
    /// Whether one more pass of the draft is worth its time.
    fn read_on(&mut self) -> bool {
        true
    }

    /// Whether the token that this pass yields shall be proposed, by how sure the draft is of it.
    fn take(&mut self, _confidence: f32) -> bool {
        true
    }
}

/// As many as fit.
pub struct Unhurried;

impl Pace for Unhurried {}

/// What is asked of a [`Drafter`].
pub struct Request<'a> {
    /// The text, not empty.
    pub history: &'a [u32],
    /// Most tokens to propose, at least 1.
    pub most: usize,
    /// Nothing is proposed behind one of these.
    pub stop: &'a [u32],
    /// Warps a draft model's probabilities as it does the target's.
    pub sampler: &'a mut Sampler,
    /// Says when to stop.
    pub pace: &'a mut dyn Pace,
    /// Most tokens of the text that a draft model may read first; where more are unread it begins anew with the last
    /// so many.
    pub catch_up: usize,
}

/// Proposes tokens. A drafter sees the whole text each time and finds out itself what of it is new or was rejected.
pub trait Drafter {
    /// Reads a prompt before anything is proposed, so that the time this takes is not counted as decoding. Where text is
    /// sampled, what was learnt from other texts is forgotten: the same seed then gives the same text.
    ///
    /// # Errors
    /// What a [`Session`](crate::Session) meets.
    fn prepare(&mut self, prompt: &[u32], sampling: &SamplingOptions) -> Result<(), InferError>;

    /// Tokens to follow the text; none is a valid answer.
    ///
    /// # Errors
    /// What a [`Session`](crate::Session) or a [`Sampler`] meets.
    fn propose(&mut self, request: Request<'_>) -> Result<Proposal, InferError>;

    /// Told after each round: of what was proposed (nothing, perhaps) the first `accepted` tokens were accepted.
    fn learn(&mut self, _proposal: &Proposal, _accepted: usize) {}

    /// Tokens of `history` that must be read before the next proposal.
    fn unread(&self, _history: &[u32]) -> usize {
        0
    }

    /// Seconds spent in passes of a draft model so far.
    fn pass_seconds(&self) -> f64 {
        0.0
    }

    /// Why nothing is proposed any more, if something broke.
    fn fault(&self) -> Option<&InferError> {
        None
    }
}

/// What follows in the text from index `at` on, where `length` tokens matched. Beyond the text's end the proposal
/// continues itself, as a text with a period does.
pub(crate) fn continue_match(request: Request<'_>, at: usize, length: usize) -> Proposal {
    let Request { history, most, stop, pace, .. } = request;
    let mut proposal = Proposal::default();
    for index in at..at + most {
        let id = *history.get(index).unwrap_or_else(|| &proposal.ids[index - history.len()]);
        // Once a proposed token is accepted the match is longer by one.
        let confidence = (length + index - at) as f32;
        if !pace.take(confidence) {
            break;
        }
        proposal.ids.push(id);
        proposal.confidences.push(confidence);
        if stop.contains(&id) {
            break;
        }
    }
    proposal
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What a drafter says greedily and unhurriedly.
    pub(crate) fn ask(drafter: &mut dyn Drafter, history: &[u32], most: usize, stop: &[u32]) -> Proposal {
        let mut sampler = Sampler::new(SamplingOptions::default()).unwrap();
        let request =
            Request { history, most, stop, sampler: &mut sampler, pace: &mut Unhurried, catch_up: usize::MAX };
        drafter.propose(request).unwrap()
    }
}
