//! A small model as the drafter.

use crate::draft::Request;
use crate::random::{Draw, uniform};
use crate::{DraftVocabulary, Drafter, InferError, MAX_GENERATED_ROWS, Proposal, Sampler, SamplingOptions, Session};
use backend::Backend;
use model::Model;
use std::time::Instant;

/// Drafts with a small model.
///
/// Vocabularies may be one ([`ModelDrafter::without`] what differs), or the draft has ids of its own for some of the
/// target's ([`ModelDrafter::with_vocabulary`]). They may differ in size or in marks. An id that only the draft has, or that means another thing to it, is
/// never proposed; where the text holds an id that the draft does not have, it reads a stand-in. A text beyond the
/// draft's context is read from a later place on, and so is one that the draft has fallen far behind
/// ([`Request::catch_up`]).
pub struct ModelDrafter<'b> {
    session: Session<'b>,
    target_vocab: usize,
    /// Ids of both that mean different things, ascending.
    foreign: Vec<u32>,
    /// Where the draft has ids of its own.
    vocabulary: Option<DraftVocabulary>,
    /// What the draft reads for an id that it does not have.
    stand_in: u32,
    /// Where in the text the session begins.
    begin: usize,
    /// What the session has read, in the target's ids.
    read: Vec<u32>,
    /// The text with the tokens of the proposal at hand.
    text: Vec<u32>,
    /// Ids for one pass.
    ids: Vec<u32>,
    /// Logits by the target's ids, −∞ for those that the draft may not propose.
    masked: Vec<f32>,
    pass_seconds: f64,
    fault: Option<InferError>,
}

