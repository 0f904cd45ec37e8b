//! A prompt in, tokens out one by one, with or without speculation.

use crate::session::check_ids;
use crate::speculate::verify;
use crate::{Drafter, InferError, MAX_DRAFT_LENGTH, Proposal, Request, Sampler, SamplingOptions, Session, Unhurried};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// How to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// Ids that end the text, the model's `eos` as a rule; they are not part of it.
    pub stop: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: SamplingOptions,
    /// Most tokens that are proposed at a time, 1 to [`MAX_DRAFT_LENGTH`].
    pub draft_length: usize,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self { max_tokens: 128, stop: Vec::new(), sampling: SamplingOptions::default(), draft_length: 5 }
    }
}

/// A token of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenEvent {
    /// Its id.
    pub id: u32,
    /// Whether it was proposed by the drafter and accepted.
    pub drafted: bool,
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The model ended it with this stop id.
    StopToken(u32),
    /// [`GenerateOptions::max_tokens`] were generated.
    MaxTokens,
    /// Prompt and output fill the session.
    Context,
    /// The receiver of the tokens wanted no more.
    Cancelled,
}

/// How often a place of the proposals was verified, and how often accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PositionCount {
    /// Proposals that were long enough.
    pub proposed: usize,
    /// Of those, the ones accepted up to the place before: behind a rejected token nothing is judged.
    pub judged: usize,
    /// Proposals that were accepted up to and including this place.
    pub accepted: usize,
}

/// A text and how it came about. Lengths and counts are in tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The generated tokens, without prompt and stop id.
    pub ids: Vec<u32>,
    /// Why there are no more.
    pub stop: StopReason,
    /// From the call to the first token: mostly the prompt's pass.
    pub first_token_seconds: f64,
    /// What the drafter needed to read the prompt.
    pub draft_prefill_seconds: f64,
    /// Time of all rounds: drafting, verifying, choosing. Neither prefill nor the receiver of the tokens.
    pub decode_seconds: f64,
    /// Tokens after the first (a stop id among them) per second of `decode_seconds`; 0 if there were none.
    pub tokens_per_second: f64,
    /// Tokens that were proposed.
    pub drafted: usize,
    /// Those of them that were accepted.
    pub accepted: usize,
    /// `accepted / drafted`; 0 if nothing was proposed.
    pub acceptance: f64,
    /// Passes of the target after the prompt's.
    pub rounds: usize,
    /// Tokens that a round yields on average, its own token included; 0 without a round.
    pub mean_accepted_length: f64,
    /// For each place in a proposal, `draft_length` of them; without a drafter all 0.
    pub positions: Vec<PositionCount>,
    /// Rounds by the number of tokens that were proposed, 0 to `draft_length`.
    pub widths: Vec<usize>,
    /// Seconds of `decode_seconds` in passes of the target.
    pub target_seconds: f64,
    /// Seconds of `decode_seconds` in passes of a draft model.
    pub draft_seconds: f64,
}

impl Outcome {
    /// Share of the rounds' time in neither the target's passes nor the draft's; 0 without a round.
    pub fn overhead(&self) -> f64 {
        let passes = self.target_seconds + self.draft_seconds;
        if self.decode_seconds > 0.0 { 1.0 - passes / self.decode_seconds } else { 0.0 }
    }
}

/// Continues `prompt` by up to `max_tokens` tokens, each of which `on_token` receives at once; its `Break` ends the
/// text. Whatever `target` has read before is forgotten. Prompt and output together never exceed the session.
///
/// # Errors
/// An empty prompt, one with unknown ids or without room for a token; an option outside its range; logits that are not
/// finite.
pub fn generate(
    target: &mut Session<'_>,
    drafter: Option<&mut (dyn Drafter + '_)>,
    prompt: &[u32],
    options: &GenerateOptions,
    on_token: &mut dyn FnMut(TokenEvent) -> ControlFlow<()>,
) -> Result<Outcome, InferError> {
    let started = Instant::now();
    let mut text = Text::new(target, prompt, options, on_token)?;
    if options.max_tokens == 0 {
        return Ok(text.outcome(StopReason::MaxTokens));
    }
    let first = target.prefill(prompt).and_then(|logits| text.sampler.sample(logits, prompt));
    let first = first.map_err(|error| target.located(error, prompt))?;
    text.first_token = started.elapsed();
    text.history.push(first);
    let mut flow = text.emit(first, false);
    let stop = if let ControlFlow::Break(stop) = flow {
        stop
    } else {
        let mut drafter = drafter;
        if let Some(drafter) = &mut drafter {
            let started = Instant::now();
            drafter.prepare(prompt, &options.sampling)?;
            text.draft_prefill = started.elapsed();
            text.draft_passes_before = drafter.pass_seconds();
        }
        loop {
            let round = text.round(target, drafter.as_deref_mut());
            flow = round.map_err(|error| target.located(error, &text.history))?;
            if let ControlFlow::Break(stop) = flow {
                if let Some(drafter) = &drafter {
                    text.draft_seconds = drafter.pass_seconds() - text.draft_passes_before;
                }
                break stop;
            }
        }
    };
    Ok(text.outcome(stop))
}

/// A text in the making.
struct Text<'a> {
    options: &'a GenerateOptions,
    on_token: &'a mut dyn FnMut(TokenEvent) -> ControlFlow<()>,
    sampler: Sampler,
    /// Tokens to generate at most, and why no more.
    limit: (usize, StopReason),
    /// Prompt and output, a stop id at its end included. The target has read all but the last token.
    history: Vec<u32>,
    /// Ids of a pass.
    rows: Vec<u32>,
    ids: Vec<u32>,
    first_token: Duration,
    draft_prefill: Duration,
    decode: Duration,
    /// Tokens that rounds yielded.
    decoded: usize,
    rounds: usize,
    positions: Vec<PositionCount>,
    widths: Vec<usize>,
    target: Duration,
    draft_passes_before: f64,
    draft_seconds: f64,
}

