//! A draft model with another tokenizer: it proposes by way of text.

use crate::draft::Request;
use crate::{Drafter, InferError, ModelDrafter, Proposal, Sampler, SamplingOptions};
use std::ops::Range;
use tokenizer::{StreamDecoder, Tokenizer};

/// Bytes at the end of the text that are encoded again when it grows: its last word may have become another one.
const OVERLAP_BYTES: usize = 32;

/// Drafts with a model whose ids mean other things than the target's.
///
/// The text is encoded by the draft's tokenizer, the draft continues it greedily, and what it wrote is encoded by the
/// target's tokenizer. Such a proposal is certain (`q = 1`, nothing was drawn), so it is verified as a match in the text is,
/// and output is the target's whatever the two tokenizers make of the text. Control tokens spell nothing: the draft does
/// not see the target's, and ends a proposal with one of its own.
pub struct BridgedDrafter<'b, 't> {
    model: ModelDrafter<'b>,
    target: &'t Tokenizer,
    draft: &'t Tokenizer,
    greedy: Sampler,
    /// The target's ids that `text` was made of.
    followed: Vec<u32>,
    decoder: StreamDecoder<'t>,
    /// The text as far as its characters are whole.
    text: String,
    /// The text in the draft's ids, and where in it each ends.
    ids: Vec<u32>,
    ends: Vec<usize>,
}

impl<'b, 't> BridgedDrafter<'b, 't> {
    /// `model` proposes in the ids of `draft`, for a target that reads those of `target`.
    ///
    /// # Errors
    /// None that is known: greedy sampling has no option to refuse.
    pub fn new(model: ModelDrafter<'b>, draft: &'t Tokenizer, target: &'t Tokenizer) -> Result<Self, InferError> {
        let greedy = Sampler::new(SamplingOptions::default())?;
        let decoder = target.stream_continuation();
        let (followed, ids, ends) = Default::default();
        Ok(Self { model, target, draft, greedy, followed, decoder, text: String::new(), ids, ends })
    }

    /// Takes in what `history` has beyond the text so far, or all of it if it is another text.
    fn follow(&mut self, history: &[u32]) {
        if !history.starts_with(&self.followed) {
            self.followed.clear();
            self.decoder = self.target.stream_continuation();
            self.text.clear();
        }
        let known = self.text.len();
        for &id in &history[self.followed.len()..] {
            self.text.push_str(&self.decoder.push(id));
        }
        self.followed = history.to_vec();
        if self.text.len() != known || known == 0 {
            self.encode_from(known.saturating_sub(OVERLAP_BYTES));
        }
    }

    /// Encodes the text again behind the last of the draft's tokens that ends at a space before byte `from`.
    fn encode_from(&mut self, from: usize) {
        let at_space = |&end: &usize| end <= from && self.text.as_bytes().get(end).is_some_and(u8::is_ascii_whitespace);
        let kept = self.ends.iter().rposition(at_space).map_or(0, |index| index + 1);
        self.ids.truncate(kept);
        self.ends.truncate(kept);
        let mut end = self.ends.last().copied().unwrap_or(0);
        if kept == 0 && self.draft.adds_bos() {
            self.ids.extend(self.draft.bos());
            self.ends.resize(self.ids.len(), 0);
        }
        for id in self.draft.encode_continuation(&self.text[end..]) {
            end += self.draft.token_bytes(id).len();
            self.ids.push(id);
            self.ends.push(end);
        }
    }

    /// Whether the text ends in the middle of a character, which only the target can finish.
    fn is_cut(&self) -> bool {
        !self.decoder.clone().finish().is_empty()
    }

    /// What the draft wrote, in the target's ids, as far as these spell the same. A token is as sure as the least sure of
    /// the draft's tokens that it holds a part of.
    fn translate(&self, written: &Proposal, most: usize, stop: &[u32]) -> Proposal {
        let (mut bytes, mut spans) = (Vec::new(), Vec::new());
        for (&id, &confidence) in written.ids.iter().zip(&written.confidences) {
            let begin = bytes.len();
            bytes.extend(self.draft.token_bytes(id));
            spans.push((begin..bytes.len(), confidence));
        }
        let whole = std::str::from_utf8(&bytes).map_or_else(|error| error.valid_up_to(), str::len);
        let text = String::from_utf8_lossy(&bytes[..whole]);
        let mut proposal = Proposal::default();
        let mut begin = 0;
        for id in self.target.encode_continuation(&text).into_iter().take(most) {
            let spelt = self.target.token_bytes(id);
            if !bytes[begin..whole].starts_with(&spelt) {
                break;
            }
            proposal.confidences.push(least_sure(&spans, begin..begin + spelt.len()));
            proposal.ids.push(id);
            begin += spelt.len();
            if stop.contains(&id) {
                break;
            }
        }
        proposal
    }
}

/// The least confidence of the spans that overlap `range`.
fn least_sure(spans: &[(Range<usize>, f32)], range: Range<usize>) -> f32 {
    let overlapping = spans.iter().filter(|(span, _)| span.start < range.end && range.start < span.end);
    overlapping.map(|&(_, confidence)| confidence).fold(f32::INFINITY, f32::min)
}

impl Drafter for BridgedDrafter<'_, '_> {
    fn prepare(&mut self, prompt: &[u32], sampling: &SamplingOptions) -> Result<(), InferError> {
        self.follow(prompt);
        self.model.prepare(&self.ids, sampling)
    }

    fn propose(&mut self, request: Request<'_>) -> Result<Proposal, InferError> {
        let Request { history, most, stop, pace, catch_up, .. } = request;
        self.follow(history);
        if self.ids.is_empty() || self.is_cut() {
            return Ok(Proposal::default());
        }
        let ends = self.draft.eos().into_iter().collect::<Vec<u32>>();
        let own = Request { history: &self.ids, most, stop: &ends, sampler: &mut self.greedy, pace, catch_up };
        let mut written = self.model.propose(own)?;
        let mark = written.ids.iter().position(|&id| self.draft.is_special(id));
        written.ids.truncate(mark.unwrap_or(most));
        Ok(self.translate(&written, most, stop))
    }

    fn unread(&self, history: &[u32]) -> usize {
        self.model.unread(&self.ids) + history.len().saturating_sub(self.followed.len())
    }

    fn pass_seconds(&self) -> f64 {
        self.model.pass_seconds()
    }

    fn fault(&self) -> Option<&InferError> {
        self.model.fault()
    }
}

#[cfg(test)]
mod tests {
    use super::least_sure;

    #[test]
    fn a_token_is_as_sure_as_its_least_sure_part() {
        let spans = [(0..2, 3.0), (2..5, 1.0), (5..6, 2.0)];
        for (range, least) in [(0..2, 3.0), (1..3, 1.0), (4..6, 1.0), (5..6, 2.0), (6..6, f32::INFINITY)] {
            assert_eq!(least_sure(&spans, range.clone()), least, "{range:?}");
        }
    }
}