impl<'b> ModelDrafter<'b> {
    /// A drafter for a target of `target_vocab` tokens and texts of up to `capacity` tokens.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn new(b: &'b dyn Backend, draft: &'b Model, target_vocab: usize, capacity: usize) -> Result<Self, InferError> {
        Ok(Self::from_session(Session::new(b, draft, capacity.min(draft.config.context))?, target_vocab))
    }

    /// A drafter over a session of the draft.
    pub fn from_session(mut session: Session<'b>, target_vocab: usize) -> Self {
        session.truncate(0);
        Self {
            session,
            target_vocab,
            foreign: Vec::new(),
            vocabulary: None,
            stand_in: 0,
            begin: 0,
            read: Vec::new(),
            text: Vec::new(),
            ids: Vec::new(),
            masked: Vec::new(),
            pass_seconds: 0.0,
            fault: None,
        }
    }

    /// The same, where `foreign` ids mean different things to the two ([`check_vocabularies`](crate::check_vocabularies)).
    #[must_use]
    pub fn without(mut self, mut foreign: Vec<u32>) -> Self {
        foreign.sort_unstable();
        self.foreign = foreign;
        self
    }

    /// The same, where the draft has ids of its own.
    #[must_use]
    pub fn with_vocabulary(mut self, vocabulary: DraftVocabulary) -> Self {
        self.stand_in = vocabulary.stand_in();
        self.masked = vec![f32::NEG_INFINITY; self.target_vocab];
        self.vocabulary = Some(vocabulary);
        self
    }

    /// Forgets what was read beyond the beginning that it shares with `text`, of which it keeps at most `most` tokens.
    /// Returns up to where `text` is read now, and leaves room for at least one token behind it. No more than `catch_up`
    /// tokens remain to be read.
    fn return_to(&mut self, text: &[u32], most: usize, catch_up: usize) -> usize {
        let shared = text.get(self.begin..most).unwrap_or_default();
        let same = self.read.iter().zip(shared).take_while(|(a, b)| a == b).count();
        let capacity = self.session.capacity();
        // Half a context is read again each time a half is full.
        let latest = text.len().saturating_sub(if text.len() <= capacity { text.len() } else { capacity.div_ceil(2) });
        let fits = text.len().saturating_sub(self.begin) <= capacity && self.begin <= text.len();
        let unread = text.len().saturating_sub(self.begin + same);
        if fits && unread <= catch_up && (same > 0 || self.begin == 0) {
            self.read.truncate(same);
        } else {
            self.begin = latest.max(text.len().saturating_sub(catch_up.max(1)));
            self.read.clear();
        }
        self.session.truncate(self.read.len());
        self.begin + self.read.len()
    }

    /// Reads `text` (at least one id) behind what was read.
    fn read(&mut self, text: &[u32], prompt: bool) -> Result<(), InferError> {
        let (vocab, stand_in) = (self.session.vocab(), self.stand_in);
        self.ids.clear();
        self.ids.extend(text.iter().map(|&id| match &self.vocabulary {
            Some(vocabulary) => vocabulary.own(id),
            None if (id as usize) < vocab && self.foreign.binary_search(&id).is_err() => id,
            None => stand_in,
        }));
        let started = Instant::now();
        // A short prompt is read as a prompt too, as the target reads it: a draft that is the target then proposes the
        // target's text.
        if prompt || text.len() > MAX_GENERATED_ROWS {
            self.session.prefill(&self.ids)?;
        } else {
            self.session.advance(&self.ids)?;
        }
        self.pass_seconds += started.elapsed().as_secs_f64();
        self.read.extend_from_slice(text);
        Ok(())
    }

    /// The draft's choice for the token behind `text`, as far as the target has the tokens.
    fn choose(&mut self, text: &[u32], sampler: &mut Sampler) -> Result<Choice, InferError> {
        let logits = self.session.last_logits();
        let mut least_lead = f32::INFINITY;
        let mut logits = &logits[..logits.len().min(self.target_vocab)];
        if let Some(vocabulary) = &self.vocabulary {
            vocabulary.spread(logits, &mut self.masked);
            least_lead = vocabulary.lead_over_others(logits);
            logits = &self.masked;
        } else if !self.foreign.is_empty() {
            self.masked.clear();
            self.masked.extend_from_slice(logits);
            for &id in &self.foreign {
                if let Some(logit) = self.masked.get_mut(id as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
            logits = &self.masked;
        }
        if sampler.is_greedy() {
            let id = sampler.sample(logits, text)?;
            return Ok(Choice { id, confidence: lead(logits, id).min(least_lead), distribution: None });
        }
        let distribution = sampler.distribution(logits, text)?;
        let id = distribution.draw(uniform(sampler.options().seed, Draw::Proposal, text.len()));
        // Of the likeliest token, not of the drawn one: see `Pace`.
        let highest = distribution.probabilities().map(|(_, probability)| probability).fold(0.0, f64::max);
        let confidence = ((highest / (1.0 - highest).max(1e-6)).ln() as f32).min(least_lead);
        Ok(Choice { id, confidence, distribution: Some(distribution) })
    }

    fn draft(&mut self, request: Request<'_>, text: &mut Vec<u32>) -> Result<Proposal, InferError> {
        let Request { history, most, stop, sampler, pace, catch_up } = request;
        let mut proposal = Proposal::default();
        let mut unread = self.return_to(history, history.len() - 1, catch_up);
        // The last proposed token is not read, so one more fits than there is room for.
        let most = most.min(self.session.capacity() + 1 - (history.len() - self.begin));
        while proposal.ids.len() < most && pace.read_on() {
            self.read(&text[unread..], false)?;
            let choice = match self.choose(text, sampler) {
                Ok(choice) => choice,
                Err(fault @ InferError::NotFinite { .. }) => {
                    self.fault = Some(fault);
                    break;
                }
                Err(error) => return Err(error),
            };
            if !pace.take(choice.confidence) {
                break;
            }
            proposal.ids.push(choice.id);
            proposal.confidences.push(choice.confidence);
            proposal.distributions.extend(choice.distribution);
            unread = text.len();
            text.push(choice.id);
            if stop.contains(&choice.id) {
                break;
            }
        }
        Ok(proposal)
    }
}

/// A token that may be proposed.
struct Choice {
    id: u32,
    confidence: f32,
    distribution: Option<crate::Distribution>,
}

/// By how much the logit of `id` exceeds the highest other one; in lanes, so that it is vectorised. With two tokens in
/// the running that is the log-odds, and it needs no exponentials of a whole vocabulary.
fn lead(logits: &[f32], id: u32) -> f32 {
    const LANES: usize = 16;
    let highest = |part: &[f32]| {
        let (blocks, rest) = part.as_chunks::<LANES>();
        let mut lanes = [f32::NEG_INFINITY; LANES];
        for block in blocks {
            for lane in 0..LANES {
                lanes[lane] = if block[lane] > lanes[lane] { block[lane] } else { lanes[lane] };
            }
        }
        lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
    };
    let at = id as usize;
    // A repetition penalty may have chosen another than the highest: no lead then.
    (logits[at] - highest(&logits[..at]).max(highest(&logits[at + 1..]))).max(0.0)
}

impl Drafter for ModelDrafter<'_> {
    fn prepare(&mut self, prompt: &[u32], sampling: &SamplingOptions) -> Result<(), InferError> {
        if self.fault.is_some() || prompt.is_empty() {
            return Ok(());
        }
        if self.begin > 0 || sampling.temperature > 0.0 {
            // What was read began in the middle of another text; or some of it was read as generated rows, which have
            // other last bits than a prompt's, and a sampled text would depend on what was written before.
            (self.begin, self.read) = (0, Vec::new());
        }
        let read = self.return_to(prompt, prompt.len(), usize::MAX);
        if read < prompt.len() { self.read(&prompt[read..], true) } else { Ok(()) }
    }

    fn propose(&mut self, request: Request<'_>) -> Result<Proposal, InferError> {
        if self.fault.is_some() || request.history.is_empty() {
            return Ok(Proposal::default());
        }
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        text.extend_from_slice(request.history);
        let proposal = self.draft(request, &mut text);
        self.text = text;
        proposal
    }

    fn unread(&self, history: &[u32]) -> usize {
        let shared = history.get(self.begin..).unwrap_or_default();
        shared.len() - self.read.iter().zip(shared).take_while(|(a, b)| a == b).count()
    }

    fn pass_seconds(&self) -> f64 {
        self.pass_seconds
    }

    fn fault(&self) -> Option<&InferError> {
        self.fault.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::lead;

    #[test]
    fn the_lead_is_that_over_the_second() {
        let mut logits = vec![-3.0; 40];
        (logits[17], logits[30]) = (4.0, 2.5);
        assert_eq!(lead(&logits, 17), 1.5);
        assert_eq!(lead(&logits, 30), 0.0);
        assert_eq!(lead(&[1.0], 0), f32::INFINITY);
        assert_eq!(lead(&[1.0, f32::NEG_INFINITY], 0), f32::INFINITY);
    }
}
