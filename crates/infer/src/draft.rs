//! Who proposes the next tokens: a small model, the text itself, or one after the other.

use crate::random::{Draw, uniform};
use crate::{Distribution, InferError, MAX_GENERATED_ROWS, NgramDrafter, Sampler, Session};
use backend::Backend;
use model::Model;

/// Tokens that may follow, for the target to verify.
#[derive(Clone, Debug, Default)]
pub struct Proposal {
    /// The tokens, each below the target's vocabulary.
    pub ids: Vec<u32>,
    /// From what each was drawn; empty where each was certain, not drawn.
    pub distributions: Vec<Distribution>,
}

/// Proposes tokens. A drafter sees the whole text each time and finds out itself what of it is new or was rejected.
pub trait Drafter {
    /// Reads a prompt before anything is proposed, so that the time this takes is not counted as decoding.
    ///
    /// # Errors
    /// What a [`Session`] meets.
    fn prepare(&mut self, prompt: &[u32]) -> Result<(), InferError>;

    /// At most `most` tokens (at least 1) to follow `history`, which is not empty; none is a valid answer. Nothing is
    /// proposed behind one of the `stop` ids. `sampler` warps a draft model's probabilities as it does the target's.
    ///
    /// # Errors
    /// What a [`Session`] or a [`Sampler`] meets.
    fn propose(
        &mut self,
        history: &[u32],
        most: usize,
        stop: &[u32],
        sampler: &mut Sampler,
    ) -> Result<Proposal, InferError>;
}

/// A small model as the drafter. Vocabularies may differ in size: ids that only the draft has are never proposed, and
/// once the text holds an id that only the target has, nothing is.
pub struct ModelDrafter<'b> {
    session: Session<'b>,
    target_vocab: usize,
    /// What the session has read.
    read: Vec<u32>,
    /// The text with the tokens of the proposal at hand.
    text: Vec<u32>,
}

impl<'b> ModelDrafter<'b> {
    /// A drafter for a target of `target_vocab` tokens and texts of up to `capacity` tokens. Beyond the draft's own
    /// context it proposes nothing.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn new(b: &'b dyn Backend, draft: &'b Model, target_vocab: usize, capacity: usize) -> Result<Self, InferError> {
        Ok(Self::from_session(Session::new(b, draft, capacity.min(draft.config.context))?, target_vocab))
    }

    /// A drafter over a session of the draft.
    pub fn from_session(mut session: Session<'b>, target_vocab: usize) -> Self {
        session.truncate(0);
        Self { session, target_vocab, read: Vec::new(), text: Vec::new() }
    }

    /// Forgets what the session has read beyond the beginning that it shares with `text`, of which it keeps at most
    /// `most` tokens, and returns how many it still holds; `None` if `text` is not one that the draft can read.
    fn return_to(&mut self, text: &[u32], most: usize) -> Option<usize> {
        let same = self.read.iter().zip(text).take(most).take_while(|(a, b)| a == b).count();
        self.read.truncate(same);
        self.session.truncate(same);
        let vocab = self.session.vocab();
        let readable = text.len() <= self.session.capacity() && text[same..].iter().all(|&id| (id as usize) < vocab);
        readable.then_some(same)
    }

    /// Reads `ids` (at least one) and returns the logits behind the last one, as far as the target has the tokens.
    fn read(&mut self, ids: &[u32]) -> Result<&[f32], InferError> {
        let logits = if ids.len() <= MAX_GENERATED_ROWS {
            self.session.extend(ids)?.row(ids.len() - 1)
        } else {
            self.session.prefill(ids)?
        };
        self.read.extend_from_slice(ids);
        Ok(&logits[..logits.len().min(self.target_vocab)])
    }
}

impl Drafter for ModelDrafter<'_> {
    fn prepare(&mut self, prompt: &[u32]) -> Result<(), InferError> {
        match self.return_to(prompt, prompt.len()) {
            Some(same) if same < prompt.len() => {
                // As the target reads it, however short it is: a draft that is the target then proposes the target's text.
                self.session.prefill(&prompt[same..])?;
                self.read.extend_from_slice(&prompt[same..]);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn propose(
        &mut self,
        history: &[u32],
        most: usize,
        stop: &[u32],
        sampler: &mut Sampler,
    ) -> Result<Proposal, InferError> {
        let mut proposal = Proposal::default();
        let Some(same) = self.return_to(history, history.len().saturating_sub(1)) else { return Ok(proposal) };
        // The last proposed token is not read, so one more fits than there is room for.
        let most = most.min(self.session.capacity() + 1 - history.len());
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        text.extend_from_slice(history);
        let mut unread = same;
        while proposal.ids.len() < most && unread < text.len() {
            let logits = self.read(&text[unread..])?;
            let id = if sampler.is_greedy() {
                sampler.sample(logits, &text)?
            } else {
                let distribution = sampler.distribution(logits, &text)?;
                let id = distribution.draw(uniform(sampler.options().seed, Draw::Proposal, text.len()));
                proposal.distributions.push(distribution);
                id
            };
            proposal.ids.push(id);
            unread = text.len();
            text.push(id);
            if stop.contains(&id) {
                break;
            }
        }
        self.text = text;
        Ok(proposal)
    }
}

/// The text's own repetitions first, and a draft model where they have nothing to say.
pub struct AutoDrafter<'b> {
    ngram: NgramDrafter,
    model: Option<ModelDrafter<'b>>,
}

impl<'b> AutoDrafter<'b> {
    /// Without a model, repetitions of 3 to 1 tokens count; with one only those of 3 and 2, since a single token that
    /// occurred before says less than a model does.
    pub fn new(model: Option<ModelDrafter<'b>>) -> Self {
        let shortest = if model.is_some() { 2 } else { 1 };
        Self { ngram: NgramDrafter { longest: 3, shortest }, model }
    }
}

impl Drafter for AutoDrafter<'_> {
    fn prepare(&mut self, prompt: &[u32]) -> Result<(), InferError> {
        self.model.as_mut().map_or(Ok(()), |model| model.prepare(prompt))
    }

    fn propose(
        &mut self,
        history: &[u32],
        most: usize,
        stop: &[u32],
        sampler: &mut Sampler,
    ) -> Result<Proposal, InferError> {
        let proposal = self.ngram.propose(history, most, stop, sampler)?;
        match &mut self.model {
            Some(model) if proposal.ids.is_empty() => model.propose(history, most, stop, sampler),
            _ => Ok(proposal),
        }
    }
}
