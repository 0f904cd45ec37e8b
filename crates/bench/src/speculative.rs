//! Texts written by a target alone and with drafters: speed, acceptance, and whether the texts are the same.

mod summary;

pub use summary::{Formula, Passed, Speed, Summary, markdown};

use crate::BenchError;
use infer::{Drafter, GenerateOptions, Outcome, PositionCount, Session};
use serde::Serialize;
use std::ops::ControlFlow;
use std::time::Instant;

/// A prompt to continue.
#[derive(Clone, Debug)]
pub struct SpeculativePrompt {
    /// What it is called, for example `HumanEval/0`.
    pub name: String,
    /// What kind it is, for example `code`.
    pub category: String,
    /// Its tokens.
    pub ids: Vec<u32>,
}

/// A prompt's texts and what they took.
#[derive(Clone, Debug, Serialize)]
pub struct PromptResult {
    /// Of the prompt.
    pub name: String,
    /// Of the prompt.
    pub category: String,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// By the target alone.
    pub plain: Run,
    /// With drafters.
    pub speculative: Run,
    /// Whether both texts have the same tokens; for sampled text that says nothing.
    pub same: bool,
}

impl PromptResult {
    /// The tokens written with drafters.
    pub fn completion(&self) -> &[u32] {
        &self.speculative.ids
    }
}

/// One text.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// The tokens written.
    pub ids: Vec<u32>,
    /// From the call to the end: both prompt passes, all rounds.
    pub seconds: f64,
    /// To the first token.
    pub first_token_seconds: f64,
    /// All rounds: neither prompt passes nor whoever received the tokens.
    pub decode_seconds: f64,
    /// Tokens that rounds yielded.
    pub decoded: f64,
    /// Passes of the target after the prompt's.
    pub rounds: usize,
    /// Tokens proposed.
    pub drafted: usize,
    /// Of those, accepted.
    pub accepted: usize,
    /// Proposed, judged (all before were accepted) and accepted, by place.
    pub positions: Vec<[usize; 3]>,
    /// Rounds by number of tokens proposed, from 0.
    pub widths: Vec<usize>,
    /// Seconds of the rounds in passes of the target.
    pub target_seconds: f64,
    /// Seconds of the rounds in passes of the draft.
    pub draft_seconds: f64,
}

impl Run {
    fn new(outcome: Outcome, seconds: f64) -> Self {
        let place = |count: &PositionCount| [count.proposed, count.judged, count.accepted];
        Self {
            seconds,
            first_token_seconds: outcome.first_token_seconds,
            decode_seconds: outcome.decode_seconds,
            decoded: outcome.tokens_per_second * outcome.decode_seconds,
            rounds: outcome.rounds,
            drafted: outcome.drafted,
            accepted: outcome.accepted,
            positions: outcome.positions.iter().map(place).collect(),
            widths: outcome.widths,
            target_seconds: outcome.target_seconds,
            draft_seconds: outcome.draft_seconds,
            ids: outcome.ids,
        }
    }

    /// Tokens a second of the rounds; 0 without one.
    pub fn decode_rate(&self) -> f64 {
        if self.decode_seconds > 0.0 { self.decoded / self.decode_seconds } else { 0.0 }
    }
}

/// Writes one text. `ended` sees the tokens so far after each and may end it; its time is not counted.
///
/// # Errors
/// What generation meets.
pub fn write_text(
    target: &mut Session<'_>,
    drafter: Option<&mut (dyn Drafter + '_)>,
    prompt: &[u32],
    options: &GenerateOptions,
    ended: &mut dyn FnMut(&[u32]) -> bool,
) -> Result<Run, BenchError> {
    let mut ids = Vec::new();
    let mut asking = 0.0;
    let started = Instant::now();
    let outcome = infer::generate(target, drafter, prompt, options, &mut |token| {
        let asked = Instant::now();
        ids.push(token.id);
        let flow = if ended(&ids) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        asking += asked.elapsed().as_secs_f64();
        flow
    })?;
    Ok(Run::new(outcome, started.elapsed().as_secs_f64() - asking))
}

/// Writes the text of a prompt without and with `drafter`, the two in turns first, so that neither always finds the
/// machine as the other left it.
///
/// # Errors
/// What generation meets.
pub fn compare_texts(
    target: &mut Session<'_>,
    drafter: &mut dyn Drafter,
    prompt: &SpeculativePrompt,
    options: &GenerateOptions,
    speculative_first: bool,
    ended: &mut dyn FnMut(&[u32]) -> bool,
) -> Result<PromptResult, BenchError> {
    let mut early = None;
    if speculative_first {
        early = Some(write_text(target, Some(&mut *drafter), &prompt.ids, options, ended)?);
    }
    let plain = write_text(target, None, &prompt.ids, options, ended)?;
    let speculative = match early {
        Some(run) => run,
        None => write_text(target, Some(drafter), &prompt.ids, options, ended)?,
    };
    Ok(PromptResult {
        name: prompt.name.clone(),
        category: prompt.category.clone(),
        prompt_tokens: prompt.ids.len(),
        same: plain.ids == speculative.ids,
        plain,
        speculative,
    })
}