impl<'a> Text<'a> {
    fn new(
        target: &mut Session<'_>,
        prompt: &[u32],
        options: &'a GenerateOptions,
        on_token: &'a mut dyn FnMut(TokenEvent) -> ControlFlow<()>,
    ) -> Result<Self, InferError> {
        let sampler = Sampler::new(options.sampling)?;
        if !(1..=MAX_DRAFT_LENGTH).contains(&options.draft_length) {
            let (value, rule) = (options.draft_length.to_string(), format!("1 to {MAX_DRAFT_LENGTH}"));
            return Err(InferError::Option { flag: "draft-length", value, rule });
        }
        if prompt.is_empty() {
            return Err(InferError::EmptyPrompt);
        }
        check_ids(prompt, target.vocab())?;
        target.truncate(0);
        let room = target.capacity().saturating_sub(prompt.len());
        if room == 0 {
            return Err(InferError::PromptTooLong { tokens: prompt.len(), capacity: target.capacity() });
        }
        let limit = if options.max_tokens <= room {
            (options.max_tokens, StopReason::MaxTokens)
        } else {
            (room, StopReason::Context)
        };
        Ok(Self {
            options,
            on_token,
            sampler,
            limit,
            history: prompt.to_vec(),
            rows: Vec::new(),
            ids: Vec::new(),
            first_token: Duration::ZERO,
            draft_prefill: Duration::ZERO,
            decode: Duration::ZERO,
            decoded: 0,
            rounds: 0,
            positions: vec![PositionCount::default(); options.draft_length],
            widths: vec![0; options.draft_length + 1],
            target: Duration::ZERO,
            draft_passes_before: 0.0,
            draft_seconds: 0.0,
        })
    }

    /// One pass of the target: over the last token of the text and what the drafter proposes to follow it.
    fn round(
        &mut self,
        target: &mut Session<'_>,
        drafter: Option<&mut (dyn Drafter + '_)>,
    ) -> Result<ControlFlow<StopReason>, InferError> {
        let started = Instant::now();
        // A round yields one token more than it accepts, and its pass must fit: `limit` sees to both.
        let most = self.options.draft_length.min(self.limit.0 - self.ids.len() - 1);
        let mut drafter = drafter;
        let mut proposal = match &mut drafter {
            Some(drafter) if most > 0 => drafter.propose(Request {
                history: &self.history,
                most,
                stop: &self.options.stop,
                sampler: &mut self.sampler,
                pace: &mut Unhurried,
                catch_up: usize::MAX,
            })?,
            _ => Proposal::default(),
        };
        proposal.ids.truncate(most);
        let known = self.history.len();
        self.rows.clear();
        self.rows.push(self.history[known - 1]);
        self.rows.extend_from_slice(&proposal.ids);
        let pass = Instant::now();
        let logits = target.extend(&self.rows)?;
        self.target += pass.elapsed();
        let verdict = verify(&mut self.sampler, logits, &mut self.history, &proposal, &self.options.stop)?;
        target.truncate(known + verdict.accepted);
        if let Some(drafter) = drafter {
            drafter.learn(&proposal, verdict.accepted);
        }
        self.decode += started.elapsed();
        self.count(proposal.ids.len(), verdict.accepted, self.history.len() - known);
        for index in known..self.history.len() {
            if let ControlFlow::Break(stop) = self.emit(self.history[index], index - known < verdict.accepted) {
                return Ok(ControlFlow::Break(stop));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Counts a round that proposed `width` tokens, of which it accepted some, and that yielded some.
    fn count(&mut self, width: usize, accepted: usize, yielded: usize) {
        self.rounds += 1;
        self.decoded += yielded;
        self.widths[width] += 1;
        for (place, count) in self.positions.iter_mut().enumerate() {
            count.proposed += usize::from(place < width);
            count.judged += usize::from(place < width && place <= accepted);
            count.accepted += usize::from(place < accepted);
        }
    }

    /// Takes the next token into the output, unless it is a stop id.
    fn emit(&mut self, id: u32, drafted: bool) -> ControlFlow<StopReason> {
        if self.options.stop.contains(&id) {
            return ControlFlow::Break(StopReason::StopToken(id));
        }
        self.ids.push(id);
        if (self.on_token)(TokenEvent { id, drafted }).is_break() {
            return ControlFlow::Break(StopReason::Cancelled);
        }
        if self.ids.len() == self.limit.0 { ControlFlow::Break(self.limit.1) } else { ControlFlow::Continue(()) }
    }

    fn outcome(self, stop: StopReason) -> Outcome {
        let drafted = self.positions.iter().map(|count| count.proposed).sum();
        let accepted = self.positions.iter().map(|count| count.accepted).sum();
        let ratio = |part: usize, whole: f64| if whole > 0.0 { part as f64 / whole } else { 0.0 };
        Outcome {
            ids: self.ids,
            stop,
            first_token_seconds: self.first_token.as_secs_f64(),
            draft_prefill_seconds: self.draft_prefill.as_secs_f64(),
            decode_seconds: self.decode.as_secs_f64(),
            tokens_per_second: ratio(self.decoded, self.decode.as_secs_f64()),
            drafted,
            accepted,
            acceptance: ratio(accepted, drafted as f64),
            rounds: self.rounds,
            mean_accepted_length: ratio(self.decoded, self.rounds as f64),
            positions: self.positions,
            widths: self.widths,
            target_seconds: self.target.as_secs_f64(),
            draft_seconds: self.draft_seconds,
        }
    }
}
